/* compute/ref/element.h - reads and writes one element of any real type as a double. */
#pragma once

#include "compute/backend.h"
#include "compute/convert.h"

static inline double at_get(const void *at, enum dtype type, size_t index)
{
    switch (type) {
    case DTYPE_F32:
        return ((const float *)at)[index];
    case DTYPE_BF16:
        return f32_from_bf16(((const uint16_t *)at)[index]);
    case DTYPE_F16:
        return f32_from_f16(((const uint16_t *)at)[index]);
    default:
        return ((const double *)at)[index];
    }
}

static inline void at_set(void *at, enum dtype type, size_t index, double value)
{
    switch (type) {
    case DTYPE_F32:
        ((float *)at)[index] = (float)value;
        break;
    case DTYPE_BF16:
        ((uint16_t *)at)[index] = bf16_from_f32((float)value);
        break;
    case DTYPE_F16:
        ((uint16_t *)at)[index] = f16_from_f32((float)value);
        break;
    default:
        ((double *)at)[index] = value;
    }
}

static inline double get(const struct mat *m, int32_t row, int32_t col)
{
    return at_get(m->at, m->type, (size_t)row * (size_t)m->ld + (size_t)col);
}

static inline void set(const struct mat *m, int32_t row, int32_t col, double value)
{
    at_set(m->at, m->type, (size_t)row * (size_t)m->ld + (size_t)col, value);
}

static inline void add(const struct mat *m, int32_t row, int32_t col, double value)
{
    set(m, row, col, get(m, row, col) + value);
}

/* Rounds to a type and back. */
static inline double rounded(double value, enum dtype type)
{
    double held = 0;

    at_set(&held, type, 0, value);
    return at_get(&held, type, 0);
}

/* Statistics are f32 beside f32 and bf16 activations, f64 beside f64. */
static inline enum dtype stat_type(enum dtype activation)
{
    return activation == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}
