/* One product of matrices: by cuBLASLt where it takes it; products of experts (each expert's rows are known on the
 * device alone) and odd shapes by product_mma.cu in BF16 and by the kernel here in F32 and in two types. */
#include "compute/cuda/blas.h"

/* --- the kernel --- */

enum { TILE = 64, DEPTH = 16, PER_THREAD = 4, TILE_THREADS = (TILE / PER_THREAD) * (TILE / PER_THREAD) };

/* Element (i, k) of a factor is at i·row + k·col. */
struct factor {
    struct mat m;
    int64_t row, col;
};

/* Experts: the rows of expert e are row_end[e - 1] .. row_end[e] of every operand with rows; a_step, b_step and c_step
 * are elements from one expert's to the next of the others. */
struct experts {
    const int32_t *row_end; /* NULL: there are none */
    int32_t count;
    bool is_summed;         /* rows are what is summed over, not those of the result */
    int64_t b_step, c_step;
};

/* Where an expert's operands begin, in elements. */
struct expert_place {
    int64_t a, b, c, d;
};

/* Its rows take the place of m, or of k where rows are summed. a_row and a_col, b_row: elements from one row of op(A),
 * one of its columns, one row of op(B) to the next. */
static __device__ struct expert_place expert_place(const struct experts &experts, int32_t e, int64_t a_row,
                                                   int64_t a_col, int64_t b_row, int64_t c_ld, int64_t d_ld, int32_t *m,
                                                   int32_t *k)
{
    struct expert_place place = {0, 0, 0, 0};
    int32_t from;

    if (!experts.row_end)
        return place;
    from = e ? experts.row_end[e - 1] : 0;
    *(experts.is_summed ? k : m) = experts.row_end[e] - from;
    place.a = experts.is_summed ? from * a_col : from * a_row;
    place.b = experts.is_summed ? from * b_row : e * experts.b_step;
    place.c = experts.is_summed ? e * experts.c_step : from * c_ld;
    place.d = experts.is_summed ? place.c : from * d_ld;
    return place;
}

/* Where a result's rows are the experts', their tiles of so many rows lie one behind the other along x: the tile's
 * expert, -1 behind the last, and the tile's number there. */
static __device__ __forceinline__ int32_t expert_of(const struct experts &experts, int32_t rows, int32_t *tile)
{
    int32_t from = 0;

    if (!experts.row_end || experts.is_summed)
        return blockIdx.z;
    for (int32_t e = 0; e < experts.count; from = experts.row_end[e++]) {
        int32_t tiles = (experts.row_end[e] - from + rows - 1) / rows;
        if (*tile < tiles)
            return e;
        *tile -= tiles;
    }
    return -1;
}

static dim3 product_grid(const struct product *p, const struct experts *experts, int32_t size)
{
    int32_t rows = blocks_of(p->m, size), cols = blocks_of(p->n, size);

    if (!experts->row_end)
        return dim3(rows, cols);
    return experts->is_summed ? dim3(rows, cols, experts->count) : dim3(rows + experts->count, cols);
}

static __global__ void product_kernel(struct factor a, struct factor b, struct mat c, int32_t m, int32_t n, int32_t k,
                                      float alpha, struct mat d, struct experts experts)
{
    __shared__ float a_tile[DEPTH][TILE + 1], b_tile[DEPTH][TILE + 1];
    int32_t tile = blockIdx.x, e = expert_of(experts, TILE, &tile);
    int32_t i0 = tile * TILE, j0 = blockIdx.y * TILE, x = threadIdx.x % (TILE / PER_THREAD);
    int32_t y = threadIdx.x / (TILE / PER_THREAD);
    struct expert_place place = expert_place(experts, e < 0 ? 0 : e, a.row, a.col, b.row, c.ld, d.ld, &m, &k);
    float sum[PER_THREAD][PER_THREAD];

    if (e < 0 || i0 >= m || (experts.is_summed && experts.row_end && !k)) /* all threads alike */
        return;
    for (int i = 0; i < PER_THREAD; i++)
        for (int j = 0; j < PER_THREAD; j++)
            sum[i][j] = 0;
    for (int32_t k0 = 0; k0 < k; k0 += DEPTH) {
        for (int at = threadIdx.x; at < TILE * DEPTH; at += TILE_THREADS) {
            int32_t row = at / DEPTH, deep = at % DEPTH;
            bool is_in = k0 + deep < k;
            a_tile[deep][row] =
                is_in && i0 + row < m ? at_get(a.m, place.a + (i0 + row) * a.row + (k0 + deep) * a.col) : 0;
            b_tile[deep][row] =
                is_in && j0 + row < n ? at_get(b.m, place.b + (k0 + deep) * b.row + (j0 + row) * b.col) : 0;
        }
        __syncthreads();
        for (int deep = 0; deep < DEPTH; deep++)
            for (int i = 0; i < PER_THREAD; i++)
                for (int j = 0; j < PER_THREAD; j++)
                    sum[i][j] += a_tile[deep][y * PER_THREAD + i] * b_tile[deep][x + j * (TILE / PER_THREAD)];
        __syncthreads();
    }
    for (int i = 0; i < PER_THREAD; i++)
        for (int j = 0; j < PER_THREAD; j++) {
            int32_t row = i0 + y * PER_THREAD + i, col = j0 + x + j * (TILE / PER_THREAD);
            if (row < m && col < n)
                at_set(c, place.c + (int64_t)row * c.ld + col,
                       alpha * sum[i][j] + (d.at ? at_get(d, place.d + (int64_t)row * d.ld + col) : 0));
        }
}

#include "compute/cuda/product_mma.cu"

static struct factor factor_of(const struct mat &m, bool is_turned)
{
    struct factor factor = {m, is_turned ? 1 : m.ld, is_turned ? m.ld : 1};

    return factor;
}

static void product_run(struct queue *queue, const struct product *p, const struct experts *experts)
{
    if (!p->m || !p->n || (!experts->row_end && blas_run(queue, p)) || product_mma_run(queue, p, experts))
        return;
    LAUNCH(queue, product_kernel, product_grid(p, experts, TILE), TILE_THREADS, factor_of(p->a, p->is_a_turned),
           factor_of(p->b, p->is_b_turned), p->c, p->m, p->n, p->k, p->alpha, p->d, *experts);
}
