#include "test.h"

#include "api/api_int.h"

enum { A = 1, B = 2 };

static void five_failures_are_free_and_then_ten_a_minute(void **state)
{
    struct failures *failures = failures_new(10);
    int64_t now_ms = 5000, wait_s = 0;

    for (int i = 0; i < 5; i++)
        assert_true(failures_note(failures, A, now_ms, &wait_s));
    for (int i = 0; i < 100; i++) /* refusals do not make it worse */
        assert_false(failures_note(failures, A, now_ms, &wait_s));
    assert_int_equal(wait_s, 6);
    for (int i = 0; i < 10; i++) {
        now_ms += 5000;
        assert_false(failures_note(failures, A, now_ms, &wait_s));
        now_ms += 1000;
        assert_true(failures_note(failures, A, now_ms, &wait_s));
    }
    failures_free(failures);
}

static void a_quiet_half_minute_forgives_all(void **state)
{
    struct failures *failures = failures_new(10);
    int64_t wait_s;

    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 6; i++)
            assert_int_equal(failures_note(failures, A, round * 30000, &wait_s), i < 5);
    failures_free(failures);
}

static void another_address_is_not_held_up(void **state)
{
    int64_t wait_s;
    int told_apart = 0;

    /* Two addresses share one of 1,024 places by chance: with another seed each time, hardly ever. */
    for (int i = 0; i < 64; i++) {
        struct failures *failures = failures_new(10);
        for (int j = 0; j < 6; j++)
            failures_note(failures, A, 0, &wait_s);
        told_apart += failures_note(failures, B, 0, &wait_s);
        failures_free(failures);
    }
    assert_in_range(told_apart, 60, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(five_failures_are_free_and_then_ten_a_minute),
        cmocka_unit_test(a_quiet_half_minute_forgives_all),
        cmocka_unit_test(another_address_is_not_held_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
