#include "data/encode.h"
#include "base/hash.h"
#include "text/chat.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* A model may have a second template for conversations with tools. */
enum { PLAIN, WITH_TOOLS, TEMPLATE_COUNT };

struct encoder {
    struct arena arena;
    struct encoder_options options;
    struct tokenizer *tokenizer;
    const struct template *template[TEMPLATE_COUNT]; /* NULL: the model has none */
    struct str *specials;
    size_t special_count;
    struct str eos; /* text of the end-of-text token; empty: none */
    struct str special_text[TOKENIZER_SPECIALS];
    const struct json *variables; /* bos_token and the like, as templates see them */
    bool has_clock;               /* a template asks for the time */
    char hash[65], template_hash[65];
};

struct encoder_scratch {
    struct tokenizer_scratch *tokenizer;
    struct token_list tokens, prompt;
    struct strbuf text;
    struct arena arena; /* one example */
    uint8_t *trains;
    size_t trains_cap;
};

static void hash_text(struct str text, char hex[65])
{
    uint8_t digest[32];

    sha256_of(text, digest);
    hex_encode(digest, sizeof digest, hex);
}

static bool open_template(struct encoder *e, int which, struct str *source, struct err *err)
{
    struct err missing = {0};

    *source = STR_NONE;
    if (!template_find(e->options.folder, which == WITH_TOOLS, &e->arena, source, &missing)) {
        *source = STR_NONE;
        if (missing.code == ERR_NOT_FOUND)
            return true;
        *err = missing;
        return false;
    }
    e->template[which] = template_parse(&e->arena, *source, err);
    return e->template[which] || err_prefix(err, "the model's chat template");
}

static bool open_templates(struct encoder *e, struct err *err)
{
    struct strbuf both = {0};
    struct str source[TEMPLATE_COUNT];

    for (int which = 0; which < TEMPLATE_COUNT; which++)
        if (!open_template(e, which, &source[which], err))
            return false;
    if (!source[PLAIN].at)
        return true;
    strbuf_add_str(&both, source[PLAIN]);
    if (source[WITH_TOOLS].at && !str_equal(source[PLAIN], source[WITH_TOOLS])) {
        strbuf_add_char(&both, 0);
        strbuf_add_str(&both, source[WITH_TOOLS]);
    }
    hash_text(strbuf_view(&both), e->template_hash);
    e->has_clock = str_find(strbuf_view(&both), STR("strftime_now"), 0) >= 0;
    strbuf_deinit(&both);
    return true;
}

static void list_specials(struct encoder *e)
{
    size_t limit = tokenizer_id_limit(e->tokenizer), count = 0;

    for (size_t id = 0; id < limit; id++)
        count += tokenizer_is_special(e->tokenizer, (int32_t)id);
    e->specials = arena_new_array(&e->arena, struct str, count + 1);
    for (size_t id = 0; id < limit; id++)
        if (tokenizer_is_special(e->tokenizer, (int32_t)id))
            e->specials[e->special_count++] = tokenizer_token_text(e->tokenizer, (int32_t)id);
}

static const struct json *make_variables(struct encoder *e, struct err *err)
{
    static const char *const names[TOKENIZER_SPECIALS] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    struct json *variables;

    json_write_begin_object(&w);
    for (int i = 0; i < TOKENIZER_SPECIALS; i++)
        if (e->special_text[i].len > 0)
            json_put_str(&w, names[i], e->special_text[i]);
    json_write_end_object(&w);
    variables = json_parse(&e->arena, (struct str){arena_copy(&e->arena, text.at, text.len), text.len}, NULL, err);
    strbuf_deinit(&text);
    return variables;
}

static void make_hash(struct encoder *e)
{
    struct strbuf text = {0};

    strbuf_printf(&text, "1 %s %s %d %lld", tokenizer_hash(e->tokenizer), e->template_hash, e->options.vocab,
                  e->has_clock ? (long long)e->options.now : 0);
    for (int i = 0; i < TOKENIZER_SPECIALS; i++)
        strbuf_printf(&text, " %zu:%.*s", e->special_text[i].len, STR_ARG(e->special_text[i]));
    strbuf_printf(&text, " %.*s %d", STR_ARG(e->eos), tokenizer_adds_bos(e->tokenizer, false));
    hash_text(strbuf_view(&text), e->hash);
    strbuf_deinit(&text);
}

struct encoder *encoder_open(const struct encoder_options *options, struct err *err)
{
    struct encoder *e = mem_alloc_zero(1, sizeof *e);

    e->options = *options;
    e->options.folder = arena_copy(&e->arena, options->folder, strlen(options->folder));
    e->tokenizer = tokenizer_open(options->folder, err);
    if (!e->tokenizer || !open_templates(e, err))
        goto failed;
    for (int i = 0; i < TOKENIZER_SPECIALS; i++)
        e->special_text[i] = tokenizer_special_text(e->tokenizer, (enum tokenizer_special)i);
    e->eos = e->special_text[TOKENIZER_EOS];
    if (e->eos.len == 0 && options->eos_id >= 0)
        e->eos = tokenizer_token_text(e->tokenizer, options->eos_id);
    list_specials(e);
    e->variables = make_variables(e, err);
    if (!e->variables)
        goto failed;
    make_hash(e);
    return e;
failed:
    encoder_free(e);
    return NULL;
}

void encoder_free(struct encoder *e)
{
    if (!e)
        return;
    tokenizer_free(e->tokenizer);
    arena_deinit(&e->arena);
    free(e);
}

const char *encoder_hash(const struct encoder *encoder)
{
    return encoder->hash;
}

const char *encoder_tokenizer_hash(const struct encoder *encoder)
{
    return tokenizer_hash(encoder->tokenizer);
}

const char *encoder_template_hash(const struct encoder *encoder)
{
    return encoder->template_hash;
}

const struct tokenizer *encoder_tokenizer(const struct encoder *encoder)
{
    return encoder->tokenizer;
}

struct encoder_scratch *encoder_scratch_new(const struct encoder *encoder)
{
    struct encoder_scratch *s = mem_alloc_zero(1, sizeof *s);

    s->tokenizer = tokenizer_scratch_new(encoder->tokenizer);
    return s;
}

void encoder_scratch_free(struct encoder_scratch *s)
{
    if (!s)
        return;
    tokenizer_scratch_free(s->tokenizer);
    token_list_deinit(&s->tokens);
    token_list_deinit(&s->prompt);
    strbuf_deinit(&s->text);
    arena_deinit(&s->arena);
    free(s->trains);
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

/* The template's own variables with the line's documents and chat_template_kwargs laid over them. */
static const struct json *line_variables(const struct encoder *e, struct encoder_scratch *s, const struct json *root,
                                         struct err *err)
{
    const struct json *documents = json_get(root, "documents"), *extra = json_get(root, "chat_template_kwargs");
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const struct json *variables;

    if (json_is_null(documents) && json_is_null(extra))
        return e->variables;
    json_write_begin_object(&w);
    for json_each (item, e->variables)
        json_write_key_str(&w, item->key), json_write_value(&w, item);
    if (!json_is_null(documents))
        json_put_value(&w, "documents", documents);
    for json_each (item, extra)
        json_write_key_str(&w, item->key), json_write_value(&w, item);
    json_write_end_object(&w);
    variables = json_parse(&s->arena, (struct str){arena_copy(&s->arena, text.at, text.len), text.len}, NULL, err);
    strbuf_deinit(&text);
    return variables;
}

static bool has_weight_zero(const struct json *messages)
{
    for json_each (message, messages) {
        const struct json *weight = json_get(message, "weight");
        if (weight && weight->type == JSON_NUMBER && json_number(weight) == 0)
            return true;
    }
    return false;
}

static bool render(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                   struct chat_text *chat, struct err *err)
{
    struct chat_input input = {
        .template = e->template[example->tools ? WITH_TOOLS : PLAIN],
        .messages = example->messages,
        .tools = example->tools,
        .special_tokens = e->specials,
        .special_token_count = e->special_count,
        .options = {.now = e->options.now},
    };

    if (!input.template)
        return err_set(
            err, ERR_INPUT,
            "the model has no chat template, so messages cannot be written as its text: take a model that has one, "
            "or send prompt and completion, text or token_ids");
    input.variables = line_variables(e, s, example->root, err);
    if (!input.variables || !chat_render(&input, &s->arena, chat, err))
        return false;
    for (size_t i = 0; i < chat->span_count; i++)
        if (chat->spans[i].message_index == CHAT_NO_MESSAGE && has_weight_zero(example->messages))
            return err_set(err, ERR_INPUT,
                           "weight cannot be honoured: the chat template marks another number of turns than "
                           "there are assistant messages");
    return true;
}

/* Tokens that hold at least one byte of the span train. */
static void train_span(struct encoder_scratch *s, const struct chat_span *span, size_t *from)
{
    size_t i = *from;

    while (i < s->tokens.count && s->tokens.spans[i].end <= span->start)
        i++;
    *from = i;
    for (; i < s->tokens.count && s->tokens.spans[i].start < span->end; i++)
        s->trains[i] |= s->tokens.spans[i].end > span->start;
}

static bool encode_messages(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                            struct encoded *out, struct err *err)
{
    struct chat_text chat;
    size_t from = 0;

    if (!render(e, s, example, &chat, err) ||
        !tokenizer_encode(e->tokenizer, s->tokenizer, chat.text, false, &s->tokens, err))
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

static void insert_bos(struct token_list *list, int32_t id)
{
    if (list->count == list->cap) {
        list->cap = list->cap * 2 + 16;
        list->ids = mem_resize(list->ids, list->cap * sizeof *list->ids);
        list->spans = mem_resize(list->spans, list->cap * sizeof *list->spans);
    }
    memmove(list->ids + 1, list->ids, list->count * sizeof *list->ids);
    memmove(list->spans + 1, list->spans, list->count * sizeof *list->spans);
    list->ids[0] = id;
    list->spans[0] = (struct token_span){0, 0};
    list->count++;
}

/* With what the tokenizer puts around a text; some name the beginning-of-text token in their config alone. */
static bool encode_text(const struct encoder *e, struct encoder_scratch *s, struct str text, struct token_list *list,
                        struct err *err)
{
    int32_t bos = tokenizer_special_id(e->tokenizer, TOKENIZER_BOS);

    if (!tokenizer_encode(e->tokenizer, s->tokenizer, text, true, list, err))
        return false;
    if (bos >= 0 && tokenizer_adds_bos(e->tokenizer, false) && (list->count == 0 || list->ids[0] != bos))
        insert_bos(list, bos);
    return true;
}

static size_t common_prefix(const struct token_list *a, const struct token_list *b)
{
    size_t count = 0;

    while (count < a->count && count < b->count && a->ids[count] == b->ids[count])
        count++;
    return count;
}

/* Everything from where the tokens leave those of s->prompt trains; the text stands in s->text. */
static bool encode_ended_text(const struct encoder *e, struct encoder_scratch *s, struct encoded *out, struct err *err)
{
    size_t first;

    if (!str_ends(strbuf_view(&s->text), e->eos))
        strbuf_add_str(&s->text, e->eos);
    if (!encode_text(e, s, strbuf_view(&s->text), &s->tokens, err))
        return false;
    clear_trains(s);
    first = common_prefix(&s->prompt, &s->tokens);
    memset(s->trains + first, 1, s->tokens.count - first);
    out->turn_count = 1;
    out->stopped_count = e->eos.len > 0;
    return true;
}

static bool encode_prompt(const struct encoder *e, struct encoder_scratch *s, const struct example *example,
                          struct encoded *out, struct err *err)
{
    if (!encode_text(e, s, example->prompt, &s->prompt, err))
        return false;
    strbuf_add_str(&s->text, example->prompt);
    strbuf_add_str(&s->text, example->completion);
    return encode_ended_text(e, s, out, err);
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
    for json_each (id, example->token_ids) {
        s->tokens.ids[i] = (int32_t)id->integer;
        s->trains[i++] = !label || label->integer != EXAMPLE_NO_LABEL;
        label = label ? label->next : NULL;
    }
}

static bool check_vocab(const struct encoder *e, const struct encoder_scratch *s, struct err *err)
{
    for (size_t i = 0; i < s->tokens.count; i++)
        if (s->tokens.ids[i] >= e->options.vocab)
            return err_set(err, ERR_INPUT, "token %d at position %zu: the model has only the tokens 0 to %d",
                           s->tokens.ids[i], i, e->options.vocab - 1);
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
        strbuf_add_str(&s->text, example->text);
        return encode_ended_text(e, s, out, err);
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
    if (!encode_kind(e, s, example, out, err) || !check_vocab(e, s, err))
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
