/* store/idempotency.h - what was answered to a request with an Idempotency-Key.
 *
 * A row is written before the effect, with the id of what the request is about to make, and completed with the answer
 * after it. A crash between the two leaves status 0: who asks again looks whether that id exists. */
#pragma once

#include "store/store.h"

enum { IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000 };

#define STORE_IDEMPOTENCY_COLUMNS(X)                                                                                   \
    X(TEXT, key)                                                                                                       \
    X(TEXT, fingerprint) /* of the request: the same key with another request is a mistake */                          \
    X(TEXT, resource_id)                                                                                               \
    X(INTEGER, status)   /* of the answer; 0: not answered */                                                          \
    X(TEXT, body)                                                                                                      \
    X(INTEGER, created_ms)

struct store_idempotency {
    STORE_IDEMPOTENCY_COLUMNS(STORE_FIELD)
};

/* ERR_NOT_FOUND: the key is new. */
bool store_idempotency_get(struct store *store, const struct tenant *tenant, const char *key, struct arena *arena,
                           struct store_idempotency *row, struct err *err);
bool store_idempotency_begin(struct store *store, const struct tenant *tenant, const struct store_idempotency *row,
                             struct err *err);
bool store_idempotency_end(struct store *store, const struct tenant *tenant, const char *key, int status,
                           const char *body, struct err *err);
/* Nothing came of it: the key is free again. */
bool store_idempotency_drop(struct store *store, const struct tenant *tenant, const char *key, struct err *err);
