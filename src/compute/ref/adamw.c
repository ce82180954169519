#include "compute/eight_bit.h"
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

/* The maps of moments in bytes, and one block's new moments before they are rounded. */
struct codes {
    float value[2][EIGHT_BIT_CODES], edge[2][EIGHT_BIT_CODES];
    double fresh[2][EIGHT_BIT_BLOCK];
};

/* Of m (0) or v (1). */
static double moment_get(const struct op_adamw *op, const struct codes *codes, int which, uint64_t i)
{
    const void *at = which ? op->v : op->m;
    const float *scale = which ? op->v_scale : op->m_scale;
    uint8_t place;

    if (op->moment_type != DTYPE_U8)
        return at_get(at, op->moment_type, i);
    place = (uint8_t)(((const uint8_t *)at)[i] + eight_bit_zero(which == 0));
    return (double)codes->value[which][place] * (double)scale[i / EIGHT_BIT_BLOCK];
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

static void keep_codes(const struct op_adamw *op, const struct codes *codes, int which, uint64_t first, uint64_t count)
{
    uint8_t *at = (uint8_t *)(which ? op->v : op->m) + first;
    float scale = 0;

    for (uint64_t k = 0; k < count; k++)
        scale = fmaxf(scale, fabsf((float)codes->fresh[which][k]));
    (which ? op->v_scale : op->m_scale)[first / EIGHT_BIT_BLOCK] = scale;
    for (uint64_t k = 0; k < count; k++) {
        float x = scale > 0 ? (float)codes->fresh[which][k] / scale : 0;
        int place = 0;

        while (place < EIGHT_BIT_CODES - 1 && x > codes->edge[which][place])
            place++;
        at[k] = (uint8_t)(place - eight_bit_zero(which == 0));
    }
}

static void update_block(const struct op_adamw *op, struct codes *codes, double clip, uint64_t first, uint64_t count)
{
    double correction1 = 1 - pow(op->beta1, (double)op->step), correction2 = 1 - pow(op->beta2, (double)op->step);

    for (uint64_t i = first; i < first + count; i++) {
        double grad = clip * at_get(op->grad, op->grad_type, i);
        double p = at_get(op->master, op->master_type, i) * (1 - (double)op->lr * op->decay);
        double m = (float)(op->beta1 * moment_get(op, codes, 0, i) + (1 - (double)op->beta1) * grad);
        double v = (float)(op->beta2 * moment_get(op, codes, 1, i) + (1 - (double)op->beta2) * grad * grad);

        p -= op->lr / correction1 * m / (sqrt(v) / sqrt(correction2) + op->eps);
        codes->fresh[0][i - first] = m;
        codes->fresh[1][i - first] = v;
        state_set(op, STOCHASTIC_WEIGHT, i, p);
        if (op->moment_type != DTYPE_U8) {
            state_set(op, STOCHASTIC_M, i, m);
            state_set(op, STOCHASTIC_V, i, v);
        }
        if (op->copy)
            at_set(op->copy, op->copy_type, i, (float)p);
    }
    for (int which = 0; op->moment_type == DTYPE_U8 && which < 2; which++)
        keep_codes(op, codes, which, first, count);
}

void ref_adamw(struct queue *queue, const struct op_adamw *op)
{
    struct codes codes;
    double clip = 1;

    if (!isfinite(*op->sumsq))
        return;
    if (op->max_norm > 0)
        clip = fmin(1, op->max_norm / (sqrt(*op->sumsq) + 1e-6));
    for (int which = 0; which < 2; which++) {
        eight_bit_map(which == 0, codes.value[which]);
        eight_bit_edges(codes.value[which], codes.edge[which]);
    }
    for (uint64_t first = 0; first < op->count; first += EIGHT_BIT_BLOCK)
        update_block(op, &codes, clip, first,
                     op->count - first < EIGHT_BIT_BLOCK ? op->count - first : EIGHT_BIT_BLOCK);
}
