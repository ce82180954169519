/* compute/cuda/lang.h - the language of the kernels: CUDA C++, or C++ on an emulated device.
 *
 * Kernels are compiled twice. nvcc makes libattune_cuda.so of them. The tests compile the same files with the host's
 * compiler over tests/cuda/emulate.h, which has blocks, threads, barriers, shuffles and shared memory as fibers, and
 * stand-ins for the runtime's calls. So a kernel uses no more of CUDA than what is named here.
 *
 *   LAUNCH(queue, kernel, grid, threads, arguments…)                  no shared memory beyond __shared__ variables
 *   LAUNCH_SHARED(queue, kernel, grid, threads, bytes, arguments…)    with so much, named by SHARED_MEMORY(type, name)
 *
 * Threads of a block are a multiple of 32; a kernel that meets a barrier lets all threads of its block come to it. */
#pragma once

#ifdef ATTUNE_EMULATED
#include ATTUNE_EMULATED /* its name */
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#define LAUNCH_PLAIN(queue, kernel, grid, threads, bytes, ...)                                                         \
    do {                                                                                                               \
        kernel<<<grid, threads, bytes, cuda_state_of(queue)->stream>>>(__VA_ARGS__);                                   \
        cuda_launched(queue, #kernel);                                                                                 \
    } while (0)
#define LAUNCH(queue, kernel, grid, threads, ...) LAUNCH_PLAIN(queue, kernel, grid, threads, 0, __VA_ARGS__)
#define LAUNCH_SHARED(queue, kernel, grid, threads, bytes, ...)                                                        \
    do {                                                                                                               \
        cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)), #kernel);  \
        LAUNCH_PLAIN(queue, kernel, grid, threads, bytes, __VA_ARGS__);                                                \
    } while (0)
#define SHARED_MEMORY(type, name)                                                                                      \
    extern __shared__ __align__(16) unsigned char shared_memory[];                                                     \
    type &name = *(type *)shared_memory
#define UNROLL _Pragma("unroll")
#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#define SHUFFLE(value, lane) __shfl_sync(0xffffffffu, value, lane)
static __device__ __forceinline__ float wide_of(unsigned short half)
{
    return __uint_as_float((unsigned)half << 16);
}
static __device__ __forceinline__ unsigned short half_of(float value)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
static __device__ __forceinline__ uint32_t bits_of(float value)
{
    return __float_as_uint(value);
}
/* sums[16, 8] += a[16, 16]·b[16, 8] by a warp on tensor cores, BF16 with sums in f32; the PTX manual has the places of
 * the lanes' shares (mma.sync, m16n8k16). */
static __device__ __forceinline__ void multiply_16x8x16(float sums[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four matrices of 8 x 8 BF16 from shared memory (ldmatrix): lanes 8i .. 8i + 7 name the rows of matrix i, 16
 * aligned bytes each. A lane gets columns 2(lane % 4) and the next of row lane / 4 of each; turned: those two
 * rows of column lane / 4. */
static __device__ __forceinline__ void load_matrices(uint32_t to[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
static __device__ __forceinline__ void load_matrices_turned(uint32_t to[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
/* 16 aligned bytes to shared memory, zeros if not is_there, while the thread goes on: they have come when fetch_wait
 * says so of the group that fetch_group closed, to other threads behind a barrier. */
static __device__ __forceinline__ void fetch_16(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void fetch_group(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All groups but the last `left`. */
template <int left> static __device__ __forceinline__ void fetch_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}
/* 2ˣ within two units in the last place; 0 of -∞. */
static __device__ __forceinline__ float power_of_two(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* a·b + c with the product rounded, as the host has it. */
static __device__ __forceinline__ float multiply_then_add(float a, float b, float c)
{
    return __fadd_rn(__fmul_rn(a, b), c);
}
#endif

/* The headers of the C side. */
#ifndef _Noreturn
#define _Noreturn [[noreturn]]
#endif
extern "C" {
#include "base/err.h"
#include "compute/backend.h"
#include "compute/check.h"
#include "compute/fp8.h"
#include "compute/nf4.h"
}
