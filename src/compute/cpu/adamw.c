/* The optimizer's two operations on flat arenas. */
#include "compute/cpu/cpu_int.h"

enum { SUMSQ_BLOCK = 65536, ADAMW_BLOCK = 16384 };

typedef double lanes_d __attribute__((vector_size(8 * LANES)));

static void sumsq_task(void *context, int task, int thread)
{
    const struct op_sumsq *op = context;
    uint64_t first = (uint64_t)task * SUMSQ_BLOCK, left = op->count - first;
    int32_t count = left < SUMSQ_BLOCK ? (int32_t)left : SUMSQ_BLOCK;
    struct row x = {(float *)op->x + first, DTYPE_F32};
    lanes_d sum = {0};
    double total = 0;

    for (int32_t j = 0; j < count; j += LANES) {
        lanes_d value = __builtin_convertvector(row_load(x, j, count), lanes_d);
        sum += value * value;
    }
    for (int i = 0; i < LANES; i++)
        total += sum[i];
    op->partial[task] = total;
}

void CPU(sumsq)(struct queue *queue, const struct op_sumsq *op)
{
    int blocks = (int)((op->count + SUMSQ_BLOCK - 1) / SUMSQ_BLOCK);

    pool_run(queue->pool, blocks, sumsq_task, (void *)op);
    *op->sum = 0;
    for (int i = 0; i < blocks; i++)
        *op->sum += op->partial[i];
}

/* What all elements of a step share. */
struct step {
    const struct op_adamw *op;
    float clip, keep, rate, root_correction;
};

INLINE lanes lanes_sqrt(lanes value)
{
    UNROLL for (int i = 0; i < LANES; i++)
        value[i] = sqrtf(value[i]);
    return value;
}

static void adamw_task(void *context, int task, int thread)
{
    const struct step *step = context;
    const struct op_adamw *op = step->op;
    uint64_t first = (uint64_t)task * ADAMW_BLOCK, left = op->count - first;
    int32_t count = left < ADAMW_BLOCK ? (int32_t)left : ADAMW_BLOCK;
    struct row master = {op->master + first, DTYPE_F32}, m = {op->m + first, DTYPE_F32}, v = {op->v + first, DTYPE_F32};
    struct row grad = {(float *)op->grad + first, DTYPE_F32};
    struct row copy = {op->copy ? (char *)op->copy + first * dtype_bytes(op->copy_type) : NULL, op->copy_type};

    for (int32_t j = 0; j < count; j += LANES) {
        lanes g = row_load(grad, j, count) * step->clip, p = row_load(master, j, count) * step->keep;
        lanes mean = row_load(m, j, count), square = row_load(v, j, count);

        mean = mean * op->beta1 + g * (1 - op->beta1);
        square = square * op->beta2 + g * g * (1 - op->beta2);
        p -= step->rate * (mean / (lanes_sqrt(square) / step->root_correction + op->eps));
        row_store(m, j, count, mean);
        row_store(v, j, count, square);
        row_store(master, j, count, p);
        if (op->copy)
            row_store(copy, j, count, p);
    }
}

void CPU(adamw)(struct queue *queue, const struct op_adamw *op)
{
    double correction1 = 1 - pow(op->beta1, (double)op->step), correction2 = 1 - pow(op->beta2, (double)op->step), clip = 1;
    struct step step = {.op = op, .keep = 1 - op->lr * op->decay, .root_correction = (float)sqrt(correction2)};

    if (!isfinite(*op->sumsq))
        return;
    if (op->max_norm > 0)
        clip = fmin(1, op->max_norm / (sqrt(*op->sumsq) + 1e-6));
    step.clip = (float)clip;
    step.rate = (float)(op->lr / correction1);
    pool_run(queue->pool, (int)((op->count + ADAMW_BLOCK - 1) / ADAMW_BLOCK), adamw_task, &step);
}
