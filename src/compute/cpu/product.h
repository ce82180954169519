/* compute/cpu/product.h - products of matrices, and several of them over the same rows.
 *
 * A product is a result, one or two pairs of operands that are summed into it, and what is done to a sum before its one
 * rounding. linear.c, linear_grad_in.c and linear_grad_w.c write their operations in such products; product.c cuts them
 * into tasks. How the rows and columns are cut may depend on the number of threads; the order of each sum does not.
 *
 * Products that read the same rows form a chain: a task runs them one after the other for its
 * block. So an adapter's thin product takes no pass over the activations of its own, and a later
 * product may read what an earlier one wrote. */
#pragma once

#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"

enum { CHAIN_MAX = WEIGHT_PARTS_MAX + 1 };

/* result = Σ over segments of A·B, one after the other in the same sums. */
struct segment {
    struct side a, b;
    int32_t k;
    bool is_masked; /* first segment only: its sums pass the dropout of `result` before the next adds to them */
};

struct product {
    int32_t rows, cols;
    struct segment segments[2];
    int segment_count;
    float scale;
    struct mat y, bias, add; /* y = cap(scale · result + bias + add (+ y)) */
    float softcap;
    bool is_added;
    float rate;              /* of the masked segment: element (row, col) of y */
    struct dropout dropout;

    bool is_bf16, is_shared; /* from here on set by product.c */
    bool is_streamed;        /* y goes past the caches */
    bool is_joined;          /* both segments are one: A side by side in its rows, B one behind the other in a panel */
    int32_t panels, panel_steps; /* of one panel, all segments */
    uint32_t *shared;        /* [panels][panel_steps][PANEL] */
};

/* Products over the same rows. */
struct chain {
    struct product p[CHAIN_MAX];
    int count;

    int32_t row_block, panel_group, row_blocks, groups;
    size_t a_bytes, slab_bytes, shared_bytes;
    char *slabs; /* of the threads, slab_bytes each */
};

void CPU(chain_run)(struct queue *queue, struct chain *chain);
size_t CPU(chain_scratch)(struct chain *chain, int thread_count);
void CPU(product_run)(struct queue *queue, const struct product *p);
size_t CPU(product_scratch)(const struct product *p, int thread_count);

/* What an adapter takes before its weight's product: t behind x, dt behind dy. */
struct chain CPU(linear_adapter)(const struct op_linear *op);
struct chain CPU(linear_grad_in_adapter)(const struct op_linear_grad_in *op);

/* eight.c: of weights in eight bits. */
void CPU(linear_eight)(struct queue *queue, const struct op_linear *op);
size_t CPU(linear_eight_scratch)(const struct op_linear *op, int thread_count);
void CPU(linear_grad_in_eight)(struct queue *queue, const struct op_linear_grad_in *op);
size_t CPU(linear_grad_in_eight_scratch)(const struct op_linear_grad_in *op, int thread_count);

INLINE size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The adapter's columns behind a matrix. */
INLINE struct mat behind(const struct mat *m, int32_t first, int32_t count)
{
    struct mat columns = *m;

    columns.at = row_of(m, 0, m->cols + first).at;
    columns.cols = count;
    return columns;
}

INLINE struct mat sub_rows(const struct mat *m, int32_t first, int32_t count)
{
    struct mat rows = *m;

    rows.at = row_of(m, first, 0).at;
    rows.rows = count;
    return rows;
}

INLINE struct mat sub_cols(const struct mat *m, int32_t first, int32_t count)
{
    struct mat cols = *m;

    cols.at = row_of(m, 0, first).at;
    cols.cols = count;
    return cols;
}

/* A weight as the right operand beside a matrix. */
INLINE struct side weight_side(const struct weight *w, const struct mat *beside)
{
    return (struct side){.m = w->w, .quant = w->quant.part ? &w->quant : NULL, .panels = w->panels,
                         .is_rounded = !w->quant.part && w->w.type == DTYPE_F32 && beside->type == DTYPE_BF16};
}
