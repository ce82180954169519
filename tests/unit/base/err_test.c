#include "base/err.h"
#include "base/str.h"
#include "test.h"

#include <string.h>

static void a_text_that_is_cut_ends_with_a_whole_character(void **state)
{
    static const char *const characters[] = {"a", "é", "€", "𝄞"};
    char text[4096];

    for (size_t c = 0; c < sizeof characters / sizeof *characters; c++)
        for (int shift = 0; shift < 4; shift++) {
            struct err err = {0};
            size_t len = strlen(characters[c]), used = (size_t)shift;
            memset(text, 'x', used);
            for (; used + len < sizeof text - 1; used += len)
                memcpy(text + used, characters[c], len);
            text[used] = 0;
            assert_false(err_set(&err, ERR_INPUT, "%s", text));
            assert_true(utf8_is_valid(str_of(err.text)));
            assert_true(strlen(err.text) > sizeof err.text - 5);
            err_prefix(&err, "%.*s", shift, "abc");
            assert_true(utf8_is_valid(str_of(err.text)));
        }
}

static void a_prefix_stands_before_the_text(void **state)
{
    struct err err = {0};

    err_set(&err, ERR_INPUT, "line %d", 3);
    assert_false(err_prefix(&err, "file.jsonl"));
    assert_string_equal(err.text, "file.jsonl: line 3");
    assert_int_equal(err.code, ERR_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_that_is_cut_ends_with_a_whole_character),
        cmocka_unit_test(a_prefix_stands_before_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
