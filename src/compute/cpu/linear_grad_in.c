/* dx = dy·W with the adapter's share: dt behind dy in the same chain. */
#include "compute/cpu/product.h"
#include "compute/grouped.h"
#include "compute/parts.h"

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

/* dx (+)= drop'(dt·A) + dy·W. With dropout the adapter's part comes first, so that its sums can be masked. */
static struct product backward(const struct op_linear_grad_in *op)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows;
    bool is_masked = R && w->lora_dropout > 0;
    struct segment base = {.a = {.m = op->dy}, .b = weight_side(w, &op->dy), .k = op->dy.cols};
    struct segment adapter = {.a = {.m = behind(&op->dy, 0, R)}, .b = {.m = w->a, .is_k_down = true}, .k = R, .is_masked = is_masked};
    struct product p = {.rows = op->dy.rows, .cols = op->dx.cols, .segment_count = R ? 2 : 1, .scale = 1, .y = op->dx,
                        .is_added = op->is_added, .rate = w->lora_dropout, .dropout = op->dropout};

    base.b.is_k_down = true;
    base.b.panels = NULL;
    p.segments[is_masked ? 1 : 0] = base;
    p.segments[is_masked ? 0 : 1] = adapter;
    return p;
}

static struct chain backward_chain(const struct op_linear_grad_in *op)
{
    struct chain chain = {.count = 0};

    for (int32_t i = 0; op->w->a.rows && i < weight_part_count(op->w); i++)
        if (weight_part(op->w, i).rows > 0)
            chain.p[chain.count++] = adapter_grad_in(op, i);
    chain.p[chain.count++] = backward(op);
    return chain;
}

/* A part without rows has no dy: its columns of dt are a sum of nothing. */
static void zero_dt_of_empty_parts(const struct op_linear_grad_in *op)
{
    for (int32_t i = 0; op->w->a.rows && i < weight_part_count(op->w); i++) {
        struct weight_part part = weight_part(op->w, i);
        struct mat dt = behind(&op->dy, part.col, part.cols);

        for (int32_t row = 0; part.rows == 0 && row < dt.rows; row++)
            memset((char *)dt.at + (size_t)row * (size_t)dt.ld * dtype_bytes(dt.type), 0, (size_t)dt.cols * dtype_bytes(dt.type));
    }
}

void CPU(linear_grad_in)(struct queue *queue, const struct op_linear_grad_in *op)
{
    struct chain chain;

    if (op->row_end) {
        grouped_linear_grad_in(queue, op, CPU(linear_grad_in));
        return;
    }
    zero_dt_of_empty_parts(op);
    chain = backward_chain(op);
    CPU(chain_run)(queue, &chain);
}

size_t CPU(linear_grad_in_scratch)(const struct op_linear_grad_in *op, int thread_count)
{
    struct weight expert;
    struct op_linear_grad_in dense = op->row_end ? grouped_linear_grad_in_largest(op, &expert) : *op;
    struct chain chain = backward_chain(&dense);

    return CPU(chain_scratch)(&chain, thread_count);
}
