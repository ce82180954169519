/* job/backup.h - a copy of a data folder beside the server that works in it.
 *
 * First the database, as it is at one moment, then everything that it names: files, run directories, checkpoints. What
 * was deleted between the two is missed, and then a newer copy of the database is taken, until nothing is. So whatever
 * the copied database lists is in the copy, and a server can be started on it. Bytes never change under their name, so
 * what an earlier backup in the same folder has, or what lies on the same file system, is shared by hard links.
 *
 *     TO/2026-11-22T18-00-00Z/    a data folder, with MANIFEST: format, time, hash of the database
 *
 * It gets its name when it is complete and durable. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct backup_report {
    char path[4096];
    int64_t files, bytes; /* all of it */
    int64_t copied_bytes; /* what is not shared with an earlier backup or with the data folder */
};
/* ERR_CONFLICT when another backup goes to the same folder. independent: no hard links into the data folder. */
bool backup_make(const char *data_dir, const char *to, bool independent, struct backup_report *report, struct err *err);
/* Whether the copy is complete and unchanged: its MANIFEST, its database, everything that it names; with_hashes: every
 * byte. ERR_INPUT says what is wrong first. */
bool backup_verify(const char *path, bool with_hashes, struct err *err);
