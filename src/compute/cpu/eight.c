/* Products in eight bits (compute/fp8.h), by the product that there is: operands become what their codes stand for
 * before the scales, which BF16 holds exactly, and sums are multiplied by both inverses. So a processor computes the
 * numbers of a GPU that has such products, without being faster by it. What the adapter gives waits in f32 scratch, and
 * what several parts give is summed there. */
#include "compute/cpu/product.h"
#include "compute/fp8.h"
#include "compute/parts.h"

enum { TASK_ROWS = 16 };

/* What a product needs of the queue's scratch, in front of what its products of BF16 do. */
struct eight_scratch {
    struct mat left, w, sum; /* values of x or dy, and of the weight; f32 [rows, cols of the result], at NULL: none */
    float *largest;          /* [tasks] */
    size_t bytes;
};

/* The scratch of an operation that is only planned. */
static char *nowhere(void)
{
    return (char *)(uintptr_t)64;
}

static void *take(struct eight_scratch *scratch, char *base, size_t bytes)
{
    void *at = base + scratch->bytes;

    scratch->bytes += whole_lines(bytes);
    return at;
}

static struct mat take_mat(struct eight_scratch *scratch, char *base, int32_t rows, int32_t cols, enum dtype type)
{
    int32_t ld = (cols + 31) / 32 * 32;

    return (struct mat){take(scratch, base, (size_t)rows * (size_t)ld * dtype_bytes(type)), rows, cols, ld, type};
}

static struct eight_scratch scratch_of(char *base, const struct weight *w, const struct mat *left,
                                       const struct mat *result, bool has_sum)
{
    struct eight_scratch scratch = {.bytes = 0};
    int32_t rows = left->rows > w->w.rows ? left->rows : w->w.rows;

    scratch.left = take_mat(&scratch, base, left->rows, left->cols, DTYPE_BF16);
    scratch.w = take_mat(&scratch, base, w->w.rows, w->w.cols, DTYPE_BF16);
    scratch.largest = take(&scratch, base, (size_t)ceil_div(rows, TASK_ROWS) * sizeof(float));
    if (has_sum)
        scratch.sum = take_mat(&scratch, base, result->rows, result->cols, DTYPE_F32);
    return scratch;
}

/* --- to eight bits --- */

struct quantizing {
    struct mat from, to;
    bool is_rounded; /* f32 that is read as BF16 */
    enum fp8 format;
    float scale;
    float *largest;
};

INLINE lanes read_lanes(const struct quantizing *q, int32_t row, int32_t j)
{
    lanes value = row_load(row_of(&q->from, row, 0), j, q->from.cols);

    return q->is_rounded ? lanes_widen(lanes_narrow(value)) : value;
}

static void largest_task(void *context, int task, int thread)
{
    const struct quantizing *q = context;
    lanes largest = {0};

    for (int32_t row = task * TASK_ROWS; row < smaller((task + 1) * TASK_ROWS, q->from.rows); row++)
        for (int32_t j = 0; j < q->from.cols; j += LANES)
            largest = lanes_max((lanes)((lanes_u)read_lanes(q, row, j) & 0x7fffffff), largest);
    q->largest[task] = lanes_largest(largest);
}

/* The value that fp8_to_f32(fp8_from_f32(value)) gives. */
INLINE lanes round_lanes(enum fp8 format, lanes value)
{
    uint32_t cut = format == FP8_E4M3 ? 20 : 21, bias = format == FP8_E4M3 ? 7 : 15;
    lanes_u bits = (lanes_u)value, sign = bits & 0x80000000, magnitude = bits & 0x7fffffff;
    lanes_u is_nan = (lanes_u)(magnitude > 0x7f800000), max = f32_bits(fp8_max(format)) - (lanes_u){0};
    lanes_u is_over = (lanes_u)(magnitude > max) & ~is_nan, is_small, whole, small;
    lanes place = lanes_all(f32_from_bits((128 - bias + cut) << 23));

    magnitude = (magnitude & ~is_over) | (max & is_over);
    is_small = (lanes_u)(magnitude < (128 - bias) << 23);
    small = (lanes_u)(((lanes)magnitude + place) - place);
    whole = (magnitude + ((1u << (cut - 1)) - 1) + (magnitude >> cut & 1)) & ~((1u << cut) - 1);
    return (lanes)(sign | (is_nan & 0x7fc00000) | (~is_nan & ((is_small & small) | (~is_small & whole))));
}

static void quantize_task(void *context, int task, int thread)
{
    const struct quantizing *q = context;

    for (int32_t row = task * TASK_ROWS; row < smaller((task + 1) * TASK_ROWS, q->from.rows); row++) {
        struct row to = row_of(&q->to, row, 0);
        for (int32_t j = 0; j < q->from.cols; j += LANES)
            row_store(to, j, q->from.cols, round_lanes(q->format, read_lanes(q, row, j) * q->scale));
    }
}

/* Writes the values of one tensor. What products with them are to be multiplied by. */
static float quantize(struct queue *queue, struct mat from, bool is_rounded, enum fp8 format, struct mat to,
                      float *partial)
{
    struct quantizing q = {from, to, is_rounded, format, 0, partial};
    int32_t tasks = ceil_div(from.rows, TASK_ROWS);
    float largest = 0;

    pool_run(queue->pool, tasks, largest_task, &q);
    for (int32_t i = 0; i < tasks; i++)
        largest = partial[i] > largest ? partial[i] : largest;
    q.scale = fp8_scale(format, largest);
    pool_run(queue->pool, tasks, quantize_task, &q);
    return 1 / q.scale;
}

struct rows {
    int32_t first, count; /* rows of the weight */
};

static struct rows part_at(const struct weight *w, int32_t i)
{
    int32_t first = i ? w->quant.row_end[i - 1] : 0;

    return (struct rows){first, w->quant.row_end[i] - first};
}

static float quantize_part(struct queue *queue, const struct weight *w, struct rows part,
                           const struct eight_scratch *scratch, enum dtype beside)
{
    return quantize(queue, sub_rows(&w->w, part.first, part.count), w->w.type == DTYPE_F32 && beside == DTYPE_BF16,
                    FP8_E4M3, sub_rows(&scratch->w, part.first, part.count), scratch->largest);
}

static struct mat no_or_cols(const struct mat *m, struct rows part)
{
    return m->at ? sub_cols(m, part.first, part.count) : *m;
}

/* --- the operations --- */

static struct eight_scratch forward_scratch(char *base, const struct op_linear *op)
{
    return scratch_of(base, op->w, &op->x, &op->y, op->w->a.rows > 0);
}

/* sum = t·Bᵀ + bias + add */
static struct product forward_adapter(const struct op_linear *op, const struct mat *sum)
{
    int32_t R = op->w->a.rows;
    struct segment segment = {.a = {.m = behind(&op->x, 0, R)}, .b = {.m = op->w->b}, .k = R};

    return (struct product){.rows = op->x.rows,
                            .cols = op->y.cols,
                            .segments = {segment},
                            .segment_count = 1,
                            .scale = 1,
                            .y = *sum,
                            .bias = op->bias,
                            .add = op->add};
}

/* The columns of y that a part has: its product, and the sum or bias and add. */
static struct product forward_part(const struct op_linear *op, const struct eight_scratch *scratch, struct rows part,
                                   float scale)
{
    struct segment segment = {
        .a = {.m = scratch->left}, .b = {.m = sub_rows(&scratch->w, part.first, part.count)}, .k = op->x.cols};
    struct product p = {.rows = op->x.rows,
                        .cols = part.count,
                        .segments = {segment},
                        .segment_count = 1,
                        .scale = scale,
                        .y = sub_cols(&op->y, part.first, part.count)};

    if (scratch->sum.at) {
        p.add = sub_cols(&scratch->sum, part.first, part.count);
    } else {
        p.bias = no_or_cols(&op->bias, part);
        p.add = no_or_cols(&op->add, part);
    }
    return p;
}

static struct queue behind_scratch(const struct queue *queue, const struct eight_scratch *scratch)
{
    struct queue rest = *queue;

    rest.scratch = (char *)queue->scratch + scratch->bytes;
    rest.scratch_bytes -= scratch->bytes;
    return rest;
}

void CPU(linear_eight)(struct queue *queue, const struct op_linear *op)
{
    struct eight_scratch scratch = forward_scratch(queue->scratch, op);
    struct queue rest = behind_scratch(queue, &scratch);
    struct chain chain = CPU(linear_adapter)(op);
    float inverse = quantize(queue, op->x, false, FP8_E4M3, scratch.left, scratch.largest);

    if (op->w->a.rows) {
        chain.p[chain.count++] = forward_adapter(op, &scratch.sum);
        CPU(chain_run)(&rest, &chain);
    }
    for (int32_t i = 0; i < op->w->quant.part_count; i++) {
        struct rows part = part_at(op->w, i);
        float w_inverse = quantize_part(queue, op->w, part, &scratch, op->x.type);
        struct product p = forward_part(op, &scratch, part, inverse * w_inverse);
        CPU(product_run)(&rest, &p);
    }
}

size_t CPU(linear_eight_scratch)(const struct op_linear *op, int thread_count)
{
    struct eight_scratch scratch = forward_scratch(nowhere(), op);
    struct chain chain = CPU(linear_adapter)(op);
    size_t bytes = 0;

    if (op->w->a.rows) {
        chain.p[chain.count++] = forward_adapter(op, &scratch.sum);
        bytes = CPU(chain_scratch)(&chain, thread_count);
    }
    for (int32_t i = 0; i < op->w->quant.part_count; i++) {
        struct product p = forward_part(op, &scratch, part_at(op->w, i), 1);
        bytes = larger(bytes, CPU(product_scratch)(&p, thread_count));
    }
    return scratch.bytes + bytes;
}

static struct eight_scratch backward_scratch(char *base, const struct op_linear_grad_in *op)
{
    return scratch_of(base, op->w, &op->dy, &op->dx, op->w->a.rows || op->w->quant.part_count > 1);
}

/* sum = drop'(dt·A) */
static struct product backward_adapter(const struct op_linear_grad_in *op, const struct mat *sum)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows;
    struct segment segment = {.a = {.m = behind(&op->dy, 0, R)}, .b = {.m = w->a, .is_k_down = true}, .k = R,
                              .is_masked = w->lora_dropout > 0};

    return (struct product){.rows = op->dy.rows,
                            .cols = op->dx.cols,
                            .segments = {segment},
                            .segment_count = 1,
                            .scale = 1,
                            .y = *sum,
                            .rate = w->lora_dropout,
                            .dropout = op->dropout};
}

/* sum (+)= what a part gives; the last goes to dx with the sum of those before it. */
static struct product backward_part(const struct op_linear_grad_in *op, const struct eight_scratch *scratch, int32_t i,
                                    float scale)
{
    struct rows part = part_at(op->w, i);
    bool is_last = i == op->w->quant.part_count - 1, is_first = i == 0 && !op->w->a.rows;
    struct segment segment = {.a = {.m = sub_cols(&scratch->left, part.first, part.count)},
                              .b = {.m = sub_rows(&scratch->w, part.first, part.count), .is_k_down = true},
                              .k = part.count};
    struct product p = {.rows = op->dy.rows,
                        .cols = op->dx.cols,
                        .segments = {segment},
                        .segment_count = 1,
                        .scale = scale,
                        .y = is_last ? op->dx : scratch->sum,
                        .is_added = is_last ? op->is_added : !is_first};

    if (is_last && !is_first)
        p.add = scratch->sum;
    return p;
}

void CPU(linear_grad_in_eight)(struct queue *queue, const struct op_linear_grad_in *op)
{
    struct eight_scratch scratch = backward_scratch(queue->scratch, op);
    struct queue rest = behind_scratch(queue, &scratch);
    struct chain chain = CPU(linear_grad_in_adapter)(op);

    if (op->w->a.rows) {
        chain.p[chain.count++] = backward_adapter(op, &scratch.sum);
        CPU(chain_run)(&rest, &chain);
    }
    for (int32_t i = 0; i < op->w->quant.part_count; i++) {
        struct rows part = part_at(op->w, i);
        float inverse = quantize(queue, sub_cols(&op->dy, part.first, part.count), false, FP8_E5M2,
                                 sub_cols(&scratch.left, part.first, part.count), scratch.largest);
        float w_inverse = quantize_part(queue, op->w, part, &scratch, op->dy.type);
        struct product p = backward_part(op, &scratch, i, inverse * w_inverse);
        CPU(product_run)(&rest, &p);
    }
}

size_t CPU(linear_grad_in_eight_scratch)(const struct op_linear_grad_in *op, int thread_count)
{
    struct eight_scratch scratch = backward_scratch(nowhere(), op);
    struct chain chain = CPU(linear_grad_in_adapter)(op);
    size_t bytes = 0;

    if (op->w->a.rows) {
        chain.p[chain.count++] = backward_adapter(op, &scratch.sum);
        bytes = CPU(chain_scratch)(&chain, thread_count);
    }
    for (int32_t i = 0; i < op->w->quant.part_count; i++) {
        struct product p = backward_part(op, &scratch, i, 1);
        bytes = larger(bytes, CPU(product_scratch)(&p, thread_count));
    }
    return scratch.bytes + bytes;
}
