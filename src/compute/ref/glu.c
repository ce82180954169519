#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

static const double gelu_scale = 0.7978845608028654; /* √(2/π) */
static const double gelu_cubic = 0.044715;

static double act_value(enum act act, double z)
{
    if (act == ACT_SILU)
        return z / (1 + exp(-z));
    return 0.5 * z * (1 + tanh(gelu_scale * (z + gelu_cubic * z * z * z)));
}

static double act_slope(enum act act, double z)
{
    if (act == ACT_SILU) {
        double sigmoid = 1 / (1 + exp(-z));
        return sigmoid * (1 + z * (1 - sigmoid));
    }
    double t = tanh(gelu_scale * (z + gelu_cubic * z * z * z));
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * gelu_scale * (1 + 3 * gelu_cubic * z * z);
}

void ref_glu(struct queue *queue, const struct op_glu *op)
{
    int32_t F = op->h.cols;

    for (int32_t t = 0; t < op->h.rows; t++)
        for (int32_t j = 0; j < F; j++)
            set(&op->h, t, j, act_value(op->act, get(&op->gate_up, t, j)) * get(&op->gate_up, t, F + j));
}

void ref_glu_grad(struct queue *queue, const struct op_glu_grad *op)
{
    int32_t F = op->dh.cols;

    for (int32_t t = 0; t < op->dh.rows; t++)
        for (int32_t j = 0; j < F; j++) {
            double gate = get(&op->gate_up, t, j), up = get(&op->gate_up, t, F + j), dh = get(&op->dh, t, j);

            if (op->h.at)
                set(&op->h, t, j, act_value(op->act, gate) * up);
            set(&op->gate_up, t, j, dh * up * act_slope(op->act, gate));
            set(&op->gate_up, t, F + j, dh * act_value(op->act, gate));
        }
}
