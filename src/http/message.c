#include "http/message.h"

#include "base/json.h"
#include "http/lines.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define STATUSES(X)                                                                                                    \
    X(100, "Continue", "", "")                                                                                         \
    X(200, "OK", "", "")                                                                                               \
    X(201, "Created", "", "")                                                                                          \
    X(202, "Accepted", "", "")                                                                                         \
    X(204, "No Content", "", "")                                                                                       \
    X(206, "Partial Content", "", "")                                                                                  \
    X(301, "Moved Permanently", "", "")                                                                                \
    X(302, "Found", "", "")                                                                                            \
    X(303, "See Other", "", "")                                                                                        \
    X(304, "Not Modified", "", "")                                                                                     \
    X(307, "Temporary Redirect", "", "")                                                                               \
    X(308, "Permanent Redirect", "", "")                                                                               \
    X(400, "Bad Request", "invalid_request_error", "bad_request")                                                      \
    X(401, "Unauthorized", "authentication_error", "invalid_api_key")                                                  \
    X(403, "Forbidden", "permission_error", "forbidden")                                                               \
    X(404, "Not Found", "invalid_request_error", "not_found")                                                          \
    X(405, "Method Not Allowed", "invalid_request_error", "method_not_allowed")                                        \
    X(406, "Not Acceptable", "invalid_request_error", "not_acceptable")                                                \
    X(408, "Request Timeout", "invalid_request_error", "request_timeout")                                              \
    X(409, "Conflict", "invalid_request_error", "conflict")                                                            \
    X(410, "Gone", "invalid_request_error", "gone")                                                                    \
    X(412, "Precondition Failed", "invalid_request_error", "precondition_failed")                                      \
    X(413, "Content Too Large", "invalid_request_error", "request_too_large")                                          \
    X(414, "URI Too Long", "invalid_request_error", "uri_too_long")                                                    \
    X(415, "Unsupported Media Type", "invalid_request_error", "unsupported_media_type")                                \
    X(416, "Range Not Satisfiable", "invalid_request_error", "range_not_satisfiable")                                  \
    X(417, "Expectation Failed", "invalid_request_error", "expectation_failed")                                        \
    X(421, "Misdirected Request", "invalid_request_error", "misdirected_request")                                      \
    X(422, "Unprocessable Content", "invalid_request_error", "validation_error")                                       \
    X(429, "Too Many Requests", "rate_limit_error", "rate_limit_exceeded")                                             \
    X(431, "Request Header Fields Too Large", "invalid_request_error", "headers_too_large")                            \
    X(500, "Internal Server Error", "server_error", "internal_error")                                                  \
    X(501, "Not Implemented", "invalid_request_error", "method_not_implemented")                                       \
    X(503, "Service Unavailable", "server_error", "overloaded")                                                        \
    X(504, "Gateway Timeout", "server_error", "timeout")                                                               \
    X(505, "HTTP Version Not Supported", "invalid_request_error", "http_version_not_supported")                        \
    X(507, "Insufficient Storage", "server_error", "no_space")

struct status {
    int number;
    const char *reason, *type, *code;
};

static struct status status_of(int number)
{
    static const struct status statuses[] = {
#define STATUS_ROW(number, reason, type, code) {number, reason, type, code},
        STATUSES(STATUS_ROW)
#undef STATUS_ROW
    };

    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i].number == number)
            return statuses[i];
    return (struct status){number, "Status", number < 500 ? "invalid_request_error" : "server_error", "error"};
}

bool status_is_bodiless(int status)
{
    return status < 200 || status == 204 || status == 304;
}

void date_write(int64_t unix_s, char text[40])
{
    time_t when = (time_t)unix_s;
    struct tm parts;

    gmtime_r(&when, &parts);
    strftime(text, 40, "%a, %d %b %Y %H:%M:%S GMT", &parts);
}

static bool is_value(struct str value)
{
    for (size_t i = 0; i < value.len; i++)
        if (!is_value_char(value.at[i]))
            return false;
    return true;
}

static bool header_write(struct strbuf *out, struct str name, struct str value)
{
    if (!is_token(name) || !is_value(value))
        return false;
    strbuf_add_str(out, name);
    strbuf_add(out, ": ", 2);
    strbuf_add_str(out, value);
    strbuf_add(out, "\r\n", 2);
    return true;
}

static void length_write(struct strbuf *out, const struct message_head *head)
{
    if (status_is_bodiless(head->status))
        return;
    if (head->length == LENGTH_CHUNKED)
        strbuf_add_text(out, "Transfer-Encoding: chunked\r\n");
    else if (head->length >= 0)
        strbuf_printf(out, "Content-Length: %" PRId64 "\r\n", head->length);
}

bool message_head_write(struct strbuf *out, const struct message_head *head)
{
    size_t start = out->len;
    bool ok = true;

    strbuf_printf(out, "HTTP/1.1 %d %s\r\n", head->status, status_of(head->status).reason);
    ok = header_write(out, STR("Date"), str_of(head->date)) &&
         header_write(out, STR("x-request-id"), str_of(head->id)) &&
         header_write(out, STR("Content-Type"),
                      head->content_type ? str_of(head->content_type) : STR("application/json")) &&
         header_write(out, STR("X-Content-Type-Options"), STR("nosniff"));
    for (size_t i = 0; ok && i < head->header_count; i++)
        ok = header_write(out, head->headers[i].name, head->headers[i].value);
    if (!ok) {
        out->len = start;
        return false;
    }
    length_write(out, head);
    if (head->is_close)
        strbuf_add_text(out, "Connection: close\r\n");
    strbuf_add(out, "\r\n", 2);
    return true;
}

void http_error_body(struct strbuf *out, int status, const char *type, const char *code, const char *param,
                     const char *message)
{
    struct json_writer writer = {.buf = out};
    struct status usual = status_of(status);

    json_write_begin_object(&writer);
    json_write_key(&writer, "error");
    json_write_begin_object(&writer);
    json_put_text(&writer, "message", message);
    json_put_text(&writer, "type", type ? type : usual.type);
    json_put_text(&writer, "param", param);
    json_put_text(&writer, "code", code ? code : usual.code);
    json_write_end_object(&writer);
    json_write_end_object(&writer);
}

/* Digits up to `end`; false when there are none or they exceed 2^63. */
static bool number_parse(struct str text, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9' || *number > INT64_MAX / 10 - 1)
            return false;
        *number = *number * 10 + (uint64_t)(text.at[i] - '0');
    }
    return text.len > 0;
}

bool range_parse(struct str value, uint64_t size, uint64_t *from, uint64_t *count, bool *is_satisfiable)
{
    struct str first, last;
    ptrdiff_t dash;
    uint64_t to;

    if (!str_equal_nocase(str_slice(value, 0, 6), STR("bytes=")))
        return false;
    value = str_slice(value, 6, value.len);
    dash = str_find(value, STR("-"), 0);
    if (dash < 0)
        return false;
    first = str_slice(value, 0, (size_t)dash);
    last = str_slice(value, (size_t)dash + 1, value.len);
    if (first.len == 0) { /* the last so many bytes */
        if (!number_parse(last, &to))
            return false;
        *count = to < size ? to : size;
        *from = size - *count;
        *is_satisfiable = *count > 0;
        return true;
    }
    if (!number_parse(first, from) || (last.len > 0 && (!number_parse(last, &to) || to < *from)))
        return false;
    *is_satisfiable = *from < size;
    *count = !*is_satisfiable ? 0 : last.len > 0 && to < size ? to - *from + 1 : size - *from;
    return true;
}

/* Bytes that a quoted filename may hold as they are. */
static bool is_plain_name_char(char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\' && c != '%';
}

char *http_disposition(struct arena *arena, struct str filename)
{
    struct strbuf text = {0};
    char *result;

    strbuf_add_text(&text, "attachment; filename=\"");
    for (size_t i = 0; i < filename.len; i++)
        strbuf_add_char(&text, is_plain_name_char(filename.at[i]) ? filename.at[i] : '_');
    strbuf_add_text(&text, "\"; filename*=UTF-8''");
    url_encode(&text, filename);
    result = str_copy(arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return result;
}
