/* Known answers of SHA-256 (FIPS 180-2, appendix B) and of hexadecimal digits. */
#include "test.h"
#include "base/hash.h"

#include <string.h>

static const char empty_hex[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char abc_hex[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static void known_texts_have_their_published_hashes(void **state)
{
    char hex[65];

    sha256_hex(STR(""), hex);
    assert_string_equal(hex, empty_hex);
    sha256_hex(STR("abc"), hex);
    assert_string_equal(hex, abc_hex);
}

static void a_text_in_pieces_has_the_hash_of_the_whole(void **state)
{
    struct sha256 hash;
    char hex[65];

    sha256_begin(&hash);
    sha256_add(&hash, "a", 1);
    sha256_add(&hash, "", 0);
    sha256_add(&hash, "bc", 2);
    sha256_end_hex(&hash, hex);
    assert_string_equal(hex, abc_hex);
    assert_null(hash.state);
}

/* RFC 3720, section B.4, and the check value of the catalogues. */
static void crc32c_of_known_bytes_is_the_published_one(void **state)
{
    uint8_t bytes[32] = {0};

    assert_int_equal(crc32c_of("", 0), 0);
    assert_int_equal(crc32c_of("123456789", 9), 0xe3069283);
    assert_int_equal(crc32c_of(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(crc32c_of(bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(crc32c_of(bytes, 32), 0x46dd794e);
}

static void base64_is_read_back_and_nothing_else_is_read(void **state)
{
    static const char *const wrong[] = {
        "A", "AA", "AAA", "AA=A", "AB==", "AAB=", "====", "A===", "A-==", "AAAA\n", "AAA\n"};
    struct strbuf text = {0}, bytes = {0};

    for (size_t len = 0; len < 64; len++) {
        uint8_t given[64];

        for (size_t i = 0; i < len; i++)
            given[i] = (uint8_t)(i * 89 + len * 7);
        strbuf_clear(&text);
        strbuf_clear(&bytes);
        base64_encode(given, len, &text);
        assert_true(base64_decode(strbuf_view(&text), &bytes));
        assert_int_equal(bytes.len, len);
        assert_true(len == 0 || memcmp(bytes.at, given, len) == 0);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (base64_decode(str_of(wrong[i]), &bytes))
            fail_msg("'%s' was read", wrong[i]);
    strbuf_deinit(&text);
    strbuf_deinit(&bytes);
}

/* RFC 4231, test cases 1 and 2. */
static void hmac_of_known_texts_is_the_published_one(void **state)
{
    uint8_t digest[32];
    char hex[65], key[20];

    memset(key, 0x0b, sizeof key);
    hmac_sha256((struct str){key, sizeof key}, STR("Hi There"), digest);
    hex_encode(digest, 32, hex);
    assert_string_equal(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    hmac_sha256(STR("Jefe"), STR("what do ya want for nothing?"), digest);
    hex_encode(digest, 32, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/* RFC 1321, section A.5. */
static void md5_of_known_texts_is_the_published_one(void **state)
{
    struct md5 hash;
    char hex[33];

    md5_begin(&hash);
    md5_end(&hash, hex);
    assert_string_equal(hex, "d41d8cd98f00b204e9800998ecf8427e");
    md5_begin(&hash);
    md5_add(&hash, "message ", 8);
    md5_add(&hash, "digest", 6);
    md5_end(&hash, hex);
    assert_string_equal(hex, "f96b697d7cb7938d525a2f31aaf161d0");
    md5_begin(&hash);
    md5_end(&hash, NULL);
    md5_end(&hash, NULL);
}

static void a_file_has_the_name_that_git_gives_it(void **state)
{
    char hex[41];

    git_blob_hex(STR(""), hex);
    assert_string_equal(hex, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    git_blob_hex(STR("hello\n"), hex);
    assert_string_equal(hex, "ce013625030ba8dba906f756967f9e9ca394464a");
}

/* RFC 4648, section 10; and the two digits that are neither letters nor numbers. */
static void base64_of_known_texts_is_the_published_one(void **state)
{
    static const char *const cases[][2] = {{"", ""},         {"f", "Zg=="},         {"fo", "Zm8="},
                                           {"foo", "Zm9v"},  {"foob", "Zm9vYg=="},  {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}, {"\xfb\xef\xff", "++//"}};
    struct strbuf out = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        strbuf_clear(&out);
        strbuf_add_text(&out, "=");
        base64_encode(cases[i][0], strlen(cases[i][0]), &out);
        assert_string_equal(out.at + 1, cases[i][1]);
    }
    strbuf_deinit(&out);
}

static void hexadecimal_digits_are_the_22_characters_and_no_other(void **state)
{
    static const char digits[] = "0123456789abcdef", capitals[] = "0123456789ABCDEF";
    int count = 0;

    for (int c = -128; c < 128; c++)
        count += hex_value((char)c) >= 0;
    assert_int_equal(count, 22);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(hex_value(digits[i]), i);
        assert_int_equal(hex_value(capitals[i]), i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts_have_their_published_hashes),
        cmocka_unit_test(a_text_in_pieces_has_the_hash_of_the_whole),
        cmocka_unit_test(crc32c_of_known_bytes_is_the_published_one),
        cmocka_unit_test(base64_is_read_back_and_nothing_else_is_read),
        cmocka_unit_test(hmac_of_known_texts_is_the_published_one),
        cmocka_unit_test(md5_of_known_texts_is_the_published_one),
        cmocka_unit_test(a_file_has_the_name_that_git_gives_it),
        cmocka_unit_test(base64_of_known_texts_is_the_published_one),
        cmocka_unit_test(hexadecimal_digits_are_the_22_characters_and_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
