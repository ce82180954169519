#include "http/head.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool __attribute__((format(printf, 3, 4))) refuse(struct refusal *refusal, int status, const char *format, ...)
{
    va_list args;

    refusal->status = status;
    va_start(args, format);
    vsnprintf(refusal->text, sizeof refusal->text, format, args);
    va_end(args);
    return false;
}

/* What the bytes looked at so far exceed, by the position of the scan alone. */
static bool within_limits(const struct head_scan *scan, const struct head_limits *limits, struct refusal *refusal)
{
    if (scan->line_count == 0 && scan->lines.at - scan->lines.line_start > limits->line_bytes)
        return refuse(refusal, 414, "The request line is longer than %zu bytes.", limits->line_bytes);
    if (scan->lines.at > limits->head_bytes)
        return refuse(refusal, 431, "The request's head is longer than %zu bytes.", limits->head_bytes);
    if (scan->line_count > limits->header_count + 1)
        return refuse(refusal, 431, "The request has more than %zu headers.", limits->header_count);
    return true;
}

/* The scan stops where the next limit would be passed, so that a large piece is judged like its bytes one by one. */
static struct str within_reach(const struct head_scan *scan, const struct head_limits *limits, struct str bytes)
{
    size_t reach = limits->head_bytes + 1;

    if (scan->line_count == 0 && scan->lines.line_start + limits->line_bytes + 1 < reach)
        reach = scan->lines.line_start + limits->line_bytes + 1;
    return str_slice(bytes, 0, reach);
}

enum head_result head_scan(struct head_scan *scan, const struct head_limits *limits, struct str bytes,
                           size_t *head_len, struct refusal *refusal)
{
    for (;;) {
        struct str line;
        enum line_result result = line_next(&scan->lines, within_reach(scan, limits, bytes), &line);

        if (result == LINE_BAD) {
            refuse(refusal, 400, "A line of the request's head does not end in CR LF.");
            return HEAD_REFUSED;
        }
        if (result == LINE_MORE)
            return within_limits(scan, limits, refusal) ? HEAD_MORE : HEAD_REFUSED;
        if (line.len == 0 && scan->line_count > 0) {
            *head_len = scan->lines.at;
            return HEAD_DONE;
        }
        if (line.len == 0 && scan->lines.at > 2) {
            refuse(refusal, 400, "The request begins with empty lines.");
            return HEAD_REFUSED;
        }
        scan->line_count += line.len > 0;
        if (!within_limits(scan, limits, refusal))
            return HEAD_REFUSED;
    }
}

const char *http_method_name(enum http_method method)
{
    static const char *const names[HTTP_METHOD_COUNT + 1] = {
#define METHOD_NAME(name) #name,
        HTTP_METHODS(METHOD_NAME)
#undef METHOD_NAME
        "-"};

    return names[method];
}

static enum http_method method_of(struct str text)
{
    int method = 0;

    while (method < HTTP_METHOD_COUNT && !str_is(text, http_method_name((enum http_method)method)))
        method++;
    return (enum http_method)method;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool parse_version(struct str text, struct head *head, struct refusal *refusal)
{
    if (text.len != 8 || !str_starts(text, STR("HTTP/")) || !is_digit(text.at[5]) || text.at[6] != '.' ||
        !is_digit(text.at[7]))
        return refuse(refusal, 400, "The request line does not end in an HTTP version.");
    if (text.at[5] != '1' || text.at[7] > '1')
        return refuse(refusal, 505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
    head->minor_version = text.at[7] - '0';
    return true;
}

/* uri-host of RFC 3986 without percent codes and the symbols that no name in use has, and a port. */
static bool is_host(struct str text)
{
    size_t at = 0, digits;

    if (text.len > 0 && text.at[0] == '[') {
        while (at < text.len && text.at[at] != ']')
            at++;
        if (at == text.len || at < 3 || strspn(text.at + 1, "0123456789abcdefABCDEF:.") < at - 1)
            return false;
        at++;
    } else {
        while (at < text.len && text.at[at] != ':') {
            if (!is_token_char(text.at[at]) || strchr("!#$%&'*+^`|~", text.at[at]))
                return false;
            at++;
        }
        if (at == 0)
            return false;
    }
    if (at == text.len)
        return true;
    if (text.at[at++] != ':')
        return false;
    int port = 0;
    for (digits = 0; at < text.len && is_digit(text.at[at]) && digits < 5; digits++)
        port = port * 10 + (text.at[at++] - '0');
    return digits > 0 && at == text.len && port <= 65535;
}

static void split_query(struct str target, struct head *head)
{
    ptrdiff_t mark = str_find(target, STR("?"), 0);
    size_t path_len = mark < 0 ? target.len : (size_t)mark;

    head->path = str_slice(target, 0, path_len);
    head->query = str_slice(target, path_len + 1, target.len);
}

/* origin-form, absolute-form or, for OPTIONS, the asterisk. *authority is empty but for the absolute form. */
static bool parse_target(struct str target, struct head *head, struct str *authority, struct refusal *refusal)
{
    *authority = STR_NONE;
    for (size_t i = 0; i < target.len; i++)
        if (target.at[i] <= 0x20 || target.at[i] >= 0x7f || target.at[i] == '#')
            return refuse(refusal, 400, "The request target holds a control, a space, a # or a byte outside ASCII.");
    if (head->method == HTTP_OPTIONS && str_is(target, "*")) {
        head->path = target;
        return true;
    }
    if (target.len > 7 && str_equal_nocase(str_slice(target, 0, 7), STR("http://"))) {
        ptrdiff_t slash = str_find(target, STR("/"), 7);
        size_t end = slash < 0 ? target.len : (size_t)slash;
        *authority = str_slice(target, 7, end);
        if (!is_host(*authority))
            return refuse(refusal, 400, "The request target's host is malformed.");
        target = slash < 0 ? STR("/") : str_slice(target, end, target.len);
    }
    if (target.len == 0 || target.at[0] != '/')
        return refuse(refusal, 400, "The request target is not a path.");
    split_query(target, head);
    return true;
}

static bool parse_request_line(struct str line, struct head *head, struct str *authority, struct refusal *refusal)
{
    ptrdiff_t first = str_find(line, STR(" "), 0);
    ptrdiff_t second = first < 0 ? -1 : str_find(line, STR(" "), (size_t)first + 1);
    struct str method;

    if (second < 0)
        return refuse(refusal, 400, "The request line is not method, target and version.");
    method = str_slice(line, 0, (size_t)first);
    if (!is_token(method))
        return refuse(refusal, 400, "The request's method holds a character that methods cannot have.");
    head->method = method_of(method);
    if (!parse_version(str_slice(line, (size_t)second + 1, line.len), head, refusal))
        return false;
    /* An unknown method may have a target of its own form (CONNECT), so it is not judged. */
    if (head->method == HTTP_METHOD_COUNT)
        return true;
    return parse_target(str_slice(line, (size_t)first + 1, (size_t)second), head, authority, refusal);
}

static bool parse_length(struct str value, struct head *head, struct refusal *refusal)
{
    int64_t length = 0;

    for (size_t i = 0; i < value.len; i++)
        if (!is_digit(value.at[i]) || __builtin_mul_overflow(length, 10, &length) ||
            __builtin_add_overflow(length, value.at[i] - '0', &length))
            return refuse(refusal, 400, "Content-Length is not a decimal number below 2^63.");
    if (value.len == 0)
        return refuse(refusal, 400, "Content-Length is empty.");
    head->content_length = length;
    return true;
}

static bool list_has(struct str list, struct str token)
{
    size_t from = 0;

    for (size_t i = 0; i <= list.len; i++) {
        if (i < list.len && list.at[i] != ',')
            continue;
        if (str_equal_nocase(str_trim(str_slice(list, from, i)), token))
            return true;
        from = i + 1;
    }
    return false;
}

/* How often the headers that frame the request occurred. */
struct framing_counts {
    int host, length, encoding;
};

static bool note_header(const struct http_header *header, struct head *head, struct framing_counts *counts,
                        struct refusal *refusal)
{
    struct str name = header->name, value = header->value;

    if (str_equal_nocase(name, STR("host"))) {
        if (counts->host++ > 0 || !is_host(value))
            return refuse(refusal, 400, "Host occurs twice or is malformed.");
        head->host = value;
    } else if (str_equal_nocase(name, STR("content-length"))) {
        if (counts->length++ > 0)
            return refuse(refusal, 400, "Content-Length occurs twice.");
        return parse_length(value, head, refusal);
    } else if (str_equal_nocase(name, STR("transfer-encoding"))) {
        if (counts->encoding++ > 0 || !str_equal_nocase(value, STR("chunked")))
            return refuse(refusal, 400, "Transfer-Encoding is something other than one \"chunked\".");
        head->is_chunked = true;
    } else if (str_equal_nocase(name, STR("connection"))) {
        head->is_close |= list_has(value, STR("close"));
    } else if (str_equal_nocase(name, STR("expect"))) {
        if (!str_equal_nocase(value, STR("100-continue")))
            return refuse(refusal, 417, "Expect is something other than \"100-continue\".");
        head->expects_continue = true;
    }
    return true;
}

static bool check_framing(struct head *head, const struct framing_counts *counts, struct str authority,
                          struct refusal *refusal)
{
    if (counts->encoding > 0 && counts->length > 0)
        return refuse(refusal, 400, "The request has both Content-Length and Transfer-Encoding.");
    if (counts->encoding > 0 && head->minor_version == 0)
        return refuse(refusal, 400, "HTTP/1.0 has no Transfer-Encoding.");
    if (counts->host == 0 && head->minor_version == 1)
        return refuse(refusal, 400, "The request has no Host.");
    if (authority.len > 0 && counts->host > 0 && !str_equal_nocase(authority, head->host))
        return refuse(refusal, 400, "The request target's host differs from Host.");
    head->has_body = head->is_chunked || head->content_length > 0;
    head->is_close |= head->minor_version == 0;
    head->expects_continue &= head->minor_version == 1;
    return true;
}

bool head_parse(struct arena *arena, struct str bytes, struct head *head, struct refusal *refusal)
{
    struct line_scan scan = {0};
    struct framing_counts counts = {0};
    struct str line, authority = STR_NONE;
    size_t header_cap = 0;
    struct err err;

    *head = (struct head){.method = HTTP_METHOD_COUNT};
    while (line_next(&scan, bytes, &line) == LINE_READY && line.len == 0)
        continue;
    if (!parse_request_line(line, head, &authority, refusal))
        return false;
    for (size_t at = scan.at; at < bytes.len; at++)
        header_cap += bytes.at[at] == '\n';
    head->headers = arena_new_array(arena, struct http_header, header_cap);
    while (line_next(&scan, bytes, &line) == LINE_READY && line.len > 0) {
        struct http_header *header = &head->headers[head->header_count];
        if (!header_parse(line, header, &err))
            return refuse(refusal, 400, "The request is malformed: %s.", err.text);
        if (!note_header(header, head, &counts, refusal))
            return false;
        head->header_count++;
    }
    return check_framing(head, &counts, authority, refusal);
}
