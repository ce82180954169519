/* train/train_int.h - one training session, as the files of this room share it. */
#pragma once

#include "base/pool.h"
#include "data/prepare.h"
#include "model/checkpoint.h"
#include "train/config.h"
#include "train/dpo.h"
#include "train/feed.h"
#include "train/folder.h"
#include "train/tensorboard.h"
#include "train/train.h"

/* What a run has counted so far: part of every recovery point. */
#define PROGRESS_INTEGERS(X)                                                                                           \
    X(step)              /* updates done */                                                                            \
    X(trained_tokens)    /* real tokens seen */                                                                        \
    X(supervised_tokens) /* labels seen */                                                                             \
    X(window_tokens)     /* labels since the last checkpoint (dpo: of chosen completions), */                          \
    X(window_hits)       /* and how many of them were the argmax */                                                    \
    X(window_pairs)      /* pairs since then; 0 but with dpo */
#define PROGRESS_NUMBERS(X)                                                                                            \
    X(window_nll) /* sum of the labels' losses (dpo: of the pairs') */                                                 \
    X(first_loss) /* of the run's first step */                                                                        \
    X(last_loss)

struct progress {
#define PROGRESS_INTEGER_FIELD(name) int64_t name;
    PROGRESS_INTEGERS(PROGRESS_INTEGER_FIELD)
#undef PROGRESS_INTEGER_FIELD
#define PROGRESS_NUMBER_FIELD(name) double name;
    PROGRESS_NUMBERS(PROGRESS_NUMBER_FIELD)
#undef PROGRESS_NUMBER_FIELD
};

/* Mean loss and accuracy over a set of labels (dpo: of pairs, and of the chosen completions' labels); has_value false:
 * there was nothing to measure. */
struct eval_result {
    bool has_value;
    double loss, accuracy;
    struct dpo_sums dpo; /* pairs 0 without dpo */
};

struct session {
    const struct train_options *options;
    struct arena arena;      /* the process's lifetime */
    struct arena step_arena; /* one step */
    struct prepared_step {
        struct arena arena;
        struct feed_step step;
        int64_t number; /* 1 + its index; 0: none */
    } prepared[2]; /* the tokens of the step that runs and of the next */
    struct train_config config;
    struct run run;
    struct tensorboard board;
    struct pool *pool;
    const struct backend *backend; /* of the job's device */
    int device;
    bool is_planned_only; /* nothing will be trained by this process */
    struct model_config model_config;
    struct encoder *encoder;
    struct dataset train, valid;
    bool has_valid;
    struct feed feed;
    uint32_t context_length; /* resolved */
    struct model *model;
    struct model_range *range;
    int range_count;
    int64_t total_steps, warmup_steps, eval_every;
    char base_hash[65], data_hash[65];
    const double *reference_train, *reference_valid; /* dpo: of every sequence; else NULL */
    struct progress progress;
    int64_t resumed_from;                /* -1: started afresh */
    int64_t recovery_step;               /* of the last recovery point that this attempt wrote; -1: none */
    const char *last_checkpoint;         /* relative to the run directory */
    double started_at, last_recovery_at; /* monotonic seconds */
    double recovery_seconds;             /* that the last one held up the run */
    struct state_copy *state_copy;       /* for recovery points beside the steps; NULL: there was none yet */
    struct unfinished_point *unfinished; /* one of them; NULL: none */
    int64_t steps_here;                  /* of this attempt */
    const char *param;                   /* what a failure is about: "training_file"; NULL: nothing in particular */
};

/* session.c: from job.json to a model that is ready for its next step. device NULL: the job's. */
bool session_read(struct session *session, const char *dir, const char *device, struct err *err);
/* The same from the text of job.json, without threads, to plan with: the device need not be there. */
bool session_parse(struct session *session, struct str job_json, struct err *err);
/* And without a look at the device or its library: for what its plan takes on disk alone. */
bool session_parse_for_disk(struct session *session, struct str job_json, bool *is_on_device, struct err *err);
/* dir NULL: the data stays in the cache, nothing is told. */
bool session_prepare_data(struct session *session, const char *dir, struct err *err);
/* Rows and steps, which follow from data and hyperparameters. */
void session_make_rows(struct session *session);
/* The longest thing that must fit into a micro-batch; and the model for rows of so many tokens. */
uint32_t session_row_tokens(const struct session *session);
struct model_options session_model_options(const struct session *session, uint32_t row_tokens);
bool session_open_model(struct session *session, struct err *err);
void session_close(struct session *session);
/* How dpo_weigh reads a micro-batch of this session. */
struct dpo_batch session_pairs(struct session *session, const struct micro_batch *micro, const double *reference,
                               int64_t step_pairs, struct dpo_sums *sums);

/* reference.c: with method dpo, before the first step and before anything is resumed. Measured, or read as an earlier
 * attempt left it. */
bool reference_open(struct session *session, struct err *err);

/* loop.c: AdamW over all trained weights. sumsq is what model_grad_sumsq returned, for clipping; steps count from 1. */
void session_update(struct session *session, const double *sumsq, double rate, int64_t step);

/* warnings.c: what is allowed and hardly meant. Codes are stable; texts are for people. */
typedef void warning_fn(void *context, const char *code, const char *text);
/* Of a file's lines: those that are cut or left out. which is "training" or "validation". */
void warn_of_lines(const char *which, const struct dataset_summary *summary, warning_fn *take, void *context);
/* Of a run whose rows are made: as it begins, and before there is one. */
void warn_of_run(const struct session *session, warning_fn *take, void *context);
void warn_of_settings(const struct session *session, warning_fn *take, void *context);

/* A warning_fn that makes events of them; context is a struct warning_events. */
struct warning_events {
    struct run *run;
    struct err *err;
    bool ok; /* true at the beginning */
};
void warning_event(void *context, const char *code, const char *text);

/* timing.c: how long a run would take, measured on a slice of its model that fits into memory_bytes (0: any). */
struct timing {
    bool has_value;    /* false: not even a slice could be run */
    double seconds;    /* of all steps, of the reference and of validation */
    double probe_seconds;
    double share;      /* of a micro-batch's operations: what was run */
};
struct timing timing_measure(struct session *session, const struct plan *plan, const struct plan_cost *cost,
                             const struct batch *batch, uint64_t memory_bytes);

enum { RECOVERY_POINTS_KEPT = 2 };

/* disk.c: what a run writes, before it writes it. */
struct disk_needs {
    uint64_t checkpoint_bytes, recovery_bytes; /* of one */
    int64_t checkpoints, recovery_points;      /* that lie there at once, with the one being written */
    uint64_t other_bytes;                      /* prepared data, events, logs */
    uint64_t total_bytes;
};
/* Upper bounds. The session has its data and its number of steps; plan is that of its model. Prepared data that another
 * job shares is counted too. */
struct disk_needs disk_needs(const struct session *session, const struct plan *plan);
/* A lower bound, before there is any data: the checkpoints of the epochs. */
uint64_t disk_needs_least(const struct session *session, const struct plan *plan);

/* retention.c: checkpoints of the run directory go but for the newest `keep`. */
bool checkpoints_prune(const char *dir, int64_t keep, struct err *err);

/* recovery.c: a point of the steps so far, whole when this returns. */
bool recovery_write(struct session *session, struct err *err);
/* The same beside the steps that follow, where the model lies on a device and the host has room for its state: `begin`
 * takes the state, `go_on`, called while a step is queued, writes as long as the device is busy, `settle` the rest.
 * Else begin writes it whole. */
bool recovery_begin(struct session *session, struct err *err);
bool recovery_go_on(struct session *session, struct err *err);
bool recovery_settle(struct session *session, struct err *err);
void recovery_drop(struct session *session); /* what is unfinished goes; before the model does */
/* Loads the newest valid recovery point of any attempt; none is fine. */
bool recovery_resume(struct session *session, struct err *err);
/* Half-written folders of earlier attempts. */
bool recovery_clean(struct session *session, struct err *err);

/* board.c: figures for TensorBoard (train/tensorboard.h). What keeps them from being written ends them with a warning;
 * the run goes on, and false is for what ends that. */
bool board_open(struct session *session, struct err *err); /* behind recovery_resume */
void board_add(struct session *session, const char *tag, double value);
bool board_write(struct session *session, struct err *err); /* what was added, for the step that is done */
bool board_sync(struct session *session, struct err *err);

/* eval.c: token-weighted means over validation examples. */
bool eval_sample(struct session *session, struct eval_result *result, struct err *err);
bool eval_full(struct session *session, struct eval_result *result, struct err *err);

/* receipt.c */
bool receipt_write(struct session *session, struct err *err);
