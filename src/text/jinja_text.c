#include "text/jinja_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool text_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_in_set(struct str character, struct str set)
{
    uint32_t codepoint;

    if (set.at)
        return str_find(set, character, 0) >= 0;
    return utf8_decode(character, &codepoint) && text_is_space(codepoint);
}

struct str text_strip_left(struct str text, struct str set)
{
    uint32_t codepoint;
    size_t len;

    while ((len = utf8_decode(text, &codepoint)) && is_in_set(str_slice(text, 0, len), set))
        text = str_slice(text, len, text.len);
    return text;
}

static size_t text_last_bytes(struct str text)
{
    size_t len = text.len ? 1 : 0;

    while (len < text.len && len < 4 && (text.at[text.len - len] & 0xc0) == 0x80)
        len++;
    return len;
}

struct str text_strip_right(struct str text, struct str set)
{
    size_t len;

    while ((len = text_last_bytes(text)) && is_in_set(str_slice(text, text.len - len, text.len), set))
        text.len -= len;
    return text;
}

size_t text_offset(struct str text, size_t index)
{
    size_t at = 0;

    for (; at < text.len; at++)
        if ((text.at[at] & 0xc0) != 0x80 && index-- == 0)
            break;
    return at;
}

size_t text_map_case(uint32_t c, enum text_case to, char out[8])
{
    if (to == TEXT_SWAP)
        to = text_is_upper(c) ? TEXT_LOWER : TEXT_UPPER;
    if (to == TEXT_LOWER)
        return utf8_encode((uint32_t)utf8proc_tolower((int32_t)c), out);
    if (c == 0xdf) { /* the one full mapping that common text holds */
        memcpy(out, to == TEXT_TITLE ? "Ss" : "SS", 2);
        return 2;
    }
    return utf8_encode((uint32_t)(to == TEXT_TITLE ? utf8proc_totitle((int32_t)c) : utf8proc_toupper((int32_t)c)), out);
}

bool text_is_upper(uint32_t c)
{
    return utf8proc_isupper((int32_t)c);
}

bool text_is_lower(uint32_t c)
{
    return utf8proc_islower((int32_t)c);
}

bool text_is_cased(uint32_t c)
{
    return text_is_upper(c) || text_is_lower(c) || utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_LT;
}

bool text_is_alpha(uint32_t c)
{
    int category = utf8proc_category((int32_t)c);

    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool text_is_digit(uint32_t c)
{
    return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_ND;
}

bool text_is_printable(uint32_t c)
{
    int category = utf8proc_category((int32_t)c);

    return c == ' ' || (category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS);
}

/* Hexadecimal digits behind \x, \u, \U: count of them, or an octal number of up to three. */
static bool escape_number(struct str raw, size_t *at, int base, size_t digits, uint32_t *value)
{
    char text[9] = {0};
    size_t len = 0;

    while (len < digits && *at + len < raw.len &&
           (base == 8 ? raw.at[*at + len] >= '0' && raw.at[*at + len] <= '7'
                      : strchr("0123456789abcdefABCDEF", raw.at[*at + len]) && raw.at[*at + len])) {
        text[len] = raw.at[*at + len];
        len++;
    }
    *at += len;
    *value = (uint32_t)strtoul(text, NULL, base);
    return (base == 8 || len == digits) && *value <= 0x10ffff && (*value < 0xd800 || *value > 0xdfff);
}

bool text_unescape(struct arena *arena, struct str raw, struct str *text, const char **why)
{
    static const char from[] = "abfnrtv\\'\"\n", to[] = "\a\b\f\n\r\t\v\\'\"";
    char *out;
    size_t len = 0;
    uint32_t value;

    *text = raw;
    if (str_find(raw, STR("\\"), 0) < 0)
        return true;
    out = arena_alloc(arena, raw.len + 4);
    for (size_t i = 0; i < raw.len;) {
        char c = raw.at[i++], next = i < raw.len ? raw.at[i] : 0;
        const char *simple = next ? strchr(from, next) : NULL;
        if (c != '\\') {
            out[len++] = c;
        } else if (simple) {
            i++;
            if (next != '\n') /* an escaped newline joins two lines */
                out[len++] = to[simple - from];
        } else if (next && strchr("xuU01234567", next)) {
            size_t digits = next == 'x' ? 2 : next == 'u' ? 4 : next == 'U' ? 8 : 3;
            bool is_octal = digits == 3;
            i += !is_octal;
            *why = "an escape in a string is malformed or no character";
            if (!escape_number(raw, &i, is_octal ? 8 : 16, digits, &value))
                return false;
            len += utf8_encode(value, out + len);
        } else if (next == 'N') {
            *why = "\\N{name} escapes are not supported";
            return false;
        } else {
            out[len++] = '\\';
        }
    }
    *text = (struct str){out, len};
    return true;
}

size_t text_float_repr(double value, char out[40])
{
    char digits[32];
    char *exponent_at;
    int exponent, precision;

    if (!isfinite(value))
        return (size_t)snprintf(out, 40, "%s", isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
    for (precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    exponent_at = strchr(digits, 'e');
    exponent = atoi(exponent_at + 1);
    if (exponent < -4 || exponent >= 16)
        return (size_t)snprintf(out, 40, "%.*se%c%02d", (int)(exponent_at - digits), digits, exponent < 0 ? '-' : '+',
                                abs(exponent));
    return (size_t)snprintf(out, 40, "%.*f", precision > exponent ? precision - exponent : 1, value);
}
