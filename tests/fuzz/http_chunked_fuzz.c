/* The decoder's body, byte by byte and whole, equals that of a plain decoder of complete bodies. */
#include "http/chunked.h"

#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = 4096 };

static enum chunked_result decode(struct str coded, size_t step, struct strbuf *body, size_t *left)
{
    struct chunked chunked = {.body_bytes_max = BODY_MAX};
    struct refusal refusal;
    enum chunked_result result = CHUNKED_MORE;

    for (size_t at = 0; at < coded.len && result == CHUNKED_MORE; at += step) {
        struct str bytes = str_slice(coded, at, at + step), data;
        while ((result = chunked_read(&chunked, &bytes, &data, &refusal)) == CHUNKED_DATA)
            strbuf_add_str(body, data);
        *left = (at + step < coded.len ? coded.len - at - step : 0) + bytes.len;
    }
    return result;
}

/* Follows the sizes of a body that is known to be well-formed. */
static void decode_plainly(struct str coded, struct strbuf *body)
{
    size_t at = 0;

    for (;;) {
        size_t size = 0;
        while (coded.at[at] != '\r' && coded.at[at] != ';') {
            char digit[2] = {coded.at[at++], 0};
            size = size * 16 + strtoul(digit, NULL, 16);
        }
        at = (size_t)str_find(coded, STR("\r\n"), at) + 2;
        if (size == 0)
            return;
        strbuf_add(body, coded.at + at, size);
        at += size + 2;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str coded = {(const char *)data, size};
    struct strbuf whole = {0}, piecewise = {0}, plain = {0};
    size_t whole_left = 0, left = 0;
    enum chunked_result result = decode(coded, size + 1, &whole, &whole_left);

    for (size_t step = 1; step < 8; step += 3) {
        strbuf_clear(&piecewise);
        if (decode(coded, step, &piecewise, &left) != result || left != whole_left ||
            !str_equal(strbuf_view(&piecewise), strbuf_view(&whole)))
            if (result != CHUNKED_REFUSED) /* what comes before a refusal may be delivered in any amount */
                abort();
    }
    if (result == CHUNKED_DONE) {
        decode_plainly(coded, &plain);
        if (!str_equal(strbuf_view(&plain), strbuf_view(&whole)))
            abort();
    }
    strbuf_deinit(&whole);
    strbuf_deinit(&piecewise);
    strbuf_deinit(&plain);
    return 0;
}
