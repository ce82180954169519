#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

enum { SUMSQ_BLOCK = 65536 };

void ref_sumsq(struct queue *queue, const struct op_sumsq *op)
{
    *op->sum = 0;
    for (uint64_t block = 0; block * SUMSQ_BLOCK < op->count; block++) {
        op->partial[block] = 0;
        for (uint64_t i = block * SUMSQ_BLOCK; i < op->count && i < (block + 1) * SUMSQ_BLOCK; i++)
            op->partial[block] += (double)op->x[i] * op->x[i];
        *op->sum += op->partial[block];
    }
}

void ref_adamw(struct queue *queue, const struct op_adamw *op)
{
    double clip = 1, correction1 = 1 - pow(op->beta1, (double)op->step), correction2 = 1 - pow(op->beta2, (double)op->step);

    if (!isfinite(*op->sumsq))
        return;
    if (op->max_norm > 0)
        clip = fmin(1, op->max_norm / (sqrt(*op->sumsq) + 1e-6));
    for (uint64_t i = 0; i < op->count; i++) {
        double grad = clip * op->grad[i], p = op->master[i] * (1 - (double)op->lr * op->decay);

        op->m[i] = (float)(op->beta1 * (double)op->m[i] + (1 - (double)op->beta1) * grad);
        op->v[i] = (float)(op->beta2 * (double)op->v[i] + (1 - (double)op->beta2) * grad * grad);
        p -= op->lr / correction1 * op->m[i] / (sqrt(op->v[i]) / sqrt(correction2) + op->eps);
        op->master[i] = (float)p;
        if (op->copy)
            at_set(op->copy, op->copy_type, i, op->master[i]);
    }
}
