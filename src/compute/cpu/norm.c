/* RMSNorm with the residual's addition, and its gradient. One pass over memory each way; sums in f32 lanes. Held to
 * 4e-6 relative to Σ|terms| against the reference at D <= 8192. */
#include "compute/cpu/cpu_int.h"
#include "compute/cpu/norm.h"

enum { TASK_ROWS = 16, AHEAD = 2, DW_ROWS = 256, DW_COLS = 4 * LANES };

/* Writes a + b to r and returns Σ r². */
static float residual_row(struct row a, struct row b, struct row r, int32_t D, bool has_b)
{
    lanes sum = {0};

    for (int32_t j = 0; j < D; j += LANES) {
        lanes value = row_load(a, j, D);
        if (has_b) {
            value = held_as(value + row_load(b, j, D), r.type);
            row_store(r, j, D, value);
        }
        sum += value * value;
    }
    return lanes_sum(sum);
}

static void norm_row(const struct op_norm *op, int32_t t)
{
    int32_t D = op->a.cols;
    bool has_b = op->b.at != NULL, has_add = op->add.at != NULL;
    struct row a = row_of(&op->a, t, 0), b = has_b ? row_of(&op->b, t, 0) : a, r = has_b ? row_of(&op->r, t, 0) : a;
    struct row y = row_of(&op->y, t, 0), w = row_of(&op->w, 0, 0), add = has_add ? row_of(&op->add, t, 0) : y;
    float rstd;

    row_fetch(&op->a, t + AHEAD);
    rstd = norm_rstd(residual_row(a, b, r, D, has_b), D, op->eps);
    if (op->rstd)
        ((float *)op->rstd)[t] = rstd;
    for (int32_t j = 0; j < D; j += LANES) {
        lanes normed = norm_weighted(row_load(r, j, D) * rstd, r.type, w, op->kind, j, D);
        row_store(y, j, D, has_add ? normed + row_load(add, j, D) : normed);
    }
}

static void norm_task(void *context, int task, int thread)
{
    const struct op_norm *op = context;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->a.rows); t++)
        norm_row(op, t);
}

void CPU(norm)(struct queue *queue, const struct op_norm *op)
{
    pool_run(queue->pool, ceil_div(op->a.rows, TASK_ROWS), norm_task, (void *)op);
}

static void grad_row(const struct op_norm_grad *op, int32_t t)
{
    int32_t D = op->dy.cols;
    struct row dy = row_of(&op->dy, t, 0), r = row_of(&op->r, t, 0), dr = row_of(&op->dr, t, 0);
    struct row w = row_of(&op->w, 0, 0);
    float rstd = ((const float *)op->rstd)[t], factor;
    lanes sum = {0};

    row_fetch(&op->dy, t + AHEAD);
    row_fetch(&op->r, t + AHEAD);
    if (!op->is_fresh)
        row_fetch(&op->dr, t + AHEAD);
    for (int32_t j = 0; j < D; j += LANES)
        sum += row_load(dy, j, D) * weight_load(w, op->kind, j, D) * row_load(r, j, D);
    factor = lanes_sum(sum) / (float)D * rstd * rstd * rstd;
    for (int32_t j = 0; j < D; j += LANES) {
        lanes change = row_load(dy, j, D) * weight_load(w, op->kind, j, D) * rstd - row_load(r, j, D) * factor;
        row_store(dr, j, D, op->is_fresh ? change : row_load(dr, j, D) + change);
    }
}

/* A block of columns of dw, all rows. */
static void dw_block(const struct op_norm_grad *op, int32_t col)
{
    int32_t T = op->dy.rows, count = smaller(DW_COLS, op->dy.cols - col);
    struct row dw = row_of(&op->dw, 0, col);

    for (int32_t first = 0; first < T; first += DW_ROWS) {
        lanes sum[DW_COLS / LANES] = {{0}};
        for (int32_t t = first; t < smaller(first + DW_ROWS, T); t++) {
            struct row dy = row_of(&op->dy, t, col), r = row_of(&op->r, t, col);
            for (int v = 0; v * LANES < count; v++)
                sum[v] +=
                    row_load(dy, v * LANES, count) * (row_load(r, v * LANES, count) * ((const float *)op->rstd)[t]);
        }
        for (int v = 0; v * LANES < count; v++)
            row_store(dw, v * LANES, count, row_load(dw, v * LANES, count) + sum[v]);
    }
}

static void grad_task(void *context, int task, int thread)
{
    const struct op_norm_grad *op = context;
    int32_t row_tasks = ceil_div(op->dy.rows, TASK_ROWS);

    if (task >= row_tasks)
        dw_block(op, (task - row_tasks) * DW_COLS);
    else
        for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->dy.rows); t++)
            grad_row(op, t);
}

void CPU(norm_grad)(struct queue *queue, const struct op_norm_grad *op)
{
    int32_t tasks = ceil_div(op->dy.rows, TASK_ROWS) + (op->dw.at ? ceil_div(op->dy.cols, DW_COLS) : 0);

    pool_run(queue->pool, tasks, grad_task, (void *)op);
}
