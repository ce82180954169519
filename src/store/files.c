/* File rows. */
#include "store/store_int.h"

#define FILE_COLUMN(type, name) COLUMN_ENTRY(store_file, type, name)
static const struct column columns[] = {STORE_FILE_COLUMNS(FILE_COLUMN)};
static const struct row_type file_row = ROW_TYPE(columns, store_file);

bool file_insert(struct store *store, const struct tenant *tenant, const struct store_file *file, struct err *err)
{
    struct query query = query_open(store, "INSERT INTO files(organization_id, project_id" STORE_FILE_COLUMNS(
                                               SQL_NAME) ") VALUES (?,?" STORE_FILE_COLUMNS(SQL_MARK) ")");

    query_tenant(&query, tenant);
    row_bind(&query, &file_row, file);
    return query_run(&query, NULL, err);
}

bool store_file_create(struct store *store, const struct tenant *tenant, const struct store_file *file, struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store, file_insert(store, tenant, file, err) && quota_holds(store, tenant, err), err);
}

bool store_file_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                    struct store_file *file, struct err *err)
{
    struct query query = query_open(
        store,
        "SELECT number" STORE_FILE_COLUMNS(SQL_NAME) " FROM files WHERE organization_id=? AND project_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    return row_get_one(&query, &file_row, arena, file, "File object", id, err);
}

bool store_file_list(struct store *store, const struct tenant *tenant, const char *purpose,
                     const struct store_page *page, struct arena *arena, struct store_file_list *list, struct err *err)
{
    static const struct list_sql sql =
        LIST_OF(STORE_FILE_COLUMNS, "files", "id", "?3 IS NULL OR purpose=?3", "File object");

    return row_list(store, tenant, purpose, page, &sql, &file_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}

bool store_file_delete(struct store *store, const struct tenant *tenant, const char *id, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM files WHERE organization_id=? AND project_id=? AND id=?");
    int changed;

    query_tenant(&query, tenant);
    query_text(&query, id);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_NOT_FOUND, "No such File object: '%s'", id);
}
