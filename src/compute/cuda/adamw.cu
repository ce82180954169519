/* The gradient's norm and the optimizer, over flat arenas whose numbers are F32 or BF16; see compute/stochastic.h for the rounding of the
 * latter. The clip is worked out on the device, from the sum of squares that lies there. */
#include "compute/cuda/cuda_int.h"

extern "C" {
#include "compute/stochastic.h"
}

static __device__ __forceinline__ float state_get(const void *at, enum dtype type, uint64_t i)
{
    return type == DTYPE_F32 ? ((const float *)at)[i] : wide_of(((const unsigned short *)at)[i]);
}

enum { SUMSQ_BLOCK = 65536 };

static __global__ void sumsq_kernel(struct op_sumsq op)
{
    uint64_t first = (uint64_t)blockIdx.x * SUMSQ_BLOCK, end = first + SUMSQ_BLOCK < op.count ? first + SUMSQ_BLOCK : op.count;
    double sum = 0;

    for (uint64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
        double x = state_get(op.x, op.type, i);
        sum += x * x;
    }
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

/* The bits of a thread's eight elements, one call of the generator for each kind of state. */
struct noise {
    uint32_t word[4];
};

static __device__ struct noise noise_of(const struct op_adamw &op, enum stochastic_kind kind, uint64_t call)
{
    struct noise noise = {{(uint32_t)call, (uint32_t)(call >> 32), 0x80000000u + (uint32_t)kind, (uint32_t)op.step}};

    philox(noise.word, op.seed);
    return noise;
}

static __device__ __forceinline__ void state_set(void *at, enum dtype type, uint64_t i, float value, const struct noise &noise, int half)
{
    uint32_t bits = bits_of(value);

    if (type == DTYPE_F32)
        ((float *)at)[i] = value;
    else if ((bits & 0x7fffffff) > 0x7f800000)
        ((unsigned short *)at)[i] = half_of(value);
    else
        ((unsigned short *)at)[i] = (unsigned short)((bits + (noise.word[half / 2] >> 16 * (half % 2) & 0xffff)) >> 16);
}

static __device__ float clip_of(double sumsq, float max_norm)
{
    return max_norm > 0 ? (float)fmin(1., max_norm / (sqrt(sumsq) + 1e-6)) : 1;
}

/* A thread has eight elements of a stretch, 16 apart. */
static __global__ void adamw_kernel(struct op_adamw op, struct adamw_factors f)
{
    uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, call = op.first / STOCHASTIC_STRETCH * STOCHASTIC_CALLS + thread;
    uint64_t begin = thread / STOCHASTIC_CALLS * STOCHASTIC_STRETCH + thread % STOCHASTIC_CALLS;
    double sumsq = *op.sumsq;
    float clip = clip_of(sumsq, op.max_norm);
    struct mat copy = {op.copy, 1, 0, 0, op.copy_type};
    struct noise for_weight = {}, for_m = {}, for_v = {};

    if (begin >= op.count || !isfinite(sumsq))
        return;
    if (op.master_type == DTYPE_BF16)
        for_weight = noise_of(op, STOCHASTIC_WEIGHT, call);
    if (op.moment_type == DTYPE_BF16) {
        for_m = noise_of(op, STOCHASTIC_M, call);
        for_v = noise_of(op, STOCHASTIC_V, call);
    }
    UNROLL
    for (int half = 0; half < STOCHASTIC_STRETCH / STOCHASTIC_CALLS; half++) {
        uint64_t i = begin + (uint64_t)half * STOCHASTIC_CALLS;
        float grad, m, v, p;
        if (i >= op.count)
            break;
        grad = clip * state_get(op.grad, op.grad_type, i);
        m = op.beta1 * state_get(op.m, op.moment_type, i) + (1 - op.beta1) * grad;
        v = op.beta2 * state_get(op.v, op.moment_type, i) + (1 - op.beta2) * grad * grad;
        p = state_get(op.master, op.master_type, i) * f.keep - f.step * m / (sqrtf(v) * f.root + op.eps);
        state_set(op.m, op.moment_type, i, m, for_m, half);
        state_set(op.v, op.moment_type, i, v, for_v, half);
        state_set(op.master, op.master_type, i, p, for_weight, half);
        if (op.copy)
            at_set(copy, (int64_t)i, p);
    }
}

static void cuda_adamw(struct queue *queue, const struct op_adamw *op)
{
    struct adamw_factors factors = {
        (float)(1 - (double)op->lr * op->decay),
        (float)(op->lr / (1 - pow(op->beta1, (double)op->step))),
        (float)(1 / sqrt(1 - pow(op->beta2, (double)op->step))),
    };
    int64_t stretches = ((int64_t)op->count + STOCHASTIC_STRETCH - 1) / STOCHASTIC_STRETCH;

    if (op->count)
        LAUNCH(queue, adamw_kernel, dim3(blocks_of(stretches * STOCHASTIC_CALLS, THREADS * 2)), THREADS * 2, *op, factors);
}
