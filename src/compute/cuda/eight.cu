/* Products in eight bits (compute/fp8.h).
 *
 * Two kernels find a tensor's largest magnitude and from it, on the device, the scale; a third writes the tensor once
 * more: as codes for cuBLASLt on devices that multiply them (sm_89 and newer; the weight of a gradient turned, as the
 * library wants the depth along the rows of both sides), elsewhere as the BF16 numbers that the codes stand for, for
 * our own kernel. Both multiply sums by the scales' inverses, which they read on the device: the host waits for
 * nothing. Copies and scales lie in scratch and are made for every product: a weight's costs about 5 bytes of traffic
 * an element, beside 2 · tokens operations. */
#include "compute/cuda/product.cu"

extern "C" {
#include "compute/parts.h"
}

enum { EIGHT_BLOCKS = 512, EIGHT_PAD = 16, TURN = 32 };

/* A tensor in eight bits. */
struct eight_tensor {
    struct mat m;          /* U8: codes, rows padded with zeros to EIGHT_PAD; BF16: the values */
    enum fp8 format;
    float *scale, *inverse; /* on the device */
};

/* What a code of it stands for before the scale; see fp8_from_f32. The code when is_code. */
static __device__ __forceinline__ uint32_t eight_bits(int format, float value, bool is_code)
{
    int cut = format == FP8_E4M3 ? 20 : 21, bias = format == FP8_E4M3 ? 7 : 15;
    uint32_t bits = bits_of(value), sign = bits >> 31, magnitude = bits & 0x7fffffff;
    uint32_t most = format == FP8_E4M3 ? 0x43e00000 : 0x47600000; /* 448, 57,344 */

    if (magnitude > 0x7f800000)
        return is_code ? sign << 7 | 0x7f : sign << 15 | 0x7fc0;
    magnitude = magnitude > most ? most : magnitude;
    if (magnitude < (uint32_t)(128 - bias) << 23) {
        float place = format == FP8_E4M3 ? 0x1p14f : 0x1p7f, sum = fabsf(value) + place;
        return is_code ? sign << 7 | (bits_of(sum) - bits_of(place)) : sign << 15 | bits_of(sum - place) >> 16;
    }
    magnitude += (1u << (cut - 1)) - 1 + (magnitude >> cut & 1);
    return is_code ? sign << 7 | (magnitude - ((uint32_t)(127 - bias) << 23)) >> cut
                   : sign << 15 | magnitude >> cut << (cut - 16);
}

/* The same of an element, which is rounded when it is scaled, not when it is added to. */
static __device__ __forceinline__ uint32_t eight_scaled(int format, float value, float scale, bool is_code)
{
    return eight_bits(format, multiply_then_add(value, scale, 0), is_code);
}

/* partial[b] = the largest magnitude in every gridDim.x-th row. */
static __global__ void eight_largest_kernel(struct mat from, float *partial)
{
    __shared__ float part[WARP];
    float largest = 0;

    for (int32_t row = blockIdx.x; row < from.rows; row += gridDim.x)
        for (int32_t j = (int32_t)threadIdx.x * FOUR; j < from.cols; j += (int32_t)blockDim.x * FOUR) {
            struct four four = get_four(from, row, j);
            UNROLL
            for (int i = 0; i < FOUR; i++)
                largest = fmaxf(largest, fabsf(four.at[i]));
        }
    largest = warp_max(largest);
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = largest;
    __syncthreads();
    for (int i = 0; i < (int)blockDim.x / WARP; i++)
        largest = fmaxf(largest, part[i]);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = largest;
}

/* A block of one warp. */
static __global__ void eight_scale_kernel(const float *partial, int count, double most, float *scale, float *inverse)
{
    float largest = 0;

    for (int i = threadIdx.x; i < count; i += WARP)
        largest = fmaxf(largest, partial[i]);
    largest = warp_max(largest);
    if (threadIdx.x == 0) {
        *scale = (float)(most / (largest > 1e-12 ? (double)largest : 1e-12));
        *inverse = 1 / *scale;
    }
}

static __device__ __forceinline__ void eight_set(const struct mat &to, int32_t row, int32_t col, uint32_t bits)
{
    int64_t at = (int64_t)row * to.ld + col;

    if (to.type == DTYPE_U8)
        ((unsigned char *)to.at)[at] = (unsigned char)bits;
    else
        ((unsigned short *)to.at)[at] = (unsigned short)bits;
}

/* Columns behind the last of `from` are zero. */
static __global__ void eight_quantize_kernel(struct mat from, struct mat to, int format, const float *scale)
{
    ROW_AND_FOUR(t, j);
    struct four four;

    if (j >= to.ld)
        return;
    four = get_four(from, t, j);
    UNROLL
    for (int i = 0; i < FOUR; i++)
        if (j + i < to.ld)
            eight_set(to, t, j + i, eight_scaled(format, four.at[i], *scale, to.type == DTYPE_U8));
}

/* to[j, t] of from[t, j], by tiles of TURN x TURN through shared memory. */
static __global__ void eight_turn_kernel(struct mat from, struct mat to, int format, const float *scale)
{
    __shared__ unsigned char tile[TURN][TURN + 1];
    int32_t t0 = blockIdx.x * TURN, j0 = blockIdx.y * TURN, x = threadIdx.x % TURN, y = threadIdx.x / TURN,
            step = (int32_t)blockDim.x / TURN;

    for (int32_t r = y; r < TURN; r += step) {
        bool is_there = t0 + r < from.rows && j0 + x < from.cols;
        tile[r][x] = (unsigned char)(is_there ? eight_scaled(format, get(from, t0 + r, j0 + x), *scale, true) : 0);
    }
    __syncthreads();
    for (int32_t r = y; r < TURN; r += step)
        if (j0 + r < to.rows && t0 + x < to.ld)
            eight_set(to, j0 + r, t0 + x, tile[x][r]);
}

static int32_t padded(int32_t count)
{
    return (count + EIGHT_PAD - 1) / EIGHT_PAD * EIGHT_PAD;
}

/* Room for any tensor of up to so many rows and columns, in either form. */
static struct eight_tensor eight_take(struct scratch *scratch, int32_t rows, int32_t cols, enum fp8 format)
{
    struct eight_tensor tensor = {{NULL, rows, cols, padded(cols), DTYPE_BF16}, format, NULL, NULL};
    size_t values = (size_t)rows * (size_t)padded(cols) * sizeof(uint16_t),
           turned = (size_t)cols * (size_t)padded(rows);

    tensor.m.at = scratch_take(scratch, values > turned ? values : turned);
    tensor.scale = (float *)scratch_take(scratch, (2 + EIGHT_BLOCKS) * sizeof(float));
    tensor.inverse = tensor.scale ? tensor.scale + 1 : NULL;
    return tensor;
}

/* The form of `from` there: values, codes, codes turned. */
static struct eight_tensor eight_form(const struct eight_tensor *room, const struct mat &from, bool is_code,
                                      bool is_turned)
{
    struct eight_tensor tensor = *room;

    tensor.m.type = is_code ? DTYPE_U8 : DTYPE_BF16;
    tensor.m.rows = is_turned ? from.cols : from.rows;
    tensor.m.cols = is_turned ? from.rows : from.cols;
    tensor.m.ld = padded(tensor.m.cols);
    return tensor;
}

static void eight_measure(struct queue *queue, const struct eight_tensor *tensor, struct mat from)
{
    int blocks = from.rows < EIGHT_BLOCKS ? from.rows : EIGHT_BLOCKS;
    float *partial = tensor->scale + 2;

    LAUNCH(queue, eight_largest_kernel, dim3(blocks), THREADS, from, partial);
    LAUNCH(queue, eight_scale_kernel, dim3(1), WARP, partial, blocks, tensor->format == FP8_E4M3 ? 448.0 : 57344.0,
           tensor->scale, tensor->inverse);
}

static void eight_write(struct queue *queue, const struct eight_tensor *tensor, struct mat from, bool is_turned)
{
    if (is_turned)
        LAUNCH(queue, eight_turn_kernel, dim3(blocks_of(tensor->m.ld, TURN), blocks_of(from.cols, TURN)), THREADS, from,
               tensor->m, (int)tensor->format, tensor->scale);
    else
        LAUNCH(queue, eight_quantize_kernel, four_grid(from.rows, tensor->m.ld), THREADS, from, tensor->m,
               (int)tensor->format, tensor->scale);
}

static void eight_put(struct queue *queue, const struct eight_tensor *tensor, struct mat from, bool is_turned)
{
    eight_measure(queue, tensor, from);
    eight_write(queue, tensor, from, is_turned);
}

/* --- the products of a weight --- */

struct eight_scratch {
    struct eight_tensor left, w;
};

static int32_t eight_begin(const struct weight *weight, int32_t i)
{
    return i ? weight->quant.row_end[i - 1] : 0;
}

static int32_t eight_rows(const struct weight *weight, int32_t i)
{
    return weight->quant.row_end[i] - eight_begin(weight, i);
}

/* Of x, or of what one part has of dy. */
static struct eight_scratch eight_scratch_take(struct scratch *scratch, const struct weight *weight,
                                               const struct mat &left, bool is_forward)
{
    struct eight_scratch taken = {};
    int32_t most = 0;

    for (int32_t i = 0; weight_is_eight(weight) && i < weight->quant.part_count; i++)
        most = eight_rows(weight, i) > most ? eight_rows(weight, i) : most;
    if (!most)
        return taken;
    taken.left = eight_take(scratch, left.rows, is_forward ? left.cols : most, is_forward ? FP8_E4M3 : FP8_E5M2);
    taken.w = eight_take(scratch, most, weight->w.cols, FP8_E4M3);
    return taken;
}

/* One part's product with its operands, by the library or by our kernel. The depth of codes goes on through their
 * padding. */
static struct product eight_product(const struct product *base, const struct eight_tensor *left,
                                    const struct eight_tensor *w, bool is_b_turned)
{
    struct product p = *base;

    p.a = left->m, p.b = w->m;
    p.is_b_turned = is_b_turned;
    p.k = left->m.type == DTYPE_U8 ? left->m.ld : left->m.cols;
    p.a_format = left->format, p.b_format = w->format;
    p.a_inverse = left->inverse, p.b_inverse = w->inverse;
    return p;
}

static void eight_run(struct queue *queue, const struct product *p)
{
    struct experts none = {};
    bool has_run = p->a.type == DTYPE_U8 ? blas_run(queue, p) : product_mma_run(queue, p, &none);

    if (!has_run)
        die("cuda: nothing here takes a product in eight bits of %d x %d x %d", p->m, p->n, p->k);
}

static struct mat eight_columns(struct mat m, int32_t col, int32_t cols)
{
    if (m.at)
        m.at = (char *)m.at + (size_t)col * dtype_bytes(m.type);
    m.cols = cols;
    return m;
}

static struct mat eight_part(const struct weight *weight, int32_t i)
{
    struct mat w = weight->w;

    w.at = (char *)w.at + (size_t)eight_begin(weight, i) * (size_t)w.ld * dtype_bytes(w.type);
    w.rows = eight_rows(weight, i);
    return w;
}

/* base: C = x·Wᵀ + D. */
static struct product eight_forward_part(const struct product *base, const struct eight_scratch *at,
                                         const struct weight *weight, int32_t i, bool is_code)
{
    struct eight_tensor left = eight_form(&at->left, base->a, is_code, false);
    struct eight_tensor w = eight_form(&at->w, eight_part(weight, i), is_code, false);
    struct product p = eight_product(base, &left, &w, true);

    p.n = eight_rows(weight, i);
    p.c = eight_columns(base->c, eight_begin(weight, i), p.n);
    p.d = eight_columns(base->d, eight_begin(weight, i), p.n);
    return p;
}

static void eight_forward(struct queue *queue, const struct product *base, const struct weight *weight,
                          const struct eight_scratch *at)
{
    bool is_code = true;
    struct eight_tensor left;

    if (!base->m)
        return;
    for (int32_t i = 0; i < weight->quant.part_count; i++) {
        struct product p = eight_forward_part(base, at, weight, i, true);
        is_code = is_code && blas_takes(queue, &p);
    }
    left = eight_form(&at->left, base->a, is_code, false);
    eight_put(queue, &left, base->a, false);
    for (int32_t i = 0; i < weight->quant.part_count; i++) {
        struct product p = eight_forward_part(base, at, weight, i, is_code);
        struct eight_tensor w = eight_form(&at->w, eight_part(weight, i), is_code, false);
        eight_put(queue, &w, eight_part(weight, i), false);
        eight_run(queue, &p);
    }
}

/* base: C = dy·W + D; parts are added up in C. */
static void eight_backward(struct queue *queue, const struct product *base, const struct weight *weight,
                           const struct eight_scratch *at)
{
    struct product sum = *base;

    for (int32_t i = 0; base->m && i < weight->quant.part_count; i++, sum.d = sum.c) {
        struct mat dy = eight_columns(base->a, eight_begin(weight, i), eight_rows(weight, i)),
                   w_part = eight_part(weight, i);
        struct eight_tensor left = eight_form(&at->left, dy, true, false), w = eight_form(&at->w, w_part, true, true);
        struct product p = eight_product(&sum, &left, &w, true);
        bool is_code = blas_takes(queue, &p);

        if (!is_code) {
            left = eight_form(&at->left, dy, false, false), w = eight_form(&at->w, w_part, false, false);
            p = eight_product(&sum, &left, &w, false);
        }
        eight_put(queue, &left, dy, false);
        eight_put(queue, &w, w_part, is_code);
        eight_run(queue, &p);
    }
}
