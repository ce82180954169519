#include "data/encode_int.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

/* Whether a template asks for the time. */
static bool has_clock(const struct chat_format *format)
{
    return str_find(format->template_source, STR("strftime_now"), 0) >= 0 ||
           str_find(format->template_tools_source, STR("strftime_now"), 0) >= 0;
}

static void hash_templates(struct encoder *e)
{
    struct str plain = e->format.template_source, with_tools = e->format.template_tools_source;
    struct strbuf both = {0};

    if (!plain.at)
        return;
    strbuf_add_str(&both, plain);
    if (with_tools.at && !str_equal(plain, with_tools)) {
        strbuf_add_char(&both, 0);
        strbuf_add_str(&both, with_tools);
    }
    sha256_hex(strbuf_view(&both), e->template_hash);
    strbuf_deinit(&both);
}

static void make_hash(struct encoder *e)
{
    const struct tokenizer *tokenizer = e->format.tokenizer;
    struct strbuf text = {0};

    hash_templates(e);
    strbuf_printf(&text, "2 %s %s %d %lld", tokenizer_hash(tokenizer), e->template_hash, e->options.vocab,
                  has_clock(&e->format) ? (long long)e->options.now : 0);
    for (int i = 0; i < TOKENIZER_SPECIALS; i++) {
        struct str special = tokenizer_special_text(tokenizer, (enum tokenizer_special)i);
        strbuf_printf(&text, " %zu:%.*s", special.len, STR_ARG(special));
    }
    strbuf_printf(&text, " %.*s", STR_ARG(e->eos));
    sha256_hex(strbuf_view(&text), e->hash);
    strbuf_deinit(&text);
}

struct encoder *encoder_open(const struct encoder_options *options, struct err *err)
{
    struct encoder *e = mem_alloc_zero(1, sizeof *e);

    e->options = *options;
    if (!chat_format_open(&e->format, options->folder, options->now, err)) {
        free(e);
        return NULL;
    }
    e->eos = tokenizer_special_text(e->format.tokenizer, TOKENIZER_EOS);
    if (e->eos.len == 0 && options->eos_id >= 0)
        e->eos = tokenizer_token_text(e->format.tokenizer, options->eos_id);
    make_hash(e);
    return e;
}

void encoder_free(struct encoder *e)
{
    if (!e)
        return;
    chat_format_close(&e->format);
    free(e);
}

const char *encoder_hash(const struct encoder *encoder)
{
    return encoder->hash;
}

const char *encoder_tokenizer_hash(const struct encoder *encoder)
{
    return tokenizer_hash(encoder->format.tokenizer);
}

const char *encoder_template_hash(const struct encoder *encoder)
{
    return encoder->template_hash;
}

const char *encoder_training_name(const struct encoder *encoder)
{
    return encoder->format.training_name;
}

const struct tokenizer *encoder_tokenizer(const struct encoder *encoder)
{
    return encoder->format.tokenizer;
}

struct encoder_scratch *encoder_scratch_new(const struct encoder *encoder)
{
    struct encoder_scratch *s = mem_alloc_zero(1, sizeof *s);

    s->tokenizer = tokenizer_scratch_new(encoder->format.tokenizer);
    return s;
}

void encoder_scratch_free(struct encoder_scratch *s)
{
    if (!s)
        return;
    tokenizer_scratch_free(s->tokenizer);
    token_list_deinit(&s->tokens);
    token_list_deinit(&s->prompt);
    token_list_deinit(&s->rejected);
    strbuf_deinit(&s->text);
    arena_deinit(&s->arena);
    free(s->trains);
    free(s->rejected_trains);
    free(s);
}

/* trains[0..count) for the tokens that are there, all 0. */
static void clear_trains(struct encoder_scratch *s)
{
    if (s->trains_cap < s->tokens.count) {
        s->trains_cap = s->tokens.count * 2;
        s->trains = mem_resize(s->trains, s->trains_cap);
    }
    if (s->tokens.count)
        memset(s->trains, 0, s->tokens.count);
}

const struct json *encode_variables(const struct encoder *e, struct encoder_scratch *s, const struct json *root,
                                    struct err *err)
{
    const struct json *documents = json_get(root, "documents"), *extra = json_get(root, "chat_template_kwargs");
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const struct json *variables;

    if (json_is_null(documents) && json_is_null(extra))
        return e->format.variables;
    json_write_begin_object(&w);
    json_each(item, e->format.variables)
        json_write_key_str(&w, item->key), json_write_value(&w, item);
    if (!json_is_null(documents))
        json_put_value(&w, "documents", documents);
    json_each(item, extra)
        json_write_key_str(&w, item->key), json_write_value(&w, item);
    json_write_end_object(&w);
    variables = json_parse(&s->arena, (struct str){arena_copy(&s->arena, text.at, text.len), text.len}, NULL, err);
    strbuf_deinit(&text);
    return variables;
}

static bool has_weight_zero(const struct json *messages)
{
    json_each(message, messages) {
        const struct json *weight = json_get(message, "weight");
        if (json_has_type(weight, JSON_NUMBER) && json_number(weight) == 0)
            return true;
    }
    return false;
}

static bool render(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                   struct chat_text *chat, struct err *err)
{
    struct chat_input input;

    if (!chat_format_training_input(&e->format, example->messages, example->tools, &input, err))
        return false;
    input.variables = encode_variables(e, s, example->root, err);
    if (!input.variables || !chat_render(&input, &s->arena, chat, err))
        return false;
    for (size_t i = 0; i < chat->span_count; i++)
        if (chat->spans[i].message_index == CHAT_NO_MESSAGE && has_weight_zero(example->messages))
            return err_set(err, ERR_INPUT,
                           "weight cannot be honoured: the chat template marks another number of turns than "
                           "there are assistant messages");
    return true;
}

/* Tokens that hold at least one byte of the span train. One that the tokenizer put in (the mark of a word's beginning
 * in front of a digit, say) belongs to the byte behind it. */
static void train_span(struct encoder_scratch *s, const struct chat_span *span, size_t *from)
{
    const struct token_span *token = s->tokens.spans;
    size_t i = *from;

    while (i < s->tokens.count && token[i].end <= span->start && token[i].start < span->start)
        i++;
    *from = i;
    for (; i < s->tokens.count && token[i].start < span->end; i++)
        s->trains[i] |= token[i].end > span->start || token[i].start >= span->start;
}

static bool encode_messages(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                            struct encoded *out, struct err *err)
{
    struct chat_text chat;
    size_t from = 0;

    if (!render(e, s, example, &chat, err) ||
        !tokenizer_encode(e->format.tokenizer, s->tokenizer, chat.text, false, &s->tokens, err))
        return false;
    clear_trains(s);
    for (size_t i = 0; i < chat.span_count; i++) {
        const struct chat_span *span = &chat.spans[i];
        if (span->is_masked || span->start == span->end)
            continue;
        train_span(s, span, &from);
        out->turn_count++;
        out->stopped_count += span->has_end_token;
    }
    return true;
}

bool encode_text(const struct encoder *e, struct encoder_scratch *s, struct str text, struct token_list *list,
                 struct err *err)
{
    return tokenizer_encode(e->format.tokenizer, s->tokenizer, text, true, list, err);
}

size_t encode_common_prefix(const struct token_list *a, const struct token_list *b)
{
    size_t count = 0;

    while (count < a->count && count < b->count && a->ids[count] == b->ids[count])
        count++;
    return count;
}

/* Everything from where the tokens leave those of s->prompt trains. */
static void train_behind_prompt(struct encoder_scratch *s, bool is_stopped, struct encoded *out)
{
    size_t first = encode_common_prefix(&s->prompt, &s->tokens);

    clear_trains(s);
    memset(s->trains + first, 1, s->tokens.count - first);
    out->turn_count = 1;
    out->stopped_count = is_stopped;
}

static bool check_eos(const struct encoder *e, struct err *err)
{
    if (e->eos.len == 0 || tokenizer_token_id(e->format.tokenizer, e->eos) >= 0)
        return true;
    return err_set(err, ERR_INPUT,
                   "the model's end-of-text token '%.*s' is not a token of its tokenizer.json: it would be trained as "
                   "letters; add it there",
                   STR_ARG(str_clip(e->eos, 40)));
}

/* The text and the end-of-text token, which is there once. */
static bool encode_ended(const struct encoder *e, struct encoder_scratch *s, struct str before, struct str text,
                         struct err *err)
{
    if (!check_eos(e, err))
        return false;
    strbuf_add_str(&s->text, before);
    strbuf_add_str(&s->text, text);
    if (!str_ends(text, e->eos))
        strbuf_add_str(&s->text, e->eos);
    return encode_text(e, s, strbuf_view(&s->text), &s->tokens, err);
}

static bool encode_prompt(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                          struct encoded *out, struct err *err)
{
    bool is_stopped = e->eos.len > 0;

    if (example->completed) {
        if (!encode_conversation(e, s, example, example->messages, true, &s->prompt, &is_stopped, err) ||
            !encode_conversation(e, s, example, example->completed, false, &s->tokens, &is_stopped, err))
            return false;
    } else if (!encode_text(e, s, example->prompt, &s->prompt, err) ||
               !encode_ended(e, s, example->prompt, example->completion, err)) {
        return false;
    }
    train_behind_prompt(s, is_stopped, out);
    return true;
}

static bool encode_plain(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                         struct encoded *out, struct err *err)
{
    if (!encode_ended(e, s, STR_NONE, example->text, err))
        return false;
    train_behind_prompt(s, e->eos.len > 0, out);
    return true;
}

static void encode_token_ids(struct encoder_scratch *s, const struct example *example)
{
    const struct json *label = example->labels ? example->labels->first : NULL;
    size_t count = example->token_ids->count, i = 0;

    if (s->tokens.cap < count) {
        s->tokens.cap = count;
        s->tokens.ids = mem_resize(s->tokens.ids, count * sizeof *s->tokens.ids);
        s->tokens.spans = mem_resize(s->tokens.spans, count * sizeof *s->tokens.spans);
    }
    s->tokens.count = count;
    clear_trains(s);
    json_each(id, example->token_ids) {
        s->tokens.ids[i] = (int32_t)id->integer;
        s->trains[i++] = !label || label->integer != EXAMPLE_NO_LABEL;
        label = label ? label->next : NULL;
    }
}

bool encode_check_vocab(const struct encoder *e, const struct token_list *list, struct err *err)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->ids[i] >= e->options.vocab)
            return err_set(err, ERR_INPUT, "token %d at position %zu: the model has only the tokens 0 to %d",
                           list->ids[i], i, e->options.vocab - 1);
    return true;
}

static bool encode_kind(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                        struct encoded *out, struct err *err)
{
    switch (example->kind) {
    case EXAMPLE_MESSAGES:
        return encode_messages(e, s, example, out, err);
    case EXAMPLE_PROMPT:
        return encode_prompt(e, s, example, out, err);
    case EXAMPLE_TEXT:
        return encode_plain(e, s, example, out, err);
    default:
        encode_token_ids(s, example);
        return true;
    }
}

bool encode_example(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                    struct encoded *out, struct err *err)
{
    *out = (struct encoded){0};
    arena_reset(&s->arena);
    token_list_clear(&s->tokens);
    token_list_clear(&s->prompt);
    strbuf_clear(&s->text);
    if (!encode_kind(e, s, example, out, err) || !encode_check_vocab(e, &s->tokens, err))
        return false;
    if (s->tokens.count > 0)
        s->trains[0] = 0;
    out->ids = s->tokens.ids;
    out->trains = s->trains;
    out->count = (uint32_t)s->tokens.count;
    for (uint32_t i = 0; i < out->count; i++)
        out->trained_count += s->trains[i];
    return true;
}
