/* store/webhooks.h - endpoints of a project that hear how its jobs ended.
 *
 * An endpoint has a URL, the types of events that it wants and a secret that signs what it is sent, sealed like every
 * other (store/secrets.h; the endpoint is its owner). When a job ends, the database itself makes a delivery
 * (store/deliveries.h, kind "webhook") for each endpoint that wants to hear of it, in the transaction that ends the
 * job. With an endpoint go its deliveries; one that is disabled gets none, and what was still to be told to it is
 * not. */
#pragma once

#include "store/secrets.h"

enum { STORE_WEBHOOKS_MAX = 50 /* of a project */ };

#define STORE_WEBHOOK_COLUMNS(X)                                                                                       \
    X(TEXT, id) /* we_<32 hex> */                                                                                      \
    X(TEXT, name)                                                                                                      \
    X(TEXT, url)                                                                                                       \
    X(TEXT, event_types_json) /* a list of texts */                                                                    \
    X(INTEGER, is_enabled)                                                                                             \
    X(TEXT, secret_hint)         /* the end of the secret */                                                           \
    X(INTEGER, old_secret_until_ms) /* the secret before this one signs too until then; 0: there is none */            \
    X(INTEGER, created_ms)                                                                                             \
    X(INTEGER, updated_ms)

struct store_webhook {
    STORE_WEBHOOK_COLUMNS(STORE_FIELD)
};
struct store_webhook_list {
    struct store_webhook *at;
    size_t count;
    bool has_more;
};

/* id, name, url, event_types_json, is_enabled and secret_hint are the caller's. ERR_QUOTA beyond STORE_WEBHOOKS_MAX. */
bool store_webhook_create(struct store *store, const struct tenant *tenant, const struct store_webhook *webhook,
                          const struct secret *secret, struct err *err);
bool store_webhook_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                       struct store_webhook *webhook, struct err *err);
bool store_webhook_list(struct store *store, const struct tenant *tenant, const struct store_page *page,
                        struct arena *arena, struct store_webhook_list *list, struct err *err);
/* Writes name, url, event_types_json, is_enabled and updated_ms. */
bool store_webhook_update(struct store *store, const struct tenant *tenant, const struct store_webhook *webhook,
                          struct err *err);
/* A new secret in place of the old one, which signs too until old_until_ms (0: not any more). */
bool store_webhook_rotate(struct store *store, const struct tenant *tenant, const char *id,
                          const struct secret *secret, const char *hint, int64_t old_until_ms, struct err *err);
bool store_webhook_delete(struct store *store, const struct tenant *tenant, const char *id, struct err *err);

/* Names of its secrets. */
#define STORE_WEBHOOK_SECRET     "signing_secret"
#define STORE_WEBHOOK_OLD_SECRET "old_signing_secret"
