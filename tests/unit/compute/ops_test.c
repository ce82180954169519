/* Every operation of every path of the fast backend against the reference, on random shapes and types; and that the
 * comparison itself catches a backend that is wrong by a little. */
#include "fixture.h"

#include "compute/cpu/cpu.h"
#include "compute/ref/element.h"
#include "compute/selftest/selftest.h"

#include <string.h>

enum { ROUNDS = 24 };

static void expect_agreement(void *context, const struct selftest_result *result)
{
    *(int *)context += result->comparison_count;
    if (result->failure_count)
        print_error("%s: %s\n", op_name(result->op), result->failure);
}

static void compare(enum cpu_path path)
{
    struct selftest_options options = {.seed = fixture_seed(), .rounds = ROUNDS};
    int compared_count = 0, failed_count;

    if (!cpu_path(path)) {
        print_message("skipped: this processor does not have the path\n");
        return;
    }
    failed_count = selftest_run(cpu_path(path), &options, expect_agreement, &compared_count, NULL);
    print_message("ops: %d compared\n", compared_count);
    assert_int_equal(failed_count, 0);
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

static void the_amx_path_agrees_with_the_reference(void **state)
{
    compare(CPU_PATH_AMX);
}

/* Backends that are wrong in one thing. */
static void glu_off_by_a_little(struct queue *queue, const struct op_glu *op)
{
    backend_cpu.glu(queue, op);
    add(&op->h, op->h.rows - 1, op->h.cols - 1, 0.02);
}

static void copy_without_its_last_element(struct queue *queue, const struct op_copy *op)
{
    double last = get(&op->y, op->y.rows - 1, op->y.cols - 1);

    backend_cpu.copy(queue, op);
    set(&op->y, op->y.rows - 1, op->y.cols - 1, last);
}

static void embed_that_writes_between_rows(struct queue *queue, const struct op_embed *op)
{
    backend_cpu.embed(queue, op);
    if (op->x.ld > op->x.cols)
        set(&op->x, 0, op->x.cols, 0);
}

static void attend_grad_of_its_threads(struct queue *queue, const struct op_attend_grad *op)
{
    backend_cpu.attend_grad(queue, op);
    if (pool_thread_count(queue->pool) == 7)
        set(&op->dqkv, 0, 0, get(&op->dqkv, 0, 0) * (1 + 0x1p-7) + 0x1p-20);
}

static void loss_without_hits(struct queue *queue, const struct op_loss *op)
{
    backend_cpu.loss(queue, op);
    memset(op->hit, 0, (size_t)op->logits.rows);
}

static bool can_all_but_rows(enum op op, const void *args, struct err *err)
{
    return op == OP_rows ? err_set(err, ERR_UNSUPPORTED, "no rows here") : backend_cpu.can(op, args, err);
}

struct verdict {
    int failed_count;
    struct selftest_result failed; /* the last that did */
};

static void note_failed(void *context, const struct selftest_result *result)
{
    struct verdict *verdict = context;

    if (!result->failure_count)
        return;
    verdict->failed_count++;
    verdict->failed = *result;
}

static void expect_caught(const struct backend *wrong, enum op op, const char *words)
{
    struct selftest_options options = {.seed = fixture_seed(), .rounds = 6};
    struct verdict verdict = {0};

    assert_int_equal(selftest_run(wrong, &options, note_failed, &verdict, NULL), 1);
    assert_int_equal(verdict.failed_count, 1);
    assert_string_equal(op_name(verdict.failed.op), op_name(op));
    if (!strstr(verdict.failed.failure, words))
        fail_msg("'%s' is not in '%s'", words, verdict.failed.failure);
}

static void a_backend_that_is_wrong_in_one_thing_is_caught_and_named(void **state)
{
    struct backend glu = backend_cpu, copy = backend_cpu, embed = backend_cpu, attend_grad = backend_cpu,
                   loss = backend_cpu, rows = backend_cpu;

    glu.glu = glu_off_by_a_little;
    expect_caught(&glu, OP_glu, "h [");
    copy.copy = copy_without_its_last_element;
    expect_caught(&copy, OP_copy, "reference");
    embed.embed = embed_that_writes_between_rows;
    expect_caught(&embed, OP_embed, "the gap behind row 0 was written");
    attend_grad.attend_grad = attend_grad_of_its_threads;
    expect_caught(&attend_grad, OP_attend_grad, "7 threads and 1 thread give different bits");
    loss.loss = loss_without_hits;
    expect_caught(&loss, OP_loss, "hit[");
    rows.can = can_all_but_rows;
    expect_caught(&rows, OP_rows, "refused: no rows here");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plain_path_agrees_with_the_reference),
        cmocka_unit_test(the_avx2_path_agrees_with_the_reference),
        cmocka_unit_test(the_avx512_path_agrees_with_the_reference),
        cmocka_unit_test(the_avx512bf16_path_agrees_with_the_reference),
        cmocka_unit_test(the_amx_path_agrees_with_the_reference),
        cmocka_unit_test(a_backend_that_is_wrong_in_one_thing_is_caught_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
