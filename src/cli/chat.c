#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chat {
    struct remote remote;
    const char *model, *system;
    double temperature;
    int64_t max_tokens;
    struct strbuf messages; /* JSON of the conversation so far, comma separated */
    struct strbuf reply;
    struct err refused; /* an error inside the stream */
};

static void add_message(struct chat *chat, const char *role, struct str content)
{
    struct json_writer w = {.buf = &chat->messages, .need_comma = chat->messages.len > 0};

    json_write_begin_object(&w);
    json_put_text(&w, "role", role);
    json_put_str(&w, "content", content);
    json_write_end_object(&w);
}

static bool on_data(void *context, struct str data)
{
    struct chat *chat = context;
    struct arena arena = {0};
    const struct json *chunk = json_parse(&arena, data, NULL, NULL), *delta;
    struct str text;

    if (json_get(chunk, "error"))
        err_set(&chat->refused, ERR_INPUT, "%.*s",
                STR_ARG(json_string_or(json_get(json_get(chunk, "error"), "message"), STR("failed"))));
    delta = json_get(json_at(json_get(chunk, "choices"), 0), "delta");
    text = json_string_or(json_get(delta, "content"), STR_NONE);
    if (text.len > 0)
        fwrite(text.at, 1, text.len, stdout);
    fflush(stdout);
    strbuf_add_str(&chat->reply, text);
    arena_deinit(&arena);
    return true;
}

static bool say(struct chat *chat, struct str prompt, struct err *err)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    bool ok;

    add_message(chat, "user", prompt);
    json_write_begin_object(&w);
    json_put_text(&w, "model", chat->model);
    json_put_bool(&w, "stream", true);
    json_put_number(&w, "temperature", chat->temperature);
    if (chat->max_tokens > 0)
        json_put_integer(&w, "max_tokens", chat->max_tokens);
    json_write_key(&w, "messages");
    json_write_raw(&w, str_of(arena_printf(&chat->remote.arena, "[%s]", chat->messages.at)));
    json_write_end_object(&w);
    strbuf_clear(&chat->reply);
    ok = remote_stream(&chat->remote, "/v1/chat/completions", strbuf_view(&body), on_data, chat, err);
    putchar('\n');
    if (ok && chat->refused.code) {
        *err = chat->refused;
        ok = false;
    }
    add_message(chat, "assistant", strbuf_view(&chat->reply));
    strbuf_deinit(&body);
    return ok;
}

static bool talk(struct chat *chat, struct err *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    bool ok = true;

    for (;;) {
        if (isatty(0)) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        len = getline(&line, &cap, stdin);
        if (len < 0) {
            ok = options_input_ended(err);
            break;
        }
        struct str prompt = str_trim((struct str){line, (size_t)len});
        if (prompt.len > 0 && !(ok = say(chat, prompt, err)))
            break;
    }
    free(line);
    return ok;
}

int cli_chat(int argc, char **argv)
{
    struct chat chat = {.temperature = 0.7};
    const char *words[2] = {0};
    const struct option option[] = {
        REMOTE_OPTION(chat.remote),
        {"system", OPTION_TEXT, &chat.system, "TEXT", "system message", NULL},
        {"temperature", OPTION_FLOAT, &chat.temperature, "X", "0 takes the likeliest token (default 0.7)", NULL},
        {"max-tokens", OPTION_INT, &chat.max_tokens, "N", "of a reply (default: as far as the context reaches)", NULL},
    };
    const struct options options = {
        .usage = "attune chat MODEL [PROMPT]",
        .about = "Talks with a base or tuned model of a running server: one prompt, or line by line.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .positional_min = 1,
        .positional_max = 2};
    struct err err = {0};
    bool ok;

    if (!options_parse(&options, argc, argv, words, NULL, &err)) {
        fprintf(stderr, "attune chat: %s\n", err.text);
        return 2;
    }
    chat.model = words[0];
    if (chat.system)
        add_message(&chat, "system", str_of(chat.system));
    ok = words[1] ? say(&chat, str_of(words[1]), &err) : talk(&chat, &err);
    strbuf_deinit(&chat.messages);
    strbuf_deinit(&chat.reply);
    remote_close(&chat.remote);
    if (!ok)
        fprintf(stderr, "attune chat: %s\n", err.text);
    return ok ? 0 : 1;
}
