/* compute/cuda/blas.h - products by cuBLASLt.
 *
 * The library is opened at run time (its headers are not needed to build); without it products take the kernel in
 * product.cu. Only reductions that have a fixed order are asked for, so equal shapes give equal bits. What the
 * library's heuristic chose for a shape is kept: its first choice, which is the same in every process. With
 * ATTUNE_CUDA_TUNE in the environment its first eight are timed when a shape comes for the first time; another process
 * may then choose otherwise and differ in last bits. */
#pragma once

#include "compute/cuda/cuda_int.h"

enum { BLAS_WORKSPACE = 32 << 20 };

/* C[m, n] = alpha · op(A)·op(B) + D, row-major; op(A) is [m, k]. Types are F32 or BF16, that of A
 * and B the same, that of D and C. */
struct product {
    struct mat a, b, c;
    bool is_a_turned, is_b_turned; /* op is the transpose of what is stored */
    int32_t m, n, k;
    float alpha;
    struct mat d; /* at NULL: 0; may be C */
    /* In eight bits sums are also multiplied by these two numbers, on the device; NULL: they are not. A and B may then
     * be of U8, codes of these formats, for the library alone: A as it is stored, B turned. */
    const float *a_inverse, *b_inverse;
    enum fp8 a_format, b_format;
};

struct blas *blas_open(void *workspace); /* NULL: there is no library */
void blas_close(struct blas *blas);
/* False: the library does not take these shapes, and nothing was queued. */
bool blas_run(struct queue *queue, const struct product *product);
/* Whether it would take them. */
bool blas_takes(struct queue *queue, const struct product *product);
