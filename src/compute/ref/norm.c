#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

static double weight_at(const struct mat *w, enum norm_kind kind, int32_t j)
{
    return get(w, 0, j) + (kind == NORM_ONE_PLUS ? 1 : 0);
}

void ref_norm(struct queue *queue, const struct op_norm *op)
{
    int32_t T = op->a.rows, D = op->a.cols;
    const struct mat *r = op->b.at ? &op->r : &op->a;

    for (int32_t t = 0; t < T; t++) {
        double sum = 0, rstd;

        for (int32_t j = 0; j < D; j++) {
            if (op->b.at)
                set(r, t, j, get(&op->a, t, j) + get(&op->b, t, j));
            sum += get(r, t, j) * get(r, t, j);
        }
        rstd = 1 / sqrt(sum / D + op->eps);
        if (op->rstd)
            at_set(op->rstd, stat_type(r->type), (size_t)t, rstd);
        for (int32_t j = 0; j < D; j++) {
            double normed = get(r, t, j) * rstd;
            if (op->kind == NORM_LLAMA)
                normed = rounded(normed, r->type);
            set(&op->y, t, j, normed * weight_at(&op->w, op->kind, j) + (op->add.at ? get(&op->add, t, j) : 0));
        }
    }
}

/* dw is summed row by row in double; the partial sums of 256 rows are a matter of the f32 backends. */
void ref_norm_grad(struct queue *queue, const struct op_norm_grad *op)
{
    int32_t T = op->dy.rows, D = op->dy.cols;

    for (int32_t j = 0; op->dw.at && j < D; j++) {
        double sum = 0;
        for (int32_t t = 0; t < T; t++)
            sum += get(&op->dy, t, j) * get(&op->r, t, j) * at_get(op->rstd, stat_type(op->r.type), (size_t)t);
        add(&op->dw, 0, j, sum);
    }
    for (int32_t t = 0; t < T; t++) {
        double rstd = at_get(op->rstd, stat_type(op->r.type), (size_t)t), mean = 0;

        for (int32_t j = 0; j < D; j++)
            mean += get(&op->dy, t, j) * weight_at(&op->w, op->kind, j) * get(&op->r, t, j) / D;
        for (int32_t j = 0; j < D; j++) {
            double slope = get(&op->dy, t, j) * weight_at(&op->w, op->kind, j);
            double change = rstd * slope - get(&op->r, t, j) * rstd * rstd * rstd * mean;
            set(&op->dr, t, j, (op->is_fresh ? 0 : get(&op->dr, t, j)) + change);
        }
    }
}
