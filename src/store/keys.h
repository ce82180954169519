/* store/keys.h - API keys: at_<id, 8>_<random, 43>_<checksum, 6>, base 62.
 *
 * The id finds the row and may stand in logs; the random part carries 256 bits; the checksum refuses a typing error
 * without a query. Only SHA-256 of the whole key is stored, so a key is shown once. Digests are compared in constant
 * time, and an unknown id costs the same comparison. */
#pragma once

#include "store/store.h"

#define API_KEY_BYTES 64
#define API_KEY_ID_LEN 11 /* what a key begins with is its id */

#define STORE_KEY_COLUMNS(X)                                                                                           \
    X(TEXT, id) /* at_<8>: the beginning of the key */                                                                 \
    X(TEXT, name)                                                                                                      \
    X(TEXT, scopes) /* words separated by spaces: read write admin metrics */                                          \
    X(INTEGER, created_ms)                                                                                             \
    X(INTEGER, last_used_ms) /* the first use in its hour */                                                           \
    X(INTEGER, revoked_ms)                                                                                             \
    X(INTEGER, expires_ms) /* 0: never */                                                                              \
    X(TEXT, profile)       /* nebius or openai; NULL: the project's */

struct store_key {
    STORE_KEY_COLUMNS(STORE_FIELD)
};
struct store_key_list {
    struct store_key *at;
    size_t count;
    bool has_more;
};

/* Whether scopes are words that there are, and at least one. */
bool key_scopes_are_known(const char *scopes);
/* name, scopes, expires_ms and profile are those of row. key gets the text to hand out; it cannot be read again. */
bool key_add(struct store *store, const struct tenant *tenant, const struct store_key *row, char key[API_KEY_BYTES],
             struct err *err);
/* One that does not expire and has the project's profile. */
bool key_create(struct store *store, const struct tenant *tenant, const char *name, const char *scopes,
                char key[API_KEY_BYTES], struct err *err);
/* Whose key this is and what it may. ERR_AUTH, always with the same text, when it is malformed, unknown, revoked or
 * expired; only when the whole key was right and is not any more, *row is filled then. */
bool key_check(struct store *store, struct str key, struct arena *arena, struct tenant *tenant, struct store_key *row,
               struct err *err);
bool key_has_scope(const struct store_key *row, const char *scope);
bool key_read(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
              struct store_key *row, struct err *err);
bool key_revoke(struct store *store, const struct tenant *tenant, const char *id, struct err *err);
bool key_list(struct store *store, const struct tenant *tenant, const struct store_page *page, struct arena *arena,
              struct store_key_list *list, struct err *err);
