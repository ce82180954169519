/* compute/cuda/lang.h - the language of the kernels: CUDA C++, or C++ on an emulated device.
 *
 * Kernels are compiled twice. nvcc makes libattune_cuda.so of them. The tests compile the same files with the host's
 * compiler over tests/cuda/emulate.h, which has blocks, threads, barriers, shuffles and shared memory as fibers, and
 * stand-ins for the runtime's calls. So a kernel uses no more of CUDA than what is named here.
 *
 *   LAUNCH(queue, kernel, grid, threads, arguments…)          no shared memory beyond __shared__ variables
 *
 * Threads of a block are a multiple of 32; a kernel that meets a barrier lets all threads of its block come to it. */
#pragma once

#ifdef ATTUNE_EMULATED
#include ATTUNE_EMULATED /* its name */
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#define LAUNCH(queue, kernel, grid, threads, ...)                                                                      \
    do {                                                                                                               \
        kernel<<<grid, threads, 0, cuda_state_of(queue)->stream>>>(__VA_ARGS__);                                       \
        cuda_check(cudaGetLastError(), #kernel);                                                                       \
    } while (0)
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
/* sums[16, 8] += a[16, 16]·b[16, 8] by a warp on tensor cores, BF16 with sums in f32; the PTX manual has the places of the lanes'
 * shares (mma.sync, m16n8k16). */
static __device__ __forceinline__ void multiply_16x8x16(float sums[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
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
#include "compute/nf4.h"
}
