/* Products in BF16 on tensor cores of what cuBLASLt does not take: the products of experts, whose rows are
 * known on the device alone, and odd shapes. A block has 128 x 128 results, a warp 64 x 64 of them in
 * registers; the operands come 32 deep in three stages (cp.async), laid out in shared memory as they are in
 * memory, and ldmatrix turns them where it must. */
#include "compute/cuda/mma.cu"

enum { PANEL = 128, PANEL_DEPTH = 32, PANEL_STAGES = 3, WARP_SIDE = 64 };

/* Of one side of the product: rows of results by depth, or turned. */
template <bool is_turned> struct panel {
    struct tile<(is_turned ? PANEL : PANEL_DEPTH), (is_turned ? PANEL_DEPTH : PANEL)> tile;
};

template <bool is_a_turned, bool is_b_turned> struct product_shared {
    struct panel<is_a_turned> a[PANEL_STAGES];
    struct panel<!is_b_turned> b[PANEL_STAGES]; /* op(B) is [k, n]: results are its columns */
};

/* Begins to bring what the tile has room for from `from` on, where `rows` and `cols` are left; zeros behind them. */
template <int COLS, int ROWS>
static __device__ __forceinline__ void panel_fetch(struct tile<COLS, ROWS> *tile, const unsigned short *from,
                                                   int32_t ld, int32_t rows, int32_t cols, bool can_fetch)
{
    for (int i = threadIdx.x; i < ROWS * (COLS / 8); i += MMA_THREADS) {
        int r = i / (COLS / 8), c = i % (COLS / 8) * 8;
        const unsigned short *source = from + (int64_t)r * ld + c;
        unsigned short *to = &tile->at[r][c];
        if (can_fetch && r < rows && c + 8 <= cols)
            fetch_16(to, source, true);
        else
            for (int k = 0; k < 8; k++)
                to[k] = r < rows && c + k < cols ? source[k] : 0;
    }
}

/* An operand of one block: where its first result's first term lies. */
struct side {
    const unsigned short *at;
    int32_t ld, count; /* results from there on */
    bool can_fetch;
};

static __device__ __forceinline__ struct side side_of(const struct mat &m, int64_t at, int32_t first, int32_t count,
                                                      bool is_turned)
{
    struct side side = {(const unsigned short *)m.at + at + (is_turned ? first : (int64_t)first * m.ld), m.ld,
                        count - first, is_fetchable(m)};

    return side;
}

template <bool is_turned>
static __device__ __forceinline__ void side_fetch(struct panel<is_turned> *panel, const struct side &side, int32_t k0,
                                                  int32_t k)
{
    if (is_turned)
        panel_fetch(&panel->tile, side.at + (int64_t)k0 * side.ld, side.ld, k - k0, side.count, side.can_fetch);
    else
        panel_fetch(&panel->tile, side.at + k0, side.ld, side.count, k - k0, side.can_fetch);
}

/* The first operand's fragment of 16 rows by 16 deep. */
template <bool is_turned>
static __device__ __forceinline__ void first_load(uint32_t to[4], const struct panel<is_turned> *panel, int row,
                                                  int deep)
{
    int lane = threadIdx.x % WARP;

    if (is_turned)
        load_matrices_turned(to, &panel->tile.at[deep + lane / 16 * 8 + lane % 8][row + lane / 8 % 2 * 8]);
    else
        load_matrices(to, &panel->tile.at[row + lane % 16][deep + lane / 16 * 8]);
}

/* The second's of 16 columns by 16 deep: two fragments. */
template <bool is_turned>
static __device__ __forceinline__ void second_load(uint32_t to[4], const struct panel<is_turned> *panel, int col,
                                                   int deep)
{
    int lane = threadIdx.x % WARP;

    if (is_turned)
        load_matrices_turned(to, &panel->tile.at[deep + lane % 16][col + lane / 16 * 8]);
    else
        load_matrices(to, &panel->tile.at[col + lane / 16 * 8 + lane % 8][deep + lane / 8 % 2 * 8]);
}

template <bool is_a_turned, bool is_b_turned>
static __device__ __forceinline__ void panel_multiply(float sums[WARP_SIDE / 16][WARP_SIDE / 8][4],
                                                      const struct panel<is_a_turned> *a,
                                                      const struct panel<!is_b_turned> *b, int row, int col)
{
    UNROLL
    for (int deep = 0; deep < PANEL_DEPTH; deep += 16) {
        uint32_t first[WARP_SIDE / 16][4];
        UNROLL
        for (int i = 0; i < WARP_SIDE / 16; i++)
            first_load(first[i], a, row + i * 16, deep);
        UNROLL
        for (int j = 0; j < WARP_SIDE / 16; j++) {
            uint32_t second[4];
            second_load(second, b, col + j * 16, deep);
            UNROLL
            for (int i = 0; i < WARP_SIDE / 16; i++) {
                multiply_16x8x16(sums[i][2 * j], first[i], second);
                multiply_16x8x16(sums[i][2 * j + 1], first[i], second + 2);
            }
        }
    }
}

/* The kernel of product.cu in BF16; see there. */
template <bool is_a_turned, bool is_b_turned>
static __global__ void __launch_bounds__(MMA_THREADS)
    product_mma_kernel(struct mat a, struct mat b, struct mat c, int32_t m, int32_t n, int32_t k, float alpha,
                       struct mat d, struct experts experts, const float *a_inverse, const float *b_inverse)
{
    typedef struct product_shared<is_a_turned, is_b_turned> shared_type;
    SHARED_MEMORY(shared_type, shared);
    struct lane_place lane = lane_place();
    int32_t tile = blockIdx.x, e = expert_of(experts, PANEL, &tile);
    int32_t i0 = tile * PANEL, j0 = blockIdx.y * PANEL, warp = threadIdx.x / WARP, row = warp / 2 * WARP_SIDE;
    int32_t col = warp % 2 * WARP_SIDE;
    struct expert_place place = expert_place(experts, e < 0 ? 0 : e, is_a_turned ? 1 : a.ld,
                                             is_a_turned ? a.ld : 1, is_b_turned ? 1 : b.ld, c.ld, d.ld, &m, &k);
    float sums[WARP_SIDE / 16][WARP_SIDE / 8][4];
    struct side first, second;

    if (e < 0 || i0 >= m || (experts.is_summed && experts.row_end && !k)) /* all threads alike */
        return;
    first = side_of(a, place.a, i0, m, is_a_turned);
    second = side_of(b, place.b, j0, n, !is_b_turned);
    UNROLL
    for (int i = 0; i < WARP_SIDE / 16; i++)
        sums_clear<WARP_SIDE>(sums[i]);
    for (int stage = 0; stage < PANEL_STAGES - 1; stage++) {
        if (stage * PANEL_DEPTH < k) {
            side_fetch<is_a_turned>(&shared.a[stage], first, stage * PANEL_DEPTH, k);
            side_fetch<!is_b_turned>(&shared.b[stage], second, stage * PANEL_DEPTH, k);
        }
        fetch_group();
    }
    for (int32_t k0 = 0, stage = 0; k0 < k; k0 += PANEL_DEPTH, stage = (stage + 1) % PANEL_STAGES) {
        int32_t next = k0 + (PANEL_STAGES - 1) * PANEL_DEPTH, free_stage = (stage + PANEL_STAGES - 1) % PANEL_STAGES;
        fetch_wait<PANEL_STAGES - 2>();
        __syncthreads(); /* this stage is there, and nobody reads the one before any more */
        if (next < k) {
            side_fetch<is_a_turned>(&shared.a[free_stage], first, next, k);
            side_fetch<!is_b_turned>(&shared.b[free_stage], second, next, k);
        }
        fetch_group();
        if (i0 + row < m && j0 + col < n) /* all lanes alike */
            panel_multiply<is_a_turned, is_b_turned>(sums, &shared.a[stage], &shared.b[stage], row, col);
    }
    if (a_inverse)
        alpha *= *a_inverse * *b_inverse;
    UNROLL
    for (int i = 0; i < WARP_SIDE / 16; i++)
        UNROLL
        for (int j = 0; j < WARP_SIDE / 8 * 4; j++) {
            int32_t r = i0 + row + i * 16 + lane.row + j % 4 / 2 * 8, at = j0 + col + j / 4 * 8 + lane.pair + j % 2;
            if (r < m && at < n)
                at_set(c, place.c + (int64_t)r * c.ld + at,
                       alpha * sums[i][j / 4][j % 4] + (d.at ? at_get(d, place.d + (int64_t)r * d.ld + at) : 0));
        }
}

template <bool is_a_turned, bool is_b_turned>
static void product_mma(struct queue *queue, const struct product *p, const struct experts *experts)
{
    dim3 grid = product_grid(p, experts, PANEL);

    LAUNCH_SHARED(queue, (product_mma_kernel<is_a_turned, is_b_turned>), grid, MMA_THREADS,
                  sizeof(struct product_shared<is_a_turned, is_b_turned>), p->a, p->b, p->c, p->m, p->n, p->k, p->alpha,
                  p->d, *experts, p->a_inverse, p->b_inverse);
}

/* False: not these types. */
static bool product_mma_run(struct queue *queue, const struct product *p, const struct experts *experts)
{
    if (p->a.type != DTYPE_BF16 || p->b.type != DTYPE_BF16 || (p->is_a_turned && p->is_b_turned))
        return false;
    (p->is_a_turned   ? product_mma<true, false>
     : p->is_b_turned ? product_mma<false, true>
                      : product_mma<false, false>)(queue, p, experts);
    return true;
}
