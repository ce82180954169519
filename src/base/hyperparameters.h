/* base/hyperparameters.h - the methods of training and their hyperparameters: Nebius' twelve, names and defaults, with
 * the ranges that attune accepts, and what DPO has besides. One table for everybody: the API's validation and echo, the
 * trainer's command line and job.json are written from it.
 *
 * X(name, KIND, default, min, max, help): KIND is INT, FLOAT or BOOL. A value is accepted when min <= value <= max,
 * for FLOAT and INT alike; a range that is open at one end has the smallest sensible number there.
 * context_length 0 stands for "the smaller of 8192 and the model's limit"; a request never sends it. */
#pragma once

#include "base/str.h"

#define METHODS(X) X(SUPERVISED, "supervised") X(DPO, "dpo")
enum method {
#define METHOD_ENUM(name, text) METHOD_##name,
    METHODS(METHOD_ENUM)
#undef METHOD_ENUM
    METHOD_COUNT
};
const char *method_name(enum method method);
bool method_find(struct str name, enum method *method);

#define HYPERPARAMETERS(X)                                                                                             \
    X(batch_size,     INT,   8,    1,    1024,    "rows per optimizer step (packed rows when packing)")                \
    X(learning_rate,  FLOAT, 1e-5, 0,    1,       "peak rate of the schedule")                                         \
    X(n_epochs,       INT,   3,    1,    100,     "passes over the training data")                                     \
    X(warmup_ratio,   FLOAT, 0,    0,    1,       "share of all steps in which the rate rises from 0")                 \
    X(weight_decay,   FLOAT, 0,    0,    1,       "AdamW's decoupled decay; norms and biases have none")               \
    X(packing,        BOOL,  true, 0,    1,       "several examples in a row; they do not see each other")             \
    X(max_grad_norm,  FLOAT, 1,    0,    1e6,     "gradients are scaled down to this norm; 0 never")                   \
    X(context_length, INT,   0,    16,   1 << 20, "tokens per row; the smaller of 8192 and the model's limit")         \
    X(lora,           BOOL,  false, 0,   1,       "train a low-rank adapter instead of all weights")                   \
    X(lora_r,         INT,   8,    1,    512,     "rank of the adapter")                                               \
    X(lora_alpha,     FLOAT, 8,    1e-3, 1e6,     "the adapter counts with lora_alpha / lora_r")                       \
    X(lora_dropout,   FLOAT, 0,    0,    0.99,    "dropout on the adapter's input")

/* What only method dpo has. */
#define DPO_HYPERPARAMETERS(X)                                                                                         \
    X(beta,           FLOAT, 0.1,  1e-6, 2,       "dpo: how strongly the reference holds the model back")

/* The help with its default behind it. Whether a flag holds is seen elsewhere; a default below the range is one that
 * the help tells itself. */
#define HYPERPARAMETER_HELP_INT(standard, min, help)   ((standard) < (min) ? help : help " (default " #standard ")")
#define HYPERPARAMETER_HELP_FLOAT(standard, min, help) help " (default " #standard ")"
#define HYPERPARAMETER_HELP_BOOL(standard, min, help)  help

enum hyperparameter_kind { HYPERPARAMETER_INT, HYPERPARAMETER_FLOAT, HYPERPARAMETER_BOOL };

#define HYPERPARAMETER_TYPE_INT   int64_t
#define HYPERPARAMETER_TYPE_FLOAT double
#define HYPERPARAMETER_TYPE_BOOL  bool

/* The values of one job. */
struct hyperparameters {
#define HYPERPARAMETER_FIELD(name, kind, standard, min, max, help) HYPERPARAMETER_TYPE_##kind name;
    HYPERPARAMETERS(HYPERPARAMETER_FIELD)
    DPO_HYPERPARAMETERS(HYPERPARAMETER_FIELD)
#undef HYPERPARAMETER_FIELD
};

#define HYPERPARAMETER_DEFAULT(name, kind, standard, min, max, help) .name = standard,
#define HYPERPARAMETERS_DEFAULT                                                                                        \
    ((struct hyperparameters){HYPERPARAMETERS(HYPERPARAMETER_DEFAULT) DPO_HYPERPARAMETERS(HYPERPARAMETER_DEFAULT)})

/* The rate that "auto" stands for. DPO has TRL's, 1e-6 and ten times that for an adapter, and takes it as its default,
 * too. */
double hyperparameters_auto_rate(enum method method, bool has_lora);

/* What was said about the values; the rest are defaults. */
struct hyperparameters_given {
    bool learning_rate, packing, beta;
};
/* Defaults that depend on the method: DPO's rate, and no packing, for a row is a pair. */
void hyperparameters_settle(struct hyperparameters *values, enum method method,
                            const struct hyperparameters_given *given);
/* NULL, or why these values and this method do not go together; *name is then the hyperparameter that is wrong. */
const char *hyperparameters_conflict(const struct hyperparameters *values, enum method method,
                                     const struct hyperparameters_given *given, const char **name);
