#include "compute/count/count.h"

#include "compute/check.h"
#include "compute/eight_bit.h"

static double mat_bytes(const struct mat *m)
{
    return (double)m->rows * m->cols * (double)dtype_bytes(m->type);
}

static double area(const struct mat *m)
{
    return (double)m->rows * m->cols;
}

/* Pairs (t, s) that causal attention within the documents looks at. */
static double attend_pairs(const struct batch *batch, int32_t T, int32_t window, const struct kv_cache *cache)
{
    int32_t whole[2] = {0, T}, count = 1;
    const int32_t *cu_seqlens = whole;
    double pairs = 0;

    if (batch && batch->cu_seqlens) {
        count = batch->doc_count;
        cu_seqlens = batch->cu_seqlens;
    }
    for (int32_t i = 0; i < count; i++) {
        double rows = cu_seqlens[i + 1] - cu_seqlens[i], earlier = cache ? cache[i].length : 0;
        double seen = earlier * rows + rows * (rows + 1) / 2, most = window > 0 ? rows * window : seen;
        pairs += seen < most ? seen : most;
    }
    return pairs;
}

/* Operands of the ops that only stream: their bytes are counted, and a handful of operations an element. */
static struct op_cost cost_embed(const struct op_embed *op)
{
    return (struct op_cost){area(&op->x), 2 * mat_bytes(&op->x)};
}

static struct op_cost cost_embed_grad(const struct op_embed_grad *op)
{
    return (struct op_cost){2 * area(&op->dx), mat_bytes(&op->dx) + 8 * area(&op->dx)};
}

static struct op_cost cost_norm(const struct op_norm *op)
{
    double streams = mat_bytes(&op->a) + mat_bytes(&op->y) + (op->b.at ? mat_bytes(&op->b) + mat_bytes(&op->r) : 0);

    return (struct op_cost){5 * area(&op->a), streams + (op->add.at ? mat_bytes(&op->add) : 0)};
}

static struct op_cost cost_norm_grad(const struct op_norm_grad *op)
{
    return (struct op_cost){10 * area(&op->dy), mat_bytes(&op->dy) + mat_bytes(&op->r) + 2 * mat_bytes(&op->dr)};
}

/* Without a norm what is not rotated is not touched. */
static struct op_cost cost_qk_rope(const struct op_qk_rope *op)
{
    double heads = (double)op->qkv.rows * (op->heads + op->kv_heads), rotated = heads * op->rot;
    double touched = op->qk_norm ? heads * op->head_dim : rotated, raw = op->raw.at ? mat_bytes(&op->raw) : 0;

    return (struct op_cost){3 * rotated + (op->qk_norm ? 4 * touched : 0),
                            2 * touched * (double)dtype_bytes(op->qkv.type) + raw};
}

static struct op_cost cost_qk_rope_grad(const struct op_qk_rope_grad *op)
{
    double heads = (double)op->dqkv.rows * (op->heads + op->kv_heads), rotated = heads * op->rot;
    double touched = op->qk_norm ? heads * op->head_dim : rotated, raw = op->qk_norm ? mat_bytes(&op->raw) : 0;

    return (struct op_cost){3 * rotated + (op->qk_norm ? 12 * touched : 0),
                            2 * touched * (double)dtype_bytes(op->dqkv.type) + raw};
}

static struct op_cost cost_attend(const struct op_attend *op)
{
    double pairs = attend_pairs(op->batch, op->qkv.rows, op->window, op->cache);

    return (struct op_cost){4 * pairs * op->heads * op->head_dim, mat_bytes(&op->qkv) + mat_bytes(&op->out)};
}

static struct op_cost cost_attend_grad(const struct op_attend_grad *op)
{
    double pairs = attend_pairs(op->batch, op->qkv.rows, op->window, NULL);

    return (struct op_cost){10 * pairs * op->heads * op->head_dim, 2 * mat_bytes(&op->qkv) + 2 * mat_bytes(&op->out)};
}

/* Multiply-adds of a row, which meets one expert's weight and adapter. */
static double row_area(const struct weight *weight, int32_t N)
{
    int32_t experts = N > 0 && weight->w.rows > N ? weight->w.rows / N : 1;

    return (area(&weight->w) + area(&weight->a) + area(&weight->b)) / experts;
}

/* As it is read: a quantized one as codes and a byte of absmax for 64 of them. */
static double weight_bytes(const struct weight *weight)
{
    return weight->quant.part ? area(&weight->w) * (0.5 + 1.0 / 64) : mat_bytes(&weight->w);
}

static struct op_cost cost_linear(const struct op_linear *op)
{
    return (struct op_cost){2.0 * op->x.rows * row_area(op->w, op->y.cols),
                            mat_bytes(&op->x) + mat_bytes(&op->y) + weight_bytes(op->w)};
}

static struct op_cost cost_linear_grad_in(const struct op_linear_grad_in *op)
{
    return (struct op_cost){2.0 * op->dy.rows * row_area(op->w, op->dy.cols),
                         mat_bytes(&op->dy) + mat_bytes(&op->dx) + weight_bytes(op->w)};
}

static struct op_cost cost_linear_grad_w(const struct op_linear_grad_w *op)
{
    const struct mat *grads[] = {&op->dw, &op->dbias, &op->da, &op->db};
    struct op_cost cost = {0, mat_bytes(&op->x) + mat_bytes(&op->dy)};
    int32_t experts = op->row_end && op->dy.cols > 0 ? op->w->w.rows / op->dy.cols : 1;

    for (int i = 0; i < 4; i++)
        if (grads[i]->at) {
            cost.flops += 2.0 * op->x.rows * area(grads[i]) / experts;
            cost.bytes += (op->is_fresh && i == 0 ? 1 : 2) * mat_bytes(grads[i]);
        }
    return cost;
}

static struct op_cost cost_glu(const struct op_glu *op)
{
    return (struct op_cost){8 * area(&op->h), mat_bytes(&op->gate_up) + mat_bytes(&op->h)};
}

static struct op_cost cost_glu_grad(const struct op_glu_grad *op)
{
    return (struct op_cost){16 * area(&op->dh),
                            2 * mat_bytes(&op->gate_up) + mat_bytes(&op->dh) + (op->h.at ? mat_bytes(&op->h) : 0)};
}

static struct op_cost cost_rows(const struct op_rows *op)
{
    double elements = (double)op->count * op->x.cols, fan = op->fan > 1 ? op->fan : 1;

    return (struct op_cost){
        (op->is_scatter ? 1 : (fan - 1) + (op->scale.at ? fan : 0) + (op->add.at ? 1 : 0)) * elements,
        elements * (fan * (double)dtype_bytes(op->x.type) + (double)dtype_bytes(op->y.type)) + mat_bytes(&op->add)};
}

static struct op_cost cost_route(const struct op_route *op)
{
    return (struct op_cost){(10.0 + op->weight.cols) * area(&op->logits),
                            mat_bytes(&op->logits) + 4 * mat_bytes(&op->weight)};
}

static struct op_cost cost_route_grad(const struct op_route_grad *op)
{
    return (struct op_cost){(10.0 + op->weight.cols) * area(&op->logits) + 2 * area(&op->y),
                         mat_bytes(&op->logits) + mat_bytes(&op->dlogits) + 2 * mat_bytes(&op->y)};
}

static struct op_cost cost_loss(const struct op_loss *op)
{
    return (struct op_cost){12 * area(&op->logits),
                            mat_bytes(&op->logits) + (op->coef ? mat_bytes(op->grad.at ? &op->grad : &op->logits) : 0)};
}

static struct op_cost cost_dora(const struct op_dora *op)
{
    return (struct op_cost){(2.0 * op->a.rows + 4) * area(&op->w), mat_bytes(&op->w)};
}

static struct op_cost cost_gain(const struct op_gain *op)
{
    return (struct op_cost){2 * area(&op->x),
                            mat_bytes(&op->x) + mat_bytes(&op->y) + (op->add.at ? mat_bytes(&op->add) : 0)};
}

static struct op_cost cost_gain_grad(const struct op_gain_grad *op)
{
    return (struct op_cost){2 * area(&op->dy), mat_bytes(&op->dy) + mat_bytes(&op->x)};
}

static struct op_cost cost_copy(const struct op_copy *op)
{
    return (struct op_cost){op->is_added ? area(&op->x) : 0, mat_bytes(&op->x) + mat_bytes(&op->y)};
}

static struct op_cost cost_sumsq(const struct op_sumsq *op)
{
    return (struct op_cost){2 * (double)op->count, (double)dtype_bytes(op->type) * (double)op->count};
}

static struct op_cost cost_adamw(const struct op_adamw *op)
{
    size_t read = dtype_bytes(op->master_type) + 2 * dtype_bytes(op->moment_type);
    size_t bytes = 2 * read + dtype_bytes(op->grad_type) + (op->copy ? dtype_bytes(op->copy_type) : 0);

    uint64_t scales = op->moment_type == DTYPE_U8 ? 2 * 2 * eight_bit_blocks(op->count) : 0;

    return (struct op_cost){15 * (double)op->count,
                            (double)bytes * (double)op->count + (double)(scales * sizeof(float))};
}

struct op_cost count_op_cost(enum op op, const void *args)
{
    switch (op) {
#define COUNT_CASE(name)                                                                                               \
    case OP_##name:                                                                                                    \
        return cost_##name(args);
        OPS(COUNT_CASE)
#undef COUNT_CASE
    default:
        return (struct op_cost){0};
    }
}

static void count_op(struct count *count, enum op op, const void *args)
{
    struct op_cost cost = count_op_cost(op, args);
    struct err err = {0};
    size_t scratch_bytes;

    count->calls[op]++;
    count->flops[op] += cost.flops;
    count->bytes[op] += cost.bytes;
    if (!count->of->can(op, args, &err)) {
        if (!count->is_refused)
            count->err = err;
        count->is_refused = true;
        return;
    }
    scratch_bytes = count->of->scratch_bytes(op, args, count->thread_count);
    if (count->scratch_bytes < scratch_bytes)
        count->scratch_bytes = scratch_bytes;
}

#define COUNT_DEFINE(name)                                                                                             \
    static void count_##name(struct queue *queue, const struct op_##name *op)                                          \
    {                                                                                                                  \
        count_op(queue->state, OP_##name, op);                                                        \
    }
OPS(COUNT_DEFINE)
#undef COUNT_DEFINE

static bool can(enum op op, const void *args, struct err *err)
{
    return op_check(op, args, true, err);
}

static size_t scratch_bytes(enum op op, const void *args, int thread_count)
{
    return 0;
}

const struct backend backend_count = {
    .name = "count",
#define COUNT_FIELD(op) .op = count_##op,
    OPS(COUNT_FIELD)
#undef COUNT_FIELD
    .can = can,
    .scratch_bytes = scratch_bytes,
};

double count_flops(const struct count *count)
{
    double sum = 0;

    for (int op = 0; op < OP_COUNT; op++)
        sum += count->flops[op];
    return sum;
}
