/* Cross-entropy of rows of logits, and its gradient in place or at their front in a shorter type. exp is lanes_exp of
 * x - max; its sum goes to double every 64 vectors, so that it holds 1e-6 for any vocabulary. */
#include "compute/cpu/cpu_int.h"

enum { BLOCK = 64 * LANES };

static float row_max(struct row row, int32_t V)
{
    lanes max = lanes_all(-INFINITY);
    int32_t whole = V / LANES * LANES;
    float largest;

    for (int32_t j = 0; j < whole; j += LANES)
        max = lanes_max(row_load(row, j, V), max);
    largest = lanes_largest(max);
    for (int32_t j = whole; j < V; j++) {
        float value = row_load(row, j, j + 1)[0];
        largest = value > largest ? value : largest;
    }
    return largest;
}

/* Σ exp(x - max). With is_kept the exps replace x. */
INLINE double row_exp_sum(struct row row, int32_t V, float max, bool is_kept)
{
    double total = 0;

    for (int32_t block = 0; block < V; block += BLOCK) {
        int32_t end = smaller(block + BLOCK, V), j = block;
        lanes sum = {0};
        for (; j + LANES <= end; j += LANES) {
            lanes value = lanes_exp(row_load(row, j, V) - max);
            sum += value;
            if (is_kept)
                row_store(row, j, V, value);
        }
        if (j < end) {
            lanes last = lanes_exp(row_load(row, j, end) - max);
            if (is_kept)
                row_store(row, j, end, last);
            for (int32_t i = j; i < end; i++)
                total += (double)last[i - j];
        }
        total += (double)lanes_sum(sum);
    }
    return total;
}

/* Whether `label` is the first of the largest. */
static bool is_first_max(struct row row, int32_t label, float max)
{
    if (row_load(row, label, label + 1)[0] != max)
        return false;
    for (int32_t j = 0; j < label; j += LANES) {
        lanes_i equal = row_load(row, j, label) == max;
        for (int32_t i = j; i < smaller(j + LANES, label); i++)
            if (equal[i - j])
                return false;
    }
    return true;
}

/* to = factor · exp(x - max)·(1 - (x / cap)²); of exps that were kept: factor · x. */
INLINE void row_grad(struct row row, struct row to, int32_t V, float max, float factor, float per_cap, bool is_kept)
{
    for (int32_t j = 0; j < V; j += LANES) {
        lanes value = row_load(row, j, V), capped = value * per_cap;
        row_store(to, j, V, is_kept ? value * factor : lanes_exp(value - max) * factor * (1 - capped * capped));
    }
}

static void loss_task(void *context, int i, int thread)
{
    const struct op_loss *op = context;
    struct row row = row_of(&op->logits, i, 0), grad = op->grad.at ? row_of(&op->grad, i, 0) : row;
    int32_t V = op->logits.cols, label = op->label[i];
    float max = row_max(row, V), at_label = row_load(row, label, label + 1)[0], factor;
    float per_cap = op->softcap > 0 ? 1 / op->softcap : 0;
    bool is_kept = op->coef && row.type == DTYPE_F32 && op->softcap <= 0;
    double total, nll;

    op->hit[i] = is_first_max(row, label, max);
    total = is_kept ? row_exp_sum(row, V, max, true) : row_exp_sum(row, V, max, false);
    nll = log(total) + (double)max - (double)at_label;
    op->nll[i] = (float)nll;
    if (!op->coef)
        return;
    factor = (float)((double)op->coef[i] / total);
    if (is_kept)
        row_grad(row, grad, V, max, factor, 0, true);
    else
        row_grad(row, grad, V, max, factor, per_cap, false);
    at_label *= per_cap;
    /* p - 1 without cancellation. */
    row_store(grad, label, label + 1, lanes_all((float)(op->coef[i] * expm1(-nll)) * (1 - at_label * at_label)));
}

void CPU(loss)(struct queue *queue, const struct op_loss *op)
{
    pool_run(queue->pool, op->logits.rows, loss_task, (void *)op);
}
