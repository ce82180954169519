#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

void ref_loss(struct queue *queue, const struct op_loss *op)
{
    const struct mat *logits = &op->logits, *grad = op->grad.at ? &op->grad : logits;

    for (int32_t i = 0; i < logits->rows; i++) {
        int32_t best = 0, label = op->label[i];
        double sum = 0, lse;

        for (int32_t v = 1; v < logits->cols; v++)
            if (get(logits, i, v) > get(logits, i, best))
                best = v;
        for (int32_t v = 0; v < logits->cols; v++)
            sum += exp(get(logits, i, v) - get(logits, i, best));
        lse = get(logits, i, best) + log(sum);
        at_set(op->nll, stat_type(logits->type), (size_t)i, lse - get(logits, i, label));
        op->hit[i] = best == label;
        for (int32_t v = 0; op->coef && v < logits->cols; v++) {
            double logit = get(logits, i, v), capped = op->softcap > 0 ? logit / op->softcap : 0;
            set(grad, i, v, op->coef[i] * (exp(logit - lse) - (v == label)) * (1 - capped * capped));
        }
    }
}
