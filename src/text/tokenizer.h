/* text/tokenizer.h - text to token ids and back, as a model's tokenizer.json says.
 *
 * A tokenizer is read once and then only looked at: any number of threads may encode and decode with the same
 * `const struct tokenizer *`. What encoding needs to write (buffers, the cache of words) is in a scratch that
 * each thread owns; encoding allocates nothing per word.
 *
 * The contract is the file as written, with the results of Hugging Face's tokenizers library: the raw text is cut
 * at added tokens, each piece is normalised, cut again at normalised added tokens, pre-tokenised into words, and
 * each word goes through byte-pair merges; the post-processor's special tokens come around it on request. User
 * text that spells a special token becomes that token, as it does there.
 *
 * Components that attune does not have are refused by name when the file is opened, so encoding fails only on
 * bytes that are not UTF-8, on text past 1 GiB and on an unknown pattern that exceeds the regular expression limits. */
#pragma once

#include "base/err.h"
#include "base/str.h"

struct tokenizer;
struct tokenizer_scratch;

/* Bytes [start, end) of the original text that a token stands for; an inserted token has start == end. A token
 * that is part of one character reports the bytes it holds, so the spans of neighbours touch inside it. Where
 * normalisation changed the characters, the span is all of what was replaced. */
struct token_span {
    uint32_t start, end;
};

/* Grows as needed; a zeroed struct is an empty list. ids[i] stands for spans[i]. */
struct token_list {
    int32_t *ids;
    struct token_span *spans;
    size_t count, cap;
};
void token_list_deinit(struct token_list *list);
void token_list_clear(struct token_list *list); /* keeps the memory */

/* Opens a tokenizer.json, or the folder that holds one. A tokenizer_config.json in the same folder is read for
 * the names of special tokens when it is there. NULL with err set on failure. */
struct tokenizer *tokenizer_open(const char *path, struct err *err);
/* The same from memory; config may be the empty view. Both texts need to live only during the call. */
struct tokenizer *tokenizer_parse(struct str json, struct str config, struct err *err);
void tokenizer_free(struct tokenizer *tok);

struct tokenizer_scratch *tokenizer_scratch_new(const struct tokenizer *tok);
void tokenizer_scratch_free(struct tokenizer_scratch *scratch);

/* Appends the tokens of `text` to `out`. add_special_tokens: with what the post-processor puts around it. */
bool tokenizer_encode(const struct tokenizer *tok, struct tokenizer_scratch *scratch, struct str text,
                      bool add_special_tokens, struct token_list *out, struct err *err);

/* Appends the text of the ids. Ids without a token are skipped, as the reference does; skip_special leaves out
 * added tokens that are marked special. Bytes that form no UTF-8 become U+FFFD. */
void tokenizer_decode(const struct tokenizer *tok, const int32_t *ids, size_t count, bool skip_special,
                      struct strbuf *out);

/* Decoding while tokens arrive. Each push appends the text that is certain by then: whole characters only, the
 * rest waits. finish appends what is left (an unfinished character as U+FFFD). The pieces together are what
 * tokenizer_decode gives for all ids at once, save for one case: of a run of byte tokens that turns out not to be
 * UTF-8, characters handed out before stay. */
struct tokenizer_stream {
    const struct tokenizer *tok;
    bool skip_special;
    bool has_output;      /* a token has been pushed: decoders treat the first one differently */
    size_t strip_left;    /* leading characters still to drop */
    char pending[8];      /* an unfinished character */
    size_t pending_bytes;
};
void tokenizer_stream_init(struct tokenizer_stream *stream, const struct tokenizer *tok, bool skip_special);
void tokenizer_stream_push(struct tokenizer_stream *stream, int32_t id, struct strbuf *out);
void tokenizer_stream_finish(struct tokenizer_stream *stream, struct strbuf *out);

/* Id of a token by its text as it stands in the file (added tokens first), or -1. */
int32_t tokenizer_token_id(const struct tokenizer *tok, struct str token);
/* Text of an id as it stands in the file, or the empty view. Lives as long as the tokenizer. */
struct str tokenizer_token_text(const struct tokenizer *tok, int32_t id);
/* Whether the id is an added token marked special. */
bool tokenizer_is_special(const struct tokenizer *tok, int32_t id);
/* The highest id in use plus one. Embedding tables often have more rows. */
size_t tokenizer_id_limit(const struct tokenizer *tok);
/* SHA-256 of tokenizer.json in hexadecimal. */
const char *tokenizer_hash(const struct tokenizer *tok);

/* What tokenizer_config.json names. */
enum tokenizer_special { TOKENIZER_BOS, TOKENIZER_EOS, TOKENIZER_PAD, TOKENIZER_UNK, TOKENIZER_SPECIALS };
/* Text, or the empty view when the config has none; and its id, or -1. */
struct str tokenizer_special_text(const struct tokenizer *tok, enum tokenizer_special which);
int32_t tokenizer_special_id(const struct tokenizer *tok, enum tokenizer_special which);
