#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

static const double gelu_scale = 0.7978845608028654; /* √(2/π) */
static const double gelu_cubic = 0.044715;

static const double oss_slope = 1.702;

/* h and its slopes by gate and up. */
struct gated {
    double h, by_gate, by_up;
};

/* h = act(gate)·up */
static struct gated gated_by(double value, double slope, double up)
{
    return (struct gated){value * up, slope * up, value};
}

static struct gated gated_silu(double gate, double up)
{
    double sigmoid = 1 / (1 + exp(-gate));

    return gated_by(gate * sigmoid, sigmoid * (1 + gate * (1 - sigmoid)), up);
}

static struct gated gated_gelu(double gate, double up)
{
    double t = tanh(gelu_scale * (gate + gelu_cubic * gate * gate * gate));
    double slope = 0.5 * (1 + t) + 0.5 * gate * (1 - t * t) * gelu_scale * (1 + 3 * gelu_cubic * gate * gate);

    return gated_by(0.5 * gate * (1 + t), slope, up);
}

static struct gated gated_oss(double gate, double up, double limit)
{
    double z = fmin(gate, limit), sigmoid = 1 / (1 + exp(-oss_slope * z));
    struct gated gated =
        gated_by(z * sigmoid, sigmoid * (1 + oss_slope * z * (1 - sigmoid)), fmax(-limit, fmin(up, limit)) + 1);

    gated.by_gate *= gate <= limit;
    gated.by_up *= fabs(up) <= limit;
    return gated;
}

static struct gated gated_of(enum act act, double limit, double gate, double up)
{
    switch (act) {
    case ACT_GELU_TANH:
        return gated_gelu(gate, up);
    case ACT_OSS:
        return gated_oss(gate, up, limit);
    default:
        return gated_silu(gate, up);
    }
}

void ref_glu(struct queue *queue, const struct op_glu *op)
{
    int32_t F = op->h.cols;

    for (int32_t t = 0; t < op->h.rows; t++)
        for (int32_t j = 0; j < F; j++)
            set(&op->h, t, j, gated_of(op->act, op->act_limit, get(&op->gate_up, t, j), get(&op->gate_up, t, F + j)).h);
}

void ref_glu_grad(struct queue *queue, const struct op_glu_grad *op)
{
    int32_t F = op->dh.cols;

    for (int32_t t = 0; t < op->dh.rows; t++)
        for (int32_t j = 0; j < F; j++) {
            struct gated gated = gated_of(op->act, op->act_limit, get(&op->gate_up, t, j), get(&op->gate_up, t, F + j));
            double dh = get(&op->dh, t, j);

            if (op->h.at)
                set(&op->h, t, j, gated.h);
            set(&op->gate_up, t, j, dh * gated.by_gate);
            set(&op->gate_up, t, F + j, dh * gated.by_up);
        }
}
