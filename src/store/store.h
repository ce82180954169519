/* store/store.h - the service's memory: files, jobs, events, checkpoints, models, keys. The only truth; no state of a
 * job lives in the process alone.
 *
 * Every call takes the tenant, and what belongs to another tenant looks exactly like what does not exist: ERR_NOT_FOUND
 * with the same text. (The scheduler serves all tenants; its calls are apart, in store/queue.h.) A call that returns
 * true has made its write durable (progress of jobs alone may come later: their events are in the run directories).
 * Calls block for as long as SQLite takes (one fsync for a write) and belong to one thread. Rows come back as structs
 * whose strings lie in the caller's arena; absent text is NULL, an absent time or count is 0. All times are Unix
 * milliseconds. Fields that end in _json hold JSON text.
 *
 * Lists are ordered by creation; `after` is the id of the last row of the page before. */
#pragma once

#include "base/arena.h"
#include "base/err.h"
#include "store/state.h"

#include <stdint.h>

struct store;

/* Opens DIR/attune.db, creates it when absent and brings its schema up to date. ERR_CONFLICT when another process holds
 * DIR/lock: one server per data folder. A database of a newer attune is refused. */
struct store *store_open(const char *data_dir, struct err *err);
/* For short work beside a running server: opens the database that it uses, without its lock. Where no server runs it is
 * store_open. Only what the server looks up anew for every request may be written so: keys, projects, organisations. */
struct store *store_open_beside(const char *data_dir, struct err *err);
void store_close(struct store *store); /* NULL is fine */

/* Another connection, for reading alone, which another thread may use: it sees what was committed. store_close it. */
struct store *store_open_reader(const struct store *store, struct err *err);

/* SQLite moves its write-ahead log into the database now and then, within whichever commit finds it long: writes and
 * syncs of a second. A server takes that over: from store_take_checkpoints on it asks store_wants_checkpoint, and when
 * that says so calls store_checkpoint, on any thread, once at a time. */
bool store_take_checkpoints(struct store *store, struct err *err);
bool store_wants_checkpoint(const struct store *store);
bool store_checkpoint(struct store *store, struct err *err);

/* What is read in between is read in one go, from one state of the database: each read by itself takes and leaves a
 * lock. A write in between ends it early. Not across turns of the loop: an old state that is held keeps the log
 * growing. */
void store_view_begin(struct store *store);
void store_view_end(struct store *store);

/* Behind a write that failed: whether it may come to light at the next start all the same, because the disk failed
 * while it was made durable. What its rows would name must stay until then; the start removes what has no row. */
bool store_is_in_doubt(const struct store *store);

struct tenant {
    char organization_id[64];
    char project_id[64];
};
/* The organisation and project that exist from the start: "org-default", "proj-default". */
struct tenant tenant_default(void);

struct store_page {
    int limit;         /* rows wanted, from 1 */
    const char *after; /* NULL: from the beginning; an id that is not in this list is ERR_NOT_FOUND */
    bool ascending;    /* oldest first */
};

struct store_texts {
    const char **at;
    size_t count;
};
/* Whether a list in byte order has it. */
bool store_texts_have(const struct store_texts *sorted, const char *text);

/* New ids; the result is NUL-terminated. */
#define STORE_ID_BYTES 48
void store_id_job(char id[STORE_ID_BYTES]);        /* ftjob-<32 hex> */
void store_id_file(char id[STORE_ID_BYTES]);       /* file-<uuid> */
void store_id_event(char id[STORE_ID_BYTES]);      /* ftevent-<32 hex> */
void store_id_checkpoint(char id[STORE_ID_BYTES]); /* ftckpt_<uuid> */

/* Rows. One list of columns a table makes the struct, the INSERT and the SELECT. */
#define STORE_FIELD_TEXT(name)    const char *name;
#define STORE_FIELD_INTEGER(name) int64_t name;
#define STORE_FIELD_STATE(name)   enum job_state name;
#define STORE_FIELD_WANT(name)    enum job_want name;
#define STORE_FIELD(type, name)   STORE_FIELD_##type(name)

/* Files. kind says what the lines are ("chat", "text", …; NULL when not known), status_details why it is not usable. */
#define STORE_FILE_COLUMNS(X)                                                                                          \
    X(TEXT, id)                                                                                                        \
    X(TEXT, filename)                                                                                                  \
    X(TEXT, purpose)                                                                                                   \
    X(INTEGER, bytes)                                                                                                  \
    X(TEXT, sha256)                                                                                                    \
    X(TEXT, status) /* uploaded, processed, error */                                                                   \
    X(TEXT, status_details)                                                                                            \
    X(TEXT, kind)                                                                                                      \
    X(INTEGER, line_count)                                                                                             \
    X(INTEGER, bad_line_count)                                                                                         \
    X(TEXT, details_json)  /* what the line check found, as the API wants to keep it */                                \
    X(TEXT, checkpoint_id) /* of result files */                                                                       \
    X(INTEGER, created_ms)                                                                                             \
    X(INTEGER, expires_ms)

struct store_file {
    STORE_FILE_COLUMNS(STORE_FIELD)
};
struct store_file_list {
    struct store_file *at;
    size_t count;
    bool has_more;
};
/* The blob files/<id> must be committed before (store/blobs.h). */
bool store_file_create(struct store *store, const struct tenant *tenant, const struct store_file *file,
                       struct err *err);
bool store_file_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                    struct store_file *file, struct err *err);
/* purpose NULL: all. Result files of checkpoints are listed like any other. */
bool store_file_list(struct store *store, const struct tenant *tenant, const char *purpose,
                     const struct store_page *page, struct arena *arena, struct store_file_list *list, struct err *err);
/* The row alone; remove the blob after it. */
bool store_file_delete(struct store *store, const struct tenant *tenant, const char *id, struct err *err);

/* Jobs. Create, cancel, pause and resume them through job/manager.h, which also moves files and processes. */
#define STORE_JOB_COLUMNS(X)                                                                                           \
    X(TEXT, id)                                                                                                        \
    X(TEXT, organization_id)                                                                                           \
    X(TEXT, project_id)                                                                                                \
    X(STATE, state)                                                                                                    \
    X(WANT, wanted)                                                                                                    \
    X(TEXT, model)            /* id of the base, as the request named it */                                            \
    X(TEXT, model_path)       /* folder of its weights */                                                              \
    X(TEXT, output_name)      /* name of the result once there is one */                                               \
    X(TEXT, fine_tuned_model) /* output_name from success on */                                                        \
    X(TEXT, training_file)                                                                                             \
    X(TEXT, validation_file)                                                                                           \
    X(TEXT, suffix)                                                                                                    \
    X(INTEGER, seed)                                                                                                   \
    X(TEXT, hyperparameters_json) /* resolved, those of the method */                                                  \
    X(TEXT, method_json)          /* as echoed; NULL in rows of older versions */                                    \
    X(TEXT, integrations_json)    /* as echoed: without secrets */                                                     \
    X(TEXT, from_checkpoint_json)                                                                                      \
    X(TEXT, metadata_json)                                                                                             \
    X(TEXT, tags_json)                                                                                                 \
    X(TEXT, request_json) /* of older versions; NULL now  */                                                        \
    X(INTEGER, priority)                                                                                               \
    X(INTEGER, memory_bytes) /* what it reserves on the host */                                                        \
    X(TEXT, error_code)                                                                                                \
    X(TEXT, error_message)                                                                                             \
    X(TEXT, error_param)                                                                                               \
    X(INTEGER, trained_tokens)                                                                                         \
    X(INTEGER, trained_steps)                                                                                          \
    X(INTEGER, total_steps)                                                                                            \
    X(INTEGER, created_ms)                                                                                             \
    X(INTEGER, started_ms) /* of the first attempt */                                                                  \
    X(INTEGER, finished_ms)                                                                                            \
    X(INTEGER, estimated_finish_ms)                                                                                    \
    X(INTEGER, attempt)         /* of the newest claim; 0: never claimed */                                            \
    X(INTEGER, failed_attempts) /* in a row without a new recovery point */                                            \
    X(INTEGER, recovery_step)   /* of the newest recovery point seen */                                                \
    X(INTEGER, events_offset)   /* bytes of this attempt's events.jsonl that are stored */                             \
    X(INTEGER, pid)             /* of this attempt's process; 0: none */                                               \
    X(INTEGER, pid_start_time)                                                                                         \
    X(TEXT, boot_id)                                                                                                   \
    X(TEXT, result_files_json) /* ids of files besides the checkpoints'; NULL: none yet */                             \
    X(INTEGER, disk_bytes)     /* what it comes to on disk; 0: not known */                                            \
    X(INTEGER, keep_checkpoints) /* how many of them stay; 0: all */                                                   \
    X(TEXT, base_json) /* the weights that it waits for (hub/fetcher.h); NULL: they are here */                       \
    X(TEXT, device)    /* "cpu", "cuda": any GPU, "cuda:1"; NULL: cpu */                                              \
    X(TEXT, placed_on) /* that of its newest attempt */

struct store_job {
    STORE_JOB_COLUMNS(STORE_FIELD)
};
struct store_job_list {
    struct store_job *at;
    size_t count;
    bool has_more;
};
bool store_job_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                   struct store_job *job, struct err *err);
/* metadata_json: an object whose every member the job's metadata has too; "null": jobs without metadata; NULL: all. */
bool store_job_list(struct store *store, const struct tenant *tenant, const char *metadata_json,
                    const struct store_page *page, struct arena *arena, struct store_job_list *list, struct err *err);
/* 1 for the job that starts next, counted over all projects, as things are now; 0 when it does not wait: paused, at
 * work or ended. Other jobs' ends, priorities and turns move it. */
bool store_queue_place(struct store *store, const struct store_job *job, int64_t *place, struct err *err);

/* Events of a job. Each is stored once: (job, kind, code, step) is its identity and the first one stored wins. seq
 * counts from 1 within the job, without gaps. */
#define STORE_EVENT_COLUMNS(X)                                                                                         \
    X(TEXT, id)                                                                                                        \
    X(INTEGER, seq)                                                                                                    \
    X(TEXT, kind) /* job: a move of the state; else as in events.jsonl: message start step valid checkpoint */         \
    X(TEXT, code)                                                                                                      \
    X(INTEGER, step)                                                                                                   \
    X(INTEGER, attempt)                                                                                                \
    X(TEXT, level)   /* info, warn, error */                                                                           \
    X(TEXT, message) /* for people */                                                                                  \
    X(TEXT, type)    /* message or metrics */                                                                          \
    X(TEXT, data_json)                                                                                                 \
    X(INTEGER, created_ms)

struct store_event {
    STORE_EVENT_COLUMNS(STORE_FIELD)
};
struct store_event_list {
    struct store_event *at;
    size_t count;
    bool has_more;
};
bool store_event_list(struct store *store, const struct tenant *tenant, const char *job_id,
                      const struct store_page *page, struct arena *arena, struct store_event_list *list,
                      struct err *err);
/* Events with seq > after_seq, oldest first, at most limit: for streams. */
bool store_event_since(struct store *store, const struct tenant *tenant, const char *job_id, int64_t after_seq,
                       int limit, struct arena *arena, struct store_event_list *list, struct err *err);
/* One more event of the service itself, of kind "message": a warning at creation, say. Stored already: fine. */
bool store_event_add(struct store *store, const struct tenant *tenant, const char *job_id, const char *level,
                     const char *code, const char *message, const char *data_json, struct err *err);

#define STORE_CHECKPOINT_COLUMNS(X)                                                                                    \
    X(TEXT, id)                                                                                                        \
    X(TEXT, job_id)                                                                                                    \
    X(INTEGER, step)                                                                                                   \
    X(TEXT, model_name)        /* fine_tuned_model_checkpoint */                                                       \
    X(TEXT, path)              /* folder, absolute */                                                                  \
    X(TEXT, metrics_json)      /* step, train_loss, …: all of OpenAI's names, null where there is none */            \
    X(TEXT, result_files_json) /* ids of files */                                                                      \
    X(INTEGER, is_final)                                                                                               \
    X(INTEGER, created_ms)

struct store_checkpoint {
    STORE_CHECKPOINT_COLUMNS(STORE_FIELD)
};
struct store_checkpoint_list {
    struct store_checkpoint *at;
    size_t count;
    bool has_more;
};
bool store_checkpoint_get(struct store *store, const struct tenant *tenant, const char *job_id, const char *id,
                          struct arena *arena, struct store_checkpoint *checkpoint, struct err *err);
/* Of any job of the tenant. */
bool store_checkpoint_find(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                           struct store_checkpoint *checkpoint, struct err *err);
bool store_checkpoint_list(struct store *store, const struct tenant *tenant, const char *job_id,
                           const struct store_page *page, struct arena *arena, struct store_checkpoint_list *list,
                           struct err *err);

/* Models that jobs made: the result ft:<base>:<organisation>:<suffix>:<id> and each checkpoint, :ckpt-step-N behind it.
 */
#define STORE_MODEL_COLUMNS(X)                                                                                         \
    X(TEXT, name)                                                                                                      \
    X(TEXT, job_id)                                                                                                    \
    X(TEXT, checkpoint_id)                                                                                             \
    X(TEXT, kind)       /* full or lora */                                                                             \
    X(TEXT, base_model) /* id of the base */                                                                           \
    X(TEXT, base_path)  /* folder of the base's weights */                                                             \
    X(TEXT, path)       /* folder of the weights or of the adapter */                                                  \
    X(INTEGER, created_ms)

struct store_model {
    STORE_MODEL_COLUMNS(STORE_FIELD)
};
struct store_model_list {
    struct store_model *at;
    size_t count;
    bool has_more;
};
/* Those of the tenant and those that others let it use (store/permissions.h). */
bool store_model_get(struct store *store, const struct tenant *tenant, const char *name, struct arena *arena,
                     struct store_model *model, struct err *err);
/* `after` is a name. */
bool store_model_list(struct store *store, const struct tenant *tenant, const struct store_page *page,
                      struct arena *arena, struct store_model_list *list, struct err *err);
/* The name stops resolving; the weights stay while a file or a checkpoint holds them. */
bool store_model_delete(struct store *store, const struct tenant *tenant, const char *name, struct err *err);
