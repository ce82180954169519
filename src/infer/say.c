#include "infer/worker_int.h"
#include "os/file.h"

struct json_writer say_begin(struct worker *w, int64_t id)
{
    struct json_writer writer = {.buf = &w->out};

    strbuf_clear(&w->out);
    json_write_begin_object(&writer);
    if (id >= 0)
        json_put_integer(&writer, "id", id);
    return writer;
}

void say_end(struct worker *w, struct json_writer *writer)
{
    json_write_end_object(writer);
    strbuf_add_char(&w->out, '\n');
    if (!w->is_broken && !fd_write_all(w->out_fd, w->out.at, w->out.len, "the answer's pipe", NULL))
        w->is_broken = true;
}

void say_error(struct worker *w, int64_t id, const char *member, const struct err *err)
{
    struct json_writer writer = say_begin(w, id);

    json_write_key(&writer, member);
    json_write_begin_object(&writer);
    json_put_text(&writer, "code", err_code_name(err->code));
    json_put_text(&writer, "message", err->text);
    json_put_null(&writer, "param");
    json_write_end_object(&writer);
    say_end(w, &writer);
}

static void put_token(const struct voice *voice, struct json_writer *writer, int32_t id, double logprob)
{
    struct strbuf text = {0};

    tokenizer_decode(voice->format.tokenizer, &id, 1, false, &text);
    json_put_str(writer, "token", strbuf_view(&text));
    json_put_number(writer, "logprob", logprob);
    json_write_key(writer, "bytes");
    json_write_begin_array(writer);
    for (size_t i = 0; i < text.len; i++)
        json_write_integer(writer, (unsigned char)text.at[i]);
    json_write_end_array(writer);
    strbuf_deinit(&text);
}

static void put_tokens(const struct voice *voice, struct json_writer *writer, const struct reply_piece *piece)
{
    json_write_key(writer, "tokens");
    json_write_begin_array(writer);
    for (size_t i = 0; i < piece->token_count; i++) {
        const struct sequence_token *token = &piece->tokens[i];
        json_write_begin_object(writer);
        put_token(voice, writer, token->id, token->logprob);
        json_write_key(writer, "top");
        json_write_begin_array(writer);
        for (int k = 0; k < token->top_count; k++) {
            json_write_begin_object(writer);
            put_token(voice, writer, token->top[k].id, token->top[k].logprob);
            json_write_end_object(writer);
        }
        json_write_end_array(writer);
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

void say_piece(struct request *r, int choice, const struct reply_piece *piece)
{
    struct json_writer writer;

    if (piece->text.len == 0 && piece->token_count == 0)
        return;
    writer = say_begin(r->worker, r->id);
    json_put_integer(&writer, "choice", choice);
    json_put_str(&writer, "text", piece->text);
    if (r->sequence.logprobs >= 0)
        put_tokens(r->voice, &writer, piece);
    say_end(r->worker, &writer);
}

void say_finish(struct request *r, int choice, const char *reason)
{
    struct json_writer writer = say_begin(r->worker, r->id);

    json_put_integer(&writer, "choice", choice);
    json_put_text(&writer, "finish_reason", reason);
    say_end(r->worker, &writer);
}

void say_done(struct request *r)
{
    struct json_writer writer = say_begin(r->worker, r->id);

    json_put_bool(&writer, "done", true);
    json_put_integer(&writer, "prompt_tokens", (int64_t)r->prompt.count);
    json_put_integer(&writer, "cached_tokens", r->cached_tokens);
    json_put_integer(&writer, "completion_tokens", r->completion_tokens);
    say_end(r->worker, &writer);
}
