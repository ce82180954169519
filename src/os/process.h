/* os/process.h - children that outlive us, and how to be sure which process one is.
 *
 * The identity of a child (os/identity.h) can be stored, and a later server adopts the process by it. Signals go
 * through a pidfd, so a stranger that got the same pid is never hit.
 *
 * A spawned child leads a session and process group of its own, holds no descriptor of ours but its output, ignores
 * SIGUSR1 until it installs a handler, and does not start its program before process_go: its identity can be made
 * durable first. When we die before that, it ends by itself without having done anything. */
#pragma once

#include "base/err.h"
#include "os/identity.h"

#include <stdint.h>

struct process {
    struct process_identity identity;
    int pidfd;     /* readable when the process has ended; -1: no process */
    int go_fd;     /* of a spawned child that still waits */
    bool is_child; /* ours to reap */
};
#define PROCESS_NONE ((struct process){.pidfd = -1, .go_fd = -1})

struct process_spawn {
    const char *const *argv; /* ends with NULL; argv[0] is the path */
    const char *cwd;         /* NULL: ours */
    const char *output_path; /* stdout and stderr, appended */
    int nice;                /* added to ours, as nice(2) does; the session of the child stands back as far */
    int input_fd;            /* becomes stdin; 0: as io_fd says */
    int io_fd;               /* becomes stdin and stdout, stderr alone goes to output_path; 0: stdin is empty */
};
bool process_spawn(struct process *process, const struct process_spawn *spawn, struct err *err);
bool process_go(struct process *process, struct err *err);

/* ERR_NOT_FOUND when no process with this identity lives (an ended one that nobody reaped does not). */
bool process_adopt(struct process *process, const struct process_identity *identity, struct err *err);

/* To the process; an ended one is fine. */
bool process_signal(struct process *process, int signal, struct err *err);
/* SIGKILL to its whole group. */
bool process_kill_group(struct process *process, struct err *err);

struct process_end {
    bool is_known;   /* only a parent learns more than that it ended */
    int exit_status; /* when signal is 0 */
    int signal;
};
/* True when it has ended; a child is reaped. Does not wait. */
bool process_has_ended(struct process *process, struct process_end *end);
void process_close(struct process *process); /* lets it run on */

/* No core file and no debugger's attachment from now on (a crash handler is refused, too), for a process that holds
 * secrets. Children inherit the limit alone. */
bool process_forbid_core(struct err *err);
/* This process is killed when the thread that started it ends. */
bool process_end_with_parent(struct err *err);

/* Path of the running program. */
bool process_self_path(char *path, size_t cap, struct err *err);
/* Lets this process have `wanted` descriptors open at once, or as many as the system allows: the number. */
int process_reserve_descriptors(int wanted);
/* Memory of the host in bytes. */
bool host_memory_bytes(int64_t *bytes, struct err *err);
/* Whether they are at most one `share`th of it; false where that cannot be told. */
bool host_has_room(uint64_t bytes, int share);
