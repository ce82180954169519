/* Mixture of experts: who takes which token, rows in and out, and the products of experts. */
#include "compute/selftest/trial.h"

static void same_numbers(struct trial *trial, const char *what, const int32_t *got, const int32_t *want, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        trial_close_value(trial, what, i, got[i], want[i], 0);
}

struct routing {
    int32_t *row, *token, *row_end;
};

static struct routing routing_take(struct operands *o, int32_t T, int32_t E, int32_t top, bool is_wide)
{
    size_t bytes[] = {(size_t)(T * top) * 4, (size_t)E * 4};

    if (is_wide)
        return (struct routing){arena_alloc(&o->wide, bytes[0]), arena_alloc(&o->wide, bytes[0]),
                                arena_alloc(&o->wide, bytes[1])};
    return (struct routing){operands_take(o, bytes[0]), operands_take(o, bytes[0]), operands_take(o, bytes[1])};
}

void trial_route(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, random_below(o, 4) ? 60 : 700), E = random_in(o, 1, random_below(o, 4) ? 20 : 140);
    int32_t top = random_in(o, 1, E < 8 ? E : 8), D = random_in(o, 1, 90);
    struct routing at = routing_take(o, T, E, top, false), expected = routing_take(o, T, E, top, true);
    struct op_route op = {.logits = mat_random(o, T, E, 0, random_type(o)),
                          .weight = mat_output(o, T, top, 0, DTYPE_F32, false),
                          .row_weight = mat_output(o, 1, T * top, 0, DTYPE_F32, false),
                          .row = at.row,
                          .token = at.token,
                          .row_end = at.row_end,
                          .is_normalized = random_below(o, 2)},
                    wide;
    struct op_route_grad grad = {.dlogits = mat_output(o, T, E, 0, random_type(o), false),
                                 .y = mat_random(o, T * top, D, 0, random_type(o)),
                                 .dout = mat_random(o, T, D, 0, random_type(o)),
                                 .is_normalized = op.is_normalized},
                         wide_grad;

    if (random_below(o, 2))
        op.load = mat_random(o, 2, E, 0, DTYPE_F32);
    if (random_below(o, 2))
        grad.aux = mat_random(o, 1, E, 0, DTYPE_F32);
    wide = op;
    wide.logits = mat_wide(o, &op.logits, false), wide.weight = mat_wide(o, &op.weight, false);
    wide.row_weight = mat_wide(o, &op.row_weight, false), wide.load = mat_wide(o, &op.load, false);
    wide.row = expected.row, wide.token = expected.token, wide.row_end = expected.row_end;
    trial_run(trial, OP_route, &op);
    trial_oracle(OP_route, &wide);
    trial_close(trial, "weight", &op.weight, &wide.weight, NULL, 1e-6);
    trial_close(trial, "row_weight", &op.row_weight, &wide.row_weight, NULL, 1e-6);
    trial_close(trial, "load", &op.load, &wide.load, NULL, 1e-6 * T);
    same_numbers(trial, "row", at.row, expected.row, T * top);
    same_numbers(trial, "token", at.token, expected.token, T * top);
    same_numbers(trial, "row_end", at.row_end, expected.row_end, E);
    grad.logits = op.logits, grad.weight = op.weight, grad.row = op.row;
    wide_grad = grad;
    wide_grad.logits = wide.logits, wide_grad.weight = wide.weight, wide_grad.row = expected.row;
    wide_grad.dlogits = mat_wide(o, &grad.dlogits, false), wide_grad.y = mat_wide(o, &grad.y, false);
    wide_grad.dout = mat_wide(o, &grad.dout, false), wide_grad.aux = mat_wide(o, &grad.aux, false);
    trial_run(trial, OP_route_grad, &grad);
    trial_oracle(OP_route_grad, &wide_grad);
    trial_close(trial, "dlogits", &grad.dlogits, &wide_grad.dlogits, NULL, 4e-6 * D);
    trial_gaps_whole(trial, "weight", &op.weight), trial_gaps_whole(trial, "dlogits", &grad.dlogits);
}

/* Rows made of several, scaled, upon others. */
void trial_gather(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t rows = random_in(o, 1, 60), count = random_in(o, 1, 60), D = random_in(o, 1, 100), fan = random_in(o, 1, 4);
    int32_t *index = operands_indices(o, count * fan);
    enum dtype type = random_type(o);
    struct op_rows op = {.x = mat_random(o, rows, D, 0, random_type(o)),
                         .y = mat_output(o, count, D, 0, type, false),
                         .index = index,
                         .count = count,
                         .fan = fan},
                   wide;

    for (int32_t i = 0; i < count * fan; i++)
        index[i] = random_in(o, 0, rows - 1);
    if (random_below(o, 2))
        op.scale = mat_random(o, 1, count * fan, 0, DTYPE_F32);
    if (random_below(o, 2))
        op.add =
            random_below(o, 2) ? (op.y = mat_random(o, count, D, 0, type)) : mat_random(o, count, D, 0, random_type(o));
    wide = op;
    wide.x = mat_wide(o, &op.x, false), wide.scale = mat_wide(o, &op.scale, false),
    wide.add = mat_wide(o, &op.add, false);
    wide.y = mat_wide(o, &op.y, false);
    trial_run(trial, OP_rows, &op);
    trial_oracle(OP_rows, &wide);
    trial_close(trial, "gathered rows", &op.y, &wide.y, NULL, 1e-6);
    trial_gaps_whole(trial, "gathered rows", &op.y);
}

/* E weights of one shape, half of the time with adapters of one or two parts. */
static struct weight experts_random(struct operands *o, int32_t E, int32_t N, int32_t K, enum dtype type)
{
    struct weight w = {.w = mat_random(o, E * N, K, 0, type), .lora_scale = 0.5f};
    int32_t *rows = arena_new_array(&o->wide, int32_t, 3), *cols = arena_new_array(&o->wide, int32_t, 3),
            r = random_in(o, 1, 8);

    if (random_below(o, 2))
        return w;
    w.part_count = N >= 2 && random_below(o, 2) ? 2 : 1;
    w.a = mat_random(o, E * r * w.part_count, K, 0, type);
    w.b = mat_random(o, E * N, r * w.part_count, 0, type);
    if (w.part_count == 1)
        return w;
    rows[1] = random_in(o, 1, N - 1), rows[2] = N;
    cols[1] = r, cols[2] = 2 * r;
    w.part_rows = rows;
    w.part_cols = cols;
    for (int32_t n = 0; n < E * N; n++)
        for (int32_t c = 0; c < w.b.cols; c++)
            if ((n % N < rows[1]) != (c < r))
                set(&w.b, n, c, 0);
    return w;
}

static struct weight experts_wide(struct operands *o, const struct weight *w, bool is_absolute)
{
    struct weight wide = *w;

    wide.w = mat_wide(o, &w->w, is_absolute), wide.a = mat_wide(o, &w->a, is_absolute),
    wide.b = mat_wide(o, &w->b, is_absolute);
    return wide;
}

/* The three products of experts; Σ|a||b| comes from the reference itself, run on magnitudes. Some experts have no
 * rows. */
void trial_experts(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t E = random_in(o, 1, 5), N = random_in(o, 1, 70), K = random_in(o, 1, 70), *row_end = operands_indices(o, 5),
            T = 0;
    enum dtype type = random_type(o);
    struct weight w = experts_random(o, E, N, K, type),
                  wides[2] = {experts_wide(o, &w, false), experts_wide(o, &w, true)};
    int32_t R = w.a.rows / E;

    for (int32_t e = 0; e < E; e++)
        row_end[e] = T += random_below(o, 3) ? random_in(o, 1, 40) : 0;
    struct op_linear op = {.x = mat_random(o, T, K, R, type),
                           .y = mat_output(o, T, N, 0, random_type(o), false),
                           .w = &w,
                           .row_end = row_end,
                           .bias = mat_random(o, E, N, 0, random_type(o))},
                     wide[2];
    struct op_linear_grad_in in = {.dy = mat_random(o, T, N, R, type),
                                   .dx = mat_output(o, T, K, 0, random_type(o), false),
                                   .w = &w,
                                   .row_end = row_end},
                             wide_in[2];
    struct op_linear_grad_w grad = {.x = op.x,
                                    .dy = in.dy,
                                    .w = &w,
                                    .row_end = row_end,
                                    .dw = mat_random(o, E * N, K, 0, DTYPE_F32),
                                    .dbias = mat_random(o, E, N, 0, DTYPE_F32),
                                    .da = mat_random(o, E * R, K, 0, DTYPE_F32),
                                    .db = mat_random(o, E * N, R, 0, DTYPE_F32)},
                            wide_grad[2];
    if (!R)
        grad.da = mat_none(&grad.da), grad.db = mat_none(&grad.db);
    for (int absolute = 0; absolute < 2; absolute++) {
        wide[absolute] = op, wide_in[absolute] = in, wide_grad[absolute] = grad;
        wide[absolute].w = wide_in[absolute].w = wide_grad[absolute].w = &wides[absolute];
        wide[absolute].x = mat_wide(o, &op.x, absolute), wide[absolute].y = mat_wide(o, &op.y, absolute);
        wide[absolute].bias = mat_wide(o, &op.bias, absolute);
        wide_in[absolute].dy = mat_wide(o, &in.dy, absolute), wide_in[absolute].dx = mat_wide(o, &in.dx, absolute);
        trial_oracle(OP_linear, &wide[absolute]);
        trial_oracle(OP_linear_grad_in, &wide_in[absolute]);
        wide_grad[absolute].x = wide[absolute].x, wide_grad[absolute].dy = wide_in[absolute].dy;
        wide_grad[absolute].dw = mat_wide(o, &grad.dw, absolute),
        wide_grad[absolute].dbias = mat_wide(o, &grad.dbias, absolute);
        wide_grad[absolute].da = mat_wide(o, &grad.da, absolute),
        wide_grad[absolute].db = mat_wide(o, &grad.db, absolute);
        trial_oracle(OP_linear_grad_w, &wide_grad[absolute]);
    }
    double bound = 4e-6 + (R ? trial_rounding(type) : 0), grad_bound = 2e-5 + (R ? trial_rounding(type) : 0);
    trial_run(trial, OP_linear, &op);
    trial_close(trial, "experts' y", &op.y, &wide[0].y, &wide[1].y, bound);
    trial_gaps_whole(trial, "experts' y", &op.y);
    trial_run(trial, OP_linear_grad_in, &in);
    trial_close(trial, "experts' dx", &in.dx, &wide_in[0].dx, &wide_in[1].dx, bound);
    trial_gaps_whole(trial, "experts' dx", &in.dx);
    trial_run(trial, OP_linear_grad_w, &grad);
    trial_close(trial, "experts' dw", &grad.dw, &wide_grad[0].dw, &wide_grad[1].dw, grad_bound);
    trial_close(trial, "experts' dbias", &grad.dbias, &wide_grad[0].dbias, &wide_grad[1].dbias, grad_bound);
    trial_close(trial, "experts' da", &grad.da, &wide_grad[0].da, &wide_grad[1].da, grad_bound);
    trial_close(trial, "experts' db", &grad.db, &wide_grad[0].db, &wide_grad[1].db, grad_bound);
    trial_gaps_whole(trial, "experts' dw", &grad.dw), trial_gaps_whole(trial, "experts' dbias", &grad.dbias);
}
