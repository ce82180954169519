/* Rotation and attention, at once and behind a cache. */
#include "compute/selftest/trial.h"

void trial_rope(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 40), kv = random_in(o, 1, 3), heads = kv * random_in(o, 1, 3), d = 2 * random_in(o, 1, 40);
    struct batch batch = batch_random(o, T, 5);
    struct op_qk_rope op = {.batch = &batch, .heads = heads, .kv_heads = kv, .head_dim = d, .rot = 2 * random_in(o, 1, d / 2)}, wide;
    float *angles = arena_new_array(&o->wide, float, (size_t)T * (size_t)op.rot);

    for (int32_t i = 0; i < T * op.rot; i++)
        angles[i] = (float)random_value(o);
    op.qkv = mat_random(o, T, (heads + 2 * kv) * d, 0, random_type(o));
    op.cos_sin = angles;
    wide = op;
    wide.qkv = mat_wide(o, &op.qkv, false);
    trial_run(trial, OP_qk_rope, &op);
    trial_oracle(OP_qk_rope, &wide);
    trial_close(trial, "qkv", &op.qkv, &wide.qkv, NULL, 1e-6);
    trial_gaps_whole(trial, "qkv", &op.qkv);

    struct op_qk_rope_grad grad = {.dqkv = mat_random(o, T, (heads + 2 * kv) * d, 0, random_type(o)), .batch = &batch, .cos_sin = angles,
                                   .heads = heads, .kv_heads = kv, .head_dim = d, .rot = op.rot}, wide_grad = grad;
    wide_grad.dqkv = mat_wide(o, &grad.dqkv, false);
    trial_run(trial, OP_qk_rope_grad, &grad);
    trial_oracle(OP_qk_rope_grad, &wide_grad);
    trial_close(trial, "dqkv", &grad.dqkv, &wide_grad.dqkv, NULL, 1e-6);
    trial_gaps_whole(trial, "dqkv", &grad.dqkv);
}

void trial_attend(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 200), kv = random_in(o, 1, 2), heads = kv * random_in(o, 1, 3), d = random_in(o, 1, 80);
    struct batch batch = batch_random(o, T, 5);
    enum dtype type = random_type(o);
    float *lse = operands_take(o, (size_t)(heads * T) * 4);
    double *wide_lse = arena_new_array(&o->wide, double, (size_t)(heads * T)), bound = type == DTYPE_BF16 ? 2e-2 : 2e-6;
    struct op_attend op = {.qkv = mat_random(o, T, (heads + 2 * kv) * d, 0, type), .out = mat_output(o, T, heads * d, 0, type, false),
                           .lse = lse, .batch = &batch, .heads = heads, .kv_heads = kv, .head_dim = d,
                           .window = random_below(o, 2) ? random_in(o, 1, 100) : 0, .scale = 0.5f}, wide = op;
    struct op_attend_grad grad, wide_grad;

    wide.qkv = mat_wide(o, &op.qkv, false), wide.out = mat_wide(o, &op.out, false), wide.lse = wide_lse;
    trial_run(trial, OP_attend, &op);
    trial_oracle(OP_attend, &wide);
    trial_close(trial, "out", &op.out, &wide.out, NULL, bound);
    for (int32_t i = 0; i < heads * T; i++)
        trial_close_value(trial, "lse", i, lse[i], wide_lse[i], 1e-5 * (1 + fabs(wide_lse[i])));
    trial_gaps_whole(trial, "out", &op.out);

    grad = (struct op_attend_grad){.qkv = op.qkv, .out = op.out, .dout = mat_random(o, T, heads * d, 0, type), .lse = lse, .batch = &batch,
                                   .dqkv = mat_output(o, T, (heads + 2 * kv) * d, 0, type, false), .heads = heads, .kv_heads = kv,
                                   .head_dim = d, .window = op.window, .scale = op.scale};
    wide_grad = grad;
    wide_grad.qkv = wide.qkv, wide_grad.out = wide.out, wide_grad.lse = wide_lse;
    wide_grad.dout = mat_wide(o, &grad.dout, false), wide_grad.dqkv = mat_wide(o, &grad.dqkv, false);
    trial_run(trial, OP_attend_grad, &grad);
    trial_oracle(OP_attend_grad, &wide_grad);
    trial_close(trial, "dqkv", &grad.dqkv, &wide_grad.dqkv, NULL, type == DTYPE_BF16 ? 0.15 : 1e-5 * sqrt(d));
    trial_gaps_whole(trial, "dqkv", &grad.dqkv);
}

/* Tokens fed one by one and in pieces behind a cache give the bits of all at once. */
void trial_cache(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 2, 150), kv = random_in(o, 1, 2), heads = kv * 2, d = 2 * random_in(o, 4, 40), width = kv * d;
    int32_t whole[] = {0, T};
    enum dtype type = random_type(o);
    struct batch all = {.T = T, .doc_count = 1, .cu_seqlens = whole};
    struct op_attend op = {.qkv = mat_random(o, T, (heads + 2 * kv) * d, 0, type), .out = mat_output(o, T, heads * d, 0, type, false),
                           .batch = &all, .heads = heads, .kv_heads = kv, .head_dim = d, .scale = 0.3f,
                           .window = random_below(o, 2) ? random_in(o, 1, 90) : 0};
    struct mat k = mat_output(o, T, width, 0, type, false), v = mat_output(o, T, width, 0, type, false);
    struct kv_cache cache = {k.at, v.at, 0, T, type};
    struct mat pieces = mat_output(o, T, heads * d, 0, type, false);

    trial_run(trial, OP_attend, &op);
    for (int32_t t = 0, count; t < T; t += count) {
        count = random_below(o, 2) ? 1 : random_in(o, 1, T - t);
        int32_t piece[] = {0, count};
        struct batch some = {.T = count, .doc_count = 1, .cu_seqlens = piece};
        struct op_attend part = op;
        part.qkv.rows = part.out.rows = count;
        part.qkv.at = mat_row(&op.qkv, t);
        part.out = pieces, part.out.rows = count;
        part.out.at = mat_row(&pieces, t);
        part.batch = &some, part.cache = &cache;
        trial_run(trial, OP_attend, &part);
        cache.length += count;
    }
    trial_same_rows(trial, "behind a cache", &pieces, &op.out);
}
