#include "text/pretokenize.h"

#include "text/unicode.h"

#include <string.h>

#define SPACE UNICODE_SPACE
#define NEWLINE UNICODE_NEWLINE
#define LETTER UNICODE_LETTER
#define MARK UNICODE_MARK
#define NUMBER UNICODE_NUMBER
/* Of the patterns that look at case: [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and [\p{Ll}\p{Lm}\p{Lo}\p{M}]. */
#define HEAD (UNICODE_UPPER | UNICODE_OTHER_LETTER | MARK)
#define TAIL (UNICODE_LOWER | UNICODE_OTHER_LETTER | MARK)

static inline uint32_t class_at(struct str text, size_t at, size_t *bytes)
{
    uint32_t codepoint;

    *bytes = unicode_next(text.at + at, &codepoint);
    return unicode_class(codepoint);
}

/* End of the run of characters that are in one of the classes. */
static inline size_t run_of(struct str text, size_t at, uint32_t classes)
{
    size_t bytes;

    while (at < text.len && (class_at(text, at, &bytes) & classes))
        at += bytes;
    return at;
}

/* End of the run of characters that are in none of the classes. */
static inline size_t run_without(struct str text, size_t at, uint32_t classes)
{
    size_t bytes;

    while (at < text.len && !(class_at(text, at, &bytes) & classes))
        at += bytes;
    return at;
}

static inline size_t run_numbers(struct str text, size_t at, int max)
{
    size_t bytes;

    for (int i = 0; i < max && at < text.len && (class_at(text, at, &bytes) & NUMBER); i++)
        at += bytes;
    return at;
}

/* 's 't 're 've 'm 'll 'd. Without regard to case, s is also U+017F, the long s. */
static inline size_t match_contraction(struct str text, size_t at, bool fold)
{
    const char *s = text.at + at;
    size_t left = text.len - at;
    char a, b;

    if (left < 2 || s[0] != '\'')
        return at;
    a = fold && s[1] >= 'A' && s[1] <= 'Z' ? (char)(s[1] | 0x20) : s[1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return at + 2;
    if (left < 3)
        return at;
    if (fold && memcmp(s + 1, "\xc5\xbf", 2) == 0)
        return at + 3;
    b = fold && s[2] >= 'A' && s[2] <= 'Z' ? (char)(s[2] | 0x20) : s[2];
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : at;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : up to the last line end of the run; else all of it at the end of the text; else all
 * but its last character, which goes to the word that follows. GPT-2's pattern lacks the first part. */
static inline size_t match_spaces(struct str text, size_t at, bool lines)
{
    size_t end = at, last = at, line_end = at, bytes;

    while (end < text.len) {
        uint32_t class = class_at(text, end, &bytes);

        if (!(class & SPACE))
            break;
        last = end;
        end += bytes;
        if (class & NEWLINE)
            line_end = end;
    }
    if (lines && line_end > at)
        return line_end;
    return end < text.len && last > at ? last : end;
}

/* ` ?[^not]+[\r\n]*` with `/` beside the line ends when slash is set, then the spaces. */
static inline size_t match_symbols_or_spaces(struct str text, size_t at, uint32_t not, bool slash)
{
    size_t body = at + (text.at[at] == ' ');
    size_t end = run_without(text, body, not);

    if (end == body)
        return match_spaces(text, at, true);
    while (end < text.len && (text.at[end] == '\r' || text.at[end] == '\n' || (slash && text.at[end] == '/')))
        end++;
    return end;
}

size_t pretoken_gpt2(struct str text, size_t at)
{
    size_t end = match_contraction(text, at, false), body = at + (text.at[at] == ' '), bytes;
    uint32_t class = body < text.len ? class_at(text, body, &bytes) : SPACE;

    if (end > at)
        return end;
    if (class & LETTER)
        return run_of(text, body, LETTER);
    if (class & NUMBER)
        return run_of(text, body, NUMBER);
    if (!(class & SPACE))
        return run_without(text, body, SPACE | LETTER | NUMBER);
    return match_spaces(text, at, false);
}

/* Llama 3's pattern and its kin: a word is a run of `word`, with one character before it that is no letter, number
 * or line end. Where that character is in `word` itself the match is the same run. */
static inline size_t match_cl100k(struct str text, size_t at, uint32_t word, int digits)
{
    size_t bytes, next_bytes, end = match_contraction(text, at, true);
    uint32_t class;

    if (end > at)
        return end;
    class = class_at(text, at, &bytes);
    if (class & word)
        return run_of(text, at + bytes, word);
    if (!(class & (NEWLINE | LETTER | NUMBER)) && at + bytes < text.len &&
        (class_at(text, at + bytes, &next_bytes) & word))
        return run_of(text, at + bytes + next_bytes, word);
    if (class & NUMBER)
        return run_numbers(text, at, digits);
    return match_symbols_or_spaces(text, at, SPACE | NUMBER | word, false);
}

static size_t match_llama3(struct str text, size_t at)
{
    return match_cl100k(text, at, LETTER, 3);
}

static size_t match_qwen2(struct str text, size_t at)
{
    return match_cl100k(text, at, LETTER, 1);
}

static size_t match_qwen35(struct str text, size_t at)
{
    return match_cl100k(text, at, LETTER | MARK, 1);
}

/* HEAD*TAIL+ : when no lower-case letter ends the run of HEAD, HEAD* gives back characters until one that is in
 * both classes is left for TAIL+. */
static size_t match_head_tail(struct str text, size_t at)
{
    size_t end = at, shared = at, tail, bytes;

    while (end < text.len) {
        uint32_t class = class_at(text, end, &bytes);

        if (!(class & HEAD))
            break;
        end += bytes;
        if (class & TAIL)
            shared = end;
    }
    tail = run_of(text, end, TAIL);
    return tail > end ? tail : shared;
}

/* HEAD+TAIL* */
static size_t match_head(struct str text, size_t at)
{
    size_t end = run_of(text, at, HEAD);

    return end > at ? run_of(text, end, TAIL) : at;
}

/* The word of the patterns that look at case. Either alternative first tries to take a character before the word. */
static inline size_t match_cased_word(struct str text, size_t at)
{
    size_t bytes, end, body = at;

    if (!(class_at(text, at, &bytes) & (NEWLINE | LETTER | NUMBER)))
        body = at + bytes;
    if (body > at && (end = match_head_tail(text, body)) > body)
        return end;
    if ((end = match_head_tail(text, at)) > at)
        return end;
    if (body > at && (end = match_head(text, body)) > body)
        return end;
    return match_head(text, at);
}

static inline size_t match_cased(struct str text, size_t at, int digits, bool contractions)
{
    size_t bytes, end = match_cased_word(text, at);

    if (end > at)
        return contractions && end < text.len ? match_contraction(text, end, true) : end;
    if (class_at(text, at, &bytes) & NUMBER)
        return run_numbers(text, at, digits);
    return match_symbols_or_spaces(text, at, SPACE | LETTER | NUMBER, true);
}

static size_t match_tekken(struct str text, size_t at)
{
    return match_cased(text, at, 1, false);
}

static size_t match_o200k(struct str text, size_t at)
{
    return match_cased(text, at, 3, true);
}

static size_t match_deepseek_numbers(struct str text, size_t at)
{
    return run_numbers(text, at, 3);
}

static size_t match_deepseek_cjk(struct str text, size_t at)
{
    while (at < text.len) {
        uint32_t c;
        size_t bytes = unicode_next(text.at + at, &c);

        if (!(c >= 0x4e00 && c <= 0x9fa5) && !(c >= 0x3040 && c <= 0x30ff))
            break;
        at += bytes;
    }
    return at;
}

static bool is_ascii_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static size_t match_deepseek_words(struct str text, size_t at)
{
    size_t bytes, end, body = at;
    uint32_t class = class_at(text, at, &bytes), symbols = UNICODE_PUNCTUATION | UNICODE_SYMBOL;

    if (bytes == 1 && (class & symbols) && at + 1 < text.len && is_ascii_letter(text.at[at + 1])) {
        for (end = at + 2; end < text.len && is_ascii_letter(text.at[end]);)
            end++;
        return end;
    }
    if (!(class & (NEWLINE | LETTER | symbols)))
        body = at + bytes;
    if (body > at && (end = run_of(text, body, LETTER | MARK)) > body)
        return end;
    if ((end = run_of(text, at, LETTER | MARK)) > at)
        return end;
    body = at + (text.at[at] == ' ');
    if ((end = run_of(text, body, symbols)) > body)
        return run_of(text, end, NEWLINE);
    return match_spaces(text, at, true);
}

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define HEAD_TEXT "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define TAIL_TEXT "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct known {
    const char *pattern;
    pretoken_matcher *match;
} known[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", pretoken_gpt2},
    {CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES, match_llama3},
    {CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES, match_qwen2},
    {CONTRACTIONS "|" BEFORE "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES, match_qwen35},
    {BEFORE HEAD_TEXT "*" TAIL_TEXT "+|" BEFORE HEAD_TEXT "+" TAIL_TEXT
                      "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES,
     match_tekken},
    {BEFORE HEAD_TEXT "*" TAIL_TEXT "+" CONTRACTIONS "?|" BEFORE HEAD_TEXT "+" TAIL_TEXT "*" CONTRACTIONS
                      "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES,
     match_o200k},
    {"\\p{N}{1,3}", match_deepseek_numbers},
    {"[一-龥぀-ゟ゠-ヿ]+", match_deepseek_cjk},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
     "?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES,
     match_deepseek_words},
};

/* Whether a pattern of the table and one from a file are the same; files write \r and \n either as escapes or as
 * the characters themselves. */
static bool is_same_pattern(const char *ours, struct str theirs)
{
    size_t i = 0;

    for (; *ours && i < theirs.len; i++) {
        char c = theirs.at[i];

        if ((c == '\r' && ours[0] == '\\' && ours[1] == 'r') || (c == '\n' && ours[0] == '\\' && ours[1] == 'n'))
            ours += 2;
        else if (c == *ours)
            ours++;
        else
            return false;
    }
    return !*ours && i == theirs.len;
}

pretoken_matcher *pretoken_known(struct str pattern)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (is_same_pattern(known[i].pattern, pattern))
            return known[i].match;
    return NULL;
}

const char *pretoken_pattern(size_t index)
{
    return index < sizeof known / sizeof *known ? known[index].pattern : NULL;
}

size_t pretoken_digit(struct str text, size_t at)
{
    return run_numbers(text, at, 1);
}

size_t pretoken_punctuation(struct str text, size_t at)
{
    size_t bytes;
    uint32_t class = class_at(text, at, &bytes);

    return (class & UNICODE_PUNCTUATION) || (bytes == 1 && (class & UNICODE_SYMBOL)) ? at + bytes : at;
}

size_t pretoken_space(struct str text, size_t at)
{
    size_t bytes;

    return class_at(text, at, &bytes) & SPACE ? at + bytes : at;
}

/* \w+|[^\w\s]+ */
size_t pretoken_words(struct str text, size_t at)
{
    uint32_t codepoint;
    bool word;

    unicode_next(text.at + at, &codepoint);
    word = unicode_is_word(codepoint);
    while (at < text.len) {
        size_t bytes = unicode_next(text.at + at, &codepoint);

        if (unicode_is_word(codepoint) != word || (unicode_class(codepoint) & SPACE))
            break;
        at += bytes;
    }
    return at;
}
