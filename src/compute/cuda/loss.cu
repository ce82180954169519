/* The loss, a block a row. */
#include "compute/cuda/cuda_int.h"

/* Of some logits: the largest and where it is first, Σ exp(logit - top). */
struct tally {
    float top, sum;
    int32_t at;
};

static __device__ __forceinline__ struct tally tally_of(const struct tally &a, const struct tally &b)
{
    bool is_b = b.top > a.top || (b.top == a.top && b.at < a.at);
    struct tally both = {is_b ? b.top : a.top, 0, is_b ? b.at : a.at};

    both.sum = a.sum * (a.top == both.top ? 1 : expf(a.top - both.top)) +
               b.sum * (b.top == both.top ? 1 : expf(b.top - both.top));
    return both;
}

/* A thread's share of a row, in one pass. */
static __device__ struct tally thread_tally(const struct mat &logits, int32_t row)
{
    struct tally tally = {-INFINITY, 0, INT32_MAX};

    for (int32_t v = threadIdx.x * FOUR; v < logits.cols; v += blockDim.x * FOUR) {
        struct four four = get_four(logits, row, v);
        float top = tally.top;
        UNROLL
        for (int i = 0; i < FOUR; i++)
            if (v + i < logits.cols && four.at[i] > tally.top) {
                tally.top = four.at[i];
                tally.at = v + i;
            }
        if (tally.top != top)
            tally.sum *= expf(top - tally.top);
        UNROLL
        for (int i = 0; i < FOUR; i++)
            if (v + i < logits.cols)
                tally.sum += expf(four.at[i] - tally.top);
    }
    return tally;
}

static __device__ struct tally row_tally(const struct mat &logits, int32_t row)
{
    __shared__ struct tally part[WARP];
    struct tally tally = thread_tally(logits, row);
    int warps = blockDim.x / WARP;

    for (int mask = WARP / 2; mask; mask /= 2) {
        struct tally other = {SHUFFLE_XOR(tally.top, mask), SHUFFLE_XOR(tally.sum, mask), SHUFFLE_XOR(tally.at, mask)};
        tally = tally_of(tally, other);
    }
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = tally;
    __syncthreads();
    tally = part[0];
    for (int w = 1; w < warps; w++)
        tally = tally_of(tally, part[w]);
    return tally;
}

static __global__ void loss_kernel(struct op_loss op)
{
    int32_t i = blockIdx.x, label = op.label[i];
    struct tally tally = row_tally(op.logits, i);
    float lse = tally.top + logf(tally.sum), coef;

    if (threadIdx.x == 0) {
        op.nll[i] = lse - get(op.logits, i, label);
        op.hit[i] = tally.at == label;
    }
    __syncthreads(); /* the label's logit is read before it is overwritten */
    if (!op.coef)
        return;
    coef = op.coef[i];
    for (int32_t v = threadIdx.x * FOUR; v < op.logits.cols; v += blockDim.x * FOUR) {
        struct four four = get_four(op.logits, i, v);
        UNROLL
        for (int k = 0; k < FOUR; k++) {
            float logit = four.at[k], capped = op.softcap > 0 ? logit / op.softcap : 0;
            four.at[k] = coef * (expf(logit - lse) - (v + k == label)) * (1 - capped * capped);
        }
        set_four(op.logits, i, v, four);
    }
}

static void cuda_loss(struct queue *queue, const struct op_loss *op)
{
    if (op->logits.rows)
        LAUNCH(queue, loss_kernel, dim3(op->logits.rows), THREADS * 2, *op);
}
