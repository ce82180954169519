/* Attention in BF16 on tensor cores, for heads of 64 and 128: the arithmetic of attend.cu in tiles of 64 queries by 64 keys,
 * sums in f32. A warp has 16 rows of one side in registers and meets the other side's tile in shared memory, 16 rows of it
 * at a time; what leaves one product as sums enters the next as an operand without leaving the registers. The backward pass
 * goes over the tiles twice, for the gradients of queries and for those of keys and values: nothing is added by atomics. */
#include "compute/cuda/cuda_int.h"

enum { MMA_ROWS = 64, MMA_WARPS = MMA_ROWS / 16, MMA_PAD = 8, MMA_CHUNK = 16 };

/* The lane's place in the fragments of a 16 x 8 x 16 product: row and pair of columns. */
struct lane_place {
    int row, pair; /* 0 .. 7, 0, 2, 4, 6 */
};

static __device__ __forceinline__ struct lane_place lane_place(void)
{
    struct lane_place place = {(int)(threadIdx.x % WARP) / 4, (int)(threadIdx.x % 4) * 2};

    return place;
}

static __device__ __forceinline__ uint32_t pack(float low, float high)
{
    return (uint32_t)half_of(low) | (uint32_t)half_of(high) << 16;
}

static __device__ __forceinline__ uint32_t pair_of(unsigned short low, unsigned short high)
{
    return (uint32_t)low | (uint32_t)high << 16;
}

/* 64 rows of D columns from global memory; rows behind the last are zero. */
template <int D> struct tile {
    unsigned short at[MMA_ROWS][D + MMA_PAD];
};

template <int D> static __device__ void tile_load(struct tile<D> *tile, const struct mat &m, int32_t row, int32_t rows, int32_t col)
{
    const unsigned short *from = (const unsigned short *)m.at + col;
    bool is_aligned = ((uintptr_t)from | (uintptr_t)m.ld * 2) % 16 == 0;

    for (int i = threadIdx.x; i < MMA_ROWS * (D / 8); i += blockDim.x) {
        int r = i / (D / 8), c = i % (D / 8) * 8;
        unsigned short *to = &tile->at[r][c];
        const unsigned short *source = from + (int64_t)(row + r) * m.ld + c;
        if (row + r >= rows)
            for (int k = 0; k < 8; k++)
                to[k] = 0;
        else if (is_aligned)
            *(uint4 *)to = *(const uint4 *)source;
        else
            for (int k = 0; k < 8; k++)
                to[k] = source[k];
    }
}

/* 16 rows of D columns as the first operand of products over the columns. */
template <int D> struct rows_operand {
    uint32_t part[D / 16][4];
};

template <int D> static __device__ void rows_load(struct rows_operand<D> *rows, const struct mat &m, int32_t row, int32_t count, int32_t col)
{
    const unsigned short *from = (const unsigned short *)m.at + col;
    struct lane_place lane = lane_place();

    for (int k = 0; k < D / 16; k++)
        for (int i = 0; i < 4; i++) {
            int32_t r = row + lane.row + i % 2 * 8;
            const unsigned short *at = from + (int64_t)r * m.ld + k * 16 + i / 2 * 8 + lane.pair;
            rows->part[k][i] = r < count ? pair_of(at[0], at[1]) : 0;
        }
}

/* sums[16, 8] of rows by the 8 rows of the tile from n on: products over the columns of both. */
template <int D>
static __device__ __forceinline__ void multiply_rows(float sums[4], const struct rows_operand<D> &rows, const struct tile<D> *tile, int n)
{
    struct lane_place lane = lane_place();
    const unsigned short *at = tile->at[n + lane.row];

    for (int k = 0; k < D / 16; k++) {
        uint32_t b[2] = {*(const uint32_t *)&at[k * 16 + lane.pair], *(const uint32_t *)&at[k * 16 + 8 + lane.pair]};
        multiply_16x8x16(sums, rows.part[k], b);
    }
}

/* sums[16, D] += weights [16, 16] by 16 rows of the tile from n on: products over those rows. */
template <int D>
static __device__ __forceinline__ void multiply_down(float sums[D / 8][4], const uint32_t weights[4], const struct tile<D> *tile, int n)
{
    struct lane_place lane = lane_place();
    const unsigned short *at = tile->at[n + lane.pair];

    for (int j = 0; j < D / 8; j++) {
        int col = j * 8 + lane.row;
        const int step = D + MMA_PAD;
        uint32_t b[2] = {pair_of(at[col], at[step + col]), pair_of(at[8 * step + col], at[9 * step + col])};
        multiply_16x8x16(sums[j], weights, b);
    }
}

/* Two 16 x 8 sums side by side as a first operand of 16 x 16. */
static __device__ __forceinline__ void pack_sums(uint32_t to[4], const float left[4], const float right[4])
{
    to[0] = pack(left[0], left[1]);
    to[1] = pack(left[2], left[3]);
    to[2] = pack(right[0], right[1]);
    to[3] = pack(right[2], right[3]);
}

/* The rows a block has; those that the lane has two of. */
template <int D> static __device__ void rows_store(const struct mat &m, int32_t row, int32_t rows, int32_t col, const float sums[D / 8][4],
                                                   float first_factor, float second_factor)
{
    struct lane_place lane = lane_place();

    for (int half = 0; half < 2; half++) {
        int32_t r = row + lane.row + half * 8;
        float factor = half ? second_factor : first_factor;
        for (int j = 0; r < rows && j < D / 8; j++) {
            set(m, r, col + j * 8 + lane.pair, factor * sums[j][half * 2]);
            set(m, r, col + j * 8 + lane.pair + 1, factor * sums[j][half * 2 + 1]);
        }
    }
}

/* The sum, or the largest, of the four lanes that share a row. */
static __device__ __forceinline__ float quad_sum(float value)
{
    value += SHUFFLE_XOR(value, 1);
    return value + SHUFFLE_XOR(value, 2);
}

static __device__ __forceinline__ float quad_max(float value)
{
    value = fmaxf(value, SHUFFLE_XOR(value, 1));
    return fmaxf(value, SHUFFLE_XOR(value, 2));
}

template <int D> static __global__ void __launch_bounds__(MMA_WARPS *WARP) attend_mma_kernel(struct attention a, struct mat out, const float *sinks,
                                                                                              float *lse)
{
    __shared__ __align__(16) struct tile<D> k_tile, v_tile;
    struct lane_place lane = lane_place();
    int32_t T = a.qkv.rows, q0 = (gridDim.x - 1 - blockIdx.x) * MMA_ROWS, head = blockIdx.y, k_col = key_col(a, head);
    int32_t row = q0 + (int32_t)(threadIdx.x / WARP) * 16, last = q0 + MMA_ROWS < T ? q0 + MMA_ROWS : T;
    int32_t t[2] = {row + lane.row, row + lane.row + 8}, from[2];
    float top[2], sum[2], acc[D / 8][4];
    struct rows_operand<D> q;

    for (int h = 0; h < 2; h++) {
        from[h] = t[h] < T ? first_key(a, t[h]) : T;
        top[h] = sinks ? sinks[head] : -INFINITY;
        sum[h] = sinks && lane.pair == 0 ? 1 : 0;
    }
    for (int j = 0; j < D / 8; j++)
        for (int i = 0; i < 4; i++)
            acc[j][i] = 0;
    rows_load<D>(&q, a.qkv, row, T, head * D);
    for (int32_t s0 = first_key(a, q0); s0 < last; s0 += MMA_ROWS) {
        float score[MMA_ROWS / 8][4], most[2] = {-INFINITY, -INFINITY};
        __syncthreads();
        tile_load<D>(&k_tile, a.qkv, s0, T, k_col);
        tile_load<D>(&v_tile, a.qkv, s0, T, k_col + a.kv_heads * D);
        __syncthreads();
        for (int n = 0; n < MMA_ROWS / 8; n++) {
            for (int i = 0; i < 4; i++)
                score[n][i] = 0;
            multiply_rows<D>(score[n], q, &k_tile, n * 8);
            for (int i = 0; i < 4; i++) {
                int32_t s = s0 + n * 8 + lane.pair + i % 2, h = i / 2;
                bool is_seen = s <= t[h] && s >= from[h];
                score[n][i] = is_seen ? capped(a.scale * score[n][i], a.softcap) : -INFINITY;
                most[h] = fmaxf(most[h], score[n][i]);
            }
        }
        for (int h = 0; h < 2; h++) {
            float new_top = fmaxf(top[h], quad_max(most[h])), shrink = top[h] == -INFINITY ? 0 : __expf(top[h] - new_top);
            top[h] = new_top;
            sum[h] *= shrink;
            for (int j = 0; j < D / 8; j++) {
                acc[j][h * 2] *= shrink;
                acc[j][h * 2 + 1] *= shrink;
            }
        }
        for (int n = 0; n < MMA_ROWS / 8; n++)
            for (int i = 0; i < 4; i++) {
                score[n][i] = score[n][i] == -INFINITY ? 0 : __expf(score[n][i] - top[i / 2]);
                sum[i / 2] += score[n][i];
            }
        for (int n = 0; n < MMA_ROWS / 16; n++) {
            uint32_t p[4];
            pack_sums(p, score[2 * n], score[2 * n + 1]);
            multiply_down<D>(acc, p, &v_tile, n * 16);
        }
    }
    for (int h = 0; h < 2; h++) {
        sum[h] = quad_sum(sum[h]);
        if (lse && lane.pair == 0 && t[h] < T)
            lse[(int64_t)head * T + t[h]] = top[h] + logf(sum[h]);
    }
    rows_store<D>(out, row, T, head * D, acc, 1 / sum[0], 1 / sum[1]);
}

/* p and the gradient of the score behind it, of one pair; see pair_grad. */
static __device__ __forceinline__ struct pair pair_of_sums(const struct attention &a, float score, float dp, float lse, float delta, bool is_seen)
{
    float bend;
    struct pair pair = {0, 0};

    if (!is_seen)
        return pair;
    score = capped(a.scale * score, a.softcap);
    bend = a.softcap > 0 ? score / a.softcap : 0;
    pair.p = __expf(score - lse);
    pair.slope = a.scale * pair.p * (dp - delta) * (1 - bend * bend);
    return pair;
}

template <int D> static __global__ void __launch_bounds__(MMA_WARPS *WARP)
    query_grad_mma_kernel(struct attention a, struct mat dout, struct mat dqkv, const float *lse, const float *delta)
{
    __shared__ __align__(16) struct tile<D> k_tile, v_tile;
    struct lane_place lane = lane_place();
    int32_t T = a.qkv.rows, q0 = (gridDim.x - 1 - blockIdx.x) * MMA_ROWS, head = blockIdx.y, k_col = key_col(a, head);
    int32_t row = q0 + (int32_t)(threadIdx.x / WARP) * 16, last = q0 + MMA_ROWS < T ? q0 + MMA_ROWS : T;
    int32_t t[2] = {row + lane.row, row + lane.row + 8}, from[2];
    float row_lse[2], row_delta[2], dq[D / 8][4];
    struct rows_operand<D> q, g;

    for (int h = 0; h < 2; h++) {
        int64_t at = (int64_t)head * T + t[h];
        from[h] = t[h] < T ? first_key(a, t[h]) : T;
        row_lse[h] = t[h] < T ? lse[at] : 0;
        row_delta[h] = t[h] < T ? delta[at] : 0;
    }
    for (int j = 0; j < D / 8; j++)
        for (int i = 0; i < 4; i++)
            dq[j][i] = 0;
    rows_load<D>(&q, a.qkv, row, T, head * D);
    rows_load<D>(&g, dout, row, T, head * D);
    for (int32_t s0 = first_key(a, q0); s0 < last; s0 += MMA_ROWS) {
        __syncthreads();
        tile_load<D>(&k_tile, a.qkv, s0, T, k_col);
        tile_load<D>(&v_tile, a.qkv, s0, T, k_col + a.kv_heads * D);
        __syncthreads();
        for (int n = 0; n < MMA_ROWS; n += MMA_CHUNK) {
            float score[2][4] = {}, dp[2][4] = {};
            uint32_t slopes[4];
            for (int half = 0; half < 2; half++) {
                multiply_rows<D>(score[half], q, &k_tile, n + half * 8);
                multiply_rows<D>(dp[half], g, &v_tile, n + half * 8);
                for (int i = 0; i < 4; i++) {
                    int32_t s = s0 + n + half * 8 + lane.pair + i % 2, h = i / 2;
                    bool is_seen = s <= t[h] && s >= from[h];
                    score[half][i] = pair_of_sums(a, score[half][i], dp[half][i], row_lse[h], row_delta[h], is_seen).slope;
                }
            }
            pack_sums(slopes, score[0], score[1]);
            multiply_down<D>(dq, slopes, &k_tile, n);
        }
    }
    rows_store<D>(dqkv, row, T, head * D, dq, 1, 1);
}

/* What the queries of a tile need beside their numbers. */
struct query_facts {
    float lse[MMA_ROWS], delta[MMA_ROWS];
    int32_t from[MMA_ROWS];
};

static __device__ void facts_load(struct query_facts *facts, const struct attention &a, int32_t head, int32_t q0, const float *lse,
                                  const float *delta)
{
    int32_t i = threadIdx.x, t = q0 + i, T = a.qkv.rows;

    if (i >= MMA_ROWS)
        return;
    facts->from[i] = t < T ? first_key(a, t) : T;
    facts->lse[i] = t < T ? lse[(int64_t)head * T + t] : 0;
    facts->delta[i] = t < T ? delta[(int64_t)head * T + t] : 0;
}

template <int D> static __global__ void __launch_bounds__(MMA_WARPS *WARP)
    key_grad_mma_kernel(struct attention a, struct mat dout, struct mat dqkv, const float *lse, const float *delta)
{
    __shared__ __align__(16) struct tile<D> q_tile, g_tile;
    __shared__ struct query_facts facts;
    struct lane_place lane = lane_place();
    int32_t T = a.qkv.rows, s0 = blockIdx.x * MMA_ROWS, kv_head = blockIdx.y, group = a.heads / a.kv_heads;
    int32_t row = s0 + (int32_t)(threadIdx.x / WARP) * 16, s[2] = {row + lane.row, row + lane.row + 8};
    int32_t end = end_of_queries(a, s0 + MMA_ROWS < T ? s0 + MMA_ROWS - 1 : T - 1), col = (a.heads + kv_head) * D;
    float dk[D / 8][4], dv[D / 8][4];
    struct rows_operand<D> k, v;

    for (int j = 0; j < D / 8; j++)
        for (int i = 0; i < 4; i++)
            dk[j][i] = dv[j][i] = 0;
    rows_load<D>(&k, a.qkv, row, T, col);
    rows_load<D>(&v, a.qkv, row, T, col + a.kv_heads * D);
    for (int32_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int32_t q0 = s0; q0 < end; q0 += MMA_ROWS) {
            __syncthreads();
            tile_load<D>(&q_tile, a.qkv, q0, T, head * D);
            tile_load<D>(&g_tile, dout, q0, T, head * D);
            facts_load(&facts, a, head, q0, lse, delta);
            __syncthreads();
            for (int n = 0; n < MMA_ROWS; n += MMA_CHUNK) {
                float score[2][4] = {}, dp[2][4] = {};
                uint32_t p[4], slopes[4];
                for (int half = 0; half < 2; half++) {
                    multiply_rows<D>(score[half], k, &q_tile, n + half * 8);
                    multiply_rows<D>(dp[half], v, &g_tile, n + half * 8);
                    for (int i = 0; i < 4; i++) {
                        int q = n + half * 8 + lane.pair + i % 2, h = i / 2;
                        bool is_seen = s[h] <= q0 + q && s[h] >= facts.from[q];
                        struct pair pair = pair_of_sums(a, score[half][i], dp[half][i], facts.lse[q], facts.delta[q], is_seen);
                        score[half][i] = pair.slope;
                        dp[half][i] = pair.p;
                    }
                }
                pack_sums(p, dp[0], dp[1]);
                pack_sums(slopes, score[0], score[1]);
                multiply_down<D>(dv, p, &g_tile, n);
                multiply_down<D>(dk, slopes, &q_tile, n);
            }
        }
    rows_store<D>(dqkv, row, T, col, dk, 1, 1);
    rows_store<D>(dqkv, row, T, col + a.kv_heads * D, dv, 1, 1);
}

static bool takes_mma(const struct attention *a, const struct mat *out, const struct mat *dout)
{
    return (a->head_dim == 64 || a->head_dim == 128) && a->qkv.type == DTYPE_BF16 && out->type == DTYPE_BF16 &&
           (!dout || dout->type == DTYPE_BF16);
}

template <int D> static void attend_mma(struct queue *queue, const struct attention &a, struct mat out, const float *sinks, float *lse)
{
    LAUNCH(queue, attend_mma_kernel<D>, dim3(blocks_of(a.qkv.rows, MMA_ROWS), a.heads), MMA_WARPS * WARP, a, out, sinks, lse);
}

template <int D>
static void attend_grad_mma(struct queue *queue, const struct attention &a, struct mat dout, struct mat dqkv, const float *lse, const float *delta)
{
    int32_t blocks = blocks_of(a.qkv.rows, MMA_ROWS);

    LAUNCH(queue, query_grad_mma_kernel<D>, dim3(blocks, a.heads), MMA_WARPS * WARP, a, dout, dqkv, lse, delta);
    LAUNCH(queue, key_grad_mma_kernel<D>, dim3(blocks, a.kv_heads), MMA_WARPS * WARP, a, dout, dqkv, lse, delta);
}
