#include "api/api_int.h"
#include "api/chat_request.h"
#include "api/workers.h"
#include "os/clock.h"
#include "os/entropy.h"

#include <string.h>

/* One POST, from its body to the last byte of its answer. A completion with several prompts asks the worker once for
 * each; their choices are numbered through: index = prompt · n + choice. */
struct chat {
    struct call *call;
    struct chat_fields fields;
    struct model_place place;
    char id[48];
    int64_t created;
    struct ask {
        struct chat *chat;
        int index;
        struct chat_request *request; /* NULL: not sent, or ended */
    } * asks;
    int ask_count, done_count;
    struct choice {
        struct strbuf text, tokens;          /* tokens: JSON of the log-probabilities, comma separated */
        struct strbuf values, tops, offsets; /* the legacy shape: parallel lists */
        int64_t characters;
        const char *finish_reason;
        bool has_begun; /* streaming: the first chunk is out */
    } * choices;
    int choice_count;
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    struct http_stream *stream;
    bool is_over;
};

/* --- pieces of JSON --- */

static void begin_object(struct chat *chat, struct json_writer *w, const char *object)
{
    json_write_begin_object(w);
    json_put_text(w, "id", chat->id);
    json_put_text(w, "object", object);
    json_put_integer(w, "created", chat->created);
    json_put_text(w, "model", chat->place.id);
}

static void put_usage(struct chat *chat, struct json_writer *w)
{
    json_write_key(w, "usage");
    json_write_begin_object(w);
    json_put_integer(w, "prompt_tokens", chat->prompt_tokens);
    json_put_integer(w, "completion_tokens", chat->completion_tokens);
    json_put_integer(w, "total_tokens", chat->prompt_tokens + chat->completion_tokens);
    json_write_key(w, "prompt_tokens_details");
    json_write_begin_object(w);
    json_put_integer(w, "cached_tokens", chat->cached_tokens);
    json_write_end_object(w);
    json_write_end_object(w);
}

static void put_token(struct json_writer *w, const struct json *token, bool has_top)
{
    json_write_begin_object(w);
    json_put_value(w, "token", json_get(token, "token"));
    json_put_value(w, "logprob", json_get(token, "logprob"));
    json_put_value(w, "bytes", json_get(token, "bytes"));
    if (has_top) {
        json_write_key(w, "top_logprobs");
        json_write_begin_array(w);
        json_each(top, json_get(token, "top"))
            put_token(w, top, false);
        json_write_end_array(w);
    }
    json_write_end_object(w);
}

/* Chat's list of token objects, without its brackets. */
static void add_chat_tokens(struct choice *choice, const struct json *tokens)
{
    struct json_writer w = {.buf = &choice->tokens, .need_comma = choice->tokens.len > 0};

    json_each(token, tokens)
        put_token(&w, token, true);
}

/* The legacy lists: tokens, their log-probabilities, maps of alternatives, offsets in the text. */
static void add_text_tokens(struct choice *choice, const struct json *tokens)
{
    struct json_writer names = {.buf = &choice->tokens, .need_comma = choice->tokens.len > 0};
    struct json_writer values = {.buf = &choice->values, .need_comma = choice->values.len > 0};
    struct json_writer tops = {.buf = &choice->tops, .need_comma = choice->tops.len > 0};
    struct json_writer offsets = {.buf = &choice->offsets, .need_comma = choice->offsets.len > 0};

    json_each(token, tokens) {
        struct str text = json_string_or(json_get(token, "token"), STR_NONE);
        json_write_string(&names, text);
        json_write_value(&values, json_get(token, "logprob"));
        json_write_begin_object(&tops);
        json_each(top, json_get(token, "top")) {
            json_write_key_str(&tops, json_string_or(json_get(top, "token"), STR_NONE));
            json_write_value(&tops, json_get(top, "logprob"));
        }
        json_write_end_object(&tops);
        json_write_integer(&offsets, choice->characters);
        choice->characters += (int64_t)utf8_length(text);
    }
}

static void put_list(struct json_writer *w, const char *key, const struct strbuf *items)
{
    struct strbuf list = {0};

    strbuf_printf(&list, "[%s]", items->len ? items->at : "");
    json_write_key(w, key);
    json_write_raw(w, strbuf_view(&list));
    strbuf_deinit(&list);
}

static void put_logprobs(struct chat *chat, struct json_writer *w, const struct choice *choice)
{
    json_write_key(w, "logprobs");
    if (chat->fields.logprobs < 0) {
        json_write_null(w);
        return;
    }
    json_write_begin_object(w);
    if (chat->fields.is_chat) {
        put_list(w, "content", &choice->tokens);
        json_put_null(w, "refusal");
    } else {
        put_list(w, "tokens", &choice->tokens);
        put_list(w, "token_logprobs", &choice->values);
        put_list(w, "top_logprobs", &choice->tops);
        put_list(w, "text_offset", &choice->offsets);
    }
    json_write_end_object(w);
}

static void forget_tokens(struct choice *choice)
{
    strbuf_clear(&choice->tokens);
    strbuf_clear(&choice->values);
    strbuf_clear(&choice->tops);
    strbuf_clear(&choice->offsets);
}

/* --- the whole answer --- */

static void answer_whole(struct chat *chat)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    begin_object(chat, &w, chat->fields.is_chat ? "chat.completion" : "text_completion");
    json_write_key(&w, "choices");
    json_write_begin_array(&w);
    for (int i = 0; i < chat->choice_count; i++) {
        const struct choice *choice = &chat->choices[i];
        json_write_begin_object(&w);
        json_put_integer(&w, "index", i);
        if (chat->fields.is_chat) {
            json_write_key(&w, "message");
            json_write_begin_object(&w);
            json_put_text(&w, "role", "assistant");
            json_put_str(&w, "content", strbuf_view(&choice->text));
            json_put_null(&w, "refusal");
            json_write_end_object(&w);
        } else {
            json_put_str(&w, "text", strbuf_view(&choice->text));
        }
        json_put_text(&w, "finish_reason", choice->finish_reason ? choice->finish_reason : "stop");
        put_logprobs(chat, &w, choice);
        json_write_end_object(&w);
    }
    json_write_end_array(&w);
    put_usage(chat, &w);
    json_write_end_object(&w);
    answer_json(chat->call, 200, &body);
    strbuf_deinit(&body);
}

/* --- the streamed answer --- */

static void end_chunk(struct chat *chat, struct json_writer *w, bool is_usage)
{
    if (is_usage)
        put_usage(chat, w);
    else if (chat->fields.has_usage)
        json_put_null(w, "usage");
    json_write_end_object(w);
    http_stream_event(chat->stream, NULL, NULL, strbuf_view(w->buf));
    strbuf_deinit(w->buf);
}

/* text NULL: none (the last chunk of a choice). */
static void send_chunk(struct chat *chat, int index, const struct str *text, bool is_first)
{
    struct choice *choice = &chat->choices[index];
    struct strbuf chunk = {0};
    struct json_writer w = {.buf = &chunk};

    begin_object(chat, &w, chat->fields.is_chat ? "chat.completion.chunk" : "text_completion");
    json_write_key(&w, "choices");
    json_write_begin_array(&w);
    json_write_begin_object(&w);
    json_put_integer(&w, "index", index);
    if (chat->fields.is_chat) {
        json_write_key(&w, "delta");
        json_write_begin_object(&w);
        if (is_first)
            json_put_text(&w, "role", "assistant");
        if (text)
            json_put_str(&w, "content", *text);
        json_write_end_object(&w);
    } else {
        json_put_str(&w, "text", text ? *text : STR(""));
    }
    json_put_text(&w, "finish_reason", text ? NULL : choice->finish_reason);
    if (choice->tokens.len)
        put_logprobs(chat, &w, choice);
    else
        json_put_null(&w, "logprobs");
    forget_tokens(choice);
    json_write_end_object(&w);
    json_write_end_array(&w);
    end_chunk(chat, &w, false);
}

static void send_usage(struct chat *chat)
{
    struct strbuf chunk = {0};
    struct json_writer w = {.buf = &chunk};

    begin_object(chat, &w, chat->fields.is_chat ? "chat.completion.chunk" : "text_completion");
    json_write_key(&w, "choices");
    json_write_begin_array(&w);
    json_write_end_array(&w);
    end_chunk(chat, &w, true);
}

static void begin_stream(struct chat *chat)
{
    if (!chat->stream)
        chat->stream = http_answer_stream(chat->call->exchange,
                                          &(struct http_response){.status = 200, .content_type = "text/event-stream"});
}

static void begin_choice(struct chat *chat, int index)
{
    struct choice *choice = &chat->choices[index];
    struct str empty = STR("");

    begin_stream(chat);
    if (choice->has_begun)
        return;
    choice->has_begun = true;
    if (chat->fields.is_chat)
        send_chunk(chat, index, &empty, true);
    else if (chat->fields.has_echo && choice->text.len) {
        struct str echo = strbuf_view(&choice->text);
        send_chunk(chat, index, &echo, false);
    }
}

/* --- lines from the worker --- */

static void fail(struct chat *chat, int status, const char *code, const char *message)
{
    struct strbuf body = {0};

    if (chat->is_over)
        return;
    chat->is_over = true;
    if (chat->stream) {
        http_error_body(&body, status, NULL, code, NULL, message);
        http_stream_event(chat->stream, NULL, NULL, strbuf_view(&body));
        http_stream_end(chat->stream);
    } else if (status == 422) {
        struct problems problems = {.arena = chat->call->arena};
        problems_add(&problems, code, chat->fields.is_chat ? "messages" : "prompt", NULL, NULL, "%s", message);
        answer_problems(chat->call, &problems);
    } else {
        answer_error(chat->call, status, code, NULL, "%s", message);
    }
    strbuf_deinit(&body);
}

static void take_text(struct chat *chat, int index, const struct json *line)
{
    struct choice *choice = &chat->choices[index];
    struct str text = json_string_or(json_get(line, "text"), STR_NONE);
    const struct json *tokens = json_get(line, "tokens");

    if (chat->fields.is_stream)
        begin_choice(chat, index); /* before the tokens: its chunk has none */
    if (chat->fields.is_chat)
        add_chat_tokens(choice, tokens);
    else
        add_text_tokens(choice, tokens);
    if (chat->fields.is_stream)
        send_chunk(chat, index, &text, false);
    else
        strbuf_add_str(&choice->text, text);
}

static void take_finish(struct chat *chat, int index, const struct json *line)
{
    struct choice *choice = &chat->choices[index];

    choice->finish_reason = str_copy(chat->call->arena, json_string_or(json_get(line, "finish_reason"), STR("stop")));
    if (!chat->fields.is_stream)
        return;
    begin_choice(chat, index);
    send_chunk(chat, index, NULL, false);
}

static void take_done(struct ask *ask, const struct json *line)
{
    struct chat *chat = ask->chat;

    ask->request = NULL;
    chat->prompt_tokens += json_integer_or(json_get(line, "prompt_tokens"), 0);
    chat->cached_tokens += json_integer_or(json_get(line, "cached_tokens"), 0);
    chat->completion_tokens += json_integer_or(json_get(line, "completion_tokens"), 0);
    if (++chat->done_count < chat->ask_count)
        return;
    chat->is_over = true;
    usage_book_add(chat->call->api->usage, &chat->call->tenant, chat->place.id, chat->prompt_tokens,
                   chat->completion_tokens);
    if (!chat->fields.is_stream) {
        answer_whole(chat);
        return;
    }
    if (chat->fields.has_usage)
        send_usage(chat);
    http_stream_event(chat->stream, NULL, NULL, STR("[DONE]"));
    http_stream_end(chat->stream);
}

static void on_line(void *context, const struct json *line)
{
    struct ask *ask = context;
    struct chat *chat = ask->chat;
    const struct json *error = json_get(line, "error");
    int64_t index = ask->index * chat->fields.n + json_integer_or(json_get(line, "choice"), 0);

    if (error) {
        bool is_input = !json_is(json_get(error, "code"), "internal_error");
        ask->request = NULL;
        fail(chat, is_input ? 422 : 500,
             str_copy(chat->call->arena, json_string_or(json_get(error, "code"), STR("internal_error"))),
             str_copy(chat->call->arena, json_string_or(json_get(error, "message"), STR("The request failed."))));
    } else if (json_bool_or(json_get(line, "done"), false)) {
        if (!chat->is_over)
            take_done(ask, line);
        else
            ask->request = NULL;
    } else if (!chat->is_over && index >= 0 && index < chat->choice_count) {
        if (json_get(line, "finish_reason"))
            take_finish(chat, (int)index, line);
        else
            take_text(chat, (int)index, line);
    }
}

static void on_lost(void *context, const struct err *err)
{
    struct ask *ask = context;

    ask->request = NULL;
    fail(ask->chat, err->code == ERR_INTERNAL || err->code == ERR_NO_SPACE || err->code == ERR_CONFLICT ? 503 : 422,
         err_code_name(err->code), err->text);
}

static void on_close(void *context, bool is_complete)
{
    struct chat *chat = context;

    (void)is_complete;
    chat->is_over = true;
    for (int i = 0; i < chat->ask_count; i++)
        if (chat->asks[i].request)
            workers_cancel(chat->call->api->workers, chat->asks[i].request);
    for (int i = 0; i < chat->choice_count; i++) {
        struct choice *choice = &chat->choices[i];
        strbuf_deinit(&choice->text);
        strbuf_deinit(&choice->tokens);
        strbuf_deinit(&choice->values);
        strbuf_deinit(&choice->tops);
        strbuf_deinit(&choice->offsets);
    }
}

/* --- the request --- */

static void make_choices(struct chat *chat)
{
    int n = (int)chat->fields.n;

    chat->ask_count = chat->fields.is_chat ? 1 : chat->fields.prompt_count;
    chat->choice_count = chat->ask_count * n;
    chat->asks = arena_new_array(chat->call->arena, struct ask, (size_t)chat->ask_count);
    chat->choices = arena_new_array(chat->call->arena, struct choice, (size_t)chat->choice_count);
    for (int i = 0; i < chat->choice_count && chat->fields.has_echo; i++) {
        const struct json *prompt = chat->fields.prompts[i / n];
        if (prompt->type == JSON_STRING)
            strbuf_add_str(&chat->choices[i].text, prompt->string);
    }
}

static void send_all(struct chat *chat)
{
    struct err err = {0};

    for (int i = 0; i < chat->ask_count && !chat->is_over; i++) {
        struct ask *ask = &chat->asks[i];
        struct strbuf members = {0};
        *ask = (struct ask){.chat = chat, .index = i};
        chat_fields_write(&chat->fields, i, chat->call->tenant.project_id, &members);
        ask->request = workers_send(chat->call->api->workers, &chat->place, strbuf_view(&members),
                                    &(struct chat_sink){on_line, on_lost, ask}, &err);
        strbuf_deinit(&members);
        if (!ask->request)
            fail(chat, 503, err_code_name(err.code), err.text);
    }
}

static void create_from(struct call *call, const struct json *body, bool is_chat)
{
    struct problems problems = {.arena = call->arena};
    struct chat *chat = arena_new(call->arena, struct chat);
    struct err err = {0};

    chat->call = call;
    chat->created = clock_unix();
    memcpy(chat->id, is_chat ? "chatcmpl-" : "cmpl-", is_chat ? 10 : 6);
    entropy_hex(chat->id + strlen(chat->id), 16);
    if (!chat_fields_read(call->arena, body, is_chat, &chat->fields, &problems)) {
        answer_problems(call, &problems);
        return;
    }
    if (!chat->fields.has_seed)
        entropy_fill(&chat->fields.seed, 4);
    if (!model_find(call, chat->fields.model, &chat->place, &err)) {
        answer_error(call, err.code == ERR_NOT_FOUND ? 404 : 500, "model_not_found", "model", "%s", err.text);
        return;
    }
    make_choices(chat);
    http_exchange_on_close(call->exchange, on_close, chat);
    send_all(chat);
}

static void create_chat_from(struct call *call, const struct json *body)
{
    create_from(call, body, true);
}

static void create_completion_from(struct call *call, const struct json *body)
{
    create_from(call, body, false);
}

void chat_create(struct call *call)
{
    take_json(call, create_chat_from);
}

void completions_create(struct call *call)
{
    take_json(call, create_completion_from);
}
