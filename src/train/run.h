/* train/run.h - the trainer's side of a run directory (docs/formats.md): who runs, what happened, what is wanted.
 *
 * One process has one run open. Events are appended whole, one line each; run_sync makes what was appended durable, and
 * whatever relies on events (a recovery point, the exit file) is written after it. The server only reads here, except
 * for `control`, which it replaces and the trainer looks at between two steps.
 *
 * A full disk is waited for: what the run has to say is said when there is room again, ROOM_WAIT_MS later at most. */
#pragma once

#include "base/json.h"

#include <stdint.h>

enum { ROOM_WAIT_MS = 10 * 60 * 1000 };

struct run {
    const char *dir;         /* runs/<job id> */
    const char *attempt_dir; /* <dir>/attempts/0001 */
    int64_t attempt;
    int events_fd, heartbeat_fd;
    uint64_t events_bytes;
    int64_t room_wait_ms; /* how long at most a write waits for room on the disk */
    const char *events_path, *heartbeat_path;
    int64_t seq; /* of the last event */
    uint64_t beats;
    void (*on_message)(void *context, const char *level, const char *text); /* NULL: not told */
    void *context;
    struct strbuf line; /* the event that is being written */
    struct json_writer writer;
    struct arena arena;
};

enum run_wanted {
    RUN_GO_ON,
    RUN_PAUSE,
    RUN_CANCEL,
    RUN_SUPERSEDED /* a later attempt has the run, or it was removed */
};

#define RUN_STATUSES(X) X(SUCCEEDED, "succeeded") X(FAILED, "failed") X(CANCELLED, "cancelled") X(PAUSED, "paused")
enum run_status {
#define RUN_STATUS_ENUM(name, text) RUN_##name,
    RUN_STATUSES(RUN_STATUS_ENUM)
#undef RUN_STATUS_ENUM
};

/* Makes the attempt's folder, writes identity.json and opens events and heartbeat. ERR_CONFLICT when this attempt
 * already has events: an attempt is one process. */
bool run_open(struct run *run, const char *dir, int64_t attempt, struct err *err);
void run_close(struct run *run); /* of a zeroed struct: nothing */

/* From here on SIGTERM means pause and SIGUSR1 wakes nothing but sleeping calls. For the whole process. */
void run_catch_signals(void);
/* What `control` and the signals ask for. A control file of an earlier attempt says nothing; an unreadable one neither.
 */
enum run_wanted run_wanted(struct run *run);

/* Counts one unit of work. */
bool run_beat(struct run *run, struct err *err);

/* After a write that failed: whether to try it again. A failure for lack of room is worth it; this waits a second and
 * counts as a sign of life. since_ms is when the first failed, 0 before. */
bool run_wait_for_room(struct run *run, const struct err *problem, int64_t *since_ms);

/* An event: begin, put further members through the writer, end (which appends the line). */
struct json_writer *run_event_begin(struct run *run, const char *kind, const char *code, int64_t step);
bool run_event_end(struct run *run, struct err *err);
bool run_message(struct run *run, const char *level, const char *code, int64_t step, struct err *err,
                 const char *format, ...) __attribute__((format(printf, 6, 7)));
bool run_sync(struct run *run, struct err *err);

/* The end event, then exit.json. `failure` and `param` only with RUN_FAILED; param may be NULL. */
bool run_finish(struct run *run, enum run_status status, int64_t step, const struct err *failure, const char *param,
                struct err *err);

/* Attempts of a run directory that have a folder, ascending; 0 when there are none. */
bool run_attempts(struct arena *arena, const char *dir, int64_t **attempts, size_t *count, struct err *err);
char *run_attempt_dir(struct arena *arena, const char *dir, int64_t attempt);
