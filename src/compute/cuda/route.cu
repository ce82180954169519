/* Mixture of experts: who takes which token. The choice is a thread's, a token each; the sort a
 * block's, an expert each. */
#include "compute/cuda/cuda_int.h"

/* exp(logit - max) / sum is a probability. */
struct softmax {
    float max, sum;
};

static __device__ struct softmax softmax_of(const struct mat &logits, int32_t t)
{
    struct softmax s = {-INFINITY, 0};

    for (int32_t e = 0; e < logits.cols; e++)
        s.max = fmaxf(s.max, get(logits, t, e));
    for (int32_t e = 0; e < logits.cols; e++)
        s.sum += expf(get(logits, t, e) - s.max);
    return s;
}

static __device__ float share_of(const struct mat &logits, int32_t t, int32_t e, const struct softmax &s)
{
    return expf(get(logits, t, e) - s.max) / s.sum;
}

/* As compute/route.h chooses. */
static __device__ void choose(const struct mat &logits, int32_t t, int32_t top, int32_t *choice)
{
    for (int32_t j = 0; j < top; j++) {
        int32_t best = -1;
        float most = 0;
        for (int32_t e = 0; e < logits.cols; e++) {
            float value = get(logits, t, e);
            bool is_taken = false;
            for (int32_t i = 0; i < j && !is_taken; i++)
                is_taken = choice[i] == e;
            if (!is_taken && (best < 0 || value > most || (most != most && value == value))) {
                best = e;
                most = value;
            }
        }
        choice[j] = best;
    }
}

static __device__ float chosen_sum(const struct mat &logits, int32_t t, int32_t top, const int32_t *choice,
                                   const struct softmax &s, bool is_normalized)
{
    float sum = 0;

    for (int32_t j = 0; j < top; j++)
        sum += share_of(logits, t, choice[j], s);
    return is_normalized ? sum : 1;
}

static __global__ void route_kernel(struct op_route op, int32_t *choices, struct softmax *softmaxes)
{
    int32_t t = blockIdx.x * blockDim.x + threadIdx.x, top = op.weight.cols, *choice = choices + (int64_t)t * top;
    struct softmax s;
    float sum;

    if (t >= op.logits.rows)
        return;
    s = softmaxes[t] = softmax_of(op.logits, t);
    choose(op.logits, t, top, choice);
    sum = chosen_sum(op.logits, t, top, choice, s, op.is_normalized);
    for (int32_t j = 0; j < top; j++)
        set(op.weight, t, j, share_of(op.logits, t, choice[j], s) / sum);
}

static __global__ void count_kernel(const int32_t *choices, int32_t count, int32_t *row_end)
{
    int32_t sum = 0;

    for (int32_t i = threadIdx.x; i < count; i += blockDim.x)
        sum += choices[i] == (int32_t)blockIdx.x;
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        row_end[blockIdx.x] = sum;
}

static __global__ void ends_kernel(int32_t *row_end, int32_t E)
{
    if (threadIdx.x == 0)
        for (int32_t e = 1; e < E; e++)
            row_end[e] += row_end[e - 1];
}

/* Places of one expert's choices, in order: a thread counts those before its own stretch. */
static __global__ void place_kernel(struct op_route op, const int32_t *choices, int32_t count)
{
    __shared__ int32_t counts[THREADS];
    int32_t e = blockIdx.x, stretch = (count + THREADS - 1) / THREADS, first = threadIdx.x * stretch;
    int32_t end = first + stretch < count ? first + stretch : count, at = e ? op.row_end[e - 1] : 0, own = 0;

    for (int32_t i = first; i < end; i++)
        own += choices[i] == e;
    counts[threadIdx.x] = own;
    __syncthreads();
    for (int i = 0; i < (int)threadIdx.x; i++)
        at += counts[i];
    for (int32_t i = first; i < end; i++) {
        if (choices[i] != e)
            continue;
        op.row[i] = at;
        op.token[at] = i / op.weight.cols;
        at_set(op.row_weight, at, get(op.weight, i / op.weight.cols, i % op.weight.cols));
        at++;
    }
}

/* partial[0, b, e] = choices of e among ROW_BLOCK tokens, partial[1, b, e] = their probabilities of e. */
static __global__ void load_kernel(struct op_route op, const int32_t *choices, const struct softmax *softmaxes,
                                   float *partial)
{
    int32_t e = blockIdx.y * blockDim.x + threadIdx.x, first = blockIdx.x * ROW_BLOCK, E = op.logits.cols;
    int32_t top = op.weight.cols;
    int32_t end = first + ROW_BLOCK < op.logits.rows ? first + ROW_BLOCK : op.logits.rows;
    float chosen = 0, probability = 0;

    if (e >= E)
        return;
    for (int32_t t = first; t < end; t++) {
        for (int32_t j = 0; j < top; j++)
            chosen += choices[(int64_t)t * top + j] == e;
        probability += share_of(op.logits, t, e, softmaxes[t]);
    }
    partial[(int64_t)blockIdx.x * E + e] = chosen;
    partial[((int64_t)gridDim.x + blockIdx.x) * E + e] = probability;
}

struct route_scratch {
    int32_t *choices;
    struct softmax *softmaxes; /* [T] */
    float *partial;
};

static struct route_scratch route_scratch_take(struct scratch *scratch, const struct op_route *op)
{
    size_t T = (size_t)op->logits.rows, blocks = (size_t)blocks_of(op->logits.rows, ROW_BLOCK);
    struct route_scratch taken;

    taken.choices = (int32_t *)scratch_take(scratch, T * (size_t)op->weight.cols * sizeof(int32_t));
    taken.softmaxes = (struct softmax *)scratch_take(scratch, T * sizeof *taken.softmaxes);
    taken.partial = (float *)scratch_take(scratch, 2 * blocks * (size_t)op->logits.cols * sizeof(float));
    return taken;
}

static size_t route_scratch_bytes(const struct op_route *op)
{
    struct scratch scratch = {};

    route_scratch_take(&scratch, op);
    return scratch.used_bytes;
}

static void cuda_route(struct queue *queue, const struct op_route *op)
{
    struct scratch scratch = scratch_of(queue);
    struct route_scratch at = route_scratch_take(&scratch, op);
    int32_t T = op->logits.rows, E = op->logits.cols, count = T * op->weight.cols, blocks = blocks_of(T, ROW_BLOCK);

    scratch_check(queue, &scratch);
    LAUNCH(queue, route_kernel, dim3(blocks_of(T, THREADS)), THREADS, *op, at.choices, at.softmaxes);
    LAUNCH(queue, count_kernel, dim3(E), THREADS, at.choices, count, op->row_end);
    LAUNCH(queue, ends_kernel, dim3(1), WARP, op->row_end, E);
    LAUNCH(queue, place_kernel, dim3(E), THREADS, *op, at.choices, count);
    if (!op->load.at)
        return;
    LAUNCH(queue, load_kernel, dim3(blocks, blocks_of(E, THREADS)), THREADS, *op, at.choices, at.softmaxes, at.partial);
    for (int row = 0; row < 2; row++) {
        struct mat load = {(float *)op->load.at + (size_t)row * (size_t)op->load.ld, 1, E, E, DTYPE_F32};
        const float *partial = at.partial + (size_t)row * (size_t)blocks * (size_t)E;
        LAUNCH(queue, column_finish_kernel, dim3(blocks_of(E, THREADS)), THREADS, load, partial, blocks,
               (const float *)NULL);
    }
}

/* dweight[t, j] = dout[t]·y[row[t, j]], a warp each. */
static __global__ void dweight_kernel(struct op_route_grad op, float *dweight)
{
    int64_t i = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    int32_t top = op.weight.cols, lane = threadIdx.x % WARP;
    float sum = 0;

    if (i >= (int64_t)op.logits.rows * top)
        return;
    for (int32_t c = lane; c < op.y.cols; c += WARP)
        sum += get(op.dout, (int32_t)(i / top), c) * get(op.y, op.row[i], c);
    sum = warp_sum(sum);
    if (lane == 0)
        dweight[i] = sum;
}

/* dweight leaves as the gradient of the chosen probabilities. */
static __global__ void route_grad_kernel(struct op_route_grad op, float *dweights, int32_t *choices)
{
    int32_t t = blockIdx.x * blockDim.x + threadIdx.x, E = op.logits.cols, top = op.weight.cols;
    int32_t *choice = choices + (int64_t)t * top;
    float *dweight = dweights + (int64_t)t * top, mean = 0, all = 0, sum;
    struct softmax s;

    if (t >= op.logits.rows)
        return;
    s = softmax_of(op.logits, t);
    choose(op.logits, t, top, choice);
    sum = chosen_sum(op.logits, t, top, choice, s, op.is_normalized);
    for (int32_t j = 0; op.is_normalized && j < top; j++)
        mean += dweight[j] * share_of(op.logits, t, choice[j], s) / sum;
    for (int32_t j = 0; j < top; j++) {
        dweight[j] = (dweight[j] - mean) / sum;
        all += share_of(op.logits, t, choice[j], s) * dweight[j];
    }
    for (int32_t e = 0; op.aux.at && e < E; e++)
        all += share_of(op.logits, t, e, s) * get(op.aux, 0, e);
    for (int32_t e = 0; e < E; e++) {
        float slope = op.aux.at ? get(op.aux, 0, e) : 0;
        for (int32_t j = 0; j < top; j++)
            slope += choice[j] == e ? dweight[j] : 0;
        set(op.dlogits, t, e, share_of(op.logits, t, e, s) * (slope - all));
    }
}

struct route_grad_scratch {
    float *dweights;
    int32_t *choices;
};

static struct route_grad_scratch route_grad_scratch_take(struct scratch *scratch, const struct op_route_grad *op)
{
    size_t count = (size_t)op->logits.rows * (size_t)op->weight.cols;
    struct route_grad_scratch taken;

    taken.dweights = (float *)scratch_take(scratch, count * sizeof(float));
    taken.choices = (int32_t *)scratch_take(scratch, count * sizeof(int32_t));
    return taken;
}

static size_t route_grad_scratch_bytes(const struct op_route_grad *op)
{
    struct scratch scratch = {};

    route_grad_scratch_take(&scratch, op);
    return scratch.used_bytes;
}

static void cuda_route_grad(struct queue *queue, const struct op_route_grad *op)
{
    struct scratch scratch = scratch_of(queue);
    struct route_grad_scratch at = route_grad_scratch_take(&scratch, op);
    int32_t T = op->logits.rows;

    scratch_check(queue, &scratch);
    LAUNCH(queue, dweight_kernel, dim3(blocks_of((int64_t)T * op->weight.cols, THREADS / WARP)), THREADS, *op,
           at.dweights);
    LAUNCH(queue, route_grad_kernel, dim3(blocks_of(T, THREADS)), THREADS, *op, at.dweights, at.choices);
}
