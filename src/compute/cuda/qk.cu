/* Norms of queries and keys, and their rotation. Heads whose halves are whole fours and that rotate whole take a part
 * of a warp each and stay in its registers; the others, and norms over all heads of q or k, a block for each group of
 * heads that share a mean. */
#include "compute/cuda/cuda_int.h"

struct group {
    int32_t col, heads;
    bool is_key;
};

static int32_t group_count(enum qk_norm qk_norm, int32_t heads, int32_t kv_heads)
{
    return qk_norm == QK_NORM_WHOLE ? 2 : heads + kv_heads;
}

static __device__ struct group group_at(enum qk_norm qk_norm, int32_t heads, int32_t kv_heads, int32_t head_dim,
                                        int32_t i)
{
    struct group group = {i * head_dim, 1, i >= heads};

    if (qk_norm == QK_NORM_WHOLE) {
        group.col = i * heads * head_dim;
        group.heads = i ? kv_heads : heads;
        group.is_key = i;
    }
    return group;
}

static __device__ float group_rstd(const struct mat &m, int32_t t, int32_t col, int32_t cols, float eps)
{
    float sum = 0;

    for (int32_t j = threadIdx.x; j < cols; j += blockDim.x)
        sum += get(m, t, col + j) * get(m, t, col + j);
    return 1 / sqrtf(block_sum(sum) / cols + eps);
}

static __device__ float normed_at(const struct op_qk_rope &op, const struct group &group, int32_t t, int32_t j,
                                  float rstd)
{
    float value = get(op.qkv, t, group.col + j) * rstd;

    if (op.qk_norm == QK_NORM_NONE)
        return value;
    if (op.kind == NORM_LLAMA)
        value = rounded(value, op.qkv.type);
    return value *
           norm_weight(group.is_key ? op.k_norm : op.q_norm, op.kind, op.qk_norm == QK_NORM_HEAD ? j % op.head_dim : j);
}

/* A thread has a pair of the rotated columns, or one of those behind them. */
static __global__ void qk_rope_kernel(struct op_qk_rope op, const int32_t *pos)
{
    int32_t t = blockIdx.x, d = op.head_dim, half = op.cos_sin ? op.rot / 2 : 0, per_head = d - half;
    struct group group = group_at(op.qk_norm, op.heads, op.kv_heads, d, blockIdx.y);
    const float *cosines = op.cos_sin ? op.cos_sin + (int64_t)pos[t] * op.rot : NULL;
    float rstd = 1;

    if (op.qk_norm != QK_NORM_NONE)
        rstd = group_rstd(op.qkv, t, group.col, group.heads * d, op.eps);
    for (int32_t j = threadIdx.x; op.raw.at && j < group.heads * d; j += blockDim.x)
        set(op.raw, t, group.col + j, get(op.qkv, t, group.col + j));
    __syncthreads();
    for (int32_t i = threadIdx.x; i < group.heads * per_head; i += blockDim.x) {
        int32_t at = i / per_head * d + i % per_head;
        if (i % per_head < half) {
            float a = normed_at(op, group, t, at, rstd), b = normed_at(op, group, t, at + half, rstd);
            float cosine = cosines[i % per_head], sine = cosines[half + i % per_head];
            set(op.qkv, t, group.col + at, a * cosine - b * sine);
            set(op.qkv, t, group.col + at + half, b * cosine + a * sine);
        } else {
            set(op.qkv, t, group.col + at + half, normed_at(op, group, t, at + half, rstd));
        }
    }
}

/* Eight columns of a head that a thread has: four, and those that they rotate with. */
struct eight_columns {
    struct four low, high;
};

static __device__ __forceinline__ struct eight_columns get_columns(const struct mat &m, int32_t t, int32_t at,
                                                                   int32_t half)
{
    struct eight_columns x = {get_four(m, t, at), get_four(m, t, at + half)};

    return x;
}

static __device__ __forceinline__ void set_columns(const struct mat &m, int32_t t, int32_t at, int32_t half,
                                                   const struct eight_columns &x)
{
    set_four(m, t, at, x.low);
    set_four(m, t, at + half, x.high);
}

/* By the angles of columns `at` on, or back by their negatives. */
static __device__ __forceinline__ void turn(struct eight_columns &x, const float *cosines, int32_t half, float sign)
{
    UNROLL
    for (int k = 0; k < FOUR; k++) {
        float first = x.low.at[k], cosine = cosines[k], sine = sign * cosines[half + k];
        x.low.at[k] = first * cosine - x.high.at[k] * sine;
        x.high.at[k] = x.high.at[k] * cosine + first * sine;
    }
}

/* Rotation alone, of all heads of a row by a block: by the angles, or back by their negatives. */
static __global__ void rotate_kernel(struct mat qkv, const float *cos_sin, const int32_t *pos, int32_t heads,
                                     int32_t head_dim, int32_t rot, float sign)
{
    int32_t t = blockIdx.x, half = rot / 2, per_head = half / FOUR;
    const float *cosines = cos_sin + (int64_t)pos[t] * rot;

    for (int32_t i = threadIdx.x; i < heads * per_head; i += blockDim.x) {
        int32_t j = i % per_head * FOUR, at = i / per_head * head_dim + j;
        struct eight_columns x = get_columns(qkv, t, at, half);
        turn(x, cosines + j, half, sign);
        set_columns(qkv, t, at, half, x);
    }
}

/* Whether a pair of halves is whole fours. */
static bool rotates_fours(const float *cos_sin, int32_t rot)
{
    return cos_sin && rot > 0 && rot % (2 * FOUR) == 0;
}

static void rotate(struct queue *queue, struct mat qkv, const float *cos_sin, const int32_t *pos, int32_t heads,
                   int32_t head_dim, int32_t rot, float sign)
{
    LAUNCH(queue, rotate_kernel, dim3(qkv.rows), THREADS * 2, qkv, cos_sin, pos, heads, head_dim, rot, sign);
}

/* Σ a·b over the head that `lanes` lanes have, a power of two of them. */
static __device__ __forceinline__ float head_sum(const struct eight_columns &a, const struct eight_columns &b,
                                                 int32_t lanes)
{
    float sum = 0;

    UNROLL
    for (int k = 0; k < FOUR; k++)
        sum += a.low.at[k] * b.low.at[k] + a.high.at[k] * b.high.at[k];
    for (int32_t mask = lanes / 2; mask; mask /= 2)
        sum += SHUFFLE_XOR(sum, mask);
    return sum;
}

static __device__ __forceinline__ struct eight_columns weights_of(const struct mat &w, enum norm_kind kind, int32_t at,
                                                                  int32_t half)
{
    struct eight_columns x = {norm_weights(w, kind, at), norm_weights(w, kind, at + half)};

    return x;
}

/* A block has a row. Lanes without a head go along: shuffles want whole warps. */
static __global__ void heads_kernel(struct op_qk_rope op, const int32_t *pos)
{
    int32_t t = blockIdx.x, d = op.head_dim, half = d / 2, lanes = half / FOUR, heads = op.heads + op.kv_heads;
    int32_t at = threadIdx.x % lanes * FOUR;
    const float *cosines = op.cos_sin + (int64_t)pos[t] * op.rot + at;

    for (int32_t first = 0; first < heads; first += blockDim.x / lanes) {
        int32_t head = first + threadIdx.x / lanes, col = head * d + at;
        struct eight_columns w = weights_of(head < op.heads ? op.q_norm : op.k_norm, op.kind, at, half), x = {};
        float rstd;
        if (head < heads)
            x = get_columns(op.qkv, t, col, half);
        rstd = 1 / sqrtf(head_sum(x, x, lanes) / d + op.eps);
        if (head < heads && op.raw.at)
            set_columns(op.raw, t, col, half, x);
        UNROLL
        for (int k = 0; k < FOUR; k++) {
            float low = x.low.at[k] * rstd, high = x.high.at[k] * rstd;
            x.low.at[k] = (op.kind == NORM_LLAMA ? rounded(low, op.qkv.type) : low) * w.low.at[k];
            x.high.at[k] = (op.kind == NORM_LLAMA ? rounded(high, op.qkv.type) : high) * w.high.at[k];
        }
        turn(x, cosines, half, 1);
        if (head < heads)
            set_columns(op.qkv, t, col, half, x);
    }
}

/* draw = rstd·(g∘w - n·mean(g∘w∘n)) with n = raw·rstd, g rotated back. */
static __global__ void heads_back_kernel(struct op_qk_rope_grad op, const int32_t *pos)
{
    int32_t t = blockIdx.x, d = op.head_dim, half = d / 2, lanes = half / FOUR, heads = op.heads + op.kv_heads;
    int32_t at = threadIdx.x % lanes * FOUR;
    const float *cosines = op.cos_sin + (int64_t)pos[t] * op.rot + at;

    for (int32_t first = 0; first < heads; first += blockDim.x / lanes) {
        int32_t head = first + threadIdx.x / lanes, col = head * d + at;
        struct eight_columns w = weights_of(head < op.heads ? op.q_norm : op.k_norm, op.kind, at, half), g = {}, n = {};
        float rstd, mean;
        if (head < heads) {
            g = get_columns(op.dqkv, t, col, half);
            n = get_columns(op.raw, t, col, half);
        }
        turn(g, cosines, half, -1);
        rstd = 1 / sqrtf(head_sum(n, n, lanes) / d + op.eps);
        UNROLL
        for (int k = 0; k < FOUR; k++) {
            g.low.at[k] *= w.low.at[k], g.high.at[k] *= w.high.at[k];
            n.low.at[k] *= rstd, n.high.at[k] *= rstd;
        }
        mean = head_sum(g, n, lanes) / d;
        UNROLL
        for (int k = 0; k < FOUR; k++) {
            g.low.at[k] = rstd * (g.low.at[k] - n.low.at[k] * mean);
            g.high.at[k] = rstd * (g.high.at[k] - n.high.at[k] * mean);
        }
        if (head < heads)
            set_columns(op.dqkv, t, col, half, g);
    }
}

/* Whether heads_kernel and heads_back_kernel are for these. */
static bool has_whole_heads(enum qk_norm qk_norm, const float *cos_sin, int32_t head_dim, int32_t rot)
{
    return qk_norm == QK_NORM_HEAD && cos_sin && rot == head_dim && head_dim >= 2 * FOUR &&
           head_dim <= 2 * FOUR * WARP && (head_dim & (head_dim - 1)) == 0;
}

static void cuda_qk_rope(struct queue *queue, const struct op_qk_rope *op)
{
    dim3 grid(op->qkv.rows, group_count(op->qk_norm, op->heads, op->kv_heads));

    if (op->qk_norm == QK_NORM_NONE && !op->raw.at && rotates_fours(op->cos_sin, op->rot))
        rotate(queue, op->qkv, op->cos_sin, op->batch->pos, op->heads + op->kv_heads, op->head_dim, op->rot, 1);
    else if (has_whole_heads(op->qk_norm, op->cos_sin, op->head_dim, op->rot))
        LAUNCH(queue, heads_kernel, dim3(op->qkv.rows), THREADS, *op, op->batch->pos);
    else
        LAUNCH(queue, qk_rope_kernel, grid, WARP * 2, *op, op->batch->pos);
}

/* By the negative angles. */
static __global__ void rotate_back_kernel(struct op_qk_rope_grad op, const int32_t *pos)
{
    int32_t t = blockIdx.x, half = op.rot / 2;
    const float *cosines = op.cos_sin + (int64_t)pos[t] * op.rot;

    for (int32_t i = threadIdx.x; i < (op.heads + op.kv_heads) * half; i += blockDim.x) {
        int32_t first = i / half * op.head_dim + i % half;
        float a = get(op.dqkv, t, first), b = get(op.dqkv, t, first + half);
        set(op.dqkv, t, first, a * cosines[i % half] + b * cosines[half + i % half]);
        set(op.dqkv, t, first + half, b * cosines[i % half] - a * cosines[half + i % half]);
    }
}

enum { QK_ROWS = 32 };

/* Column j of head `col` rotated by the negative angle, unrounded. */
static __device__ float rotated_back(const struct op_qk_rope_grad &op, const int32_t *pos, int32_t t, int32_t col,
                                     int32_t j)
{
    int32_t half = op.cos_sin ? op.rot / 2 : 0, i = j < half ? j : j - half;
    const float *cosines = op.cos_sin + (int64_t)(op.cos_sin ? pos[t] : 0) * op.rot;
    float own = get(op.dqkv, t, col + j);

    if (j >= 2 * half)
        return own;
    return j < half ? own * cosines[i] + get(op.dqkv, t, col + j + half) * cosines[half + i]
                    : own * cosines[i] - get(op.dqkv, t, col + j - half) * cosines[half + i];
}

static __global__ void group_rstd_kernel(struct op_qk_rope_grad op, float *rstd)
{
    struct group group = group_at(op.qk_norm, op.heads, op.kv_heads, op.head_dim, blockIdx.y);
    float value = group_rstd(op.raw, blockIdx.x, group.col, group.heads * op.head_dim, op.eps);

    if (threadIdx.x == 0)
        rstd[(int64_t)blockIdx.x * gridDim.y + blockIdx.y] = value;
}

/* partial[b, j] = Σ g·raw·rstd over QK_ROWS rows and over the heads that share weight j. */
static __global__ void qk_partials_kernel(struct op_qk_rope_grad op, const int32_t *pos, bool is_key, int32_t cols,
                                          const float *rstd, int32_t groups, float *partial)
{
    int32_t j = blockIdx.y * blockDim.x + threadIdx.x, first = blockIdx.x * QK_ROWS, d = op.head_dim;
    int32_t end = first + QK_ROWS < op.dqkv.rows ? first + QK_ROWS : op.dqkv.rows;
    int32_t heads = op.qk_norm == QK_NORM_WHOLE ? 1 : is_key ? op.kv_heads : op.heads;
    int32_t group = is_key ? (op.qk_norm == QK_NORM_WHOLE ? 1 : op.heads) : 0, col = is_key ? op.heads * d : 0;
    float sum = 0;

    if (j >= cols)
        return;
    for (int32_t t = first; t < end; t++)
        for (int32_t h = 0; h < heads; h++)
            sum += rotated_back(op, pos, t, col + (h + j / d) * d, j % d) * get(op.raw, t, col + h * d + j) *
                   rstd[(int64_t)t * groups + group + h];
    partial[(int64_t)blockIdx.x * cols + j] = sum;
}

/* draw = rstd·(g∘w - n·mean(g∘w∘n)) with n = raw·rstd, g rotated back. A thread writes the
 * pair of columns that it read. */
static __global__ void norm_back_kernel(struct op_qk_rope_grad op, const int32_t *pos, const float *rstds)
{
    int32_t t = blockIdx.x, d = op.head_dim, half = op.cos_sin ? op.rot / 2 : 0, per_head = d - half;
    struct group group = group_at(op.qk_norm, op.heads, op.kv_heads, d, blockIdx.y);
    struct mat w = group.is_key ? op.k_norm : op.q_norm;
    int32_t cols = group.heads * d, per = op.qk_norm == QK_NORM_HEAD ? d : cols;
    float rstd = rstds[(int64_t)t * gridDim.y + blockIdx.y], mean = 0;

    for (int32_t j = threadIdx.x; j < cols; j += blockDim.x)
        mean += rotated_back(op, pos, t, group.col + j / d * d, j % d) * norm_weight(w, op.kind, j % per) *
                get(op.raw, t, group.col + j) * rstd;
    mean = block_sum(mean) / cols;
    for (int32_t i = threadIdx.x; i < group.heads * per_head; i += blockDim.x) {
        int32_t head = i / per_head * d, j = i % per_head, both[] = {j, j + half}, from = j < half ? 0 : 1;
        int32_t to = half ? 2 : 1;
        float g[2];
        if (!half)
            from = 0;
        for (int k = from; k < to; k++)
            g[k] = rotated_back(op, pos, t, group.col + head, both[k]);
        for (int k = from; k < to; k++) {
            int32_t col = head + both[k];
            float n = get(op.raw, t, group.col + col) * rstd;
            set(op.dqkv, t, group.col + col, rstd * (g[k] * norm_weight(w, op.kind, col % per) - n * mean));
        }
    }
}

struct qk_scratch {
    float *rstd, *q_partial, *k_partial;
};

static struct qk_scratch qk_scratch_take(struct scratch *scratch, const struct op_qk_rope_grad *op)
{
    size_t T = (size_t)op->dqkv.rows, blocks = (size_t)blocks_of(op->dqkv.rows, QK_ROWS);
    struct qk_scratch taken = {};

    if (op->qk_norm == QK_NORM_NONE)
        return taken;
    taken.rstd =
        (float *)scratch_take(scratch, T * (size_t)group_count(op->qk_norm, op->heads, op->kv_heads) * sizeof(float));
    taken.q_partial = (float *)scratch_take(scratch, blocks * (size_t)op->q_norm.cols * sizeof(float));
    taken.k_partial = (float *)scratch_take(scratch, blocks * (size_t)op->k_norm.cols * sizeof(float));
    return taken;
}

static size_t qk_rope_grad_scratch(const struct op_qk_rope_grad *op)
{
    struct scratch scratch = {};

    qk_scratch_take(&scratch, op);
    return scratch.used_bytes;
}

static void qk_weight_grad(struct queue *queue, const struct op_qk_rope_grad *op, bool is_key, const float *rstd,
                           float *partial)
{
    struct mat dw = is_key ? op->dk_norm : op->dq_norm;
    int32_t blocks = blocks_of(op->dqkv.rows, QK_ROWS), across = blocks_of(dw.cols, THREADS);

    if (!dw.at)
        return;
    LAUNCH(queue, qk_partials_kernel, dim3(blocks, across), THREADS, *op, op->batch->pos, is_key, dw.cols, rstd,
           group_count(op->qk_norm, op->heads, op->kv_heads), partial);
    LAUNCH(queue, column_finish_kernel, dim3(across), THREADS, dw, partial, blocks, (const float *)NULL);
}

static void cuda_qk_rope_grad(struct queue *queue, const struct op_qk_rope_grad *op)
{
    struct scratch scratch = scratch_of(queue);
    struct qk_scratch at = qk_scratch_take(&scratch, op);
    bool is_fast = has_whole_heads(op->qk_norm, op->cos_sin, op->head_dim, op->rot);
    dim3 grid(op->dqkv.rows, group_count(op->qk_norm, op->heads, op->kv_heads));

    scratch_check(queue, &scratch);
    if (op->qk_norm == QK_NORM_NONE) {
        if (rotates_fours(op->cos_sin, op->rot))
            rotate(queue, op->dqkv, op->cos_sin, op->batch->pos, op->heads + op->kv_heads, op->head_dim, op->rot, -1);
        else if (op->cos_sin && op->rot)
            LAUNCH(queue, rotate_back_kernel, dim3(op->dqkv.rows), THREADS, *op, op->batch->pos);
        return;
    }
    if (op->dq_norm.at || op->dk_norm.at || !is_fast)
        LAUNCH(queue, group_rstd_kernel, grid, WARP * 2, *op, at.rstd);
    qk_weight_grad(queue, op, false, at.rstd, at.q_partial);
    qk_weight_grad(queue, op, true, at.rstd, at.k_partial);
    if (is_fast)
        LAUNCH(queue, heads_back_kernel, dim3(op->dqkv.rows), THREADS, *op, op->batch->pos);
    else
        LAUNCH(queue, norm_back_kernel, grid, WARP * 2, *op, op->batch->pos, at.rstd);
}
