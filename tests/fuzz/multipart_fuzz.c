/* Parts and verdict are the same whole, byte by byte and in pieces. */
#include "http/multipart.h"

#include <stdlib.h>

static bool on_part(void *context, const struct multipart_part *part, struct err *err)
{
    strbuf_printf(context, "[%.*s|%.*s|%.*s]", STR_ARG(part->name), STR_ARG(part->filename),
                  STR_ARG(part->content_type));
    if (part->name.len == 0 || !utf8_is_valid(part->name) || !utf8_is_valid(part->filename))
        abort();
    return true;
}

static bool on_data(void *context, struct str bytes, struct err *err)
{
    if (bytes.len == 0)
        abort();
    strbuf_add_str(context, bytes);
    return true;
}

static bool on_part_end(void *context, struct err *err)
{
    strbuf_add_char(context, ';');
    return true;
}

static bool read_in_steps(struct str body, size_t step, struct strbuf *parts, struct err *err)
{
    static const struct multipart_sink sink = {on_part, on_data, on_part_end};
    struct multipart *reader = multipart_new(STR("multipart/form-data; boundary=B"), &sink, parts, err);
    bool ok = true;

    for (size_t at = 0; ok && at < body.len; at += step)
        ok = multipart_feed(reader, str_slice(body, at, at + step), err);
    ok = ok && multipart_finish(reader, err);
    multipart_free(reader);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str body = {(const char *)data, size};
    struct strbuf whole = {0}, parts = {0};
    struct err whole_err = {0}, err = {0};
    bool ok = read_in_steps(body, size + 1, &whole, &whole_err);

    for (size_t step = 1; step < 8; step += 3) {
        strbuf_clear(&parts);
        if (read_in_steps(body, step, &parts, &err) != ok || (!ok && err.code != whole_err.code) ||
            (ok && !str_equal(strbuf_view(&parts), strbuf_view(&whole))))
            abort();
    }
    /* The header of a type alone is hostile, too. */
    multipart_free(multipart_new(body, &(struct multipart_sink){on_part, on_data, on_part_end}, &parts, &err));
    strbuf_deinit(&whole);
    strbuf_deinit(&parts);
    return 0;
}
