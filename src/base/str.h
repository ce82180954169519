/* base/str.h - text as a view with a length, and a buffer that grows.
 *
 * `struct str` borrows bytes that something else owns (an arena, a mapped file); it may hold NUL. `struct
 * strbuf` owns its bytes and is freed with strbuf_deinit; its content is always NUL-terminated. */
#pragma once

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdarg.h>
#include <string.h>

struct str {
    const char *at;
    size_t len;
};

#define STR(literal)   ((struct str){(literal), sizeof(literal) - 1})
#define STR_NONE       ((struct str){NULL, 0})
#define STR_ARG(s)     (int)(s).len, (s).at /* for "%.*s" */

/* NULL gives the empty view. */
static inline struct str str_of(const char *text)
{
    return (struct str){text, text ? strlen(text) : 0};
}

static inline bool str_equal(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

static inline bool str_is(struct str a, const char *text)
{
    return str_equal(a, str_of(text));
}

/* Bounds are clamped. */
static inline struct str str_slice(struct str s, size_t from, size_t to)
{
    if (to > s.len)
        to = s.len;
    if (from > to)
        from = to;
    return (struct str){s.at ? s.at + from : NULL, to - from};
}

int  str_compare(struct str a, struct str b); /* byte order, shorter first */
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
/* Index of the first occurrence at or after `from`, or -1. */
ptrdiff_t str_find(struct str s, struct str needle, size_t from);
/* The beginning, at most len_max bytes, cut between two characters of UTF-8. */
struct str str_clip(struct str s, size_t len_max);
struct str str_trim(struct str s);                           /* ASCII white space, both ends */
/* Takes the next line off the front of `text`, with its newline, which is no part of it. False when no newline is left:
 * `text` is then what stands behind the last one. */
bool str_take_line(struct str *text, struct str *line);
char *str_copy(struct arena *arena, struct str s);           /* NUL-terminated */
/* Whole view is one number and nothing else. */
bool str_to_i64(struct str s, int64_t *value);
bool str_to_double(struct str s, double *value);
int hex_value(char c); /* 0 to 15; -1: not a hexadecimal digit */
/* Number of single-character edits, for "did you mean"; strings past 64 bytes count as far apart. */
int str_distance(struct str a, struct str b);
/* The nearest of `names` within a third of the length, or NULL. */
const char *str_nearest(struct str s, const char *const *names, size_t count);

struct strbuf {
    char *at;
    size_t len, cap;
};

void strbuf_deinit(struct strbuf *buf);
void strbuf_clear(struct strbuf *buf); /* keeps the memory */
void strbuf_drop(struct strbuf *buf, size_t len); /* the first `len` bytes; the rest moves to the front */
void strbuf_reserve(struct strbuf *buf, size_t more);
void strbuf_add(struct strbuf *buf, const void *at, size_t len);
void strbuf_add_str(struct strbuf *buf, struct str s);
void strbuf_add_text(struct strbuf *buf, const char *text);
void strbuf_add_char(struct strbuf *buf, char c);
void strbuf_add_codepoint(struct strbuf *buf, uint32_t codepoint); /* as UTF-8 */
void strbuf_printf(struct strbuf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void strbuf_vprintf(struct strbuf *buf, const char *format, va_list args);
struct str strbuf_view(const struct strbuf *buf);

/* Strict UTF-8 (no overlong forms, no surrogates, at most U+10FFFF). */
bool utf8_is_valid(struct str s);
/* Decodes the character at s[0]; returns its length in bytes, 0 when s is empty or malformed there. */
size_t utf8_decode(struct str s, uint32_t *codepoint);
size_t utf8_encode(uint32_t codepoint, char out[4]);
/* Number of code points of valid UTF-8. */
size_t utf8_length(struct str s);
