/* model/merge.h - an adapter worked into its base: a model folder that needs no adapter any more.
 *
 *     W += scale · B·A, and with DoRA each row takes the length that the adapter gives it
 *
 * Sum and addition are in f32, W is rounded once to the type that its file has. Rows are independent and each sums in
 * the order of A's rows, so bits do not depend on threads. What is adapted is told by the adapter's tensors, by the
 * names that PEFT gives them: a tensor that fits nothing is refused. Memory is bounded by A and B of one tensor and a
 * block of rows; base and adapter are read where they are mapped. */
#pragma once

#include "base/pool.h"
#include "model/checkpoint.h"

/* Writes base + adapter into the folder `out`, which must not exist: the base's shards and tensors with their types,
 * its index, and every other file of the base that is no weight file. It appears complete under its name (written as
 * `<out>.tmp`, synced, renamed) or not at all. ERR_CONFLICT when `out` is there. */
bool merge_write(const char *base, const char *adapter, const char *out, struct pool *pool, struct err *err);

/* What an adapter adds to a weight [rows, cols], both factors in f32. */
struct merge_delta {
    const float *coef; /* B: row n of the weight takes coef[n · coef_ld + r] of … */
    const float *row;  /* A: … row r, [rank, cols] */
    int32_t rank, cols, coef_ld;
    float scale;
    const float *magnitude; /* DoRA's, of each row; NULL: none */
};
/* w[cols], row n of the weight, becomes the merged row; `sum` has room for cols. */
void merge_row(const struct merge_delta *delta, int32_t n, float *w, float *sum);
