#include "base/str.h"
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int str_compare(struct str a, struct str b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.at, b.at, len) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

bool str_starts(struct str s, struct str prefix)
{
    return s.len >= prefix.len && str_equal(str_slice(s, 0, prefix.len), prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.len >= suffix.len && str_equal(str_slice(s, s.len - suffix.len, s.len), suffix);
}

ptrdiff_t str_find(struct str s, struct str needle, size_t from)
{
    const char *hit;

    if (from > s.len)
        return -1;
    if (needle.len == 0)
        return (ptrdiff_t)from;
    if (needle.len > s.len - from)
        return -1;
    hit = memmem(s.at + from, s.len - from, needle.at, needle.len);
    return hit ? hit - s.at : -1;
}

struct str str_clip(struct str s, size_t len_max)
{
    if (s.len <= len_max)
        return s;
    while (len_max > 0 && ((unsigned char)s.at[len_max] & 0xc0) == 0x80)
        len_max--;
    return (struct str){s.at, len_max};
}

struct str str_trim(struct str s)
{
    while (s.len && isspace((unsigned char)s.at[0]))
        s = str_slice(s, 1, s.len);
    while (s.len && isspace((unsigned char)s.at[s.len - 1]))
        s.len--;
    return s;
}

bool str_take_line(struct str *text, struct str *line)
{
    const char *end = text->len ? memchr(text->at, '\n', text->len) : NULL;

    if (!end)
        return false;
    *line = (struct str){text->at, (size_t)(end - text->at)};
    *text = str_slice(*text, line->len + 1, text->len);
    return true;
}

char *str_copy(struct arena *arena, struct str s)
{
    return arena_copy(arena, s.at, s.len);
}

bool str_to_i64(struct str s, int64_t *value)
{
    char text[32];
    char *end;

    if (s.len == 0 || s.len >= sizeof text || isspace((unsigned char)s.at[0]))
        return false;
    memcpy(text, s.at, s.len);
    text[s.len] = 0;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno == 0 && end == text + s.len;
}

bool str_to_double(struct str s, double *value)
{
    char text[128];
    char *end;

    if (s.len == 0 || s.len >= sizeof text || isspace((unsigned char)s.at[0]))
        return false;
    memcpy(text, s.at, s.len);
    text[s.len] = 0;
    *value = strtod(text, &end);
    return end == text + s.len;
}

int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int str_distance(struct str a, struct str b)
{
    int row[65];

    if (a.len > 64 || b.len > 64)
        return 64;
    for (size_t j = 0; j <= b.len; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= a.len; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b.len; j++) {
            int above = row[j];
            int best = diagonal + (a.at[i - 1] != b.at[j - 1]);
            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[b.len];
}

const char *str_nearest(struct str s, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    int best = (int)(s.len / 3) + 2;

    for (size_t i = 0; i < count; i++) {
        int distance = str_distance(s, str_of(names[i]));
        if (distance < best) {
            best = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

void strbuf_deinit(struct strbuf *buf)
{
    free(buf->at);
    *buf = (struct strbuf){0};
}

void strbuf_clear(struct strbuf *buf)
{
    buf->len = 0;
    if (buf->at)
        buf->at[0] = 0;
}

void strbuf_drop(struct strbuf *buf, size_t len)
{
    ASSERT(len <= buf->len);
    if (!buf->at)
        return;
    buf->len -= len;
    memmove(buf->at, buf->at + len, buf->len);
    buf->at[buf->len] = 0;
}

void strbuf_reserve(struct strbuf *buf, size_t more)
{
    size_t need, cap;

    ASSERT(!__builtin_add_overflow(buf->len, more, &need) && need < SIZE_MAX / 4);
    if (need < buf->cap)
        return;
    cap = buf->cap ? buf->cap : 64;
    while (cap <= need)
        cap *= 2;
    buf->at = mem_resize(buf->at, cap);
    buf->cap = cap;
}

void strbuf_add(struct strbuf *buf, const void *at, size_t len)
{
    strbuf_reserve(buf, len);
    if (len)
        memcpy(buf->at + buf->len, at, len);
    buf->len += len;
    buf->at[buf->len] = 0;
}

void strbuf_add_str(struct strbuf *buf, struct str s)
{
    strbuf_add(buf, s.at, s.len);
}

void strbuf_add_text(struct strbuf *buf, const char *text)
{
    strbuf_add(buf, text, strlen(text));
}

void strbuf_add_char(struct strbuf *buf, char c)
{
    strbuf_add(buf, &c, 1);
}

void strbuf_add_codepoint(struct strbuf *buf, uint32_t codepoint)
{
    char bytes[4];

    strbuf_add(buf, bytes, utf8_encode(codepoint, bytes));
}

void strbuf_vprintf(struct strbuf *buf, const char *format, va_list args)
{
    va_list again;
    size_t room;
    int len;

    /* Most texts are short and fit the first time. */
    strbuf_reserve(buf, 40);
    room = buf->cap - buf->len;
    va_copy(again, args);
    len = vsnprintf(buf->at + buf->len, room, format, again);
    va_end(again);
    ASSERT(len >= 0);
    if ((size_t)len >= room) {
        strbuf_reserve(buf, (size_t)len);
        vsnprintf(buf->at + buf->len, (size_t)len + 1, format, args);
    }
    buf->len += (size_t)len;
}

void strbuf_printf(struct strbuf *buf, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    strbuf_vprintf(buf, format, args);
    va_end(args);
}

struct str strbuf_view(const struct strbuf *buf)
{
    return (struct str){buf->at ? buf->at : "", buf->len};
}

size_t utf8_decode(struct str s, uint32_t *codepoint)
{
    const unsigned char *p = (const unsigned char *)s.at;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len;
    uint32_t value;

    if (s.len == 0)
        return 0;
    if (p[0] < 0x80) {
        *codepoint = p[0];
        return 1;
    }
    len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || s.len < len)
        return 0;
    value = p[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (p[i] & 0x3fu);
    }
    if (value < least[len] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return 0;
    *codepoint = value;
    return len;
}

size_t utf8_encode(uint32_t codepoint, char out[4])
{
    unsigned char *p = (unsigned char *)out;

    if (codepoint < 0x80) {
        p[0] = (unsigned char)codepoint;
        return 1;
    }
    if (codepoint < 0x800) {
        p[0] = (unsigned char)(0xc0 | codepoint >> 6);
        p[1] = (unsigned char)(0x80 | (codepoint & 0x3f));
        return 2;
    }
    if (codepoint < 0x10000) {
        p[0] = (unsigned char)(0xe0 | codepoint >> 12);
        p[1] = (unsigned char)(0x80 | (codepoint >> 6 & 0x3f));
        p[2] = (unsigned char)(0x80 | (codepoint & 0x3f));
        return 3;
    }
    p[0] = (unsigned char)(0xf0 | codepoint >> 18);
    p[1] = (unsigned char)(0x80 | (codepoint >> 12 & 0x3f));
    p[2] = (unsigned char)(0x80 | (codepoint >> 6 & 0x3f));
    p[3] = (unsigned char)(0x80 | (codepoint & 0x3f));
    return 4;
}

bool utf8_is_valid(struct str s)
{
    size_t i = 0;
    uint32_t codepoint;

    while (i < s.len) {
        uint64_t eight;
        if (s.len - i >= 8) { /* most text is ASCII: eight bytes at a time */
            memcpy(&eight, s.at + i, 8);
            if (!(eight & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        size_t len = utf8_decode(str_slice(s, i, s.len), &codepoint);
        if (len == 0)
            return false;
        i += len;
    }
    return true;
}

size_t utf8_length(struct str s)
{
    size_t count = 0;

    for (size_t i = 0; i < s.len; i++)
        count += (s.at[i] & 0xc0) != 0x80;
    return count;
}
