/* Gradients of a weight, its bias and its adapter: sums over tokens, so both operands of a
 * product come from columns. */
#include "compute/cpu/product.h"
#include "compute/grouped.h"
#include "compute/parts.h"

enum {
    BIAS_ROWS = 256,  /* of dy that are summed before they go to dbias */
    GRAD_ROWS = 2048, /* tokens that a product sums before it adds to the gradient */
};

/* grad += scale · leftᵀ·right over rows [first, first + count). */
static struct product outer(struct mat grad, const struct mat *left, const struct mat *right, int32_t first,
                            int32_t count, float scale)
{
    struct segment segment = {.a = {.m = sub_rows(left, first, count), .is_k_down = true},
                              .b = {.m = sub_rows(right, first, count), .is_k_down = true}, .k = count};

    return (struct product){.rows = grad.rows, .cols = grad.cols, .segments = {segment}, .segment_count = 1,
                            .scale = scale, .y = grad, .is_added = true};
}

/* dA += dtᵀ·drop(x) */
static struct product adapter_a_grad(const struct op_linear_grad_w *op, int32_t first, int32_t count)
{
    const struct weight *w = op->w;
    struct mat dt = behind(&op->dy, 0, w->a.rows);
    struct product p = outer(op->da, &dt, &op->x, first, count, 1 / (1 - w->lora_dropout));

    p.segments[0].b.rate = w->lora_dropout;
    p.segments[0].b.dropout = op->dropout;
    p.segments[0].b.dropout.row_offset += (uint64_t)first;
    return p;
}

/* dB += dyᵀ·t, for one block of a fused weight. */
static struct product adapter_b_grad(const struct op_linear_grad_w *op, int32_t i, int32_t first, int32_t count)
{
    struct weight_part part = weight_part(op->w, i);
    struct mat block = sub_rows(&op->db, part.row, part.rows), dy = sub_cols(&op->dy, part.row, part.rows);
    struct mat t = behind(&op->x, part.col, part.cols);

    block = sub_cols(&block, part.col, part.cols);
    return outer(block, &dy, &t, first, count, 1);
}

struct bias_grad {
    struct mat dy, dbias;
};

/* A column block of dbias. */
static void bias_task(void *context, int task, int thread)
{
    const struct bias_grad *grad = context;
    int32_t col = task * PANEL, count = smaller(PANEL, grad->dy.cols - col);
    struct row to = row_of(&grad->dbias, 0, col);

    for (int32_t first = 0; first < grad->dy.rows; first += BIAS_ROWS) {
        lanes sum[PANEL_VECTORS] = {{0}};
        for (int32_t t = first; t < smaller(first + BIAS_ROWS, grad->dy.rows); t++) {
            struct row from = row_of(&grad->dy, t, col);
            for (int v = 0; v * LANES < count; v++)
                sum[v] += row_load(from, v * LANES, count);
        }
        for (int v = 0; v * LANES < count; v++)
            row_store(to, v * LANES, count, row_load(to, v * LANES, count) + sum[v]);
    }
}

void CPU(linear_grad_w)(struct queue *queue, const struct op_linear_grad_w *op)
{
    struct bias_grad bias = {op->dy, op->dbias};
    struct product p;

    if (op->row_end) {
        grouped_linear_grad_w(queue, op, CPU(linear_grad_w));
        return;
    }
    if (op->dbias.at)
        pool_run(queue->pool, ceil_div(op->dy.cols, PANEL), bias_task, &bias);
    for (int32_t first = 0; first < op->x.rows; first += GRAD_ROWS) {
        int32_t count = smaller(GRAD_ROWS, op->x.rows - first);
        if (op->dw.at) {
            p = outer(op->dw, &op->dy, &op->x, first, count, 1);
            p.is_added = first > 0 || !op->is_fresh;
            CPU(product_run)(queue, &p);
        }
        if (op->da.at) {
            p = adapter_a_grad(op, first, count);
            CPU(product_run)(queue, &p);
        }
        for (int32_t part = 0; op->db.at && part < weight_part_count(op->w); part++) {
            p = adapter_b_grad(op, part, first, count);
            CPU(product_run)(queue, &p);
        }
    }
}

size_t CPU(linear_grad_w_scratch)(const struct op_linear_grad_w *op, int thread_count)
{
    struct weight expert;
    struct op_linear_grad_w dense = op->row_end ? grouped_linear_grad_w_largest(op, &expert) : *op;
    int32_t count = smaller(GRAD_ROWS, dense.x.rows);
    size_t bytes = 0;
    struct product p;

    /* A shorter last stretch of tokens may cut its tasks into more rows, which need more sums. */
    for (int32_t rows = count; rows > 0; rows = rows == count ? dense.x.rows % GRAD_ROWS % count : 0) {
        if (dense.dw.at) {
            p = outer(dense.dw, &dense.dy, &dense.x, 0, rows, 1);
            bytes = larger(bytes, CPU(product_scratch)(&p, thread_count));
        }
        if (dense.da.at) {
            p = adapter_a_grad(&dense, 0, rows);
            bytes = larger(bytes, CPU(product_scratch)(&p, thread_count));
        }
        for (int32_t part = 0; dense.db.at && part < weight_part_count(dense.w); part++) {
            p = adapter_b_grad(&dense, part, 0, rows);
            bytes = larger(bytes, CPU(product_scratch)(&p, thread_count));
        }
    }
    return bytes;
}
