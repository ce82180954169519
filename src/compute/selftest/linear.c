/* Products, with and without adapters. */
#include "compute/nf4.h"
#include "compute/parts.h"
#include "compute/selftest/trial.h"

/* Three parts of random sizes; one may have no columns. Scales of their own every other time. */
static void cut_parts(struct operands *o, struct weight *w)
{
    int32_t *rows = arena_new_array(&o->wide, int32_t, 4), *cols = arena_new_array(&o->wide, int32_t, 4);
    float *scale = arena_new_array(&o->wide, float, 3);

    rows[1] = random_in(o, 1, w->w.rows - 2), rows[2] = random_in(o, rows[1], w->w.rows - 1), rows[3] = w->w.rows;
    cols[1] = random_in(o, 0, w->a.rows), cols[2] = random_in(o, cols[1], w->a.rows), cols[3] = w->a.rows;
    scale[0] = 0.25f, scale[1] = 0.5f, scale[2] = 1;
    w->part_count = 3;
    w->part_rows = rows;
    w->part_cols = cols;
    w->part_scale = random_below(o, 2) ? scale : NULL;
}

static bool is_in_block(const struct weight *w, int32_t n, int32_t c)
{
    for (int32_t i = 0; i < weight_part_count(w); i++) {
        struct weight_part part = weight_part(w, i);
        if (n >= part.row && n < part.row + part.rows && c >= part.col && c < part.col + part.cols)
            return true;
    }
    return false;
}

/* A and B in the rectangle of the weight, below its rows and behind its columns, where a device's models have them. */
static void join_adapter(struct operands *o, struct weight *w, int32_t R)
{
    int32_t N = w->w.rows, K = w->w.cols;
    struct mat all = mat_random(o, N + R, K, R, w->w.type);

    w->w = w->a = w->b = all;
    w->w.rows = w->b.rows = N;
    w->a.rows = w->b.cols = R;
    w->a.at = mat_row(&all, N);
    w->b.at = (char *)all.at + (size_t)K * dtype_bytes(all.type);
    for (int32_t n = 0; n < N; n++)
        for (int32_t c = 0; c < R; c++)
            set(&w->b, n, c, random_value(o));
}

/* A weight, with an adapter two times of three, of parts every other time, with dropout every other time. */
static struct weight make_weight(struct operands *o, int32_t N, int32_t K, enum dtype type, enum dtype adapter)
{
    struct weight w = {.w = mat_random(o, N, K, 0, type), .lora_scale = 0.5f};

    for (int32_t i = 0; type != adapter && i < N * K; i++) /* what either type holds */
        set(&w.w, i / K, i % K, rounded(get(&w.w, i / K, i % K), DTYPE_BF16));
    if (random_below(o, 3) == 0)
        return w;
    w.a = mat_random(o, random_in(o, 1, 36), K, 0, adapter);
    w.b = mat_random(o, N, w.a.rows, 0, adapter);
    if (type == adapter && random_below(o, 2))
        join_adapter(o, &w, w.a.rows);
    w.lora_dropout = random_below(o, 2) ? 0.25f : 0;
    if (N >= 3 && random_below(o, 2))
        cut_parts(o, &w);
    for (int32_t n = 0; n < N; n++)
        for (int32_t c = 0; c < w.b.cols; c++)
            if (!is_in_block(&w, n, c))
                set(&w.b, n, c, 0);
    return w;
}

static struct weight wide_weight(struct operands *o, const struct weight *w, bool is_absolute)
{
    struct weight wide = *w;

    wide.w = mat_wide(o, &w->w, is_absolute), wide.a = mat_wide(o, &w->a, is_absolute);
    wide.b = mat_wide(o, &w->b, is_absolute);
    return wide;
}

/* Of Σ|a||b|. Tensor cores keep thirteen bits of a sum of products in eight bits on their way, and all only now and
 * then. */
static double sum_bound(const struct trial *trial, const struct weight *w)
{
    return weight_is_eight(w) && trial->candidate->memory ? 0x1p-12 : 4e-6;
}

/* y, and x with the t behind it, beside the reference's; in eight bits where the backend can. Σ|a||b| comes from the
 * reference itself, run on magnitudes. */
static void compare_linear(struct trial *trial, struct op_linear op, const char *what)
{
    struct operands *o = &trial->operands;
    struct weight w64 = wide_weight(o, op.w, false), sizes = wide_weight(o, op.w, true);
    double t_rounding = op.w->a.rows ? trial_rounding(op.x.type) : 0;
    struct op_linear wide, size;

    for (int absolute = 0; absolute < 2; absolute++) {
        struct op_linear *copy = absolute ? &size : &wide;
        *copy = op;
        copy->x = mat_wide(o, &op.x, absolute), copy->y = mat_wide(o, &op.y, absolute);
        copy->add = mat_wide(o, &op.add, absolute);
        copy->bias = mat_wide(o, &op.bias, absolute), copy->w = absolute ? &sizes : &w64;
        copy->softcap = absolute ? 0 : op.softcap; /* an error behind the cap is at most the one in front of it */
        trial_oracle(OP_linear, copy);
    }
    if (weight_is_eight(op.w) && !trial->candidate->can(OP_linear, &op, NULL))
        return;
    trial_run(trial, OP_linear, &op);
    trial_close(trial, what, &op.y, &wide.y, &size.y, sum_bound(trial, op.w) + t_rounding);
    op.x.cols = wide.x.cols = size.x.cols = op.w->w.cols + op.w->a.rows;
    trial_close(trial, "x and t", &op.x, &wide.x, &size.x, 4e-6);
    trial_gaps_whole(trial, "x", &op.x), trial_gaps_whole(trial, "y", &op.y);
}

/* Something to add to a row of y: nothing, a bias, a matrix, y itself. */
static void add_some(struct operands *o, struct op_linear *op)
{
    int32_t T = op->y.rows, N = op->y.cols;

    if (random_below(o, 2))
        op->bias = mat_random(o, 1, N, 0, random_type(o));
    if (random_below(o, 2))
        op->add =
            random_below(o, 2) ? (op->y = mat_random(o, T, N, 0, DTYPE_F32)) : mat_random(o, T, N, 0, random_type(o));
}

void trial_linear(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 90), N = random_in(o, 1, 150), K = random_in(o, 1, random_below(o, 8) ? 150 : 2500);
    enum dtype type = random_type(o), other = random_below(o, 3) ? type : random_type(o);
    struct weight w = make_weight(o, N, K, other, type);
    struct op_linear op = {.x = mat_random(o, T, K, w.a.rows, type),
                           .y = mat_output(o, T, N, 0, random_type(o), false), .w = &w,
                           .softcap = random_below(o, 3) ? 0 : 2.5f,
                           .dropout = {random_below(o, 1000), 3, 7, random_below(o, 1000)}};

    add_some(o, &op);
    compare_linear(trial, op, "y");
}

/* The first rows of a product are the product of the first rows, for every type and for any scratch
 * that more rows asked for. */
void trial_fewer_rows(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 2, 90), rows = random_in(o, 1, T - 1), N = random_in(o, 1, 150), K = random_in(o, 1, 150);
    enum dtype type = random_type(o);
    struct weight w = make_weight(o, N, K, type, type);
    struct op_linear op = {.x = mat_random(o, T, K, w.a.rows, type), .y = mat_output(o, T, N, 0, type, false), .w = &w};
    struct op_linear part = op;
    struct mat few = mat_output(o, rows, N, 0, type, false);

    part.y = few, part.x.rows = rows;
    trial_run(trial, OP_linear, &op);
    trial_run(trial, OP_linear, &part);
    for (int threads = 1; threads <= 7; threads += 6)
        if (trial->candidate->scratch_bytes(OP_linear, &part, threads) >
            trial->candidate->scratch_bytes(OP_linear, &op, threads))
            trial_fail(trial, "%d rows want more scratch than %d", rows, T);
    trial_same_product(trial, "fewer rows", &op.y, &few, K);
}

/* In the backend's own order; NULL where it has none. */
static const void *laid_out(struct trial *trial, const struct mat *w)
{
    const struct backend *backend = trial->candidate;
    size_t bytes = w->rows && backend->panel_bytes ? backend->panel_bytes(w) : 0;
    void *panels = bytes ? operands_take(&trial->operands, bytes) : NULL;

    if (panels)
        backend->lay_out(&(struct queue){.pool = trial->pools[0]}, w, panels);
    return panels;
}

/* A weight in panels gives the bits that it gives row by row, for few rows and for many. */
void trial_panels(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, random_below(o, 2) ? 9 : 40), N = random_in(o, 1, 300);
    int32_t K = random_in(o, 1, random_below(o, 8) ? 150 : 2500);
    bool is_wide = random_below(o, 4) == 0; /* whole groups of panels */
    enum dtype type = random_type(o);
    N = is_wide ? random_in(o, 1, 1500) : N, K = is_wide ? random_in(o, 1, 40) : K;
    struct weight w = make_weight(o, N, K, type, type), panels;
    struct mat y = mat_output(o, T, N, 0, random_type(o), false), y_rows = mat_output(o, T, N, 0, y.type, false);
    struct op_linear op = {.x = mat_random(o, T, K, w.a.rows, type), .y = y_rows, .w = &w,
                           .softcap = random_below(o, 3) ? 0 : 2.5f};

    if (random_below(o, 2))
        op.bias = mat_random(o, 1, N, 0, random_type(o));
    if (random_below(o, 2))
        op.add = mat_random(o, T, N, 0, random_type(o));
    w.lora_dropout = 0;
    panels = w;
    panels.panels = laid_out(trial, &w.w), panels.a_panels = laid_out(trial, &w.a);
    panels.b_panels = laid_out(trial, &w.b);
    trial_run(trial, OP_linear, &op);
    op.w = &panels, op.y = y;
    trial_run(trial, OP_linear, &op);
    trial_same_product(trial, "a product with panels", &y, &y_rows, K);
    trial_gaps_whole(trial, "y", &y);
}

/* Rows that meet adapters of their own give the bits of each range with its adapter alone. */
void trial_adapters(struct trial *trial)
{
    enum { RANGES = 4 };
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, random_below(o, 2) ? 9 : 30), N = random_in(o, 1, 200), K = random_in(o, 1, 150);
    int32_t end = 0;
    enum dtype type = random_type(o);
    struct weight w = {.w = mat_random(o, N, K, 0, type)}, own[RANGES];
    struct adapter_rows ranges[RANGES];
    struct mat y = mat_output(o, T, N, 0, type, false), y_alone = mat_output(o, T, N, 0, type, false);
    struct op_linear op = {.x = mat_random(o, T, K, 36, type), .y = y, .w = &w, .adapters = ranges,
                           .adapter_count = RANGES};

    w.panels = random_below(o, 2) ? laid_out(trial, &w.w) : NULL;
    for (int i = 0; i < RANGES; i++) {
        own[i] = make_weight(o, N, K, type, type);
        own[i].lora_dropout = 0;
        own[i].a_panels = laid_out(trial, &own[i].a), own[i].b_panels = laid_out(trial, &own[i].b);
        end = i == RANGES - 1 ? T : random_in(o, end, T);
        ranges[i] = (struct adapter_rows){random_below(o, 4) ? &own[i] : NULL, end};
    }
    trial_run(trial, OP_linear, &op);
    for (int32_t i = 0, from = 0; i < RANGES; from = ranges[i++].row_end) {
        struct weight one = ranges[i].weight ? own[i] : w;
        struct op_linear alone = {.x = op.x, .y = y_alone, .w = &one};
        one.w = w.w, one.panels = w.panels;
        alone.x.at = mat_row(&op.x, from), alone.y.at = mat_row(&y_alone, from);
        alone.x.rows = alone.y.rows = ranges[i].row_end - from;
        if (alone.x.rows)
            trial_run(trial, OP_linear, &alone);
    }
    trial_same_product(trial, "rows with adapters of their own", &y, &y_alone, K);
    trial_gaps_whole(trial, "y", &y);
}

/* Rows [first, end) of w quantized, nested every other time, and replaced by what the codes stand for. */
static struct nf4 quantize_rows(struct operands *o, const struct mat *w, int32_t first, int32_t end)
{
    struct nf4 tensor = {.count = (int64_t)(end - first) * w->cols};
    int64_t blocks = nf4_blocks(tensor.count, NF4_BLOCK);
    float *values = arena_new_array(&o->wide, float, (size_t)tensor.count + 1), *map = operands_take(o, 4 * NF4_MAP);
    float *absmax = operands_take(o, 4 * (size_t)blocks), *nested_absmax = operands_take(o, 4 * (size_t)blocks);
    uint8_t *codes = operands_take(o, (size_t)nf4_code_bytes(tensor.count)), *nested = operands_take(o, (size_t)blocks);

    for (int64_t i = 0; i < tensor.count; i++)
        values[i] = (float)get(w, first + (int32_t)(i / w->cols), (int32_t)(i % w->cols));
    nf4_quantize(values, tensor.count, codes, absmax);
    tensor.codes = codes, tensor.absmax = absmax;
    if (random_below(o, 2)) {
        nf4_make_map(map);
        nf4_nest(absmax, blocks, map, nested, nested_absmax, &tensor.offset);
        tensor.absmax = nested_absmax, tensor.nested = nested, tensor.map = map;
    }
    nf4_dequantize(&tensor, 0, tensor.count, DTYPE_F32, values);
    for (int64_t i = 0; i < tensor.count; i++)
        set(w, first + (int32_t)(i / w->cols), (int32_t)(i % w->cols), values[i]);
    return tensor;
}

/* The same weight as codes of one to three tensors; w itself becomes what they stand for. */
static struct weight quantize_weight(struct operands *o, const struct weight *w)
{
    struct weight quantized = *w;
    int32_t *row_end = arena_new_array(&o->wide, int32_t, 3), count = w->w.rows >= 3 ? random_in(o, 1, 3) : 1;
    struct nf4 *part = arena_new_array(&o->wide, struct nf4, 3);

    for (int32_t i = 0; i < count; i++) {
        row_end[i] =
            i == count - 1 ? w->w.rows : random_in(o, (i ? row_end[i - 1] : 0) + 1, w->w.rows - (count - 1 - i));
        part[i] = quantize_rows(o, &w->w, i ? row_end[i - 1] : 0, row_end[i]);
    }
    quantized.quant = (struct quant){part, row_end, count};
    quantized.w = mat_none(&w->w);
    return quantized;
}

/* A weight of f32 beside bf16 has the bits of its copy in bf16. */
void trial_rounded(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 90), N = random_in(o, 1, random_below(o, 6) ? 150 : 2500), K = random_in(o, 1, 300);
    struct mat long_w = mat_random(o, N, K, 0, DTYPE_F32), short_w = mat_make(o, N, K, 0, DTYPE_BF16);
    struct weight wide = {.w = long_w}, copied = {.w = short_w};
    struct mat y = mat_output(o, T, N, 0, DTYPE_BF16, false), y_copied = mat_output(o, T, N, 0, DTYPE_BF16, false);
    struct mat dx = mat_output(o, T, K, 0, DTYPE_BF16, false), dx_copied = mat_output(o, T, K, 0, DTYPE_BF16, false);
    struct op_linear op = {.x = mat_random(o, T, K, 0, DTYPE_BF16), .y = y, .w = &wide};
    struct op_linear_grad_in grad = {.dy = mat_random(o, T, N, 0, DTYPE_BF16), .dx = dx, .w = &wide};

    if (trial->candidate->memory)
        return;
    for (int32_t i = 0; i < N * K; i++)
        set(&copied.w, i / K, i % K, get(&long_w, i / K, i % K));
    trial_run(trial, OP_linear, &op);
    op.w = &copied, op.y = y_copied;
    trial_run(trial, OP_linear, &op);
    trial_same_rows(trial, "a product with f32 weights", &y, &y_copied);
    trial_run(trial, OP_linear_grad_in, &grad);
    grad.w = &copied, grad.dx = dx_copied;
    trial_run(trial, OP_linear_grad_in, &grad);
    trial_same_rows(trial, "a gradient through f32 weights", &dx, &dx_copied);
}

/* A product with codes is the product with the numbers that they stand for. */
void trial_quantized(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 40), N = random_in(o, 1, 150);
    int32_t K = random_below(o, 2) ? 64 * random_in(o, 1, 20) : random_in(o, 1, 150);
    enum dtype type = random_type(o), other = type == DTYPE_BF16 || random_below(o, 3) ? type : random_type(o);
    struct weight w = make_weight(o, N, K, other, type), codes = quantize_weight(o, &w);
    struct mat y = mat_output(o, T, N, 0, type, false), y_plain = mat_output(o, T, N, 0, type, false);
    struct mat y_oracle = y_plain;
    struct mat dx = mat_output(o, T, K, 0, type, false), dx_plain = mat_output(o, T, K, 0, type, false);
    struct mat dx_oracle = dx_plain;
    struct op_linear op = {.x = mat_random(o, T, K, w.a.rows, type), .y = y, .w = &codes};
    struct op_linear_grad_in grad = {.dy = mat_random(o, T, N, w.a.rows, type), .dx = dx, .w = &codes};

    trial_run(trial, OP_linear, &op);
    op.w = &w, op.y = y_plain;
    trial_run(trial, OP_linear, &op);
    trial_same_product(trial, "a product with codes", &y, &y_plain, K);
    op.w = &codes, op.y = y_oracle;
    trial_oracle(OP_linear, &op);
    trial_close(trial, "y of codes", &y, &y_oracle, NULL, (w.a.rows ? 3 : 1) * trial_rounding(type) * (K + w.a.rows));

    trial_run(trial, OP_linear_grad_in, &grad);
    grad.w = &w, grad.dx = dx_plain;
    trial_run(trial, OP_linear_grad_in, &grad);
    trial_same_product(trial, "a gradient through codes", &dx, &dx_plain, N);
    grad.w = &codes, grad.dx = dx_oracle;
    trial_oracle(OP_linear_grad_in, &grad);
    trial_close(trial, "dx of codes", &dx, &dx_oracle, NULL,
                (w.a.rows ? 3 : 1) * trial_rounding(type) * (N + w.a.rows));
}

/* A multiple of 16 every other time: what libraries take. */
static int32_t eight_rows(struct operands *o, int32_t most)
{
    return random_below(o, 2) ? 16 * random_in(o, 1, most / 16) : random_in(o, 1, most);
}

/* One to three tensors of random numbers of rows, one of which may be much larger than the others. */
static struct quant eight_parts(struct operands *o, const struct mat *w)
{
    int32_t step = w->rows % 16 ? 1 : 16, units = w->rows / step;
    int32_t *row_end = arena_new_array(&o->wide, int32_t, 3), count = units >= 3 ? random_in(o, 1, 3) : 1;
    double factor = random_below(o, 2) ? 1 : 1 << random_below(o, 12);

    for (int32_t i = 0, unit = 0; i < count; i++) {
        unit = i == count - 1 ? units : random_in(o, unit + 1, units - (count - 1 - i));
        row_end[i] = step * unit;
    }
    for (int32_t n = 0; n < row_end[0]; n++)
        for (int32_t k = 0; k < w->cols; k++)
            set(w, n, k, factor * get(w, n, k));
    return (struct quant){NULL, row_end, count};
}

/* Products in eight bits: the reference has the codes of these very numbers, so only the sums are rounded otherwise. */
void trial_eight(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 90), N = eight_rows(o, 100), K = random_in(o, 1, random_below(o, 8) ? 150 : 1100);
    enum dtype type = random_type(o);
    struct weight w = make_weight(o, N, K, type, type);
    struct op_linear op = {.x = mat_random(o, T, K, w.a.rows, type),
                           .y = mat_output(o, T, N, 0, random_type(o), false), .w = &w,
                           .dropout = {random_below(o, 1000), 3, 7, random_below(o, 1000)}};

    w.quant = eight_parts(o, &w.w);
    add_some(o, &op);
    compare_linear(trial, op, "y in eight bits");
}

/* dx, and dy with the dt behind it, beside the reference's; in eight bits where the backend can. */
static void compare_grad_in(struct trial *trial, const struct weight *w, int32_t T, enum dtype type, const char *what)
{
    struct operands *o = &trial->operands;
    bool is_added = random_below(o, 2);
    struct op_linear_grad_in op = {.dy = mat_random(o, T, w->w.rows, w->a.rows, type),
                                   .dx = mat_output(o, T, w->w.cols, 0, random_type(o), is_added), .w = w,
                                   .dropout = {random_below(o, 1000), 3, 7, random_below(o, 1000)},
                                   .is_added = is_added};
    struct weight w64 = wide_weight(o, w, false), sizes = wide_weight(o, w, true);
    struct op_linear_grad_in wide, size;

    for (int absolute = 0; absolute < 2; absolute++) {
        struct op_linear_grad_in *copy = absolute ? &size : &wide;
        *copy = op;
        copy->dy = mat_wide(o, &op.dy, absolute), copy->dx = mat_wide(o, &op.dx, absolute);
        copy->w = absolute ? &sizes : &w64;
        trial_oracle(OP_linear_grad_in, copy);
    }
    if (weight_is_eight(w) && !trial->candidate->can(OP_linear_grad_in, &op, NULL))
        return;
    trial_run(trial, OP_linear_grad_in, &op);
    trial_close(trial, what, &op.dx, &wide.dx, &size.dx,
                sum_bound(trial, w) + (w->a.rows ? trial_rounding(type) : 0));
    op.dy.cols = wide.dy.cols = size.dy.cols = w->w.rows + w->a.rows;
    trial_close(trial, "dy and dt", &op.dy, &wide.dy, &size.dy, 4e-6);
    trial_gaps_whole(trial, "dy", &op.dy), trial_gaps_whole(trial, "dx", &op.dx);
}

void trial_eight_grad(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 90), N = eight_rows(o, random_below(o, 8) ? 150 : 1100), K = eight_rows(o, 100);
    enum dtype type = random_type(o);
    struct weight w = make_weight(o, N, K, type, type);

    w.quant = eight_parts(o, &w.w);
    compare_grad_in(trial, &w, T, type, "dx in eight bits");
}

void trial_linear_grad_in(struct trial *trial)
{
    struct operands *o = &trial->operands;
    bool is_long = random_below(o, 4) == 0; /* a weight of many rows */
    int32_t T = random_in(o, 1, is_long ? 9 : 90), N = is_long ? random_in(o, 1000, 6500) : random_in(o, 1, 150);
    int32_t K = random_in(o, 1, 150);
    enum dtype type = random_type(o), other = random_below(o, 3) ? type : random_type(o);
    struct weight w = make_weight(o, N, K, other, type);

    compare_grad_in(trial, &w, T, type, "dx");
}

void trial_linear_grad_w(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, random_below(o, 6) ? 120 : 2300), N = random_in(o, 1, 120), K = random_in(o, 1, 90);
    enum dtype type = random_type(o);
    struct weight w = make_weight(o, N, K, type, type);
    int32_t R = w.a.rows;
    struct mat x = mat_random(o, T, K + R, 0, type);
    struct mat dy = mat_random(o, T, N + R, 0, random_below(o, 4) ? type : random_type(o));
    bool is_fresh = random_below(o, 2);
    struct op_linear_grad_w op = {.x = x, .dy = dy, .w = &w, .is_fresh = is_fresh,
                                  .dw = mat_output(o, N, K, 0, trial_gradient_type(trial), !is_fresh),
                                  .dbias = mat_random(o, 1, N, 0, DTYPE_F32), .da = mat_random(o, R, K, 0, DTYPE_F32),
                                  .db = mat_random(o, N, R, 0, DTYPE_F32),
                                  .dropout = {random_below(o, 1000), 3, 7, random_below(o, 1000)}};
    struct op_linear_grad_w wide, size;

    op.x.cols = K, op.dy.cols = N;
    op.dw = random_below(o, 4) ? op.dw : mat_none(&op.dw);
    op.da = R ? op.da : mat_none(&op.da), op.db = R ? op.db : mat_none(&op.db);
    for (int absolute = 0; absolute < 2; absolute++) {
        struct op_linear_grad_w *copy = absolute ? &size : &wide;
        *copy = op;
        copy->x = mat_wide(o, &x, absolute), copy->dy = mat_wide(o, &dy, absolute);
        copy->x.cols = K, copy->dy.cols = N;
        copy->dw = mat_wide(o, &op.dw, absolute), copy->dbias = mat_wide(o, &op.dbias, absolute);
        copy->da = mat_wide(o, &op.da, absolute), copy->db = mat_wide(o, &op.db, absolute);
        trial_oracle(OP_linear_grad_w, copy);
    }
    trial_run(trial, OP_linear_grad_w, &op);
    /* More tokens than a backend sums in one stretch are rounded to the gradient's type by each stretch. */
    trial_close(trial, "dw", &op.dw, &wide.dw, &size.dw, 4e-6 + (T > 2048 ? trial_rounding(op.dw.type) : 0));
    trial_close(trial, "dbias", &op.dbias, &wide.dbias, &size.dbias, 2e-5);
    trial_close(trial, "da", &op.da, &wide.da, &size.da, 4e-6);
    trial_close(trial, "db", &op.db, &wide.db, &size.db, 4e-6);
    trial_gaps_whole(trial, "dw", &op.dw), trial_gaps_whole(trial, "da", &op.da), trial_gaps_whole(trial, "db", &op.db);
}
