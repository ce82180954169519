#include "hub/wire.h"

#include <stdio.h>
#include <string.h>

enum { ANSWER_BYTES_MAX = 32 << 20, CONNECT_MS = 10000, STALL_MS = 120000, CODE_BYTES_MAX = 48 };

/* An origin that was resolved. */
struct hub_place {
    struct hub_place *next;
    struct http_place http;
    bool is_home;
};

static struct hub_place *find_place(struct hub_wire *wire, struct str text, struct err *err)
{
    struct hub_place *place = wire->places;
    struct outgoing_url url;
    const char *origin;

    if (!outgoing_url_parse(wire->arena, text, &url, err))
        return NULL;
    origin = outgoing_url_origin(wire->arena, &url);
    while (place && strcmp(place->http.origin, origin) != 0)
        place = place->next;
    if (place)
        return place;
    place = arena_new(wire->arena, struct hub_place);
    *place = (struct hub_place){.next = wire->places, .is_home = outgoing_is_same(&url, &wire->home.url)};
    if (!http_place_find(wire->arena, wire->policy, &url, &place->http, err))
        return NULL;
    wire->places = place;
    return place;
}

bool hub_wire_open(struct hub_wire *wire, const char *endpoint, const char *token, struct err *err)
{
    wire->token = token;
    return hub_home_read(wire->arena, wire->policy, endpoint, &wire->home, err);
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

static bool refused(struct hub_wire *wire, const char *origin, const struct http_client_answer *answer, struct err *err)
{
    struct str code = error_code(answer);

    if (answer->status == 429 || answer->status == 503)
        wire->wait_ms = hub_answer_wait_ms(answer);
    return err_set(err, code_of(answer->status), "%s answered %d%s%.*s%s", origin, answer->status, code.len ? " (" : "",
                   STR_ARG(code), code.len ? ")" : "");
}

/* --- requests --- */

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
        request->url = arena_printf(wire->arena, "%s%s", wire->home.endpoint, request->url);
    if (!(place = find_place(wire, str_of(request->url), err)))
        return false;
    http_place_hold(&place->http, request);
    request->shown_url = place->http.origin;
    request->bearer = place->is_home ? wire->token : NULL;
    request->connect_ms = CONNECT_MS;
    request->stall_ms = STALL_MS;
    request->answer_bytes_max = ANSWER_BYTES_MAX;
    request->on_progress = on_progress;
    request->context = wire;
    if (!http_client_send(request, answer, err))
        return false;
    wire->status = answer->status;
    return (answer->status >= 200 && answer->status < 300) || refused(wire, place->http.origin, answer, err);
}

const struct json *hub_wire_ask(struct hub_wire *wire, struct http_client_request *request, struct err *err)
{
    struct http_client_answer answer = {0};
    const struct json *json = NULL;

    if (hub_wire_send(wire, request, &answer, err)) {
        struct str text = {arena_copy(wire->arena, answer.body.at, answer.body.len), answer.body.len};

        json = json_parse(wire->arena, text, NULL, NULL);
        if (!json)
            err_set(err, ERR_IO, "%s answered something else than JSON", wire->home.endpoint);
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
    return err_set(err, ERR_INPUT, "%s does not answer as a Hub does", wire->home.endpoint);
}
