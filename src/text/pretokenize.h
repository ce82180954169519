/* text/pretokenize.h - the split patterns of known tokenizers, written by hand.
 *
 * tokenizer.json names its split pattern as a regular expression. The ones in use are few, so each is matched by a
 * function of its own, chosen by the exact text of the pattern: linear in the text, without a regular expression
 * engine. They follow leftmost-first alternation and greedy quantifiers as Oniguruma runs them (\s is
 * White_Space). Text must be valid UTF-8. */
#pragma once

#include "base/str.h"

/* End of the match that begins exactly at `at` (at < text.len), or `at` when the pattern does not match there. No
 * known pattern matches the empty string. */
typedef size_t pretoken_matcher(struct str text, size_t at);

/* The matcher of a pattern, or NULL when it is not a known one. */
pretoken_matcher *pretoken_known(struct str pattern);

/* The known patterns, for tests: NULL past the last one. */
const char *pretoken_pattern(size_t index);

pretoken_matcher pretoken_gpt2;

/* The character classes behind Digits, Punctuation, Whitespace and WhitespaceSplit. */
pretoken_matcher pretoken_digit, pretoken_punctuation, pretoken_space, pretoken_words;
