/* Stochastic rounding to bf16: its mean is the number itself, and the same element always gets the same bits. */
#include "test.h"

#include "base/random.h"
#include "compute/stochastic.h"

#include <math.h>

enum { DRAWS = 65536, VALUES = 200, SEED = 20251 };

static void all_sixteen_bits_together_round_to_the_number_itself(void **state)
{
    struct mt19937 mt;

    mt19937_seed(&mt, SEED);
    for (int i = 0; i < VALUES; i++) {
        float value = mt19937_uniform(&mt, -3, 3) * powf(2, (float)(i % 60) - 30);
        double sum = 0;
        for (uint32_t noise = 0; noise < 1 << 16; noise++)
            sum += f32_from_bf16(bf16_from_f32_stochastic(value, noise));
        if (sum / (1 << 16) != value)
            fail_msg("the mean of %.9g's roundings is %.17g", value, sum / (1 << 16));
    }
}

/* Over elements of one step: each kind's mean is within five standard errors. */
static void the_mean_over_elements_is_the_number(void **state)
{
    static const float values[] = {1.003f, -1.003f, 0.7071f, 3.1e-12f, -6.02e23f};

    for (int kind = 0; kind < STOCHASTIC_KINDS; kind++)
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            double sum = 0, low = f32_from_bits(f32_bits(values[i]) & 0xffff0000u);
            double gap = f32_from_bits((f32_bits(values[i]) & 0xffff0000u) + 0x10000) - low,
                   share = (values[i] - low) / gap;
            for (uint64_t element = 0; element < DRAWS; element++)
                sum += f32_from_bf16(bf16_from_f32_stochastic(
                    values[i], stochastic_noise(SEED, 7, (enum stochastic_kind)kind, element)));
            double off = (sum / DRAWS - values[i]) / fabs(gap), allowed = 5 * sqrt(share * (1 - share) / DRAWS);
            if (!(fabs(off) < allowed))
                fail_msg("seed %d, kind %d: %.9g is off by %g steps, allowed are %g", SEED, kind, values[i], off,
                         allowed);
        }
}

/* 2,000 steps of a thousandth of half a step of bf16: to nearest none of them would ever count. */
static void small_updates_add_up_over_steps(void **state)
{
    enum { ELEMENTS = 512, STEPS = 2000 };
    double sum = 0, step = 0x1p-8 / 1000;

    for (uint64_t element = 0; element < ELEMENTS; element++) {
        float weight = 1;
        for (int64_t k = 1; k <= STEPS; k++)
            weight = f32_from_bf16(
                bf16_from_f32_stochastic(weight + (float)step, stochastic_noise(SEED, k, STOCHASTIC_WEIGHT, element)));
        sum += weight - 1;
    }
    double moved = sum / ELEMENTS / (STEPS * step);
    if (!(fabs(moved - 1) < 0.15))
        fail_msg("seed %d: the weights moved by %g of what they should", SEED, moved);
}

static void what_bf16_holds_stays(void **state)
{
    static const uint16_t halves[] = {0, 0x8000, 0x3f80, 0xbf81, 1, 0x7f7f, 0x7f80, 0xff80};

    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        assert_int_equal(bf16_from_f32_stochastic(f32_from_bf16(halves[i]), 0), halves[i]);
        assert_int_equal(bf16_from_f32_stochastic(f32_from_bf16(halves[i]), 0xffff), halves[i]);
    }
    assert_true(isnan(f32_from_bf16(bf16_from_f32_stochastic(NAN, 0xffff))));
    assert_true(isnan(f32_from_bf16(bf16_from_f32_stochastic(f32_from_bits(0x7fffffff), 0xffff))));
}

/* A GPU's kernel and a resumed run must draw these. */
static void the_bits_are_those_of_philox_by_element_step_and_kind(void **state)
{
    uint32_t words[4], key[2] = {0x89abcdefu, 0x01234567u};
    uint32_t counter[4] = {5u * STOCHASTIC_CALLS + 3, 0, 0x80000002u, 9};

    philox4x32(counter, key, words);
    for (uint32_t half = 0; half < 8; half++)
        assert_int_equal(stochastic_noise(0x0123456789abcdefu, 9, STOCHASTIC_V, 5 * 128 + half * 16 + 3),
                         words[half / 2] >> 16 * (half % 2) & 0xffff);
    assert_int_not_equal(stochastic_noise(SEED, 1, STOCHASTIC_M, 0), stochastic_noise(SEED, 2, STOCHASTIC_M, 0));
    assert_int_not_equal(stochastic_noise(SEED, 1, STOCHASTIC_M, 0), stochastic_noise(SEED, 1, STOCHASTIC_V, 0));
    assert_int_not_equal(stochastic_noise(SEED, 1, STOCHASTIC_M, 0), stochastic_noise(SEED + 1, 1, STOCHASTIC_M, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_sixteen_bits_together_round_to_the_number_itself),
        cmocka_unit_test(the_mean_over_elements_is_the_number),
        cmocka_unit_test(small_updates_add_up_over_steps),
        cmocka_unit_test(what_bf16_holds_stays),
        cmocka_unit_test(the_bits_are_those_of_philox_by_element_step_and_kind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
