/* cli/pull.h - "attune models pull": a model of the Hugging Face Hub into its cache. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct pull_options {
    const char *revision, *token_file, *cache; /* NULL: main, as the environment says */
    bool is_offline;
    int64_t transfers;
};
/* Prints its folder on stdout, progress on stderr. An adapter's base comes too. */
bool pull_model(const struct pull_options *options, const char *repo, struct err *err);
