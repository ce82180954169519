#include "compute/adapter_rows.h"

struct weight adapter_rows_weight(const struct op_linear *op, int32_t i)
{
    const struct weight *adapter = op->adapters[i].weight;
    struct weight w = adapter ? *adapter : (struct weight){0};

    w.w = op->w->w;
    w.quant = op->w->quant;
    w.panels = op->w->panels;
    return w;
}

static struct mat rows_of(const struct mat *m, int32_t from, int32_t count)
{
    struct mat rows = *m;

    if (m->at)
        rows.at = (char *)m->at + (size_t)from * (size_t)m->ld * dtype_bytes(m->type);
    rows.rows = count;
    return rows;
}

void adapter_rows_linear(struct queue *queue, const struct op_linear *op,
                         void (*dense)(struct queue *, const struct op_linear *))
{
    for (int32_t i = 0, from = 0; i < op->adapter_count; from = op->adapters[i++].row_end) {
        int32_t count = op->adapters[i].row_end - from;
        struct weight w = adapter_rows_weight(op, i);
        struct op_linear one = *op;

        one.w = &w;
        one.adapters = NULL;
        one.x = rows_of(&op->x, from, count);
        one.y = rows_of(&op->y, from, count);
        one.add = rows_of(&op->add, from, count);
        if (count > 0)
            dense(queue, &one);
    }
}

size_t adapter_rows_scratch(const struct op_linear *op, int thread_count,
                            size_t (*dense)(const struct op_linear *, int))
{
    size_t most = 0;

    for (int32_t i = 0; i < op->adapter_count; i++) {
        struct weight w = adapter_rows_weight(op, i);
        struct op_linear one = *op;
        size_t bytes;

        one.w = &w;
        one.adapters = NULL;
        bytes = dense(&one, thread_count);
        most = bytes > most ? bytes : most;
    }
    return most;
}
