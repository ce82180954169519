/* tests/unit/compute/fixture.h - operands for tests of operations.
 *
 * All operands of a case lie in one block: so a case can run again from the same bytes with another pool, and the whole
 * block, gaps between rows included, must come out the same. Outputs start as NaN, gaps as a sentinel that nobody may
 * touch. The oracle is the reference on F64 copies of the same values. */
#pragma once

#include "test.h"

#include "base/arena.h"
#include "base/pool.h"
#include "compute/backend.h"
#include "compute/ref/element.h"

#include <math.h>
#include <string.h>

enum { BLOCK_BYTES = 4 << 20, POOLS = 4 };

struct fixture {
    char *block;
    size_t used_bytes;
    uint64_t random;
    struct arena wide; /* F64 copies */
    struct pool *pools[POOLS];
    char *scratch;
    size_t scratch_bytes;
    int compared_count;
};

static const int pool_sizes[POOLS] = {1, 2, 3, 7};

static inline void fixture_open(struct fixture *f)
{
    const char *seed = getenv("ATTUNE_TEST_SEED");

    *f = (struct fixture){.random = seed ? strtoull(seed, NULL, 10) : 20261122};
    print_message("seed %llu (ATTUNE_TEST_SEED)\n", (unsigned long long)f->random);
    f->block = aligned_alloc(64, BLOCK_BYTES);
    f->scratch_bytes = 64 << 20;
    f->scratch = aligned_alloc(64, f->scratch_bytes);
    for (int i = 0; i < POOLS; i++)
        f->pools[i] = pool_new(pool_sizes[i]);
}

static inline void fixture_close(struct fixture *f)
{
    for (int i = 0; i < POOLS; i++)
        pool_free(f->pools[i]);
    arena_deinit(&f->wide);
    free(f->block);
    free(f->scratch);
}

static inline void fixture_reset(struct fixture *f)
{
    f->used_bytes = 0;
    arena_reset(&f->wide);
}

static inline uint32_t random_below(struct fixture *f, uint32_t bound)
{
    f->random = f->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((f->random >> 33) % bound);
}

static inline int32_t random_in(struct fixture *f, int32_t low, int32_t high)
{
    return low + (int32_t)random_below(f, (uint32_t)(high - low + 1));
}

static inline double random_value(struct fixture *f)
{
    return (double)random_below(f, 1 << 20) / (1 << 19) - 1;
}

static inline void *fixture_take(struct fixture *f, size_t bytes)
{
    void *at = f->block + f->used_bytes;

    f->used_bytes += (bytes + 63) / 64 * 64;
    assert_true(f->used_bytes <= BLOCK_BYTES);
    return at;
}

/* Odd offsets and leading dimensions: `room` columns behind each row, then up to 5 more. */
static inline struct mat mat_make(struct fixture *f, int32_t rows, int32_t cols, int32_t room, enum dtype type)
{
    struct mat m = {NULL, rows, cols, cols + room + random_in(f, 0, 5), type};
    size_t elements = (size_t)rows * (size_t)m.ld, size = dtype_bytes(type);

    m.at = (char *)fixture_take(f, (elements + 3) * size) + (size_t)random_in(f, 0, 3) * size;
    memset(m.at, 0x5a, elements * size);
    return m;
}

static inline void mat_fill(const struct mat *m, double value)
{
    for (int32_t i = 0; i < m->rows; i++)
        for (int32_t j = 0; j < m->cols; j++)
            set(m, i, j, value);
}

static inline struct mat mat_random(struct fixture *f, int32_t rows, int32_t cols, int32_t room, enum dtype type)
{
    struct mat m = mat_make(f, rows, cols, room, type);

    for (int32_t i = 0; i < rows; i++)
        for (int32_t j = 0; j < cols; j++)
            set(&m, i, j, random_value(f));
    return m;
}

/* An output: NaN, or random when the op adds to it. */
static inline struct mat mat_output(struct fixture *f, int32_t rows, int32_t cols, int32_t room, enum dtype type, bool is_added)
{
    struct mat m = is_added ? mat_random(f, rows, cols, room, type) : mat_make(f, rows, cols, room, type);

    if (!is_added)
        mat_fill(&m, NAN);
    return m;
}

/* The same values in F64, with the same room behind the rows; `is_absolute`: their magnitudes. */
static inline struct mat mat_wide(struct fixture *f, const struct mat *m, bool is_absolute)
{
    struct mat wide = {NULL, m->rows, m->cols, m->ld, DTYPE_F64};

    if (!m->at)
        return wide;
    wide.at = arena_alloc(&f->wide, (size_t)m->rows * (size_t)m->ld * 8 + 8);
    for (int32_t i = 0; i < m->rows; i++)
        for (int32_t j = 0; j < m->cols; j++)
            set(&wide, i, j, is_absolute ? fabs(get(m, i, j)) : get(m, i, j));
    return wide;
}

static inline double type_rounding(enum dtype type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-23;
}

/* |got - want| <= bound·size + one rounding of the type, size from `sizes` or 1. */
static inline void mat_close(struct fixture *f, const char *what, const struct mat *got, const struct mat *want, const struct mat *sizes,
                             double bound)
{
    for (int32_t i = 0; got->at && i < got->rows; i++)
        for (int32_t j = 0; j < got->cols; j++) {
            double a = get(got, i, j), b = get(want, i, j), size = sizes ? get(sizes, i, j) : 1;
            if (!(fabs(a - b) <= bound * size + type_rounding(got->type) * fabs(b) + 1e-37))
                fail_msg("%s [%d, %d] of [%d, %d] %s: %.9g, reference %.9g, difference %.3g", what, i, j, got->rows, got->cols,
                         dtype_name(got->type), a, b, a - b);
        }
    f->compared_count += got->at != NULL;
}

/* Nothing between the rows was written. `room`: columns behind each row that belong to the op. */
static inline void mat_gaps_whole(const char *what, const struct mat *m, int32_t room)
{
    size_t size = dtype_bytes(m->type);

    for (int32_t i = 0; m->at && i + 1 < m->rows; i++)
        for (size_t byte = (size_t)(m->cols + room) * size; byte < (size_t)m->ld * size; byte++)
            if (((unsigned char *)m->at)[(size_t)i * (size_t)m->ld * size + byte] != 0x5a)
                fail_msg("%s: the gap behind row %d was written", what, i);
}

/* Runs an op of a backend with every pool from the same bytes; all must leave the same bytes behind. */
static inline void run_with_all_pools(struct fixture *f, const struct backend *backend, enum op op, void (*run)(struct queue *, const void *),
                                      const void *args)
{
    char *before = arena_alloc(&f->wide, f->used_bytes + 1), *first = arena_alloc(&f->wide, f->used_bytes + 1);
    struct err err = {0};

    memcpy(before, f->block, f->used_bytes);
    assert_ok(backend->can(op, args, &err), err);
    for (int i = 0; i < POOLS; i++) {
        struct queue queue = {.pool = f->pools[i], .scratch = f->scratch};
        queue.scratch_bytes = backend->scratch_bytes(op, args, pool_sizes[i]);
        assert_true(queue.scratch_bytes <= f->scratch_bytes);
        memset(f->scratch, 0xff, queue.scratch_bytes);
        memcpy(f->block, before, f->used_bytes);
        run(&queue, args);
        if (i == 0)
            memcpy(first, f->block, f->used_bytes);
        else if (memcmp(first, f->block, f->used_bytes) != 0)
            fail_msg("%s: %d threads and 1 thread give different bits", op_name(op), pool_sizes[i]);
    }
}
