/* compute/parts.h - the parts of a fused weight's adapter. */
#pragma once

#include "compute/backend.h"

/* Whether products take it in eight bits: compute/fp8.h. */
static inline bool weight_is_eight(const struct weight *w)
{
    return w->quant.part_count && !w->quant.part;
}

struct weight_part {
    int32_t row, rows; /* of w and b */
    int32_t col, cols; /* of b; rows of a */
    float scale;
};

static inline int32_t weight_part_count(const struct weight *w)
{
    return w->part_rows ? w->part_count : 1;
}

static inline struct weight_part weight_part(const struct weight *w, int32_t i)
{
    if (!w->part_rows)
        return (struct weight_part){0, w->w.rows, 0, w->a.rows, w->lora_scale};
    return (struct weight_part){w->part_rows[i], w->part_rows[i + 1] - w->part_rows[i], w->part_cols[i],
                                w->part_cols[i + 1] - w->part_cols[i],
                                w->part_scale ? w->part_scale[i] : w->lora_scale};
}
