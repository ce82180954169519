/* text/chat.h - a conversation as text, and which bytes of it an assistant wrote.
 *
 * The text is what the chat template renders for all messages, without a generation prompt. Messages come to it as
 * transformers hands them over: members that are null are left out, and what stands under reasoning_content, thinking
 * or reasoning is there under both of the first two names. OpenAI's later name of the system role, "developer",
 * stays where the template has the word; most have not, and would refuse the message or drop it silently.
 *
 * A span is one assistant turn with its end-of-turn token: what training supervises. Spans come from one of two places:
 *
 * 1. {% generation %} marks, when the template has them, taken as they are: their author decided.
 * 2. Rendered prefixes. For the assistant message i, A = the messages before it with a generation prompt, B =
 *    the messages through it. The turn is what B adds to A: exactly what a model would have to generate there.
 *    A must be a prefix of B and B of the whole text; a template for which this does not hold (it drops
 *    earlier reasoning, say) is refused with the message's index.
 *
 * A turn from 2 ends behind its last special token when only white space follows that token: ChatML's newline
 * after <|im_end|> belongs to nobody and does not train. Without such a token the turn is taken whole and
 * has_end_token is false. Messages with "weight": 0 are reported with is_masked, not left out; the other rules
 * need not hold for them. */
#pragma once

#include "text/template.h"

struct chat_input {
    const struct template *template;
    const struct json *messages;      /* array of objects */
    const struct json *tools;         /* array, or NULL */
    const struct json *variables;     /* object: bos_token, eos_token, documents, chat_template_kwargs …; or NULL */
    const struct str *special_tokens; /* texts of the tokenizer's special tokens; rule 2 needs them */
    size_t special_token_count;
    bool no_developer; /* the template knows no role "developer": such messages come to it as "system" */
    struct template_options options;
};

#define CHAT_NO_MESSAGE UINT32_MAX

struct chat_span {
    size_t start, end;      /* bytes of text, [start, end) */
    uint32_t message_index; /* in messages; CHAT_NO_MESSAGE when marks and assistant messages differ in number */
    bool is_masked;         /* the message has weight 0 */
    bool has_end_token;     /* ends with a special token */
};

struct chat_text {
    struct str text;
    struct chat_span *spans; /* in order of their start */
    size_t span_count;
    bool from_marks; /* spans come from {% generation %} */
};

/* Everything in *chat lies in the arena. ERR_INPUT when a template fails (with what it raised) or is not
 * prefix-stable. */
bool chat_render(const struct chat_input *input, struct arena *arena, struct chat_text *chat, struct err *err);

/* The text that a model continues: all messages with a generation prompt. */
bool chat_render_prompt(const struct chat_input *input, struct arena *arena, struct str *text, struct err *err);
/* All messages without a generation prompt and without spans: nothing is asked of the template. */
bool chat_render_whole(const struct chat_input *input, struct arena *arena, struct str *text, struct err *err);
