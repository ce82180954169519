/* Tiles of BF16 in shared memory and products of them by warps on tensor cores, sums in f32.
 *
 * A warp has 16 rows of one side and meets 16 rows of the other side's tile at a time. What leaves one product as sums
 * enters the next as an operand without leaving the registers. Rows of a tile are an odd number of 16 bytes apart, so
 * that the eight rows of a matrix that ldmatrix reads lie in all the banks. */
#pragma once

#include "compute/cuda/cuda_int.h"

enum { MMA_ROWS = 64, MMA_WARPS = MMA_ROWS / 16, MMA_THREADS = MMA_WARPS * WARP, MMA_PAD = 8, MMA_CHUNK = 16 };

/* The lane's place in the sums of a 16 x 8 product: rows `row` and row + 8, columns `pair` and pair + 1. */
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

template <int D, int ROWS> struct tile {
    unsigned short at[ROWS][D + MMA_PAD];
};

static __device__ __forceinline__ bool is_fetchable(const struct mat &m)
{
    return ((uintptr_t)m.at | (uintptr_t)m.ld * 2) % 16 == 0;
}

/* Begins to bring `cols` columns, a multiple of 8, from `col` on of the rows from `row` on, by all threads of a block
 * of MMA_THREADS; those behind the last of `rows`, and columns behind `cols`, are zero. */
template <int D, int ROWS>
static __device__ __forceinline__ void tile_fetch(struct tile<D, ROWS> *tile, const struct mat &m, int32_t row,
                                                  int32_t rows, int32_t col, int32_t cols, bool can_fetch)
{
    const unsigned short *from = (const unsigned short *)m.at + (int64_t)row * m.ld + col;

    for (int i = threadIdx.x; i < ROWS * (D / 8); i += MMA_THREADS) {
        int r = i / (D / 8), c = i % (D / 8) * 8;
        bool is_there = row + r < rows && c < cols;
        const unsigned short *source = is_there ? from + (int64_t)r * m.ld + c : (const unsigned short *)m.at;
        unsigned short *to = &tile->at[r][c];
        if (can_fetch)
            fetch_16(to, source, is_there);
        else
            UNROLL
            for (int k = 0; k < 8; k++)
                to[k] = is_there ? source[k] : 0;
    }
}

/* 16 rows of D columns as the first operand of products over the columns. */
template <int D> struct rows_operand {
    uint32_t part[D / 16][4];
};

/* From global memory; see tile_fetch. */
template <int D>
static __device__ __forceinline__ void rows_load(struct rows_operand<D> *rows, const struct mat &m, int32_t row,
                                                 int32_t count, int32_t col, int32_t cols, bool can_fetch)
{
    const unsigned short *from = (const unsigned short *)m.at + col;
    struct lane_place lane = lane_place();

    UNROLL
    for (int k = 0; k < D / 16; k++)
        UNROLL
        for (int i = 0; i < 4; i++) {
            int32_t r = row + lane.row + i % 2 * 8, c = k * 16 + i / 2 * 8 + lane.pair;
            const unsigned short *at = from + (int64_t)r * m.ld + c;
            if (r >= count || c >= cols)
                rows->part[k][i] = 0;
            else
                rows->part[k][i] = can_fetch ? *(const uint32_t *)at : (uint32_t)at[0] | (uint32_t)at[1] << 16;
        }
}

/* The fragment of columns 16k .. of 16 rows of a tile, as rows_operand has it. */
template <int D, int ROWS>
static __device__ __forceinline__ void fragment_load(uint32_t to[4], const struct tile<D, ROWS> *tile, int row, int k)
{
    int lane = threadIdx.x % WARP;

    load_matrices(to, &tile->at[row + lane % 16][k * 16 + lane / 16 * 8]);
}

/* sums[16, 16] of rows by the 16 rows of the tile from n on, over the columns of both; sums[0] are
 * those by the first eight. */
template <int D, int ROWS>
static __device__ __forceinline__ void multiply_rows(float sums[2][4], const struct rows_operand<D> &rows,
                                                     const struct tile<D, ROWS> *tile, int n)
{
    int lane = threadIdx.x % WARP;

    UNROLL
    for (int k = 0; k < D / 16; k++) {
        uint32_t b[4];
        load_matrices(b, &tile->at[n + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
        multiply_16x8x16(sums[0], rows.part[k], b);
        multiply_16x8x16(sums[1], rows.part[k], b + 2);
    }
}

/* The same with rows that lie in shared memory from `row` on. */
template <int D, int ROWS, int OTHER_ROWS>
static __device__ __forceinline__ void multiply_tiles(float sums[2][4], const struct tile<D, ROWS> *rows, int row,
                                                      const struct tile<D, OTHER_ROWS> *tile, int n)
{
    int lane = threadIdx.x % WARP;

    UNROLL
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[4], b[4];
        fragment_load(a, rows, row, k);
        load_matrices(b, &tile->at[n + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
        multiply_16x8x16(sums[0], a, b);
        multiply_16x8x16(sums[1], a, b + 2);
    }
}

/* sums[16, D] += weights [16, 16] by 16 rows of the tile from n on: products over those rows. */
template <int D, int ROWS>
static __device__ __forceinline__ void multiply_down(float sums[D / 8][4], const uint32_t weights[4],
                                                     const struct tile<D, ROWS> *tile, int n)
{
    int lane = threadIdx.x % WARP;

    UNROLL
    for (int j = 0; j < D / 16; j++) {
        uint32_t b[4];
        load_matrices_turned(b, &tile->at[n + lane % 16][j * 16 + lane / 16 * 8]);
        multiply_16x8x16(sums[2 * j], weights, b);
        multiply_16x8x16(sums[2 * j + 1], weights, b + 2);
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

template <int D> static __device__ __forceinline__ void sums_clear(float sums[D / 8][4])
{
    UNROLL
    for (int j = 0; j < D / 8; j++)
        UNROLL
        for (int i = 0; i < 4; i++)
            sums[j][i] = 0;
}

/* The warp's 16 rows, the lane's two of them times a factor each. */
template <int D>
static __device__ __forceinline__ void rows_store(const struct mat &m, int32_t row, int32_t rows, int32_t col,
                                                  int32_t cols, const float sums[D / 8][4], float first_factor,
                                                  float second_factor, bool can_fetch)
{
    struct lane_place lane = lane_place();

    UNROLL
    for (int half = 0; half < 2; half++) {
        int32_t r = row + lane.row + half * 8;
        float factor = half ? second_factor : first_factor;
        unsigned short *to = (unsigned short *)m.at + (int64_t)r * m.ld + col + lane.pair;
        UNROLL
        for (int j = 0; r < rows && j < D / 8 && j * 8 < cols; j++) {
            uint32_t both = pack(factor * sums[j][half * 2], factor * sums[j][half * 2 + 1]);
            if (can_fetch) {
                *(uint32_t *)(to + j * 8) = both;
            } else {
                to[j * 8] = (unsigned short)both;
                to[j * 8 + 1] = (unsigned short)(both >> 16);
            }
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
