#include "store/usage.h"

#include "os/clock.h"
#include "store/store_int.h"

#include <string.h>

enum { DAY_MS = 86400000, ROWS_FIRST = 64 };

static struct store_usage_row *add_row(struct arena *arena, struct store_usage_list *list, size_t *cap)
{
    if (list->count == *cap) {
        struct store_usage_row *larger = arena_new_array(arena, struct store_usage_row, *cap ? 2 * *cap : ROWS_FIRST);

        if (list->count)
            memcpy(larger, list->at, list->count * sizeof *larger);
        list->at = larger;
        *cap = *cap ? 2 * *cap : ROWS_FIRST;
    }
    return &list->at[list->count++];
}

/* The statements begin with the same parameters and the same columns: day, project, model. */
static struct query ask(struct store *store, const char *sql, const struct tenant *tenant,
                        const struct store_usage_query *asked)
{
    struct query query = query_open(store, sql);

    query_text(&query, tenant->organization_id);
    query_integer(&query, asked->first_day);
    query_integer(&query, asked->end_day);
    query_integer(&query, asked->by_project);
    query_text(&query, asked->projects_json);
    return query;
}

static struct store_usage_row row_of(struct query *query, struct arena *arena)
{
    return (struct store_usage_row){.day = query_get_integer(query, 0),
                                    .project_id = query_get_text(query, 1, arena),
                                    .model = query_get_text(query, 2, arena)};
}

bool store_usage_read(struct store *store, const struct tenant *tenant, const struct store_usage_query *asked,
                      struct arena *arena, struct store_usage_list *list, struct err *err)
{
#define SUM_OF(name) ", SUM(" #name ")"
    struct query query = ask(store,
                             "SELECT day, CASE WHEN ?4 THEN project_id END AS project, CASE WHEN ?6 THEN model END AS "
                             "of_model" STORE_USAGE_COUNTS(SUM_OF) " FROM usage_days WHERE organization_id=?1 AND "
                                                                   "day>=?2 AND day<?3 AND (?5 IS NULL OR project_id "
                                                                   "IN (SELECT value FROM json_each(?5))) AND (?7 IS "
                                                                   "NULL OR model IN (SELECT value FROM json_each(?7)))"
                                                                   " GROUP BY day, project, of_model ORDER BY day, "
                                                                   "project, of_model",
                             tenant, asked);
    size_t cap = 0;

    query_integer(&query, asked->by_model);
    query_text(&query, asked->models_json);
    *list = (struct store_usage_list){0};
    while (query_step(&query)) {
        struct store_usage_row *row = add_row(arena, list, &cap);
        int column = 3;

        *row = row_of(&query, arena);
#define GET_COUNT(name) row->counts.name = query_get_integer(&query, column++);
        STORE_USAGE_COUNTS(GET_COUNT)
#undef GET_COUNT
    }
    return query_close(&query, err);
}

bool store_usage_storage(struct store *store, const struct tenant *tenant, const struct store_usage_query *asked,
                         struct arena *arena, struct store_usage_list *list, struct err *err)
{
    struct query query = ask(
        store,
        "WITH RECURSIVE days(day) AS (SELECT ?2 WHERE ?2 < ?3 UNION ALL SELECT day + 1 FROM days WHERE day + 1 < ?3) "
        "SELECT d.day, CASE WHEN ?4 THEN p.id END AS project, NULL, SUM(COALESCE((SELECT bytes "
        "FROM storage_days s WHERE s.organization_id = p.organization_id AND s.project_id = p.id AND s.day <= d.day "
        "ORDER BY s.day DESC LIMIT 1), 0)) FROM days d JOIN projects p ON p.organization_id = ?1 WHERE ?5 IS NULL OR "
        "p.id IN (SELECT value FROM json_each(?5)) GROUP BY d.day, project ORDER BY d.day, project",
        tenant, asked);
    size_t cap = 0;

    *list = (struct store_usage_list){0};
    while (query_step(&query)) {
        struct store_usage_row *row = add_row(arena, list, &cap);

        *row = row_of(&query, arena);
        row->storage_bytes = query_get_integer(&query, 3);
    }
    return query_close(&query, err);
}

bool store_usage_add_requests(struct store *store, const struct tenant *tenant, const char *model, int64_t requests,
                              int64_t input_tokens, int64_t output_tokens, struct err *err)
{
    struct query query = query_open(
        store,
        "INSERT INTO usage_days(organization_id, project_id, day, model, model_requests, input_tokens, output_tokens) "
        "VALUES (?,?,?,?,?,?,?) ON CONFLICT(organization_id, project_id, day, model) DO UPDATE SET "
        "model_requests = model_requests + excluded.model_requests, "
        "input_tokens = input_tokens + excluded.input_tokens, "
        "output_tokens = output_tokens + excluded.output_tokens");

    query_tenant(&query, tenant);
    query_integer(&query, clock_unix_ms() / DAY_MS);
    query_text(&query, model);
    query_integer(&query, requests);
    query_integer(&query, input_tokens);
    query_integer(&query, output_tokens);
    return query_run(&query, NULL, err);
}
