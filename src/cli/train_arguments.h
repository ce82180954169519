/* cli/train_arguments.h - what 'attune train' is told on its command line, and the job that follows from it. */
#pragma once

#include "train/config.h"

/* Texts and paths as they were typed. */
struct train_arguments {
    const char *run;
    int64_t attempt;
    const char *model, *adapter, *train, *valid, *out;
    const char *method, *over_length, *schedule, *init, *dtype, *quantization, *optim;
    const char *targets, *excluded, *saved, *layers, *rank_pattern, *alpha_pattern; /* as typed */
    struct hyperparameters_given given;
    struct train_config config;
};

/* Defaults for what argv leaves out. False when the line is wrong by itself, whatever the machine has. */
bool train_arguments_read(struct arena *arena, struct train_arguments *arguments, int argc, char **argv,
                          struct err *err);
/* Finds the files and folders that were named; the run's prepared data go below `dir`. */
bool train_arguments_settle(struct arena *arena, struct train_arguments *arguments, const char *dir, struct err *err);
/* A path that was typed behind --what. */
bool train_arguments_path(struct arena *arena, const char *what, const char *path, const char **result,
                          struct err *err);
