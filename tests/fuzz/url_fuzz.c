/* An accepted path, built again from its segments, is accepted with the same segments and holds no path step; the same
 * for queries. */
#include "http/url.h"

#include <stdlib.h>
#include <string.h>

static void check_segment(struct str segment)
{
    if (segment.len == 0 || str_is(segment, ".") || str_is(segment, "..") || !utf8_is_valid(segment) ||
        memchr(segment.at, '\\', segment.len) || memchr(segment.at, 0, segment.len) ||
        str_find(segment, STR("/../"), 0) >= 0)
        abort();
}

static void check_path(struct arena *arena, const struct url_path *path)
{
    struct strbuf text = {0};
    struct url_path again;
    struct err err;

    strbuf_add_char(&text, '/');
    for (size_t i = 0; i < path->count; i++) {
        check_segment(path->segment[i]);
        url_encode(&text, path->segment[i]);
        strbuf_add_char(&text, '/');
    }
    if (!url_path_decode(arena, strbuf_view(&text), &again, &err) || again.count != path->count ||
        again.has_encoded_slash != path->has_encoded_slash)
        abort();
    for (size_t i = 0; i < path->count; i++)
        if (!str_equal(path->segment[i], again.segment[i]))
            abort();
    strbuf_deinit(&text);
}

static void check_query(struct arena *arena, const struct url_query *query)
{
    struct strbuf text = {0};
    struct url_query again;
    struct err err;

    for (size_t i = 0; i < query->count; i++) {
        url_encode(&text, query->pair[i].name);
        strbuf_add_char(&text, '=');
        url_encode(&text, query->pair[i].value);
        strbuf_add_char(&text, '&');
    }
    if (!url_query_decode(arena, strbuf_view(&text), &again, &err) || again.count != query->count)
        abort();
    for (size_t i = 0; i < query->count; i++)
        if (!str_equal(query->pair[i].name, again.pair[i].name) ||
            !str_equal(query->pair[i].value, again.pair[i].value))
            abort();
    strbuf_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data, size};
    struct arena arena = {0};
    struct url_path path;
    struct url_query query;
    struct err err;

    if (url_path_decode(&arena, text, &path, &err))
        check_path(&arena, &path);
    if (url_query_decode(&arena, text, &query, &err))
        check_query(&arena, &query);
    arena_deinit(&arena);
    return 0;
}
