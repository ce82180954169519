/* NF4 against bitsandbytes: what its CPU backend made of the same numbers (tests/parity/nf4_goldens.py), and what
 * its codes and middles say of single numbers. */
#include "test.h"

#include "base/arena.h"
#include "base/hash.h"
#include "base/random.h"
#include "compute/convert.h"
#include "compute/nf4.h"

#include <math.h>

struct golden {
    uint32_t seed;
    int64_t count;
    const char *codes, *absmax, *nested, *f32, *bf16; /* first half of the SHA-256 of the bytes */
};

static const struct golden goldens[] = {
    {1, 1, "50868f20258bbc9c", "22db1b2a35adf8c1", "4c60e77f2e219ca5", "22db1b2a35adf8c1", "5fa308d32acdbf25"},
    {2, 2, "fde502858306c235", "5770661e18c60c6e", "778ddb90b1ed2925", "48401cf782b65593", "df9f3ee10e8850a6"},
    {3, 63, "16e3e0b05d282fd7", "8b9083de98d2974b", "e70c3e6013f58d55", "c23d3b1a6ea7ecfd", "0518f07844171986"},
    {4, 64, "a0be52648e2fdd82", "3e714db47b1c4491", "0c6a26b1d4a5bcec", "0f7fb1f92197a63b", "eb5fcee04c69a446"},
    {5, 65, "655a283e5d697b7b", "281c0efd92cec867", "dd819659a9fe3931", "275f24dd13c658af", "0ef3719afa751aea"},
    {6, 127, "dacec2c79b8f0b43", "9589c41e335d0575", "405a89c1ef384afe", "89ac6eb693aa20cc", "73b55cfb207eae79"},
    {7, 1000, "d3bba34c7aa49618", "14852cef50fffc43", "7c1b5f03d2ccc1c3", "ea18bf43e1557865", "4da6d29d2798a6ff"},
    {8, 6144, "d3cee06319401c3e", "5363761722121ac0", "3c12c6dddbf1c0f3", "f3c3e6a4eb0b3431", "bc89c04e89f8b5eb"},
    {9, 16416, "5d958ae8eabbac8f", "bef65e81ecbbe626", "51ad81a96cbe541f", "82b791a5ed46ec9a", "6d1dc377b89f7fd0"},
    {10, 100000, "7443e9e33b235616", "5c32f076c87340f1", "6f5bc56e04650a33", "a08e3d24554e9b7e", "83a768695973ee48"},
    {11, 300007, "b8db9a738707f785", "4dfb406b57faced8", "01f9230eac9e11f1", "66f45489c885ad4b", "590133b76fb123f6"},
};

/* The memory of one tensor. */
struct tensor {
    struct arena arena;
    float *values, *absmax, *nested_absmax, map[NF4_MAP];
    uint8_t *codes, *nested;
    struct nf4 nf4;
};

static void tensor_of(struct tensor *t, uint32_t seed, int64_t count)
{
    int64_t blocks = nf4_blocks(count, NF4_BLOCK);
    struct mt19937 mt;

    *t = (struct tensor){0};
    mt19937_seed(&mt, seed);
    t->values = arena_new_array(&t->arena, float, (size_t)count);
    t->absmax = arena_new_array(&t->arena, float, (size_t)blocks);
    t->nested_absmax = arena_new_array(&t->arena, float, (size_t)nf4_blocks(blocks, NF4_NESTED_BLOCK));
    t->codes = arena_alloc(&t->arena, (size_t)nf4_code_bytes(count));
    t->nested = arena_alloc(&t->arena, (size_t)blocks);
    for (int64_t i = 0; i < count; i++) {
        float c = (float)(mt19937_next(&mt) & 0xffffff) * 0x1p-24f - 0.5f;
        t->values[i] = c * c * c;
    }
    nf4_quantize(t->values, count, t->codes, t->absmax);
    nf4_make_map(t->map);
    t->nf4 = (struct nf4){.codes = t->codes, .absmax = t->absmax, .map = t->map, .count = count};
}

static void tensor_nest(struct tensor *t)
{
    nf4_nest(t->absmax, nf4_blocks(t->nf4.count, NF4_BLOCK), t->map, t->nested, t->nested_absmax, &t->nf4.offset);
    t->nf4.absmax = t->nested_absmax, t->nf4.nested = t->nested;
}

static void expect_digest(const char *what, const struct golden *golden, struct sha256 *hash, const char *want)
{
    char hex[65];

    sha256_end_hex(hash, hex);
    hex[16] = 0;
    if (strcmp(hex, want) != 0)
        fail_msg("%s of %ld numbers: %s, bitsandbytes %s", what, (long)golden->count, hex, want);
}

static void expect_bytes(const char *what, const struct golden *golden, const void *at, int64_t bytes, const char *want)
{
    struct sha256 hash;

    sha256_begin(&hash);
    sha256_add(&hash, at, (size_t)bytes);
    expect_digest(what, golden, &hash, want);
}

static void expect_nested(const struct golden *golden, const struct tensor *t)
{
    int64_t blocks = nf4_blocks(golden->count, NF4_BLOCK);
    struct sha256 hash;

    sha256_begin(&hash);
    sha256_add(&hash, t->nested, (size_t)blocks);
    sha256_add(&hash, t->nested_absmax, 4 * (size_t)nf4_blocks(blocks, NF4_NESTED_BLOCK));
    sha256_add(&hash, &t->nf4.offset, 4);
    expect_digest("nested absmax", golden, &hash, golden->nested);
}

static void codes_scales_and_numbers_are_those_of_bitsandbytes(void **state)
{
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        const struct golden *golden = &goldens[i];
        int64_t count = golden->count;
        struct tensor t;
        void *numbers;

        tensor_of(&t, golden->seed, count);
        numbers = arena_alloc(&t.arena, 4 * (size_t)count);
        expect_bytes("codes", golden, t.codes, nf4_code_bytes(count), golden->codes);
        expect_bytes("absmax", golden, t.absmax, 4 * nf4_blocks(count, NF4_BLOCK), golden->absmax);
        tensor_nest(&t);
        expect_nested(golden, &t);
        nf4_dequantize(&t.nf4, 0, count, DTYPE_F32, numbers);
        expect_bytes("f32 numbers", golden, numbers, 4 * count, golden->f32);
        nf4_dequantize(&t.nf4, 0, count, DTYPE_BF16, numbers);
        expect_bytes("bf16 numbers", golden, numbers, 2 * count, golden->bf16);
        arena_deinit(&t.arena);
    }
}

static void the_map_is_that_of_bitsandbytes(void **state)
{
    float map[NF4_MAP];
    char hex[65];

    nf4_make_map(map);
    sha256_hex((struct str){(const char *)map, sizeof map}, hex);
    hex[16] = 0;
    assert_string_equal(hex, "e732639a65f497b4");
}

static void the_middle_of_two_codes_takes_the_lower_one(void **state)
{
    for (int code = 0; code + 1 < NF4_CODES; code++) {
        float middle = (nf4_code[code] + nf4_code[code + 1]) / 2;
        float values[NF4_BLOCK] = {1, middle, nextafterf(middle, 1), nf4_code[code]};
        uint8_t codes[NF4_BLOCK / 2];
        float absmax;

        nf4_quantize(values, NF4_BLOCK, codes, &absmax);
        assert_int_equal(codes[0] >> 4, 15);
        assert_int_equal(codes[0] & 15, code);
        assert_int_equal(codes[1] >> 4, code + 1);
        assert_int_equal(codes[1] & 15, code);
    }
}

static void a_block_of_zeros_stays_zero(void **state)
{
    float values[NF4_BLOCK + 3] = {0}, absmax[2], back[NF4_BLOCK + 3];
    uint8_t codes[NF4_BLOCK / 2 + 2];
    struct nf4 tensor = {.codes = codes, .absmax = absmax, .count = NF4_BLOCK + 3};

    nf4_quantize(values, tensor.count, codes, absmax);
    nf4_dequantize(&tensor, 0, tensor.count, DTYPE_F32, back);
    assert_memory_equal(values, back, sizeof back);
    assert_int_equal(codes[NF4_BLOCK / 2 + 1], 0x77);
}

static void any_piece_of_a_tensor_is_that_piece_of_the_whole(void **state)
{
    enum { COUNT = 700 };
    uint16_t whole[COUNT], piece[COUNT];
    struct tensor t;

    tensor_of(&t, 12, COUNT);
    tensor_nest(&t);
    nf4_dequantize(&t.nf4, 0, COUNT, DTYPE_BF16, whole);
    for (int first = 0; first < COUNT; first += 13)
        for (int count = 1; first + count <= COUNT; count += 31) {
            nf4_dequantize(&t.nf4, first, count, DTYPE_BF16, piece);
            assert_memory_equal(piece, whole + first, (size_t)count * 2);
        }
    arena_deinit(&t.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_scales_and_numbers_are_those_of_bitsandbytes),
        cmocka_unit_test(the_map_is_that_of_bitsandbytes),
        cmocka_unit_test(the_middle_of_two_codes_takes_the_lower_one),
        cmocka_unit_test(a_block_of_zeros_stays_zero),
        cmocka_unit_test(any_piece_of_a_tensor_is_that_piece_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
