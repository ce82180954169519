/* hub/wire.h - requests of an upload: to a Hub, and to the stores that it names for large files.
 *
 * Every URL goes through the outgoing policy (http/outgoing.h), those of the Hub's own answers too: an origin that the
 * operator does not list is not reached. Names are resolved once an upload. The token goes to the Hub's own origin and
 * nowhere else, and redirects are not followed. Messages name origins, never a whole URL: those of stores are signed,
 * and whoever has one may write. */
#pragma once

#include "base/json.h"
#include "hub/home.h"

struct hub_wire {
    struct arena *arena;
    const struct outgoing_policy *policy;
    struct hub_home home;
    const char *token;
    int status;      /* of the last answer; 0: none came */
    int64_t wait_ms; /* what the Hub asked for with its last answer; 0: nothing */
    struct hub_place *places;
    void (*on_alive)(void *context); /* while bytes move, about once a second; may be NULL */
    void *context;
};

/* False when the policy does not let the endpoint out. Nothing is sent yet. */
bool hub_wire_open(struct hub_wire *wire, const char *endpoint, const char *token, struct err *err);

/* One request, whose url is a whole one or a path of the endpoint ("/api/…"). True with an answer of 2xx, which the
 * caller frees in any case. ERR_IO and ERR_TIMEOUT may work later; ERR_AUTH, ERR_NOT_FOUND, ERR_CONFLICT (409 and 412)
 * and ERR_INPUT will not. */
bool hub_wire_send(struct hub_wire *wire, struct http_client_request *request, struct http_client_answer *answer,
                   struct err *err);
/* The same with JSON in the answer, in the arena. NULL with err set. */
const struct json *hub_wire_ask(struct hub_wire *wire, struct http_client_request *request, struct err *err);
const struct json *hub_wire_get(struct hub_wire *wire, const char *url, struct err *err);
const struct json *hub_wire_post(struct hub_wire *wire, const char *url, const struct strbuf *body, struct err *err);
/* What a text of an answer is, in the arena; NULL when it is no text or empty. */
const char *hub_wire_text(struct hub_wire *wire, const struct json *object, const char *name);
bool hub_wire_is_strange(struct hub_wire *wire, struct err *err); /* false: the answer is not a Hub's */
