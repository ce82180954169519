/* store/state.h - the states of a job and the moves between them: one table, from which the enum, the CHECK
 * constraint and the trigger of the database, and the status shown by the API are made.
 *
 * A paused job is a queued one that wants to pause; clients see `queued` with `paused: true`. A job whose cancelling
 * was asked for is `cancelled` for clients at once and can end in no other way; inside it stays `cancelling` until its
 * process is gone. */
#pragma once

#include "base/str.h"

/* name, status that the API shows */
#define JOB_STATES(X)                                                                                                  \
    X(queued, "queued")                                                                                                \
    X(starting, "running")     /* claimed: intent is stored, a process may or may not exist */                         \
    X(running, "running")      /* the identity of the process is stored */                                             \
    X(cancelling, "cancelled") /* the process is being stopped */                                                      \
    X(succeeded, "succeeded")                                                                                          \
    X(failed, "failed")                                                                                                \
    X(cancelled, "cancelled")

/* from, to */
#define JOB_MOVES(X)                                                                                                   \
    X(queued, starting)                                                                                                \
    X(queued, failed)                                                                                                  \
    X(queued, cancelled)                                                                                               \
    X(starting, running)                                                                                               \
    X(starting, queued)                                                                                                \
    X(starting, failed)                                                                                                \
    X(starting, cancelling)                                                                                            \
    X(running, queued)                                                                                                 \
    X(running, succeeded)                                                                                              \
    X(running, failed)                                                                                                 \
    X(running, cancelling)                                                                                             \
    X(cancelling, cancelled)

#define JOB_WANTS(X)                                                                                                   \
    X(run)                                                                                                             \
    X(pause)                                                                                                           \
    X(cancel)

enum job_state {
#define STATE_ENUM(name, status) JOB_STATE_##name,
    JOB_STATES(STATE_ENUM)
#undef STATE_ENUM
    JOB_STATE_COUNT
};

enum job_want {
#define WANT_ENUM(name) JOB_WANT_##name,
    JOB_WANTS(WANT_ENUM)
#undef WANT_ENUM
    JOB_WANT_COUNT
};

const char *job_state_name(enum job_state state);
const char *job_state_status(enum job_state state); /* as the API shows it */
enum job_state job_state_of(struct str name);       /* JOB_STATE_COUNT: no such state */
bool job_state_is_final(enum job_state state);      /* no move leads away */
bool job_state_may_move(enum job_state from, enum job_state to);
const char *job_want_name(enum job_want want);
enum job_want job_want_of(struct str name); /* JOB_WANT_COUNT: no such want */
