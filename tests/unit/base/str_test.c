#include "test.h"
#include "base/str.h"

static void views_compare_find_and_trim(void **state)
{
    assert_true(str_is(str_trim(STR("  a b \n")), "a b"));
    assert_int_equal(str_find(STR("abcabc"), STR("ca"), 0), 2);
    assert_int_equal(str_find(STR("abc"), STR("x"), 0), -1);
    assert_int_equal(str_find(STR_NONE, STR("x"), 0), -1);
    assert_int_equal(str_find(STR("abc"), STR("bcd"), 1), -1);
    assert_true(str_starts(STR("abc"), STR("ab")) && str_ends(STR("abc"), STR("bc")));
    assert_true(str_compare(STR("a"), STR("ab")) < 0);
    assert_true(str_is(str_clip(STR("a\xc3\xa9z"), 2), "a") && str_is(str_clip(STR("a\xc3\xa9z"), 3), "a\xc3\xa9"));
}

static void lines_are_taken_off_the_front_and_an_unfinished_one_stays(void **state)
{
    static const struct {
        const char *text, *lines, *rest; /* lines: each in brackets */
    } cases[] = {
        {"", "", ""},           {"a", "", "a"},           {"\n", "[]", ""},     {"a\nb\n", "[a][b]", ""},
        {"a\nb", "[a]", "b"}, {"\n\na", "[][]", "a"}, {"a\r\n", "[a\r]", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str text = str_of(cases[i].text), line;
        struct strbuf lines = {0};

        while (str_take_line(&text, &line))
            strbuf_printf(&lines, "[%.*s]", STR_ARG(line));
        if (!str_is(strbuf_view(&lines), cases[i].lines) || !str_is(text, cases[i].rest))
            fail_msg("case %zu: lines %.*s, left '%.*s'", i, STR_ARG(strbuf_view(&lines)), STR_ARG(text));
        strbuf_deinit(&lines);
    }
    assert_false(str_take_line(&(struct str){NULL, 0}, &(struct str){0}));
}

static void a_buffer_drops_its_beginning_and_stays_terminated(void **state)
{
    struct strbuf buf = {0};

    strbuf_drop(&buf, 0);
    assert_int_equal(buf.len, 0);
    strbuf_add_text(&buf, "one two");
    strbuf_drop(&buf, 4);
    assert_string_equal(buf.at, "two");
    assert_int_equal(buf.len, 3);
    strbuf_drop(&buf, 3);
    assert_string_equal(buf.at, "");
    strbuf_deinit(&buf);
}

static void utf8_is_strict(void **state)
{
    static const struct {
        struct str text;
        bool is_valid;
    } cases[] = {
        {{"plain ascii text", 16}, true}, {{"\xc3\xa9", 2}, true},           {{"\xf0\x9f\x98\x80", 4}, true},
        {{"\xc0\x80", 2}, false},         {{"\xed\xa0\x80", 3}, false},      {{"\xf4\x90\x80\x80", 4}, false},
        {{"\xe2\x82", 2}, false},         {{"\x80", 1}, false},              {{"abcdefgh\xff", 9}, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (utf8_is_valid(cases[i].text) != cases[i].is_valid)
            fail_msg("case %zu", i);
}

static void the_nearest_name_is_found(void **state)
{
    static const char *const names[] = {"learning_rate", "batch_size", "n_epochs"};

    assert_string_equal(str_nearest(STR("learnin_rate"), names, 3), "learning_rate");
    assert_string_equal(str_nearest(STR("batchsize"), names, 3), "batch_size");
    assert_null(str_nearest(STR("zzz"), names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_compare_find_and_trim),
        cmocka_unit_test(lines_are_taken_off_the_front_and_an_unfinished_one_stays),
        cmocka_unit_test(a_buffer_drops_its_beginning_and_stays_terminated),
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(the_nearest_name_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
