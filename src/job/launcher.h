/* job/launcher.h - where attempts run: a table of functions, so that another place (a cluster's queue) is another
 * table.
 *
 * launch makes the attempt ready and names it; nothing runs before go, so that the name is stored first. A launcher
 * keeps no state: everything it needs later is in the identity. */
#pragma once

#include "os/process.h"

struct job_launch {
    const char *program, *run_dir, *log_path;
    const char *device; /* "cuda:1"; NULL: what job.json says */
    int64_t attempt;
    int nice;
};

struct job_launcher {
    bool (*launch)(struct process *process, const struct job_launch *launch, struct err *err);
    bool (*go)(struct process *process, struct err *err);
    bool (*adopt)(struct process *process, const struct process_identity *identity, struct err *err);
    bool (*signal)(struct process *process, int signal, struct err *err);
    bool (*kill)(struct process *process, struct err *err); /* with all its children */
    bool (*has_ended)(struct process *process, struct process_end *end);
};

/* Processes of this machine: "PROGRAM train --run DIR --attempt N [--device NAME]". */
extern const struct job_launcher launcher_local;
