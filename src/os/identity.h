/* os/identity.h - which process exactly: a pid alone names another process after it was reused or the machine
 * restarted.
 *
 * A process is the same one when pid, start time (field 22 of /proc/PID/stat, in clock ticks since boot) and the
 * kernel's boot id are all equal. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct process_identity {
    int64_t pid;
    uint64_t start_time;
    char boot_id[40];
};

/* ERR_NOT_FOUND when no process has this pid now. */
bool identity_of(int64_t pid, struct process_identity *identity, struct err *err);
bool identity_of_self(struct process_identity *identity, struct err *err);
bool identity_equal(const struct process_identity *a, const struct process_identity *b);
