#include "store/usage.h"

#include "os/clock.h"
#include "store/store_int.h"

#include <string.h>

enum { DAY_MS = 86400000 };

static bool count_projects(struct store *store, const struct tenant *tenant, int64_t *count, struct err *err)
{
    struct query query = query_open(store, "SELECT COUNT(*) FROM projects WHERE organization_id=?");

    query_text(&query, tenant->organization_id);
    *count = query_step(&query) ? query_get_integer(&query, 0) : 0;
    return query_close(&query, err);
}

bool store_usage_days(struct store *store, const struct tenant *tenant, int64_t first_day, int64_t end_day,
                      struct arena *arena, struct store_usage_list *list, struct err *err)
{
#define COUNT_OF(name) ", COALESCE(u." #name ", 0)"
    static const char *const sql =
        "WITH RECURSIVE days(day) AS (SELECT ?2 WHERE ?2 < ?3 UNION ALL SELECT day + 1 FROM days WHERE day + 1 < ?3) "
        "SELECT d.day, p.id, COALESCE((SELECT bytes FROM storage_days s WHERE s.organization_id = p.organization_id "
        "AND "
        "s.project_id = p.id AND s.day <= d.day ORDER BY s.day DESC LIMIT 1), 0)" STORE_USAGE_COUNTS(
            COUNT_OF) " FROM days d JOIN projects p ON p.organization_id = ?1 LEFT JOIN usage_days u ON "
                      "u.organization_id = "
                      "p.organization_id AND u.project_id = p.id AND u.day = d.day ORDER BY d.day, p.rowid";
    struct query query;
    int64_t projects;
    size_t cap;

    *list = (struct store_usage_list){0};
    if (!count_projects(store, tenant, &projects, err))
        return false;
    cap = (size_t)projects * (size_t)(end_day > first_day ? end_day - first_day : 0);
    list->at = arena_new_array(arena, struct store_usage_day, cap);
    query = query_open(store, sql);
    query_text(&query, tenant->organization_id);
    query_integer(&query, first_day);
    query_integer(&query, end_day);
    while (list->count < cap && query_step(&query)) {
        struct store_usage_day *day = &list->at[list->count++];
        int column = 3;

        *day = (struct store_usage_day){.day = query_get_integer(&query, 0),
                                        .project_id = query_get_text(&query, 1, arena),
                                        .storage_bytes = query_get_integer(&query, 2)};
#define GET_COUNT(name) day->counts.name = query_get_integer(&query, column++);
        STORE_USAGE_COUNTS(GET_COUNT)
#undef GET_COUNT
    }
    return query_close(&query, err);
}

bool store_usage_add_requests(struct store *store, const struct tenant *tenant, int64_t requests, int64_t input_tokens,
                              int64_t output_tokens, struct err *err)
{
    struct query query = query_open(
        store, "INSERT INTO usage_days(organization_id, project_id, day, model_requests, input_tokens, output_tokens) "
               "VALUES (?,?,?,?,?,?) ON CONFLICT(organization_id, project_id, day) DO UPDATE SET "
               "model_requests = model_requests + excluded.model_requests, "
               "input_tokens = input_tokens + excluded.input_tokens, "
               "output_tokens = output_tokens + excluded.output_tokens");

    query_tenant(&query, tenant);
    query_integer(&query, clock_unix_ms() / DAY_MS);
    query_integer(&query, requests);
    query_integer(&query, input_tokens);
    query_integer(&query, output_tokens);
    return query_run(&query, NULL, err);
}
