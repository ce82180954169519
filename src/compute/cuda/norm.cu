/* Norms of rows, a block each. */
#include "compute/cuda/cuda_int.h"

static __device__ __forceinline__ float norm_weight(const struct mat &w, enum norm_kind kind, int32_t j)
{
    return get(w, 0, j) + (kind == NORM_ONE_PLUS ? 1 : 0);
}

static __device__ __forceinline__ struct four norm_weights(const struct mat &w, enum norm_kind kind, int32_t j)
{
    struct four four = get_four(w, 0, j);

    for (int i = 0; i < FOUR; i++)
        four.at[i] += kind == NORM_ONE_PLUS ? 1 : 0;
    return four;
}

static __global__ void norm_kernel(struct op_norm op)
{
    int32_t t = blockIdx.x, D = op.a.cols;
    struct mat r = op.b.at ? op.r : op.a;
    float sum = 0, rstd;

    for (int32_t j = threadIdx.x * FOUR; j < D; j += blockDim.x * FOUR) {
        struct four value = get_four(op.a, t, j);
        if (op.b.at) {
            struct four other = get_four(op.b, t, j);
            for (int i = 0; i < FOUR; i++)
                value.at[i] = rounded(value.at[i] + other.at[i], r.type);
            set_four(r, t, j, value);
        }
        for (int i = 0; i < FOUR; i++)
            sum += value.at[i] * value.at[i];
    }
    rstd = 1 / sqrtf(block_sum(sum) / D + op.eps);
    if (op.rstd && threadIdx.x == 0)
        ((float *)op.rstd)[t] = rstd;
    for (int32_t j = threadIdx.x * FOUR; j < D; j += blockDim.x * FOUR) {
        struct four value = get_four(r, t, j), w = norm_weights(op.w, op.kind, j), add = {};
        if (op.add.at)
            add = get_four(op.add, t, j);
        for (int i = 0; i < FOUR; i++) {
            float normed = value.at[i] * rstd;
            value.at[i] = (op.kind == NORM_LLAMA ? rounded(normed, r.type) : normed) * w.at[i] + add.at[i];
        }
        set_four(op.y, t, j, value);
    }
}

static void cuda_norm(struct queue *queue, const struct op_norm *op)
{
    LAUNCH(queue, norm_kernel, dim3(op->a.rows), THREADS, *op);
}

static __global__ void norm_grad_kernel(struct op_norm_grad op)
{
    int32_t t = blockIdx.x, D = op.dy.cols;
    float rstd = ((const float *)op.rstd)[t], mean = 0;

    for (int32_t j = threadIdx.x * FOUR; j < D; j += blockDim.x * FOUR) {
        struct four dy = get_four(op.dy, t, j), w = norm_weights(op.w, op.kind, j), r = get_four(op.r, t, j);
        for (int i = 0; i < FOUR; i++) /* behind the last column dy and r are zero */
            mean += dy.at[i] * w.at[i] * r.at[i];
    }
    mean = block_sum(mean) / D;
    for (int32_t j = threadIdx.x * FOUR; j < D; j += blockDim.x * FOUR) {
        struct four dy = get_four(op.dy, t, j), w = norm_weights(op.w, op.kind, j), r = get_four(op.r, t, j), dr = {};
        if (!op.is_fresh)
            dr = get_four(op.dr, t, j);
        for (int i = 0; i < FOUR; i++)
            dr.at[i] += rstd * dy.at[i] * w.at[i] - r.at[i] * rstd * rstd * rstd * mean;
        set_four(op.dr, t, j, dr);
    }
}

static size_t norm_grad_scratch(const struct op_norm_grad *op)
{
    struct scratch scratch = {};

    if (op->dw.at)
        column_scratch(&scratch, op->dy.rows, op->dy.cols);
    return scratch.used_bytes;
}

static void cuda_norm_grad(struct queue *queue, const struct op_norm_grad *op)
{
    struct scratch scratch = scratch_of(queue);

    if (op->dw.at) {
        float *partial = column_scratch(&scratch, op->dy.rows, op->dy.cols);
        scratch_check(queue, &scratch);
        column_sums(queue, op->dw, op->dy, op->r, (const float *)op->rstd, NULL, partial);
    }
    LAUNCH(queue, norm_grad_kernel, dim3(op->dy.rows), THREADS, *op);
}
