/* Norms and rotation of queries and keys; attention, at once and behind a cache. */
#include "compute/selftest/trial.h"

/* The backward operation of `op` on the raw rows that it left. */
static void trial_rope_grad(struct trial *trial, const struct op_qk_rope *op)
{
    struct operands *o = &trial->operands;
    struct op_qk_rope_grad grad = {.dqkv = mat_random(o, op->qkv.rows, op->qkv.cols, 0, random_type(o)),
                                   .raw = op->raw,
                                   .q_norm = op->q_norm,
                                   .k_norm = op->k_norm,
                                   .qk_norm = op->qk_norm,
                                   .kind = op->kind,
                                   .eps = op->eps,
                                   .batch = op->batch,
                                   .cos_sin = op->cos_sin,
                                   .heads = op->heads,
                                   .kv_heads = op->kv_heads,
                                   .head_dim = op->head_dim,
                                   .rot = op->rot},
                           wide;

    if (op->qk_norm && random_below(o, 4))
        grad.dq_norm = mat_random(o, 1, op->q_norm.cols, 0, DTYPE_F32);
    if (op->qk_norm && random_below(o, 4))
        grad.dk_norm = mat_random(o, 1, op->k_norm.cols, 0, DTYPE_F32);
    wide = grad;
    wide.dqkv = mat_wide(o, &grad.dqkv, false), wide.raw = mat_wide(o, &grad.raw, false);
    wide.q_norm = mat_wide(o, &grad.q_norm, false), wide.k_norm = mat_wide(o, &grad.k_norm, false);
    wide.dq_norm = mat_wide(o, &grad.dq_norm, false), wide.dk_norm = mat_wide(o, &grad.dk_norm, false);
    trial_run(trial, OP_qk_rope_grad, &grad);
    trial_oracle(OP_qk_rope_grad, &wide);
    trial_close(trial, "dqkv", &grad.dqkv, &wide.dqkv, NULL, grad.qk_norm ? 6e-5 : 1e-6);
    trial_close(trial, "dq_norm", &grad.dq_norm, &wide.dq_norm, NULL, 2e-4);
    trial_close(trial, "dk_norm", &grad.dk_norm, &wide.dk_norm, NULL, 2e-4);
    trial_gaps_whole(trial, "dqkv", &grad.dqkv);
}

void trial_rope(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 1, 90), kv = random_in(o, 1, 3), heads = kv * random_in(o, 1, 3),
            d = random_below(o, 2) ? 8 << random_below(o, 6) : 2 * random_in(o, 1, 70); /* often as models have it */
    int32_t rot = random_below(o, 2)             ? d
                  : d >= 8 && random_below(o, 2) ? 8 * random_in(o, 1, d / 8)
                                                 : 2 * random_in(o, 1, d / 2);
    struct batch batch = batch_random(o, T, 5);
    enum dtype type = random_type(o);
    float *angles = operands_take(o, (size_t)T * (size_t)rot * sizeof(float));
    struct op_qk_rope op = {.qkv = mat_random(o, T, (heads + 2 * kv) * d, 0, type),
                            .raw = mat_output(o, T, (heads + kv) * d, 0, type, false),
                            .qk_norm = (enum qk_norm)random_below(o, 3),
                            .kind = (enum norm_kind)random_below(o, 3),
                            .eps = 1e-5f,
                            .batch = &batch,
                            .cos_sin = random_below(o, 4) ? angles : NULL,
                            .heads = heads,
                            .kv_heads = kv,
                            .head_dim = d,
                            .rot = rot},
                      wide;

    for (int32_t i = 0; i < T * rot; i++)
        angles[i] = (float)random_value(o);
    if (op.qk_norm) {
        op.q_norm = mat_random(o, 1, op.qk_norm == QK_NORM_WHOLE ? heads * d : d, 0, random_type(o));
        op.k_norm = mat_random(o, 1, op.qk_norm == QK_NORM_WHOLE ? kv * d : d, 0, random_type(o));
    } else if (random_below(o, 2)) {
        op.raw = mat_none(&op.raw);
    }
    wide = op;
    wide.qkv = mat_wide(o, &op.qkv, false), wide.raw = mat_wide(o, &op.raw, false);
    wide.q_norm = mat_wide(o, &op.q_norm, false), wide.k_norm = mat_wide(o, &op.k_norm, false);
    trial_run(trial, OP_qk_rope, &op);
    trial_oracle(OP_qk_rope, &wide);
    /* A normed value, up to √d, that is rounded to bf16 before its weight costs one more rounding. */
    double norm_bound = type == DTYPE_BF16 ? 0x1p-6 * sqrt(d) : 4e-6 * sqrt(d);
    trial_close(trial, "qkv", &op.qkv, &wide.qkv, NULL, op.qk_norm ? norm_bound : 1e-6);
    trial_close(trial, "raw", &op.raw, &wide.raw, NULL, 0);
    trial_gaps_whole(trial, "qkv", &op.qkv), trial_gaps_whole(trial, "raw", &op.raw);
    trial_rope_grad(trial, &op);
}

void trial_attend(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t shape = (int32_t)random_below(o, 4), d = shape == 0   ? 32 * random_in(o, 1, 8)
                                                     : shape == 1 ? 8 * random_in(o, 1, 32)
                                                                  : random_in(o, 1, 100);
    int32_t T = random_in(o, 1, d <= 128 ? 200 : 90);
    int32_t kv = random_in(o, 1, 2), heads = kv * random_in(o, 1, d <= 100 ? 3 : 2);
    struct batch batch = batch_random(o, T, 5);
    enum dtype type = shape == 1 && random_below(o, 4) ? DTYPE_BF16 : random_type(o); /* often what tensor cores take */
    float *lse = operands_take(o, (size_t)(heads * T) * 4);
    double *wide_lse = arena_new_array(&o->wide, double, (size_t)(heads * T)), bound = type == DTYPE_BF16 ? 2e-2 : 2e-6;
    struct op_attend op = {.qkv = mat_random(o, T, (heads + 2 * kv) * d, 0, type),
                           .out = mat_output(o, T, heads * d, 0, type, false),
                           .lse = lse,
                           .batch = &batch,
                           .heads = heads,
                           .kv_heads = kv,
                           .head_dim = d,
                           .window = random_below(o, 2) ? random_in(o, 1, 100) : 0,
                           .scale = 2 / sqrtf((float)d),
                           .softcap = random_below(o, 2) ? 1.5f : 0},
                     wide;
    struct op_attend_grad grad, wide_grad;

    if (random_below(o, 2))
        op.sinks = mat_random(o, 1, heads, 0, DTYPE_F32);
    wide = op;
    wide.qkv = mat_wide(o, &op.qkv, false), wide.out = mat_wide(o, &op.out, false), wide.lse = wide_lse;
    wide.sinks = mat_wide(o, &op.sinks, false);
    trial_run(trial, OP_attend, &op);
    trial_oracle(OP_attend, &wide);
    trial_close(trial, "out", &op.out, &wide.out, NULL, bound);
    for (int32_t i = 0; i < heads * T; i++)
        trial_close_value(trial, "lse", i, lse[i], wide_lse[i], 1e-5 * (1 + fabs(wide_lse[i])));
    trial_gaps_whole(trial, "out", &op.out);

    grad = (struct op_attend_grad){.qkv = op.qkv,
                                   .out = op.out,
                                   .dout = mat_random(o, T, heads * d, 0, type),
                                   .lse = lse,
                                   .batch = &batch,
                                   .dqkv = mat_output(o, T, (heads + 2 * kv) * d, 0, type, false),
                                   .heads = heads,
                                   .kv_heads = kv,
                                   .head_dim = d,
                                   .window = op.window,
                                   .scale = op.scale,
                                   .softcap = op.softcap,
                                   .sinks = op.sinks};
    if (op.sinks.at && random_below(o, 2))
        grad.dsinks = mat_random(o, 1, heads, 0, DTYPE_F32);
    wide_grad = grad;
    wide_grad.sinks = wide.sinks, wide_grad.dsinks = mat_wide(o, &grad.dsinks, false);
    wide_grad.qkv = wide.qkv, wide_grad.out = wide.out, wide_grad.lse = wide_lse;
    wide_grad.dout = mat_wide(o, &grad.dout, false), wide_grad.dqkv = mat_wide(o, &grad.dqkv, false);
    trial_run(trial, OP_attend_grad, &grad);
    trial_oracle(OP_attend_grad, &wide_grad);
    trial_close(trial, "dqkv", &grad.dqkv, &wide_grad.dqkv, NULL, type == DTYPE_BF16 ? 0.15 : 1e-5 * sqrt(d));
    trial_close(trial, "dsinks", &grad.dsinks, &wide_grad.dsinks, NULL, (type == DTYPE_BF16 ? 2e-2 : 1e-5) * sqrt(T));
    trial_gaps_whole(trial, "dqkv", &grad.dqkv);
}

/* Tokens fed one by one and in pieces behind a cache give the bits of all at once; on a device, which has other kernels
 * for the two, they agree to rounding. With a window the cache is a ring that holds no more than the largest piece
 * needs. */
void trial_cache(struct trial *trial)
{
    struct operands *o = &trial->operands;
    int32_t T = random_in(o, 2, 200), piece_max = random_below(o, 2) ? T : random_in(o, 1, 20);
    int32_t kv = random_in(o, 1, 2), heads = kv * 2, d = random_in(o, 4, 80);
    int32_t *whole = operands_indices(o, 2), *piece = operands_indices(o, 2);
    enum dtype type = random_type(o);
    struct batch all = {.T = T, .doc_count = 1, .cu_seqlens = whole};
    struct op_attend op = {.qkv = mat_random(o, T, (heads + 2 * kv) * d, 0, type),
                           .out = mat_output(o, T, heads * d, 0, type, false),
                           .batch = &all,
                           .heads = heads,
                           .kv_heads = kv,
                           .head_dim = d,
                           .scale = 0.3f,
                           .window = random_below(o, 2) ? random_in(o, 1, 90) : 0,
                           .softcap = random_below(o, 2) ? 1.5f : 0};
    struct kv_cache cache = {.capacity = kv_cache_capacity(T, op.window, piece_max), .type = type};
    size_t bytes = kv_cache_bytes(trial->candidate, &cache, kv, d);
    struct mat pieces = mat_output(o, T, heads * d, 0, type, false);

    cache.k = operands_take(o, bytes), cache.v = operands_take(o, bytes);
    memset(cache.k, 0, bytes), memset(cache.v, 0, bytes);
    whole[0] = piece[0] = 0, whole[1] = T;
    if (random_below(o, 2))
        op.sinks = mat_random(o, 1, heads, 0, DTYPE_F32);
    trial_run(trial, OP_attend, &op);
    for (int32_t t = 0, count; t < T; t += count) {
        count = random_below(o, 2) ? 1 : random_in(o, 1, piece_max < T - t ? piece_max : T - t);
        piece[1] = count;
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
    trial_same_product(trial, "behind a cache", &pieces, &op.out, 4);
}
