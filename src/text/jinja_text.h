/* text/jinja_text.h - what Python's str does, on views of valid UTF-8.
 *
 * Indices and lengths count code points. Functions that only take away return views of their input. */
#pragma once

#include "base/str.h"

bool text_is_space(uint32_t codepoint); /* Python's str.isspace() of one character */

/* Without the leading or trailing characters that are in `set`; an absent set (NULL) means white space. */
struct str text_strip_left(struct str text, struct str set);
struct str text_strip_right(struct str text, struct str set);

/* Byte offset of the code point `index`, text.len when past the end. */
size_t text_offset(struct str text, size_t index);

enum text_case { TEXT_UPPER, TEXT_LOWER, TEXT_TITLE, TEXT_SWAP };
/* One code point's mapping, possibly several characters ("ß" gives "SS"); returns its bytes. */
size_t text_map_case(uint32_t codepoint, enum text_case to, char out[8]);
bool text_is_upper(uint32_t codepoint);
bool text_is_lower(uint32_t codepoint);
bool text_is_cased(uint32_t codepoint);
bool text_is_alpha(uint32_t codepoint);
bool text_is_digit(uint32_t codepoint);
bool text_is_printable(uint32_t codepoint); /* by Python's repr */

/* Resolves a Python string literal's escapes. On failure *why says what is wrong. */
bool text_unescape(struct arena *arena, struct str raw, struct str *text, const char **why);

/* Python's repr of a float: shortest digits that read back, "1.0", "1e-05", "inf". */
size_t text_float_repr(double value, char out[40]);
