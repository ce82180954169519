#include "compute/grouped.h"

/* Rows `from` .. `from + count` of a matrix, or none of none. */
static struct mat slice(const struct mat *m, int32_t from, int32_t count)
{
    struct mat rows = *m;

    if (m->at)
        rows.at = (char *)m->at + (size_t)from * (size_t)m->ld * dtype_bytes(m->type);
    rows.rows = count;
    return rows;
}

static struct weight expert_weight(const struct weight *all, int32_t expert, int32_t N)
{
    struct weight one = *all;
    int32_t R = all->a.rows / (all->w.rows / N);

    one.w = slice(&all->w, expert * N, N);
    one.a = slice(&all->a, expert * R, R);
    one.b = slice(&all->b, expert * N, R ? N : 0);
    return one;
}

/* The rows of one expert. */
struct stretch {
    int32_t expert, from, count;
};

static bool next_stretch(struct stretch *at, const int32_t *row_end, int32_t experts)
{
    at->expert++;
    at->from += at->count;
    if (at->expert >= experts)
        return false;
    at->count = row_end[at->expert] - at->from;
    return true;
}

static struct op_linear linear_view(const struct op_linear *op, struct stretch at, struct weight *w)
{
    struct op_linear one = *op;

    *w = expert_weight(op->w, at.expert, op->y.cols);
    one.w = w;
    one.row_end = NULL;
    one.x = slice(&op->x, at.from, at.count);
    one.y = slice(&op->y, at.from, at.count);
    one.add = slice(&op->add, at.from, at.count);
    one.bias = slice(&op->bias, at.expert, 1);
    return one;
}

static struct op_linear_grad_in grad_in_view(const struct op_linear_grad_in *op, struct stretch at, struct weight *w)
{
    struct op_linear_grad_in one = *op;

    *w = expert_weight(op->w, at.expert, op->dy.cols);
    one.w = w;
    one.row_end = NULL;
    one.dy = slice(&op->dy, at.from, at.count);
    one.dx = slice(&op->dx, at.from, at.count);
    return one;
}

static struct op_linear_grad_w grad_w_view(const struct op_linear_grad_w *op, struct stretch at, struct weight *w)
{
    struct op_linear_grad_w one = *op;
    int32_t N = op->dy.cols;

    *w = expert_weight(op->w, at.expert, N);
    one.w = w;
    one.row_end = NULL;
    one.x = slice(&op->x, at.from, at.count);
    one.dy = slice(&op->dy, at.from, at.count);
    one.dw = slice(&op->dw, at.expert * N, N);
    one.dbias = slice(&op->dbias, at.expert, 1);
    one.da = slice(&op->da, at.expert * w->a.rows, w->a.rows);
    one.db = slice(&op->db, at.expert * N, N);
    return one;
}

/* An op of all experts, one after the other. N: its matrix as wide as the products' outputs. */
#define GROUPED_DEFINE(op_name, view, outputs)                                                                         \
    void grouped_##op_name(struct queue *queue, const struct op_##op_name *op,                                         \
                           void (*dense)(struct queue *, const struct op_##op_name *))                                 \
    {                                                                                                                  \
        int32_t experts = op->w->w.rows / op->outputs.cols;                                                            \
        struct stretch at = {.expert = -1};                                                                            \
        struct weight w;                                                                                               \
                                                                                                                       \
        while (next_stretch(&at, op->row_end, experts))                                                                \
            if (at.count) {                                                                                            \
                struct op_##op_name one = view(op, at, &w);                                                            \
                dense(queue, &one);                                                                                    \
            }                                                                                                          \
    }
GROUPED_DEFINE(linear, linear_view, y)
GROUPED_DEFINE(linear_grad_in, grad_in_view, dy)
GROUPED_DEFINE(linear_grad_w, grad_w_view, dy)
#undef GROUPED_DEFINE

struct op_linear grouped_linear_largest(const struct op_linear *op, struct weight *w)
{
    return linear_view(op, (struct stretch){0, 0, op->x.rows}, w);
}

struct op_linear_grad_in grouped_linear_grad_in_largest(const struct op_linear_grad_in *op, struct weight *w)
{
    return grad_in_view(op, (struct stretch){0, 0, op->dy.rows}, w);
}

struct op_linear_grad_w grouped_linear_grad_w_largest(const struct op_linear_grad_w *op, struct weight *w)
{
    return grad_w_view(op, (struct stretch){0, 0, op->x.rows}, w);
}
