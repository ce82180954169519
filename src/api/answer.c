#include "api/api_int.h"
#include "api/secret_json.h"

#include <stdio.h>

enum { JSON_BODY_BYTES_MAX = 4 << 20, BUSY_WAIT_S = 5 };

/* What a request did is on record before anybody hears of it. */
static void before_answer(struct call *call, int status, const char *body)
{
    idempotency_end(call, status, body);
    audit_end(call, status, body);
}

void answer_json(struct call *call, int status, const struct strbuf *body)
{
    before_answer(call, status, body->at);
    http_answer_bytes(call->exchange, &(struct http_response){.status = status}, strbuf_view(body));
}

void answer_deleted(struct call *call, const char *key, const char *id, const char *object)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    json_write_begin_object(&w);
    json_put_text(&w, key, id);
    json_put_text(&w, "object", object);
    json_put_bool(&w, "deleted", true);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

static int status_of(enum err_code code)
{
    switch (code) {
    case ERR_INPUT:
    case ERR_UNSUPPORTED:
        return 422;
    case ERR_NOT_FOUND:
        return 404;
    case ERR_CONFLICT: /* 409 would be sent again by every official client */
        return 400;
    case ERR_LIMIT:
        return 413;
    case ERR_AUTH:
        return 401;
    case ERR_TIMEOUT:
        return 503;
    case ERR_QUOTA:
        return 429;
    case ERR_NO_SPACE:
        return 507;
    default:
        return 500;
    }
}

static void answer_later(struct call *call, int status, const char *code, const char *param, int64_t wait_s,
                         const char *message)
{
    struct http_header header = {STR("x-should-retry"), STR("false")};
    struct strbuf body = {0};

    before_answer(call, status, NULL);
    metrics_note_refusal(call->api->metrics, status, code);
    if (wait_s > 0)
        header = (struct http_header){STR("Retry-After"), str_of(arena_printf(call->arena, "%lld", (long long)wait_s))};
    http_error_body(&body, status, NULL, code, param, message);
    http_answer_bytes(call->exchange, &(struct http_response){.status = status, .headers = &header, .header_count = 1},
                      strbuf_view(&body));
    strbuf_deinit(&body);
}

void answer_too_many(struct call *call, const char *code, const char *param, int64_t wait_s, const char *message)
{
    answer_later(call, 429, code, param, wait_s, message);
}

void answer_unavailable(struct call *call, const char *code, int64_t wait_s, const char *message)
{
    answer_later(call, 503, code, NULL, wait_s, message);
}

void answer_err(struct call *call, const struct err *err, const char *param)
{
    int status = status_of(err->code);

    if (status == 429) {
        answer_too_many(call, err_code_name(err->code), param, 0, err->text);
    } else if (status == 503) {
        answer_unavailable(call, err_code_name(err->code), BUSY_WAIT_S, err->text);
    } else if (status == 422) {
        struct problems problems = {.arena = call->arena};
        problems_add(&problems, err_code_name(err->code), param, NULL, NULL, "%s", err->text);
        answer_problems(call, &problems);
    } else {
        before_answer(call, status, NULL);
        http_answer_error(call->exchange, status, NULL, err_code_name(err->code), param, err->text);
    }
}

void answer_error(struct call *call, int status, const char *code, const char *param, const char *format, ...)
{
    va_list args;

    before_answer(call, status, NULL);
    if (status == 503)
        metrics_note_refusal(call->api->metrics, 503, code);
    va_start(args, format);
    http_answer_error(call->exchange, status, NULL, code, param, arena_vprintf(call->arena, format, args));
    va_end(args);
}

void answer_problems(struct call *call, const struct problems *problems)
{
    struct strbuf body = {0};

    problems_write(problems, &body);
    answer_json(call, 422, &body);
    strbuf_deinit(&body);
}

struct json_taker {
    struct call *call;
    void (*next)(struct call *call, const struct json *body);
    void (*next_secret)(struct call *call, struct json *body); /* instead of next */
};

static struct str json_text(struct arena *arena, const struct json *json)
{
    struct strbuf text = {0};
    struct str copy;

    json_write_value(&(struct json_writer){.buf = &text}, json);
    copy = (struct str){arena_copy(arena, text.at, text.len), text.len};
    strbuf_deinit(&text);
    return copy;
}

static bool hold_secrets(struct call *call, const struct job_secrets *secrets, struct err *err)
{
    struct store_held *held = arena_new_array(call->arena, struct store_held, secrets->count + 1);

    for (size_t i = 0; i < secrets->count; i++)
        if (!store_secret_hold(call->api->config.store, secrets->at[i].name, &secrets->at[i].value, call->arena,
                               &held[i], err))
            return false;
    call->secrets = held;
    call->secret_count = secrets->count;
    return true;
}

/* Secrets leave the body first, so that what tells a repetition does not depend on them; handlers see them sealed. */
static void take_body(struct json_taker *taker, struct json *json, struct str body)
{
    struct call *call = taker->call;
    struct job_secrets secrets;
    struct err err = {0};
    const char *wrong;

    if (!job_secrets_take(call->arena, json, &secrets, &wrong)) {
        struct problems problems = {.arena = call->arena};
        problems_add(&problems, "value_error", NULL, NULL, NULL, "%s", wrong);
        answer_problems(call, &problems);
    } else if (!hold_secrets(call, &secrets, &err)) {
        answer_err(call, &err, NULL);
    } else if (idempotency_check(call, secrets.count ? json_text(call->arena, json) : body)) {
        taker->next(call, json);
    }
    job_secrets_wipe(&secrets);
}

static void on_body(void *context, struct http_exchange *exchange, struct str body)
{
    struct json_taker *taker = context;
    struct err err = {0};
    struct json *json;

    json = json_parse(taker->call->arena, body, &(struct json_limits){.members = 4096, .string_bytes = 1 << 20}, &err);
    if (!json)
        answer_error(taker->call, 400, "invalid_json", NULL, "The body is not valid JSON: %s", err.text);
    else if (taker->next_secret)
        taker->next_secret(taker->call, json);
    else
        take_body(taker, json, body);
}

void take_json(struct call *call, void (*next)(struct call *call, const struct json *body))
{
    struct json_taker *taker = arena_new(call->arena, struct json_taker);

    *taker = (struct json_taker){.call = call, .next = next};
    http_take_whole(call->exchange, JSON_BODY_BYTES_MAX, on_body, taker);
}

void take_secret_json(struct call *call, void (*next)(struct call *call, struct json *body))
{
    struct json_taker *taker = arena_new(call->arena, struct json_taker);

    *taker = (struct json_taker){.call = call, .next_secret = next};
    http_take_whole(call->exchange, JSON_BODY_BYTES_MAX, on_body, taker);
}
