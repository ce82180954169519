#include "test.h"

#include "base/random.h"
#include "text/pattern.h"
#include "text/pretokenize.h"
#include "text/unicode.h"

#include <string.h>

enum { TEXTS = 400, TEXT_CHARACTERS = 60 };

/* Characters that the patterns tell apart; a random text draws mostly from here. */
static const char pool[] = "aabcdeEsStTrRvVmMlLdDzZ019''''   \t\r\n\n//.,!?-+$^|\xc2\xa0éÄßſǅʰªºΑΩдЖ你好あカ한ไ"
                           "\u0301\u0327\u093e\u200d²½Ⅷ٣৪€☃👍🏽\u2003\u3000\u2028\xc2\x85\001\177\u200b";

static uint32_t pool_points[256];
static size_t pool_count;

static void fill_pool(void)
{
    for (size_t at = 0; at < sizeof pool - 1 && pool_count < 256; pool_count++)
        at += unicode_next(pool + at, &pool_points[pool_count]);
}

/* PCRE2 and utf8proc may know different versions of Unicode, and PCRE2 counts U+180E as white space: characters that
 * only one of them knows are left out. */
static bool is_known_to_both(struct pattern *unassigned, void *match_data, uint32_t codepoint)
{
    char text[4];
    struct str s = {text, utf8_encode(codepoint, text)};
    size_t start, end;
    struct err err = {0};

    if (codepoint == 0x180e || (codepoint >= 0xd800 && codepoint <= 0xdfff))
        return false;
    assert_ok(pattern_find(unassigned, match_data, s, 0, &start, &end, &err), err);
    return (start == end) == (utf8proc_category((utf8proc_int32_t)codepoint) != UTF8PROC_CATEGORY_CN);
}

static void random_text(struct mt19937 *mt, struct pattern *unassigned, void *match_data, struct strbuf *out)
{
    size_t count = mt19937_next(mt) % TEXT_CHARACTERS;

    strbuf_clear(out);
    for (size_t i = 0; i < count; i++) {
        uint32_t codepoint = pool_points[mt19937_next(mt) % pool_count];

        if (mt19937_next(mt) % 8 == 0) {
            do
                codepoint = mt19937_next(mt) % (mt19937_next(mt) % 2 ? 0x3000 : 0x20000);
            while (!is_known_to_both(unassigned, match_data, codepoint));
        }
        strbuf_add_codepoint(out, codepoint);
    }
}

/* The next match of a matcher, searched for as the tokenizer does. */
static void find(pretoken_matcher *match, struct str text, size_t from, size_t *start, size_t *end)
{
    uint32_t codepoint;

    for (*start = from; *start < text.len; *start += unicode_next(text.at + *start, &codepoint)) {
        *end = match(text, *start);
        if (*end > *start)
            return;
    }
    *end = text.len;
}

static void compare(const char *regex, pretoken_matcher *match, struct pattern *pattern, void *match_data,
                    struct str text)
{
    struct err err = {0};

    for (size_t at = 0, start, end, want_start, want_end; at < text.len; at = end) {
        find(match, text, at, &start, &end);
        assert_ok(pattern_find(pattern, match_data, text, at, &want_start, &want_end, &err), err);
        if (start != want_start || end != want_end) {
            for (size_t i = 0; i < text.len; i++)
                print_message("%02x ", (uint8_t)text.at[i]);
            fail_msg("%s\nfrom %zu: [%zu, %zu), PCRE2 has [%zu, %zu)", regex, at, start, end, want_start, want_end);
        }
    }
}

static void matchers_agree_with_pcre2_on_random_text(void **state)
{
    struct err err = {0};
    struct pattern *unassigned = pattern_regex(STR("\\p{Cn}"), "test", &err);
    void *match_data = pattern_match_data();
    struct strbuf text = {0};
    struct mt19937 mt;
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : 20240617;

    print_message("SEED=%u\n", seed);
    fill_pool();
    mt19937_seed(&mt, seed);
    for (size_t i = 0; pretoken_pattern(i); i++) {
        struct str regex = str_of(pretoken_pattern(i));
        struct pattern *pattern = pattern_regex(regex, "test", &err);

        assert_ok(pattern, err);
        for (int n = 0; n < TEXTS; n++) {
            random_text(&mt, unassigned, match_data, &text);
            compare(regex.at, pretoken_known(regex), pattern, match_data, strbuf_view(&text));
        }
        pattern_free(pattern);
    }
    strbuf_deinit(&text);
    pattern_free(unassigned);
    pattern_match_data_free(match_data);
}

/* A matcher that looks at a character more than a few times would not end here in reasonable time. */
static void a_mebibyte_of_one_character_is_matched_in_linear_time(void **state)
{
    static const char *const units[] = {
        "a", "A", " ", "\n", " \n", "\xcc\x81", "\xc2\xaa", "ªA", "'", "/", "1", "\xf0\x9f\x91\x8d", "\xe4\xbd\xa0"};

    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        struct strbuf text = {0};

        while (text.len < 1 << 20)
            strbuf_add_text(&text, units[u]);
        strbuf_add_text(&text, "\x01");
        for (size_t i = 0; pretoken_pattern(i); i++)
            for (size_t at = 0, start, end; at < text.len; at = end) {
                find(pretoken_known(str_of(pretoken_pattern(i))), strbuf_view(&text), at, &start, &end);
                assert_true(start >= at && end > start - (start == text.len) && end <= text.len);
            }
        strbuf_deinit(&text);
    }
}

static void a_pattern_is_known_with_its_line_ends_written_either_way(void **state)
{
    const char *escaped = pretoken_pattern(1);
    struct strbuf raw = {0};

    for (const char *c = escaped; *c; c++)
        if (c[0] == '\\' && (c[1] == 'r' || c[1] == 'n'))
            strbuf_add_char(&raw, *++c == 'r' ? '\r' : '\n');
        else
            strbuf_add_char(&raw, *c);
    assert_non_null(pretoken_known(str_of(escaped)));
    assert_ptr_equal(pretoken_known(strbuf_view(&raw)), pretoken_known(str_of(escaped)));
    strbuf_add_char(&raw, '+');
    assert_null(pretoken_known(strbuf_view(&raw)));
    strbuf_deinit(&raw);
}

static void a_hostile_pattern_ends_in_an_error(void **state)
{
    struct err err = {0};
    struct pattern *pattern = pattern_regex(STR("(a+)+$"), "test", &err);
    void *match_data = pattern_match_data();
    size_t start, end;

    assert_ok(pattern, err);
    assert_false(pattern_find(pattern, match_data, STR("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"), 0,
                              &start, &end, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    pattern_free(pattern);
    pattern_match_data_free(match_data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matchers_agree_with_pcre2_on_random_text),
        cmocka_unit_test(a_mebibyte_of_one_character_is_matched_in_linear_time),
        cmocka_unit_test(a_pattern_is_known_with_its_line_ends_written_either_way),
        cmocka_unit_test(a_hostile_pattern_ends_in_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
