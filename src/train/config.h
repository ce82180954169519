/* train/config.h - job.json: everything that a training run is told (docs/formats.md, "job.json").
 *
 * Values are resolved and checked against the table of hyperparameters here too, because a run directory may be written
 * by anybody. Nothing in it is a secret. */
#pragma once

#include "base/hyperparameters.h"
#include "base/json.h"
#include "data/dataset.h"
#include "model/lora.h"
#include "train/schedule.h"

enum train_dtype { TRAIN_DTYPE_AUTO, TRAIN_DTYPE_F32, TRAIN_DTYPE_BF16, TRAIN_DTYPE_COUNT };
bool train_dtype_find(struct str name, enum train_dtype *dtype); /* of "auto", "float32", "bfloat16" */

/* The field is transformers' `optim`. adamw_torch: AdamW with weights and moments in f32. adamw_bf16: weights,
 * gradients and moments in bf16, 8 bytes a parameter, rounded stochastically (compute/stochastic.h); adamw_8bit: the
 * same with moments in bytes (compute/eight_bit.h), 6 bytes a parameter. Both of full fine-tuning in bfloat16. */
#define TRAIN_OPTIMS(X) X(ADAMW_TORCH, "adamw_torch") X(ADAMW_BF16, "adamw_bf16") X(ADAMW_8BIT, "adamw_8bit")
enum train_optim {
#define OPTIM_ENUM(id, name) OPTIM_##id,
    TRAIN_OPTIMS(OPTIM_ENUM)
#undef OPTIM_ENUM
    OPTIM_COUNT
};
const char *train_optim_name(enum train_optim optim);
bool train_optim_find(struct str name, enum train_optim *optim);

struct train_file {
    const char *id, *path, *name; /* path NULL: there is no such file */
};

struct train_config {
    const char *id; /* ftjob-… */
    const char *model_id, *model_path;
    const char *adapter_path; /* NULL: none to continue */
    struct train_file train, valid;
    const char *output_name;
    const char *cache; /* folder of prepared data */
    int64_t seed;
    enum method method;
    struct hyperparameters hp;
    enum over_length over_length;
    enum schedule schedule;
    enum train_dtype dtype;
    enum train_optim optim;
    bool is_random;                  /* "init": "random" */
    bool is_nf4;                     /* "quantization": "nf4": frozen linear layers as codes of four bits */
    bool is_fp8;                     /* "fp8": products of the layers in eight bits (compute/fp8.h) */
    int64_t checkpoint_steps;        /* besides one per epoch; 0: none */
    int64_t keep_checkpoints;        /* that stay; 0: all */
    int64_t eval_steps;              /* 0: twenty times a run */
    int64_t recovery_steps;          /* 0: by time */
    bool has_gradient_norms;         /* of every parameter, in each step's event */
    bool has_tensorboard;            /* an event file for it; on by default */
    const char *device;              /* "cpu", "cuda", "cuda:1": compute/device.h */
    int64_t threads;                 /* 0: all */
    int64_t memory_bytes;            /* 0: no limit */
    struct lora_config lora;         /* what is adapted and how; rank, alpha and dropout are hyperparameters */
    int64_t now;   /* what templates take for the time, seconds */
    char hash[65]; /* of job.json's text */
};

/* NULL, or why this optimizer does not go with the rest. */
const char *train_optim_conflict(const struct train_config *config);

/* The same of products in eight bits. */
const char *train_fp8_conflict(const struct train_config *config);

/* Everything lies in the arena. Errors name the member. */
bool train_config_read(struct arena *arena, const char *path, struct train_config *config, struct err *err);
bool train_config_parse(struct arena *arena, struct str text, struct train_config *config, struct err *err);
void train_config_write(const struct train_config *config, struct strbuf *out);
