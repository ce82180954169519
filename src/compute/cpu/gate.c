/* The gated unit and its gradient, element by element. */
#include "compute/cpu/cpu_int.h"

enum { TASK_ROWS = 8 };

static const float gelu_scale = 0.7978845608f; /* √(2/π) */
static const float gelu_cubic = 0.044715f;

static const float oss_slope = 1.702f;

/* h = act(z)·u and its slopes: by the gate and by up. silu: z·σ, σ(1 + z(1 - σ)). gelu: ½z(1 + τ),
 * τ = tanh(√(2/π)(z + 0.044715 z³)). */
struct gated {
    lanes h, by_gate, by_up;
};

INLINE struct gated gated_silu(lanes z, lanes u)
{
    lanes sigmoid = lanes_sigmoid(z), value = z * sigmoid;

    return (struct gated){value * u, sigmoid * (1 + z * (1 - sigmoid)) * u, value};
}

INLINE struct gated gated_gelu(lanes z, lanes u)
{
    lanes t = lanes_tanh(gelu_scale * (z + gelu_cubic * z * z * z)), value = 0.5f * z * (1 + t);
    lanes slope = 0.5f * (1 + t) + 0.5f * z * (1 - t * t) * gelu_scale * (1 + 3 * gelu_cubic * z * z);

    return (struct gated){value * u, slope * u, value};
}

INLINE struct gated gated_oss(lanes gate, lanes up, float limit)
{
    lanes_i is_cut = gate > limit, is_up_cut = (up > limit) | (up < -limit);
    lanes z = lanes_select(is_cut, lanes_all(limit), gate), sigmoid = lanes_sigmoid(oss_slope * z), value = z * sigmoid;
    lanes u = lanes_select(up > limit, lanes_all(limit), lanes_select(up < -limit, lanes_all(-limit), up)) + 1;
    lanes by_gate = sigmoid * (1 + oss_slope * z * (1 - sigmoid)) * u;

    return (struct gated){value * u, lanes_select(is_cut, (lanes){0}, by_gate),
                          lanes_select(is_up_cut, (lanes){0}, value)};
}

INLINE struct gated gated_of(enum act act, float limit, lanes gate, lanes up)
{
    return act == ACT_SILU ? gated_silu(gate, up) : act == ACT_OSS ? gated_oss(gate, up, limit) : gated_gelu(gate, up);
}

static void glu_task(void *context, int task, int thread)
{
    const struct op_glu *op = context;
    int32_t F = op->h.cols;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->h.rows); t++) {
        struct row gate = row_of(&op->gate_up, t, 0), up = row_of(&op->gate_up, t, F), h = row_of(&op->h, t, 0);
        for (int32_t j = 0; j < F; j += LANES)
            row_store(h, j, F, gated_of(op->act, op->act_limit, row_load(gate, j, F), row_load(up, j, F)).h);
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
        struct gated gated = gated_of(op->act, op->act_limit, row_load(gate, j, F), row_load(up, j, F));
        lanes slope = row_load(dh, j, F);

        if (op->h.at)
            row_store(row_of(&op->h, t, 0), j, F, gated.h);
        row_store(gate, j, F, slope * gated.by_gate);
        row_store(up, j, F, slope * gated.by_up);
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
