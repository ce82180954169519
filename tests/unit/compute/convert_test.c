#include "test.h"

#include "compute/backend.h"
#include "compute/convert.h"

#include <math.h>

static void every_half_survives_the_way_through_f32(void **state)
{
    for (uint32_t half = 0; half < 65536; half++) {
        if (!isnan(f32_from_f16((uint16_t)half)))
            assert_int_equal(f16_from_f32(f32_from_f16((uint16_t)half)), half);
        if (!isnan(f32_from_bf16((uint16_t)half)))
            assert_int_equal(bf16_from_f32(f32_from_bf16((uint16_t)half)), half);
    }
}

static void the_middle_of_two_neighbours_rounds_to_the_even_one(void **state)
{
    for (uint32_t half = 0; half < 0x7bff; half++) {
        float low = f32_from_f16((uint16_t)half), high = f32_from_f16((uint16_t)(half + 1)), middle = (low + high) / 2;
        uint32_t even = half & 1 ? half + 1 : half;

        assert_int_equal(f16_from_f32(middle), even);
        assert_int_equal(f16_from_f32(nextafterf(middle, low)), half);
        assert_int_equal(f16_from_f32(nextafterf(middle, high)), half + 1);
        assert_int_equal(f16_from_f32(-middle), even | 0x8000);
    }
    for (uint32_t half = 0; half < 0x7f7f; half++) {
        float low = f32_from_bf16((uint16_t)half), high = f32_from_bf16((uint16_t)(half + 1));
        float middle = f32_from_bits((f32_bits(low) + f32_bits(high)) / 2);

        assert_int_equal(bf16_from_f32(middle), half & 1 ? half + 1 : half);
        assert_int_equal(bf16_from_f32(nextafterf(middle, low)), half);
        assert_int_equal(bf16_from_f32(nextafterf(middle, high)), half + 1);
    }
}

static void the_ends_of_the_range_and_nan_are_kept(void **state)
{
    assert_int_equal(f16_from_f32(65504), 0x7bff);
    assert_int_equal(f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_int_equal(f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(bf16_from_f32(0x1.ffp127f), 0x7f80);
    assert_int_equal(bf16_from_f32(-INFINITY), 0xff80);
    assert_true(isnan(f32_from_f16(f16_from_f32(NAN))));
    assert_true(isnan(f32_from_bf16(bf16_from_f32(f32_from_bits(0x7f800001)))));
    assert_int_equal(f16_from_f32(0x1p-25f), 0);
    assert_int_equal(f16_from_f32(0x1.000002p-25f), 1);
}

static void types_have_the_names_of_safetensors(void **state)
{
    assert_string_equal(dtype_name(DTYPE_BF16), "BF16");
    assert_int_equal(dtype_bytes(DTYPE_BF16), 2);
    assert_int_equal(dtype_bytes(DTYPE_F64), 8);
    assert_string_equal(op_name(OP_attend_grad), "attend_grad");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_the_way_through_f32),
        cmocka_unit_test(the_middle_of_two_neighbours_rounds_to_the_even_one),
        cmocka_unit_test(the_ends_of_the_range_and_nan_are_kept),
        cmocka_unit_test(types_have_the_names_of_safetensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
