/* compute/cpu/brick_end.h - what is done to finished sums while they are in registers:
 * y = scale · sum + bias + add (+ y), rounded once. */
#pragma once

#include "compute/cpu/brick.h"

/* A row of a type that is known here. */
INLINE struct row end_row(struct row row, size_t bytes, enum dtype type)
{
    return (struct row){(char *)row.at + bytes, type};
}

INLINE void end_add(lanes sum[][PANEL_VECTORS], int rows, int vectors, struct row from, size_t row_bytes,
                    enum dtype type)
{
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] += row_load(end_row(from, (size_t)i * row_bytes, type), v * LANES, PANEL);
}

INLINE void end_store(lanes sum[][PANEL_VECTORS], int rows, int vectors, struct row to, size_t row_bytes,
                      enum dtype type)
{
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            row_store(end_row(to, (size_t)i * row_bytes, type), v * LANES, PANEL, sum[i][v]);
}

INLINE void end_add_any(lanes sum[][PANEL_VECTORS], int rows, int vectors, struct row from, size_t row_bytes)
{
    if (from.type == DTYPE_F32)
        end_add(sum, rows, vectors, from, row_bytes, DTYPE_F32);
    else
        end_add(sum, rows, vectors, from, row_bytes, DTYPE_BF16);
}

#if defined(__AVX512BF16__)
/* Whole lines past all caches: what fills these is not read again soon, and a line that is written whole need not be
 * read first. */
INLINE void end_stream(lanes sum[][PANEL_VECTORS], int rows, struct row to, size_t row_bytes)
{
    UNROLL for (int i = 0; i < rows; i++) {
        char *at = (char *)to.at + (size_t)i * row_bytes;
        if (to.type == DTYPE_BF16) {
            __m512bh line = _mm512_cvtne2ps_pbh((__m512)sum[i][PANEL_VECTORS - 1], (__m512)sum[i][0]);
            _mm512_stream_si512((void *)at, (__m512i)line);
        } else {
            _mm512_stream_ps((void *)at, (__m512)sum[i][0]);
            _mm512_stream_ps((void *)(at + 64), (__m512)sum[i][1]);
        }
    }
}
#endif

/* What was written past the caches is there for other threads. */
INLINE void end_streams(void)
{
#if defined(__AVX512BF16__)
    if (HAS_TILES)
        _mm_sfence();
#endif
}

/* Finishes sums while they are in registers. */
INLINE void brick_end(const struct brick_end *end, lanes sum[][PANEL_VECTORS], int rows, int vectors)
{
    if (end->scale != 1)
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] *= end->scale;
    if (end->bias.at)
        end_add_any(sum, rows, vectors, end->bias, 0);
    if (end->add.at)
        end_add_any(sum, rows, vectors, end->add, end->add_row);
    if (end->is_added)
        end_add_any(sum, rows, vectors, end->y, end->y_row);
#if defined(__AVX512BF16__)
    if (vectors == PANEL_VECTORS && end->is_streamed) {
        if (end->y.type == DTYPE_BF16)
            end_stream(sum, rows, (struct row){end->y.at, DTYPE_BF16}, end->y_row);
        else
            end_stream(sum, rows, (struct row){end->y.at, DTYPE_F32}, end->y_row);
        return;
    }
#endif
    if (end->y.type == DTYPE_F32)
        end_store(sum, rows, vectors, end->y, end->y_row, DTYPE_F32);
    else
        end_store(sum, rows, vectors, end->y, end->y_row, DTYPE_BF16);
}
