#include "store/idempotency.h"

#include "store/store_int.h"

#define IDEMPOTENCY_COLUMN(type, name) COLUMN_ENTRY(store_idempotency, type, name)
static const struct column columns[] = {STORE_IDEMPOTENCY_COLUMNS(IDEMPOTENCY_COLUMN)};
static const struct row_type idempotency_row = ROW_TYPE(columns, store_idempotency);

bool store_idempotency_get(struct store *store, const struct tenant *tenant, const char *key, struct arena *arena,
                           struct store_idempotency *row, struct err *err)
{
    struct query query =
        query_open(store, "SELECT rowid" STORE_IDEMPOTENCY_COLUMNS(
                              SQL_NAME) " FROM idempotency_keys WHERE organization_id=? AND project_id=? "
                                        "AND key=?");

    query_tenant(&query, tenant);
    query_text(&query, key);
    return row_get_one(&query, &idempotency_row, arena, row, "idempotency key", key, err);
}

bool store_idempotency_begin(struct store *store, const struct tenant *tenant, const struct store_idempotency *row,
                             struct err *err)
{
    struct query query =
        query_open(store, "INSERT INTO idempotency_keys(organization_id, project_id" STORE_IDEMPOTENCY_COLUMNS(
                              SQL_NAME) ") VALUES (?,?" STORE_IDEMPOTENCY_COLUMNS(SQL_MARK) ")");

    query_tenant(&query, tenant);
    row_bind(&query, &idempotency_row, row);
    return query_run(&query, NULL, err);
}

bool store_idempotency_end(struct store *store, const struct tenant *tenant, const char *key, int status,
                           const char *body, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE idempotency_keys SET status=?4, body=?5 WHERE organization_id=?1 AND "
                          "project_id=?2 AND key=?3");

    query_tenant(&query, tenant);
    query_text(&query, key);
    query_integer(&query, status);
    query_text(&query, body);
    return query_run(&query, NULL, err);
}

bool store_idempotency_drop(struct store *store, const struct tenant *tenant, const char *key, struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM idempotency_keys WHERE organization_id=? AND project_id=? AND key=?");

    query_tenant(&query, tenant);
    query_text(&query, key);
    return query_run(&query, NULL, err);
}
