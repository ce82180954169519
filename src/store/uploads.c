#include "store/uploads.h"

#include "os/clock.h"
#include "os/entropy.h"
#include "store/idempotency.h"
#include "store/store_int.h"

#include <string.h>

#define UPLOAD_COLUMN(type, name) COLUMN_ENTRY(store_upload, type, name)
#define PART_COLUMN(type, name)   COLUMN_ENTRY(store_part, type, name)
static const struct column upload_columns[] = {STORE_UPLOAD_COLUMNS(UPLOAD_COLUMN)};
static const struct column part_columns[] = {STORE_PART_COLUMNS(PART_COLUMN)};
static const struct row_type upload_row = ROW_TYPE(upload_columns, store_upload);
static const struct row_type part_row = ROW_TYPE(part_columns, store_part);

void store_id_upload(char id[STORE_ID_BYTES])
{
    memcpy(id, "upload_", 7);
    entropy_hex(id + 7, 16);
}

void store_id_part(char id[STORE_ID_BYTES])
{
    memcpy(id, "part_", 5);
    entropy_hex(id + 5, 16);
}

bool store_upload_create(struct store *store, const struct tenant *tenant, const struct store_upload *upload,
                         struct err *err)
{
    struct query query = query_open(store, "INSERT INTO uploads(organization_id, project_id" STORE_UPLOAD_COLUMNS(
                                               SQL_NAME) ") VALUES (?,?" STORE_UPLOAD_COLUMNS(SQL_MARK) ")");

    query_tenant(&query, tenant);
    row_bind(&query, &upload_row, upload);
    return query_run(&query, NULL, err);
}

bool store_upload_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                      struct store_upload *upload, struct err *err)
{
    struct query query =
        query_open(store, "SELECT number" STORE_UPLOAD_COLUMNS(
                              SQL_NAME) " FROM uploads WHERE organization_id=? AND project_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    if (!row_get_one(&query, &upload_row, arena, upload, "Upload object", id, err))
        return false;
    if (!strcmp(upload->status, "pending") && upload->expires_ms <= clock_unix_ms())
        upload->status = "expired";
    return true;
}

static bool not_pending(const char *id, struct err *err)
{
    return err_set(err, ERR_CONFLICT, "The upload '%s' is not pending any more", id);
}

static bool insert_part(struct store *store, const struct tenant *tenant, const struct store_part *part,
                        struct err *err)
{
    struct query query =
        query_open(store, "INSERT INTO upload_parts(organization_id, project_id, id, upload_id, bytes) "
                          "SELECT ?1,?2,?3,?4,?5 WHERE EXISTS (SELECT 1 FROM uploads WHERE organization_id=?1 AND "
                          "project_id=?2 AND id=?4 AND status='pending' AND expires_ms > ?6)");
    int changed;

    query_tenant(&query, tenant);
    row_bind(&query, &part_row, part);
    query_integer(&query, clock_unix_ms());
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || not_pending(part->upload_id, err);
}

bool store_part_create(struct store *store, const struct tenant *tenant, const struct store_part *part, struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store, insert_part(store, tenant, part, err) && quota_holds(store, tenant, err), err);
}

bool store_part_get(struct store *store, const struct tenant *tenant, const char *upload_id, const char *id,
                    struct arena *arena, struct store_part *part, struct err *err)
{
    struct query query = query_open(
        store, "SELECT number" STORE_PART_COLUMNS(
                   SQL_NAME) " FROM upload_parts WHERE organization_id=? AND project_id=? AND upload_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, upload_id);
    query_text(&query, id);
    return row_get_one(&query, &part_row, arena, part, "part of this upload", id, err);
}

struct id_list {
    struct arena *arena;
    const char **at;
    size_t count, cap;
};

static void id_list_add(struct id_list *list, const char *id)
{
    if (list->count == list->cap) {
        const char **more = arena_new_array(list->arena, const char *, list->cap * 2 + 16);

        if (list->count)
            memcpy(more, list->at, list->count * sizeof *more);
        list->at = more;
        list->cap = list->cap * 2 + 16;
    }
    list->at[list->count++] = id;
}

/* Adds the first column of every row, then closes the query. */
static bool id_list_fill(struct id_list *list, struct query *query, struct err *err)
{
    while (query_step(query))
        id_list_add(list, query_get_text(query, 0, list->arena));
    return query_close(query, err);
}

bool store_part_ids(struct store *store, const struct tenant *tenant, const char *upload_id, struct arena *arena,
                    const char ***ids, size_t *count, struct err *err)
{
    struct query query = query_open(store, "SELECT id FROM upload_parts WHERE organization_id=? AND project_id=? AND "
                                           "upload_id=? ORDER BY number");
    struct id_list list = {.arena = arena};
    bool ok;

    query_tenant(&query, tenant);
    query_text(&query, upload_id);
    ok = id_list_fill(&list, &query, err);
    *ids = list.at;
    *count = list.count;
    return ok;
}

static bool end_upload(struct store *store, const struct tenant *tenant, const char *id, const char *status,
                       const char *file_id, struct err *err)
{
    struct query query = query_open(store, "UPDATE uploads SET status=?4, file_id=?5 WHERE organization_id=?1 AND "
                                           "project_id=?2 AND id=?3 AND status='pending' AND expires_ms > ?6");
    int changed;

    query_tenant(&query, tenant);
    query_text(&query, id);
    query_text(&query, status);
    query_text(&query, file_id);
    query_integer(&query, clock_unix_ms());
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || not_pending(id, err);
}

static bool forget_parts(struct store *store, const char *upload_id, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM upload_parts WHERE upload_id=?");

    query_text(&query, upload_id);
    return query_run(&query, NULL, err);
}

bool store_upload_complete(struct store *store, const struct tenant *tenant, const char *id,
                           const struct store_file *file, struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           end_upload(store, tenant, id, "completed", file->id, err) && forget_parts(store, id, err) &&
                               file_insert(store, tenant, file, err),
                           err);
}

bool store_upload_cancel(struct store *store, const struct tenant *tenant, const char *id, struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(
        store, end_upload(store, tenant, id, "cancelled", NULL, err) && forget_parts(store, id, err), err);
}

/* Runs a statement whose only parameter is the time. */
static bool run_at(struct query query, int64_t now_ms, struct err *err)
{
    query_integer(&query, now_ms);
    return query_run(&query, NULL, err);
}

static bool list_at(struct query query, int64_t now_ms, struct id_list *list, struct err *err)
{
    query_integer(&query, now_ms);
    return id_list_fill(list, &query, err);
}

static bool expire(struct store *store, int64_t now_ms, struct id_list *list, struct err *err)
{
    return list_at(query_open(store, "SELECT id FROM upload_parts WHERE upload_id IN (SELECT id FROM uploads WHERE "
                                     "status='pending' AND expires_ms <= ?)"),
                   now_ms, list, err) &&
           run_at(query_open(store, "DELETE FROM upload_parts WHERE upload_id IN (SELECT id FROM uploads WHERE "
                                    "status='pending' AND expires_ms <= ?)"),
                  now_ms, err) &&
           run_at(query_open(store, "UPDATE uploads SET status='expired' WHERE status='pending' AND expires_ms <= ?"),
                  now_ms, err) &&
           list_at(query_open(store, "SELECT id FROM files WHERE expires_ms > 0 AND expires_ms <= ?"), now_ms, list,
                   err) &&
           run_at(query_open(store, "DELETE FROM files WHERE expires_ms > 0 AND expires_ms <= ?"), now_ms, err) &&
           run_at(query_open(store, "DELETE FROM idempotency_keys WHERE created_ms <= ?"), now_ms - IDEMPOTENCY_LIFE_MS,
                  err);
}

bool store_expire(struct store *store, int64_t now_ms, struct arena *arena, const char ***ids, size_t *count,
                  struct err *err)
{
    struct id_list list = {.arena = arena};
    bool ok = transaction_begin(store, err) && transaction_end(store, expire(store, now_ms, &list, err), err);

    *ids = list.at;
    *count = ok ? list.count : 0;
    return ok;
}
