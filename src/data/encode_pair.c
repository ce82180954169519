/* A preference's two sequences: the prompt with the completion that is preferred and with the one that is not. */
#include "data/encode_int.h"

#include <stdlib.h>
#include <string.h>

/* The text of a conversation, with or without a generation prompt, and how it ends. */
static bool render(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                   const struct json *messages, bool has_prompt, struct str *text, bool *is_stopped, struct err *err)
{
    struct chat_input input;
    struct str trimmed;

    if (!chat_format_input(&e->format, messages, example->tools, &input, err))
        return false;
    input.variables = encode_variables(e, s, example->root, err);
    if (!input.variables || !(has_prompt ? chat_render_prompt(&input, &s->arena, text, err)
                                         : chat_render_whole(&input, &s->arena, text, err)))
        return false;
    trimmed = str_trim(*text);
    *is_stopped = false;
    for (size_t i = 0; i < input.special_token_count; i++)
        *is_stopped |= input.special_tokens[i].len > 0 && str_ends(trimmed, input.special_tokens[i]);
    return true;
}

bool encode_conversation(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                         const struct json *messages, bool has_prompt, struct token_list *list, bool *is_stopped,
                         struct err *err)
{
    struct str text;

    return render(e, s, example, messages, has_prompt, &text, is_stopped, err) &&
           tokenizer_encode(e->format.tokenizer, s->tokenizer, text, false, list, err);
}

static bool encode_conversations(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                                 bool is_stopped[2], struct err *err)
{
    const struct preference *preference = &example->preference;
    bool ignored;

    return encode_conversation(e, s, example, example->messages, true, &s->prompt, &ignored, err) &&
           encode_conversation(e, s, example, preference->chosen, false, &s->tokens, &is_stopped[0], err) &&
           encode_conversation(e, s, example, preference->rejected, false, &s->rejected, &is_stopped[1], err);
}

static bool encode_continued(const struct encoder *e, struct encoder_scratch *s, struct str prompt,
                             struct str completion, struct token_list *list, bool *is_stopped, struct err *err)
{
    strbuf_clear(&s->text);
    strbuf_add_str(&s->text, prompt);
    strbuf_add_str(&s->text, completion);
    if (!str_ends(completion, e->eos))
        strbuf_add_str(&s->text, e->eos);
    *is_stopped = e->eos.len > 0;
    return encode_text(e, s, strbuf_view(&s->text), list, err);
}

static bool encode_texts(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                         bool is_stopped[2], struct err *err)
{
    const struct preference *preference = &example->preference;

    return encode_text(e, s, example->prompt, &s->prompt, err) &&
           encode_continued(e, s, example->prompt, preference->chosen_text, &s->tokens, &is_stopped[0], err) &&
           encode_continued(e, s, example->prompt, preference->rejected_text, &s->rejected, &is_stopped[1], err);
}

/* Both completions begin where the first of the two leaves the prompt. */
static size_t prompt_tokens(const struct encoder_scratch *s)
{
    size_t chosen = encode_common_prefix(&s->prompt, &s->tokens);
    size_t rejected = encode_common_prefix(&s->prompt, &s->rejected);

    return chosen < rejected ? chosen : rejected;
}

/* All tokens from `first` on train; a document's first never does. */
static struct encoded supervise(const struct token_list *list, size_t first, bool is_stopped, uint8_t **trains,
                                size_t *cap)
{
    struct encoded out = {
        .ids = list->ids, .count = (uint32_t)list->count, .turn_count = 1, .stopped_count = is_stopped};

    if (*cap < list->count) {
        *cap = list->count * 2;
        *trains = mem_resize(*trains, *cap);
    }
    if (first == 0)
        first = 1;
    for (size_t i = 0; i < list->count; i++)
        (*trains)[i] = i >= first;
    out.trains = *trains;
    out.trained_count = list->count > first ? (uint32_t)(list->count - first) : 0;
    return out;
}

bool encode_pair(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                 struct encoded pair[2], struct err *err)
{
    bool is_stopped[2] = {false, false};
    size_t first;

    arena_reset(&s->arena);
    token_list_clear(&s->prompt);
    token_list_clear(&s->tokens);
    token_list_clear(&s->rejected);
    if (!(example->preference.chosen ? encode_conversations(e, s, example, is_stopped, err)
                                     : encode_texts(e, s, example, is_stopped, err)) ||
        !encode_check_vocab(e, &s->tokens, err) || !encode_check_vocab(e, &s->rejected, err))
        return false;
    first = prompt_tokens(s);
    pair[0] = supervise(&s->tokens, first, is_stopped[0], &s->trains, &s->trains_cap);
    pair[1] = supervise(&s->rejected, first, is_stopped[1], &s->rejected_trains, &s->rejected_cap);
    return true;
}
