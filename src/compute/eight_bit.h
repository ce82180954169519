/* compute/eight_bit.h - moments of AdamW in a byte each.
 *
 * 256 neighbours share a scale, the largest absolute value among them; a code stands for scale times an entry of a map
 * of [-1, 1] (m) or [0, 1] (v). The map is Dettmers' dynamic one (8-Bit Approximations for Parallelism in Deep
 * Learning, arXiv 1511.04561; 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861): seven decades from 10⁻⁷
 * to 1, of which the i-th has 2ⁱ entries (without signs twice as many) in the middles of equal parts of its upper nine
 * tenths; zero and one. A number becomes the nearest entry's code, the lower one of two as near. Codes count from the
 * entry that is zero, upwards and around: memory of zeros holds moments of zero. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { EIGHT_BIT_BLOCK = 256, EIGHT_BIT_CODES = 256, EIGHT_BIT_DECADES = 7 };

/* The place of zero among the entries, which ascend: code c stands for that at (c + zero) mod 256. */
static inline int eight_bit_zero(bool is_signed)
{
    return is_signed ? EIGHT_BIT_CODES / 2 - 1 : 0;
}

static inline void eight_bit_map(bool is_signed, float value[EIGHT_BIT_CODES])
{
    static const double decade[EIGHT_BIT_DECADES] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
    int zero = eight_bit_zero(is_signed), at = zero;

    value[at++] = 0;
    for (int i = 0; i < EIGHT_BIT_DECADES; i++) {
        int entries = (is_signed ? 1 : 2) << i;
        for (int k = 0; k < entries; k++)
            value[at++] = (float)(decade[i] * (0.1 + 0.9 * (k + 0.5) / entries));
    }
    value[at] = 1;
    for (int i = 1; i <= zero; i++)
        value[zero - i] = -value[zero + i];
}

/* Between a code and the next. */
static inline void eight_bit_edges(const float value[EIGHT_BIT_CODES], float edge[EIGHT_BIT_CODES])
{
    for (int i = 0; i + 1 < EIGHT_BIT_CODES; i++)
        edge[i] = (value[i] + value[i + 1]) / 2;
    edge[EIGHT_BIT_CODES - 1] = 1;
}

/* Scales of `count` elements. */
static inline uint64_t eight_bit_blocks(uint64_t count)
{
    return (count + EIGHT_BIT_BLOCK - 1) / EIGHT_BIT_BLOCK;
}
