/* data/encode_int.h - the encoder as its files share it: encode.c one sequence, encode_pair.c a preference's two. */
#pragma once

#include "data/encode.h"
#include "text/chat_format.h"

struct encoder {
    struct encoder_options options;
    struct chat_format format;
    struct str eos; /* text of the end-of-text token; empty: none */
    char hash[65], template_hash[65];
};

struct encoder_scratch {
    struct tokenizer_scratch *tokenizer;
    struct token_list tokens, prompt, rejected;
    struct strbuf text;
    struct arena arena; /* one example */
    uint8_t *trains, *rejected_trains;
    size_t trains_cap, rejected_cap;
};

/* With what the tokenizer puts around a text. */
bool encode_text(const struct encoder *encoder, struct encoder_scratch *scratch, struct str text,
                 struct token_list *list, struct err *err);
/* The template's own variables with the line's documents and chat_template_kwargs laid over them. */
const struct json *encode_variables(const struct encoder *encoder, struct encoder_scratch *scratch,
                                    const struct json *root, struct err *err);
/* Tokens of the messages with the line's tools and variables, without or with a generation prompt. *is_stopped: the
 * text ends with a special token. */
bool encode_conversation(const struct encoder *encoder, struct encoder_scratch *scratch, const struct example *example,
                         const struct json *messages, bool has_prompt, struct token_list *list, bool *is_stopped,
                         struct err *err);
size_t encode_common_prefix(const struct token_list *a, const struct token_list *b);
bool encode_check_vocab(const struct encoder *encoder, const struct token_list *list, struct err *err);
