/* data/jsonl.h - JSON Lines in pieces: the cutting, and the check of a whole training file.
 *
 * Bytes come in any pieces; a line is handed on when its end is seen. "\n" and "\r\n" end a line, the last one may
 * lack it, a byte order mark before the first is skipped. A line above JSONL_LINE_BYTES_MAX is handed on once,
 * empty, as too long, and the rest of it is passed over: memory stays bounded whatever arrives.
 *
 * jsonl_checker runs every line through data/example: what the server does while a file is uploaded. Lines of white
 * space are skipped but counted, so numbers are those of an editor. It keeps the first JSONL_ERRORS_MAX errors
 * and counts the rest. */
#pragma once

#include "data/example.h"

enum { JSONL_LINE_BYTES_MAX = 8 << 20, JSONL_ERRORS_MAX = 100, JSONL_ERROR_BYTES = 256 };

struct jsonl_line {
    struct str text; /* without its end; valid during the call */
    uint64_t number; /* from 1 */
    bool is_too_long;
};

/* False stops the cutting: jsonl_cut returns false at once. */
typedef bool jsonl_line_fn(void *context, const struct jsonl_line *line);

/* A zeroed struct is at the start of a file. */
struct jsonl_cutter {
    struct strbuf rest; /* the beginning of a line whose end has not come */
    uint64_t line_count;
    bool is_skipping; /* inside a line that is too long */
};
void jsonl_cutter_deinit(struct jsonl_cutter *cutter);
bool jsonl_cut(struct jsonl_cutter *cutter, struct str bytes, jsonl_line_fn *on_line, void *context);
bool jsonl_cut_end(struct jsonl_cutter *cutter, jsonl_line_fn *on_line, void *context);

struct jsonl_error {
    uint64_t line;                /* 0: the file as a whole */
    char text[JSONL_ERROR_BYTES]; /* "messages[2].weight is 3: it must be 0 or 1" */
};

struct jsonl_report {
    bool has_kind;
    enum example_kind kind;                      /* that of the first line which has one */
    uint64_t bytes, line_count, example_count;   /* example_count: correct lines */
    uint64_t error_count;                        /* all of them */
    struct jsonl_error errors[JSONL_ERRORS_MAX]; /* the first ones, in order */
};

struct jsonl_checker;

struct jsonl_checker *jsonl_checker_new(void);
void jsonl_checker_free(struct jsonl_checker *checker);
void jsonl_checker_add(struct jsonl_checker *checker, const void *at, size_t bytes);
/* Call once, behind the last byte; the report lives as long as the checker. A file without an example has an error. */
const struct jsonl_report *jsonl_checker_end(struct jsonl_checker *checker);

/* How many of report->errors are filled. */
size_t jsonl_report_kept(const struct jsonl_report *report);
