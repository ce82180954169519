/* api/job_request.h - the body of POST /v1/fine_tuning/jobs, checked and resolved.
 *
 * Takes what users of both services send: the hyperparameters at the top level or under the branch of method that its
 * type names, supervised or dpo (both only when they say the same), OpenAI's three with "auto", attune's extensions
 * at the top level, in extra_body or beside the hyperparameters. Every optional field may be null. Everything that is
 * wrong is gathered in `problems`; what is only odd becomes a warning, which the job shows as an event of level warn.
 *
 * Nothing here looks at files or models: existence is the route's business. */
#pragma once

#include "api/problems.h"
#include "base/hyperparameters.h"

enum { JOB_WARNINGS_MAX = 32 };

/* Extensions about adapters: handed to the trainer as they are. */
#define LORA_OPTIONS(X)                                                                                                \
    X(lora_target_modules)                                                                                             \
    X(exclude_modules)                                                                                                 \
    X(layers_to_transform)                                                                                             \
    X(rank_pattern)                                                                                                    \
    X(alpha_pattern)                                                                                                   \
    X(modules_to_save)                                                                                                 \
    X(use_rslora)                                                                                                      \
    X(use_dora)

struct job_request {
    struct str model, training_file;
    struct str validation_file;      /* empty: none */
    struct str suffix;               /* empty: none */
    int64_t seed;
    enum method method;
    struct hyperparameters values;   /* resolved; context_length 0: by the model */
    /* Extensions. */
    const char *over_length;         /* "drop", "error", "truncate" */
    const char *lr_scheduler_type;
    const char *quantization;        /* "none", "nf4" */
    const char *device;              /* "auto", "cpu", "cuda", "cuda:N" */
    const char *optim;               /* "adamw_torch", "adamw_bf16", "adamw_8bit" */
    bool is_fp8;                     /* false unless the request says so */
    bool has_tensorboard;            /* true unless the request says otherwise */
    int64_t checkpoint_steps, keep_checkpoints, eval_steps, priority;
#define LORA_OPTION_FIELD(name) const struct json *name; /* as the request has it, of the right shape; NULL: absent */
    LORA_OPTIONS(LORA_OPTION_FIELD)
#undef LORA_OPTION_FIELD
    const struct json *integrations; /* as sent, for api/integrations.h; NULL: none */
    const struct json *from_checkpoint; /* as sent, for api/start.h; NULL: none */
    const struct json *metadata;     /* object of strings, or NULL */
    const struct json *tags;         /* array of strings, one string, or NULL */
    struct job_warning {
        const char *code, *text; /* codes are stable */
    } warnings[JOB_WARNINGS_MAX];
    int warning_count;
};

/* The body must be an object. False when there are problems. */
bool job_request_read(struct arena *arena, const struct json *body, struct job_request *request,
                      struct problems *problems);
