/* What goes row by row: embedding, gather and scatter, conversion, DoRA's gain, the gate. A block has a row's
 * stretch of THREADS columns. */
#include "compute/cuda/cuda_int.h"

static dim3 row_grid(int32_t rows, int32_t cols)
{
    return dim3(rows, blocks_of(cols, THREADS));
}

/* The same where a thread has four columns. */
static dim3 four_grid(int32_t rows, int32_t cols)
{
    return dim3(rows, blocks_of(cols, THREADS * FOUR));
}

#define ROW_AND_FOUR(row, col)                                                                                         \
    int32_t row = blockIdx.x, col = (blockIdx.y * blockDim.x + threadIdx.x) * FOUR

#define ROW_AND_COLUMN(row, col)                                                                                       \
    int32_t row = blockIdx.x, col = blockIdx.y * blockDim.x + threadIdx.x

static __global__ void embed_kernel(struct mat x, struct mat table, const int32_t *tok, float scale)
{
    ROW_AND_FOUR(t, j);
    struct four four;

    if (j >= x.cols)
        return;
    four = get_four(table, tok[t], j);
    for (int i = 0; i < FOUR; i++)
        four.at[i] *= scale;
    set_four(x, t, j, four);
}

static void cuda_embed(struct queue *queue, const struct op_embed *op)
{
    LAUNCH(queue, embed_kernel, four_grid(op->x.rows, op->x.cols), THREADS, op->x, op->table, op->batch->tok,
           op->scale);
}

/* The block of the first row of a token, in the order of by_token, adds up all its rows. */
static __global__ void embed_grad_kernel(struct mat dx, struct mat dtable, const int32_t *tok, const int32_t *by_token,
                                         float scale, int32_t padding)
{
    ROW_AND_COLUMN(first, j);
    int32_t token = tok[by_token[first]];
    float sum = 0;

    if (j >= dx.cols || token == padding || (first > 0 && tok[by_token[first - 1]] == token))
        return;
    for (int32_t i = first; i < dx.rows && tok[by_token[i]] == token; i++)
        sum += get(dx, by_token[i], j);
    set(dtable, token, j, get(dtable, token, j) + scale * sum);
}

static void cuda_embed_grad(struct queue *queue, const struct op_embed_grad *op)
{
    LAUNCH(queue, embed_grad_kernel, row_grid(op->dx.rows, op->dx.cols), THREADS, op->dx, op->dtable, op->batch->tok,
           op->batch->by_token, op->scale, op->has_padding ? op->padding : -1);
}

static __global__ void gather_kernel(struct op_rows op, int32_t fan)
{
    ROW_AND_FOUR(i, j);
    struct four sum = {};

    if (j >= op.x.cols)
        return;
    if (op.add.at)
        sum = get_four(op.add, i, j);
    for (int32_t f = i * fan; f < (i + 1) * fan; f++) {
        struct four x = get_four(op.x, op.index[f], j);
        float scale = op.scale.at ? at_get(op.scale, f) : 1;
        for (int k = 0; k < FOUR; k++)
            sum.at[k] += scale * x.at[k];
    }
    set_four(op.y, i, j, sum);
}

static __global__ void scatter_kernel(struct op_rows op)
{
    ROW_AND_COLUMN(i, j);

    if (j < op.x.cols)
        set(op.y, op.index[i], j, get(op.y, op.index[i], j) + get(op.x, i, j));
}

static void cuda_rows(struct queue *queue, const struct op_rows *op)
{
    if (!op->count)
        return;
    if (op->is_scatter)
        LAUNCH(queue, scatter_kernel, row_grid(op->count, op->x.cols), THREADS, *op);
    else
        LAUNCH(queue, gather_kernel, four_grid(op->count, op->x.cols), THREADS, *op, op->fan > 1 ? op->fan : 1);
}

static __global__ void copy_kernel(struct mat x, struct mat y, bool is_added)
{
    ROW_AND_FOUR(t, j);
    struct four value, other = {};

    if (j >= x.cols)
        return;
    value = get_four(x, t, j);
    if (is_added)
        other = get_four(y, t, j);
    for (int i = 0; i < FOUR; i++)
        value.at[i] += other.at[i];
    set_four(y, t, j, value);
}

static void cuda_copy(struct queue *queue, const struct op_copy *op)
{
    if (op->x.rows && op->x.cols)
        LAUNCH(queue, copy_kernel, four_grid(op->x.rows, op->x.cols), THREADS, op->x, op->y, op->is_added);
}

/* A block has a row of W + scale·B·A; its sum of squares is in double. */
static __global__ void dora_kernel(struct op_dora op)
{
    int32_t n = blockIdx.x;
    double squares = 0;

    for (int32_t k = threadIdx.x; k < op.w.cols; k += blockDim.x) {
        float sum = 0;
        for (int32_t r = 0; r < op.a.rows; r++)
            sum += get(op.b, n, r) * get(op.a, r, k);
        sum = get(op.w, n, k) + op.scale * sum;
        squares += (double)sum * sum;
    }
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
        set(op.inverse, 0, n, (float)(1 / sqrt(squares)));
        set(op.gain, 0, n, (float)(get(op.magnitude, 0, n) / sqrt(squares)));
    }
}

static void cuda_dora(struct queue *queue, const struct op_dora *op)
{
    LAUNCH(queue, dora_kernel, dim3(op->w.rows), THREADS, *op);
}

static __global__ void gain_kernel(struct op_gain op)
{
    ROW_AND_COLUMN(t, n);
    float value;

    if (n >= op.x.cols)
        return;
    value = get(op.x, t, n) * get(op.gain, 0, n) + (op.bias.at ? get(op.bias, 0, n) : 0);
    set(op.y, t, n, value + (op.add.at ? get(op.add, t, n) : 0));
}

static void cuda_gain(struct queue *queue, const struct op_gain *op)
{
    LAUNCH(queue, gain_kernel, row_grid(op->x.rows, op->x.cols), THREADS, *op);
}

static void cuda_gain_grad(struct queue *queue, const struct op_gain_grad *op)
{
    struct scratch scratch = scratch_of(queue);
    float *partial = column_scratch(&scratch, op->dy.rows, op->dy.cols);

    scratch_check(queue, &scratch);
    column_sums(queue, op->dmagnitude, op->dy, op->x, NULL, (const float *)op->inverse.at, partial);
}

static size_t gain_grad_scratch(const struct op_gain_grad *op)
{
    struct scratch scratch = {};

    column_scratch(&scratch, op->dy.rows, op->dy.cols);
    return scratch.used_bytes;
}

/* --- the gate --- */

/* h and its slopes by gate and up. */
struct gated {
    float h, by_gate, by_up;
};

static __device__ struct gated gated_silu(float gate, float up)
{
    float sigmoid = 1 / (1 + expf(-gate));
    struct gated gated = {gate * sigmoid * up, sigmoid * (1 + gate * (1 - sigmoid)) * up, gate * sigmoid};

    return gated;
}

/* gate·(1 + tanh(√(2/π)·(gate + 0.044715·gate³))) / 2 */
static __device__ struct gated gated_gelu(float gate, float up)
{
    const float scale = 0.7978845608028654f, cubic = 0.044715f;
    float t = tanhf(scale * (gate + cubic * gate * gate * gate)), value = 0.5f * gate * (1 + t);
    float slope = 0.5f * (1 + t) + 0.5f * gate * (1 - t * t) * scale * (1 + 3 * cubic * gate * gate);
    struct gated gated = {value * up, slope * up, value};

    return gated;
}

static __device__ struct gated gated_oss(float gate, float up, float limit)
{
    float z = fminf(gate, limit), sigmoid = 1 / (1 + expf(-1.702f * z)), raised = fmaxf(-limit, fminf(up, limit)) + 1;
    float slope = sigmoid * (1 + 1.702f * z * (1 - sigmoid));
    struct gated gated = {z * sigmoid * raised, gate <= limit ? slope * raised : 0,
                          fabsf(up) <= limit ? z * sigmoid : 0};

    return gated;
}

static __device__ struct gated gated_of(enum act act, float limit, float gate, float up)
{
    if (act == ACT_GELU_TANH)
        return gated_gelu(gate, up);
    return act == ACT_OSS ? gated_oss(gate, up, limit) : gated_silu(gate, up);
}

static __global__ void glu_kernel(struct op_glu op)
{
    ROW_AND_FOUR(t, j);
    int32_t F = op.h.cols;
    struct four gate, up;

    if (j >= F)
        return;
    gate = get_four(op.gate_up, t, j);
    up = get_four(op.gate_up, t, F + j);
    for (int i = 0; i < FOUR; i++)
        gate.at[i] = gated_of(op.act, op.act_limit, gate.at[i], up.at[i]).h;
    set_four(op.h, t, j, gate);
}

static void cuda_glu(struct queue *queue, const struct op_glu *op)
{
    if (op->h.rows)
        LAUNCH(queue, glu_kernel, four_grid(op->h.rows, op->h.cols), THREADS, *op);
}

static __global__ void glu_grad_kernel(struct op_glu_grad op)
{
    ROW_AND_FOUR(t, j);
    int32_t F = op.dh.cols;
    struct mat gates = op.gate_up, ups = op.gate_up;
    struct four gate, up, dh, h;

    if (j >= F)
        return;
    gates.cols = F;
    ups.at = (char *)ups.at + (size_t)F * (ups.type == DTYPE_F32 ? 4 : 2);
    ups.cols = F;
    gate = get_four(gates, t, j);
    up = get_four(ups, t, j);
    dh = get_four(op.dh, t, j);
    for (int i = 0; i < FOUR; i++) {
        struct gated gated = gated_of(op.act, op.act_limit, gate.at[i], up.at[i]);
        h.at[i] = gated.h;
        gate.at[i] = dh.at[i] * gated.by_gate;
        up.at[i] = dh.at[i] * gated.by_up;
    }
    if (op.h.at)
        set_four(op.h, t, j, h);
    set_four(gates, t, j, gate);
    set_four(ups, t, j, up);
}

static void cuda_glu_grad(struct queue *queue, const struct op_glu_grad *op)
{
    if (op->dh.rows)
        LAUNCH(queue, glu_grad_kernel, four_grid(op->dh.rows, op->dh.cols), THREADS, *op);
}
