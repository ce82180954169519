/* store/queue.h - the scheduler's view of the store: the calls that span tenants, for job/ alone.
 *
 * At most one attempt of a job is effective. The claim is one statement that marks the job and counts the attempt up;
 * from then on every write carries the attempt and is refused (ERR_CONFLICT) when another claim came after it. Every
 * move of the state writes its event in the same transaction. */
#pragma once

#include "store/deliveries.h"
#include "store/store.h"

/* Inserts the job as `queued` with its first event. The job names its tenant. ERR_QUOTA when that has too many. */
bool store_queue_insert(struct store *store, const struct store_job *job, struct err *err);
/* And with it the deliveries and the secrets that it brings. */
bool store_queue_insert_with(struct store *store, const struct store_job *job, const struct store_job_extra *extra,
                             struct err *err);

bool store_queue_get(struct store *store, const char *id, struct arena *arena, struct store_job *job, struct err *err);
/* The job whose turn it is, of those that are queued, want to run and have their weights. Projects take turns: first
 * those with fewest jobs at work, then the one whose last turn is longest ago; one at its limit of running jobs is
 * passed over. Within a project: highest priority, then oldest. passed_over_json: a list of ids that are not looked at;
 * NULL: none. devices_json: a list of what jobs may ask for now ("cpu", "cuda", "cuda:0"); NULL: anything. */
bool store_queue_peek(struct store *store, const char *passed_over_json, const char *devices_json, struct arena *arena,
                      struct store_job *job, bool *found, struct err *err);
/* queued → starting with a new attempt number, on that device. found is false when somebody else was first. */
bool store_queue_claim(struct store *store, const char *id, const char *device, struct arena *arena,
                       struct store_job *job, bool *found, struct err *err);
/* Jobs that are queued and wait for their weights, oldest first. */
bool store_queue_to_fetch(struct store *store, struct arena *arena, struct store_job_list *list, struct err *err);
/* They are here: the row has model_path, hyperparameters_json, method_json, memory_bytes and disk_bytes of `job` and
 * waits no longer. ERR_CONFLICT when it did not wait for them. */
bool store_queue_base_arrived(struct store *store, const struct store_job *job, struct err *err);
/* Every job that may have a process: starting, running, cancelling; oldest first. */
bool store_queue_active(struct store *store, struct arena *arena, struct store_job_list *list, struct err *err);

struct store_process {
    int64_t pid, start_time;
    const char *boot_id;
};
/* starting → running: this process is the attempt. */
bool store_queue_running(struct store *store, const char *id, int64_t attempt, const struct store_process *process,
                         struct err *err);

/* Another state, with its event and what goes with it. */
struct store_move {
    const char *id;
    int64_t attempt;
    enum job_state to;
    const char *level, *code, *message; /* of the event; the attempt stands for its step */
    const char *error_code, *error_message, *error_param;
    const struct store_file *result_file;   /* of the job, its blob is there; NULL: none */
    int64_t failed_attempts, recovery_step; /* kept in the row when the job is queued again */
};
/* To succeeded: the result's name becomes a model, with the weights of the newest checkpoint. To cancelling or a final
 * state: finished_ms is now, if it was not set before. ERR_CONFLICT when the table of moves does not allow it. */
bool store_queue_move(struct store *store, const struct store_move *move, struct err *err);

/* What the job is to do next, with an event. Does not move the state. */
bool store_queue_want(struct store *store, const char *id, enum job_want want, const char *code, const char *message,
                      struct err *err);

/* Paths of rows that lie in a run directory become those of this data folder, which may have moved or be a copy. */
bool store_queue_relocate(struct store *store, const char *data_dir, struct err *err);

/* A checkpoint of a job that has ended goes, with its files and models, and an event of the job says so: its bytes are
 * to be removed then (store_queue_leaving). ERR_CONFLICT while a job or a model is made of it, or a service is still to
 * be told of the job. */
bool store_queue_discard(struct store *store, const struct tenant *tenant, const char *job_id,
                         const char *checkpoint_id, struct err *err);

/* Checkpoints that nobody sees any more and whose bytes are to be removed, of one job or (NULL) of all; a part of them
 * at a time. store_queue_left says that one is gone. */
struct store_leaving {
    const char *id, *job_id, *path, *result_files_json;
};
struct store_leaving_list {
    struct store_leaving at[64];
    size_t count;
};
bool store_queue_leaving(struct store *store, const char *job_id, struct arena *arena, struct store_leaving_list *list,
                         struct err *err);
bool store_queue_left(struct store *store, const char *checkpoint_id, struct err *err);

struct store_checkpoint_commit {
    struct store_checkpoint checkpoint;
    struct store_file *files; /* their blobs are there already */
    size_t file_count;
    struct store_model model;
};
/* What was read from the attempt's events.jsonl between two offsets: stored together or not at all. */
struct store_advance {
    const char *id;
    int64_t attempt;
    int64_t from_offset, to_offset;
    struct store_event *events; /* id and seq are made here */
    size_t event_count;
    struct store_checkpoint_commit *checkpoints;
    size_t checkpoint_count;
    int64_t trained_tokens, trained_steps, total_steps, disk_bytes; /* never shrink */
    int64_t estimated_finish_ms;
};
/* ERR_CONFLICT when the attempt is stale or from_offset is not where the last advance ended. */
bool store_queue_advance(struct store *store, const struct store_advance *advance, struct err *err);
bool store_queue_has_checkpoint(struct store *store, const char *id, int64_t step, bool *found, struct err *err);

/* All jobs that there are, in byte order. */
bool store_queue_ids(struct store *store, struct arena *arena, struct store_texts *ids, struct err *err);
/* Folders of the job's checkpoints. */
bool store_queue_checkpoint_paths(struct store *store, const char *id, struct arena *arena, struct store_texts *paths,
                                  struct err *err);
/* Jobs that have ended and whose run directory was not cleaned yet; store_queue_cleaned says that it was. */
bool store_queue_to_clean(struct store *store, struct arena *arena, struct store_texts *ids, struct err *err);
bool store_queue_cleaned(struct store *store, const char *id, struct err *err);
