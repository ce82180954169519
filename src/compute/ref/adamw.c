#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"
#include "compute/stochastic.h"

#include <math.h>

enum { SUMSQ_BLOCK = 65536 };

void ref_sumsq(struct queue *queue, const struct op_sumsq *op)
{
    double sum = op->is_added ? *op->sum : 0;

    for (uint64_t block = 0; block * SUMSQ_BLOCK < op->count; block++) {
        op->partial[block] = 0;
        for (uint64_t i = block * SUMSQ_BLOCK; i < op->count && i < (block + 1) * SUMSQ_BLOCK; i++)
            op->partial[block] += at_get(op->x, op->type, i) * at_get(op->x, op->type, i);
        sum += op->partial[block];
    }
    *op->sum = sum;
}

/* What is F32 is rounded to nearest, what is BF16 stochastically. */
static void state_set(const struct op_adamw *op, enum stochastic_kind kind, uint64_t i, double value)
{
    void *const at[] = {op->master, op->m, op->v};
    enum dtype type = kind == STOCHASTIC_WEIGHT ? op->master_type : op->moment_type;

    if (type == DTYPE_BF16)
        ((uint16_t *)at[kind])[i] =
            bf16_from_f32_stochastic((float)value, stochastic_noise(op->seed, op->step, kind, op->first + i));
    else
        ((float *)at[kind])[i] = (float)value;
}

void ref_adamw(struct queue *queue, const struct op_adamw *op)
{
    double clip = 1, correction1 = 1 - pow(op->beta1, (double)op->step), correction2 = 1 - pow(op->beta2, (double)op->step);

    if (!isfinite(*op->sumsq))
        return;
    if (op->max_norm > 0)
        clip = fmin(1, op->max_norm / (sqrt(*op->sumsq) + 1e-6));
    for (uint64_t i = 0; i < op->count; i++) {
        double grad = clip * at_get(op->grad, op->grad_type, i);
        double p = at_get(op->master, op->master_type, i) * (1 - (double)op->lr * op->decay);
        double m = (float)(op->beta1 * at_get(op->m, op->moment_type, i) + (1 - (double)op->beta1) * grad);
        double v = (float)(op->beta2 * at_get(op->v, op->moment_type, i) + (1 - (double)op->beta2) * grad * grad);

        p -= op->lr / correction1 * m / (sqrt(v) / sqrt(correction2) + op->eps);
        state_set(op, STOCHASTIC_M, i, m);
        state_set(op, STOCHASTIC_V, i, v);
        state_set(op, STOCHASTIC_WEIGHT, i, p);
        if (op->copy)
            at_set(op->copy, op->copy_type, i, (float)p);
    }
}
