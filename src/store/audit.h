/* store/audit.h - who wrote what over the API: a row for each write request of a key that may, durable before its
 * answer goes out. It holds ids, never a body or a secret. */
#pragma once

#include "store/store.h"

#define STORE_AUDIT_COLUMNS(X)                                                                                         \
    X(TEXT, id) /* audit_log-<32 hex>; made here */                                                                    \
    X(TEXT, project_id)                                                                                                \
    X(TEXT, type)      /* "api_key.created" */                                                                         \
    X(TEXT, key_id)    /* NULL: a server without keys */                                                               \
    X(TEXT, object_id) /* what it was about; NULL: not known */                                                        \
    X(TEXT, method)                                                                                                    \
    X(TEXT, path)                                                                                                      \
    X(INTEGER, status)                                                                                                 \
    X(TEXT, request_id)                                                                                                \
    X(TEXT, address)                                                                                                   \
    X(INTEGER, created_ms)

struct store_audit {
    STORE_AUDIT_COLUMNS(STORE_FIELD)
};
struct store_audit_list {
    struct store_audit *at;
    size_t count;
    bool has_more;
};

/* id, project_id and created_ms are made here. */
bool store_audit_add(struct store *store, const struct tenant *tenant, const struct store_audit *row, struct err *err);
/* Those of the tenant's organisation. filter_json: {"projects": […], "types": […], "keys": […], "from_ms": N, "to_ms":
 * N}, each may be absent; to_ms is included. */
bool store_audit_list(struct store *store, const struct tenant *tenant, const char *filter_json,
                      const struct store_page *page, struct arena *arena, struct store_audit_list *list,
                      struct err *err);
/* Rows before before_ms go, and of the others all but the newest rows_max, of all organisations; at most 10,000 at a
 * time. */
bool store_audit_expire(struct store *store, int64_t before_ms, int64_t rows_max, struct err *err);
