/* text/decode.h - the decoder of tokenizer.json, made into one table of bytes a token.
 *
 * The chains in use are: changes of single tokens (Replace, Strip, Metaspace), then one step that joins bytes
 * (ByteLevel or ByteFallback), then Fuse, then a Strip of the whole text's start. The first part depends on the token
 * alone, so it is done once for every id. Other orders are refused by name. */
#pragma once

#include "base/err.h"
#include "base/json.h"

enum { DECODER_STAGES_MAX = 16 };

struct decoder {
    struct decoder_stage {
        enum { DECODE_REPLACE, DECODE_STRIP, DECODE_METASPACE } kind;
        struct str pattern, content; /* Strip and Metaspace: the character in pattern */
        size_t start, stop;          /* Strip */
        bool drops_first;            /* Metaspace: the first token loses the character */
    } stages[DECODER_STAGES_MAX];
    int count;
    bool byte_level, byte_fallback, is_joined;
    bool spaced;                 /* no decoder: tokens are joined by spaces */
    struct str strip_content;    /* of the whole text */
    size_t strip_start;
};

bool decoder_parse(struct decoder *decoder, struct arena *arena, const struct json *json, struct err *err);
/* Appends what a token adds to the text. is_first: it is the first of the text. */
void decoder_token_text(const struct decoder *decoder, struct str token, bool is_first, struct strbuf *out);
/* The byte of "<0xXX>" under byte_fallback, or -1. */
int decoder_token_byte(const struct decoder *decoder, struct str token);
