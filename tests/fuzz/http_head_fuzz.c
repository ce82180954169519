/* A head's verdict is the same whole, byte by byte and in pieces; what is accepted, written again, is accepted with the
 * same meaning. */
#include "http/head.h"

#include <stdlib.h>

static const struct head_limits limits = {512, 2048, 16};

static enum head_result scan_in_steps(struct str bytes, size_t step, size_t *head_len, int *status)
{
    struct head_scan scan = {0};
    struct refusal refusal = {0};
    enum head_result result = HEAD_MORE;

    for (size_t at = 0; result == HEAD_MORE && at < bytes.len;) {
        at = at + step < bytes.len ? at + step : bytes.len;
        result = head_scan(&scan, &limits, str_slice(bytes, 0, at), head_len, &refusal);
    }
    *status = refusal.status;
    return result;
}

static void write_again(struct strbuf *out, const struct head *head)
{
    bool has_query = head->query.len > 0;

    strbuf_printf(out, "%s %.*s%s%.*s HTTP/1.%d\r\n", http_method_name(head->method), STR_ARG(head->path),
                  has_query ? "?" : "", STR_ARG(head->query), head->minor_version);
    for (size_t i = 0; i < head->header_count; i++)
        strbuf_printf(out, "%.*s: %.*s\r\n", STR_ARG(head->headers[i].name), STR_ARG(head->headers[i].value));
    strbuf_add(out, "\r\n", 2);
}

static void check_again(struct arena *arena, const struct head *head)
{
    struct strbuf text = {0};
    struct refusal refusal;
    struct head again;

    write_again(&text, head);
    if (!head_parse(arena, strbuf_view(&text), &again, &refusal) || again.method != head->method ||
        !str_equal(again.path, head->path) || !str_equal(again.query, head->query) ||
        !str_equal(again.host, head->host) || again.content_length != head->content_length ||
        again.is_chunked != head->is_chunked || again.is_close != head->is_close)
        abort();
    strbuf_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str bytes = {(const char *)data, size};
    size_t whole_len = 0, len = 0;
    int whole_status, status;
    enum head_result whole = scan_in_steps(bytes, size, &whole_len, &whole_status);

    for (size_t step = 1; step < 20; step += 6)
        if (scan_in_steps(bytes, step, &len, &status) != whole || status != whole_status || len != whole_len)
            abort();
    if (whole == HEAD_DONE) {
        struct arena arena = {0};
        struct refusal refusal;
        struct head head;
        if (head_parse(&arena, str_slice(bytes, 0, whole_len), &head, &refusal) && head.method != HTTP_METHOD_COUNT)
            check_again(&arena, &head);
        arena_deinit(&arena);
    }
    return 0;
}
