/* Text through every known pattern: pieces in order, none empty, together the whole text. */
#include "text/pretokenize.h"
#include "text/unicode.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t piece_end(pretoken_matcher *match, struct str text, size_t at)
{
    size_t end = match(text, at);
    uint32_t codepoint;

    if (end < at || end > text.len || (end < text.len && ((uint8_t)text.at[end] & 0xc0) == 0x80))
        abort();
    return end > at ? end : at + unicode_next(text.at + at, &codepoint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1); /* its own block, so that reading past the end is seen */
    struct str text = {copy, size};

    for (size_t i = 0; i < size; i++)
        copy[i] = (char)data[i];
    if (utf8_is_valid(text))
        for (size_t i = 0; pretoken_pattern(i); i++) {
            size_t at = 0;

            while (at < text.len)
                at = piece_end(pretoken_known(str_of(pretoken_pattern(i))), text, at);
            if (at != text.len)
                abort();
        }
    free(copy);
    return 0;
}
