/* store/disk.h - the room on the data folder's file system: what of it may still be promised.
 *
 * Whoever is about to write much asks first: an upload for the bytes that its head announces, a job for its checkpoints
 * and recovery points. What was promised and is not written yet is kept free for its owner, and so is the operator's
 * floor, out of which the database, events and other small things live. So the disk fills up with a refusal instead of
 * a failed write. Other programs may still take the room: a promise bounds this server alone.
 *
 * Promises live with the process. Any thread may call. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct disk;

/* free_min_bytes is the floor; -1: 1 GiB, or a twentieth of the file system when that is less. */
struct disk *disk_open(const char *data_dir, int64_t free_min_bytes, struct err *err);
void disk_close(struct disk *disk); /* NULL is fine */

/* What could be promised if nothing else was there: more than that never fits. */
int64_t disk_capacity(const struct disk *disk);
/* Whether bytes more could be promised now; ERR_NO_SPACE says how much there is. */
bool disk_has_room(struct disk *disk, int64_t bytes, struct err *err);
/* Promises that the owner may come to total_bytes, of which written_bytes are on the disk already. A second promise of
 * the same owner replaces the first; on failure (ERR_NO_SPACE) the first one stays. */
bool disk_promise(struct disk *disk, const char *owner, int64_t total_bytes, int64_t written_bytes, struct err *err);
/* The owner has come to so many bytes: what is left of its promise shrinks. An unknown owner is fine. */
void disk_note_written(struct disk *disk, const char *owner, int64_t written_bytes);
void disk_release(struct disk *disk, const char *owner); /* unknown is fine */
