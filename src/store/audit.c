#include "store/audit.h"

#include "os/clock.h"
#include "os/entropy.h"
#include "store/store_int.h"

#define AUDIT_COLUMN(type, name) COLUMN_ENTRY(store_audit, type, name)
static const struct column columns[] = {STORE_AUDIT_COLUMNS(AUDIT_COLUMN)};
static const struct row_type audit_row = ROW_TYPE(columns, store_audit);

bool store_audit_add(struct store *store, const struct tenant *tenant, const struct store_audit *row, struct err *err)
{
    struct query query = query_open(store, "INSERT INTO audit_logs(organization_id" STORE_AUDIT_COLUMNS(
                                               SQL_NAME) ") VALUES (?" STORE_AUDIT_COLUMNS(SQL_MARK) ")");
    struct store_audit whole = *row;
    char id[STORE_ID_BYTES] = "audit_log-";

    entropy_hex(id + 10, 16);
    whole.id = id;
    whole.project_id = tenant->project_id;
    whole.created_ms = clock_unix_ms();
    query_text(&query, tenant->organization_id);
    row_bind(&query, &audit_row, &whole);
    return query_run(&query, NULL, err);
}

/* The parameters of LIST_SQL; the project is no condition. */
#define AUDIT_IS_WANTED                                                                                                \
    "organization_id=?1 AND ?2 IS NOT NULL AND (json_extract(?3, '$.projects') IS NULL OR project_id IN "              \
    "(SELECT value FROM json_each(?3, '$.projects'))) AND (json_extract(?3, '$.types') IS NULL OR type IN "            \
    "(SELECT value FROM json_each(?3, '$.types'))) AND (json_extract(?3, '$.keys') IS NULL OR key_id IN "              \
    "(SELECT value FROM json_each(?3, '$.keys'))) AND created_ms >= COALESCE(json_extract(?3, '$.from_ms'), 0) "       \
    "AND created_ms <= COALESCE(json_extract(?3, '$.to_ms'), 9223372036854775807)"
#define AUDIT_LIST(compare, order)                                                                                     \
    "SELECT number" STORE_AUDIT_COLUMNS(SQL_NAME) " FROM audit_logs WHERE " AUDIT_IS_WANTED                            \
                                                  " AND (?4=0 OR number" compare "?4) ORDER BY number " order          \
                                                  " LIMIT ?5"

bool store_audit_list(struct store *store, const struct tenant *tenant, const char *filter_json,
                      const struct store_page *page, struct arena *arena, struct store_audit_list *list,
                      struct err *err)
{
    static const struct list_sql sql = {
        .ascending = AUDIT_LIST(">", "ASC"),
        .descending = AUDIT_LIST("<", "DESC"),
        .cursor =
            "SELECT number FROM audit_logs WHERE organization_id=?1 AND ?2 IS NOT NULL AND ?3 IS NOT NULL AND id=?4",
        .what = "audit log",
    };

    return row_list(store, tenant, filter_json, page, &sql, &audit_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}

bool store_audit_expire(struct store *store, int64_t before_ms, int64_t rows_max, struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM audit_logs WHERE number IN (SELECT number FROM audit_logs WHERE "
                          "created_ms < ?1 OR number <= (SELECT COALESCE(MAX(number), 0) FROM audit_logs) "
                          "- ?2 LIMIT 10000)");

    query_integer(&query, before_ms);
    query_integer(&query, rows_max);
    return query_run(&query, NULL, err);
}
