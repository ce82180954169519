/* Every operation of every path of the fast backend against the reference, on random shapes and types. */
#include "fixture.h"

#include "compute/cpu/cpu.h"

enum { ROUNDS = 24 };

static struct fixture f;
static const struct backend *cpu;
static struct queue ref_queue;

#define RUN(name, args)                                                                                                \
    do {                                                                                                               \
        run_with_all_pools(&f, cpu, OP_##name, (void (*)(struct queue *, const void *))cpu->name, args);               \
    } while (0)

static enum dtype any_type(void)
{
    return random_below(&f, 2) ? DTYPE_BF16 : DTYPE_F32;
}

/* Documents of random lengths that fill T tokens of a vocabulary, with by_token. */
static struct batch make_batch(int32_t T, int32_t V)
{
    int32_t *cu = arena_new_array(&f.wide, int32_t, (size_t)T + 2), *tok = arena_new_array(&f.wide, int32_t, (size_t)T + 1);
    int32_t *pos = arena_new_array(&f.wide, int32_t, (size_t)T + 1), *by = arena_new_array(&f.wide, int32_t, (size_t)T + 1);
    struct batch batch = {.T = T, .cu_seqlens = cu, .tok = tok, .pos = pos, .by_token = by};
    int32_t count = 0;

    while (cu[batch.doc_count] < T) {
        int32_t left = T - cu[batch.doc_count], rows = random_below(&f, 3) ? random_in(&f, 1, left) : left;
        for (int32_t i = 0; i < rows; i++)
            pos[cu[batch.doc_count] + i] = i;
        cu[batch.doc_count + 1] = cu[batch.doc_count] + rows;
        batch.doc_count++;
    }
    for (int32_t t = 0; t < T; t++)
        tok[t] = random_in(&f, 0, V - 1);
    for (int32_t v = 0; v < V; v++)
        for (int32_t t = 0; t < T; t++)
            if (tok[t] == v)
                by[count++] = t;
    return batch;
}

static void embed_case(void)
{
    int32_t T = random_in(&f, 1, 60), D = random_in(&f, 1, 150), V = random_in(&f, 1, 20);
    struct batch batch = make_batch(T, V);
    struct op_embed op = {mat_output(&f, T, D, 0, any_type(), false), mat_random(&f, V, D, 0, any_type()), &batch, 1.5f}, wide = op;
    struct op_embed_grad grad = {mat_random(&f, T, D, 0, any_type()), mat_random(&f, V, D, 0, DTYPE_F32), &batch, 0.75f}, wide_grad = grad;

    wide.x = mat_wide(&f, &op.x, false), wide.table = mat_wide(&f, &op.table, false);
    wide_grad.dx = mat_wide(&f, &grad.dx, false), wide_grad.dtable = mat_wide(&f, &grad.dtable, false);
    RUN(embed, &op);
    backend_ref.embed(&ref_queue, &wide);
    mat_close(&f, "x", &op.x, &wide.x, NULL, 0);
    RUN(embed_grad, &grad);
    backend_ref.embed_grad(&ref_queue, &wide_grad);
    mat_close(&f, "dtable", &grad.dtable, &wide_grad.dtable, NULL, 1e-5);
    mat_gaps_whole("x", &op.x, 0), mat_gaps_whole("dtable", &grad.dtable, 0);
}

static void norm_case(void)
{
    int32_t T = random_in(&f, 1, 600), D = random_in(&f, 1, 90);
    enum dtype residual = any_type();
    float *rstd = fixture_take(&f, (size_t)T * 4);
    double *wide_rstd = arena_new_array(&f.wide, double, (size_t)T);
    struct op_norm op = {.a = mat_random(&f, T, D, 0, residual), .y = mat_output(&f, T, D, 0, any_type(), false), .rstd = rstd, .eps = 1e-5f,
                         .w = mat_random(&f, 1, D, 0, any_type()), .kind = (enum norm_kind)random_below(&f, 3)}, wide;

    if (random_below(&f, 3)) {
        op.b = mat_random(&f, T, D, 0, any_type());
        op.r = random_below(&f, 2) ? op.a : mat_output(&f, T, D, 0, residual, false);
    }
    wide = op;
    wide.rstd = wide_rstd;
    wide.a = mat_wide(&f, &op.a, false), wide.b = mat_wide(&f, &op.b, false), wide.w = mat_wide(&f, &op.w, false);
    wide.r = mat_wide(&f, &op.a, false), wide.y = mat_wide(&f, &op.y, false);
    RUN(norm, &op);
    backend_ref.norm(&ref_queue, &wide);
    /* A residual or a normed value rounded to bf16 before the weight costs one more rounding, of a value up to √D. */
    double bound = residual == DTYPE_BF16 ? 0x1p-6 * sqrt(D) : 4e-6 * sqrt(D);
    if (op.b.at)
        mat_close(&f, "r", &op.r, &wide.r, NULL, 1e-6);
    mat_close(&f, "y", &op.y, &wide.y, NULL, bound);
    for (int32_t t = 0; t < T && residual == DTYPE_F32; t++)
        if (fabs(rstd[t] - wide_rstd[t]) > 3e-6 * wide_rstd[t])
            fail_msg("rstd[%d]: %g, reference %g", t, (double)rstd[t], wide_rstd[t]);
    mat_gaps_whole("y", &op.y, 0), mat_gaps_whole("r", &op.r, 0);
}

static void norm_grad_case(void)
{
    int32_t T = random_in(&f, 1, 600), D = random_in(&f, 1, 90);
    bool is_fresh = random_below(&f, 2), has_dw = random_below(&f, 2);
    float *rstd = fixture_take(&f, (size_t)T * 4);
    double *wide_rstd = arena_new_array(&f.wide, double, (size_t)T);
    struct op_norm_grad op = {.dy = mat_random(&f, T, D, 0, any_type()), .r = mat_random(&f, T, D, 0, any_type()), .rstd = rstd, .eps = 1e-5f,
                              .dr = mat_output(&f, T, D, 0, any_type(), !is_fresh), .w = mat_random(&f, 1, D, 0, any_type()),
                              .kind = (enum norm_kind)random_below(&f, 3), .is_fresh = is_fresh}, wide;

    for (int32_t t = 0; t < T; t++)
        wide_rstd[t] = rstd[t] = (float)(1.5 + random_value(&f));
    if (has_dw)
        op.dw = mat_random(&f, 1, D, 0, DTYPE_F32);
    wide = op;
    wide.rstd = wide_rstd;
    wide.dy = mat_wide(&f, &op.dy, false), wide.r = mat_wide(&f, &op.r, false), wide.dr = mat_wide(&f, &op.dr, false);
    wide.w = mat_wide(&f, &op.w, false), wide.dw = mat_wide(&f, &op.dw, false);
    RUN(norm_grad, &op);
    backend_ref.norm_grad(&ref_queue, &wide);
    mat_close(&f, "dr", &op.dr, &wide.dr, NULL, 3e-5);
    mat_close(&f, "dw", &op.dw, &wide.dw, NULL, 2e-4);
    mat_gaps_whole("dr", &op.dr, 0);
}

static void rope_case(void)
{
    int32_t T = random_in(&f, 1, 40), kv = random_in(&f, 1, 3), heads = kv * random_in(&f, 1, 3), d = 2 * random_in(&f, 1, 40);
    struct batch batch = make_batch(T, 5);
    struct op_qk_rope op = {.batch = &batch, .heads = heads, .kv_heads = kv, .head_dim = d, .rot = 2 * random_in(&f, 1, d / 2),
                            .is_inverse = random_below(&f, 2)}, wide;
    float *angles = arena_new_array(&f.wide, float, (size_t)T * (size_t)op.rot);

    for (int32_t i = 0; i < T * op.rot; i++)
        angles[i] = (float)random_value(&f);
    op.qkv = mat_random(&f, T, (heads + 2 * kv) * d, 0, any_type());
    op.cos_sin = angles;
    wide = op;
    wide.qkv = mat_wide(&f, &op.qkv, false);
    RUN(qk_rope, &op);
    backend_ref.qk_rope(&ref_queue, &wide);
    mat_close(&f, "qkv", &op.qkv, &wide.qkv, NULL, 1e-6);
    mat_gaps_whole("qkv", &op.qkv, 0);
}

static void attend_case(void)
{
    int32_t T = random_in(&f, 1, 200), kv = random_in(&f, 1, 2), heads = kv * random_in(&f, 1, 3), d = random_in(&f, 1, 80);
    struct batch batch = make_batch(T, 5);
    enum dtype type = any_type();
    float *lse = fixture_take(&f, (size_t)(heads * T) * 4);
    double *wide_lse = arena_new_array(&f.wide, double, (size_t)(heads * T)), bound = type == DTYPE_BF16 ? 2e-2 : 2e-6;
    struct op_attend op = {.qkv = mat_random(&f, T, (heads + 2 * kv) * d, 0, type), .out = mat_output(&f, T, heads * d, 0, type, false),
                           .lse = lse, .batch = &batch, .heads = heads, .kv_heads = kv, .head_dim = d,
                           .window = random_below(&f, 2) ? random_in(&f, 1, 100) : 0, .scale = 0.5f}, wide = op;
    struct op_attend_grad grad, wide_grad;

    wide.qkv = mat_wide(&f, &op.qkv, false), wide.out = mat_wide(&f, &op.out, false), wide.lse = wide_lse;
    RUN(attend, &op);
    backend_ref.attend(&ref_queue, &wide);
    mat_close(&f, "out", &op.out, &wide.out, NULL, bound);
    for (int32_t i = 0; i < heads * T; i++)
        if (!(fabs(lse[i] - wide_lse[i]) <= 1e-5 * (1 + fabs(wide_lse[i]))))
            fail_msg("lse[%d]: %g, reference %g", i, (double)lse[i], wide_lse[i]);
    mat_gaps_whole("out", &op.out, 0);

    grad = (struct op_attend_grad){.qkv = op.qkv, .out = op.out, .dout = mat_random(&f, T, heads * d, 0, type), .lse = lse, .batch = &batch,
                                   .dqkv = mat_output(&f, T, (heads + 2 * kv) * d, 0, type, false), .heads = heads, .kv_heads = kv,
                                   .head_dim = d, .window = op.window, .scale = op.scale};
    wide_grad = grad;
    wide_grad.qkv = wide.qkv, wide_grad.out = wide.out, wide_grad.lse = wide_lse;
    wide_grad.dout = mat_wide(&f, &grad.dout, false), wide_grad.dqkv = mat_wide(&f, &grad.dqkv, false);
    RUN(attend_grad, &grad);
    backend_ref.attend_grad(&ref_queue, &wide_grad);
    mat_close(&f, "dqkv", &grad.dqkv, &wide_grad.dqkv, NULL, type == DTYPE_BF16 ? 0.15 : 1e-5 * sqrt(d));
    mat_gaps_whole("dqkv", &grad.dqkv, 0);
}

/* Tokens fed one by one and in pieces behind a cache give the bits of all at once. */
static void cache_case(void)
{
    int32_t T = random_in(&f, 2, 150), kv = random_in(&f, 1, 2), heads = kv * 2, d = 2 * random_in(&f, 4, 40), width = kv * d;
    int32_t whole[] = {0, T};
    enum dtype type = any_type();
    struct batch all = {.T = T, .doc_count = 1, .cu_seqlens = whole};
    struct op_attend op = {.qkv = mat_random(&f, T, (heads + 2 * kv) * d, 0, type), .out = mat_output(&f, T, heads * d, 0, type, false),
                           .batch = &all, .heads = heads, .kv_heads = kv, .head_dim = d, .scale = 0.3f,
                           .window = random_below(&f, 2) ? random_in(&f, 1, 90) : 0};
    struct mat k = mat_output(&f, T, width, 0, type, false), v = mat_output(&f, T, width, 0, type, false);
    struct kv_cache cache = {k.at, v.at, 0, T, type};
    struct mat pieces = mat_output(&f, T, heads * d, 0, type, false);

    RUN(attend, &op);
    for (int32_t t = 0, count; t < T; t += count) {
        count = random_below(&f, 2) ? 1 : random_in(&f, 1, T - t);
        int32_t piece[] = {0, count};
        struct batch some = {.T = count, .doc_count = 1, .cu_seqlens = piece};
        struct op_attend part = op;
        part.qkv.rows = part.out.rows = count;
        part.qkv.at = (char *)op.qkv.at + (size_t)t * (size_t)op.qkv.ld * dtype_bytes(type);
        part.out = pieces, part.out.rows = count;
        part.out.at = (char *)pieces.at + (size_t)t * (size_t)pieces.ld * dtype_bytes(type);
        part.batch = &some, part.cache = &cache;
        RUN(attend, &part);
        cache.length += count;
    }
    for (int32_t t = 0; t < T; t++)
        assert_memory_equal((char *)pieces.at + (size_t)t * (size_t)pieces.ld * dtype_bytes(type),
                            (char *)op.out.at + (size_t)t * (size_t)op.out.ld * dtype_bytes(type), (size_t)(heads * d) * dtype_bytes(type));
    f.compared_count++;
}

static struct mat none(const struct fixture *fixture, const struct mat *m)
{
    return (struct mat){NULL, m->rows, m->cols, m->ld, m->type};
}

/* A weight, with an adapter every other time, of parts every other time, with dropout every other time. */
static struct weight make_weight(int32_t N, int32_t K, enum dtype type, enum dtype adapter)
{
    struct weight w = {.w = mat_random(&f, N, K, 0, type), .lora_scale = 0.5f};
    int32_t *rows = arena_new_array(&f.wide, int32_t, 4);

    if (random_below(&f, 3) == 0)
        return w;
    w.part_count = N >= 3 && random_below(&f, 2) ? 3 : 1;
    w.a = mat_random(&f, random_in(&f, 1, 12) * w.part_count, K, 0, adapter);
    w.b = mat_random(&f, N, w.a.rows, 0, adapter);
    w.lora_dropout = random_below(&f, 2) ? 0.25f : 0;
    if (w.part_count == 1)
        return w;
    rows[1] = random_in(&f, 1, N - 2), rows[2] = random_in(&f, rows[1], N - 1), rows[3] = N;
    w.part_rows = rows;
    for (int32_t n = 0; n < N; n++)
        for (int32_t c = 0; c < w.b.cols; c++) {
            int32_t part = c / (w.a.rows / 3);
            if (n < rows[part] || n >= rows[part + 1])
                set(&w.b, n, c, 0);
        }
    return w;
}

static struct weight wide_weight(const struct weight *w, bool is_absolute)
{
    struct weight wide = *w;

    wide.w = mat_wide(&f, &w->w, is_absolute), wide.a = mat_wide(&f, &w->a, is_absolute), wide.b = mat_wide(&f, &w->b, is_absolute);
    return wide;
}

/* Σ|a||b| comes from the reference itself, run on magnitudes. */
static void linear_case(void)
{
    int32_t T = random_in(&f, 1, 90), N = random_in(&f, 1, 150), K = random_in(&f, 1, random_below(&f, 8) ? 150 : 2500);
    enum dtype type = any_type(), other = random_below(&f, 3) ? type : any_type();
    struct weight w = make_weight(N, K, other, type), w64 = wide_weight(&w, false), sizes = wide_weight(&w, true);
    int32_t R = w.a.rows;
    struct op_linear op = {.x = mat_random(&f, T, K, R, type), .y = mat_output(&f, T, N, 0, any_type(), false), .w = &w,
                           .dropout = {random_below(&f, 1000), 3, 7, random_below(&f, 1000)}}, wide, size;

    if (random_below(&f, 2))
        op.bias = mat_random(&f, 1, N, 0, any_type());
    if (random_below(&f, 2))
        op.add = random_below(&f, 2) ? (op.y = mat_random(&f, T, N, 0, DTYPE_F32)) : mat_random(&f, T, N, 0, any_type());
    for (int absolute = 0; absolute < 2; absolute++) {
        struct op_linear *copy = absolute ? &size : &wide;
        *copy = op;
        copy->x = mat_wide(&f, &op.x, absolute), copy->y = mat_wide(&f, &op.y, absolute), copy->add = mat_wide(&f, &op.add, absolute);
        copy->bias = mat_wide(&f, &op.bias, absolute), copy->w = absolute ? &sizes : &w64;
        backend_ref.linear(&ref_queue, copy);
    }
    RUN(linear, &op);
    double t_rounding = R ? type_rounding(type) : 0;
    mat_close(&f, "y", &op.y, &wide.y, &size.y, 4e-6 + t_rounding);
    op.x.cols = wide.x.cols = size.x.cols = K + R;
    mat_close(&f, "x and t", &op.x, &wide.x, &size.x, 4e-6);
    mat_gaps_whole("x", &op.x, 0), mat_gaps_whole("y", &op.y, 0);
}

/* The first rows of a product are the product of the first rows, to the bit, for every type and for any scratch that more rows asked for. */
static void fewer_rows_case(void)
{
    int32_t T = random_in(&f, 2, 90), rows = random_in(&f, 1, T - 1), N = random_in(&f, 1, 150), K = random_in(&f, 1, 150);
    enum dtype type = any_type();
    struct weight w = make_weight(N, K, type, type);
    struct op_linear op = {.x = mat_random(&f, T, K, w.a.rows, type), .y = mat_output(&f, T, N, 0, type, false), .w = &w}, part = op;
    struct mat few = mat_output(&f, rows, N, 0, type, false);

    part.y = few, part.x.rows = rows;
    for (int threads = 1; threads <= 7; threads += 6)
        assert_true(cpu->scratch_bytes(OP_linear, &part, threads) <= cpu->scratch_bytes(OP_linear, &op, threads));
    RUN(linear, &op);
    RUN(linear, &part);
    for (int32_t t = 0; t < rows; t++)
        assert_memory_equal((char *)op.y.at + (size_t)t * (size_t)op.y.ld * dtype_bytes(type),
                            (char *)few.at + (size_t)t * (size_t)few.ld * dtype_bytes(type), (size_t)N * dtype_bytes(type));
    f.compared_count++;
}

static void linear_grad_in_case(void)
{
    int32_t T = random_in(&f, 1, 90), N = random_in(&f, 1, random_below(&f, 8) ? 150 : 2500), K = random_in(&f, 1, 150);
    enum dtype type = any_type(), other = random_below(&f, 3) ? type : any_type();
    struct weight w = make_weight(N, K, other, type), w64 = wide_weight(&w, false), sizes = wide_weight(&w, true);
    bool is_added = random_below(&f, 2);
    struct op_linear_grad_in op = {.dy = mat_random(&f, T, N, w.a.rows, type), .dx = mat_output(&f, T, K, 0, any_type(), is_added), .w = &w,
                                   .dropout = {random_below(&f, 1000), 3, 7, random_below(&f, 1000)}, .is_added = is_added}, wide, size;

    for (int absolute = 0; absolute < 2; absolute++) {
        struct op_linear_grad_in *copy = absolute ? &size : &wide;
        *copy = op;
        copy->dy = mat_wide(&f, &op.dy, absolute), copy->dx = mat_wide(&f, &op.dx, absolute), copy->w = absolute ? &sizes : &w64;
        backend_ref.linear_grad_in(&ref_queue, copy);
    }
    RUN(linear_grad_in, &op);
    mat_close(&f, "dx", &op.dx, &wide.dx, &size.dx, 4e-6 + (w.a.rows ? type_rounding(type) : 0));
    op.dy.cols = wide.dy.cols = size.dy.cols = N + w.a.rows;
    mat_close(&f, "dy and dt", &op.dy, &wide.dy, &size.dy, 4e-6);
    mat_gaps_whole("dy", &op.dy, 0), mat_gaps_whole("dx", &op.dx, 0);
}

static void linear_grad_w_case(void)
{
    int32_t T = random_in(&f, 1, random_below(&f, 6) ? 120 : 2300), N = random_in(&f, 1, 120), K = random_in(&f, 1, 90);
    enum dtype type = any_type();
    struct weight w = make_weight(N, K, type, type);
    int32_t R = w.a.rows;
    struct mat x = mat_random(&f, T, K + R, 0, type), dy = mat_random(&f, T, N + R, 0, random_below(&f, 4) ? type : any_type());
    struct op_linear_grad_w op = {.x = x, .dy = dy, .w = &w, .dw = mat_random(&f, N, K, 0, DTYPE_F32), .dbias = mat_random(&f, 1, N, 0, DTYPE_F32),
                                  .da = mat_random(&f, R, K, 0, DTYPE_F32), .db = mat_random(&f, N, R, 0, DTYPE_F32),
                                  .dropout = {random_below(&f, 1000), 3, 7, random_below(&f, 1000)}}, wide, size;

    op.x.cols = K, op.dy.cols = N;
    op.dw = random_below(&f, 4) ? op.dw : none(&f, &op.dw);
    op.da = R ? op.da : none(&f, &op.da), op.db = R ? op.db : none(&f, &op.db);
    for (int absolute = 0; absolute < 2; absolute++) {
        struct op_linear_grad_w *copy = absolute ? &size : &wide;
        *copy = op;
        copy->x = mat_wide(&f, &x, absolute), copy->dy = mat_wide(&f, &dy, absolute);
        copy->x.cols = K, copy->dy.cols = N;
        copy->dw = mat_wide(&f, &op.dw, absolute), copy->dbias = mat_wide(&f, &op.dbias, absolute);
        copy->da = mat_wide(&f, &op.da, absolute), copy->db = mat_wide(&f, &op.db, absolute);
        backend_ref.linear_grad_w(&ref_queue, copy);
    }
    RUN(linear_grad_w, &op);
    mat_close(&f, "dw", &op.dw, &wide.dw, &size.dw, 4e-6);
    mat_close(&f, "dbias", &op.dbias, &wide.dbias, &size.dbias, 2e-5);
    mat_close(&f, "da", &op.da, &wide.da, &size.da, 4e-6);
    mat_close(&f, "db", &op.db, &wide.db, &size.db, 4e-6);
    mat_gaps_whole("dw", &op.dw, 0), mat_gaps_whole("da", &op.da, 0), mat_gaps_whole("db", &op.db, 0);
}

static void glu_case(void)
{
    int32_t T = random_in(&f, 1, 40), F = random_in(&f, 1, 100);
    enum act act = random_below(&f, 2) ? ACT_SILU : ACT_GELU_TANH;
    enum dtype type = any_type();
    struct op_glu op = {mat_random(&f, T, 2 * F, 0, type), mat_output(&f, T, F, 0, any_type(), false), act}, wide = op;
    struct op_glu_grad grad = {op.gate_up, mat_random(&f, T, F, 0, any_type()), mat_output(&f, T, F, 0, any_type(), false), act}, wide_grad = grad;

    set(&op.gate_up, 0, 0, 90), set(&op.gate_up, T - 1, F - 1, -90);
    if (random_below(&f, 2))
        grad.h = none(&f, &grad.h);
    wide.gate_up = mat_wide(&f, &op.gate_up, false), wide.h = mat_wide(&f, &op.h, false);
    wide_grad.dh = mat_wide(&f, &grad.dh, false), wide_grad.h = mat_wide(&f, &grad.h, false), wide_grad.gate_up = wide.gate_up;
    RUN(glu, &op);
    backend_ref.glu(&ref_queue, &wide);
    mat_close(&f, "h", &op.h, &wide.h, NULL, 1e-6);
    RUN(glu_grad, &grad);
    backend_ref.glu_grad(&ref_queue, &wide_grad);
    mat_close(&f, "gradient of gate and up", &grad.gate_up, &wide_grad.gate_up, NULL, 2e-6);
    mat_close(&f, "h again", &grad.h, &wide_grad.h, NULL, 1e-6);
    mat_gaps_whole("h", &op.h, 0), mat_gaps_whole("gate_up", &op.gate_up, 0);
}

static void rows_case(void)
{
    int32_t rows = random_in(&f, 1, 60), count = random_in(&f, 0, rows), D = random_in(&f, 1, 100), next = 0;
    int32_t *index = arena_new_array(&f.wide, int32_t, (size_t)rows + 1);
    bool is_scatter = random_below(&f, 2);
    struct mat many = mat_random(&f, rows, D, 0, is_scatter ? DTYPE_F32 : any_type());
    struct mat few = mat_output(&f, count, D, 0, any_type(), is_scatter);
    struct op_rows op = {is_scatter ? few : many, is_scatter ? many : few, index, count, is_scatter}, wide = op;
    struct op_copy copy = {mat_random(&f, rows, D, 0, any_type()), mat_output(&f, rows, D, 0, any_type(), is_scatter), is_scatter}, wide_copy = copy;

    for (int32_t i = 0; i < rows && next < count; i++)
        if ((int32_t)random_below(&f, (uint32_t)(rows - i)) < count - next)
            index[next++] = i;
    wide.x = mat_wide(&f, &op.x, false), wide.y = mat_wide(&f, &op.y, false);
    wide_copy.x = mat_wide(&f, &copy.x, false), wide_copy.y = mat_wide(&f, &copy.y, false);
    RUN(rows, &op);
    backend_ref.rows(&ref_queue, &wide);
    mat_close(&f, "rows", &op.y, &wide.y, NULL, 0);
    RUN(copy, &copy);
    backend_ref.copy(&ref_queue, &wide_copy);
    mat_close(&f, "copy", &copy.y, &wide_copy.y, NULL, 0);
    mat_gaps_whole("y", &op.y, 0), mat_gaps_whole("copy", &copy.y, 0);
}

static void loss_case(void)
{
    int32_t n = random_in(&f, 1, 30), V = random_in(&f, 1, random_below(&f, 4) ? 90 : 3000);
    enum dtype type = any_type();
    struct op_loss op = {.logits = mat_random(&f, n, V, 0, type)}, wide;
    int32_t *label = arena_new_array(&f.wide, int32_t, (size_t)n);
    float *coef = arena_new_array(&f.wide, float, (size_t)n), *nll = fixture_take(&f, (size_t)n * 4);
    double *wide_nll = arena_new_array(&f.wide, double, (size_t)n);
    uint8_t *hit = fixture_take(&f, (size_t)n), *wide_hit = arena_alloc(&f.wide, (size_t)n);

    for (int32_t i = 0; i < n; i++) {
        label[i] = random_in(&f, 0, V - 1), coef[i] = (float)random_value(&f);
        for (int32_t v = 0; v < V; v++)
            set(&op.logits, i, v, 12 * get(&op.logits, i, v));
        if (i % 3 == 0) /* the label is a largest one; sometimes not the first */
            set(&op.logits, i, label[i], 13), set(&op.logits, i, random_in(&f, 0, V - 1), 13);
    }
    op.label = label, op.coef = random_below(&f, 4) ? coef : NULL, op.nll = nll, op.hit = hit;
    wide = op;
    wide.logits = mat_wide(&f, &op.logits, false), wide.nll = (float *)wide_nll, wide.hit = wide_hit;
    RUN(loss, &op);
    backend_ref.loss(&ref_queue, &wide);
    mat_close(&f, "logits", &op.logits, &wide.logits, NULL, 1e-6);
    for (int32_t i = 0; i < n; i++)
        if (!(fabs(nll[i] - wide_nll[i]) <= 2e-6 * (1 + wide_nll[i])) || hit[i] != wide_hit[i])
            fail_msg("row %d: nll %g hit %d, reference %g %d", i, (double)nll[i], hit[i], wide_nll[i], wide_hit[i]);
    mat_gaps_whole("logits", &op.logits, 0);
}

static void adamw_case(void)
{
    int32_t count = random_in(&f, 1, random_below(&f, 3) ? 300 : 150000);
    struct mat grad = mat_random(&f, 1, count, 0, DTYPE_F32), state[3], copy = mat_output(&f, 1, count, 0, any_type(), false), wide[3];
    double *partial = fixture_take(&f, 8 * 4), *sum = fixture_take(&f, 8), want_partial[4], want;
    struct op_sumsq sumsq = {grad.at, (uint64_t)count, partial, sum}, wide_sumsq = sumsq;
    struct op_adamw op = {.grad = grad.at, .copy = copy.at, .copy_type = copy.type, .count = (uint64_t)count, .sumsq = sum, .lr = 1e-2f,
                          .max_norm = random_below(&f, 2) ? 0.7f : 0, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .decay = 0.1f,
                          .step = random_in(&f, 1, 50)}, slow;

    for (int i = 0; i < 3; i++) {
        state[i] = mat_random(&f, 1, count, 0, DTYPE_F32);
        for (int32_t j = 0; i == 2 && j < count; j++)
            set(&state[2], 0, j, fabs(get(&state[2], 0, j)));
        wide[i] = state[i];
        wide[i].at = arena_copy(&f.wide, state[i].at, (size_t)count * 4);
    }
    op.master = state[0].at, op.m = state[1].at, op.v = state[2].at;
    RUN(sumsq, &sumsq);
    wide_sumsq.partial = want_partial, wide_sumsq.sum = &want;
    backend_ref.sumsq(&ref_queue, &wide_sumsq);
    assert_true(fabs(*sum - want) <= 1e-12 * want);
    slow = op;
    slow.master = wide[0].at, slow.m = wide[1].at, slow.v = wide[2].at, slow.copy = NULL;
    RUN(adamw, &op);
    backend_ref.adamw(&ref_queue, &slow);
    for (int i = 0; i < 3; i++)
        mat_close(&f, "state", &state[i], &wide[i], NULL, 1e-6);
    mat_close(&f, "copy", &copy, &wide[0], NULL, 1e-6);
    *sum = NAN;
    state[0].at = arena_copy(&f.wide, op.master, (size_t)count * 4);
    RUN(adamw, &op);
    assert_memory_equal(op.master, state[0].at, (size_t)count * 4);
}

static void (*const cases[])(void) = {embed_case,     norm_case,           norm_grad_case,     rope_case, attend_case, cache_case, linear_case, fewer_rows_case,
                                      linear_grad_in_case, linear_grad_w_case, glu_case,  rows_case,   loss_case,  adamw_case};

static void compare(enum cpu_path path)
{
    cpu = cpu_path(path);
    if (!cpu) {
        print_message("skipped: this processor does not have the path\n");
        return;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            fixture_reset(&f);
            cases[i]();
        }
    print_message("ops: %d compared\n", f.compared_count);
}

static void the_plain_path_agrees_with_the_reference(void **state)
{
    compare(CPU_PATH_PLAIN);
}

static void the_avx2_path_agrees_with_the_reference(void **state)
{
    compare(CPU_PATH_AVX2);
}

static void the_avx512_path_agrees_with_the_reference(void **state)
{
    compare(CPU_PATH_AVX512);
}

static void the_avx512bf16_path_agrees_with_the_reference(void **state)
{
    compare(CPU_PATH_AVX512BF16);
}

static int open_fixture(void **state)
{
    fixture_open(&f);
    return 0;
}

static int close_fixture(void **state)
{
    fixture_close(&f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_plain_path_agrees_with_the_reference, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(the_avx2_path_agrees_with_the_reference, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(the_avx512_path_agrees_with_the_reference, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(the_avx512bf16_path_agrees_with_the_reference, open_fixture, close_fixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
