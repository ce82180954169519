/* compute/selftest/operands.h - random operands for an operation.
 *
 * All that the candidate reads and writes lies in one block, which is the caller's: so a case can run again
 * from the same bytes with another pool, and the whole block, gaps between rows included, must come out the
 * same. Outputs start as NaN, gaps as a sentinel that nobody may touch. The oracle's F64 copies of the same
 * values lie in an arena of their own. */
#pragma once

#include "base/arena.h"
#include "compute/backend.h"
#include "compute/ref/element.h"

#include <math.h>
#include <string.h>

enum { OPERANDS_BYTES = 16 << 20, OPERANDS_GAP = 0x5a };

struct operands {
    char *block;
    size_t used_bytes;
    uint64_t random;
    struct arena wide; /* F64 copies, and what else lives as long as the case */
};

static inline void operands_open(struct operands *o, char *block, uint64_t seed)
{
    *o = (struct operands){.block = block, .random = seed};
}

static inline void operands_close(struct operands *o)
{
    arena_deinit(&o->wide);
}

static inline void operands_reset(struct operands *o)
{
    o->used_bytes = 0;
    arena_reset(&o->wide);
}

static inline uint32_t random_below(struct operands *o, uint32_t bound)
{
    o->random = o->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((o->random >> 33) % bound);
}

static inline int32_t random_in(struct operands *o, int32_t low, int32_t high)
{
    return low + (int32_t)random_below(o, (uint32_t)(high - low + 1));
}

/* In [-1, 1). */
static inline double random_value(struct operands *o)
{
    return (double)random_below(o, 1 << 20) / (1 << 19) - 1;
}

static inline enum dtype random_type(struct operands *o)
{
    return random_below(o, 2) ? DTYPE_BF16 : DTYPE_F32;
}

static inline void *operands_take(struct operands *o, size_t bytes)
{
    void *at = o->block + o->used_bytes;

    o->used_bytes += (bytes + 63) / 64 * 64;
    ASSERT(o->used_bytes <= OPERANDS_BYTES);
    return at;
}

/* Indices and other small arrays that the candidate reads. */
static inline int32_t *operands_indices(struct operands *o, int32_t count)
{
    return operands_take(o, ((size_t)count + 1) * sizeof(int32_t));
}

/* Odd offsets and leading dimensions: `room` columns behind each row, then up to 5 more; or rows
 * that begin at whole 16 bytes. */
static inline struct mat mat_make(struct operands *o, int32_t rows, int32_t cols, int32_t room, enum dtype type)
{
    struct mat m = {NULL, rows, cols, cols + room + random_in(o, 0, 5), type};
    bool is_aligned = random_below(o, 2);
    size_t elements, size = dtype_bytes(type);

    if (is_aligned)
        m.ld = (m.ld + 7) / 8 * 8;
    elements = (size_t)rows * (size_t)m.ld;
    m.at = (char *)operands_take(o, (elements + 3) * size) + (is_aligned ? 0 : (size_t)random_in(o, 0, 3) * size);
    memset(m.at, OPERANDS_GAP, elements * size);
    return m;
}

/* No matrix, of the shape of one. */
static inline struct mat mat_none(const struct mat *m)
{
    return (struct mat){NULL, m->rows, m->cols, m->ld, m->type};
}

static inline void *mat_row(const struct mat *m, int32_t row)
{
    return (char *)m->at + (size_t)row * (size_t)m->ld * dtype_bytes(m->type);
}

static inline void mat_fill(const struct mat *m, double value)
{
    for (int32_t i = 0; i < m->rows; i++)
        for (int32_t j = 0; j < m->cols; j++)
            set(m, i, j, value);
}

static inline struct mat mat_random(struct operands *o, int32_t rows, int32_t cols, int32_t room, enum dtype type)
{
    struct mat m = mat_make(o, rows, cols, room, type);

    for (int32_t i = 0; i < rows; i++)
        for (int32_t j = 0; j < cols; j++)
            set(&m, i, j, random_value(o));
    return m;
}

/* An output: NaN, or random when the op adds to it. */
static inline struct mat mat_output(struct operands *o, int32_t rows, int32_t cols, int32_t room, enum dtype type,
                                    bool is_added)
{
    struct mat m = is_added ? mat_random(o, rows, cols, room, type) : mat_make(o, rows, cols, room, type);

    if (!is_added)
        mat_fill(&m, NAN);
    return m;
}

/* The same values in F64, with the same room behind the rows; `is_absolute`: their magnitudes. */
static inline struct mat mat_wide(struct operands *o, const struct mat *m, bool is_absolute)
{
    struct mat wide = {NULL, m->rows, m->cols, m->ld, DTYPE_F64};

    if (!m->at)
        return wide;
    wide.at = arena_alloc(&o->wide, (size_t)m->rows * (size_t)m->ld * 8 + 8);
    for (int32_t i = 0; i < m->rows; i++)
        for (int32_t j = 0; j < m->cols; j++)
            set(&wide, i, j, is_absolute ? fabs(get(m, i, j)) : get(m, i, j));
    return wide;
}

/* Documents of random lengths that fill T tokens of a vocabulary, with by_token. */
static inline struct batch batch_random(struct operands *o, int32_t T, int32_t V)
{
    int32_t *cu = operands_indices(o, T + 1), *tok = operands_indices(o, T), *pos = operands_indices(o, T);
    int32_t *by = operands_indices(o, T);
    struct batch batch = {.T = T, .cu_seqlens = cu, .tok = tok, .pos = pos, .by_token = by};
    int32_t count = 0;

    cu[0] = 0;
    while (cu[batch.doc_count] < T) {
        int32_t left = T - cu[batch.doc_count], rows = random_below(o, 3) ? random_in(o, 1, left) : left;
        for (int32_t i = 0; i < rows; i++)
            pos[cu[batch.doc_count] + i] = i;
        cu[batch.doc_count + 1] = cu[batch.doc_count] + rows;
        batch.doc_count++;
    }
    for (int32_t t = 0; t < T; t++)
        tok[t] = random_in(o, 0, V - 1);
    for (int32_t v = 0; v < V; v++)
        for (int32_t t = 0; t < T; t++)
            if (tok[t] == v)
                by[count++] = t;
    return batch;
}
