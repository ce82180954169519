/* The loss, a block a row; the gradient's norm and the optimizer over flat arenas. */
#include "compute/cuda/cuda_int.h"

struct peak {
    float value;
    int32_t at;
};

/* The larger; of equals the first. */
static __device__ struct peak peak_of(struct peak a, struct peak b)
{
    return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

static __device__ struct peak row_peak(const struct mat &logits, int32_t i)
{
    __shared__ struct peak part[WARP];
    struct peak peak = {-INFINITY, INT32_MAX};
    int warps = blockDim.x / WARP;

    for (int32_t v = threadIdx.x; v < logits.cols; v += blockDim.x) {
        struct peak here = {get(logits, i, v), v};
        peak = peak_of(peak, here);
    }
    for (int mask = WARP / 2; mask; mask /= 2) {
        struct peak other = {SHUFFLE_XOR(peak.value, mask), SHUFFLE_XOR(peak.at, mask)};
        peak = peak_of(peak, other);
    }
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = peak;
    __syncthreads();
    peak = part[0];
    for (int w = 1; w < warps; w++)
        peak = peak_of(peak, part[w]);
    return peak;
}

static __global__ void loss_kernel(struct op_loss op)
{
    int32_t i = blockIdx.x, label = op.label[i];
    struct peak peak = row_peak(op.logits, i);
    float sum = 0, lse, coef;

    for (int32_t v = threadIdx.x; v < op.logits.cols; v += blockDim.x)
        sum += expf(get(op.logits, i, v) - peak.value);
    lse = peak.value + logf(block_sum(sum));
    if (threadIdx.x == 0) {
        op.nll[i] = lse - get(op.logits, i, label);
        op.hit[i] = peak.at == label;
    }
    __syncthreads(); /* the label's logit is read before it is overwritten */
    if (!op.coef)
        return;
    coef = op.coef[i];
    for (int32_t v = threadIdx.x; v < op.logits.cols; v += blockDim.x) {
        float logit = get(op.logits, i, v), capped = op.softcap > 0 ? logit / op.softcap : 0;
        set(op.logits, i, v, coef * (expf(logit - lse) - (v == label)) * (1 - capped * capped));
    }
}

static void cuda_loss(struct queue *queue, const struct op_loss *op)
{
    if (op->logits.rows)
        LAUNCH(queue, loss_kernel, dim3(op->logits.rows), THREADS * 2, *op);
}

enum { SUMSQ_BLOCK = 65536 };

static __global__ void sumsq_kernel(struct op_sumsq op)
{
    uint64_t first = (uint64_t)blockIdx.x * SUMSQ_BLOCK, end = first + SUMSQ_BLOCK < op.count ? first + SUMSQ_BLOCK : op.count;
    double sum = 0;

    for (uint64_t i = first + threadIdx.x; i < end; i += blockDim.x)
        sum += (double)((const float *)op.x)[i] * ((const float *)op.x)[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        op.partial[blockIdx.x] = sum;
}

static __global__ void sumsq_finish_kernel(struct op_sumsq op, int32_t blocks)
{
    double sum = 0;

    for (int32_t i = threadIdx.x; i < blocks; i += blockDim.x)
        sum += op.partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *op.sum = op.is_added ? *op.sum + sum : sum;
}

static void cuda_sumsq(struct queue *queue, const struct op_sumsq *op)
{
    int32_t blocks = blocks_of((int64_t)op->count, SUMSQ_BLOCK);

    if (blocks)
        LAUNCH(queue, sumsq_kernel, dim3(blocks), THREADS * 2, *op);
    LAUNCH(queue, sumsq_finish_kernel, dim3(1), THREADS * 2, *op, blocks);
}

/* What is the same for all elements. */
struct adamw_factors {
    float keep, step, root; /* 1 - lr·decay, lr / correction1, 1 / √correction2 */
};

static __global__ void adamw_kernel(struct op_adamw op, struct adamw_factors f)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    double sumsq = *op.sumsq;
    float clip = 1, grad, m, v, p, *master = (float *)op.master, *m_at = (float *)op.m, *v_at = (float *)op.v;
    struct mat copy = {op.copy, 1, 0, 0, op.copy_type};

    if (i >= op.count || !isfinite(sumsq))
        return;
    if (op.max_norm > 0)
        clip = (float)fmin(1., op.max_norm / (sqrt(sumsq) + 1e-6));
    grad = clip * ((const float *)op.grad)[i];
    m = op.beta1 * m_at[i] + (1 - op.beta1) * grad;
    v = op.beta2 * v_at[i] + (1 - op.beta2) * grad * grad;
    p = master[i] * f.keep - f.step * m / (sqrtf(v) * f.root + op.eps);
    m_at[i] = m;
    v_at[i] = v;
    master[i] = p;
    if (op.copy)
        at_set(copy, (int64_t)i, p);
}

static void cuda_adamw(struct queue *queue, const struct op_adamw *op)
{
    struct adamw_factors factors = {
        (float)(1 - (double)op->lr * op->decay),
        (float)(op->lr / (1 - pow(op->beta1, (double)op->step))),
        (float)(1 / sqrt(1 - pow(op->beta2, (double)op->step))),
    };

    if (op->count)
        LAUNCH(queue, adamw_kernel, dim3(blocks_of((int64_t)op->count, THREADS * 2)), THREADS * 2, *op, factors);
}
