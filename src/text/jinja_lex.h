/* text/jinja_lex.h - a template's bytes as tokens.
 *
 * Text between tags becomes DATA tokens with white-space control already done: "-" strips all white space on its
 * side, trim_blocks drops the newline behind a block or comment, lstrip_blocks the blanks before one on its
 * line, "+" keeps both. Newlines are normalised and one at the end of the template is dropped, as Jinja does. */
#pragma once

#include "base/err.h"
#include "base/str.h"

enum jinja_token_kind {
    TOKEN_END,
    TOKEN_DATA,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING, /* text: content with escapes resolved */
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR,
};

/* An operator is its one or two characters, the first in the low byte. */
#define OPERATOR2(a, b) ((uint16_t)((a) | (b) << 8))

struct jinja_token {
    uint8_t kind;    /* enum jinja_token_kind */
    uint16_t op;     /* TOKEN_OPERATOR */
    uint32_t line;   /* from 1 */
    struct str text; /* as written, except for strings */
    union {
        int64_t integer;
        double number;
    };
};

struct jinja_tokens {
    struct jinja_token *at; /* the last one is TOKEN_END */
    size_t count;
};

/* source is valid UTF-8 and outlives the tokens. */
bool jinja_lex(struct arena *arena, struct str source, struct jinja_tokens *tokens, struct err *err);
