/* Causal attention within documents, forward and backward. A warp has a row of one head: of queries, or of keys and
 * values in the second half of the backward pass. Its lanes take a row of the other side each for the dot products and
 * a share of the head's columns for the sums. Scores are never stored. */
#include "compute/cuda/cuda_int.h"

enum { HEAD_MAX = 512, LANE_COLS = HEAD_MAX / WARP, ATTEND_WARPS = 4 };

/* Where the rows of one head lie in qkv, and which rows a row meets. */
struct attention {
    struct mat qkv;
    const int32_t *cu_seqlens;
    int32_t doc_count, heads, kv_heads, head_dim, window;
    float scale, softcap;
};

static __device__ __forceinline__ float capped(float score, float softcap)
{
    return softcap > 0 ? softcap * tanhf(score / softcap) : score;
}

static __device__ __forceinline__ int32_t key_col(const struct attention &a, int32_t head)
{
    return (a.heads + head / (a.heads / a.kv_heads)) * a.head_dim;
}

static __device__ int32_t first_key(const struct attention &a, int32_t t)
{
    int32_t begin = a.cu_seqlens[document_of(a.cu_seqlens, a.doc_count, t)];

    return a.window > 0 && t - a.window + 1 > begin ? t - a.window + 1 : begin;
}

static __device__ int32_t end_of_queries(const struct attention &a, int32_t s)
{
    int32_t end = a.cu_seqlens[document_of(a.cu_seqlens, a.doc_count, s) + 1];

    return a.window > 0 && s + a.window < end ? s + a.window : end;
}

/* Eight of bf16 at a time where they lie for it; in the same order. */
static __device__ float dot(const struct mat &a, int32_t a_row, int32_t a_col, const struct mat &b, int32_t b_row,
                            int32_t b_col, int32_t count)
{
    const unsigned short *x = (const unsigned short *)a.at + (int64_t)a_row * a.ld + a_col;
    const unsigned short *y = (const unsigned short *)b.at + (int64_t)b_row * b.ld + b_col;
    int32_t j = 0;
    float sum = 0;

    if (a.type == DTYPE_BF16 && b.type == DTYPE_BF16 && ((uintptr_t)x | (uintptr_t)y) % 16 == 0)
        for (; j + 8 <= count; j += 8) {
            uint4 u = *(const uint4 *)(x + j), v = *(const uint4 *)(y + j);
            const uint32_t p[4] = {u.x, u.y, u.z, u.w}, q[4] = {v.x, v.y, v.z, v.w};
            UNROLL
            for (int k = 0; k < 4; k++) {
                sum += wide_of((unsigned short)p[k]) * wide_of((unsigned short)q[k]);
                sum += wide_of((unsigned short)(p[k] >> 16)) * wide_of((unsigned short)(q[k] >> 16));
            }
        }
    for (; j < count; j++)
        sum += get(a, a_row, a_col + j) * get(b, b_row, b_col + j);
    return sum;
}

static __global__ void attend_kernel(struct attention a, struct mat out, const float *sinks, float *lse)
{
    int32_t t = blockIdx.x * ATTEND_WARPS + threadIdx.x / WARP, head = blockIdx.y, lane = threadIdx.x % WARP;
    int32_t d = a.head_dim;
    int32_t k_col = key_col(a, head), v_col = k_col + a.kv_heads * d;
    float max = sinks ? sinks[head] : -INFINITY, sum = sinks ? 1 : 0, acc[LANE_COLS];

    if (t >= a.qkv.rows) /* the whole warp */
        return;
    for (int i = 0; i < LANE_COLS; i++)
        acc[i] = 0;
    for (int32_t first = first_key(a, t); first <= t; first += WARP) {
        int32_t s = first + lane;
        float score = s <= t ? capped(a.scale * dot(a.qkv, t, head * d, a.qkv, s, k_col, d), a.softcap) : -INFINITY;
        float new_max = fmaxf(max, warp_max(score)), shrink = expf(max - new_max), p = expf(score - new_max);
        sum = sum * shrink + warp_sum(p);
        max = new_max;
        for (int i = 0; i < LANE_COLS && i * WARP < d; i++)
            acc[i] *= shrink;
        for (int32_t k = 0; k < WARP && first + k <= t; k++) {
            float share = SHUFFLE(p, k);
            for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++)
                acc[i] += share * get(a.qkv, first + k, v_col + i * WARP + lane);
        }
    }
    for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++)
        set(out, t, head * d + i * WARP + lane, acc[i] / sum);
    if (lse && lane == 0)
        lse[(int64_t)head * a.qkv.rows + t] = max + logf(sum);
}

/* delta[h, t] = dout·out */
static __global__ void delta_kernel(struct mat out, struct mat dout, int32_t d, float *delta)
{
    int32_t t = blockIdx.x * ATTEND_WARPS + threadIdx.x / WARP, head = blockIdx.y, lane = threadIdx.x % WARP;
    float sum = 0;

    if (t >= out.rows)
        return;
    for (int32_t j = lane; j < d; j += WARP)
        sum += get(out, t, head * d + j) * get(dout, t, head * d + j);
    sum = warp_sum(sum);
    if (lane == 0)
        delta[(int64_t)head * out.rows + t] = sum;
}

/* p = exp(score - lse) and the gradient of q·k: scale · p · (dout·v - delta), times the slope of the cap. */
struct pair {
    float p, slope;
};

#include "compute/cuda/attend_cache.cu"
#include "compute/cuda/attend_mma.cu"

static void cuda_attend(struct queue *queue, const struct op_attend *op)
{
    struct attention a = {op->qkv, op->batch->cu_seqlens, op->batch->doc_count, op->heads, op->kv_heads,
                          op->head_dim, op->window, op->scale, op->softcap};

    if (op->cache) {
        attend_cached(queue, a, op);
        return;
    }
    if (takes_mma(&a, &op->out, NULL)) {
        attend_sizes_of(op->head_dim).attend(queue, a, op->out, (const float *)op->sinks.at, (float *)op->lse);
        return;
    }
    LAUNCH(queue, attend_kernel, dim3(blocks_of(op->qkv.rows, ATTEND_WARPS), op->heads), ATTEND_WARPS * WARP, a,
           op->out, (const float *)op->sinks.at, (float *)op->lse);
}

static __device__ struct pair pair_grad(const struct attention &a, const struct mat &dout, const float *lse,
                                        const float *delta, int32_t head, int32_t t, int32_t s)
{
    int32_t d = a.head_dim, k_col = key_col(a, head);
    int64_t at = (int64_t)head * a.qkv.rows + t;
    float score = capped(a.scale * dot(a.qkv, t, head * d, a.qkv, s, k_col, d), a.softcap), bend = score / a.softcap;
    struct pair pair;

    pair.p = expf(score - lse[at]);
    pair.slope = a.scale * pair.p * (dot(dout, t, head * d, a.qkv, s, k_col + a.kv_heads * d, d) - delta[at]);
    if (a.softcap > 0)
        pair.slope *= 1 - bend * bend;
    return pair;
}

static __global__ void query_grad_kernel(struct attention a, struct mat dout, struct mat dqkv, const float *lse,
                                         const float *delta)
{
    int32_t t = blockIdx.x * ATTEND_WARPS + threadIdx.x / WARP, head = blockIdx.y, lane = threadIdx.x % WARP;
    int32_t d = a.head_dim;
    int32_t k_col = key_col(a, head);
    float dq[LANE_COLS];

    if (t >= a.qkv.rows)
        return;
    for (int i = 0; i < LANE_COLS; i++)
        dq[i] = 0;
    for (int32_t first = first_key(a, t); first <= t; first += WARP) {
        struct pair pair = {0, 0};
        if (first + lane <= t)
            pair = pair_grad(a, dout, lse, delta, head, t, first + lane);
        for (int32_t k = 0; k < WARP && first + k <= t; k++) {
            float slope = SHUFFLE(pair.slope, k);
            for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++)
                dq[i] += slope * get(a.qkv, first + k, k_col + i * WARP + lane);
        }
    }
    for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++)
        set(dqkv, t, head * d + i * WARP + lane, dq[i]);
}

/* A key and its value, over the query heads of its group and the rows that see it. */
static __global__ void key_grad_kernel(struct attention a, struct mat dout, struct mat dqkv, const float *lse,
                                       const float *delta)
{
    int32_t s = blockIdx.x * ATTEND_WARPS + threadIdx.x / WARP, kv_head = blockIdx.y, lane = threadIdx.x % WARP;
    int32_t d = a.head_dim;
    int32_t group = a.heads / a.kv_heads, end;
    float dk[LANE_COLS], dv[LANE_COLS];

    if (s >= a.qkv.rows)
        return;
    end = end_of_queries(a, s);
    for (int i = 0; i < LANE_COLS; i++)
        dk[i] = dv[i] = 0;
    for (int32_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int32_t first = s; first < end; first += WARP) {
            struct pair pair = {0, 0};
            if (first + lane < end)
                pair = pair_grad(a, dout, lse, delta, head, first + lane, s);
            for (int32_t k = 0; k < WARP && first + k < end; k++) {
                float slope = SHUFFLE(pair.slope, k), p = SHUFFLE(pair.p, k);
                for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++) {
                    int32_t col = head * d + i * WARP + lane;
                    dk[i] += slope * get(a.qkv, first + k, col);
                    dv[i] += p * get(dout, first + k, col);
                }
            }
        }
    for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++) {
        int32_t col = (a.heads + kv_head) * d + i * WARP + lane;
        set(dqkv, s, col, dk[i]);
        set(dqkv, s, col + a.kv_heads * d, dv[i]);
    }
}

/* dsinks[h] -= Σ exp(sinks[h] - lse)·delta, a block a head. */
static __global__ void sink_grad_kernel(struct mat dsinks, const float *sinks, const float *lse, const float *delta,
                                        int32_t T)
{
    int32_t head = blockIdx.x;
    float sum = 0;

    for (int32_t t = threadIdx.x; t < T; t += blockDim.x)
        sum += expf(sinks[head] - lse[(int64_t)head * T + t]) * delta[(int64_t)head * T + t];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        set(dsinks, 0, head, get(dsinks, 0, head) - sum);
}

static float *delta_take(struct scratch *scratch, const struct op_attend_grad *op)
{
    return (float *)scratch_take(scratch, (size_t)op->heads * (size_t)op->qkv.rows * sizeof(float));
}

static size_t attend_grad_scratch(const struct op_attend_grad *op)
{
    struct scratch scratch = {};

    delta_take(&scratch, op);
    return scratch.used_bytes;
}

static void cuda_attend_grad(struct queue *queue, const struct op_attend_grad *op)
{
    struct attention a = {op->qkv, op->batch->cu_seqlens, op->batch->doc_count, op->heads, op->kv_heads,
                          op->head_dim, op->window, op->scale, op->softcap};
    struct scratch scratch = scratch_of(queue);
    float *delta = delta_take(&scratch, op);
    const float *lse = (const float *)op->lse;
    int32_t blocks = blocks_of(op->qkv.rows, ATTEND_WARPS);

    scratch_check(queue, &scratch);
    LAUNCH(queue, delta_kernel, dim3(blocks, op->heads), ATTEND_WARPS * WARP, op->out, op->dout, op->head_dim, delta);
    if (op->dsinks.at)
        LAUNCH(queue, sink_grad_kernel, dim3(op->heads), THREADS * 2, op->dsinks, (const float *)op->sinks.at, lse,
               delta, op->qkv.rows);
    if (takes_mma(&a, &op->dqkv, &op->dout)) {
        attend_sizes_of(op->head_dim).grad(queue, a, op->dout, op->dqkv, lse, delta);
        return;
    }
    LAUNCH(queue, query_grad_kernel, dim3(blocks, op->heads), ATTEND_WARPS * WARP, a, op->dout, op->dqkv, lse, delta);
    LAUNCH(queue, key_grad_kernel, dim3(blocks, op->kv_heads), ATTEND_WARPS * WARP, a, op->dout, op->dqkv, lse, delta);
}
