#include "hub/wire.h"

#include <stdio.h>
#include <string.h>

enum { ANSWER_BYTES_MAX = 32 << 20, CONNECT_MS = 10000, STALL_MS = 120000, CODE_BYTES_MAX = 48, WAIT_S_MAX = 3600 };

/* An origin that was resolved. */
struct hub_place {
    struct hub_place *next;
    const char *origin, *pin; /* pin NULL: an address */
    const struct outgoing_rule *rule;
};

static struct hub_place *find_place(struct hub_wire *wire, struct str text, struct err *err)
{
    struct hub_place *place = wire->places;
    struct strbuf pin = {0};
    struct outgoing_url url;
    const char *origin;

    if (!outgoing_url_parse(wire->arena, text, &url, err))
        return NULL;
    origin = outgoing_url_origin(wire->arena, &url);
    while (place && strcmp(place->origin, origin) != 0)
        place = place->next;
    if (place)
        return place;
    place = arena_new(wire->arena, struct hub_place);
    *place = (struct hub_place){wire->places, origin, NULL, outgoing_find_rule(wire->policy, &url, err)};
    if (!place->rule || !outgoing_resolve(place->rule, &url, &pin, err))
        place = NULL;
    else if (pin.len)
        place->pin = str_copy(wire->arena, strbuf_view(&pin));
    strbuf_deinit(&pin);
    wire->places = place ? place : wire->places;
    return place;
}

bool hub_wire_open(struct hub_wire *wire, const char *endpoint, const char *token, struct err *err)
{
    struct str text = str_of(endpoint);
    struct outgoing_url url;

    while (str_ends(text, STR("/")))
        text.len--;
    wire->endpoint = str_copy(wire->arena, text);
    wire->token = token;
    if (!outgoing_url_parse(wire->arena, text, &url, err) || !outgoing_find_rule(wire->policy, &url, err))
        return false;
    wire->origin = outgoing_url_origin(wire->arena, &url);
    return true;
}

/* --- answers --- */

static enum err_code code_of(int status)
{
    if (status == 401 || status == 403)
        return ERR_AUTH;
    if (status == 404)
        return ERR_NOT_FOUND;
    if (status == 409 || status == 412)
        return ERR_CONFLICT;
    return status == 408 || status == 425 || status == 429 || status >= 500 ? ERR_IO : ERR_INPUT;
}

/* A name such as RepoNotFound; anything else that a stranger's server says is not repeated. */
static struct str error_code(const struct http_client_answer *answer)
{
    struct str code = http_client_answer_header(answer, "x-error-code");

    for (size_t i = 0; i < code.len; i++)
        if (!((code.at[i] | 0x20) >= 'a' && (code.at[i] | 0x20) <= 'z'))
            return STR_NONE;
    return code.len <= CODE_BYTES_MAX ? code : STR_NONE;
}

/* ratelimit: "api";r=0;t=55 says so where Retry-After does not. */
static int64_t wait_of(const struct http_client_answer *answer)
{
    struct str limit = http_client_answer_header(answer, "ratelimit");
    ptrdiff_t at = str_find(limit, STR(";t="), 0), end;
    int64_t seconds = answer->retry_after_s;

    if (seconds == 0 && at >= 0) {
        end = str_find(limit, STR(";"), (size_t)at + 3);
        if (!str_to_i64(str_slice(limit, (size_t)at + 3, end < 0 ? limit.len : (size_t)end), &seconds))
            seconds = 0;
    }
    return seconds > 0 && seconds <= WAIT_S_MAX ? (seconds + 1) * 1000 : 0;
}

static bool refused(struct hub_wire *wire, const char *origin, const struct http_client_answer *answer, struct err *err)
{
    struct str code = error_code(answer);

    if (answer->status == 429 || answer->status == 503)
        wire->wait_ms = wait_of(answer);
    return err_set(err, code_of(answer->status), "%s answered %d%s%.*s%s", origin, answer->status, code.len ? " (" : "",
                   STR_ARG(code), code.len ? ")" : "");
}

/* --- requests --- */

static bool may_connect(void *context, const struct sockaddr *address)
{
    return outgoing_rule_allows(((const struct hub_place *)context)->rule, address);
}

static bool on_progress(void *context, uint64_t sent, uint64_t total)
{
    struct hub_wire *wire = context;

    (void)sent;
    (void)total;
    if (wire->on_alive)
        wire->on_alive(wire->context);
    return true;
}

bool hub_wire_send(struct hub_wire *wire, struct http_client_request *request, struct http_client_answer *answer,
                   struct err *err)
{
    struct hub_place *place;

    wire->wait_ms = 0;
    wire->status = 0;
    if (request->url[0] == '/')
        request->url = arena_printf(wire->arena, "%s%s", wire->endpoint, request->url);
    if (!(place = find_place(wire, str_of(request->url), err)))
        return false;
    request->shown_url = place->origin;
    request->bearer = strcmp(place->origin, wire->origin) == 0 ? wire->token : NULL;
    request->pin = place->pin;
    request->may_connect = may_connect;
    request->connect_context = place;
    request->connect_ms = CONNECT_MS;
    request->stall_ms = STALL_MS;
    request->answer_bytes_max = ANSWER_BYTES_MAX;
    request->on_progress = on_progress;
    request->context = wire;
    if (!http_client_send(request, answer, err))
        return false;
    wire->status = answer->status;
    return (answer->status >= 200 && answer->status < 300) || refused(wire, place->origin, answer, err);
}

const struct json *hub_wire_ask(struct hub_wire *wire, struct http_client_request *request, struct err *err)
{
    struct http_client_answer answer = {0};
    const struct json *json = NULL;

    if (hub_wire_send(wire, request, &answer, err)) {
        struct str text = {arena_copy(wire->arena, answer.body.at, answer.body.len), answer.body.len};

        json = json_parse(wire->arena, text, NULL, NULL);
        if (!json)
            err_set(err, ERR_IO, "%s answered something else than JSON", wire->origin);
    }
    http_client_answer_deinit(&answer);
    return json;
}

const struct json *hub_wire_get(struct hub_wire *wire, const char *url, struct err *err)
{
    return hub_wire_ask(wire, &(struct http_client_request){.method = "GET", .url = url}, err);
}

const struct json *hub_wire_post(struct hub_wire *wire, const char *url, const struct strbuf *body, struct err *err)
{
    return hub_wire_ask(wire, &(struct http_client_request){.method = "POST", .url = url, .body = strbuf_view(body)},
                        err);
}

const char *hub_wire_text(struct hub_wire *wire, const struct json *object, const char *name)
{
    struct str text = json_string_or(json_get(object, name), STR_NONE);

    return text.len ? str_copy(wire->arena, text) : NULL;
}

bool hub_wire_is_strange(struct hub_wire *wire, struct err *err)
{
    return err_set(err, ERR_INPUT, "%s does not answer as a Hub does", wire->origin);
}
