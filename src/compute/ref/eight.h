/* compute/ref/eight.h - products in eight bits: what each element of an operand stands for before its scale. */
#pragma once

#include "compute/fp8.h"
#include "compute/ref/element.h"

/* A tensor: a block of a matrix, with its scale. */
struct tensor {
    enum fp8 format;
    float scale, inverse;
};

/* `beside`: a weight in F32 beside BF16 is read as BF16. */
static inline float eight_read(const struct mat *m, int32_t row, int32_t col, enum dtype beside)
{
    double value = get(m, row, col);

    return (float)(beside == DTYPE_BF16 ? rounded(value, DTYPE_BF16) : value);
}

static inline struct tensor eight_tensor(const struct mat *m, enum fp8 format, enum dtype beside)
{
    struct tensor tensor = {.format = format};
    float amax = 0;

    for (int32_t i = 0; i < m->rows; i++)
        for (int32_t j = 0; j < m->cols; j++) {
            float value = eight_read(m, i, j, beside);
            value = value < 0 ? -value : value;
            amax = value > amax ? value : amax;
        }
    tensor.scale = fp8_scale(format, amax);
    tensor.inverse = 1 / tensor.scale;
    return tensor;
}

static inline double eight_value(const struct tensor *tensor, const struct mat *m, int32_t row, int32_t col,
                                 enum dtype beside)
{
    return (double)fp8_to_f32(tensor->format,
                              fp8_from_f32(tensor->format, eight_read(m, row, col, beside) * tensor->scale));
}
