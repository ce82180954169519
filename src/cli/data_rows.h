/* cli/data_rows.h - the rows that training is fed with, printed.
 *
 * They are made by the functions that the trainer uses: data/prepare reads the file, train/feed packs and orders. */
#pragma once

#include "data/dataset.h"
#include "data/encode.h"

struct data_rows_options {
    int64_t context_length, seed, epochs;
    enum over_length over_length;
    bool is_packed;
};

/* One JSON object a line on standard output. The prepared data lies in a temporary folder meanwhile. */
bool data_rows_print(const char *file, const struct encoder *encoder, const struct data_rows_options *options,
                     struct err *err);
