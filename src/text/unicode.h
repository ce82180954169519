/* text/unicode.h - what kind of character a code point is, and the normal forms.
 *
 * Properties are utf8proc's; the classes are the ones that pre-tokenizer patterns ask for. The fast functions
 * expect valid UTF-8: whoever takes text from outside checks it once with utf8_is_valid. */
#pragma once

#include "base/str.h"

#include <utf8proc.h>

enum unicode_class {
    UNICODE_SPACE = 1,         /* White_Space, which is \s */
    UNICODE_NEWLINE = 2,       /* \r and \n */
    UNICODE_UPPER = 4,         /* Lu, Lt */
    UNICODE_LOWER = 8,         /* Ll */
    UNICODE_OTHER_LETTER = 16, /* Lm, Lo */
    UNICODE_MARK = 32,         /* M */
    UNICODE_NUMBER = 64,       /* N */
    UNICODE_PUNCTUATION = 128, /* P */
    UNICODE_SYMBOL = 256,      /* S */
    UNICODE_LETTER = UNICODE_UPPER | UNICODE_LOWER | UNICODE_OTHER_LETTER,
};

extern const uint16_t unicode_ascii[128];
uint32_t unicode_class_past_ascii(uint32_t codepoint);

/* Bits of enum unicode_class. */
static inline uint32_t unicode_class(uint32_t codepoint)
{
    return codepoint < 128 ? unicode_ascii[codepoint] : unicode_class_past_ascii(codepoint);
}

/* \w: letters, marks, decimal numbers, connector punctuation, joiners. */
bool unicode_is_word(uint32_t codepoint);

/* The character at `at` of valid UTF-8 and its length in bytes. */
static inline size_t unicode_next(const char *at, uint32_t *codepoint)
{
    const unsigned char *s = (const unsigned char *)at;

    if (s[0] < 0x80) {
        *codepoint = s[0];
        return 1;
    }
    if (s[0] < 0xe0) {
        *codepoint = (uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3f);
        return 2;
    }
    if (s[0] < 0xf0) {
        *codepoint = (uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3f);
        return 3;
    }
    *codepoint = (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12 | (uint32_t)(s[2] & 0x3f) << 6 |
                 (s[3] & 0x3f);
    return 4;
}

/* Length in bytes of the last character of text[0, end), end > 0. */
static inline size_t unicode_previous_bytes(const char *text, size_t end)
{
    size_t bytes = 1;

    while (bytes < end && bytes < 4 && ((unsigned char)text[end - bytes] & 0xc0) == 0x80)
        bytes++;
    return bytes;
}

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };

/* End of the normalisation segment that begins at `at`: a character with the marks that follow it. Segments
 * normalise independently of each other. */
size_t unicode_segment_end(struct str text, size_t at);
/* Appends the normal form of one segment. Linear in its length, however many marks it has. */
void unicode_normalize_segment(struct str segment, enum unicode_form form, struct strbuf *out);
