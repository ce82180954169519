/* What no backend takes is refused before anything runs, and the reason names the operand. */
#include "test.h"

#include "compute/check.h"

#include <string.h>

enum { T = 4, H = 4, KV = 2, d = 8 };

/* An address for operands that count when they have one; nothing is read there. */
static float there;

static struct mat mat_of(int32_t rows, int32_t cols, enum dtype type)
{
    return (struct mat){&there, rows, cols, cols, type};
}

static void expect_taken(enum op op, const void *args)
{
    struct err err = {0};

    if (!op_check(op, args, false, &err))
        fail_msg("refused: %s", err.text);
}

static void expect_refused(enum op op, const void *args, const char *words)
{
    struct err err = {0};

    assert_false(op_check(op, args, false, &err));
    if (!strstr(err.text, words))
        fail_msg("'%s' is not in '%s'", words, err.text);
}

static void norms_of_queries_and_keys_need_their_weights_and_what_came_in(void **state)
{
    struct op_qk_rope head = {.qkv = mat_of(T, (H + 2 * KV) * d, DTYPE_BF16),
                              .raw = mat_of(T, (H + KV) * d, DTYPE_BF16),
                              .q_norm = mat_of(1, d, DTYPE_F32),
                              .k_norm = mat_of(1, d, DTYPE_F32),
                              .qk_norm = QK_NORM_HEAD,
                              .heads = H,
                              .kv_heads = KV,
                              .head_dim = d,
                              .rot = d};
    struct op_qk_rope whole = head, wrong;
    struct op_qk_rope_grad grad = {.dqkv = head.qkv,
                                   .raw = head.raw,
                                   .q_norm = head.q_norm,
                                   .k_norm = head.k_norm,
                                   .qk_norm = QK_NORM_HEAD,
                                   .heads = H,
                                   .kv_heads = KV,
                                   .head_dim = d,
                                   .rot = 0},
                           wrong_grad;

    whole.qk_norm = QK_NORM_WHOLE, whole.q_norm.cols = whole.q_norm.ld = H * d,
    whole.k_norm.cols = whole.k_norm.ld = KV * d;
    expect_taken(OP_qk_rope, &head);
    expect_taken(OP_qk_rope, &whole);
    expect_taken(OP_qk_rope_grad, &grad);
    wrong = head, wrong.raw.type = DTYPE_F32;
    expect_refused(OP_qk_rope, &wrong, "qk_rope: raw must have the type of qkv");
    wrong = head, wrong.k_norm = mat_of(1, KV * d, DTYPE_F32);
    expect_refused(OP_qk_rope, &wrong, "qk_rope: k_norm is [1, 16]");
    wrong = whole, wrong.q_norm = mat_of(1, d, DTYPE_F32);
    expect_refused(OP_qk_rope, &wrong, "qk_rope: q_norm is [1, 8]");
    wrong = head, wrong.rot = 3;
    expect_refused(OP_qk_rope, &wrong, "rot must be even");
    wrong_grad = grad, wrong_grad.raw = (struct mat){0};
    expect_refused(OP_qk_rope_grad, &wrong_grad, "qk_rope_grad: raw is [0, 0]");
    wrong_grad = grad, wrong_grad.dq_norm = mat_of(1, d, DTYPE_BF16);
    expect_refused(OP_qk_rope_grad, &wrong_grad, "qk_rope_grad: dq_norm is BF16, it must be F32");
}

static void sinks_are_one_f32_a_query_head(void **state)
{
    struct op_attend op = {.qkv = mat_of(T, (H + 2 * KV) * d, DTYPE_BF16),
                           .out = mat_of(T, H * d, DTYPE_BF16),
                           .sinks = mat_of(1, H, DTYPE_F32),
                           .heads = H,
                           .kv_heads = KV,
                           .head_dim = d,
                           .scale = 1,
                           .softcap = 50},
                     wrong = op;
    struct op_attend_grad grad = {.qkv = op.qkv,
                                  .out = op.out,
                                  .dout = op.out,
                                  .dqkv = op.qkv,
                                  .sinks = op.sinks,
                                  .dsinks = op.sinks,
                                  .heads = H,
                                  .kv_heads = KV,
                                  .head_dim = d,
                                  .scale = 1},
                          wrong_grad = grad;

    expect_taken(OP_attend, &op);
    expect_taken(OP_attend_grad, &grad);
    wrong.sinks = mat_of(1, KV, DTYPE_F32);
    expect_refused(OP_attend, &wrong, "attend: sinks is [1, 2]");
    wrong = op, wrong.softcap = -1;
    expect_refused(OP_attend, &wrong, "attend: a cap must be above 0");
    wrong_grad.sinks.at = NULL;
    expect_refused(OP_attend_grad, &wrong_grad, "attend_grad: there are no sinks to have a gradient");
}

static void a_clamped_gate_needs_its_limit(void **state)
{
    struct op_glu op = {mat_of(T, 2 * d, DTYPE_F32), mat_of(T, d, DTYPE_F32), ACT_OSS, 7};
    struct op_glu_grad grad = {op.gate_up, op.h, op.h, ACT_OSS, 7};

    expect_taken(OP_glu, &op);
    expect_taken(OP_glu_grad, &grad);
    op.act_limit = grad.act_limit = 0;
    expect_refused(OP_glu, &op, "glu: the activation needs a limit above 0");
    expect_refused(OP_glu_grad, &grad, "glu_grad: the activation needs a limit above 0");
}

static void gradients_of_experts_are_added_to(void **state)
{
    struct weight weight = {.w = mat_of(2 * d, d, DTYPE_F32)};
    int32_t row_end[2] = {1, T};
    struct op_linear_grad_w op = {
        .x = mat_of(T, d, DTYPE_F32), .dy = mat_of(T, d, DTYPE_F32), .w = &weight, .row_end = row_end, .dw = weight.w};

    expect_taken(OP_linear_grad_w, &op);
    op.is_fresh = true;
    expect_refused(OP_linear_grad_w, &op, "linear_grad_w: gradients of experts are added to");
}

static void f64_is_refused_where_it_is_not_allowed(void **state)
{
    struct op_copy copy = {mat_of(T, d, DTYPE_F64), mat_of(T, d, DTYPE_F64), false};
    struct err err = {0};

    assert_true(op_check(OP_copy, &copy, true, &err));
    expect_refused(OP_copy, &copy, "copy: F64 is for the reference backend only");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_of_queries_and_keys_need_their_weights_and_what_came_in),
        cmocka_unit_test(sinks_are_one_f32_a_query_head),
        cmocka_unit_test(a_clamped_gate_needs_its_limit),
        cmocka_unit_test(gradients_of_experts_are_added_to),
        cmocka_unit_test(f64_is_refused_where_it_is_not_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
