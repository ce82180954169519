/* Job rows, as their tenants read them. Who moves them: queue.c. */
#include "store/store_int.h"

#define JOB_COLUMN(type, name) COLUMN_ENTRY(store_job, type, name)
static const struct column columns[] = {STORE_JOB_COLUMNS(JOB_COLUMN)};
const struct row_type store_job_row = ROW_TYPE(columns, store_job);

bool store_job_get(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                   struct store_job *job, struct err *err)
{
    struct query query = query_open(
        store,
        "SELECT number" STORE_JOB_COLUMNS(SQL_NAME) " FROM jobs WHERE organization_id=? AND project_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    return row_get_one(&query, &store_job_row, arena, job, "fine-tuning job", id, err);
}

bool store_job_list(struct store *store, const struct tenant *tenant, const char *metadata_json,
                    const struct store_page *page, struct arena *arena, struct store_job_list *list, struct err *err)
{
    static const struct list_sql sql = LIST_OF(
        STORE_JOB_COLUMNS, "jobs", "id",
        "?3 IS NULL OR (?3 = 'null' AND COALESCE(metadata_json, 'null') IN ('null', '{}')) OR (?3 <> 'null' AND NOT "
        "EXISTS (SELECT 1 FROM json_each(?3) f WHERE NOT EXISTS (SELECT 1 FROM json_each(jobs.metadata_json) m "
        "WHERE m.key = f.key AND m.value = f.value)))",
        "fine-tuning job");

    return row_list(store, tenant, metadata_json, page, &sql, &store_job_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}
