#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

void ref_dora(struct queue *queue, const struct op_dora *op)
{
    for (int32_t n = 0; n < op->w.rows; n++) {
        double squares = 0, inverse;
        for (int32_t k = 0; k < op->w.cols; k++) {
            double sum = 0, value;
            for (int32_t r = 0; r < op->a.rows; r++)
                sum += get(&op->b, n, r) * get(&op->a, r, k);
            value = get(&op->w, n, k) + (double)op->scale * sum;
            squares += value * value;
        }
        inverse = 1 / sqrt(squares);
        set(&op->inverse, 0, n, inverse);
        set(&op->gain, 0, n, get(&op->magnitude, 0, n) * inverse);
    }
}

void ref_gain(struct queue *queue, const struct op_gain *op)
{
    for (int32_t t = 0; t < op->x.rows; t++)
        for (int32_t n = 0; n < op->x.cols; n++) {
            double value = get(&op->x, t, n) * get(&op->gain, 0, n);
            value += op->bias.at ? get(&op->bias, 0, n) : 0;
            set(&op->y, t, n, value + (op->add.at ? get(&op->add, t, n) : 0));
        }
}

void ref_gain_grad(struct queue *queue, const struct op_gain_grad *op)
{
    for (int32_t n = 0; n < op->dy.cols; n++) {
        double sum = 0;
        for (int32_t t = 0; t < op->dy.rows; t++)
            sum += get(&op->dy, t, n) * get(&op->x, t, n);
        add(&op->dmagnitude, 0, n, sum * get(&op->inverse, 0, n));
    }
}
