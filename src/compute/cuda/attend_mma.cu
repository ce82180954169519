/* Attention in BF16 on tensor cores, for heads of up to 256 in steps of 8: the arithmetic of attend.cu in tiles of 64
 * queries by 64 or fewer keys, the head's columns filled up with zeros to the next of 64, 96, 128, 192 and 256.
 *
 * A block has 64 rows of one side, 16 a warp, and goes over the tiles of the other side that its rows can see, which
 * arrive (cp.async) while it computes. Masks are looked at only in tiles that cross the diagonal, a window or a
 * document. The backward pass goes over the tiles twice, for the gradients of queries and for those of keys and values,
 * 7 products in place of 5: nothing is added by atomics, so equal shapes give equal bits. */
#include "compute/cuda/mma.cu"

static const float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

/* Scores as the exponential of 2 takes them: factor · raw, of raw as the tensor cores leave
 * it or, with a soft cap, bent. */
static __device__ __forceinline__ float score_factor(const struct attention &a)
{
    return a.softcap > 0 ? LOG2_E : a.scale * LOG2_E;
}

/* out = softmax(scale · q·kᵀ)·v. Keys and values have one tile each: keys of the next tile come while these are
 * weighed, values while their keys are met. */
template <int D>
static __global__ void __launch_bounds__(MMA_THREADS)
    attend_mma_kernel(struct attention a, struct mat out, const float *sinks, float *lse)
{
    const int KEYS = D <= 128 ? 64 : 32;
    __shared__ __align__(16) struct tile<D, KEYS> k_tile, v_tile;
    struct lane_place lane = lane_place();
    int32_t T = a.qkv.rows, d = a.head_dim, q0 = (gridDim.x - 1 - blockIdx.x) * MMA_ROWS, head = blockIdx.y;
    int32_t k_col = key_col(a, head);
    int32_t row = q0 + (int32_t)(threadIdx.x / WARP) * 16, last = q0 + MMA_ROWS < T ? q0 + MMA_ROWS : T;
    int32_t v_col = k_col + a.kv_heads * d;
    int32_t t[2] = {row + lane.row, row + lane.row + 8}, from[2], last_from, first = first_key(a, q0);
    bool can_fetch = is_fetchable(a.qkv);
    float factor = score_factor(a), top[2], sum[2], acc[D / 8][4];
    struct rows_operand<D> q;

    UNROLL
    for (int h = 0; h < 2; h++) {
        from[h] = t[h] < T ? first_key(a, t[h]) : T;
        top[h] = sinks ? sinks[head] * LOG2_E / factor : -INFINITY;
        sum[h] = sinks && lane.pair == 0 ? 1 : 0;
    }
    last_from = SHUFFLE(from[1], WARP - 1);
    sums_clear<D>(acc);
    rows_load<D>(&q, a.qkv, row, T, head * d, d, can_fetch);
    tile_fetch(&k_tile, a.qkv, first, T, k_col, d, can_fetch);
    fetch_group();
    for (int32_t s0 = first; s0 < last; s0 += KEYS) {
        bool is_whole = s0 + KEYS - 1 <= row && s0 >= last_from;
        float score[KEYS / 16][2][4], most[2] = {-INFINITY, -INFINITY};
        fetch_wait<0>();
        __syncthreads(); /* the keys are there, nobody reads the values of the last tile */
        tile_fetch(&v_tile, a.qkv, s0, T, v_col, d, can_fetch);
        fetch_group();
        UNROLL
        for (int n = 0; n < KEYS / 16; n++) {
            UNROLL
            for (int i = 0; i < 8; i++)
                score[n][i / 4][i % 4] = 0;
            multiply_rows(score[n], q, &k_tile, n * 16);
        }
        __syncthreads();
        if (s0 + KEYS < last)
            tile_fetch(&k_tile, a.qkv, s0 + KEYS, T, k_col, d, can_fetch);
        fetch_group();
        UNROLL
        for (int n = 0; n < KEYS / 16; n++)
            UNROLL
            for (int i = 0; i < 8; i++) {
                float *at = &score[n][i / 4][i % 4];
                int32_t s = s0 + n * 16 + i / 4 * 8 + lane.pair + i % 2, h = i % 4 / 2;
                if (a.softcap > 0)
                    *at = capped(a.scale * *at, a.softcap);
                if (!is_whole && (s > t[h] || s < from[h]))
                    *at = -INFINITY;
                most[h] = fmaxf(most[h], *at);
            }
        UNROLL
        for (int h = 0; h < 2; h++) {
            float new_top = fmaxf(top[h], quad_max(most[h])), base = new_top == -INFINITY ? 0 : new_top * factor;
            float shrink = top[h] == new_top ? 1 : power_of_two(top[h] * factor - base);
            top[h] = new_top;
            sum[h] *= shrink;
            UNROLL
            for (int j = 0; j < D / 8; j++) {
                acc[j][h * 2] *= shrink;
                acc[j][h * 2 + 1] *= shrink;
            }
            UNROLL
            for (int n = 0; n < KEYS / 16; n++)
                UNROLL
                for (int i = 0; i < 4; i++) {
                    float *at = &score[n][i / 2][h * 2 + i % 2];
                    *at = power_of_two(*at * factor - base);
                    sum[h] += *at;
                }
        }
        fetch_wait<1>();
        __syncthreads(); /* the values are there */
        UNROLL
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t p[4];
            pack_sums(p, score[n][0], score[n][1]);
            multiply_down<D>(acc, p, &v_tile, n * 16);
        }
    }
    UNROLL
    for (int h = 0; h < 2; h++) {
        sum[h] = quad_sum(sum[h]);
        if (lse && lane.pair == 0 && t[h] < T)
            lse[(int64_t)head * T + t[h]] = top[h] * factor * LN_2 + logf(sum[h]);
    }
    rows_store<D>(out, row, T, head * d, d, acc, 1 / sum[0], 1 / sum[1], is_fetchable(out));
}

/* --- backward --- */

/* Rows in a tile of the other side; two tiles of each of its two matrices come and go by turns. */
template <int D> struct grad_tile {
    enum { ROWS = D <= 128 ? 32 : 16 };
};

/* p and the gradient of the score behind it over the scale, of one pair; see pair_grad. lse
 * is in the exponential of 2. */
static __device__ __forceinline__ struct pair pair_of_sums(const struct attention &a, float factor, float score,
                                                           float dp, float lse, float delta, bool is_seen)
{
    struct pair pair;
    float bend = 0;

    if (a.softcap > 0) {
        score = capped(a.scale * score, a.softcap);
        bend = score / a.softcap;
    }
    pair.p = is_seen ? power_of_two(score * factor - lse) : 0;
    pair.slope = pair.p * (dp - delta) * (1 - bend * bend);
    return pair;
}

/* Large heads have one of the two row operands in shared memory: both do not fit in registers beside the sums. */
template <int D> struct query_grad_shared {
    struct tile<D, grad_tile<D>::ROWS> k[2], v[2];
    struct tile<D, (D > 128 ? MMA_ROWS : 1)> g;
};

/* dq[t] = scale · Σ_s slope[t, s]·k[s] */
template <int D>
static __global__ void __launch_bounds__(MMA_THREADS)
    query_grad_mma_kernel(struct attention a, struct mat dout, struct mat dqkv, const float *lse, const float *delta)
{
    const int KEYS = grad_tile<D>::ROWS;
    SHARED_MEMORY(struct query_grad_shared<D>, shared);
    struct lane_place lane = lane_place();
    int32_t T = a.qkv.rows, d = a.head_dim, q0 = (gridDim.x - 1 - blockIdx.x) * MMA_ROWS, head = blockIdx.y;
    int32_t k_col = key_col(a, head);
    int32_t row = q0 + (int32_t)(threadIdx.x / WARP) * 16, last = q0 + MMA_ROWS < T ? q0 + MMA_ROWS : T;
    int32_t v_col = k_col + a.kv_heads * d;
    int32_t t[2] = {row + lane.row, row + lane.row + 8}, from[2], last_from, first = first_key(a, q0);
    bool can_fetch = is_fetchable(a.qkv), can_fetch_g = is_fetchable(dout);
    float factor = score_factor(a), row_lse[2], row_delta[2], dq[D / 8][4];
    struct rows_operand<D> q, g;

    UNROLL
    for (int h = 0; h < 2; h++) {
        int64_t at = (int64_t)head * T + t[h];
        from[h] = t[h] < T ? first_key(a, t[h]) : T;
        row_lse[h] = t[h] < T ? lse[at] * LOG2_E : 0;
        row_delta[h] = t[h] < T ? delta[at] : 0;
    }
    last_from = SHUFFLE(from[1], WARP - 1);
    sums_clear<D>(dq);
    rows_load<D>(&q, a.qkv, row, T, head * d, d, can_fetch);
    if (D <= 128)
        rows_load<D>(&g, dout, row, T, head * d, d, can_fetch_g);
    else
        tile_fetch(&shared.g, dout, q0, T, head * d, d, can_fetch_g);
    tile_fetch(&shared.k[0], a.qkv, first, T, k_col, d, can_fetch);
    tile_fetch(&shared.v[0], a.qkv, first, T, v_col, d, can_fetch);
    fetch_group();
    for (int32_t s0 = first, stage = 0; s0 < last; s0 += KEYS, stage ^= 1) {
        bool is_whole = s0 + KEYS - 1 <= row && s0 >= last_from;
        if (s0 + KEYS < last) {
            tile_fetch(&shared.k[stage ^ 1], a.qkv, s0 + KEYS, T, k_col, d, can_fetch);
            tile_fetch(&shared.v[stage ^ 1], a.qkv, s0 + KEYS, T, v_col, d, can_fetch);
        }
        fetch_group();
        fetch_wait<1>();
        __syncthreads(); /* this tile is there */
        for (int n = 0; n < KEYS; n += MMA_CHUNK) {
            float score[2][4] = {}, dp[2][4] = {};
            uint32_t slopes[4];
            multiply_rows(score, q, &shared.k[stage], n);
            if (D <= 128)
                multiply_rows(dp, g, &shared.v[stage], n);
            else
                multiply_tiles(dp, &shared.g, row - q0, &shared.v[stage], n);
            UNROLL
            for (int i = 0; i < 8; i++) {
                int32_t s = s0 + n + i / 4 * 8 + lane.pair + i % 2, h = i % 4 / 2;
                float *at = &score[i / 4][i % 4];
                bool is_seen = is_whole || (s <= t[h] && s >= from[h]);
                *at = pair_of_sums(a, factor, *at, dp[i / 4][i % 4], row_lse[h], row_delta[h], is_seen).slope;
            }
            pack_sums(slopes, score[0], score[1]);
            multiply_down<D>(dq, slopes, &shared.k[stage], n);
        }
        __syncthreads(); /* nobody reads it any more */
    }
    rows_store<D>(dqkv, row, T, head * d, d, dq, a.scale, a.scale, is_fetchable(dqkv));
}

/* What the queries of a tile need beside their numbers. */
template <int ROWS> struct query_facts {
    float lse[ROWS], delta[ROWS];
};

template <int ROWS>
static __device__ __forceinline__ void facts_load(struct query_facts<ROWS> *facts, int32_t T, int32_t head, int32_t q0,
                                                  const float *lse, const float *delta)
{
    int32_t i = threadIdx.x, t = q0 + i;

    if (i >= ROWS)
        return;
    facts->lse[i] = t < T ? lse[(int64_t)head * T + t] * LOG2_E : 0;
    facts->delta[i] = t < T ? delta[(int64_t)head * T + t] : 0;
}

/* Gradients of keys and of values, or of one of them: large heads take a launch for each. */
enum { GRAD_BOTH, GRAD_VALUES, GRAD_KEYS };

template <int D> struct key_grad_shared {
    struct tile<D, grad_tile<D>::ROWS> q[2], g[2];
    struct tile<D, (D > 128 ? MMA_ROWS : 1)> v;
    struct query_facts<grad_tile<D>::ROWS> facts[2];
};

/* dk[s] = scale · Σ_t slope[t, s]·q[t], dv[s] = Σ_t p[t, s]·dout[t], over the queries of the group's heads that see s:
 * heads in order, their tiles in order. */
template <int D, int WHICH>
static __global__ void __launch_bounds__(MMA_THREADS)
    key_grad_mma_kernel(struct attention a, struct mat dout, struct mat dqkv, const float *lse, const float *delta)
{
    const int QUERIES = grad_tile<D>::ROWS;
    SHARED_MEMORY(struct key_grad_shared<D>, shared);
    struct lane_place lane = lane_place();
    int32_t T = a.qkv.rows, d = a.head_dim, s0 = blockIdx.x * MMA_ROWS, kv_head = blockIdx.y;
    int32_t group = a.heads / a.kv_heads;
    int32_t row = s0 + (int32_t)(threadIdx.x / WARP) * 16, s[2] = {row + lane.row, row + lane.row + 8};
    int32_t seen_end[2] = {s[0] < T ? end_of_queries(a, s[0]) : 0, s[1] < T ? end_of_queries(a, s[1]) : 0};
    int32_t whole_end = row < T ? end_of_queries(a, row) : 0; /* a query before it sees all keys up to itself */
    int32_t end = end_of_queries(a, s0 + MMA_ROWS < T ? s0 + MMA_ROWS - 1 : T - 1), col = (a.heads + kv_head) * d;
    int32_t v_col = col + a.kv_heads * d, per_head = (end - s0 + QUERIES - 1) / QUERIES, tiles = group * per_head;
    bool can_fetch = is_fetchable(a.qkv), can_fetch_g = is_fetchable(dout);
    float factor = score_factor(a), dk[D / 8][4], dv[D / 8][4];
    struct rows_operand<D> k, v;

    sums_clear<D>(dk);
    sums_clear<D>(dv);
    rows_load<D>(&k, a.qkv, row, T, col, d, can_fetch);
    if (D <= 128)
        rows_load<D>(&v, a.qkv, row, T, v_col, d, can_fetch);
    else if (WHICH != GRAD_VALUES)
        tile_fetch(&shared.v, a.qkv, s0, T, v_col, d, can_fetch);
    for (int32_t i = -1, stage = 1; i < tiles; i++, stage ^= 1) { /* fetches tile i + 1, computes with tile i */
        int32_t next_head = kv_head * group + (i + 1) / per_head, next_q0 = s0 + (i + 1) % per_head * QUERIES;
        int32_t q0 = s0 + i % per_head * QUERIES;
        bool is_whole;
        if (i + 1 < tiles) {
            tile_fetch(&shared.q[stage ^ 1], a.qkv, next_q0, T, next_head * d, d, can_fetch);
            tile_fetch(&shared.g[stage ^ 1], dout, next_q0, T, next_head * d, d, can_fetch_g);
            facts_load(&shared.facts[stage ^ 1], T, next_head, next_q0, lse, delta);
        }
        fetch_group();
        if (i < 0)
            continue;
        fetch_wait<1>();
        __syncthreads(); /* this tile is there */
        is_whole = row + 15 <= q0 && q0 + QUERIES <= whole_end;
        for (int n = 0; n < QUERIES; n += MMA_CHUNK) {
            float score[2][4] = {}, dp[2][4] = {};
            uint32_t weights[4];
            multiply_rows(score, k, &shared.q[stage], n);
            if (D <= 128)
                multiply_rows(dp, v, &shared.g[stage], n);
            else if (WHICH != GRAD_VALUES)
                multiply_tiles(dp, &shared.v, row - s0, &shared.g[stage], n);
            UNROLL
            for (int j = 0; j < 8; j++) {
                int q = n + j / 4 * 8 + lane.pair + j % 2, h = j % 4 / 2;
                float *at = &score[j / 4][j % 4], *dp_at = &dp[j / 4][j % 4];
                bool is_seen = is_whole || (s[h] <= q0 + q && q0 + q < seen_end[h]);
                struct pair pair = pair_of_sums(a, factor, *at, *dp_at, shared.facts[stage].lse[q],
                                                shared.facts[stage].delta[q], is_seen);
                *at = pair.slope;
                *dp_at = pair.p;
            }
            if (WHICH != GRAD_KEYS) {
                pack_sums(weights, dp[0], dp[1]);
                multiply_down<D>(dv, weights, &shared.g[stage], n);
            }
            if (WHICH != GRAD_VALUES) {
                pack_sums(weights, score[0], score[1]);
                multiply_down<D>(dk, weights, &shared.q[stage], n);
            }
        }
        __syncthreads(); /* nobody reads it any more */
    }
    if (WHICH != GRAD_VALUES)
        rows_store<D>(dqkv, row, T, col, d, dk, a.scale, a.scale, is_fetchable(dqkv));
    if (WHICH != GRAD_KEYS)
        rows_store<D>(dqkv, row, T, v_col, d, dv, 1, 1, is_fetchable(dqkv));
}

/* --- which of them --- */

static bool takes_mma(const struct attention *a, const struct mat *out, const struct mat *dout)
{
    return a->head_dim % 8 == 0 && a->head_dim <= 256 && a->scale > 0 && a->qkv.type == DTYPE_BF16 &&
           out->type == DTYPE_BF16 && (!dout || dout->type == DTYPE_BF16);
}

template <int D>
static void attend_mma(struct queue *queue, const struct attention &a, struct mat out, const float *sinks, float *lse)
{
    LAUNCH(queue, attend_mma_kernel<D>, dim3(blocks_of(a.qkv.rows, MMA_ROWS), a.heads), MMA_THREADS, a, out, sinks,
           lse);
}

template <int D, int WHICH>
static void key_grad_mma(struct queue *queue, const struct attention &a, struct mat dout, struct mat dqkv,
                         const float *lse, const float *delta)
{
    LAUNCH_SHARED(queue, (key_grad_mma_kernel<D, WHICH>), dim3(blocks_of(a.qkv.rows, MMA_ROWS), a.kv_heads),
                  MMA_THREADS, sizeof(struct key_grad_shared<D>), a, dout, dqkv, lse, delta);
}

template <int D>
static void attend_grad_mma(struct queue *queue, const struct attention &a, struct mat dout, struct mat dqkv,
                            const float *lse, const float *delta)
{
    LAUNCH_SHARED(queue, query_grad_mma_kernel<D>, dim3(blocks_of(a.qkv.rows, MMA_ROWS), a.heads), MMA_THREADS,
                  sizeof(struct query_grad_shared<D>), a, dout, dqkv, lse, delta);
    key_grad_mma<D, (D > 128 ? GRAD_VALUES : GRAD_BOTH)>(queue, a, dout, dqkv, lse, delta);
    if (D > 128)
        key_grad_mma<D, (D > 128 ? GRAD_KEYS : GRAD_BOTH)>(queue, a, dout, dqkv, lse, delta);
}

struct attend_sizes {
    void (*attend)(struct queue *, const struct attention &, struct mat out, const float *sinks, float *lse);
    void (*grad)(struct queue *, const struct attention &, struct mat dout, struct mat dqkv, const float *lse,
                 const float *delta);
};

/* Of the smallest size that has room for the head. */
static struct attend_sizes attend_sizes_of(int32_t head_dim)
{
    static const struct {
        int32_t size;
        struct attend_sizes run;
    } sizes[] = {
        {64, {attend_mma<64>, attend_grad_mma<64>}},    {96, {attend_mma<96>, attend_grad_mma<96>}},
        {128, {attend_mma<128>, attend_grad_mma<128>}}, {192, {attend_mma<192>, attend_grad_mma<192>}},
        {256, {attend_mma<256>, attend_grad_mma<256>}},
    };
    int i = 0;

    while (sizes[i].size < head_dim)
        i++;
    return sizes[i].run;
}
