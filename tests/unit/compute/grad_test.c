/* Every gradient of the reference against finite differences of its forward operation, in F64. */
#include "fixture.h"

#include "compute/parts.h"
#include "compute/selftest/operands.h"

static struct operands operands;
static int compared_count;
static struct queue queue;
static const struct backend *const ref = &backend_ref;

static struct mat random_mat(int32_t rows, int32_t cols, int32_t room)
{
    return mat_random(&operands, rows, cols, room, DTYPE_F64);
}

static struct mat zero_mat(int32_t rows, int32_t cols, int32_t room)
{
    struct mat m = mat_make(&operands, rows, cols, room, DTYPE_F64);

    mat_fill(&m, 0);
    return m;
}

static struct mat copy_of(const struct mat *m)
{
    struct mat copy = mat_make(&operands, m->rows, m->cols, m->ld - m->cols, DTYPE_F64);

    copy.ld = m->ld;
    memcpy(copy.at, m->at, (size_t)m->rows * (size_t)m->ld * 8);
    return copy;
}

/* Σ c∘y */
static double weighted(const struct mat *c, const struct mat *y)
{
    double sum = 0;

    for (int32_t i = 0; i < y->rows; i++)
        for (int32_t j = 0; j < y->cols; j++)
            sum += get(c, i, j) * get(y, i, j);
    return sum;
}

/* Compares grad with the slope of the objective along each element of `of`, by central differences. */
static void expect_slope(const char *what, double (*objective)(const void *), const void *args, const struct mat *of,
                         const struct mat *grad)
{
    const double step = 1e-5;

    for (int32_t i = 0; i < of->rows; i++)
        for (int32_t j = 0; j < of->cols; j++) {
            double value = get(of, i, j), above, slope;
            set(of, i, j, value + step);
            above = objective(args);
            set(of, i, j, value - step);
            slope = (above - objective(args)) / (2 * step);
            set(of, i, j, value);
            if (!(fabs(slope - get(grad, i, j)) <= 2e-8 * (1 + fabs(slope))))
                fail_msg("%s [%d, %d]: gradient %.12g, finite difference %.12g", what, i, j, get(grad, i, j), slope);
        }
    compared_count++;
}

static struct mat c; /* the weights of the objective: the gradient that comes in */

static const int32_t cu_seqlens[] = {0, 3, 4, 11};
static const int32_t tok[] = {2, 0, 2, 1, 3, 2, 2, 0, 1, 1, 2}, pos[] = {0, 1, 2, 0, 0, 1, 2, 3, 4, 5, 6};
static const int32_t by_token[] = {1, 7, 3, 8, 9, 0, 2, 5, 6, 10, 4};
static const struct batch batch = {
    .T = 11, .doc_count = 3, .cu_seqlens = cu_seqlens, .tok = tok, .pos = pos, .by_token = by_token};

static double embed_objective(const void *args)
{
    const struct op_embed *op = args;

    ref->embed(&queue, op);
    return weighted(&c, &op->x);
}

static void embed_gradient(void **state)
{
    struct op_embed op = {zero_mat(11, 5, 0), random_mat(4, 5, 0), &batch, 1.25f};
    struct op_embed_grad grad = {c = random_mat(11, 5, 0), zero_mat(4, 5, 0), &batch, 1.25f, false, 0};

    ref->embed_grad(&queue, &grad);
    expect_slope("table", embed_objective, &op, &op.table, &grad.dtable);
    grad.dtable = zero_mat(4, 5, 0);
    grad.has_padding = true;
    grad.padding = batch.tok[2];
    ref->embed_grad(&queue, &grad);
    for (int32_t token = 0; token < 4; token++)
        assert_int_equal(((double *)grad.dtable.at)[token * grad.dtable.ld] == 0, token == grad.padding);
}

static double norm_objective(const void *args)
{
    const struct op_norm *op = args;

    ref->norm(&queue, op);
    return weighted(&c, &op->y);
}

static void norm_gradient(void **state)
{
    for (int kind = NORM_LLAMA; kind <= NORM_ONE_PLUS; kind++) {
        double rstd[6];
        struct op_norm op = {.a = random_mat(6, 9, 0),
                             .b = random_mat(6, 9, 0),
                             .r = zero_mat(6, 9, 0),
                             .y = zero_mat(6, 9, 0),
                             .w = random_mat(1, 9, 0),
                             .add = random_mat(6, 9, 0),
                             .rstd = rstd,
                             .eps = 1e-5f,
                             .kind = (enum norm_kind)kind};
        struct op_norm_grad grad = {.dy = c = random_mat(6, 9, 0),
                                    .r = op.r,
                                    .dr = zero_mat(6, 9, 0),
                                    .w = op.w,
                                    .dw = zero_mat(1, 9, 0),
                                    .rstd = rstd,
                                    .eps = op.eps,
                                    .kind = op.kind,
                                    .is_fresh = kind == NORM_F32};
        norm_objective(&op);
        if (grad.is_fresh)
            mat_fill(&grad.dr, NAN);
        ref->norm_grad(&queue, &grad);
        expect_slope("a", norm_objective, &op, &op.a, &grad.dr);
        expect_slope("b", norm_objective, &op, &op.b, &grad.dr);
        expect_slope("w", norm_objective, &op, &op.w, &grad.dw);
        expect_slope("add", norm_objective, &op, &op.add, &c);
    }
}

struct rotation {
    struct op_qk_rope op;
    const struct mat *from;
};

static double rope_objective(const void *args)
{
    const struct rotation *rotation = args;

    memcpy(rotation->op.qkv.at, rotation->from->at, (size_t)rotation->from->rows * (size_t)rotation->from->ld * 8);
    ref->qk_rope(&queue, &rotation->op);
    return weighted(&c, &rotation->op.qkv);
}

/* All kinds of norms and rotations: no norm, over a head, over the whole width; all dims of a head, some, none. */
static void check_rope_gradient(enum qk_norm qk_norm, enum norm_kind kind, int32_t rot)
{
    enum { H = 2, KV = 1, d = 6 };
    int32_t q_cols = qk_norm == QK_NORM_WHOLE ? H * d : d, k_cols = qk_norm == QK_NORM_WHOLE ? KV * d : d;
    struct mat qkv = random_mat(11, (H + 2 * KV) * d, 0);
    float cos_sin[7 * d];
    struct op_qk_rope op = {.qkv = copy_of(&qkv),
                            .raw = zero_mat(11, (H + KV) * d, 0),
                            .q_norm = random_mat(1, q_cols, 0),
                            .k_norm = random_mat(1, k_cols, 0),
                            .qk_norm = qk_norm,
                            .kind = kind,
                            .eps = 1e-5f,
                            .batch = &batch,
                            .cos_sin = rot ? cos_sin : NULL,
                            .heads = H,
                            .kv_heads = KV,
                            .head_dim = d,
                            .rot = rot};
    struct rotation rotation = {op, &qkv};

    for (int i = 0; i < 7 * d; i++)
        cos_sin[i] = (float)random_value(&operands);
    c = random_mat(11, (H + 2 * KV) * d, 0);
    struct op_qk_rope_grad grad = {.dqkv = copy_of(&c),
                                   .raw = op.raw,
                                   .q_norm = op.q_norm,
                                   .k_norm = op.k_norm,
                                   .dq_norm = zero_mat(1, q_cols, 0),
                                   .dk_norm = zero_mat(1, k_cols, 0),
                                   .qk_norm = qk_norm,
                                   .kind = kind,
                                   .eps = op.eps,
                                   .batch = &batch,
                                   .cos_sin = op.cos_sin,
                                   .heads = H,
                                   .kv_heads = KV,
                                   .head_dim = d,
                                   .rot = rot};
    rope_objective(&rotation);
    ref->qk_rope_grad(&queue, &grad);
    expect_slope("qkv", rope_objective, &rotation, &qkv, &grad.dqkv);
    if (qk_norm == QK_NORM_NONE)
        return;
    expect_slope("q_norm", rope_objective, &rotation, &op.q_norm, &grad.dq_norm);
    expect_slope("k_norm", rope_objective, &rotation, &op.k_norm, &grad.dk_norm);
}

static void rope_gradient(void **state)
{
    for (int qk_norm = QK_NORM_NONE; qk_norm <= QK_NORM_WHOLE; qk_norm++)
        for (int kind = NORM_LLAMA; kind <= NORM_ONE_PLUS; kind++)
            for (int32_t rot = 0; rot <= 6; rot += 2)
                check_rope_gradient((enum qk_norm)qk_norm, (enum norm_kind)kind, rot);
}

static double attend_objective(const void *args)
{
    const struct op_attend *op = args;

    ref->attend(&queue, op);
    return weighted(&c, &op->out);
}

static void attend_gradient(void **state)
{
    static const struct {
        int32_t heads, kv_heads, window;
        float softcap;
        bool has_sinks;
    } shapes[] = {{2, 2, 0, 0, false}, {4, 2, 0, 0, false},   {3, 1, 0, 0, false},
                  {4, 2, 3, 0, false}, {1, 1, 1, 0, false},   {4, 2, 0, 0.5f, false},
                  {4, 2, 3, 0, true},  {2, 1, 0, 0.8f, true}, {1, 1, 1, 0, true}};

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int32_t H = shapes[i].heads, kv = shapes[i].kv_heads, d = 4, width = (H + 2 * kv) * d;
        double lse[4 * 11];
        struct mat sinks = random_mat(1, H, 0), none = mat_none(&sinks);
        struct op_attend op = {.qkv = random_mat(11, width, 0),
                               .out = zero_mat(11, H * d, 0),
                               .lse = lse,
                               .batch = &batch,
                               .heads = H,
                               .kv_heads = kv,
                               .head_dim = d,
                               .window = shapes[i].window,
                               .scale = 0.7f,
                               .softcap = shapes[i].softcap,
                               .sinks = shapes[i].has_sinks ? sinks : none};
        struct op_attend_grad grad = {.qkv = op.qkv,
                                      .out = op.out,
                                      .dout = c = random_mat(11, H * d, 0),
                                      .dqkv = zero_mat(11, width, 0),
                                      .lse = lse,
                                      .batch = &batch,
                                      .heads = H,
                                      .kv_heads = kv,
                                      .head_dim = d,
                                      .window = op.window,
                                      .scale = op.scale,
                                      .softcap = op.softcap,
                                      .sinks = op.sinks,
                                      .dsinks = op.sinks.at ? zero_mat(1, H, 0) : none};
        attend_objective(&op);
        mat_fill(&grad.dqkv, NAN);
        ref->attend_grad(&queue, &grad);
        expect_slope("qkv", attend_objective, &op, &op.qkv, &grad.dqkv);
        if (op.sinks.at)
            expect_slope("sinks", attend_objective, &op, &op.sinks, &grad.dsinks);
    }
}

static double linear_objective(const void *args)
{
    const struct op_linear *op = args;

    ref->linear(&queue, op);
    return weighted(&c, &op->y);
}

static bool is_in_block(const struct weight *w, int32_t n, int32_t col)
{
    for (int32_t i = 0; i < weight_part_count(w); i++) {
        struct weight_part part = weight_part(w, i);
        if (col >= part.col && col < part.col + part.cols)
            return n >= part.row && n < part.row + part.rows;
    }
    return false;
}

/* An adapter of rank R (0: none), for a plain weight or a fused one of three parts, of which one has no adapter. */
static void check_linear_gradient(int32_t R, bool has_parts, float rate)
{
    static const int32_t part_rows[] = {0, 3, 4, 8}, part_cols[] = {0, 2, 2, 6};
    static const float part_scale[] = {0.75f, 1, 1.5f};
    enum { T = 5, N = 8, K = 6 };
    struct weight w = {.w = random_mat(N, K, 0),
                       .a = random_mat(R, K, 0),
                       .b = random_mat(N, R, 0),
                       .lora_scale = 0.75f,
                       .lora_dropout = rate};
    struct dropout dropout = {.seed = 77, .step = 3, .layer = 9, .row_offset = 1000};
    struct op_linear op = {.x = random_mat(T, K, R),
                           .y = zero_mat(T, N, 0),
                           .w = &w,
                           .bias = random_mat(1, N, 0),
                           .add = random_mat(T, N, 0),
                           .dropout = dropout};
    struct op_linear_grad_in in = {.dy = c = random_mat(T, N, R), .dx = zero_mat(T, K, 0), .w = &w, .dropout = dropout};
    struct op_linear_grad_w grad = {.x = op.x,
                                    .dy = c,
                                    .w = &w,
                                    .dw = zero_mat(N, K, 0),
                                    .dbias = zero_mat(1, N, 0),
                                    .da = zero_mat(R, K, 0),
                                    .db = zero_mat(N, R, 0),
                                    .dropout = dropout};

    if (has_parts) {
        w.part_rows = part_rows, w.part_cols = part_cols, w.part_scale = part_scale, w.part_count = 3;
        for (int32_t n = 0; n < N; n++)
            for (int32_t col = 0; col < R; col++)
                if (!is_in_block(&w, n, col))
                    set(&w.b, n, col, 0);
    }
    linear_objective(&op);
    ref->linear_grad_in(&queue, &in);
    ref->linear_grad_w(&queue, &grad);
    expect_slope("x", linear_objective, &op, &op.x, &in.dx);
    expect_slope("w", linear_objective, &op, &w.w, &grad.dw);
    expect_slope("bias", linear_objective, &op, &op.bias, &grad.dbias);
    expect_slope("add", linear_objective, &op, &op.add, &c);
    expect_slope("a", linear_objective, &op, &w.a, &grad.da);
    for (int32_t i = 0; i < weight_part_count(&w) && R; i++) {
        struct weight_part part = weight_part(&w, i);
        struct mat block = {(double *)w.b.at + part.row * w.b.ld + part.col, part.rows, part.cols, w.b.ld, DTYPE_F64};
        struct mat slope = {(double *)grad.db.at + part.row * grad.db.ld + part.col, part.rows, part.cols, grad.db.ld,
                            DTYPE_F64};
        expect_slope("b", linear_objective, &op, &block, &slope);
    }
    for (int32_t n = 0; has_parts && n < N; n++)
        for (int32_t col = 0; col < R; col++)
            if (!is_in_block(&w, n, col))
                assert_true(get(&grad.db, n, col) == 0);
}

static void linear_gradient(void **state)
{
    check_linear_gradient(0, false, 0);
    check_linear_gradient(4, false, 0);
    check_linear_gradient(6, true, 0);
    check_linear_gradient(4, false, 0.4f);
    check_linear_gradient(6, true, 0.4f);
}

/* Three experts of 4 rows, none and 3, with adapters of two parts. */
static void experts_gradient(void **state)
{
    static const int32_t part_rows[] = {0, 2, 5}, part_cols[] = {0, 2, 4}, row_end[] = {4, 4, 7};
    enum { E = 3, T = 7, N = 5, K = 6, R = 4 };
    struct weight w = {.w = random_mat(E * N, K, 0),
                       .a = random_mat(E * R, K, 0),
                       .b = random_mat(E * N, R, 0),
                       .lora_scale = 0.75f,
                       .part_rows = part_rows,
                       .part_cols = part_cols,
                       .part_count = 2};
    struct op_linear op = {
        .x = random_mat(T, K, R), .y = zero_mat(T, N, 0), .w = &w, .row_end = row_end, .bias = random_mat(E, N, 0)};
    struct op_linear_grad_in in = {.dy = c = random_mat(T, N, R), .dx = zero_mat(T, K, 0), .w = &w, .row_end = row_end};
    struct op_linear_grad_w grad = {.x = op.x,
                                    .dy = c,
                                    .w = &w,
                                    .row_end = row_end,
                                    .dw = zero_mat(E * N, K, 0),
                                    .dbias = zero_mat(E, N, 0),
                                    .da = zero_mat(E * R, K, 0),
                                    .db = zero_mat(E * N, R, 0)};

    for (int32_t n = 0; n < E * N; n++)
        for (int32_t col = 0; col < R; col++)
            if ((n % N < 2) != (col < 2))
                set(&w.b, n, col, 0);
    linear_objective(&op);
    ref->linear_grad_in(&queue, &in);
    ref->linear_grad_w(&queue, &grad);
    expect_slope("x", linear_objective, &op, &op.x, &in.dx);
    expect_slope("w", linear_objective, &op, &w.w, &grad.dw);
    expect_slope("bias", linear_objective, &op, &op.bias, &grad.dbias);
    expect_slope("a", linear_objective, &op, &w.a, &grad.da);
    for (int32_t n = 0; n < E * N; n++) {
        int32_t from = n % N < 2 ? 0 : 2;
        struct mat block = {(double *)w.b.at + n * w.b.ld + from, 1, 2, w.b.ld, DTYPE_F64};
        struct mat slope = {(double *)grad.db.at + n * grad.db.ld + from, 1, 2, grad.db.ld, DTYPE_F64};
        expect_slope("b", linear_objective, &op, &block, &slope);
    }
}

/* The weighted sum of what the experts made, and the aux term on all probabilities. */
struct routing {
    struct op_route op;
    struct mat y, out, aux;
};

static double route_objective(const void *args)
{
    const struct routing *r = args;
    int32_t E = r->op.logits.cols, top = r->op.weight.cols;
    double sum = 0;

    mat_fill(&r->op.load, 0);
    ref->route(&queue, &r->op);
    ref->rows(&queue, &(struct op_rows){.x = r->y,
                                        .y = r->out,
                                        .scale = {r->op.weight.at, 1, 6 * top, 6 * top, DTYPE_F64},
                                        .index = r->op.row,
                                        .count = 6,
                                        .fan = top});
    for (int32_t e = 0; e < E; e++)
        sum += get(&r->aux, 0, e) * get(&r->op.load, 1, e);
    return sum + weighted(&c, &r->out);
}

static void route_gradient(void **state)
{
    enum { T = 6, E = 5, TOP = 2, D = 3 };

    for (int is_normalized = 0; is_normalized < 2; is_normalized++) {
        int32_t row[T * TOP], token[T * TOP], row_end[E];
        struct mat weight = zero_mat(T, TOP, 0);
        weight.ld = TOP;
        struct routing r = {{.logits = random_mat(T, E, 0),
                             .weight = weight,
                             .row_weight = zero_mat(1, T * TOP, 0),
                             .load = zero_mat(2, E, 0),
                             .row = row,
                             .token = token,
                             .row_end = row_end,
                             .is_normalized = is_normalized},
                            random_mat(T * TOP, D, 0),
                            zero_mat(T, D, 0),
                            random_mat(1, E, 0)};
        struct op_route_grad grad = {.logits = r.op.logits,
                                     .dlogits = zero_mat(T, E, 0),
                                     .weight = weight,
                                     .y = r.y,
                                     .aux = r.aux,
                                     .row = row,
                                     .is_normalized = is_normalized};
        grad.dout = c = random_mat(T, D, 0);
        route_objective(&r);
        ref->route_grad(&queue, &grad);
        expect_slope("logits", route_objective, &r, &r.op.logits, &grad.dlogits);
        for (int i = 0; i < T * TOP; i++) {
            int32_t at = row[i];
            assert_int_equal(token[at], i / TOP);
            assert_true(get(&r.op.row_weight, 0, at) == get(&weight, i / TOP, i % TOP));
        }
        for (int32_t e = 0, from = 0; e < E; from = row_end[e++])
            for (int32_t i = from; i + 1 < row_end[e]; i++)
                assert_true(token[i] < token[i + 1]);
        assert_int_equal(row_end[E - 1], T * TOP);
    }
}

static double glu_objective(const void *args)
{
    const struct op_glu *op = args;

    ref->glu(&queue, op);
    return weighted(&c, &op->h);
}

static void glu_gradient(void **state)
{
    for (int act = ACT_SILU; act <= ACT_OSS; act++) {
        struct op_glu op = {random_mat(4, 10, 0), zero_mat(4, 5, 0), (enum act)act, 0.6f};
        struct op_glu_grad grad = {copy_of(&op.gate_up), c = random_mat(4, 5, 0), {0}, (enum act)act, 0.6f};

        ref->glu_grad(&queue, &grad);
        expect_slope("gate and up", glu_objective, &op, &op.gate_up, &grad.gate_up);
    }
}

static const int32_t label[] = {4, 0, 2};
static const float coef[] = {0.5f, -1.25f, 2};

static double loss_objective(const void *args)
{
    const struct op_loss *op = args;

    ref->loss(&queue, op);
    return coef[0] * ((double *)op->nll)[0] + coef[1] * ((double *)op->nll)[1] + coef[2] * ((double *)op->nll)[2];
}

static void loss_gradient(void **state)
{
    double nll[3];
    uint8_t hit[3];
    struct op_loss op = {.logits = random_mat(3, 7, 0), .label = label, .nll = (float *)nll, .hit = hit}, back = op;

    back.logits = copy_of(&op.logits), back.coef = coef;
    ref->loss(&queue, &back);
    expect_slope("logits", loss_objective, &op, &op.logits, &back.logits);
}

struct head {
    struct op_linear linear;
    struct op_loss loss;
};

static double head_objective(const void *args)
{
    const struct head *head = args;

    ref->linear(&queue, &head->linear);
    return loss_objective(&head->loss);
}

/* op_linear caps the logits, op_loss takes the cap into their gradient: what comes out belongs to linear's plain
 * product. */
static void capped_logits_gradient(void **state)
{
    struct weight w = {.w = random_mat(7, 4, 0)};
    double nll[3];
    uint8_t hit[3];
    struct mat logits = zero_mat(3, 7, 0), dx = zero_mat(3, 4, 0);
    struct head head = {{.x = random_mat(3, 4, 0), .y = logits, .w = &w, .softcap = 0.7f},
                        {.logits = logits, .label = label, .nll = (float *)nll, .hit = hit, .softcap = 0.7f}};
    struct op_loss back = head.loss;

    head_objective(&head);
    back.logits = copy_of(&logits), back.coef = coef;
    ref->loss(&queue, &back);
    ref->linear_grad_in(&queue, &(struct op_linear_grad_in){.dy = back.logits, .dx = dx, .w = &w});
    expect_slope("x", head_objective, &head, &head.linear.x, &dx);
}

static void dropout_keeps_its_share_and_does_not_depend_on_the_micro_batch(void **state)
{
    enum { T = 64, K = 50, R = 1 };
    struct weight w = {.w = zero_mat(1, K, 0),
                       .a = random_mat(R, K, 0),
                       .b = zero_mat(1, R, 0),
                       .lora_scale = 1,
                       .lora_dropout = 0.25f};
    struct op_linear op = {
        .x = zero_mat(T, K, R), .y = zero_mat(T, 1, 0), .w = &w, .dropout = {.seed = 5, .step = 1, .layer = 2}};
    struct mat whole;
    double sum = 0;

    mat_fill(&op.x, 1), mat_fill(&w.a, 1);
    ref->linear(&queue, &op);
    for (int32_t t = 0; t < T; t++)
        sum += ((double *)op.x.at)[(size_t)t * (size_t)op.x.ld + K] * 0.75;
    assert_true(fabs(sum / (T * K) - 0.75) < 0.03);
    whole = copy_of(&op.x);
    op.x.at = (double *)op.x.at + (size_t)(T / 2) * (size_t)op.x.ld;
    op.x.rows = op.y.rows = T / 2;
    op.dropout.row_offset = T / 2;
    ref->linear(&queue, &op);
    assert_memory_equal((double *)whole.at + (size_t)(T / 2) * (size_t)whole.ld, op.x.at,
                        (size_t)(T / 2 - 1) * (size_t)op.x.ld * 8);
}

static int open_fixture(void **state)
{
    operands_open(&operands, mem_alloc_pages(OPERANDS_BYTES), fixture_seed());
    return 0;
}

static int close_fixture(void **state)
{
    print_message("gradients: %d compared\n", compared_count);
    operands_close(&operands);
    mem_free_pages(operands.block, OPERANDS_BYTES);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_gradient),
        cmocka_unit_test(norm_gradient),
        cmocka_unit_test(rope_gradient),
        cmocka_unit_test(attend_gradient),
        cmocka_unit_test(linear_gradient),
        cmocka_unit_test(experts_gradient),
        cmocka_unit_test(route_gradient),
        cmocka_unit_test(glu_gradient),
        cmocka_unit_test(loss_gradient),
        cmocka_unit_test(capped_logits_gradient),
        cmocka_unit_test(dropout_keeps_its_share_and_does_not_depend_on_the_micro_batch),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
