#include "test.h"
#include "base/json.h"
#include "os/file.h"

#include <math.h>
#include <string.h>

static struct json *parse(struct arena *arena, const char *text, struct err *err)
{
    return json_parse(arena, str_of(text), NULL, err);
}

static void values_of_every_kind_are_read(void **state)
{
    struct arena arena = {0};
    struct err err = {0};
    struct json *root =
        parse(&arena, " {\"a\": [1, -2.5e3, true, null], \"b\": {\"c\": \"x\\u00e9\\ud83d\\ude00\\n\"}} ", &err);

    assert_ok(root, err);
    assert_int_equal(root->count, 2);
    assert_int_equal(json_at(json_get(root, "a"), 0)->integer, 1);
    assert_true(json_number(json_at(json_get(root, "a"), 1)) == -2500.0);
    assert_true(json_at(json_get(root, "a"), 2)->boolean);
    assert_true(json_is_null(json_at(json_get(root, "a"), 3)));
    assert_true(str_is(json_get(json_get(root, "b"), "c")->string, "x\xc3\xa9\xf0\x9f\x98\x80\n"));
    arena_deinit(&arena);
}

static void errors_name_line_and_column(void **state)
{
    struct arena arena = {0};
    struct err err = {0};

    assert_null(parse(&arena, "{\"a\": 1,\n \"b\" 2}", &err));
    assert_string_equal(err.text, "JSON, line 2 column 6: expected ':' behind the member name");
    assert_null(parse(&arena, "[1,]", &err));
    assert_null(parse(&arena, "", &err));
    arena_deinit(&arena);
}

/* The reader looks at several bytes at a time: what ends a run is found at every place of every length. */
static void strings_end_at_the_right_byte_whatever_their_length(void **state)
{
    static const struct {
        const char *text, *value; /* NULL: refused */
    } pieces[] = {{"\\n", "\n"}, {"\xc3\xa9", "\xc3\xa9"}, {"\x7f", "\x7f"}, {"\x1f", NULL}, {"\xff", NULL}};
    struct arena arena = {0};

    for (int len = 0; len < 40; len++)
        for (int at = 0; at <= len; at++)
            for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
                const char *letters = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'";
                char *text = arena_printf(&arena, "[\"%.*s%s%.*s\",1]", at, letters, pieces[i].text, len - at, letters);
                char *value = arena_printf(&arena, "%.*s%s%.*s", at, letters, pieces[i].value ? pieces[i].value : "",
                                           len - at, letters);
                struct json *root = parse(&arena, text, NULL);

                if (!pieces[i].value)
                    assert_null(root);
                else
                    assert_true(root && root->count == 2 && str_is(root->first->string, value));
            }
    arena_deinit(&arena);
}

static void a_repeated_member_is_named_among_few_and_among_many(void **state)
{
    struct arena arena = {0};

    for (int count = 1; count < 20; count++)
        for (int twice = 0; twice < count; twice++) {
            struct strbuf text = {0};
            struct json *root;

            strbuf_add_text(&text, "{");
            for (int i = 0; i < count; i++)
                strbuf_printf(&text, "\"m%d\":0,", i);
            strbuf_printf(&text, "\"last\":0}");
            root = json_parse(&arena, strbuf_view(&text), NULL, NULL);
            assert_null(json_duplicate(root).at);
            text.len--;
            strbuf_printf(&text, ",\"m%d\":1}", twice);
            root = json_parse(&arena, strbuf_view(&text), NULL, NULL);
            assert_true(str_equal(json_duplicate(root), str_of(arena_printf(&arena, "m%d", twice))));
            strbuf_deinit(&text);
        }
    arena_deinit(&arena);
}

static void depth_is_bounded(void **state)
{
    struct arena arena = {0};
    struct err err = {0};
    char *deep = arena_alloc(&arena, 100001);

    memset(deep, '[', 100000);
    assert_null(parse(&arena, deep, &err));
    assert_non_null(strstr(err.text, "nested too deeply"));
    arena_deinit(&arena);
}

static void what_is_written_reads_back(void **state)
{
    struct arena arena = {0};
    struct err err = {0};
    const char *text = "{\"a\": [1, 2.5, \"q\\\"\\u0001\"], \"e\": {}, \"l\": []}";
    struct strbuf buf = {0};
    struct json_writer writer = {.buf = &buf};

    json_write_value(&writer, parse(&arena, text, &err));
    assert_string_equal(buf.at, text);
    strbuf_clear(&buf);
    writer = (struct json_writer){.buf = &buf, .indent = 2};
    json_write_value(&writer, parse(&arena, text, &err));
    assert_string_equal(buf.at,
                        "{\n  \"a\": [\n    1,\n    2.5,\n    \"q\\\"\\u0001\"\n  ],\n  \"e\": {},\n  \"l\": []\n}");
    strbuf_deinit(&buf);
    arena_deinit(&arena);
}

static void numbers_are_shortest(void **state)
{
    char out[32];

    json_format_number(0.1, out);
    assert_string_equal(out, "0.1");
    json_format_number(1e-5, out);
    assert_string_equal(out, "1e-05");
    json_format_number(1.0 / 3, out);
    assert_true(strtod(out, NULL) == 1.0 / 3);
}

/* JSONTestSuite: y_* must be accepted, n_* refused, i_* may be either but must not crash. */
static void json_test_suite(void **state)
{
    const char *folder = shared_path("jsontestsuite");
    struct arena arena = {0};
    struct err err = {0};
    char **names;
    size_t count, accepted = 0, refused = 0, wrong = 0;

    if (!folder)
        skip();
    if (!dir_exists(folder) || !dir_list(&arena, folder, &names, &count, &err))
        fail_msg("%s", err.text);
    if (dir_exists(path_join(&arena, folder, "test_parsing"))) {
        folder = path_join(&arena, folder, "test_parsing");
        assert_ok(dir_list(&arena, folder, &names, &count, &err), err);
    }
    for (size_t i = 0; i < count; i++) {
        struct str bytes;
        bool is_accepted;
        if (!str_ends(str_of(names[i]), STR(".json")))
            continue;
        assert_ok(file_read(&arena, path_join(&arena, folder, names[i]), 1 << 24, &bytes, &err), err);
        is_accepted = json_parse(&arena, bytes, &(struct json_limits){.depth = 1000}, &err) != NULL;
        accepted += names[i][0] == 'y' && is_accepted;
        refused += names[i][0] == 'n' && !is_accepted;
        if ((names[i][0] == 'y' && !is_accepted) || (names[i][0] == 'n' && is_accepted)) {
            print_error("%s: %s\n", names[i], is_accepted ? "accepted" : err.text);
            wrong++;
        }
    }
    print_message("JSONTestSuite: %zu accepted, %zu refused\n", accepted, refused);
    assert_int_equal(wrong, 0);
    assert_int_equal(accepted, 95);
    assert_int_equal(refused, 188);
    arena_deinit(&arena);
}

static void values_are_equal_by_type_value_and_order(void **state)
{
    static const struct {
        const char *a, *b;
        bool is_equal;
    } cases[] = {
        {"{\"a\":[1,true,null,\"x\"]}", " {\"a\" : [1.0,true,null,\"\\u0078\"]}", true},
        {"{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", false},
        {"{\"a\":1}", "{\"a\":1,\"b\":2}", false},
        {"[1,2]", "[1,3]", false},
        {"[]", "{}", false},
        {"null", "false", false},
        {"9007199254740993", "9007199254740992", false},
        {"\"1\"", "1", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        const struct json *a = json_parse(&arena, str_of(cases[i].a), NULL, NULL);
        const struct json *b = json_parse(&arena, str_of(cases[i].b), NULL, NULL);
        if (json_equal(a, b) != cases[i].is_equal || json_equal(b, a) != cases[i].is_equal || !json_equal(a, a))
            fail_msg("%s and %s", cases[i].a, cases[i].b);
        arena_deinit(&arena);
    }
}

static void a_value_is_asked_for_its_type_and_its_text(void **state)
{
    struct arena arena = {0};
    const struct json *list = json_parse(&arena, STR("[\"a\", \"\", 1, null]"), NULL, NULL);

    assert_true(json_has_type(list, JSON_ARRAY) && !json_has_type(list, JSON_OBJECT));
    assert_false(json_has_type(NULL, JSON_NULL));
    assert_true(json_is(json_at(list, 0), "a") && !json_is(json_at(list, 0), "ab") && !json_is(json_at(list, 0), ""));
    assert_true(json_is(json_at(list, 1), "") && !json_is(json_at(list, 2), "1") && !json_is(json_at(list, 3), ""));
    assert_false(json_is(NULL, "") || json_is(list, "a"));
    arena_deinit(&arena);
}

static void items_and_members_are_walked_and_of_all_else_there_are_none(void **state)
{
    static const struct {
        const char *text;
        int count;
    } cases[] = {{"[1, 2, 3]", 3}, {"{\"a\": 1, \"b\": 2}", 2}, {"[]", 0}, {"{}", 0}, {"\"abc\"", 0}, {"7", 0}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        int count = 0;

        json_each(item, json_parse(&arena, str_of(cases[i].text), NULL, NULL))
            count += json_integer_or(item, 0) == count + 1;
        if (count != cases[i].count)
            fail_msg("%s: %d items, not %d", cases[i].text, count, cases[i].count);
        arena_deinit(&arena);
    }
    json_each(item, (const struct json *)NULL)
        fail();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_every_kind_are_read), cmocka_unit_test(errors_name_line_and_column),
        cmocka_unit_test(strings_end_at_the_right_byte_whatever_their_length),
        cmocka_unit_test(a_repeated_member_is_named_among_few_and_among_many),
        cmocka_unit_test(depth_is_bounded),              cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(numbers_are_shortest),          cmocka_unit_test(json_test_suite),
        cmocka_unit_test(values_are_equal_by_type_value_and_order),
        cmocka_unit_test(a_value_is_asked_for_its_type_and_its_text),
        cmocka_unit_test(items_and_members_are_walked_and_of_all_else_there_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
