/* compute/stochastic.h - stochastic rounding of f32 to bf16, the same on every backend and for any split of the work.
 *
 * A number between two neighbours in bf16 goes to the one or the other with a probability by its distance from them, so
 * that the mean of what it is rounded to is the number itself: many updates that are each far below half a step of bf16
 * add up to what they should. Sixteen random bits are added to the bits that bf16 does not have, then those are cut
 * off. What bf16 holds already stays, as do zeros, infinities and NaN.
 *
 * The bits of element e of what is rounded (`kind`) in optimizer step s are a half of a word of Philox4x32-10 under the
 * key `seed` at the counter (call, 2³¹ + kind, s), which no dropout uses. One call serves eight elements, 16 apart: of
 * a stretch of 128, element 16·i + c takes half i of call c, low halves before high ones, so that 16 lanes need no
 * shuffles. */
#pragma once

#include "base/random.h"
#include "compute/convert.h"

enum { STOCHASTIC_STRETCH = 128, STOCHASTIC_CALLS = 16 };
enum stochastic_kind { STOCHASTIC_WEIGHT, STOCHASTIC_M, STOCHASTIC_V, STOCHASTIC_KINDS };

static inline uint32_t stochastic_purpose(enum stochastic_kind kind)
{
    return 0x80000000u + (uint32_t)kind;
}

/* Sixteen bits. */
static inline uint32_t stochastic_noise(uint64_t seed, int64_t step, enum stochastic_kind kind, uint64_t element)
{
    uint64_t call = element / STOCHASTIC_STRETCH * STOCHASTIC_CALLS + element % STOCHASTIC_CALLS;
    uint32_t half = (uint32_t)(element % STOCHASTIC_STRETCH / STOCHASTIC_CALLS), words[4];
    uint32_t counter[4] = {(uint32_t)call, (uint32_t)(call >> 32), stochastic_purpose(kind), (uint32_t)step};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    philox4x32(counter, key, words);
    return words[half / 2] >> 16 * (half % 2) & 0xffff;
}

static inline uint16_t bf16_from_f32_stochastic(float value, uint32_t noise)
{
    uint32_t bits = f32_bits(value);

    if ((bits & 0x7fffffff) > 0x7f800000)
        return bf16_from_f32(value);
    return (uint16_t)((bits + noise) >> 16);
}
