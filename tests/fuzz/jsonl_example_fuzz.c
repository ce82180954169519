/* A training file in two pieces through the checker: no fault, and the report holds together. */
#include "data/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jsonl_checker *checker = jsonl_checker_new();
    const struct jsonl_report *report;
    size_t cut = size ? data[0] % size : 0;

    jsonl_checker_add(checker, data, cut);
    jsonl_checker_add(checker, data + cut, size - cut);
    report = jsonl_checker_end(checker);
    ASSERT(report->bytes == size);
    ASSERT(report->example_count > 0 || report->error_count > 0);
    for (size_t i = 0; i < jsonl_report_kept(report); i++)
        ASSERT(report->errors[i].line <= report->line_count && report->errors[i].text[0]);
    jsonl_checker_free(checker);
    return 0;
}
