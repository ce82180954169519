/* text/tokenizer_int.h - what the tokenizer's own files share. */
#pragma once

#include "text/added.h"
#include "text/bpe.h"
#include "text/decode.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

enum { SPLIT_STAGES_MAX = 16 };

/* One pre-tokenizer. A split cuts at the matches of `match` or `pattern`; the others change the text as well. */
struct split_stage {
    enum { SPLIT, SPLIT_BYTE_LEVEL, SPLIT_METASPACE } kind;
    enum { ISOLATED, REMOVED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT } behavior;
    bool invert;
    pretoken_matcher *match;
    struct pattern *pattern;
    bool cuts;              /* ByteLevel: use_regex; Metaspace: split */
    enum { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } prepend;
    struct str replacement; /* Metaspace */
};

struct id_list {
    int32_t *ids;
    size_t count;
};

struct tokenizer {
    struct arena arena;
    struct vocab vocab;       /* the model's tokens */
    struct bpe *bpe;
    struct added_token *added;
    size_t added_count;
    struct vocab added_ids;
    struct added_set raw_set, normalized_set;
    struct normalizer normalizer;
    struct split_stage splits[SPLIT_STAGES_MAX];
    int split_count;
    bool byte_level;
    struct id_list before, after; /* what the post-processor adds */
    struct decoder decoder;
    size_t id_limit, token_count;
    struct str *texts;        /* by id; at == NULL: no such token */
    struct str *spelled;      /* by id: what decoding starts from, which is an added token's normalised content */
    uint8_t *is_special;      /* by id */
    struct str *decoded;      /* by id: what decoding adds */
    int16_t *decoded_byte;    /* by id: a byte token's byte, or -1 */
    struct str special_texts[TOKENIZER_SPECIALS];
    char hash[65];
};

/* The parts of tokenizer.json behind the vocabulary; each refuses by name what it does not know. */
bool tokenizer_parse_splits(struct tokenizer *tok, const struct json *json, struct err *err);
bool tokenizer_parse_post(struct tokenizer *tok, const struct json *json, struct err *err);
