#include "cli/training_check.h"
#include "data/jsonl.h"

#include <stdlib.h>

enum { STATUS_ERRORS_SHOWN = 10 };

struct check {
    struct jsonl_checker *checker;
    struct strbuf details;
};

static void *check_begin(void)
{
    struct check *check = mem_alloc_zero(1, sizeof *check);

    check->checker = jsonl_checker_new();
    return check;
}

static void check_add(void *context, const void *at, size_t bytes)
{
    jsonl_checker_add(((struct check *)context)->checker, at, bytes);
}

static void check_end(void *context, struct api_check_result *result)
{
    struct check *check = context;
    const struct jsonl_report *report = jsonl_checker_end(check->checker);
    size_t kept = jsonl_report_kept(report);

    *result = (struct api_check_result){.kind = report->has_kind ? example_kind_name(report->kind) : NULL,
                                        .line_count = report->line_count,
                                        .bad_line_count = report->error_count};
    for (size_t i = 0; i < kept && i < STATUS_ERRORS_SHOWN; i++) {
        const struct jsonl_error *error = &report->errors[i];
        if (error->line)
            strbuf_printf(&check->details, "%sLine %llu: %s.", i ? " " : "", (unsigned long long)error->line,
                          error->text);
        else
            strbuf_printf(&check->details, "%s%s.", i ? " " : "", error->text);
    }
    if (report->error_count > STATUS_ERRORS_SHOWN)
        strbuf_printf(&check->details, " (%llu errors in all)", (unsigned long long)report->error_count);
    if (report->error_count > 0)
        result->details = check->details.at;
}

static void check_free(void *context)
{
    struct check *check = context;

    jsonl_checker_free(check->checker);
    strbuf_deinit(&check->details);
    free(check);
}

const struct api_checker training_check = {check_begin, check_add, check_end, check_free};
