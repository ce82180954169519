#include "test.h"
#include "base/random.h"

/* Reference values: torch.randperm(10) under torch.manual_seed(42) and (43). */
static void permutations_are_torchs(void **state)
{
    static const uint32_t expected[2][10] = {{2, 6, 1, 8, 4, 5, 0, 9, 3, 7}, {8, 4, 9, 0, 5, 1, 6, 7, 2, 3}};
    struct mt19937 mt;
    uint32_t order[10];

    for (int k = 0; k < 2; k++) {
        mt19937_seed(&mt, 42 + (uint64_t)k);
        mt19937_permutation(&mt, order, 10);
        assert_memory_equal(order, expected[k], sizeof order);
    }
}

/* Known answers of the Philox4x32-10 paper's test vectors. */
static void philox_gives_its_known_answers(void **state)
{
    static const uint32_t zero[4], ones[4] = {~0u, ~0u, ~0u, ~0u};
    static const uint32_t for_zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    static const uint32_t for_ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    uint32_t out[4];

    philox4x32(zero, zero, out);
    assert_memory_equal(out, for_zero, sizeof out);
    philox4x32(ones, ones, out);
    assert_memory_equal(out, for_ones, sizeof out);
}

/* torch 2.13: torch.manual_seed(9); torch.empty(37).normal_(0, 0.5). The last 16 are drawn afresh. */
static void normal_values_are_torchs_to_the_bit(void **state)
{
    static const struct {
        int at;
        float value;
    } cases[] = {{0, -0x1.1140c8p-1f}, {1, -0x1.6f3ac8p-2f}, {8, 0x1.fe5ebep-2f},   {15, 0x1.dd530ep-4f},
                 {20, 0x1.8410aep-1f}, {21, -0x1.5c1b92p-4f}, {28, -0x1.37c6c0p-6f}, {36, -0x1.34bc18p-2f}};
    struct mt19937 mt;
    float values[37];

    mt19937_seed(&mt, 9);
    mt19937_normal(&mt, values, 37, 0.5f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (values[cases[i].at] != cases[i].value)
            fail_msg("value %d is %a, torch has %a", cases[i].at, (double)values[cases[i].at], (double)cases[i].value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permutations_are_torchs),
        cmocka_unit_test(normal_values_are_torchs_to_the_bit),
        cmocka_unit_test(philox_gives_its_known_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
