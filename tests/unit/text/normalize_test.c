#include "test.h"

#include "base/random.h"
#include "text/normalize.h"
#include "text/unicode.h"

static const struct {
    enum unicode_form form;
    const char *json;
    int options;
} forms[] = {
    {UNICODE_NFC, "{\"type\":\"NFC\"}", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {UNICODE_NFD, "{\"type\":\"NFD\"}", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {UNICODE_NFKC, "{\"type\":\"NFKC\"}", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {UNICODE_NFKD, "{\"type\":\"NFKD\"}", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

static struct normalizer parse(struct arena *arena, const char *json)
{
    struct normalizer normalizer = {0};
    struct err err = {0};

    assert_ok(normalizer_parse(&normalizer, arena, json_parse(arena, str_of(json), NULL, &err), &err), err);
    return normalizer;
}

/* Random text out of what composes: letters, marks, Hangul, and anything. */
static void random_text(struct mt19937 *mt, struct strbuf *out)
{
    static const uint32_t ranges[][2] = {{0x20, 0x7e},     {0xc0, 0x17f},    {0x300, 0x345},   {0x1100, 0x11ff},
                                         {0xac00, 0xd7a3}, {0x900, 0x9ff},   {0x1e00, 0x1fff}, {0xf900, 0xfaff},
                                         {0xfb00, 0xfb4f}, {0x1d15e, 0x1d164}, {0x20, 0x30}};
    size_t count = mt19937_next(mt) % 40;

    strbuf_clear(out);
    for (size_t i = 0; i < count; i++) {
        const uint32_t *range = ranges[mt19937_next(mt) % (sizeof ranges / sizeof *ranges)];

        strbuf_add_codepoint(out, range[0] + mt19937_next(mt) % (range[1] - range[0] + 1));
    }
}

static struct str whole_text_form(struct str text, int options, utf8proc_uint8_t **out)
{
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)text.at, (utf8proc_ssize_t)text.len, out,
                                        (utf8proc_option_t)options);

    assert_true(len >= 0);
    return (struct str){(const char *)*out, (size_t)len};
}

static void segments_normalise_as_the_whole_text_does(void **state)
{
    struct arena arena = {0};
    struct strbuf text = {0};
    struct rewrite out = {0};
    struct err err = {0};
    struct mt19937 mt;
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : 7;

    print_message("SEED=%u\n", seed);
    mt19937_seed(&mt, seed);
    for (size_t f = 0; f < 4; f++) {
        struct normalizer normalizer = parse(&arena, forms[f].json);

        for (int n = 0; n < 2000; n++) {
            utf8proc_uint8_t *whole = NULL;
            struct str got, want;
            bool changed;

            random_text(&mt, &text);
            assert_ok(normalizer_run(normalizer.stages, NULL, strbuf_view(&text), &out, &changed, &err), err);
            got = changed ? strbuf_view(&out.text) : strbuf_view(&text);
            want = whole_text_form(strbuf_view(&text), forms[f].options, &whole);
            if (!str_equal(got, want))
                fail_msg("%s of \"%s\" is \"%.*s\", expected \"%.*s\"", forms[f].json, text.at, STR_ARG(got),
                         STR_ARG(want));
            free(whole);
        }
        normalizer_deinit(&normalizer);
    }
    rewrite_deinit(&out);
    strbuf_deinit(&text);
    arena_deinit(&arena);
}

static void a_mebibyte_of_marks_is_ordered_in_linear_time(void **state)
{
    struct arena arena = {0};
    struct normalizer normalizer = parse(&arena, "{\"type\":\"NFC\"}");
    struct strbuf text = {0};
    struct rewrite out = {0};
    struct err err = {0};
    bool changed;

    strbuf_add_text(&text, "e");
    while (text.len < 1 << 20)
        strbuf_add_text(&text, "\u0301\u0327");
    assert_ok(normalizer_run(normalizer.stages, NULL, strbuf_view(&text), &out, &changed, &err), err);
    assert_true(changed);
    assert_true(str_starts(strbuf_view(&out.text), STR("\u0229\u0327")));
    assert_true(str_ends(strbuf_view(&out.text), STR("\u0301")));
    rewrite_deinit(&out);
    strbuf_deinit(&text);
    arena_deinit(&arena);
}

static void a_rewrite_knows_where_its_bytes_came_from(void **state)
{
    static const struct {
        const char *text;
        uint32_t start, end, source_start, source_end;
    } cases[] = {
        /* "a" e+acute "b": the composed character stands for both */
        {"ae\u0301b", 0, 1, 0, 1}, {"ae\u0301b", 1, 3, 1, 4}, {"ae\u0301b", 3, 4, 4, 5}, {"ae\u0301b", 0, 4, 0, 5},
        {"ae\u0301b", 1, 2, 1, 4},
    };
    struct arena arena = {0};
    struct normalizer normalizer = parse(&arena, "{\"type\":\"NFC\"}");
    struct rewrite out = {0};
    struct err err = {0};
    bool changed;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t start = cases[i].start, end = cases[i].end;

        assert_ok(normalizer_run(normalizer.stages, NULL, str_of(cases[i].text), &out, &changed, &err), err);
        rewrite_source(&out, &start, &end);
        assert_int_equal(start, cases[i].source_start);
        assert_int_equal(end, cases[i].source_end);
    }
    rewrite_deinit(&out);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_normalise_as_the_whole_text_does),
        cmocka_unit_test(a_mebibyte_of_marks_is_ordered_in_linear_time),
        cmocka_unit_test(a_rewrite_knows_where_its_bytes_came_from),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
