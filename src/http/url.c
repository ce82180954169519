#include "http/url.h"

#include "http/lines.h"

#include <arpa/inet.h>
#include <string.h>

/* Percent codes, and plus as space in queries. The result is valid UTF-8 without controls that no name needs. */
static bool decode(struct arena *arena, struct str raw, bool is_query, struct str *text, struct err *err)
{
    char *out = arena_alloc(arena, raw.len + 1);
    size_t len = 0;

    for (size_t i = 0; i < raw.len; i++) {
        char c = raw.at[i];
        if (c == '%') {
            int high = i + 2 < raw.len ? hex_value(raw.at[i + 1]) : -1;
            int low = high >= 0 ? hex_value(raw.at[i + 2]) : -1;
            if (low < 0)
                return err_set(err, ERR_INPUT, "a percent sign in the URL is not followed by two hexadecimal digits");
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && is_query) {
            c = ' ';
        }
        if (c == 0 || (!is_query && ((unsigned char)c < 0x20 || c == 0x7f)))
            return err_set(err, ERR_INPUT, "the URL holds an encoded control character");
        out[len++] = c;
    }
    *text = (struct str){out, len};
    if (!utf8_is_valid(*text))
        return err_set(err, ERR_INPUT, "the URL's percent codes are not valid UTF-8");
    return true;
}

static bool is_dots(struct str piece)
{
    return str_is(piece, ".") || str_is(piece, "..");
}

/* A decoded segment must not look like a path step to whoever splits it again at slashes. */
static bool check_segment(struct str segment, bool *has_slash, struct err *err)
{
    size_t from = 0;

    if (memchr(segment.at, '\\', segment.len) || memchr(segment.at, ';', segment.len))
        return err_set(err, ERR_INPUT, "the path holds a backslash or a semicolon");
    for (size_t i = 0; i <= segment.len; i++) {
        if (i < segment.len && segment.at[i] != '/')
            continue;
        if (is_dots(str_slice(segment, from, i)))
            return err_set(err, ERR_INPUT, "the path holds a dot segment");
        *has_slash |= i < segment.len;
        from = i + 1;
    }
    return true;
}

bool url_path_decode(struct arena *arena, struct str raw, struct url_path *path, struct err *err)
{
    size_t from = 1;

    *path = (struct url_path){0};
    if (raw.len == 0 || raw.at[0] != '/')
        return err_set(err, ERR_INPUT, "the path does not begin with a slash");
    for (size_t i = 1; i <= raw.len; i++) {
        struct str segment;
        if (i < raw.len && raw.at[i] != '/')
            continue;
        segment = str_slice(raw, from, i);
        from = i + 1;
        if (segment.len == 0)
            continue;
        if (path->count == URL_SEGMENTS_MAX)
            return err_set(err, ERR_LIMIT, "the path has more than %d segments", URL_SEGMENTS_MAX);
        if (!decode(arena, segment, false, &segment, err) || !check_segment(segment, &path->has_encoded_slash, err))
            return false;
        path->segment[path->count++] = segment;
    }
    return true;
}

static bool decode_pair(struct arena *arena, struct str raw, struct url_pair *pair, struct err *err)
{
    ptrdiff_t equals = str_find(raw, STR("="), 0);
    size_t name_len = equals < 0 ? raw.len : (size_t)equals;

    return decode(arena, str_slice(raw, 0, name_len), true, &pair->name, err) &&
           decode(arena, str_slice(raw, name_len + 1, raw.len), true, &pair->value, err);
}

bool url_query_decode(struct arena *arena, struct str raw, struct url_query *query, struct err *err)
{
    size_t from = 0;

    query->count = 0;
    for (size_t i = 0; i <= raw.len; i++) {
        struct str pair;
        if (i < raw.len && raw.at[i] != '&')
            continue;
        pair = str_slice(raw, from, i);
        from = i + 1;
        if (pair.len == 0)
            continue;
        if (query->count == URL_PAIRS_MAX)
            return err_set(err, ERR_LIMIT, "the query has more than %d parameters", URL_PAIRS_MAX);
        if (!decode_pair(arena, pair, &query->pair[query->count], err))
            return false;
        query->count++;
    }
    return true;
}

bool url_query_get(const struct url_query *query, const char *name, struct str *value)
{
    for (size_t i = 0; i < query->count; i++)
        if (str_is(query->pair[i].name, name)) {
            *value = query->pair[i].value;
            return true;
        }
    return false;
}

bool url_is_array_item(const struct url_pair *pair, const char *name)
{
    size_t len = strlen(name);

    return str_is(pair->name, name) ||
           (str_starts(pair->name, str_of(name)) && str_is(str_slice(pair->name, len, pair->name.len), "[]"));
}

void url_encode(struct strbuf *out, struct str text)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.at[i];
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                        c == '-' || c == '.' || c == '_' || c == '~';
        if (is_plain) {
            strbuf_add_char(out, (char)c);
        } else {
            strbuf_add(out, (char[]){'%', hex[c >> 4], hex[c & 15]}, 3);
        }
    }
}

/* A colon inside of brackets belongs to an IPv6 address. */
static struct str without_port(struct str host)
{
    size_t end = host.len;

    while (end > 0 && host.at[end - 1] >= '0' && host.at[end - 1] <= '9')
        end--;
    if (end > 0 && host.at[end - 1] == ':' && (host.at[0] != '[' || (end > 1 && host.at[end - 2] == ']')))
        host.len = end - 1;
    return host;
}

bool url_host_is(struct str host, const char *name)
{
    return str_equal_nocase(without_port(host), str_of(name));
}

bool url_host_is_local(struct str host)
{
    struct str name = without_port(host);
    char text[INET_ADDRSTRLEN] = {0};
    struct in_addr v4;

    if (url_host_is(host, "localhost") || str_is(name, "[::1]"))
        return true;
    if (name.len >= sizeof text)
        return false;
    memcpy(text, name.at, name.len);
    return inet_pton(AF_INET, text, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}
