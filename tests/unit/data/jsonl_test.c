#include "test.h"
#include "data/jsonl.h"

#include <string.h>

struct lines {
    struct strbuf text; /* "number:content|" for each */
};

static bool note_line(void *context, const struct jsonl_line *line)
{
    struct lines *lines = context;

    strbuf_printf(&lines->text, "%d:%s%.*s|", (int)line->number, line->is_too_long ? "LONG" : "", STR_ARG(line->text));
    return true;
}

static void lines_do_not_depend_on_the_pieces(void **state)
{
    static const char text[] = "\xef\xbb\xbf"
                               "one\r\n\ntwo\nthree \xc3\xa9\r\n  \nlast";
    static const char expected[] = "1:one|2:|3:two|4:three \xc3\xa9|5:  |6:last|";

    for (size_t piece = 1; piece < sizeof text; piece++) {
        struct jsonl_cutter cutter = {0};
        struct lines lines = {0};
        for (size_t at = 0; at < sizeof text - 1; at += piece)
            assert_true(jsonl_cut(&cutter, str_slice(STR(text), at, at + piece), note_line, &lines));
        assert_true(jsonl_cut_end(&cutter, note_line, &lines));
        assert_string_equal(lines.text.at, expected);
        strbuf_deinit(&lines.text);
        jsonl_cutter_deinit(&cutter);
    }
}

static void a_line_that_is_too_long_is_passed_over_in_bounded_memory(void **state)
{
    static const struct {
        size_t extra;
        const char *expected;
    } cases[] = {{1, "1:LONG|2:ok|"}, {5 << 20, "1:LONG|2:ok|"}};
    char *block = malloc(1 << 20);

    memset(block, 'x', 1 << 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct jsonl_cutter cutter = {0};
        struct lines lines = {0};
        size_t left = JSONL_LINE_BYTES_MAX + cases[i].extra;
        for (size_t part; left > 0; left -= part) {
            part = left < (1 << 20) ? left : 1 << 20;
            assert_true(jsonl_cut(&cutter, (struct str){block, part}, note_line, &lines));
        }
        assert_true(jsonl_cut(&cutter, STR("\nok"), note_line, &lines));
        assert_true(jsonl_cut_end(&cutter, note_line, &lines));
        assert_string_equal(lines.text.at, cases[i].expected);
        assert_true(cutter.rest.cap <= (size_t)4 * JSONL_LINE_BYTES_MAX);
        strbuf_deinit(&lines.text);
        jsonl_cutter_deinit(&cutter);
    }
    free(block);
}

static void a_line_of_exactly_the_limit_passes(void **state)
{
    struct jsonl_checker *checker = jsonl_checker_new();
    struct strbuf line = {0};

    strbuf_add_text(&line, "\xef\xbb\xbf{\"text\":\"");
    while (line.len < (size_t)JSONL_LINE_BYTES_MAX + 3 - 2)
        strbuf_add_char(&line, 'y');
    strbuf_add_text(&line, "\"}\r\n");
    for (size_t at = 0; at < line.len; at += 65536)
        jsonl_checker_add(checker, line.at + at, line.len - at < 65536 ? line.len - at : 65536);
    assert_int_equal(jsonl_checker_end(checker)->example_count, 1);
    strbuf_deinit(&line);
    jsonl_checker_free(checker);
}

static const struct jsonl_report *check(struct jsonl_checker *checker, const char *text)
{
    jsonl_checker_add(checker, text, strlen(text));
    return jsonl_checker_end(checker);
}

static void errors_carry_the_line_and_the_reason(void **state)
{
    struct jsonl_checker *checker = jsonl_checker_new();
    const struct jsonl_report *report = check(
        checker, "{\"text\":\"a\"}\n\n{\"text\":1}\r\n{\"prompt\":\"p\",\"completion\":\"c\"}\n{\"text\":\"b\"}\nnull");

    assert_int_equal(report->example_count, 2);
    assert_int_equal(report->line_count, 6);
    assert_int_equal(report->kind, EXAMPLE_TEXT);
    assert_int_equal(report->error_count, 3);
    assert_int_equal(jsonl_report_kept(report), 3);
    assert_int_equal(report->errors[0].line, 3);
    assert_string_equal(report->errors[0].text, "text is a number: it must be a string");
    assert_int_equal(report->errors[1].line, 4);
    assert_non_null(strstr(report->errors[1].text, "kind prompt, the file began with text"));
    assert_int_equal(report->errors[2].line, 6);
    jsonl_checker_free(checker);
}

static void a_file_without_examples_is_an_error(void **state)
{
    static const char *const files[] = {"", "\n\n", "\xef\xbb\xbf"};

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct jsonl_checker *checker = jsonl_checker_new();
        const struct jsonl_report *report = check(checker, files[i]);
        assert_int_equal(report->error_count, 1);
        assert_int_equal(report->errors[0].line, 0);
        assert_string_equal(report->errors[0].text, "the file holds no examples");
        jsonl_checker_free(checker);
    }
}

static void the_first_hundred_errors_are_kept_and_all_are_counted(void **state)
{
    struct jsonl_checker *checker = jsonl_checker_new();
    const struct jsonl_report *report;

    for (int i = 0; i < 250; i++)
        jsonl_checker_add(checker, "x\n", 2);
    report = jsonl_checker_end(checker);
    assert_int_equal(report->error_count, 250);
    assert_int_equal(jsonl_report_kept(report), 100);
    assert_int_equal(report->errors[99].line, 100);
    jsonl_checker_free(checker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_do_not_depend_on_the_pieces),
        cmocka_unit_test(a_line_that_is_too_long_is_passed_over_in_bounded_memory),
        cmocka_unit_test(a_line_of_exactly_the_limit_passes),
        cmocka_unit_test(errors_carry_the_line_and_the_reason),
        cmocka_unit_test(a_file_without_examples_is_an_error),
        cmocka_unit_test(the_first_hundred_errors_are_kept_and_all_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
