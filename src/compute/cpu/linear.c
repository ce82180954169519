/* y = x·Wᵀ with the adapter's share: t behind x in the same chain, then one product over the columns of both. */
#include "compute/adapter_rows.h"
#include "compute/cpu/product.h"
#include "compute/grouped.h"
#include "compute/parts.h"

/* Scales that are equal take one product for all parts. */
static int32_t adapter_in_count(const struct weight *w)
{
    return w->part_scale ? weight_part_count(w) : 1;
}

/* t = lora_scale / (1 - rate) · mask(x)·Aᵀ, or the columns of one part */
static struct product adapter_in(const struct op_linear *op, int32_t i)
{
    const struct weight *w = op->w;
    struct weight_part all = {.cols = w->a.rows, .scale = w->lora_scale};
    struct weight_part part = w->part_scale ? weight_part(w, i) : all;
    struct segment segment = {.a = {.m = op->x, .rate = w->lora_dropout, .dropout = op->dropout},
                              .b = {.m = sub_rows(&w->a, part.col, part.cols)}, .k = op->x.cols};

    if (!w->part_scale)
        segment.b.panels = w->a_panels;
    return (struct product){.rows = op->x.rows, .cols = part.cols, .segments = {segment}, .segment_count = 1,
                            .scale = part.scale / (1 - w->lora_dropout), .y = behind(&op->x, part.col, part.cols)};
}

/* y = x·Wᵀ + t·Bᵀ + bias + add */
static struct product forward(const struct op_linear *op)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows;
    struct segment base = {.a = {.m = op->x}, .b = weight_side(w, &op->x), .k = op->x.cols};
    struct segment adapter = {.a = {.m = behind(&op->x, 0, R)}, .b = {.m = w->b, .panels = w->b_panels}, .k = R};

    return (struct product){.rows = op->x.rows, .cols = op->y.cols, .segments = {base, adapter},
                            .segment_count = R ? 2 : 1, .scale = 1, .y = op->y, .bias = op->bias, .add = op->add,
                            .softcap = op->softcap};
}

struct chain CPU(linear_adapter)(const struct op_linear *op)
{
    struct chain chain = {.count = 0};

    for (int32_t i = 0; op->w->a.rows && i < adapter_in_count(op->w); i++)
        chain.p[chain.count++] = adapter_in(op, i);
    return chain;
}

static struct chain forward_chain(const struct op_linear *op)
{
    struct chain chain = CPU(linear_adapter)(op);

    chain.p[chain.count++] = forward(op);
    return chain;
}

void CPU(linear)(struct queue *queue, const struct op_linear *op)
{
    struct chain chain;

    if (op->row_end) {
        grouped_linear(queue, op, CPU(linear));
        return;
    }
    if (CPU(linear_is_thin)(op)) {
        CPU(linear_thin)(queue, op);
        return;
    }
    pool_fetch(queue->pool, NULL, 0, 0); /* ends what a thin product in front began */
    if (op->adapters) {
        adapter_rows_linear(queue, op, CPU(linear));
        return;
    }
    if (weight_is_eight(op->w)) {
        CPU(linear_eight)(queue, op);
        return;
    }
    chain = forward_chain(op);
    CPU(chain_run)(queue, &chain);
}

size_t CPU(linear_scratch)(const struct op_linear *op, int thread_count)
{
    struct weight expert;
    struct op_linear dense = op->row_end ? grouped_linear_largest(op, &expert) : *op;
    struct chain chain = forward_chain(&dense);

    if (op->adapters)
        return adapter_rows_scratch(op, thread_count, CPU(linear_scratch));
    if (weight_is_eight(op->w))
        return CPU(linear_eight_scratch)(op, thread_count);
    return CPU(chain_scratch)(&chain, thread_count);
}
