/* Cross-entropy of rows of logits, and its gradient in place or at their front in a shorter type. exp is lanes_exp of
 * x - max; its sum goes to double every 64 vectors, so that it holds 1e-6 for any vocabulary. A thread keeps the exps
 * of its row for the gradient. */
#include "compute/cpu/cpu_int.h"

enum { BLOCK = 64 * LANES, MAX_CHAINS = 4 };

INLINE float row_max(struct row row, int32_t V)
{
    lanes max[MAX_CHAINS];
    int32_t whole = V / LANES * LANES, j = 0;
    float largest;

    for (int i = 0; i < MAX_CHAINS; i++)
        max[i] = lanes_all(-INFINITY);
    for (; j + MAX_CHAINS * LANES <= whole; j += MAX_CHAINS * LANES)
        UNROLL for (int i = 0; i < MAX_CHAINS; i++)
            max[i] = lanes_max(row_load(row, j + i * LANES, V), max[i]);
    for (; j < whole; j += LANES)
        max[0] = lanes_max(row_load(row, j, V), max[0]);
    for (int i = 1; i < MAX_CHAINS; i++)
        max[0] = lanes_max(max[i], max[0]);
    largest = lanes_largest(max[0]);
    for (; j < V; j++) {
        float value = row_load(row, j, j + 1)[0];
        largest = value > largest ? value : largest;
    }
    return largest;
}

/* Σ exp(x - max); the exps stay in `exps` where it is not NULL. Asks meanwhile for the row that lies `to_next` bytes
 * behind, which comes from memory. */
INLINE double row_exp_sum(struct row row, int32_t V, float max, float *exps, size_t to_next)
{
    size_t size = row.type == DTYPE_F32 ? 4 : 2;
    uintptr_t next = (uintptr_t)row.at + to_next;
    struct row to = {exps, DTYPE_F32};
    double total = 0;

    for (int32_t block = 0; block < V; block += BLOCK) {
        int32_t end = smaller(block + BLOCK, V), j = block;
        lanes sum = {0};
        for (; j + LANES <= end; j += LANES) {
            lanes value = lanes_exp(row_load(row, j, V) - max);
            sum += value;
            __builtin_prefetch((const void *)(next + (size_t)j * size), 0, 2);
            if (exps)
                row_store(to, j, V, value);
        }
        if (j < end) {
            lanes last = lanes_exp(row_load(row, j, end) - max);
            if (exps)
                row_store(to, j, end, last);
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

/* to = factor · exp; with a cap times 1 - (x / cap)². */
static void row_grad(struct row row, struct row to, const float *exps, int32_t V, float factor, float per_cap)
{
    for (int32_t j = 0; j < V; j += LANES) {
        lanes value = row_load((struct row){(void *)exps, DTYPE_F32}, j, V) * factor;
        if (per_cap > 0) {
            lanes capped = row_load(row, j, V) * per_cap;
            value *= 1 - capped * capped;
        }
        row_store(to, j, V, value);
    }
}

/* Of a type that is known here. */
INLINE void loss_row(const struct op_loss *op, int32_t i, enum dtype type, float *exps)
{
    struct row row = {row_of(&op->logits, i, 0).at, type}, grad = op->grad.at ? row_of(&op->grad, i, 0) : row;
    int32_t V = op->logits.cols, label = op->label[i];
    float max = row_max(row, V), at_label = row_load(row, label, label + 1)[0];
    float per_cap = op->softcap > 0 ? 1 / op->softcap : 0;
    double total = row_exp_sum(row, V, max, exps, (size_t)op->logits.ld * dtype_bytes(row.type));
    double nll = log(total) + (double)max - (double)at_label;

    op->hit[i] = is_first_max(row, label, max);
    op->nll[i] = (float)nll;
    if (!op->coef)
        return;
    row_grad(row, grad, exps, V, (float)((double)op->coef[i] / total), per_cap);
    at_label *= per_cap;
    /* p - 1 without cancellation. */
    row_store(grad, label, label + 1, lanes_all((float)(op->coef[i] * expm1(-nll)) * (1 - at_label * at_label)));
}

struct loss {
    const struct op_loss *op;
    char *slabs;
    size_t slab_bytes;
};

static void loss_task(void *context, int i, int thread)
{
    const struct loss *loss = context;
    float *exps = loss->op->coef ? (float *)(loss->slabs + (size_t)thread * loss->slab_bytes) : NULL;

    if (loss->op->logits.type == DTYPE_F32)
        loss_row(loss->op, i, DTYPE_F32, exps);
    else
        loss_row(loss->op, i, DTYPE_BF16, exps);
}

static size_t slab_bytes(const struct op_loss *op)
{
    return op->coef ? whole_lines((size_t)op->logits.cols * sizeof(float)) : 0;
}

void CPU(loss)(struct queue *queue, const struct op_loss *op)
{
    struct loss loss = {op, queue->scratch, slab_bytes(op)};

    ASSERT(queue->scratch_bytes >= loss.slab_bytes * (size_t)pool_thread_count(queue->pool));
    pool_run(queue->pool, op->logits.rows, loss_task, &loss);
}

size_t CPU(loss_scratch)(const struct op_loss *op, int thread_count)
{
    return slab_bytes(op) * (size_t)thread_count;
}
