/* text/bpe.h - byte-pair encoding of one word.
 *
 * A word starts as its characters (as its bytes in a byte-level model), and the neighbouring pair with the lowest
 * rank is merged, leftmost first, until no pair has a rank. Short words scan their pairs; long ones, which are
 * whole texts in SentencePiece-style models, use a heap, so time is n log n for any text. Words seen lately come
 * from a cache in the scratch.
 *
 * The tables are open-addressed: pair (left id, right id) to rank and merged id. */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "text/vocab.h"

struct bpe;
struct bpe_scratch;

/* A token of a word and how many of the word's bytes it stands for. */
struct bpe_symbol {
    int32_t id;
    uint32_t bytes;
};

/* Reads `model` of tokenizer.json. byte_level: words arrive as raw bytes, and the vocabulary spells them in the
 * alphabet of ByteLevel. vocab holds the model's tokens, text_of their texts by id. Memory comes from the arena. */
struct bpe *bpe_parse(struct arena *arena, const struct json *model, bool byte_level, const struct vocab *vocab,
                      const struct str *text_of, struct err *err);

struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Tokens of a word that is not empty; *symbols stays good until the next call. */
size_t bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, struct str word,
                  const struct bpe_symbol **symbols);

/* End of the part of a word, from `at`, that may be encoded by itself with the same result: where no merge
 * crosses from another character into U+2581, a SentencePiece text is cut there. */
size_t bpe_part_end(const struct bpe *bpe, struct str word, size_t at);

/* The byte that a code point stands for in the alphabet of ByteLevel, or -1. */
int byte_level_byte(uint32_t codepoint);
