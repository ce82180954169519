/* compute/cuda/cuda_int.h - what the files of the CUDA backend share.
 *
 * All of them are one translation unit, device.cu. Every sum has an order that follows from shapes: partial sums are
 * kept in scratch and added in order, nothing is added by atomics. */
#pragma once

#include "compute/cuda/lang.h"

#include <math.h>
#include <stdint.h>

enum { THREADS = 128, WARP = 32, ROW_BLOCK = 256, EIGHT_CAPABILITY = 89 };

struct blas;
struct graph_set;
struct staging;

struct cuda_state { /* of a queue */
    int device;
    cudaStream_t stream;
    struct blas *blas; /* cuBLASLt with its workspace; NULL: products take kernels of our own */
    void *workspace;
    bool has_eight; /* the device multiplies numbers of eight bits */
    struct staging *staging; /* NULL: puts wait */
    cudaStream_t aside;      /* of copies beside the stream; NULL: there were none yet */
    cudaEvent_t begun, over; /* what they wait for, and the last of them */
    struct graph_set *graphs;
    bool is_recording;       /* what is launched goes into a graph, and does not run */
    bool is_spoilt;          /* something of the record was refused */
    bool is_checked;         /* ATTUNE_CUDA_CHECK: the host waits behind every launch, so an error names its kernel */
};

static inline struct cuda_state *cuda_state_of(struct queue *queue)
{
    return (struct cuda_state *)queue->state;
}

/* What the runtime refuses ends the process: the trainer starts again from its last recovery point. */
static void cuda_check(cudaError_t error, const char *what)
{
    if (error != cudaSuccess)
        die("cuda: %s: %s", what, cudaGetErrorString(error));
}

/* The same of what may go into a graph: what that is refused for shows when it is done, and its work is then launched
 * one by one. */
static void cuda_queued(struct cuda_state *state, cudaError_t error, const char *what)
{
    if (!state->is_recording)
        cuda_check(error, what);
    state->is_spoilt |= error != cudaSuccess;
}

/* Before whatever cannot go into a graph: a wait, a transfer, memory. */
static void graphs_break(struct cuda_state *state);

/* Behind every launch. */
static inline void cuda_launched(struct queue *queue, const char *kernel)
{
    cuda_queued(cuda_state_of(queue), cudaGetLastError(), kernel);
    if (cuda_state_of(queue)->is_checked)
        cuda_check(cudaStreamSynchronize(cuda_state_of(queue)->stream), kernel);
}

static inline int32_t blocks_of(int64_t count, int32_t size)
{
    return (int32_t)((count + size - 1) / size);
}

static inline size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* Scratch is taken in order; a function that takes it with base NULL tells how much it needs. */
struct scratch {
    char *base;
    size_t used_bytes;
};

static inline struct scratch scratch_of(struct queue *queue)
{
    struct scratch scratch = {(char *)queue->scratch, 0};

    return scratch;
}

static void *scratch_take(struct scratch *scratch, size_t bytes)
{
    char *at = scratch->base ? scratch->base + scratch->used_bytes : NULL;

    scratch->used_bytes += aligned(bytes);
    return at;
}

static inline void scratch_check(struct queue *queue, const struct scratch *scratch)
{
    ASSERT(scratch->used_bytes <= queue->scratch_bytes);
}

/* --- on the device --- */

static __device__ __forceinline__ float at_get(const struct mat &m, int64_t index)
{
    return m.type == DTYPE_F32 ? ((const float *)m.at)[index] : wide_of(((const unsigned short *)m.at)[index]);
}

static __device__ __forceinline__ void at_set(const struct mat &m, int64_t index, float value)
{
    if (m.type == DTYPE_F32)
        ((float *)m.at)[index] = value;
    else
        ((unsigned short *)m.at)[index] = half_of(value);
}

static __device__ __forceinline__ float get(const struct mat &m, int32_t row, int32_t col)
{
    return at_get(m, (int64_t)row * m.ld + col);
}

static __device__ __forceinline__ void set(const struct mat &m, int32_t row, int32_t col, float value)
{
    at_set(m, (int64_t)row * m.ld + col, value);
}

static __device__ __forceinline__ float rounded(float value, enum dtype type)
{
    return type == DTYPE_F32 ? value : wide_of(half_of(value));
}

/* Four columns at once: how kernels that stream read and write, at the memory's pace where
 * rows begin at whole fours. */
enum { FOUR = 4 };

struct four {
    float at[FOUR];
};

static __device__ __forceinline__ bool is_whole_four(const struct mat &m, int32_t col)
{
    uintptr_t size = m.type == DTYPE_F32 ? 4 : 2;

    return (((uintptr_t)m.at | (uintptr_t)m.ld * size) & (FOUR * size - 1)) == 0 && col % FOUR == 0 &&
           col + FOUR <= m.cols;
}

/* Zeros behind the last column. */
static __device__ __forceinline__ struct four get_four(const struct mat &m, int32_t row, int32_t col)
{
    int64_t at = (int64_t)row * m.ld + col;
    struct four four;

    if (!is_whole_four(m, col)) {
        UNROLL
        for (int i = 0; i < FOUR; i++)
            four.at[i] = col + i < m.cols ? at_get(m, at + i) : 0;
    } else if (m.type == DTYPE_F32) {
        float4 wide = *(const float4 *)((const float *)m.at + at);
        four.at[0] = wide.x, four.at[1] = wide.y, four.at[2] = wide.z, four.at[3] = wide.w;
    } else {
        uint2 halves = *(const uint2 *)((const unsigned short *)m.at + at);
        four.at[0] = wide_of((unsigned short)halves.x), four.at[1] = wide_of((unsigned short)(halves.x >> 16));
        four.at[2] = wide_of((unsigned short)halves.y), four.at[3] = wide_of((unsigned short)(halves.y >> 16));
    }
    return four;
}

static __device__ __forceinline__ void set_four(const struct mat &m, int32_t row, int32_t col, const struct four &four)
{
    int64_t at = (int64_t)row * m.ld + col;

    if (!is_whole_four(m, col)) {
        UNROLL
        for (int i = 0; i < FOUR; i++)
            if (col + i < m.cols)
                at_set(m, at + i, four.at[i]);
    } else if (m.type == DTYPE_F32) {
        *(float4 *)((float *)m.at + at) = {four.at[0], four.at[1], four.at[2], four.at[3]};
    } else {
        *(uint2 *)((unsigned short *)m.at + at) = {(uint32_t)half_of(four.at[0]) | (uint32_t)half_of(four.at[1]) << 16,
                                                   (uint32_t)half_of(four.at[2]) | (uint32_t)half_of(four.at[3]) << 16};
    }
}

template <typename T> static __device__ __forceinline__ T warp_sum(T value)
{
    for (int mask = WARP / 2; mask; mask /= 2)
        value += SHUFFLE_XOR(value, mask);
    return value;
}

static __device__ __forceinline__ float warp_max(float value)
{
    for (int mask = WARP / 2; mask; mask /= 2)
        value = fmaxf(value, SHUFFLE_XOR(value, mask));
    return value;
}

/* Of a value of each thread of the block, the same for all of them. */
template <typename T> static __device__ T block_sum(T value)
{
    __shared__ T part[WARP];
    int warps = blockDim.x / WARP;
    T sum = 0;

    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int i = 0; i < warps; i++)
        sum += part[i];
    return sum;
}

/* The document of row t. */
static __device__ int32_t document_of(const int32_t *cu_seqlens, int32_t doc_count, int32_t t)
{
    int32_t low = 0, high = doc_count - 1;

    while (low < high) {
        int32_t middle = (low + high + 1) / 2;
        if (cu_seqlens[middle] <= t)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Philox4x32-10: the counter becomes the words. */
static __device__ __forceinline__ void philox(uint32_t c[4], uint64_t seed)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    UNROLL
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c[0] * 0xd2511f53u, b = (uint64_t)c[2] * 0xcd9e8d57u;
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ key[1],
                            (uint32_t)a};
        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
}

/* --- sums over rows --- */

/* partial[b, j] = Σ over the rows t of block b of a[t, j]·b[t, j]·scale[t]; b and scale optional. */
static __global__ void column_partials_kernel(struct mat a, struct mat b, const float *scale, float *partial)
{
    int32_t j = blockIdx.y * blockDim.x + threadIdx.x, first = blockIdx.x * ROW_BLOCK;
    int32_t end = first + ROW_BLOCK < a.rows ? first + ROW_BLOCK : a.rows;
    float sum = 0;

    if (j >= a.cols)
        return;
    for (int32_t t = first; t < end; t++) {
        float value = get(a, t, j);
        if (b.at)
            value *= get(b, t, j);
        sum += scale ? value * scale[t] : value;
    }
    partial[(int64_t)blockIdx.x * a.cols + j] = sum;
}

/* out[j] += factor[j] · Σ partial[b, j], b in order; factor optional. */
static __global__ void column_finish_kernel(struct mat out, const float *partial, int32_t blocks, const float *factor)
{
    int32_t j = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;

    if (j >= out.cols)
        return;
    for (int32_t b = 0; b < blocks; b++)
        sum += partial[(int64_t)b * out.cols + j];
    set(out, 0, j, get(out, 0, j) + (factor ? factor[j] * sum : sum));
}

static float *column_scratch(struct scratch *scratch, int32_t rows, int32_t cols)
{
    return (float *)scratch_take(scratch, (size_t)blocks_of(rows, ROW_BLOCK) * (size_t)cols * sizeof(float));
}

static void column_sums(struct queue *queue, struct mat out, struct mat a, struct mat b, const float *scale,
                        const float *factor, float *partial)
{
    int32_t blocks = blocks_of(a.rows, ROW_BLOCK), across = blocks_of(a.cols, THREADS);

    if (!a.rows || !a.cols)
        return;
    LAUNCH(queue, column_partials_kernel, dim3(blocks, across), THREADS, a, b, scale, partial);
    LAUNCH(queue, column_finish_kernel, dim3(across), THREADS, out, partial, blocks, factor);
}

static inline struct mat no_mat(void)
{
    struct mat mat = {};

    return mat;
}
