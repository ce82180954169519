/* text/chat_format.h - a model folder's way from a conversation to tokens: its tokenizer, its chat templates, the
 * special tokens that both know. Read-only once open; any number of threads may use one. */
#pragma once

#include "text/chat.h"
#include "text/tokenizer.h"

struct chat_format {
    struct arena arena;
    struct tokenizer *tokenizer;
    const struct template *template;       /* NULL: the model has none */
    const struct template *template_tools; /* for conversations with tools; the same when there is one template */
    const struct template *training, *training_tools; /* the same, or their variants to train with */
    struct str template_source, template_tools_source;
    const char *training_name;             /* whose variant: a name of text/training_template.h; NULL: of none */
    struct str *specials;                  /* texts of the special tokens */
    size_t special_count;
    const struct json *variables;          /* bos_token and the like, as templates see them */
    int64_t now;                           /* the clock of templates */
};

/* A folder without a template is fine; a template that does not parse is not. */
bool chat_format_open(struct chat_format *format, const char *folder, int64_t now, struct err *err);
void chat_format_close(struct chat_format *format); /* of a zeroed struct: nothing */

/* What chat_render_prompt and chat_render_whole take; tools: array or NULL. ERR_UNSUPPORTED when the model has no
 * template. */
bool chat_format_input(const struct chat_format *format, const struct json *messages, const struct json *tools,
                       struct chat_input *input, struct err *err);

/* What chat_render takes for training: the same with the variant of the template that text/training_template.h has. */
bool chat_format_training_input(const struct chat_format *format, const struct json *messages, const struct json *tools,
                                struct chat_input *input, struct err *err);

/* The special token that ends an assistant's turn, found by rendering a short conversation; -1: the template writes
 * none. */
int32_t chat_format_end_of_turn(const struct chat_format *format);
