#include "text/chat_format.h"
#include "text/training_template.h"

#include <string.h>

static bool open_template(struct chat_format *format, const char *folder, bool has_tools, struct str *source,
                          const struct template **template, const struct template **training, struct err *err)
{
    struct err missing = {0};
    struct str variant;
    const char *name;

    if (!template_find(folder, has_tools, &format->arena, source, &missing)) {
        *source = STR_NONE;
        if (missing.code == ERR_NOT_FOUND)
            return true;
        if (err)
            *err = missing;
        return false;
    }
    *training = *template = template_parse(&format->arena, *source, err);
    if (!*template)
        return err_prefix(err, "the model's chat template");
    name = training_template_find(*source, &format->arena, &variant);
    if (!name)
        return true;
    format->training_name = name;
    *training = template_parse(&format->arena, variant, err);
    return *training || err_prefix(err, "the training variant of %s's chat template", name);
}

static void list_specials(struct chat_format *format)
{
    size_t limit = tokenizer_id_limit(format->tokenizer), count = 0;

    for (size_t id = 0; id < limit; id++)
        count += tokenizer_is_special(format->tokenizer, (int32_t)id);
    format->specials = arena_new_array(&format->arena, struct str, count + 1);
    for (size_t id = 0; id < limit; id++)
        if (tokenizer_is_special(format->tokenizer, (int32_t)id))
            format->specials[format->special_count++] = tokenizer_token_text(format->tokenizer, (int32_t)id);
}

static bool make_variables(struct chat_format *format, struct err *err)
{
    static const char *const names[TOKENIZER_SPECIALS] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};

    json_write_begin_object(&w);
    for (int i = 0; i < TOKENIZER_SPECIALS; i++) {
        struct str special = tokenizer_special_text(format->tokenizer, (enum tokenizer_special)i);
        if (special.len > 0)
            json_put_str(&w, names[i], special);
    }
    json_write_end_object(&w);
    format->variables =
        json_parse(&format->arena, (struct str){arena_copy(&format->arena, text.at, text.len), text.len}, NULL, err);
    strbuf_deinit(&text);
    return format->variables != NULL;
}

bool chat_format_open(struct chat_format *format, const char *folder, int64_t now, struct err *err)
{
    *format = (struct chat_format){.now = now};
    format->tokenizer = tokenizer_open(folder, err);
    if (!format->tokenizer)
        goto failed;
    if (!open_template(format, folder, true, &format->template_tools_source, &format->template_tools,
                       &format->training_tools, err) ||
        !open_template(format, folder, false, &format->template_source, &format->template, &format->training, err))
        goto failed;
    list_specials(format);
    if (!make_variables(format, err))
        goto failed;
    return true;
failed:
    chat_format_close(format);
    return false;
}

void chat_format_close(struct chat_format *format)
{
    tokenizer_free(format->tokenizer);
    arena_deinit(&format->arena);
    *format = (struct chat_format){0};
}

static bool make_input(const struct chat_format *format, const struct template *template, const struct json *messages,
                       const struct json *tools, struct chat_input *input, struct err *err)
{
    struct str source = tools ? format->template_tools_source : format->template_source;

    if (!template)
        return err_set(err, ERR_UNSUPPORTED,
                       "the model has no chat template: put a chat_template.jinja into its folder, or use prompts and "
                       "texts instead of messages");
    *input = (struct chat_input){
        .template = template,
        .messages = messages,
        .tools = tools,
        .variables = format->variables,
        .special_tokens = format->specials,
        .special_token_count = format->special_count,
        .no_developer = str_find(source, STR("developer"), 0) < 0,
        .options = {.now = format->now},
    };
    return true;
}

bool chat_format_input(const struct chat_format *format, const struct json *messages, const struct json *tools,
                       struct chat_input *input, struct err *err)
{
    return make_input(format, tools ? format->template_tools : format->template, messages, tools, input, err);
}

bool chat_format_training_input(const struct chat_format *format, const struct json *messages, const struct json *tools,
                                struct chat_input *input, struct err *err)
{
    return make_input(format, tools ? format->training_tools : format->training, messages, tools, input, err);
}

int32_t chat_format_end_of_turn(const struct chat_format *format)
{
    static const char example[] = "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]";
    struct arena arena = {0};
    struct chat_input input;
    struct chat_text chat;
    struct str turn;
    int32_t id = -1;
    size_t longest = 0;

    if (!chat_format_input(format, json_parse(&arena, STR(example), NULL, NULL), NULL, &input, NULL) ||
        !chat_render(&input, &arena, &chat, NULL) || chat.span_count != 1 || !chat.spans[0].has_end_token)
        goto out;
    turn = str_slice(chat.text, chat.spans[0].start, chat.spans[0].end);
    for (size_t i = 0; i < format->special_count; i++) {
        if (format->specials[i].len > longest && str_ends(turn, format->specials[i])) {
            longest = format->specials[i].len;
            id = tokenizer_token_id(format->tokenizer, format->specials[i]);
        }
    }
out:
    arena_deinit(&arena);
    return id;
}
