#include "store/webhooks.h"

#include "os/clock.h"
#include "store/store_int.h"

#define WEBHOOK_COLUMN(type, name) COLUMN_ENTRY(store_webhook, type, name)
static const struct column columns[] = {STORE_WEBHOOK_COLUMNS(WEBHOOK_COLUMN)};
static const struct row_type webhook_row = ROW_TYPE(columns, store_webhook);

static bool count_webhooks(struct store *store, const struct tenant *tenant, int64_t *count, struct err *err)
{
    struct query query =
        query_open(store, "SELECT COUNT(*) FROM webhook_endpoints WHERE organization_id=? AND project_id=?");

    *count = 0;
    query_tenant(&query, tenant);
    if (query_step(&query))
        *count = query_get_integer(&query, 0);
    return query_close(&query, err);
}

static bool insert(struct store *store, const struct tenant *tenant, const struct store_webhook *webhook,
                   struct err *err)
{
    struct query query =
        query_open(store, "INSERT INTO webhook_endpoints(organization_id, project_id" STORE_WEBHOOK_COLUMNS(
                              SQL_NAME) ") VALUES (?,?" STORE_WEBHOOK_COLUMNS(SQL_MARK) ")");
    struct store_webhook row = *webhook;

    row.created_ms = row.updated_ms = clock_unix_ms();
    row.old_secret_until_ms = 0;
    query_tenant(&query, tenant);
    row_bind(&query, &webhook_row, &row);
    return query_run(&query, NULL, err);
}

bool store_webhook_create(struct store *store, const struct tenant *tenant, const struct store_webhook *webhook,
                          const struct secret *secret, struct err *err)
{
    int64_t count;

    if (!count_webhooks(store, tenant, &count, err))
        return false;
    if (count >= STORE_WEBHOOKS_MAX)
        return err_set(err, ERR_QUOTA, "A project has at most %d webhook endpoints: delete one first.",
                       STORE_WEBHOOKS_MAX);
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           insert(store, tenant, webhook, err) &&
                               secret_insert(store, tenant, webhook->id, STORE_WEBHOOK_SECRET, secret, err),
                           err);
}

bool store_webhook_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                       struct store_webhook *webhook, struct err *err)
{
    struct query query = query_open(store, "SELECT number" STORE_WEBHOOK_COLUMNS(
                                               SQL_NAME) " FROM webhook_endpoints WHERE organization_id=? AND "
                                                         "project_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    return row_get_one(&query, &webhook_row, arena, webhook, "webhook endpoint", id, err);
}

bool store_webhook_list(struct store *store, const struct tenant *tenant, const struct store_page *page,
                        struct arena *arena, struct store_webhook_list *list, struct err *err)
{
    static const struct list_sql sql =
        LIST_OF(STORE_WEBHOOK_COLUMNS, "webhook_endpoints", "id", "1", "webhook endpoint");

    return row_list(store, tenant, NULL, page, &sql, &webhook_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}

/* A change of the row of this id: ?1 to ?3 are the tenant and the id. */
static bool change(struct query *query, const char *id, struct err *err)
{
    int changed;

    if (!query_run(query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_NOT_FOUND, "No such webhook endpoint: '%s'", id);
}

static bool set_fields(struct store *store, const struct tenant *tenant, const struct store_webhook *webhook,
                       struct err *err)
{
    struct query query = query_open(store, "UPDATE webhook_endpoints SET name=?4, url=?5, event_types_json=?6, "
                                           "is_enabled=?7, updated_ms=?8 WHERE organization_id=?1 AND project_id=?2 "
                                           "AND id=?3");

    query_tenant(&query, tenant);
    query_text(&query, webhook->id);
    query_text(&query, webhook->name);
    query_text(&query, webhook->url);
    query_text(&query, webhook->event_types_json);
    query_integer(&query, webhook->is_enabled);
    query_integer(&query, webhook->updated_ms);
    return change(&query, webhook->id, err);
}

static bool drop_deliveries(struct store *store, const struct tenant *tenant, const char *id, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM deliveries WHERE state='pending' AND kind='webhook' AND "
                                           "organization_id=? AND project_id=? AND config_json->>'endpoint'=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    return query_run(&query, NULL, err);
}

bool store_webhook_update(struct store *store, const struct tenant *tenant, const struct store_webhook *webhook,
                          struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           set_fields(store, tenant, webhook, err) &&
                               (webhook->is_enabled || drop_deliveries(store, tenant, webhook->id, err)),
                           err);
}

static bool set_hint(struct store *store, const struct tenant *tenant, const char *id, const char *hint,
                     int64_t old_until_ms, struct err *err)
{
    struct query query = query_open(store, "UPDATE webhook_endpoints SET secret_hint=?4, old_secret_until_ms=?5, "
                                           "updated_ms=?6 WHERE organization_id=?1 AND project_id=?2 AND id=?3");

    query_tenant(&query, tenant);
    query_text(&query, id);
    query_text(&query, hint);
    query_integer(&query, old_until_ms);
    query_integer(&query, clock_unix_ms());
    return change(&query, id, err);
}

bool store_webhook_rotate(struct store *store, const struct tenant *tenant, const char *id,
                          const struct secret *secret, const char *hint, int64_t old_until_ms, struct err *err)
{
    struct secret old = {0};
    bool ok = !old_until_ms || store_secret_get(store, tenant, id, STORE_WEBHOOK_SECRET, &old, err);

    if (ok && (ok = transaction_begin(store, err)))
        ok = transaction_end(
            store,
            set_hint(store, tenant, id, hint, old_until_ms, err) && store_secret_delete_all(store, tenant, id, err) &&
                (!old_until_ms || secret_insert(store, tenant, id, STORE_WEBHOOK_OLD_SECRET, &old, err)) &&
                secret_insert(store, tenant, id, STORE_WEBHOOK_SECRET, secret, err),
            err);
    secret_wipe(&old);
    return ok;
}

static bool delete_row(struct store *store, const struct tenant *tenant, const char *id, struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM webhook_endpoints WHERE organization_id=? AND project_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    return change(&query, id, err);
}

bool store_webhook_delete(struct store *store, const struct tenant *tenant, const char *id, struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           delete_row(store, tenant, id, err) && store_secret_delete_all(store, tenant, id, err) &&
                               drop_deliveries(store, tenant, id, err),
                           err);
}
