/* Norms and rotation of queries and keys, and their gradient. A row's heads go through f32 lanes once: scaled by the
 * norm, rotated, rounded. Heads that share a norm's mean are a group: each head by itself, or all of q and all of k;
 * without a norm all are one.
 *
 * The gradient of a group is rotated back into f32 in the thread's slab before it is used:
 *
 *   draw = rstd·(g∘w) - raw·rstd³·mean(g∘w∘raw)    dw = Σ g∘raw·rstd
 *
 * dw is summed by tasks of 32 rows and then task by task. Held to 1e-6 (rotation) and 4e-6·√d
 * (norm) of f32 values of 1. */
#include "compute/cpu/cpu_int.h"
#include "compute/cpu/norm.h"

enum { TASK_ROWS = 8, GRAD_ROWS = 32, DW_COLS = 4 * LANES };

/* Elements of one head, or what is left of it from some element on; its norm's weights beside them. */
struct head {
    struct row x, w;
    float rstd;
    enum norm_kind kind;
    bool is_normed;
};

INLINE struct head head_from(struct head head, int32_t col)
{
    head.x = row_from(head.x, col);
    if (head.is_normed)
        head.w = row_from(head.w, col);
    return head;
}

INLINE lanes head_load(struct head head, int32_t j, int32_t end)
{
    lanes value = row_load(head.x, j, end);

    return head.is_normed ? norm_weighted(value * head.rstd, head.x.type, head.w, head.kind, j, end) : value;
}

/* angles: half cosines, then as many sines. */
INLINE void head_finish_as(struct head head, bool is_normed, int32_t d, int32_t half, const float *angles)
{
    struct head second = head_from(head, half);
    struct row cosines = {(float *)angles, DTYPE_F32}, sines = row_from(cosines, half);

    head.is_normed = second.is_normed = is_normed;
    for (int32_t j = 0; j < half; j += LANES) {
        lanes a = head_load(head, j, half), b = head_load(second, j, half);
        lanes c = row_load(cosines, j, half), s = row_load(sines, j, half);

        row_store(head.x, j, half, a * c - b * s);
        row_store(second.x, j, half, b * c + a * s);
    }
    for (int32_t j = 2 * half; is_normed && j < d; j += LANES)
        row_store(head.x, j, d, head_load(head, j, d));
}

static void head_finish(struct head head, int32_t d, int32_t half, const float *angles)
{
    if (head.is_normed)
        head_finish_as(head, true, d, half, angles);
    else
        head_finish_as(head, false, d, half, angles);
}

struct group {
    int32_t head, head_count;
    bool is_key;
};

INLINE int32_t group_count(enum qk_norm qk_norm, int32_t heads, int32_t kv_heads)
{
    return qk_norm == QK_NORM_HEAD ? heads + kv_heads : qk_norm == QK_NORM_WHOLE ? 2 : 1;
}

INLINE struct group group_at(enum qk_norm qk_norm, int32_t heads, int32_t kv_heads, int32_t index)
{
    if (qk_norm == QK_NORM_HEAD)
        return (struct group){index, 1, index >= heads};
    if (qk_norm == QK_NORM_WHOLE)
        return (struct group){index ? heads : 0, index ? kv_heads : heads, index};
    return (struct group){0, heads + kv_heads, false};
}

static const float *angles_of(const struct batch *batch, const float *cos_sin, int32_t rot, int32_t t)
{
    return cos_sin + (size_t)batch->pos[t] * (size_t)rot;
}

static void finish_group(const struct op_qk_rope *op, int32_t t, struct group group)
{
    int32_t d = op->head_dim, cols = group.head_count * d, half = op->cos_sin ? op->rot / 2 : 0;
    struct head head = {.x = row_of(&op->qkv, t, group.head * d), .kind = op->kind, .is_normed = op->qk_norm};

    if (head.is_normed) {
        head.w = row_of(group.is_key ? &op->k_norm : &op->q_norm, 0, 0);
        head.rstd = norm_rstd(row_square_sum(head.x, cols), cols, op->eps);
    }
    for (int32_t i = 0; i < group.head_count; i++)
        head_finish(head_from(head, i * d), d, half, half ? angles_of(op->batch, op->cos_sin, op->rot, t) : NULL);
}

static void rope_task(void *context, int task, int thread)
{
    const struct op_qk_rope *op = context;
    size_t raw_bytes = (size_t)(op->heads + op->kv_heads) * (size_t)op->head_dim * (op->qkv.type == DTYPE_BF16 ? 2 : 4);

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->qkv.rows); t++) {
        if (op->raw.at)
            memcpy(row_of(&op->raw, t, 0).at, row_of(&op->qkv, t, 0).at, raw_bytes);
        for (int32_t i = 0; i < group_count(op->qk_norm, op->heads, op->kv_heads); i++)
            finish_group(op, t, group_at(op->qk_norm, op->heads, op->kv_heads, i));
    }
}

void CPU(qk_rope)(struct queue *queue, const struct op_qk_rope *op)
{
    if (op->qk_norm || op->cos_sin || op->raw.at)
        pool_run(queue->pool, ceil_div(op->qkv.rows, TASK_ROWS), rope_task, (void *)op);
}

struct rope_grad {
    const struct op_qk_rope_grad *op;
    int32_t q_cols, k_cols;         /* of the norms' weights */
    size_t partial_bytes, slab_bytes;
    float *partials;                /* [tasks, q_cols + k_cols], where a norm trains */
    char *slabs;                    /* of each thread: a group's g, rotated back */
};

static struct rope_grad grad_cut(const struct op_qk_rope_grad *op)
{
    bool is_whole = op->qk_norm == QK_NORM_WHOLE;
    struct rope_grad grad = {.op = op, .q_cols = is_whole ? op->heads * op->head_dim : op->head_dim,
                             .k_cols = is_whole ? op->kv_heads * op->head_dim : op->head_dim};

    if (op->qk_norm == QK_NORM_NONE)
        return grad;
    if (op->dq_norm.at || op->dk_norm.at)
        grad.partial_bytes = whole_lines((size_t)ceil_div(op->dqkv.rows, GRAD_ROWS) *
                                         (size_t)(grad.q_cols + grad.k_cols) * sizeof(float));
    grad.slab_bytes = whole_lines((size_t)grad.q_cols * sizeof(float));
    return grad;
}

/* By the negative angles: the gradient of one head, from its place to another or to the same. */
static void head_rotate_back(struct row from, struct row to, int32_t d, int32_t half, const float *angles)
{
    struct row cosines = {(float *)angles, DTYPE_F32}, sines = row_from(cosines, half);
    struct row from_second = row_from(from, half), to_second = row_from(to, half);

    for (int32_t j = 0; j < half; j += LANES) {
        lanes a = row_load(from, j, half), b = row_load(from_second, j, half);
        lanes c = row_load(cosines, j, half), s = row_load(sines, j, half);

        row_store(to, j, half, a * c + b * s);
        row_store(to_second, j, half, b * c - a * s);
    }
    for (int32_t j = 2 * half; to.at != from.at && j < d; j += LANES)
        row_store(to, j, d, row_load(from, j, d));
}

static void group_rotate_back(const struct op_qk_rope_grad *op, int32_t t, struct group group, struct row to)
{
    int32_t d = op->head_dim, half = op->cos_sin ? op->rot / 2 : 0;
    const float *angles = half ? angles_of(op->batch, op->cos_sin, op->rot, t) : NULL;

    for (int32_t i = 0; i < group.head_count; i++)
        head_rotate_back(row_of(&op->dqkv, t, (group.head + i) * d), row_from(to, i * d), d, half, angles);
}

/* dw: where this task sums, NULL: frozen. */
static void group_norm_back(const struct op_qk_rope_grad *op, int32_t t, struct group group, struct row g, float *dw)
{
    int32_t cols = group.head_count * op->head_dim, col = group.head * op->head_dim;
    struct row raw = row_of(&op->raw, t, col), to = row_of(&op->dqkv, t, col);
    struct row w = row_of(group.is_key ? &op->k_norm : &op->q_norm, 0, 0), sums = {dw, DTYPE_F32};
    float rstd = norm_rstd(row_square_sum(raw, cols), cols, op->eps), factor;
    lanes sum = {0};

    for (int32_t j = 0; j < cols; j += LANES)
        sum += row_load(g, j, cols) * weight_load(w, op->kind, j, cols) * row_load(raw, j, cols);
    factor = lanes_sum(sum) / (float)cols * rstd * rstd * rstd;
    for (int32_t j = 0; j < cols; j += LANES) {
        lanes slope = row_load(g, j, cols), x = row_load(raw, j, cols);

        row_store(to, j, cols, slope * weight_load(w, op->kind, j, cols) * rstd - x * factor);
        if (dw)
            row_store(sums, j, cols, row_load(sums, j, cols) + slope * (x * rstd));
    }
}

static void norm_grad_task(void *context, int task, int thread)
{
    const struct rope_grad *grad = context;
    const struct op_qk_rope_grad *op = grad->op;
    struct row g = {grad->slabs + (size_t)thread * grad->slab_bytes, DTYPE_F32};
    size_t cols = (size_t)(grad->q_cols + grad->k_cols);
    float *dw = grad->partial_bytes ? grad->partials + (size_t)task * cols : NULL;

    if (dw)
        memset(dw, 0, cols * sizeof *dw);
    for (int32_t t = task * GRAD_ROWS; t < smaller((task + 1) * GRAD_ROWS, op->dqkv.rows); t++)
        for (int32_t i = 0; i < group_count(op->qk_norm, op->heads, op->kv_heads); i++) {
            struct group group = group_at(op->qk_norm, op->heads, op->kv_heads, i);

            group_rotate_back(op, t, group, g);
            group_norm_back(op, t, group, g, dw && group.is_key ? dw + grad->q_cols : dw);
        }
}

/* A block of columns of q's or k's dw, all tasks in order. */
static void sum_block(const struct rope_grad *grad, const struct mat *dw, int32_t col, const float *partials)
{
    int32_t tasks = ceil_div(grad->op->dqkv.rows, GRAD_ROWS), count = smaller(DW_COLS, dw->cols - col);
    struct row to = row_of(dw, 0, col);

    for (int32_t task = 0; task < tasks; task++, partials += grad->q_cols + grad->k_cols) {
        struct row from = {(float *)partials + col, DTYPE_F32};
        for (int32_t j = 0; j < count; j += LANES)
            row_store(to, j, count, row_load(to, j, count) + row_load(from, j, count));
    }
}

static void sum_task(void *context, int task, int thread)
{
    const struct rope_grad *grad = context;
    int32_t q_blocks = ceil_div(grad->q_cols, DW_COLS);

    if (task >= q_blocks && grad->op->dk_norm.at)
        sum_block(grad, &grad->op->dk_norm, (task - q_blocks) * DW_COLS, grad->partials + grad->q_cols);
    if (task < q_blocks && grad->op->dq_norm.at)
        sum_block(grad, &grad->op->dq_norm, task * DW_COLS, grad->partials);
}

/* Without a norm: in place, nothing behind the rotated dims is touched. */
static void turn_task(void *context, int task, int thread)
{
    const struct op_qk_rope_grad *op = context;

    for (int32_t t = task * TASK_ROWS; t < smaller((task + 1) * TASK_ROWS, op->dqkv.rows); t++)
        group_rotate_back(op, t, group_at(QK_NORM_NONE, op->heads, op->kv_heads, 0), row_of(&op->dqkv, t, 0));
}

void CPU(qk_rope_grad)(struct queue *queue, const struct op_qk_rope_grad *op)
{
    struct rope_grad grad = grad_cut(op);

    if (op->qk_norm == QK_NORM_NONE) {
        if (op->cos_sin)
            pool_run(queue->pool, ceil_div(op->dqkv.rows, TASK_ROWS), turn_task, (void *)op);
        return;
    }
    ASSERT(queue->scratch_bytes >= grad.partial_bytes + grad.slab_bytes * (size_t)pool_thread_count(queue->pool));
    grad.partials = queue->scratch;
    grad.slabs = (char *)queue->scratch + grad.partial_bytes;
    pool_run(queue->pool, ceil_div(op->dqkv.rows, GRAD_ROWS), norm_grad_task, &grad);
    if (grad.partial_bytes)
        pool_run(queue->pool, ceil_div(grad.q_cols, DW_COLS) + ceil_div(grad.k_cols, DW_COLS), sum_task, &grad);
}

size_t CPU(qk_rope_grad_scratch)(const struct op_qk_rope_grad *op, int thread_count)
{
    struct rope_grad grad = grad_cut(op);

    return grad.partial_bytes + grad.slab_bytes * (size_t)thread_count;
}
