/* store/secrets.h - what tenants entrust to the service: tokens and passwords, sealed (store/keyring.h).
 *
 * A secret belongs to a project (owner "") or to one of its jobs (owner: the job's id) and has a name there. It goes in
 * and comes out as a struct secret; the one column that holds anything of it holds sealed bytes. Without a keyring the
 * store takes no secret and opens none (ERR_UNSUPPORTED). */
#pragma once

#include "store/keyring.h"
#include "store/store.h"

enum { STORE_SECRETS_MAX = 100 /* of one owner */, STORE_SECRET_BYTES_MAX = 64 << 10, STORE_SECRET_NAME_MAX = 64 };

/* Whether there is anything sealed, under whatever key. */
bool store_secret_any(struct store *store, bool *any, struct err *err);
/* The keyring must outlive the store. ERR_AUTH when something is sealed under a key that it lacks. */
bool store_use_keyring(struct store *store, const struct keyring *keyring, struct err *err);
/* Seals everything under the first key, in one transaction. */
bool store_secret_reseal(struct store *store, size_t *count, struct err *err);

/* A new one, or in place of the one of that name. ERR_QUOTA beyond STORE_SECRETS_MAX; names and sizes are the caller's
 * to check. */
bool store_secret_put(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                      const struct secret *value, struct err *err);
bool store_secret_get(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                      struct secret *value, struct err *err);
bool store_secret_delete(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                         struct err *err);
/* All of an owner; none is fine. */
bool store_secret_delete_all(struct store *store, const struct tenant *tenant, const char *owner, struct err *err);

/* A secret that waits, sealed, for the row that it belongs to: so that nothing of a request is in the clear while the
 * request is worked on. The texts live in the arena. */
struct store_held {
    const char *name, *key_id;
    struct str sealed;
};
bool store_secret_hold(struct store *store, const char *name, const struct secret *value, struct arena *arena,
                       struct store_held *held, struct err *err);

struct store_secret {
    const char *name;
    char last4[5]; /* "" for short ones and for those that this keyring does not open */
    int64_t created_ms, updated_ms;
};
struct store_secret_list {
    struct store_secret *at;
    size_t count;
};
/* By name; at most STORE_SECRETS_MAX. */
bool store_secret_list(struct store *store, const struct tenant *tenant, const char *owner, struct arena *arena,
                       struct store_secret_list *list, struct err *err);
