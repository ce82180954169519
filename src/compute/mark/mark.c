#include "compute/mark/mark.h"

#include "compute/count/count.h"

static const struct weight *weight_of(enum op op, const void *args)
{
    switch (op) {
    case OP_linear:
        return ((const struct op_linear *)args)->w;
    case OP_linear_grad_in:
        return ((const struct op_linear_grad_in *)args)->w;
    case OP_linear_grad_w:
        return ((const struct op_linear_grad_w *)args)->w;
    default:
        return NULL;
    }
}

static struct mark *mark_for(struct marks *marks, enum op op, const void *args)
{
    const struct weight *weight = weight_of(op, args);
    int32_t rows = weight ? weight->w.rows : 0, cols = weight ? weight->w.cols : 0;
    struct mark *mark;

    for (int i = 0; i < marks->count; i++) {
        mark = &marks->mark[i];
        if (mark->op == op && mark->rows == rows && mark->cols == cols)
            return mark;
    }
    ASSERT(marks->count < MARKS_MAX);
    mark = &marks->mark[marks->count++];
    *mark = (struct mark){.op = op, .rows = rows, .cols = cols};
    return mark;
}

static void add(struct marks *marks, enum op op, const void *args, double seconds)
{
    struct mark *mark = mark_for(marks, op, args);
    struct op_cost cost = count_op_cost(op, args);

    mark->calls++;
    mark->seconds += seconds;
    mark->flops += cost.flops;
    mark->bytes += cost.bytes;
}

#define MARK_DEFINE(name)                                                                                              \
    static void mark_##name(struct queue *queue, const struct op_##name *op)                                           \
    {                                                                                                                  \
        struct marks *marks = queue->state;                                                                            \
        double started = marks ? marks->clock() : 0;                                                                   \
                                                                                                                       \
        backend_cpu.name(queue, op);                                                                                   \
        if (marks)                                                                                                     \
            add(marks, OP_##name, op, marks->clock() - started);                                                       \
    }
OPS(MARK_DEFINE)
#undef MARK_DEFINE

static bool can(enum op op, const void *args, struct err *err)
{
    return backend_cpu.can(op, args, err);
}

static size_t scratch_bytes(enum op op, const void *args, int thread_count)
{
    return backend_cpu.scratch_bytes(op, args, thread_count);
}

static size_t cache_bytes(const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim)
{
    return backend_cpu.cache_bytes(cache, kv_heads, head_dim);
}

const struct backend backend_mark = {
    .name = "mark",
#define MARK_FIELD(op) .op = mark_##op,
    OPS(MARK_FIELD)
#undef MARK_FIELD
    .can = can,
    .scratch_bytes = scratch_bytes,
    .cache_bytes = cache_bytes,
};
