#include "track/sending.h"

#include "os/clock.h"
#include "os/file.h"
#include "os/secret.h"

#include <stdio.h>
#include <string.h>

enum {
    DOCUMENT_BYTES_MAX = 64 << 20,
    ANSWER_BYTES_MAX = 1 << 20,
    REQUEST_MS = 30000,
    MOVE_MS = 20000,
    CONNECT_MS = 10000
};

static const struct service {
    const char *kind;
    bool (*send)(struct sending *sending, struct err *err);
} services[] = {{"hf", hub_send}, {"mlflow", mlflow_send}, {"wandb", wandb_send}, {"webhook", webhook_send}};

/* --- the document --- */

char *sending_copy(const struct sending *sending, const struct json *object, const char *name)
{
    struct str text = json_string_or(json_get(object, name), STR_NONE);

    return text.len ? str_copy(sending->arena, text) : NULL;
}

const char *sending_text(const struct sending *sending, const char *object, const char *name)
{
    return sending_copy(sending, json_get(sending->document, object), name);
}

int64_t sending_integer(const struct sending *sending, const char *object, const char *name)
{
    return json_integer_or(json_get(json_get(sending->document, object), name), 0);
}

bool sending_is(const struct sending *sending, const char *name)
{
    return json_bool_or(json_get(sending->document, name), false);
}

const struct json *sending_events(const struct sending *sending)
{
    return json_get(sending->document, "events");
}

int64_t sending_last_seq(const struct sending *sending)
{
    int64_t seq = 0;

    json_each(event, sending_events(sending))
        seq = json_integer_or(json_get(event, "seq"), 0);
    return seq;
}

bool sending_event_is(const struct json *event, const char *type)
{
    return json_is(json_get(event, "type"), type);
}

bool sending_is_metric(const struct json *member)
{
    return member->type == JSON_NUMBER && !str_is(member->key, "step") && !str_is(member->key, "total_steps");
}

bool sending_is_of_trackers(const struct json *event)
{
    return str_starts(json_string_or(json_get(event, "code"), STR_NONE), STR("integration_"));
}

/* What a start tells of this attempt alone is no parameter of the run. */
static bool is_param(const struct json *member)
{
    static const char *const not_params[] = {"step", "resumed_from_step", "disk_bytes"};

    for (size_t i = 0; i < sizeof not_params / sizeof *not_params; i++)
        if (str_is(member->key, not_params[i]))
            return false;
    return member->type != JSON_NULL && (member->type != JSON_STRING || member->string.len);
}

static void put_param(struct json_writer *w, const struct json *member)
{
    if (!is_param(member))
        return;
    json_write_key_str(w, member->key);
    json_write_value(w, member);
}

static const struct json *find_start(const struct sending *sending)
{
    json_each(event, sending_events(sending))
        if (json_is(json_get(event, "kind"), "start"))
            return event;
    return NULL;
}

bool sending_has_new_params(const struct sending *sending)
{
    return json_integer_or(json_get(sending->document, "after_seq"), 0) == 0 || find_start(sending);
}

const struct json *sending_params(const struct sending *sending)
{
    static const char *const of_job[] = {"model", "method", "training_file", "validation_file", "seed", "suffix"};
    const struct json *job = json_get(sending->document, "job"), *params;
    struct sending_body body = {0};

    sending_body_begin(&body);
    for (size_t i = 0; i < sizeof of_job / sizeof *of_job; i++)
        if (json_get(job, of_job[i]))
            put_param(&body.w, json_get(job, of_job[i]));
    json_each(member, json_get(job, "hyperparameters"))
        put_param(&body.w, member);
    json_each(member, json_get(find_start(sending), "data"))
        put_param(&body.w, member);
    params = json_parse(sending->arena, str_of(str_copy(sending->arena, sending_body_end(&body))), NULL, NULL);
    strbuf_deinit(&body.text);
    return params;
}

/* --- requests --- */

bool sending_connect(struct sending *sending, struct str url, struct err *err)
{
    size_t len;
    char *rest;

    if (!outgoing_url_parse(sending->arena, url, &sending->base, err))
        return false;
    sending->rest = sending->base.rest;
    rest = arena_printf(sending->arena, "%s", sending->base.rest);
    for (len = strlen(rest); len && rest[len - 1] == '/'; len--)
        rest[len - 1] = 0;
    sending->base.rest = rest;
    return http_place_find(sending->arena, &sending->policy, &sending->base, &sending->place, err);
}

/* A name such as RESOURCE_DOES_NOT_EXIST; anything else that a stranger's server says is not repeated. */
static void read_code(const struct json *answer, char code[64])
{
    struct str text = json_string_or(json_get(answer, "error_code"), STR_NONE);
    bool is_code = text.len > 0 && text.len < 64;

    for (size_t i = 0; i < text.len && is_code; i++)
        is_code = (text.at[i] >= 'A' && text.at[i] <= 'Z') || text.at[i] == '_';
    snprintf(code, 64, "%.*s", is_code ? (int)text.len : 0, text.at ? text.at : "");
}

static enum err_code code_of(int status)
{
    if (status == 401 || status == 403)
        return ERR_AUTH;
    if (status == 404)
        return ERR_NOT_FOUND;
    if (status == 409)
        return ERR_CONFLICT;
    return status == 408 || status == 429 || (status >= 500 && status != 501) || status < 300 ? ERR_IO : ERR_INPUT;
}

static const struct json *read_answer(struct sending *sending, const struct http_client_answer *answer, char code[64],
                                      struct err *err)
{
    struct str body = {arena_copy(sending->arena, answer->body.at, answer->body.len), answer->body.len};
    const struct json *json = json_parse(sending->arena, body, NULL, NULL);

    if (answer->status == 200 && json_has_type(json, JSON_OBJECT))
        return json;
    read_code(json, code);
    sending->wait_ms = answer->retry_after_s * 1000;
    err_set(err, code_of(answer->status), "%s answered %s%d%s%s%s", sending->place.origin,
            answer->status == 200 ? "something else than JSON with " : "", answer->status, *code ? " (" : "", code,
            *code ? ")" : "");
    return NULL;
}

static struct http_client_request request_of(struct sending *sending, const char *method, const char *rest,
                                             struct str body)
{
    struct http_client_request request = {
        .method = method,
        .url = arena_printf(sending->arena, "%s%s", sending->place.origin, rest),
        .body = body,
        .connect_ms = CONNECT_MS,
        .stall_ms = REQUEST_MS,
        .answer_bytes_max = ANSWER_BYTES_MAX,
    };

    http_place_hold(&sending->place, &request);
    sending->wait_ms = 0;
    return request;
}

static void authorize(struct sending *sending, struct http_client_request *request)
{
    request->username = sending->username;
    request->password = sending->password;
    request->bearer = sending->bearer;
    request->ca_pem = sending_text(sending, "secrets", "certificate_file");
}

static const struct json *ask(struct sending *sending, struct http_client_request *request, char code[64],
                              struct err *err)
{
    struct http_client_answer answer = {0};
    const struct json *json = NULL;
    char unasked[64];

    authorize(sending, request);
    code = code ? code : unasked;
    code[0] = 0;
    if (http_client_send(request, &answer, err))
        json = read_answer(sending, &answer, code, err);
    http_client_answer_deinit(&answer);
    return json;
}

const struct json *sending_call(struct sending *sending, const char *method, const char *path, struct str body,
                                char code[64], struct err *err)
{
    struct http_client_request request =
        request_of(sending, method, arena_printf(sending->arena, "%s%s", sending->base.rest, path), body);

    return ask(sending, &request, code, err);
}

static bool on_progress(void *context, uint64_t sent, uint64_t total)
{
    (void)sent;
    (void)total;
    sending_move(context);
    return true;
}

/* What is put away is answered with nothing, or with anything. */
static bool put(struct sending *sending, struct http_client_request *request, struct err *err)
{
    struct http_client_answer answer = {0};
    char code[64] = "";
    bool ok;

    authorize(sending, request);
    ok = http_client_send(request, &answer, err);
    if (ok && answer.status != 200) {
        read_answer(sending, &answer, code, err);
        ok = false;
    }
    http_client_answer_deinit(&answer);
    return ok;
}

bool sending_put_file(struct sending *sending, const char *path, const char *place, uint64_t bytes, struct err *err)
{
    struct http_client_request request =
        request_of(sending, "PUT", arena_printf(sending->arena, "%s%s", sending->base.rest, path), STR_NONE);
    struct http_client_slice slice = {file_open_read(place, err), 0, bytes};
    bool ok;

    if (slice.fd < 0)
        return false;
    request.slice = &slice;
    request.content_type = "application/octet-stream";
    request.total_ms = 0;
    request.on_progress = on_progress;
    request.context = sending;
    ok = put(sending, &request, err);
    fd_close(&slice.fd);
    return ok;
}

/* What the URL has behind the origin may be a secret: messages do not show it. */
bool sending_post_to(struct sending *sending, const struct http_form_field *headers, size_t header_count,
                     struct str body, int *status, struct err *err)
{
    struct http_client_request request = request_of(sending, "POST", sending->rest, body);
    struct http_client_answer answer = {0};
    bool ok;

    request.shown_url = sending->place.origin;
    request.headers = headers;
    request.header_count = header_count;
    ok = http_client_send(&request, &answer, err);
    *status = answer.status;
    sending->wait_ms = answer.retry_after_s * 1000;
    http_client_answer_deinit(&answer);
    return ok;
}

bool sending_not_as(struct sending *sending, const char *service, struct err *err)
{
    return err_set(err, ERR_INPUT, "%s does not answer as %s does", sending->place.origin, service);
}

void sending_body_begin(struct sending_body *body)
{
    strbuf_clear(&body->text);
    body->w = (struct json_writer){.buf = &body->text};
    json_write_begin_object(&body->w);
}

struct str sending_body_end(struct sending_body *body)
{
    json_write_end_object(&body->w);
    return strbuf_view(&body->text);
}

const struct json *sending_post(struct sending *sending, struct sending_body *body, const char *path, char code[64],
                                struct err *err)
{
    return sending_call(sending, "POST", path, sending_body_end(body), code, err);
}

/* --- progress --- */

static bool tell(struct sending *sending, struct strbuf *line, struct err *err)
{
    bool ok;

    strbuf_add_char(line, '\n');
    ok = fd_write_all(sending->out_fd, line->at, line->len, "the server", err);
    strbuf_deinit(line);
    return ok;
}

bool sending_tell(struct sending *sending, int64_t seq, struct str external, struct err *err)
{
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};

    json_write_begin_object(&w);
    json_put_integer(&w, "delivered", seq);
    if (external.len) {
        json_write_key(&w, "external");
        json_write_raw(&w, external);
    }
    json_write_end_object(&w);
    return tell(sending, &line, err);
}

bool sending_tell_event(struct sending *sending, const char *code, const char *message, struct err *err)
{
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};

    json_write_begin_object(&w);
    json_write_key(&w, "event");
    json_write_begin_object(&w);
    json_put_text(&w, "code", code);
    json_put_text(&w, "message", message);
    json_write_end_object(&w);
    json_write_end_object(&w);
    return tell(sending, &line, err);
}

bool sending_tell_run(struct sending *sending, const char *service, const char *url, struct err *err)
{
    return sending_tell_event(sending, "run", arena_printf(sending->arena, "The run at %s is %s", service, url), err);
}

bool sending_tell_stop(struct sending *sending, struct err *err)
{
    struct strbuf line = {0};

    strbuf_add_text(&line, "{\"stop\":true}");
    return tell(sending, &line, err);
}

void sending_move(struct sending *sending)
{
    const int64_t now_ms = clock_monotonic_ms();
    struct strbuf line = {0};

    if (now_ms - sending->told_ms < MOVE_MS)
        return;
    sending->told_ms = now_ms;
    strbuf_add_text(&line, "{\"alive\":true}");
    tell(sending, &line, NULL);
}

static bool tell_end(struct sending *sending, bool ok, const struct err *problem, struct err *err)
{
    const bool may_work_later =
        problem->code == ERR_IO || problem->code == ERR_TIMEOUT || problem->code == ERR_NO_SPACE;
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};

    json_write_begin_object(&w);
    json_put_text(&w, "end", ok ? "ok" : may_work_later ? "retry" : "failed");
    if (!ok)
        json_put_text(&w, "message", problem->text);
    json_put_integer(&w, "wait_ms", sending->wait_ms);
    json_put_integer(&w, "again_ms", sending->again_ms);
    json_write_end_object(&w);
    return tell(sending, &line, err);
}

/* --- the whole --- */

static bool read_document(struct sending *sending, int in_fd, struct secret *text, struct err *err)
{
    struct outgoing_policy *policy = &sending->policy;

    if (!secret_read_fd(text, in_fd, DOCUMENT_BYTES_MAX, "the delivery", err) ||
        !(sending->document = json_parse(sending->arena, secret_reveal(text), NULL, err)))
        return err_prefix(err, "the delivery");
    return outgoing_policy_parse(sending->arena, sending_text(sending, "operator", "origins"), policy, err);
}

static bool send_document(struct sending *sending, struct err *err)
{
    struct str kind = json_string_or(json_get(sending->document, "kind"), STR_NONE);

    for (size_t i = 0; i < sizeof services / sizeof *services; i++)
        if (str_is(kind, services[i].kind))
            return services[i].send(sending, err);
    return err_set(err, ERR_UNSUPPORTED, "no sender for '%.*s'", STR_ARG(str_clip(kind, 64)));
}

bool sending_run(int in_fd, int out_fd, struct err *err)
{
    struct arena arena = {0};
    struct sending sending = {.arena = &arena, .out_fd = out_fd};
    struct secret text = {0};
    struct err problem = {0};
    bool ok = read_document(&sending, in_fd, &text, err);

    if (ok)
        ok = tell_end(&sending, send_document(&sending, &problem), &problem, err);
    secret_wipe(&text);
    arena_deinit(&arena);
    return ok;
}
