#include "test.h"

#include "http/url.h"

#include <string.h>

static char *join(struct arena *arena, const struct url_path *path)
{
    struct strbuf text = {0};
    char *result;

    for (size_t i = 0; i < path->count; i++)
        strbuf_printf(&text, "[%.*s]", STR_ARG(path->segment[i]));
    result = str_copy(arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return result;
}

static void paths_are_decoded_once(void **state)
{
    static const struct {
        const char *raw, *segments;
        bool has_encoded_slash;
    } cases[] = {
        {"/", "", false},
        {"/v1/files", "[v1][files]", false},
        {"//v1///files/", "[v1][files]", false},
        {"/%68ealth%7a", "[healthz]", false},
        {"/v1/models/org%2Fname", "[v1][models][org/name]", true},
        {"/v1/models/org%2fname", "[v1][models][org/name]", true},
        {"/%252e%252e", "[%2e%2e]", false},
        {"/a+b", "[a+b]", false},
        {"/ft:base:org::id", "[ft:base:org::id]", false},
        {"/donn%C3%A9es", "[donn\303\251es]", false},
        {"/...", "[...]", false},
        {"/a%20b", "[a b]", false},
    };
    struct arena arena = {0};
    struct url_path path;
    struct err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(url_path_decode(&arena, str_of(cases[i].raw), &path, &err), err);
        assert_string_equal(join(&arena, &path), cases[i].segments);
        assert_int_equal(path.has_encoded_slash, cases[i].has_encoded_slash);
    }
    arena_deinit(&arena);
}

static void paths_with_a_second_meaning_are_refused(void **state)
{
    static const char *const cases[] = {
        "",          "v1",           "/.",          "/..",         "/a/../b",     "/a/.",          "/%2e",
        "/%2e%2e",   "/.%2E",        "/%2E./x",     "/a%2F..%2Fb", "/a%2f..",     "/..%2fa",       "/a\\b",
        "/a%5cb",    "/a;b=c",       "/..;/x",      "/a%3bb",      "/a%00",       "/a%0d%0ab",     "/a%7f",
        "/a%",       "/a%2",         "/a%zz",       "/%c0%ae",     "/%c0%af",     "/%ff",          "/%ed%a0%80",
        "/a%2",      "/%e2%82",      "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17",
    };
    struct arena arena = {0};
    struct url_path path;
    struct err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (url_path_decode(&arena, str_of(cases[i]), &path, &err))
            fail_msg("accepted: %s", cases[i]);
    arena_deinit(&arena);
}

static void queries_are_pairs(void **state)
{
    struct arena arena = {0};
    struct url_query query;
    struct str value;
    struct err err;

    assert_ok(url_query_decode(&arena, STR("a=1&metadata%5Bk%5D=v%20w+x&&empty=&flag&a=2&e=a=b"), &query, &err), err);
    assert_int_equal(query.count, 6);
    assert_true(url_query_get(&query, "metadata[k]", &value) && str_is(value, "v w x"));
    assert_true(url_query_get(&query, "a", &value) && str_is(value, "1"));
    assert_true(url_query_get(&query, "flag", &value) && value.len == 0);
    assert_true(url_query_get(&query, "e", &value) && str_is(value, "a=b"));
    assert_false(url_query_get(&query, "b", &value));
    assert_false(url_query_decode(&arena, STR("a=%"), &query, &err));
    assert_false(url_query_decode(&arena, STR("a=%00"), &query, &err));
    assert_false(url_query_decode(&arena, STR("a=%ff"), &query, &err));
    arena_deinit(&arena);
}

static void more_than_64_parameters_are_refused(void **state)
{
    struct arena arena = {0};
    struct strbuf text = {0};
    struct url_query query;
    struct err err;

    for (int i = 0; i < URL_PAIRS_MAX; i++)
        strbuf_add_text(&text, "a=b&");
    assert_ok(url_query_decode(&arena, strbuf_view(&text), &query, &err), err);
    strbuf_add_text(&text, "c=d");
    assert_false(url_query_decode(&arena, strbuf_view(&text), &query, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    strbuf_deinit(&text);
    arena_deinit(&arena);
}

static void encoding_is_undone_by_decoding(void **state)
{
    struct arena arena = {0};
    struct strbuf text = {0};
    struct url_query query;
    struct err err;

    strbuf_add_text(&text, "q=");
    url_encode(&text, STR("a b/\303\251%&=+~"));
    assert_string_equal(text.at, "q=a%20b%2F%C3%A9%25%26%3D%2B~");
    assert_ok(url_query_decode(&arena, strbuf_view(&text), &query, &err), err);
    assert_true(str_is(query.pair[0].value, "a b/\303\251%&=+~"));
    strbuf_deinit(&text);
    arena_deinit(&arena);
}

static void only_hosts_of_this_machine_are_local(void **state)
{
    static const char *const local[] = {"localhost",       "LocalHost:8080", "127.0.0.1", "127.0.0.1:80",
                                        "127.8.9.1:65535", "[::1]",          "[::1]:8080"};
    static const char *const other[] = {"",
                                        "evil.example",
                                        "localhost.evil.example",
                                        "127.evil.example",
                                        "127.0.0.1.evil.example:80",
                                        "127.0.0",
                                        "0.0.0.0",
                                        "192.168.0.1:8080",
                                        "[::2]:80",
                                        "[::ffff:127.0.0.1]",
                                        "xlocalhost",
                                        "localhost:80x",
                                        "2130706433"};

    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (!url_host_is_local(str_of(local[i])))
            fail_msg("%s is refused", local[i]);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (url_host_is_local(str_of(other[i])))
            fail_msg("%s is taken for this machine", other[i]);
    assert_true(url_host_is(STR("Tune.Example:443"), "tune.example"));
    assert_false(url_host_is(STR("tune.example.org"), "tune.example"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_are_decoded_once),
        cmocka_unit_test(paths_with_a_second_meaning_are_refused),
        cmocka_unit_test(queries_are_pairs),
        cmocka_unit_test(more_than_64_parameters_are_refused),
        cmocka_unit_test(encoding_is_undone_by_decoding),
        cmocka_unit_test(only_hosts_of_this_machine_are_local),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
