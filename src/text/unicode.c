#include "text/unicode.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

#define S UNICODE_SPACE
#define R (UNICODE_SPACE | UNICODE_NEWLINE)
#define U UNICODE_UPPER
#define L UNICODE_LOWER
#define D UNICODE_NUMBER
#define P UNICODE_PUNCTUATION
#define Y UNICODE_SYMBOL
const uint16_t unicode_ascii[128] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, S, R, S, S, R, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    S, P, P, P, Y, P, P, P, P, P, P, Y, P, P, P, P, D, D, D, D, D, D, D, D, D, D, P, P, Y, Y, Y, P,
    P, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, P, P, P, Y, P,
    Y, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, P, Y, P, Y, 0,
};
#undef S
#undef R
#undef U
#undef L
#undef D
#undef P
#undef Y

static const uint16_t category_class[] = {
    [UTF8PROC_CATEGORY_LU] = UNICODE_UPPER,        [UTF8PROC_CATEGORY_LT] = UNICODE_UPPER,
    [UTF8PROC_CATEGORY_LL] = UNICODE_LOWER,        [UTF8PROC_CATEGORY_LM] = UNICODE_OTHER_LETTER,
    [UTF8PROC_CATEGORY_LO] = UNICODE_OTHER_LETTER, [UTF8PROC_CATEGORY_MN] = UNICODE_MARK,
    [UTF8PROC_CATEGORY_MC] = UNICODE_MARK,         [UTF8PROC_CATEGORY_ME] = UNICODE_MARK,
    [UTF8PROC_CATEGORY_ND] = UNICODE_NUMBER,       [UTF8PROC_CATEGORY_NL] = UNICODE_NUMBER,
    [UTF8PROC_CATEGORY_NO] = UNICODE_NUMBER,       [UTF8PROC_CATEGORY_PC] = UNICODE_PUNCTUATION,
    [UTF8PROC_CATEGORY_PD] = UNICODE_PUNCTUATION,  [UTF8PROC_CATEGORY_PS] = UNICODE_PUNCTUATION,
    [UTF8PROC_CATEGORY_PE] = UNICODE_PUNCTUATION,  [UTF8PROC_CATEGORY_PI] = UNICODE_PUNCTUATION,
    [UTF8PROC_CATEGORY_PF] = UNICODE_PUNCTUATION,  [UTF8PROC_CATEGORY_PO] = UNICODE_PUNCTUATION,
    [UTF8PROC_CATEGORY_SM] = UNICODE_SYMBOL,       [UTF8PROC_CATEGORY_SC] = UNICODE_SYMBOL,
    [UTF8PROC_CATEGORY_SK] = UNICODE_SYMBOL,       [UTF8PROC_CATEGORY_SO] = UNICODE_SYMBOL,
    [UTF8PROC_CATEGORY_ZS] = UNICODE_SPACE,        [UTF8PROC_CATEGORY_ZL] = UNICODE_SPACE,
    [UTF8PROC_CATEGORY_ZP] = UNICODE_SPACE,        [UTF8PROC_CATEGORY_CO] = 0,
};

uint32_t unicode_class_past_ascii(uint32_t codepoint)
{
    return codepoint == 0x85 ? UNICODE_SPACE : category_class[utf8proc_category((utf8proc_int32_t)codepoint)];
}

bool unicode_is_word(uint32_t codepoint)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)codepoint);

    if (unicode_class(codepoint) & (UNICODE_LETTER | UNICODE_MARK))
        return true;
    if (category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC)
        return true;
    return codepoint == 0x200c || codepoint == 0x200d || /* joiners, and the circled and squared Latin letters */
           (codepoint >= 0x24b6 && codepoint <= 0x24e9) || (codepoint >= 0x1f130 && codepoint <= 0x1f149) ||
           (codepoint >= 0x1f150 && codepoint <= 0x1f169) || (codepoint >= 0x1f170 && codepoint <= 0x1f189);
}

/* What may combine with the character before it: marks, and the vowels and finals of Hangul. */
static bool joins_backwards(uint32_t codepoint)
{
    return codepoint >= 0x300 &&
           ((unicode_class(codepoint) & UNICODE_MARK) || (codepoint >= 0x1160 && codepoint <= 0x11ff));
}

size_t unicode_segment_end(struct str text, size_t at)
{
    uint32_t codepoint;

    at += unicode_next(text.at + at, &codepoint);
    while (at < text.len) {
        size_t bytes = unicode_next(text.at + at, &codepoint);

        if (!joins_backwards(codepoint))
            break;
        at += bytes;
    }
    return at;
}

static int combining_class(int32_t codepoint)
{
    return (int)utf8proc_get_property(codepoint)->combining_class;
}

/* Canonical order: characters between two starters by combining class, equal ones as they stood. A counting sort,
 * because a run may be as long as the text. */
static void order_marks(int32_t *at, size_t count, int32_t *spare)
{
    size_t place[257] = {0};

    for (size_t i = 0; i < count; i++)
        place[combining_class(at[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        place[i] += place[i - 1];
    for (size_t i = 0; i < count; i++)
        spare[place[combining_class(at[i])]++] = at[i];
    memcpy(at, spare, count * sizeof *at);
}

static void order_all(int32_t *at, size_t count, int32_t *spare)
{
    for (size_t i = 0; i < count;) {
        size_t end = i;

        while (end < count && combining_class(at[end]) != 0)
            end++;
        if (end > i + 1)
            order_marks(at + i, end - i, spare);
        i = end > i ? end : i + 1;
    }
}

/* Full decomposition of a segment; the longest of one character is 18 code points (U+FDFA under NFKD). */
static size_t decompose(struct str segment, int options, int32_t *out, size_t cap)
{
    size_t count = 0;

    for (size_t at = 0; at < segment.len;) {
        uint32_t codepoint;
        int last_boundclass = 0;
        utf8proc_ssize_t got;

        at += unicode_next(segment.at + at, &codepoint);
        got = utf8proc_decompose_char((utf8proc_int32_t)codepoint, out + count, (utf8proc_ssize_t)(cap - count),
                                      (utf8proc_option_t)options, &last_boundclass);
        ASSERT(got >= 0 && (size_t)got <= cap - count);
        count += (size_t)got;
    }
    return count;
}

void unicode_normalize_segment(struct str segment, enum unicode_form form, struct strbuf *out)
{
    bool compat = form == UNICODE_NFKC || form == UNICODE_NFKD;
    bool compose = form == UNICODE_NFC || form == UNICODE_NFKC;
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    size_t cap = segment.len * 18 + 18;
    int32_t small[2 * 256];
    int32_t *points = cap <= 256 ? small : mem_alloc(2 * cap * sizeof *points);
    size_t count = decompose(segment, options, points, cap);

    order_all(points, count, points + cap);
    if (compose)
        count = (size_t)utf8proc_normalize_utf32(points, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (size_t i = 0; i < count; i++)
        strbuf_add_codepoint(out, (uint32_t)points[i]);
    if (points != small)
        free(points);
}
