/* DoRA: norms of merged rows, the gain of columns and its gradient. */
#include "compute/convert.h"
#include "compute/cpu/cpu_int.h"

#include <math.h>

enum { TASK_ROWS = 16, WIDTH = 16 * LANES, GRAD_COLS = 4 * LANES, GRAD_ROWS = 256 };

static float row_value(struct row row, int32_t j)
{
    return row.type == DTYPE_F32 ? ((const float *)row.at)[j] : f32_from_bf16(((const uint16_t *)row.at)[j]);
}

/* A stretch of a merged row: W_n + scale · B_n·A, its squares. */
static double stretch_squares(const struct op_dora *op, int32_t n, int32_t col)
{
    int32_t count = smaller(WIDTH, op->w.cols - col);
    lanes sum[WIDTH / LANES] = {{0}}, squares = {0};
    struct row w = row_of(&op->w, n, col), b = row_of(&op->b, n, 0);

    for (int32_t r = 0; r < op->a.rows; r++) {
        struct row a = row_of(&op->a, r, col);
        float coef = row_value(b, r);
        for (int v = 0; v * LANES < count; v++)
            sum[v] += row_load(a, v * LANES, count) * coef;
    }
    for (int v = 0; v * LANES < count; v++) {
        lanes value = row_load(w, v * LANES, count) + sum[v] * op->scale;
        squares += value * value;
    }
    return (double)lanes_sum(squares);
}

static void dora_task(void *context, int task, int thread)
{
    const struct op_dora *op = context;

    for (int32_t n = task * TASK_ROWS; n < smaller((task + 1) * TASK_ROWS, op->w.rows); n++) {
        double squares = 0;
        float inverse;
        for (int32_t col = 0; col < op->w.cols; col += WIDTH)
            squares += stretch_squares(op, n, col);
        inverse = (float)(1 / sqrt(squares));
        ((float *)op->inverse.at)[n] = inverse;
        ((float *)op->gain.at)[n] = row_value(row_of(&op->magnitude, 0, 0), n) * inverse;
    }
}

void CPU(dora)(struct queue *queue, const struct op_dora *op)
{
    pool_run(queue->pool, ceil_div(op->w.rows, TASK_ROWS), dora_task, (void *)op);
}

static void gain_task(void *context, int task, int thread)
{
    const struct op_gain *op = context;
    int32_t N = op->x.cols;
    struct row gain = row_of(&op->gain, 0, 0), bias = op->bias.at ? row_of(&op->bias, 0, 0) : gain;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->x.rows); t++) {
        struct row x = row_of(&op->x, t, 0), y = row_of(&op->y, t, 0), add = op->add.at ? row_of(&op->add, t, 0) : y;
        for (int32_t j = 0; j < N; j += LANES) {
            lanes value = row_load(x, j, N) * row_load(gain, j, N);
            if (op->bias.at)
                value += row_load(bias, j, N);
            row_store(y, j, N, op->add.at ? value + row_load(add, j, N) : value);
        }
    }
}

void CPU(gain)(struct queue *queue, const struct op_gain *op)
{
    pool_run(queue->pool, ceil_div(op->x.rows, TASK_ROWS), gain_task, (void *)op);
}

/* A block of columns, all rows. */
static void gain_grad_task(void *context, int task, int thread)
{
    const struct op_gain_grad *op = context;
    int32_t T = op->dy.rows, col = task * GRAD_COLS, count = smaller(GRAD_COLS, op->dy.cols - col);
    struct row inverse = row_of(&op->inverse, 0, col), dm = row_of(&op->dmagnitude, 0, col);

    for (int32_t first = 0; first < T; first += GRAD_ROWS) {
        lanes sum[GRAD_COLS / LANES] = {{0}};
        for (int32_t t = first; t < smaller(first + GRAD_ROWS, T); t++) {
            struct row dy = row_of(&op->dy, t, col), x = row_of(&op->x, t, col);
            for (int v = 0; v * LANES < count; v++)
                sum[v] += row_load(dy, v * LANES, count) * row_load(x, v * LANES, count);
        }
        for (int v = 0; v * LANES < count; v++)
            row_store(dm, v * LANES, count,
                      row_load(dm, v * LANES, count) + sum[v] * row_load(inverse, v * LANES, count));
    }
}

void CPU(gain_grad)(struct queue *queue, const struct op_gain_grad *op)
{
    pool_run(queue->pool, ceil_div(op->dy.cols, GRAD_COLS), gain_grad_task, (void *)op);
}
