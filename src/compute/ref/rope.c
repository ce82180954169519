/* Norms and rotation of queries and keys. Heads that share a norm's mean are a group: one
 * head, or all of q, all of k. */
#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

struct group {
    int32_t head, head_count;
    bool is_key;
};

static int32_t group_count(enum qk_norm qk_norm, int32_t heads, int32_t kv_heads)
{
    return qk_norm == QK_NORM_WHOLE ? 2 : heads + kv_heads;
}

static struct group group_at(enum qk_norm qk_norm, int32_t heads, int32_t kv_heads, int32_t index)
{
    if (qk_norm == QK_NORM_WHOLE)
        return (struct group){index * heads, index ? kv_heads : heads, index};
    return (struct group){index, 1, index >= heads};
}

static double rstd_of(const struct mat *m, int32_t t, int32_t col, int32_t cols, float eps)
{
    double sum = 0;

    for (int32_t j = 0; j < cols; j++)
        sum += get(m, t, col + j) * get(m, t, col + j);
    return 1 / sqrt(sum / cols + eps);
}

static double weight_at(const struct mat *w, enum norm_kind kind, int32_t j)
{
    return get(w, 0, j) + (kind == NORM_ONE_PLUS ? 1 : 0);
}

/* Element j of a group, normed where there is a norm. */
static double normed(const struct op_qk_rope *op, int32_t t, struct group group, double rstd, int32_t j)
{
    double value = get(&op->qkv, t, group.head * op->head_dim + j) * rstd;

    if (op->qk_norm == QK_NORM_NONE)
        return value;
    if (op->kind == NORM_LLAMA)
        value = rounded(value, op->qkv.type);
    return value * weight_at(group.is_key ? &op->k_norm : &op->q_norm, op->kind, j);
}

static void finish_group(const struct op_qk_rope *op, int32_t t, struct group group)
{
    int32_t half = op->cos_sin ? op->rot / 2 : 0, d = op->head_dim, col = group.head * d;
    const float *cosines = op->cos_sin ? op->cos_sin + (size_t)op->batch->pos[t] * (size_t)op->rot : NULL;
    double rstd = op->qk_norm ? rstd_of(&op->qkv, t, col, group.head_count * d, op->eps) : 1;

    for (int32_t first = 0; first < group.head_count * d; first += d) {
        for (int32_t i = 0; i < half; i++) {
            double a = normed(op, t, group, rstd, first + i), b = normed(op, t, group, rstd, first + half + i);

            set(&op->qkv, t, col + first + i, a * cosines[i] - b * cosines[half + i]);
            set(&op->qkv, t, col + first + half + i, b * cosines[i] + a * cosines[half + i]);
        }
        for (int32_t i = 2 * half; i < d; i++)
            set(&op->qkv, t, col + first + i, normed(op, t, group, rstd, first + i));
    }
}

void ref_qk_rope(struct queue *queue, const struct op_qk_rope *op)
{
    for (int32_t t = 0; t < op->qkv.rows; t++) {
        for (int32_t j = 0; op->raw.at && j < (op->heads + op->kv_heads) * op->head_dim; j++)
            set(&op->raw, t, j, get(&op->qkv, t, j));
        for (int32_t i = 0; i < group_count(op->qk_norm, op->heads, op->kv_heads); i++)
            finish_group(op, t, group_at(op->qk_norm, op->heads, op->kv_heads, i));
    }
}

/* By the negative angles. */
static void rotate_back(const struct op_qk_rope_grad *op, int32_t t)
{
    const float *cosines = op->cos_sin + (size_t)op->batch->pos[t] * (size_t)op->rot, *sines = cosines + op->rot / 2;

    for (int32_t head = 0; head < op->heads + op->kv_heads; head++)
        for (int32_t i = 0; i < op->rot / 2; i++) {
            int32_t first = head * op->head_dim + i, second = first + op->rot / 2;
            double a = get(&op->dqkv, t, first), b = get(&op->dqkv, t, second);

            set(&op->dqkv, t, first, a * cosines[i] + b * sines[i]);
            set(&op->dqkv, t, second, b * cosines[i] - a * sines[i]);
        }
}

/* With n = raw·rstd: draw = rstd·(g∘w - n·mean(g∘w∘n)), dw += g∘n. */
static void norm_back(const struct op_qk_rope_grad *op, int32_t t, struct group group)
{
    const struct mat *w = group.is_key ? &op->k_norm : &op->q_norm, *dw = group.is_key ? &op->dk_norm : &op->dq_norm;
    int32_t col = group.head * op->head_dim, cols = group.head_count * op->head_dim;
    double rstd = rstd_of(&op->raw, t, col, cols, op->eps), mean = 0;

    for (int32_t j = 0; j < cols; j++)
        mean += get(&op->dqkv, t, col + j) * weight_at(w, op->kind, j) * get(&op->raw, t, col + j) * rstd / cols;
    for (int32_t j = 0; j < cols; j++) {
        double g = get(&op->dqkv, t, col + j), n = get(&op->raw, t, col + j) * rstd;

        if (dw->at)
            add(dw, 0, j, g * n);
        set(&op->dqkv, t, col + j, rstd * (g * weight_at(w, op->kind, j) - n * mean));
    }
}

void ref_qk_rope_grad(struct queue *queue, const struct op_qk_rope_grad *op)
{
    for (int32_t t = 0; t < op->dqkv.rows; t++) {
        if (op->cos_sin)
            rotate_back(op, t);
        for (int32_t i = 0; op->qk_norm && i < group_count(op->qk_norm, op->heads, op->kv_heads); i++)
            norm_back(op, t, group_at(op->qk_norm, op->heads, op->kv_heads, i));
    }
}
