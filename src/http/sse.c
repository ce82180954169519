#include "http/client.h"

enum { SSE_BYTES_MAX = 4 << 20 };

static bool dispatch(struct http_sse *sse, struct err *err)
{
    bool go_on = true;

    if (sse->has_data)
        go_on = sse->on_event(sse->context, strbuf_view(&sse->event), strbuf_view(&sse->id), strbuf_view(&sse->data));
    strbuf_clear(&sse->event);
    strbuf_clear(&sse->data);
    sse->has_data = false;
    return go_on || err_set(err, ERR_CANCELLED, "the events were stopped");
}

/* One line, by the rules of the HTML standard, section 9.2.6. */
static bool take_line(struct http_sse *sse, struct str line, struct err *err)
{
    ptrdiff_t colon = str_find(line, STR(":"), 0);
    size_t name_len = colon < 0 ? line.len : (size_t)colon;
    struct str name = str_slice(line, 0, name_len), value = str_slice(line, name_len + 1, line.len);

    if (line.len == 0)
        return dispatch(sse, err);
    if (str_starts(value, STR(" ")))
        value = str_slice(value, 1, value.len);
    if (str_is(name, "data")) {
        if (sse->has_data)
            strbuf_add_char(&sse->data, '\n');
        strbuf_add_str(&sse->data, value);
        sse->has_data = true;
    } else if (str_is(name, "event") || str_is(name, "id")) {
        struct strbuf *field = name.at[0] == 'e' ? &sse->event : &sse->id;
        strbuf_clear(field);
        strbuf_add_str(field, value);
    }
    return sse->data.len <= SSE_BYTES_MAX ||
           err_set(err, ERR_LIMIT, "an event is longer than %d bytes", SSE_BYTES_MAX);
}

bool http_sse_feed(struct http_sse *sse, struct str bytes, struct err *err)
{
    for (size_t i = 0; i < bytes.len; i++) {
        char c = bytes.at[i];
        bool is_second_half = c == '\n' && sse->is_after_cr;

        sse->is_after_cr = c == '\r';
        if (is_second_half)
            continue;
        if (c != '\n' && c != '\r') {
            if (sse->line.len == SSE_BYTES_MAX)
                return err_set(err, ERR_LIMIT, "a line of the events is longer than %d bytes", SSE_BYTES_MAX);
            strbuf_add_char(&sse->line, c);
            continue;
        }
        if (!take_line(sse, strbuf_view(&sse->line), err))
            return false;
        strbuf_clear(&sse->line);
    }
    return true;
}

void http_sse_deinit(struct http_sse *sse)
{
    strbuf_deinit(&sse->line);
    strbuf_deinit(&sse->event);
    strbuf_deinit(&sse->id);
    strbuf_deinit(&sse->data);
}
