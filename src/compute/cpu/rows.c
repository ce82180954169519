/* Operations that move rows: embedding and its gradient, gather and scatter, copy. */
#include "compute/cpu/cpu_int.h"

enum { TASK_ROWS = 16, SUM_VECTORS = 4 };

static void embed_task(void *context, int task, int thread)
{
    const struct op_embed *op = context;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->x.rows); t++) {
        struct row x = row_of(&op->x, t, 0), from = row_of(&op->table, op->batch->tok[t], 0);
        for (int32_t j = 0; j < op->x.cols; j += LANES)
            row_store(x, j, op->x.cols, row_load(from, j, op->x.cols) * op->scale);
    }
}

void CPU(embed)(struct queue *queue, const struct op_embed *op)
{
    pool_run(queue->pool, ceil_div(op->x.rows, TASK_ROWS), embed_task, (void *)op);
}

/* Rows by_token[from .. end) all hold one token: their sum goes to its row of the table. */
static void embed_grad_run(const struct op_embed_grad *op, int32_t from, int32_t end)
{
    const int32_t *rows = op->batch->by_token;

    for (int32_t col = 0; col < op->dx.cols; col += SUM_VECTORS * LANES) {
        struct row to = row_of(&op->dtable, op->batch->tok[rows[from]], col);
        int32_t count = smaller(SUM_VECTORS * LANES, op->dx.cols - col);
        lanes sum[SUM_VECTORS] = {{0}};

        for (int32_t i = from; i < end; i++)
            for (int v = 0; v * LANES < count; v++)
                sum[v] += row_load(row_of(&op->dx, rows[i], col), v * LANES, count);
        for (int v = 0; v * LANES < count; v++)
            row_store(to, v * LANES, count, row_load(to, v * LANES, count) + sum[v] * op->scale);
    }
}

static int32_t token_at(const struct op_embed_grad *op, int32_t i)
{
    return op->batch->tok[op->batch->by_token[i]];
}

/* A task owns the runs of equal tokens that begin in its part of by_token. */
static void embed_grad_task(void *context, int task, int thread)
{
    const struct op_embed_grad *op = context;
    int32_t T = op->dx.rows;

    for (int32_t i = task * TASK_ROWS, next; i < smaller((task + 1) * TASK_ROWS, T); i = next) {
        next = i + 1;
        if (i > 0 && token_at(op, i - 1) == token_at(op, i))
            continue;
        while (next < T && token_at(op, next) == token_at(op, i))
            next++;
        if (op->has_padding && token_at(op, i) == op->padding)
            continue;
        embed_grad_run(op, i, next);
    }
}

void CPU(embed_grad)(struct queue *queue, const struct op_embed_grad *op)
{
    pool_run(queue->pool, ceil_div(op->dx.rows, TASK_ROWS), embed_grad_task, (void *)op);
}

static void scatter_row(const struct op_rows *op, int32_t i)
{
    struct row x = row_of(&op->x, i, 0), y = row_of(&op->y, op->index[i], 0);

    for (int32_t j = 0; j < op->x.cols; j += LANES)
        row_store(y, j, op->x.cols, row_load(y, j, op->x.cols) + row_load(x, j, op->x.cols));
}

static void gather_row(const struct op_rows *op, int32_t i)
{
    struct row y = row_of(&op->y, i, 0), add = op->add.at ? row_of(&op->add, i, 0) : y;
    int32_t fan = op->fan > 1 ? op->fan : 1, D = op->x.cols;
    const int32_t *index = op->index + (size_t)i * (size_t)fan;
    const float *scale = op->scale.at ? (const float *)op->scale.at + (size_t)i * (size_t)fan : NULL;

    for (int32_t j = 0; j < D; j += LANES) {
        lanes sum = op->add.at ? row_load(add, j, D) : (lanes){0};
        for (int32_t f = 0; f < fan; f++) {
            lanes term = row_load(row_of(&op->x, index[f], 0), j, D);
            term = scale ? term * scale[f] : term;
            sum = f == 0 && !op->add.at ? term : sum + term;
        }
        row_store(y, j, D, sum);
    }
}

static void rows_task(void *context, int task, int thread)
{
    const struct op_rows *op = context;

    for (int32_t i = task * TASK_ROWS; i < smaller((task + 1) * TASK_ROWS, op->count); i++)
        if (op->is_scatter)
            scatter_row(op, i);
        else
            gather_row(op, i);
}

void CPU(rows)(struct queue *queue, const struct op_rows *op)
{
    pool_run(queue->pool, ceil_div(op->count, TASK_ROWS), rows_task, (void *)op);
}

static void copy_task(void *context, int task, int thread)
{
    const struct op_copy *op = context;

    for (int32_t i = task * TASK_ROWS; i < smaller((task + 1) * TASK_ROWS, op->x.rows); i++) {
        struct row x = row_of(&op->x, i, 0), y = row_of(&op->y, i, 0);
        for (int32_t j = 0; j < op->x.cols; j += LANES) {
            lanes value = row_load(x, j, op->x.cols);
            row_store(y, j, op->x.cols, op->is_added ? row_load(y, j, op->x.cols) + value : value);
        }
    }
}

void CPU(copy)(struct queue *queue, const struct op_copy *op)
{
    pool_run(queue->pool, ceil_div(op->x.rows, TASK_ROWS), copy_task, (void *)op);
}
