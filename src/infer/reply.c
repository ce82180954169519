#include "infer/reply.h"

#include <stdlib.h>
#include <string.h>

struct reply {
    struct reply_options options;
    struct tokenizer_stream stream;
    struct strbuf text;            /* decoded, not yet given */
    size_t given;                  /* bytes of text that the last piece gave */
    struct sequence_token *tokens; /* not yet given */
    size_t token_count, token_cap, tokens_given;
};

struct reply *reply_new(const struct reply_options *options)
{
    struct reply *reply = mem_alloc_zero(1, sizeof *reply);

    reply->options = *options;
    tokenizer_stream_init(&reply->stream, options->tokenizer, true);
    return reply;
}

void reply_free(struct reply *reply)
{
    if (!reply)
        return;
    strbuf_deinit(&reply->text);
    free(reply->tokens);
    free(reply);
}

/* Forgets what the last piece gave. */
static void drop_given(struct reply *r)
{
    strbuf_drop(&r->text, r->given);
    r->given = 0;
    if (r->tokens_given)
        memmove(r->tokens, r->tokens + r->tokens_given, (r->token_count - r->tokens_given) * sizeof *r->tokens);
    r->token_count -= r->tokens_given;
    r->tokens_given = 0;
}

static void keep_token(struct reply *r, const struct sequence_token *token)
{
    if (!r->options.has_tokens)
        return;
    if (r->token_count == r->token_cap) {
        r->token_cap = r->token_cap ? r->token_cap * 2 : 8;
        r->tokens = mem_resize(r->tokens, r->token_cap * sizeof *r->tokens);
    }
    r->tokens[r->token_count++] = *token;
}

static bool is_stop_id(const struct reply *r, int32_t id)
{
    for (int i = 0; i < r->options.stop_id_count; i++)
        if (r->options.stop_ids[i] == id)
            return true;
    return false;
}

/* Where the first stop string begins, or -1. */
static ptrdiff_t find_stop(const struct reply *r)
{
    ptrdiff_t first = -1;

    for (int i = 0; i < r->options.stop_count; i++) {
        ptrdiff_t at = str_find(strbuf_view(&r->text), r->options.stop[i], 0);
        if (at >= 0 && (first < 0 || at < first))
            first = at;
    }
    return first;
}

/* Bytes at the end that may be the beginning of a stop string. */
static size_t held_back(const struct reply *r)
{
    size_t most = 0;

    for (int i = 0; i < r->options.stop_count; i++) {
        struct str stop = r->options.stop[i];
        for (size_t len = stop.len - 1; len > most; len--)
            if (len <= r->text.len && str_ends(strbuf_view(&r->text), str_slice(stop, 0, len)))
                most = len;
    }
    return most;
}

static void give(struct reply *r, size_t bytes, struct reply_piece *piece)
{
    r->given = bytes;
    r->tokens_given = bytes > 0 || r->text.len == 0 ? r->token_count : 0;
    *piece = (struct reply_piece){str_slice(strbuf_view(&r->text), 0, bytes), r->tokens, r->tokens_given};
}

const char *reply_add(struct reply *r, const struct sequence_token *token, bool is_last, struct reply_piece *piece)
{
    bool is_stop = is_stop_id(r, token->id);
    ptrdiff_t stop_at;

    if (r->text.at)
        drop_given(r);
    if (!is_stop) {
        keep_token(r, token);
        tokenizer_stream_push(&r->stream, token->id, &r->text);
    }
    if (is_stop || is_last)
        tokenizer_stream_finish(&r->stream, &r->text);
    strbuf_reserve(&r->text, 1);
    stop_at = find_stop(r);
    if (stop_at >= 0) {
        give(r, (size_t)stop_at, piece);
        return "stop";
    }
    if (is_stop || is_last) {
        give(r, r->text.len, piece);
        piece->token_count = r->token_count;
        return is_stop ? "stop" : "length";
    }
    give(r, r->text.len - held_back(r), piece);
    return NULL;
}
