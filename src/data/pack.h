/* data/pack.h - puts examples into rows of at most `capacity` tokens.
 *
 * Best fit, decreasing, as TRL does it (strategy "bfd"): within windows of 1,000 examples, longest first, each goes
 * into the row whose space is the smallest that suffices, among equal ones into the row that has had that space for
 * the longest time. Rows come out in the order in which they were opened; no row spans two windows. Same lengths,
 * same rows. A row lists its examples; attention and positions restart at each.
 *
 * Without packing every example is a row of its own, with its one sequence or with both of a preference: the same
 * struct, so nobody behind it needs to know. */
#pragma once

#include "base/arena.h"

#include <stdint.h>

enum { PACK_WINDOW = 1000 };

struct rows {
    uint32_t *example; /* [example_count] sequences, row by row */
    uint32_t *start;   /* [row_count + 1] in `example` */
    uint32_t row_count, example_count;
};

/* length [count], each at least 1; what is longer than `capacity` counts as capacity (its row takes the beginning). */
struct rows pack_best_fit(struct arena *arena, const uint32_t *length, uint32_t count, uint32_t capacity);
/* Rows of `together` sequences each; count is a multiple of it. */
struct rows pack_single(struct arena *arena, uint32_t count, uint32_t together);
