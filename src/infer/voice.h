/* infer/voice.h - how a model takes words and gives them back: tokenizer, chat template, and the
 * tokens that end a reply. */
#pragma once

#include "text/chat_format.h"

enum { VOICE_STOPS_MAX = 32 };

struct voice {
    struct chat_format format;
    struct tokenizer_scratch *scratch;
    int32_t stop_ids[VOICE_STOPS_MAX];
    int stop_id_count;
};

/* Replies end where config.json (`ends`) and generation_config.json of the base name an end, at the tokenizer's, and at
 * the template's end of turn. `folder` has the tokenizer and the template, `base` the rest; they may be the same. */
struct voice *voice_open(const char *folder, const char *base, const int32_t *ends, int end_count, int64_t now,
                         struct err *err);
void voice_close(struct voice *voice); /* NULL is fine */

/* Whether a folder has a tokenizer or a template that is not byte for byte the base's. */
bool voice_is_own(const char *folder, const char *base);
