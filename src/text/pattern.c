#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

enum { PATTERN_BYTES_MAX = 4096, MATCH_STEPS_MAX = 2000000, MATCH_DEPTH_MAX = 100000, MATCH_HEAP_KIB_MAX = 65536 };

struct pattern {
    struct strbuf literal;  /* when code is NULL */
    pcre2_code *code;
    pcre2_match_context *limits;
};

struct pattern *pattern_regex(struct str regex, const char *owner, struct err *err)
{
    struct pattern *pattern;
    PCRE2_SIZE offset;
    PCRE2_UCHAR text[128];
    int code;

    if (regex.len > PATTERN_BYTES_MAX) {
        err_set(err, ERR_LIMIT, "tokenizer: the pattern of %s has %zu bytes; the limit is %d", owner, regex.len,
                PATTERN_BYTES_MAX);
        return NULL;
    }
    pattern = mem_alloc_zero(1, sizeof *pattern);
    pattern->code = pcre2_compile((PCRE2_SPTR)regex.at, regex.len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                  &code, &offset, NULL);
    pattern->limits = pcre2_match_context_create(NULL);
    if (!pattern->limits)
        die("out of memory for a pattern");
    pcre2_set_match_limit(pattern->limits, MATCH_STEPS_MAX);
    pcre2_set_depth_limit(pattern->limits, MATCH_DEPTH_MAX);
    pcre2_set_heap_limit(pattern->limits, MATCH_HEAP_KIB_MAX);
    if (!pattern->code) {
        pcre2_get_error_message(code, text, sizeof text);
        err_set(err, ERR_UNSUPPORTED, "tokenizer: the pattern of %s does not compile: %s at %zu in \"%.*s\"", owner,
                (const char *)text, (size_t)offset, STR_ARG(str_slice(regex, 0, 300)));
        pattern_free(pattern);
        return NULL;
    }
    return pattern;
}

struct pattern *pattern_parse(const struct json *json, const char *owner, struct err *err)
{
    const struct json *literal = json_get(json, "String"), *regex = json_get(json, "Regex");
    struct pattern *pattern;

    if (json_has_type(regex, JSON_STRING))
        return pattern_regex(regex->string, owner, err);
    if (!json_has_type(literal, JSON_STRING) || literal->string.len == 0) {
        err_set(err, ERR_UNSUPPORTED, "tokenizer: the pattern of %s is neither a String nor a Regex", owner);
        return NULL;
    }
    pattern = mem_alloc_zero(1, sizeof *pattern);
    strbuf_add_str(&pattern->literal, literal->string);
    return pattern;
}

void pattern_free(struct pattern *pattern)
{
    if (!pattern)
        return;
    strbuf_deinit(&pattern->literal);
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    free(pattern);
}

void *pattern_match_data(void)
{
    void *match_data = pcre2_match_data_create(1, NULL);

    if (!match_data)
        die("out of memory for a pattern");
    return match_data;
}

void pattern_match_data_free(void *match_data)
{
    pcre2_match_data_free(match_data);
}

static bool find_regex(const struct pattern *pattern, void *match_data, struct str text, size_t from, size_t *start,
                       size_t *end, struct err *err)
{
    int got = pcre2_match(pattern->code, (PCRE2_SPTR)text.at, text.len, from,
                          PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | PCRE2_NO_JIT, match_data, pattern->limits);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match_data);
    PCRE2_UCHAR message[128];

    *start = *end = text.len;
    if (got == PCRE2_ERROR_NOMATCH)
        return true;
    if (got < 0) {
        pcre2_get_error_message(got, message, sizeof message);
        return err_set(err, ERR_LIMIT, "tokenizer: a pattern of the tokenizer could not be matched: %s",
                       (const char *)message);
    }
    *start = span[0] < span[1] ? span[0] : span[1]; /* \K may put the start behind the end */
    *end = span[1];
    return *start >= from || err_set(err, ERR_UNSUPPORTED, "tokenizer: a pattern of the tokenizer matches backwards");
}

bool pattern_find(const struct pattern *pattern, void *match_data, struct str text, size_t from, size_t *start,
                  size_t *end, struct err *err)
{
    ptrdiff_t at;

    if (pattern->code)
        return find_regex(pattern, match_data, text, from, start, end, err);
    at = str_find(text, strbuf_view(&pattern->literal), from);
    *start = at < 0 ? text.len : (size_t)at;
    *end = at < 0 ? text.len : (size_t)at + pattern->literal.len;
    return true;
}
