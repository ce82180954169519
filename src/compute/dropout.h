/* compute/dropout.h - which elements a dropout keeps, the same on every backend and for any split of the work.
 *
 * Element e of layer l in optimizer step s draws word e mod 4 of Philox4x32-10 under the key `seed` at the counter
 * (e div 4, l, s), and is kept when that word is at least rate·2³². What is kept is multiplied by 1 / (1 - rate); the
 * factor goes into the products' scale, so that a kept element enters a product unrounded. */
#pragma once

#include "base/random.h"
#include "compute/backend.h"

static inline uint32_t dropout_threshold(float rate)
{
    return (uint32_t)((double)rate * 4294967296.0);
}

static inline void dropout_words(const struct dropout *dropout, uint64_t group, uint32_t words[4])
{
    uint32_t counter[4] = {(uint32_t)group, (uint32_t)(group >> 32), dropout->layer, dropout->step};
    uint32_t key[2] = {(uint32_t)dropout->seed, (uint32_t)(dropout->seed >> 32)};

    philox4x32(counter, key, words);
}

/* Whether element (row, column) of an input with `columns` columns is kept. */
static inline bool dropout_keeps(const struct dropout *dropout, float rate, int32_t row, int32_t column,
                                 int32_t columns)
{
    uint64_t element = (dropout->row_offset + (uint64_t)row) * (uint64_t)columns + (uint64_t)column;
    uint32_t words[4];

    dropout_words(dropout, element / 4, words);
    return words[element % 4] >= dropout_threshold(rate);
}
