/* What goes row by row: embedding, gather and scatter, conversion, DoRA's gain, the gate. A block has a row's stretch of
 * THREADS columns. */
#include "compute/cuda/cuda_int.h"

static dim3 row_grid(int32_t rows, int32_t cols)
{
    return dim3(rows, blocks_of(cols, THREADS));
}

#define ROW_AND_COLUMN(row, col)                                                                                       \
    int32_t row = blockIdx.x, col = blockIdx.y * blockDim.x + threadIdx.x

static __global__ void embed_kernel(struct mat x, struct mat table, const int32_t *tok, float scale)
{
    ROW_AND_COLUMN(t, j);

    if (j < x.cols)
        set(x, t, j, scale * get(table, tok[t], j));
}

static void cuda_embed(struct queue *queue, const struct op_embed *op)
{
    LAUNCH(queue, embed_kernel, row_grid(op->x.rows, op->x.cols), THREADS, op->x, op->table, op->batch->tok, op->scale);
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
    ROW_AND_COLUMN(i, j);
    float sum;

    if (j >= op.x.cols)
        return;
    sum = op.add.at ? get(op.add, i, j) : 0;
    for (int32_t f = i * fan; f < (i + 1) * fan; f++)
        sum += (op.scale.at ? at_get(op.scale, f) : 1) * get(op.x, op.index[f], j);
    set(op.y, i, j, sum);
}

static __global__ void scatter_kernel(struct op_rows op)
{
    ROW_AND_COLUMN(i, j);

    if (j < op.x.cols)
        set(op.y, op.index[i], j, get(op.y, op.index[i], j) + get(op.x, i, j));
}

static void cuda_rows(struct queue *queue, const struct op_rows *op)
{
    dim3 grid = row_grid(op->count, op->x.cols);

    if (!op->count)
        return;
    if (op->is_scatter)
        LAUNCH(queue, scatter_kernel, grid, THREADS, *op);
    else
        LAUNCH(queue, gather_kernel, grid, THREADS, *op, op->fan > 1 ? op->fan : 1);
}

static __global__ void copy_kernel(struct mat x, struct mat y, bool is_added)
{
    ROW_AND_COLUMN(t, j);

    if (j < x.cols)
        set(y, t, j, get(x, t, j) + (is_added ? get(y, t, j) : 0));
}

static void cuda_copy(struct queue *queue, const struct op_copy *op)
{
    if (op->x.rows && op->x.cols)
        LAUNCH(queue, copy_kernel, row_grid(op->x.rows, op->x.cols), THREADS, op->x, op->y, op->is_added);
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
    struct gated gated = {z * sigmoid * raised, gate <= limit ? slope * raised : 0, fabsf(up) <= limit ? z * sigmoid : 0};

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
    ROW_AND_COLUMN(t, j);
    int32_t F = op.h.cols;

    if (j < F)
        set(op.h, t, j, gated_of(op.act, op.act_limit, get(op.gate_up, t, j), get(op.gate_up, t, F + j)).h);
}

static void cuda_glu(struct queue *queue, const struct op_glu *op)
{
    if (op->h.rows)
        LAUNCH(queue, glu_kernel, row_grid(op->h.rows, op->h.cols), THREADS, *op);
}

static __global__ void glu_grad_kernel(struct op_glu_grad op)
{
    ROW_AND_COLUMN(t, j);
    int32_t F = op.dh.cols;
    struct gated gated;
    float dh;

    if (j >= F)
        return;
    gated = gated_of(op.act, op.act_limit, get(op.gate_up, t, j), get(op.gate_up, t, F + j));
    dh = get(op.dh, t, j);
    if (op.h.at)
        set(op.h, t, j, gated.h);
    set(op.gate_up, t, j, dh * gated.by_gate);
    set(op.gate_up, t, F + j, dh * gated.by_up);
}

static void cuda_glu_grad(struct queue *queue, const struct op_glu_grad *op)
{
    if (op->dh.rows)
        LAUNCH(queue, glu_grad_kernel, row_grid(op->dh.rows, op->dh.cols), THREADS, *op);
}
