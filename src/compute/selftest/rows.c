/* What goes row by row: embedding, norm, gate, rows, loss, and the optimizer over flat arenas. */
#include "compute/selftest/trial.h"

#include "compute/eight_bit.h"

enum dtype trial_gradient_type(struct trial *trial)
{
    struct mat row = {NULL, 1, 1, 1, DTYPE_F32}, table = {NULL, 1, 1, 1, DTYPE_BF16};
    struct op_embed_grad op = {.dx = row, .dtable = table};
    enum dtype type = random_type(&trial->operands);
    struct err err;

    return type == DTYPE_BF16 && trial->candidate->can(OP_embed_grad, &op, &err) ? DTYPE_BF16 : DTYPE_F32;
}

void trial_embed(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 60), D = random_in(o, 1, 150), V = random_in(o, 1, 20);
    struct batch batch = batch_random(o, T, V);
    struct op_embed op = {mat_output(o, T, D, 0, random_type(o), false), mat_random(o, V, D, 0, random_type(o)), &batch,
                          1.5f},
                    wide = op;
    struct op_embed_grad grad = {mat_random(o, T, D, 0, random_type(o)),
                                 mat_random(o, V, D, 0, DTYPE_F32),
                                 &batch,
                                 0.75f,
                                 random_in(o, 0, 1),
                                 random_in(o, 0, V - 1)},
                         wide_grad;

    if (trial_gradient_type(trial) == DTYPE_BF16)
        grad.dtable = mat_random(o, V, D, 0, DTYPE_BF16);
    wide_grad = grad;
    wide.x = mat_wide(o, &op.x, false), wide.table = mat_wide(o, &op.table, false);
    wide_grad.dx = mat_wide(o, &grad.dx, false), wide_grad.dtable = mat_wide(o, &grad.dtable, false);
    trial_run(trial, OP_embed, &op);
    trial_oracle(OP_embed, &wide);
    trial_close(trial, "x", &op.x, &wide.x, NULL, 0);
    trial_gaps_whole(trial, "x", &op.x);
    trial_run(trial, OP_embed_grad, &grad);
    trial_oracle(OP_embed_grad, &wide_grad);
    trial_close(trial, "dtable", &grad.dtable, &wide_grad.dtable, NULL, 1e-5);
    trial_gaps_whole(trial, "dtable", &grad.dtable);
}

void trial_norm(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 600), D = random_in(o, 1, 90);
    enum dtype residual = random_type(o);
    float *rstd = operands_take(o, (size_t)T * 4);
    double *wide_rstd = arena_new_array(&o->wide, double, (size_t)T);
    struct op_norm op = {.a = mat_random(o, T, D, 0, residual),
                         .y = mat_output(o, T, D, 0, random_type(o), false),
                         .rstd = rstd,
                         .eps = 1e-5f,
                         .w = mat_random(o, 1, D, 0, random_type(o)),
                         .kind = (enum norm_kind)random_below(o, 3)},
                   wide;

    if (random_below(o, 3)) {
        op.b = mat_random(o, T, D, 0, random_type(o));
        op.r = random_below(o, 2) ? op.a : mat_output(o, T, D, 0, residual, false);
    }
    if (random_below(o, 2))
        op.add = random_below(o, 2) ? (op.y = mat_random(o, T, D, 0, random_type(o)))
                                    : mat_random(o, T, D, 0, random_type(o));
    wide = op;
    wide.rstd = wide_rstd;
    wide.a = mat_wide(o, &op.a, false), wide.b = mat_wide(o, &op.b, false), wide.w = mat_wide(o, &op.w, false);
    wide.r = mat_wide(o, &op.a, false), wide.y = mat_wide(o, &op.y, false), wide.add = mat_wide(o, &op.add, false);
    trial_run(trial, OP_norm, &op);
    trial_oracle(OP_norm, &wide);
    /* A residual or a normed value rounded to bf16 before the weight costs one more rounding, of a value up to √D. */
    double bound = residual == DTYPE_BF16 ? 0x1p-6 * sqrt(D) : 4e-6 * sqrt(D);
    if (op.b.at)
        trial_close(trial, "r", &op.r, &wide.r, NULL, 1e-6);
    trial_close(trial, "y", &op.y, &wide.y, NULL, bound);
    for (int32_t t = 0; t < T && residual == DTYPE_F32; t++)
        trial_close_value(trial, "rstd", t, rstd[t], wide_rstd[t], 3e-6 * wide_rstd[t]);
    trial_gaps_whole(trial, "y", &op.y), trial_gaps_whole(trial, "r", &op.r);
}

void trial_norm_grad(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 600), D = random_in(o, 1, 90);
    bool is_fresh = random_below(o, 2), has_dw = random_below(o, 2);
    float *rstd = operands_take(o, (size_t)T * 4);
    double *wide_rstd = arena_new_array(&o->wide, double, (size_t)T);
    struct op_norm_grad op = {.dy = mat_random(o, T, D, 0, random_type(o)),
                              .r = mat_random(o, T, D, 0, random_type(o)),
                              .rstd = rstd,
                              .eps = 1e-5f,
                              .dr = mat_output(o, T, D, 0, random_type(o), !is_fresh),
                              .w = mat_random(o, 1, D, 0, random_type(o)),
                              .kind = (enum norm_kind)random_below(o, 3),
                              .is_fresh = is_fresh},
                        wide;

    for (int32_t t = 0; t < T; t++)
        wide_rstd[t] = rstd[t] = (float)(1.5 + random_value(o));
    if (has_dw)
        op.dw = mat_random(o, 1, D, 0, DTYPE_F32);
    wide = op;
    wide.rstd = wide_rstd;
    wide.dy = mat_wide(o, &op.dy, false), wide.r = mat_wide(o, &op.r, false), wide.dr = mat_wide(o, &op.dr, false);
    wide.w = mat_wide(o, &op.w, false), wide.dw = mat_wide(o, &op.dw, false);
    trial_run(trial, OP_norm_grad, &op);
    trial_oracle(OP_norm_grad, &wide);
    trial_close(trial, "dr", &op.dr, &wide.dr, NULL, 3e-5);
    trial_close(trial, "dw", &op.dw, &wide.dw, NULL, 2e-4);
    trial_gaps_whole(trial, "dr", &op.dr);
}

void trial_glu(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 40), F = random_in(o, 1, 100);
    enum act act = (enum act)random_below(o, ACT_OSS + 1);
    enum dtype type = random_type(o);
    struct op_glu op = {mat_random(o, T, 2 * F, 0, type), mat_output(o, T, F, 0, random_type(o), false), act, 0.7f},
                  wide = op;
    struct op_glu_grad grad = {op.gate_up, mat_random(o, T, F, 0, random_type(o)),
                               mat_output(o, T, F, 0, random_type(o), false), act, 0.7f};
    struct op_glu_grad wide_grad = grad;

    set(&op.gate_up, 0, 0, 90), set(&op.gate_up, T - 1, F - 1, -90);
    if (random_below(o, 2))
        grad.h = mat_none(&grad.h);
    wide.gate_up = mat_wide(o, &op.gate_up, false), wide.h = mat_wide(o, &op.h, false);
    wide_grad.dh = mat_wide(o, &grad.dh, false), wide_grad.h = mat_wide(o, &grad.h, false),
    wide_grad.gate_up = wide.gate_up;
    trial_run(trial, OP_glu, &op);
    trial_oracle(OP_glu, &wide);
    trial_close(trial, "h", &op.h, &wide.h, NULL, 1e-6);
    trial_gaps_whole(trial, "h", &op.h);
    trial_run(trial, OP_glu_grad, &grad);
    trial_oracle(OP_glu_grad, &wide_grad);
    trial_close(trial, "gradient of gate and up", &grad.gate_up, &wide_grad.gate_up, NULL, 2e-6);
    trial_close(trial, "h again", &grad.h, &wide_grad.h, NULL, 1e-6);
    trial_gaps_whole(trial, "h again", &grad.h), trial_gaps_whole(trial, "gate_up", &op.gate_up);
}

/* How far rounding moves the inverse of a norm, which cancellation makes small:
 * ‖|W| + scale·|B|·|A|‖ / ‖W + scale·B·A‖². */
static struct mat inverse_sizes(struct operands *o, const struct op_dora *dora, const struct mat *inverse)
{
    struct op_dora sizes = *dora;

    sizes.w = mat_wide(o, &dora->w, true), sizes.a = mat_wide(o, &dora->a, true), sizes.b = mat_wide(o, &dora->b, true);
    sizes.magnitude = mat_wide(o, &dora->magnitude, true);
    sizes.inverse = mat_wide(o, inverse, false), sizes.gain = mat_wide(o, inverse, false);
    trial_oracle(OP_dora, &sizes);
    for (int32_t n = 0; n < inverse->cols; n++)
        set(&sizes.inverse, 0, n, get(inverse, 0, n) * get(inverse, 0, n) / get(&sizes.inverse, 0, n));
    return sizes.inverse;
}

/* DoRA: a gain from norms, its use and its gradient. */
void trial_gain(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, random_below(o, 6) ? 40 : 600), N = random_in(o, 1, 90), K = random_in(o, 1, 600),
            R = random_in(o, 1, 9);
    enum dtype type = random_type(o);
    struct op_dora dora = {.w = mat_random(o, N, K, 0, type),
                           .a = mat_random(o, R, K, 0, type),
                           .b = mat_random(o, N, R, 0, type),
                           .magnitude = mat_random(o, 1, N, 0, DTYPE_F32),
                           .inverse = mat_output(o, 1, N, 0, DTYPE_F32, false),
                           .gain = mat_output(o, 1, N, 0, DTYPE_F32, false),
                           .scale = 0.5f},
                   wide = dora;
    struct op_gain gain = {.x = mat_random(o, T, N, 0, type), .y = mat_output(o, T, N, 0, random_type(o), false)},
                   wide_gain;
    struct op_gain_grad grad = {.dy = mat_random(o, T, N, 0, type),
                                .x = gain.x,
                                .dmagnitude = mat_random(o, 1, N, 0, DTYPE_F32)},
                        wide_grad;
    struct mat sizes;

    wide.w = mat_wide(o, &dora.w, false), wide.a = mat_wide(o, &dora.a, false), wide.b = mat_wide(o, &dora.b, false);
    wide.magnitude = mat_wide(o, &dora.magnitude, false), wide.inverse = mat_wide(o, &dora.inverse, false),
    wide.gain = mat_wide(o, &dora.gain, false);
    trial_run(trial, OP_dora, &dora);
    trial_oracle(OP_dora, &wide);
    sizes = inverse_sizes(o, &dora, &wide.inverse);
    trial_close(trial, "inverse norms", &dora.inverse, &wide.inverse, &sizes, 2e-6);
    trial_close(trial, "gain", &dora.gain, &wide.gain, &sizes, 2e-6); /* magnitudes are at most 1 */
    gain.gain = dora.gain;
    gain.bias = random_below(o, 2) ? mat_random(o, 1, N, 0, random_type(o)) : mat_none(&gain.x);
    gain.add = random_below(o, 2) ? mat_random(o, T, N, 0, random_type(o)) : mat_none(&gain.x);
    wide_gain = gain;
    wide_gain.x = mat_wide(o, &gain.x, false), wide_gain.y = mat_wide(o, &gain.y, false),
    wide_gain.gain = mat_wide(o, &gain.gain, false);
    wide_gain.bias = mat_wide(o, &gain.bias, false), wide_gain.add = mat_wide(o, &gain.add, false);
    trial_run(trial, OP_gain, &gain);
    trial_oracle(OP_gain, &wide_gain);
    trial_close(trial, "columns times gain", &gain.y, &wide_gain.y, NULL, 4e-6);
    trial_gaps_whole(trial, "columns times gain", &gain.y);
    grad.inverse = dora.inverse;
    wide_grad = grad;
    wide_grad.dy = mat_wide(o, &grad.dy, false), wide_grad.x = wide_gain.x,
    wide_grad.inverse = mat_wide(o, &grad.inverse, false);
    wide_grad.dmagnitude = mat_wide(o, &grad.dmagnitude, false);
    trial_run(trial, OP_gain_grad, &grad);
    trial_oracle(OP_gain_grad, &wide_grad);
    trial_close(trial, "gradient of magnitudes", &grad.dmagnitude, &wide_grad.dmagnitude, NULL, 1e-4);
}

void trial_rows(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t rows = random_in(o, 1, 60), count = random_in(o, 0, rows), D = random_in(o, 1, 100), next = 0;
    int32_t *index = operands_indices(o, rows);
    bool is_scatter = random_below(o, 2);
    struct mat many = mat_random(o, rows, D, 0, is_scatter ? DTYPE_F32 : random_type(o));
    struct mat few = mat_output(o, count, D, 0, random_type(o), is_scatter);
    struct op_rows op = {.x = is_scatter ? few : many, .y = is_scatter ? many : few, .index = index, .count = count,
                         .is_scatter = is_scatter}, wide = op;
    struct op_copy copy = {mat_random(o, rows, D, 0, random_type(o)),
                           mat_output(o, rows, D, 0, random_type(o), is_scatter), is_scatter},
                   wide_copy = copy;

    for (int32_t i = 0; i < rows && next < count; i++)
        if ((int32_t)random_below(o, (uint32_t)(rows - i)) < count - next)
            index[next++] = i;
    wide.x = mat_wide(o, &op.x, false), wide.y = mat_wide(o, &op.y, false);
    wide_copy.x = mat_wide(o, &copy.x, false), wide_copy.y = mat_wide(o, &copy.y, false);
    trial_run(trial, OP_rows, &op);
    trial_oracle(OP_rows, &wide);
    trial_close(trial, "rows", &op.y, &wide.y, NULL, 0);
    trial_gaps_whole(trial, "rows", &op.y);
    trial_run(trial, OP_copy, &copy);
    trial_oracle(OP_copy, &wide_copy);
    trial_close(trial, "copy", &copy.y, &wide_copy.y, NULL, 0);
    trial_gaps_whole(trial, "copy", &copy.y);
}

/* Nowhere, or in bf16 at the front of f32 logits where the candidate takes that. */
static struct mat loss_grad(struct trial *trial, const struct op_loss *op)
{
    const struct mat *logits = &op->logits;
    struct op_loss with = *op;
    struct err err;

    with.grad = (struct mat){logits->at, logits->rows, logits->cols, 2 * logits->ld, DTYPE_BF16};
    if (!op->coef || logits->type != DTYPE_F32 || random_below(&trial->operands, 2) ||
        !trial->candidate->can(OP_loss, &with, &err))
        with.grad = (struct mat){0};
    return with.grad;
}

void trial_loss(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t n = random_in(o, 1, 30), V = random_in(o, 1, random_below(o, 4) ? 90 : 3000);
    enum dtype type = random_type(o);
    struct op_loss op = {.logits = mat_random(o, n, V, 0, type), .softcap = random_below(o, 2) ? 13.5f : 0}, wide;
    int32_t *label = operands_indices(o, n);
    float *coef = operands_take(o, (size_t)n * 4), *nll = operands_take(o, (size_t)n * 4);
    double *wide_nll = arena_new_array(&o->wide, double, (size_t)n);
    uint8_t *hit = operands_take(o, (size_t)n), *wide_hit = arena_alloc(&o->wide, (size_t)n);

    for (int32_t i = 0; i < n; i++) {
        label[i] = random_in(o, 0, V - 1), coef[i] = (float)random_value(o);
        for (int32_t v = 0; v < V; v++)
            set(&op.logits, i, v, 12 * get(&op.logits, i, v));
        if (i % 3 == 0) /* the label is a largest one; sometimes not the first */
            set(&op.logits, i, label[i], 13), set(&op.logits, i, random_in(o, 0, V - 1), 13);
    }
    op.label = label, op.coef = random_below(o, 4) ? coef : NULL, op.nll = nll, op.hit = hit;
    op.grad = loss_grad(trial, &op);
    wide = op;
    wide.grad.at = NULL, wide.logits = mat_wide(o, &op.logits, false), wide.nll = (float *)wide_nll,
    wide.hit = wide_hit;
    trial_run(trial, OP_loss, &op);
    trial_oracle(OP_loss, &wide);
    trial_close(trial, "gradient", op.grad.at ? &op.grad : &op.logits, &wide.logits, NULL, 1e-6);
    for (int32_t i = 0; i < n; i++) {
        trial_close_value(trial, "nll", i, nll[i], wide_nll[i], 2e-6 * (1 + wide_nll[i]));
        trial_close_value(trial, "hit", i, hit[i], wide_hit[i], 0);
    }
    trial_gaps_whole(trial, "logits", &op.logits);
}

/* Weights, moments and gradients of one type, as the candidate takes them. */
static enum dtype state_type(struct trial *trial)
{
    struct op_adamw op = {.master_type = DTYPE_BF16, .moment_type = DTYPE_BF16, .grad_type = DTYPE_BF16, .step = 1};
    enum dtype type = random_type(&trial->operands);
    struct err err;

    return type == DTYPE_BF16 && trial->candidate->can(OP_adamw, &op, &err) ? DTYPE_BF16 : DTYPE_F32;
}

/* Chance rounds the reference's bf16 alike; sums that differ in the last bits of f32 rarely go to the other
 * neighbour. */
static void close_state(struct trial *trial, const char *what, const struct mat *got, const struct mat *want)
{
    int32_t differing = 0;

    if (got->type == DTYPE_F32) {
        trial_close(trial, what, got, want, NULL, 1e-6);
        return;
    }
    for (int32_t j = 0; j < got->cols; j++) {
        double a = get(got, 0, j), b = get(want, 0, j);
        trial_close_value(trial, what, j, a, b, 0x1p-7 * fabs(b) + 1e-6);
        differing += a != b;
    }
    if (differing > 3 + got->cols / 500)
        trial_fail(trial, "%s: %d of %d elements are rounded elsewhere", what, differing, got->cols);
    trial->result[OP_adamw].comparison_count++;
}

/* Bytes count places in the map: neighbours where sums differ in the last bits of f32, which is rare. Scales go
 * along. */
static void close_codes(struct trial *trial, const char *what, const uint8_t *got, const uint8_t *want,
                        const float *got_scale, const float *want_scale, int32_t count)
{
    int32_t differing = 0;

    for (int32_t j = 0; j < count; j++) {
        trial_close_value(trial, what, j, (double)(int8_t)(got[j] - want[j]), 0, 1);
        differing += got[j] != want[j];
    }
    for (int32_t j = 0; j * EIGHT_BIT_BLOCK < count; j++)
        trial_close_value(trial, "scale", j, (double)got_scale[j], (double)want_scale[j], 1e-6 * (double)want_scale[j]);
    if (differing > 3 + count / 500)
        trial_fail(trial, "%s: %d of %d codes are others", what, differing, count);
    trial->result[OP_adamw].comparison_count++;
}

/* Moments in bytes: no v so small beside m that updates lose their digits; blocks of zeros among them. */
static void trial_codes(struct trial *trial, struct op_adamw op)
{
    struct operands *o = &trial->operands;
    size_t count = op.count, scale_bytes = eight_bit_blocks(op.count) * sizeof(float);
    enum dtype type = op.master_type;
    struct mat master = mat_random(o, 1, (int32_t)count, 0, type), wide = master;
    uint8_t *code[2];
    float *scale[2];
    struct op_adamw slow;

    op.master = master.at;
    op.moment_type = DTYPE_U8;
    for (int i = 0; i < 2; i++) {
        code[i] = operands_take(o, count);
        scale[i] = operands_take(o, scale_bytes);
        for (size_t j = 0; j < count; j++)
            code[i][j] = (uint8_t)random_in(o, i ? 128 : 0, EIGHT_BIT_CODES - 1);
        for (size_t j = 0; j < scale_bytes / sizeof(float); j++)
            scale[i][j] = i ? scale[0][j] : (float)random_in(o, 0, 8) / 4;
    }
    op.m = code[0], op.v = code[1], op.m_scale = scale[0], op.v_scale = scale[1];
    slow = op;
    slow.copy = NULL;
    slow.master = wide.at = arena_copy(&o->wide, master.at, count * dtype_bytes(type));
    slow.m = arena_copy(&o->wide, code[0], count), slow.v = arena_copy(&o->wide, code[1], count);
    slow.m_scale = (void *)arena_copy(&o->wide, (char *)scale[0], scale_bytes);
    slow.v_scale = (void *)arena_copy(&o->wide, (char *)scale[1], scale_bytes);
    trial_run(trial, OP_adamw, &op);
    trial_oracle(OP_adamw, &slow);
    close_state(trial, "state", &master, &wide);
    close_codes(trial, "m", op.m, slow.m, op.m_scale, slow.m_scale, (int32_t)count);
    close_codes(trial, "v", op.v, slow.v, op.v_scale, slow.v_scale, (int32_t)count);
}

static void trial_sumsq(struct trial *trial, const struct mat *grad, double *sum)
{
    double want_partial[4], want, *partial = operands_take(&trial->operands, 8 * 4);
    struct op_sumsq op = {grad->at, grad->type, random_below(&trial->operands, 2), (uint64_t)grad->cols, partial, sum},
                    wide = op;

    want = *sum = 2.5;
    wide.partial = want_partial, wide.sum = &want;
    trial_run(trial, OP_sumsq, &op);
    trial_oracle(OP_sumsq, &wide);
    trial_close_value(trial, "sum", 0, *sum, want, 1e-12 * want);
    trial->result[OP_sumsq].comparison_count++;
}

void trial_adamw(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t count = random_in(o, 1, random_below(o, 3) ? 300 : 150000);
    enum dtype type = state_type(trial);
    size_t bytes = (size_t)count * dtype_bytes(type);
    struct mat grad = mat_random(o, 1, count, 0, type), state[3],
               copy = mat_output(o, 1, count, 0, random_type(o), false), wide[3];
    double *sum = operands_take(o, 8);
    struct op_adamw op = {.grad = grad.at,
                          .copy = type == DTYPE_F32 ? copy.at : NULL,
                          .copy_type = copy.type,
                          .count = (uint64_t)count,
                          .master_type = type,
                          .moment_type = type,
                          .grad_type = type,
                          .sumsq = sum,
                          .lr = 1e-2f,
                          .max_norm = random_below(o, 2) ? 0.7f : 0,
                          .beta1 = 0.9f,
                          .beta2 = 0.999f,
                          .eps = 1e-8f,
                          .decay = 0.1f,
                          .step = random_in(o, 1, 50),
                          .seed = (uint64_t)random_in(o, 0, 99) << 30,
                          .first = 128 * (uint64_t)random_in(o, 0, 1 << 30)},
                    slow;

    for (int i = 0; i < 3; i++) {
        state[i] = mat_random(o, 1, count, 0, type);
        for (int32_t j = 0; i == 2 && j < count; j++)
            set(&state[2], 0, j, fabs(get(&state[2], 0, j)));
        wide[i] = state[i];
        wide[i].at = arena_copy(&o->wide, state[i].at, bytes);
    }
    op.master = state[0].at, op.m = state[1].at, op.v = state[2].at;
    trial_sumsq(trial, &grad, sum);
    slow = op;
    slow.master = wide[0].at, slow.m = wide[1].at, slow.v = wide[2].at, slow.copy = NULL;
    trial_run(trial, OP_adamw, &op);
    trial_oracle(OP_adamw, &slow);
    for (int i = 0; i < 3; i++)
        close_state(trial, "state", &state[i], &wide[i]);
    if (op.copy)
        trial_close(trial, "copy", &copy, &wide[0], NULL, 1e-6);
    trial_codes(trial, op);
    *sum = NAN; /* nothing may change */
    state[0].at = arena_copy(&o->wide, op.master, bytes);
    trial_run(trial, OP_adamw, &op);
    if (memcmp(op.master, state[0].at, bytes) != 0)
        trial_fail(trial, "a gradient norm that is not a number changes weights");
}
