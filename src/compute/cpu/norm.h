/* compute/cpu/norm.h - what the norm of the residual stream and those of queries and keys share. */
#pragma once

#include "compute/cpu/lanes.h"

/* Rounds as a store to that type and a load would. */
INLINE lanes held_as(lanes value, enum dtype type)
{
    return type == DTYPE_BF16 ? lanes_widen(lanes_narrow(value)) : value;
}

INLINE lanes weight_load(struct row w, enum norm_kind kind, int32_t j, int32_t end)
{
    lanes weight = row_load(w, j, end);

    return kind == NORM_ONE_PLUS ? weight + 1 : weight;
}

/* Elements j .. of a row of `type`, normed already, times their weights. */
INLINE lanes norm_weighted(lanes normed, enum dtype type, struct row w, enum norm_kind kind, int32_t j, int32_t end)
{
    return (kind == NORM_LLAMA ? held_as(normed, type) : normed) * weight_load(w, kind, j, end);
}

INLINE float norm_rstd(float square_sum, int32_t count, float eps)
{
    return 1 / sqrtf(square_sum / (float)count + eps);
}

INLINE float row_square_sum(struct row row, int32_t count)
{
    lanes sum = {0};

    for (int32_t j = 0; j < count; j += LANES) {
        lanes value = row_load(row, j, count);
        sum += value * value;
    }
    return lanes_sum(sum);
}
