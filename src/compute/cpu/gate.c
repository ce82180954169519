/* The gated unit and the rotation of queries and keys: element by element, in place or row by row. */
#include "compute/cpu/cpu_int.h"

enum { TASK_ROWS = 8 };

static const float gelu_scale = 0.7978845608f; /* √(2/π) */
static const float gelu_cubic = 0.044715f;

/* act(z) and its slope. silu: z·σ, σ(1 + z(1 - σ)). gelu: ½z(1 + τ), τ = tanh(√(2/π)(z + 0.044715 z³)). */
struct curve {
    lanes value, slope;
};

INLINE struct curve act_curve(enum act act, lanes z)
{
    if (act == ACT_SILU) {
        lanes sigmoid = lanes_sigmoid(z);
        return (struct curve){z * sigmoid, sigmoid * (1 + z * (1 - sigmoid))};
    }
    lanes t = lanes_tanh(gelu_scale * (z + gelu_cubic * z * z * z));
    return (struct curve){0.5f * z * (1 + t), 0.5f * (1 + t) + 0.5f * z * (1 - t * t) * gelu_scale * (1 + 3 * gelu_cubic * z * z)};
}

static void glu_task(void *context, int task, int thread)
{
    const struct op_glu *op = context;
    int32_t F = op->h.cols;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->h.rows); t++) {
        struct row gate = row_of(&op->gate_up, t, 0), up = row_of(&op->gate_up, t, F), h = row_of(&op->h, t, 0);
        for (int32_t j = 0; j < F; j += LANES)
            row_store(h, j, F, act_curve(op->act, row_load(gate, j, F)).value * row_load(up, j, F));
    }
}

void CPU(glu)(struct queue *queue, const struct op_glu *op)
{
    pool_run(queue->pool, ceil_div(op->h.rows, TASK_ROWS), glu_task, (void *)op);
}

static void glu_grad_row(const struct op_glu_grad *op, int32_t t)
{
    int32_t F = op->dh.cols;
    struct row gate = row_of(&op->gate_up, t, 0), up = row_of(&op->gate_up, t, F), dh = row_of(&op->dh, t, 0);

    for (int32_t j = 0; j < F; j += LANES) {
        lanes u = row_load(up, j, F), slope = row_load(dh, j, F);
        struct curve curve = act_curve(op->act, row_load(gate, j, F));

        if (op->h.at)
            row_store(row_of(&op->h, t, 0), j, F, curve.value * u);
        row_store(gate, j, F, slope * u * curve.slope);
        row_store(up, j, F, slope * curve.value);
    }
}

static void glu_grad_task(void *context, int task, int thread)
{
    const struct op_glu_grad *op = context;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->dh.rows); t++)
        glu_grad_row(op, t);
}

void CPU(glu_grad)(struct queue *queue, const struct op_glu_grad *op)
{
    pool_run(queue->pool, ceil_div(op->dh.rows, TASK_ROWS), glu_grad_task, (void *)op);
}

static void rope_row(const struct op_qk_rope *op, int32_t t)
{
    int32_t half = op->rot / 2;
    float *angles = (float *)op->cos_sin + (size_t)op->batch->pos[t] * (size_t)op->rot;
    struct row cosines = {angles, DTYPE_F32}, sines = {angles + half, DTYPE_F32};
    float sign = op->is_inverse ? -1 : 1;

    for (int32_t head = 0; head < op->heads + op->kv_heads; head++) {
        struct row first = row_of(&op->qkv, t, head * op->head_dim), second = row_of(&op->qkv, t, head * op->head_dim + half);
        for (int32_t j = 0; j < half; j += LANES) {
            lanes a = row_load(first, j, half), b = row_load(second, j, half);
            lanes c = row_load(cosines, j, half), s = row_load(sines, j, half) * sign;

            row_store(first, j, half, a * c - b * s);
            row_store(second, j, half, b * c + a * s);
        }
    }
}

static void rope_task(void *context, int task, int thread)
{
    const struct op_qk_rope *op = context;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->qkv.rows); t++)
        rope_row(op, t);
}

void CPU(qk_rope)(struct queue *queue, const struct op_qk_rope *op)
{
    pool_run(queue->pool, ceil_div(op->qkv.rows, TASK_ROWS), rope_task, (void *)op);
}
