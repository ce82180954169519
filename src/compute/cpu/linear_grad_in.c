/* dx = dy·W with the adapter's share: dt behind dy in the same chain.
 *
 * A weight of many rows, such as a head, goes by stretches of them: all but the last are summed in f32 in scratch,
 * which the last adds before it rounds. So each stretch waits in L3 in panels for all tasks, and dy is read once. */
#include "compute/cpu/product.h"
#include "compute/grouped.h"
#include "compute/parts.h"

enum {
    LONG_ROWS = 4096,           /* a weight of more goes by stretches */
    STRETCH_ELEMENTS = 4 << 20, /* of about so many elements */
    STRETCH_ROWS_MIN = 512,
    STRETCH_ROWS_MAX = 1536,
};

/* Rows of a weight that are one product. It depends on the weight alone, like every order of sums. */
static int32_t stretch_rows(const struct weight *w)
{
    int32_t rows = STRETCH_ELEMENTS / w->w.cols / 64 * 64;

    if (w->quant.part || w->w.rows <= LONG_ROWS)
        return w->w.rows;
    return rows < STRETCH_ROWS_MIN ? STRETCH_ROWS_MIN : smaller(rows, STRETCH_ROWS_MAX);
}

/* Where the last stretch begins. */
static int32_t last_stretch(const struct weight *w)
{
    int32_t rows = stretch_rows(w);

    return rows ? (w->w.rows - 1) / rows * rows : 0;
}

/* dt = lora_scale · dy·B, one block of B at a time */
static struct product adapter_grad_in(const struct op_linear_grad_in *op, int32_t i)
{
    struct weight_part part = weight_part(op->w, i);
    struct mat block = sub_rows(&op->w->b, part.row, part.rows);
    struct segment segment = {.a = {.m = sub_cols(&op->dy, part.row, part.rows)},
                              .b = {.m = sub_cols(&block, part.col, part.cols), .is_k_down = true}, .k = part.rows};

    return (struct product){.rows = op->dy.rows, .cols = part.cols, .segments = {segment}, .segment_count = 1,
                            .scale = part.scale, .y = behind(&op->dy, part.col, part.cols)};
}

/* Columns [first, first + count) of dy meet those rows of W. */
static struct segment base_segment(const struct op_linear_grad_in *op, int32_t first, int32_t count)
{
    struct segment base = {.a = {.m = sub_cols(&op->dy, first, count)}, .b = weight_side(op->w, &op->dy), .k = count};

    if (first > 0 || count < op->w->w.rows)
        base.b.m = sub_rows(&op->w->w, first, count);
    base.b.is_k_down = true;
    base.b.panels = NULL;
    return base;
}

/* sums (+)= what a stretch before the last gives */
static struct product stretch(const struct op_linear_grad_in *op, struct mat sums, int32_t first)
{
    int32_t count = stretch_rows(op->w);

    return (struct product){.rows = sums.rows, .cols = sums.cols, .segments = {base_segment(op, first, count)},
                            .segment_count = 1, .scale = 1, .y = sums, .is_added = first > 0};
}

/* dx (+)= drop'(dt·A) + dy·W, of W's last stretch + the sums of the others. With dropout the adapter's part comes
 * first, so that its sums can be masked. */
static struct product backward(const struct op_linear_grad_in *op, struct mat sums)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows, first = last_stretch(w);
    bool is_masked = R && w->lora_dropout > 0;
    struct segment adapter = {.a = {.m = behind(&op->dy, 0, R)}, .b = {.m = w->a, .is_k_down = true}, .k = R,
                              .is_masked = is_masked};
    struct product p = {.rows = op->dy.rows, .cols = op->dx.cols, .segment_count = R ? 2 : 1, .scale = 1, .y = op->dx,
                        .add = sums, .is_added = op->is_added, .rate = w->lora_dropout, .dropout = op->dropout};

    p.segments[is_masked ? 1 : 0] = base_segment(op, first, op->dy.cols - first);
    p.segments[is_masked ? 0 : 1] = adapter;
    return p;
}

struct chain CPU(linear_grad_in_adapter)(const struct op_linear_grad_in *op)
{
    struct chain chain = {.count = 0};

    for (int32_t i = 0; op->w->a.rows && i < weight_part_count(op->w); i++)
        if (weight_part(op->w, i).rows > 0)
            chain.p[chain.count++] = adapter_grad_in(op, i);
    return chain;
}

static struct chain backward_chain(const struct op_linear_grad_in *op, struct mat sums)
{
    struct chain chain = CPU(linear_grad_in_adapter)(op);

    chain.p[chain.count++] = backward(op, sums);
    return chain;
}

/* A part without rows has no dy: its columns of dt are a sum of nothing. */
static void zero_dt_of_empty_parts(const struct op_linear_grad_in *op)
{
    for (int32_t i = 0; op->w->a.rows && i < weight_part_count(op->w); i++) {
        struct weight_part part = weight_part(op->w, i);
        struct mat dt = behind(&op->dy, part.col, part.cols);

        for (int32_t row = 0; part.rows == 0 && row < dt.rows; row++)
            memset((char *)dt.at + (size_t)row * (size_t)dt.ld * dtype_bytes(dt.type), 0,
                   (size_t)dt.cols * dtype_bytes(dt.type));
    }
}

static size_t sums_bytes(const struct op_linear_grad_in *op)
{
    return last_stretch(op->w) > 0 ? whole_lines(4 * (size_t)op->dx.rows * (size_t)op->dx.cols) : 0;
}

/* In scratch, before what products need of it. */
static struct mat sums_at(const struct op_linear_grad_in *op, void *scratch)
{
    return sums_bytes(op) ? (struct mat){scratch, op->dx.rows, op->dx.cols, op->dx.cols, DTYPE_F32} : (struct mat){0};
}

void CPU(linear_grad_in)(struct queue *queue, const struct op_linear_grad_in *op)
{
    struct queue rest = *queue;
    struct mat sums;
    struct chain chain;

    if (op->row_end) {
        grouped_linear_grad_in(queue, op, CPU(linear_grad_in));
        return;
    }
    zero_dt_of_empty_parts(op);
    if (weight_is_eight(op->w)) {
        CPU(linear_grad_in_eight)(queue, op);
        return;
    }
    sums = sums_at(op, queue->scratch);
    rest.scratch = (char *)queue->scratch + sums_bytes(op);
    rest.scratch_bytes -= sums_bytes(op);
    for (int32_t first = 0; first < last_stretch(op->w); first += stretch_rows(op->w)) {
        struct product p = stretch(op, sums, first);
        CPU(product_run)(&rest, &p);
    }
    chain = backward_chain(op, sums);
    CPU(chain_run)(&rest, &chain);
}

size_t CPU(linear_grad_in_scratch)(const struct op_linear_grad_in *op, int thread_count)
{
    struct weight expert;
    struct op_linear_grad_in dense = op->row_end ? grouped_linear_grad_in_largest(op, &expert) : *op;
    struct mat sums = sums_at(&dense, NULL);
    struct chain chain;
    size_t bytes;

    if (weight_is_eight(dense.w))
        return CPU(linear_grad_in_eight_scratch)(&dense, thread_count);
    chain = backward_chain(&dense, sums);
    bytes = CPU(chain_scratch)(&chain, thread_count);
    if (last_stretch(dense.w) > 0) {
        struct product p = stretch(&dense, sums, 0);
        bytes = larger(bytes, CPU(product_scratch)(&p, thread_count));
    }
    return sums_bytes(&dense) + bytes;
}
