#include "test.h"
#include "train/schedule.h"

#include <math.h>

/* transformers.optimization's lambdas, worked out by hand. */
static void factors_are_those_of_the_trainer(void **state)
{
    static const struct {
        enum schedule schedule;
        int64_t k, warmup, total;
        double factor;
    } cases[] = {
        {SCHEDULE_LINEAR, 0, 0, 4, 1},
        {SCHEDULE_LINEAR, 3, 0, 4, 0.25},
        {SCHEDULE_LINEAR, 0, 2, 4, 0},
        {SCHEDULE_LINEAR, 1, 2, 4, 0.5},
        {SCHEDULE_LINEAR, 2, 2, 4, 1},
        {SCHEDULE_LINEAR, 3, 2, 4, 0.5},
        {SCHEDULE_LINEAR, 0, 1, 1, 0},
        {SCHEDULE_COSINE, 0, 0, 4, 1},
        {SCHEDULE_COSINE, 2, 0, 4, 0.5},
        {SCHEDULE_COSINE, 1, 2, 4, 0.5},
        {SCHEDULE_CONSTANT, 0, 2, 4, 1},
        {SCHEDULE_CONSTANT, 3, 0, 4, 1},
        {SCHEDULE_CONSTANT_WITH_WARMUP, 1, 4, 9, 0.25},
        {SCHEDULE_CONSTANT_WITH_WARMUP, 8, 4, 9, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double factor = schedule_factor(cases[i].schedule, cases[i].k, cases[i].warmup, cases[i].total);
        if (fabs(factor - cases[i].factor) > 1e-15)
            fail_msg("case %zu: %.17g instead of %.17g", i, factor, cases[i].factor);
    }
}

static void warmup_steps_are_rounded_up(void **state)
{
    assert_int_equal(schedule_warmup_steps(0, 100), 0);
    assert_int_equal(schedule_warmup_steps(0.1, 31), 4);
    assert_int_equal(schedule_warmup_steps(1, 7), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_are_those_of_the_trainer),
        cmocka_unit_test(warmup_steps_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
