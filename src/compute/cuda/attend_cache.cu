/* Attention of rows behind caches of keys and values. A block has a row of one query head. The keys of its document are
 * taken in stretches of a warp's lanes, counted from the first position: warp w has the stretches w, w + CACHE_WARPS,
 * …, each as attend_kernel has it, and the warps' shares are joined in their order. So a row has the same bits in
 * whatever pieces its document came. Part of attend.cu. */

enum { CACHE_WARPS = 8, CACHES_AT_ONCE = 64 };

/* Those of the documents first .. first + count; kernels take them by value. */
struct caches {
    void *k[CACHES_AT_ONCE], *v[CACHES_AT_ONCE];
    int32_t length[CACHES_AT_ONCE], capacity[CACHES_AT_ONCE];
    int32_t first, count;
    enum dtype type;
};

/* The cache of row t, -1 for rows of other documents; *position is the row's among its document's. */
static __device__ int32_t cache_of(const struct attention &a, const struct caches &c, int32_t t, int32_t *position)
{
    int32_t document = document_of(a.cu_seqlens, a.doc_count, t), i = document - c.first;

    if (i < 0 || i >= c.count)
        return -1;
    *position = c.length[i] + t - a.cu_seqlens[document];
    return i;
}

static __device__ __forceinline__ struct mat cached(const struct attention &a, const struct caches &c, void *rows)
{
    int32_t width = a.kv_heads * a.head_dim;
    struct mat m = {rows, 0, width, width, c.type};

    return m;
}

/* The rows' own keys and values go behind what is there. */
static __global__ void cache_append_kernel(struct attention a, struct caches c)
{
    int32_t t = blockIdx.x, j = blockIdx.y * blockDim.x + threadIdx.x, width = a.kv_heads * a.head_dim, row;
    int32_t i = cache_of(a, c, t, &row);

    if (i < 0 || j >= width)
        return;
    row %= c.capacity[i];
    set(cached(a, c, c.k[i]), row, j, get(a.qkv, t, a.heads * a.head_dim + j));
    set(cached(a, c, c.v[i]), row, j, get(a.qkv, t, a.heads * a.head_dim + width + j));
}

/* The share of one warp: largest score, Σ exp and Σ exp·value, the last by the lanes' columns. */
struct cache_share {
    float max, sum, acc[LANE_COLS];
};

/* Positions begin .. begin + WARP, the keys and values of which lie in the cache's rows from `row` on. */
static __device__ void cache_stretch(const struct attention &a, const struct mat &k, const struct mat &v, int32_t t,
                                     int32_t head, int32_t begin, int32_t row, int32_t first, int32_t position,
                                     struct cache_share *share)
{
    int32_t lane = threadIdx.x % WARP, d = a.head_dim, col = head / (a.heads / a.kv_heads) * d, s = begin + lane;
    bool is_seen = s >= first && s <= position;
    float score = is_seen ? capped(a.scale * dot(a.qkv, t, head * d, k, row + lane, col, d), a.softcap) : -INFINITY;
    float new_max = fmaxf(share->max, warp_max(score)), shrink = expf(share->max - new_max), p = expf(score - new_max);

    share->sum = share->sum * shrink + warp_sum(p);
    share->max = new_max;
    for (int i = 0; i < LANE_COLS && i * WARP < d; i++)
        share->acc[i] *= shrink;
    for (int32_t r = 0; r < WARP && begin + r <= position; r++) {
        float part = SHUFFLE(p, r);
        if (begin + r < first)
            continue;
        for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++)
            share->acc[i] += part * get(v, row + r, col + i * WARP + lane);
    }
}

static __global__ void attend_cache_kernel(struct attention a, struct caches c, struct mat out, const float *sinks,
                                           float *lse)
{
    __shared__ float acc[CACHE_WARPS][HEAD_MAX], maxes[CACHE_WARPS], sums[CACHE_WARPS];
    int32_t t = blockIdx.x, head = blockIdx.y, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, d = a.head_dim;
    int32_t position = 0;
    int32_t cache = cache_of(a, c, t, &position);
    int32_t first = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
    struct cache_share share = {-INFINITY, 0, {}};
    float max = sinks ? sinks[head] : -INFINITY, sum;

    if (cache < 0) /* all threads alike */
        return;
    for (int32_t begin = warp * WARP; begin <= position; begin += CACHE_WARPS * WARP)
        if (begin + WARP > first)
            cache_stretch(a, cached(a, c, c.k[cache]), cached(a, c, c.v[cache]), t, head, begin,
                          begin % c.capacity[cache], first, position, &share);
    for (int i = 0; i < LANE_COLS && i * WARP + lane < d; i++)
        acc[warp][i * WARP + lane] = share.acc[i];
    if (lane == 0) {
        maxes[warp] = share.max;
        sums[warp] = share.sum;
    }
    __syncthreads();
    for (int w = 0; w < CACHE_WARPS; w++)
        max = fmaxf(max, maxes[w]);
    sum = sinks ? expf(sinks[head] - max) : 0;
    for (int w = 0; w < CACHE_WARPS; w++)
        sum += sums[w] * expf(maxes[w] - max);
    for (int32_t j = threadIdx.x; j < d; j += CACHE_WARPS * WARP) {
        float value = 0;
        for (int w = 0; w < CACHE_WARPS; w++)
            value += acc[w][j] * expf(maxes[w] - max);
        set(out, t, head * d + j, value / sum);
    }
    if (lse && threadIdx.x == 0)
        lse[(int64_t)head * a.qkv.rows + t] = max + logf(sum);
}

static void attend_cached(struct queue *queue, const struct attention &a, const struct op_attend *op)
{
    int32_t T = op->qkv.rows, width = a.kv_heads * a.head_dim;

    for (int32_t first = 0; T && first < a.doc_count; first += CACHES_AT_ONCE) {
        struct caches c = {};
        c.first = first;
        c.count = a.doc_count - first < CACHES_AT_ONCE ? a.doc_count - first : CACHES_AT_ONCE;
        c.type = op->cache[first].type;
        for (int32_t i = 0; i < c.count; i++) {
            c.k[i] = op->cache[first + i].k;
            c.v[i] = op->cache[first + i].v;
            c.length[i] = op->cache[first + i].length;
            c.capacity[i] = op->cache[first + i].capacity;
        }
        LAUNCH(queue, cache_append_kernel, dim3(T, blocks_of(width, THREADS)), THREADS, a, c);
        LAUNCH(queue, attend_cache_kernel, dim3(T, a.heads), CACHE_WARPS * WARP, a, c, op->out,
               (const float *)op->sinks.at, (float *)op->lse);
    }
}
