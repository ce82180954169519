/* job/rundir.h - the service's side of the run directory (docs/formats.md): it writes job.json and control, makes the
 * folder of an attempt, and reads heartbeat, exit.json and log.txt. What the trainer writes is read as from a stranger:
 * bounded, and absent or broken files count as not written. */
#pragma once

#include "job/event.h"
#include "store/blobs.h"

/* runs/<job id> of the data folder. */
const char *rundir_path(struct arena *arena, const char *data_dir, const char *job_id);
const char *rundir_attempt_path(struct arena *arena, const char *run_dir, int64_t attempt);

struct rundir_job {
    const char *id, *model, *model_path, *adapter_path, *output_name, *method, *hyperparameters_json, *options_json;
    const char *cache_dir;
    int64_t seed;
    int64_t memory_bytes; /* of the plan; 0: no limit */
    const struct store_file *training_file, *validation_file; /* validation may be NULL */
};
/* job.json of a job whose files lie in inputs_dir under their ids. */
void rundir_write_job(struct strbuf *out, const char *inputs_dir, const struct rundir_job *job);

/* job.json anew, of a job that did not start yet; durable. */
bool rundir_rewrite(const char *run_dir, const struct rundir_job *job, struct err *err);

/* The directory with job.json and the files staged under inputs/, all durable. On failure nothing is left. */
bool rundir_create(const char *run_dir, const struct rundir_job *job, struct blobs *blobs, struct err *err);

/* Where a folder of the job's run directory lies in this data folder, whatever that was called when `path` was
 * written. */
const char *rundir_place(struct arena *arena, const char *data_dir, const char *job_id, const char *path);

/* Folder of the attempt with an empty events.jsonl (there is something to watch) and control saying "run". */
bool rundir_begin_attempt(const char *run_dir, int64_t attempt, struct err *err);
bool rundir_write_control(const char *run_dir, int64_t attempt, enum job_want want, struct err *err);

int64_t rundir_heartbeat(const char *attempt_dir); /* 0: none yet */
struct exit_record rundir_exit(struct arena *arena, const char *attempt_dir);
/* Last lines of log.txt, at most bytes_max; "" when there are none. */
const char *rundir_log_tail(struct arena *arena, const char *attempt_dir, size_t bytes_max);
/* Step of the newest complete recovery point of any attempt; 0: none. */
int64_t rundir_recovery_step(const char *run_dir);
/* Removes what an ended job does not need: recovery points, unfinished files, and checkpoints that are not among the
 * `kept` paths (an attempt that died may have left one that no event told of). */
bool rundir_clean(const char *run_dir, const struct store_texts *kept, struct err *err);
