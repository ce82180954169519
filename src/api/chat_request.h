/* api/chat_request.h - the bodies of POST /v1/chat/completions and /v1/completions, checked.
 *
 * Every field is honoured or refused by name; none is ignored. Fields that only label a request for OpenAI's own
 * bookkeeping (user, metadata, store, …) have nothing to be honoured here and are accepted. */
#pragma once

#include "api/problems.h"

struct chat_fields {
    bool is_chat;
    struct str model;
    const struct json *messages;     /* chat */
    const struct json *prompts[128]; /* completions: strings, or one array of ids */
    int prompt_count;
    int64_t max_tokens;              /* 0: as far as the context reaches */
    double temperature, top_p;
    int64_t seed;
    bool has_seed;
    struct str stop[4];
    int stop_count;
    int64_t n;
    bool is_stream, has_usage, has_echo;
    int64_t logprobs;                /* -1: none */
};

bool chat_fields_read(struct arena *arena, const struct json *body, bool is_chat, struct chat_fields *fields,
                      struct problems *problems);
/* What the worker reads for prompt number `index`, without braces and id. */
void chat_fields_write(const struct chat_fields *fields, int index, const char *scope, struct strbuf *out);
