/* The formats of eight bits after their definition: every code's value is worked out here from sign, exponent and
 * fraction, and rounding is the search of the nearest value in that table. */
#include "test.h"

#include "base/random.h"
#include "compute/fp8.h"

#include <math.h>

struct format {
    enum fp8 format;
    const char *name;
    int exponent_bits, fraction_bits, bias;
    bool has_infinity;
    int finite_count; /* codes 0 .. finite_count - 1 are finite and ascend */
};

static const struct format formats[] = {
    {FP8_E4M3, "e4m3", 4, 3, 7, false, 0x7f},
    {FP8_E5M2, "e5m2", 5, 2, 15, true, 0x7c},
};
enum { FORMATS = sizeof formats / sizeof formats[0], SEED = 8 };

static double defined_value(const struct format *f, int code)
{
    int magnitude = code & 0x7f, exponent = magnitude >> f->fraction_bits,
        fraction = magnitude & ((1 << f->fraction_bits) - 1);
    double sign = code & 0x80 ? -1 : 1;

    if (magnitude >= f->finite_count)
        return f->has_infinity && fraction == 0 ? sign * (double)INFINITY : (double)NAN;
    if (exponent == 0)
        return sign * ldexp(fraction, 1 - f->bias - f->fraction_bits);
    return sign * ldexp((1 << f->fraction_bits) + fraction, exponent - f->bias - f->fraction_bits);
}

/* The nearest finite code, of two as near the even one. */
static int nearest_code(const struct format *f, double value)
{
    double magnitude = fabs(value);
    int best = 0;

    for (int code = 1; code < f->finite_count; code++) {
        double now = fabs(defined_value(f, code) - magnitude), before = fabs(defined_value(f, best) - magnitude);
        if (now < before || (now == before && code % 2 == 0))
            best = code;
    }
    return best | (signbit(value) ? 0x80 : 0);
}

static void expect_code(const struct format *f, float value, int want)
{
    int got = fp8_from_f32(f->format, value);

    if (got != want)
        fail_msg("%s of %.9g is code %02x, not %02x", f->name, (double)value, got, want);
}

static void every_code_has_the_value_of_its_bits(void **state)
{
    for (int i = 0; i < FORMATS; i++)
        for (int code = 0; code < 256; code++) {
            double want = defined_value(&formats[i], code);
            float got = fp8_to_f32(formats[i].format, (uint8_t)code);
            if (isnan(want) ? !isnan(got) : (double)got != want || !signbit(got) != !signbit(want))
                fail_msg("%s %02x is %g, not %g", formats[i].name, code, (double)got, want);
        }
}

static void every_value_is_a_bf16_number_and_its_own_code(void **state)
{
    for (int i = 0; i < FORMATS; i++)
        for (int code = 0; code < 256; code++) {
            float value = fp8_to_f32(formats[i].format, (uint8_t)code);
            if ((code & 0x7f) >= formats[i].finite_count)
                continue;
            assert_int_equal(f32_bits(value) & 0xffff, 0);
            expect_code(&formats[i], value, code);
        }
}

static void the_middle_of_two_values_goes_to_the_even_code(void **state)
{
    for (int i = 0; i < FORMATS; i++)
        for (int code = 0; code + 1 < formats[i].finite_count; code++) {
            float low = fp8_to_f32(formats[i].format, (uint8_t)code),
                  high = fp8_to_f32(formats[i].format, (uint8_t)(code + 1));
            float middle = (low + high) / 2;
            expect_code(&formats[i], middle, code + code % 2);
            expect_code(&formats[i], -middle, (code + code % 2) | 0x80);
            expect_code(&formats[i], nextafterf(middle, 0), code);
            expect_code(&formats[i], nextafterf(middle, INFINITY), code + 1);
        }
}

static void what_is_too_large_becomes_the_largest(void **state)
{
    static const float large[] = {449, 463, 464, 465, 480, 57344, 57345, 61440, 65536, 1e30f, INFINITY};

    for (int i = 0; i < FORMATS; i++)
        for (size_t k = 0; k < sizeof large / sizeof large[0]; k++) {
            int last = formats[i].finite_count - 1;
            if (large[k] < fp8_max(formats[i].format))
                continue;
            expect_code(&formats[i], large[k], last);
            expect_code(&formats[i], -large[k], last | 0x80);
        }
    assert_true(defined_value(&formats[0], 0x7e) == 448 && fp8_max(FP8_E4M3) == 448);
    assert_true(defined_value(&formats[1], 0x7b) == 57344 && fp8_max(FP8_E5M2) == 57344);
}

static void nan_stays_nan_and_zeros_keep_their_sign(void **state)
{
    for (int i = 0; i < FORMATS; i++) {
        expect_code(&formats[i], NAN, 0x7f);
        expect_code(&formats[i], -NAN, 0xff);
        expect_code(&formats[i], 0.0f, 0);
        expect_code(&formats[i], -0.0f, 0x80);
        expect_code(&formats[i], 1e-40f, 0);
        expect_code(&formats[i], -1e-40f, 0x80);
    }
}

static void any_number_takes_the_nearest_value(void **state)
{
    struct mt19937 mt;

    mt19937_seed(&mt, SEED);
    for (int n = 0; n < 20000; n++) {
        const struct format *f = &formats[n % FORMATS];
        float value = ldexpf(mt19937_uniform(&mt, -1, 1), (int)(mt19937_next(&mt) % 40) - 22);
        expect_code(f, value, nearest_code(f, (double)value));
    }
}

static void the_scale_brings_the_largest_number_to_the_largest_value(void **state)
{
    static const float amaxes[] = {1, 3, 0.1f, 1e-12f, 448, 1e6f, 7e-5f};

    for (int i = 0; i < FORMATS; i++)
        for (size_t k = 0; k < sizeof amaxes / sizeof amaxes[0]; k++) {
            float scale = fp8_scale(formats[i].format, amaxes[k]);
            assert_true(scale == (float)((double)fp8_max(formats[i].format) / (double)amaxes[k]));
            expect_code(&formats[i], amaxes[k] * scale, formats[i].finite_count - 1);
        }
    assert_true(fp8_scale(FP8_E4M3, 0) == 448e12f);
    assert_true(fp8_scale(FP8_E5M2, INFINITY) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_the_value_of_its_bits),
        cmocka_unit_test(every_value_is_a_bf16_number_and_its_own_code),
        cmocka_unit_test(the_middle_of_two_values_goes_to_the_even_code),
        cmocka_unit_test(what_is_too_large_becomes_the_largest),
        cmocka_unit_test(nan_stays_nan_and_zeros_keep_their_sign),
        cmocka_unit_test(any_number_takes_the_nearest_value),
        cmocka_unit_test(the_scale_brings_the_largest_number_to_the_largest_value),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
