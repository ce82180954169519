/* infer/reply.h - drawn tokens become the text of a reply.
 *
 * Ends at a stop token, whose text is not part of the reply, or before a stop string. Text that may still turn out to
 * be the beginning of a stop string is held back until it is certain. */
#pragma once

#include "infer/generate.h"
#include "text/tokenizer.h"

struct reply;

enum { REPLY_STOPS_MAX = 4 };

struct reply_options {
    const struct tokenizer *tokenizer;
    const int32_t *stop_ids;  /* must outlive the reply, as the strings must */
    int stop_id_count;
    struct str stop[REPLY_STOPS_MAX];
    int stop_count;
    bool has_tokens;          /* collect the tokens of each piece */
};

struct reply *reply_new(const struct reply_options *options);
void reply_free(struct reply *reply); /* NULL is fine */

/* Text that became certain, and the tokens behind it; views until the next call. */
struct reply_piece {
    struct str text;
    const struct sequence_token *tokens;
    size_t token_count;
};
/* NULL: goes on; else why it ended: "stop" or "length". */
const char *reply_add(struct reply *reply, const struct sequence_token *token, bool is_last, struct reply_piece *piece);
