/* train/train.h - runs one attempt of a job, from its run directory to its last checkpoint.
 *
 *     job.json → data (shared cache, linked into the run) → rows, plan, model → newest valid recovery point
 *       → steps: forward, backward, clip, AdamW; events; validation; checkpoints; recovery points
 *       → receipt.json → end event → exit.json
 *
 * What a step computes follows from (job.json, plan.json, data, step) alone, so a run that was killed and resumed ends
 * with the same bits as one that was not. The process does no network input or output. */
#pragma once

#include "train/run.h"

struct train_progress_line {
    int64_t step, total_steps;
    double loss, tokens_per_s, seconds_left;
};

struct train_options {
    const char *dir; /* the run directory, with job.json */
    int64_t attempt;
    const char *device; /* of the kind that the job asks for; NULL: as it says */
    bool owns_checkpoints; /* nobody else lists them: the run removes those that keep_checkpoints does not keep */
    /* Called after each step and, with step 0, while data is prepared; NULL: not called. */
    void (*on_progress)(void *context, const struct train_progress_line *line);
    /* Called for message events; level is info, warn or error. NULL: not called. */
    void (*on_message)(void *context, const char *level, const char *text);
    void *context;
};

/* Everything that happens is in the attempt's folder; the status is returned too. RUN_FAILED with err set; failures
 * before the attempt's folder could be opened are only in err. last_checkpoint (optional, in the arena) is relative to
 * dir. */
enum run_status train_run(const struct train_options *options, struct arena *arena, const char **last_checkpoint,
                          struct err *err);

/* `attune prepare`: the data of the run, into the cache and linked into the run directory; nothing else. */
bool train_prepare(const char *dir, struct err *err);

/* What the plan of such a job takes of memory at most, rows being taken to be as long as they may be, and the
 * checkpoints of its epochs of the disk: from config.json and the sizes of files alone. Starts no threads, opens no
 * device (of one, the memory is that of the host beside it) and reads neither weights nor data, so a server may ask. */
bool train_plan_bytes(struct str job_json, uint64_t *memory_bytes, uint64_t *disk_bytes, struct err *err);

/* What a job of this job.json would be, as one JSON object: lines, tokens, rows, steps, the plan, bytes of memory and
 * disk, seconds, warnings (docs/openapi.yaml, FineTuningJobEstimate, from training_data on). Its data comes into the
 * cache, nothing else is left. The probe that measures time takes at most memory_bytes (0: no bound). *param: what a
 * failure is about, static or NULL. */
bool train_estimate(struct str job_json, uint64_t memory_bytes, struct json_writer *writer, const char **param,
                    struct err *err);
