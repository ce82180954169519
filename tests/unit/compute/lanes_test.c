/* The vector functions themselves, compiled here for the plain path: all paths share the text. */
#include "test.h"

#define CPU_PATH plain
#include "compute/cpu/lanes.h"

static void exp_holds_two_in_ten_million(void **state)
{
    double worst = 0;

    for (int64_t bits = 0; bits <= 0x42b00000; bits += 257) /* 0 to 88 */
        for (int sign = 0; sign < 2; sign++) {
            float x = f32_from_bits((uint32_t)bits | (sign ? 0x80000000 : 0));
            double error;
            if (x < -87.33f)
                continue;
            error = fabs((double)lanes_exp(lanes_all(x))[0] / exp((double)x) - 1);
            worst = error > worst ? error : worst;
        }
    print_message("largest relative error of exp: %.3g\n", worst);
    assert_true(worst <= 2e-7);
}

static void exp_ends_in_zero_infinity_and_nan(void **state)
{
    assert_true(lanes_exp(lanes_all(-87.4f))[0] == 0);
    assert_true(lanes_exp(lanes_all(-INFINITY))[0] == 0);
    assert_true(isinf(lanes_exp(lanes_all(88.8f))[0]));
    assert_true(isinf(lanes_exp(lanes_all(INFINITY))[0]));
    assert_true(isnan(lanes_exp(lanes_all(NAN))[0]));
    assert_true(lanes_exp(lanes_all(0))[0] == 1);
}

static void tanh_and_sigmoid_hold_theirs(void **state)
{
    for (float x = -30; x < 30; x += 0.001f) {
        assert_true(fabs((double)lanes_tanh(lanes_all(x))[0] - tanh((double)x)) <= 4e-7 * fabs(tanh((double)x)));
        assert_true(fabs((double)lanes_sigmoid(lanes_all(x))[0] * (1 + exp(-(double)x)) - 1) <= 4e-7);
    }
}

static void narrowing_equals_the_scalar_conversion(void **state)
{
    for (uint64_t bits = 0; bits <= 0xffffffff; bits += 4093) {
        float value = f32_from_bits((uint32_t)bits);
        assert_int_equal(lanes_narrow(lanes_all(value))[0], bf16_from_f32(value));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_holds_two_in_ten_million),
        cmocka_unit_test(exp_ends_in_zero_infinity_and_nan),
        cmocka_unit_test(tanh_and_sigmoid_hold_theirs),
        cmocka_unit_test(narrowing_equals_the_scalar_conversion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
