#include "data/jsonl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void jsonl_cutter_deinit(struct jsonl_cutter *cutter)
{
    strbuf_deinit(&cutter->rest);
}

static bool hand_on(struct jsonl_cutter *cutter, struct str text, jsonl_line_fn *on_line, void *context)
{
    struct jsonl_line line = {.number = ++cutter->line_count, .text = text};

    if (line.number == 1 && str_starts(text, STR("\xef\xbb\xbf")))
        line.text = str_slice(text, 3, text.len);
    if (str_ends(line.text, STR("\r")))
        line.text.len--;
    line.is_too_long = cutter->is_skipping || line.text.len > JSONL_LINE_BYTES_MAX;
    if (line.is_too_long)
        line.text = STR("");
    cutter->is_skipping = false;
    return on_line(context, &line);
}

static void keep(struct jsonl_cutter *cutter, struct str bytes)
{
    if (cutter->is_skipping)
        return;
    if (cutter->rest.len + bytes.len > (size_t)JSONL_LINE_BYTES_MAX + 4) { /* a mark and "\r" are no part of it */
        cutter->is_skipping = true;
        strbuf_clear(&cutter->rest);
        return;
    }
    strbuf_add_str(&cutter->rest, bytes);
}

bool jsonl_cut(struct jsonl_cutter *cutter, struct str bytes, jsonl_line_fn *on_line, void *context)
{
    while (bytes.len > 0) {
        const char *end = memchr(bytes.at, '\n', bytes.len);
        struct str line = {bytes.at, end ? (size_t)(end - bytes.at) : bytes.len};
        bool goes_on;

        if (!end || cutter->rest.len > 0 || cutter->is_skipping)
            keep(cutter, line);
        if (!end)
            return true;
        if (cutter->rest.len > 0)
            line = strbuf_view(&cutter->rest);
        goes_on = hand_on(cutter, line, on_line, context);
        strbuf_clear(&cutter->rest);
        if (!goes_on)
            return false;
        bytes = str_slice(bytes, (size_t)(end - bytes.at) + 1, bytes.len);
    }
    return true;
}

bool jsonl_cut_end(struct jsonl_cutter *cutter, jsonl_line_fn *on_line, void *context)
{
    if (cutter->rest.len == 0 && !cutter->is_skipping)
        return true;
    return hand_on(cutter, strbuf_view(&cutter->rest), on_line, context);
}

struct jsonl_checker {
    struct jsonl_cutter cutter;
    struct jsonl_report report;
    struct arena arena; /* one line */
};

struct jsonl_checker *jsonl_checker_new(void)
{
    return mem_alloc_zero(1, sizeof(struct jsonl_checker));
}

void jsonl_checker_free(struct jsonl_checker *checker)
{
    if (!checker)
        return;
    jsonl_cutter_deinit(&checker->cutter);
    arena_deinit(&checker->arena);
    free(checker);
}

static void add_error(struct jsonl_report *report, uint64_t line, const char *text)
{
    if (report->error_count < JSONL_ERRORS_MAX) {
        struct jsonl_error *error = &report->errors[report->error_count];
        error->line = line;
        snprintf(error->text, sizeof error->text, "%.*s", STR_ARG(str_clip(str_of(text), sizeof error->text - 1)));
    }
    report->error_count++;
}

static bool check_kind(struct jsonl_report *report, enum example_kind kind, struct err *err)
{
    if (!report->has_kind) {
        report->has_kind = true;
        report->kind = kind;
    }
    return kind == report->kind ||
           err_set(err, ERR_INPUT, "the line is of kind %s, the file began with %s: a file is of one kind",
                   example_kind_name(kind), example_kind_name(report->kind));
}

static bool check_line(void *context, const struct jsonl_line *line)
{
    struct jsonl_checker *checker = context;
    struct jsonl_report *report = &checker->report;
    struct example example;
    struct err err = {0};

    report->line_count = line->number;
    if (line->is_too_long) {
        add_error(report, line->number, "the line is longer than 8 MiB");
        return true;
    }
    if (str_trim(line->text).len == 0)
        return true;
    if (example_parse(&checker->arena, line->text, &example, &err) && check_kind(report, example.kind, &err))
        report->example_count++;
    else
        add_error(report, line->number, err.text);
    arena_reset(&checker->arena);
    return true;
}

void jsonl_checker_add(struct jsonl_checker *checker, const void *at, size_t bytes)
{
    checker->report.bytes += bytes;
    jsonl_cut(&checker->cutter, (struct str){at, bytes}, check_line, checker);
}

const struct jsonl_report *jsonl_checker_end(struct jsonl_checker *checker)
{
    jsonl_cut_end(&checker->cutter, check_line, checker);
    strbuf_clear(&checker->cutter.rest);
    if (checker->report.example_count == 0 && checker->report.error_count == 0)
        add_error(&checker->report, 0, "the file holds no examples");
    return &checker->report;
}

size_t jsonl_report_kept(const struct jsonl_report *report)
{
    return report->error_count < JSONL_ERRORS_MAX ? (size_t)report->error_count : JSONL_ERRORS_MAX;
}
