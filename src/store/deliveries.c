#include "store/deliveries.h"

#include "os/clock.h"
#include "store/store_int.h"

#include <string.h>

#define DELIVERY_COLUMN(type, name) COLUMN_ENTRY(store_delivery, type, name)
static const struct column columns[] = {STORE_DELIVERY_COLUMNS(DELIVERY_COLUMN)};
static const struct row_type delivery_row = ROW_TYPE(columns, store_delivery);

bool delivery_insert(struct store *store, const struct store_job *job, const struct store_delivery *delivery,
                     struct err *err)
{
    struct query query = query_open(store, "INSERT INTO deliveries(number" STORE_DELIVERY_COLUMNS(
                                               SQL_NAME) ") VALUES "
                                                         "(NULL" STORE_DELIVERY_COLUMNS(SQL_MARK) ")");
    struct store_delivery row = {.organization_id = job->organization_id,
                                 .project_id = job->project_id,
                                 .job_id = job->id,
                                 .position = delivery->position,
                                 .kind = delivery->kind,
                                 .config_json = delivery->config_json,
                                 .state = "pending",
                                 .created_ms = clock_unix_ms()};

    row_bind(&query, &delivery_row, &row);
    return query_run(&query, NULL, err);
}

const char *store_delivery_project_secret(const char *kind, const char **member)
{
    static const struct {
        const char *kind, *member, *name;
    } table[] = {{"hf", "api_token", "HF_TOKEN"}, {"wandb", "api_key", "WANDB_API_KEY"}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(kind, table[i].kind) == 0) {
            *member = table[i].member;
            return table[i].name;
        }
    return NULL;
}

/* A result is handed on when there is one; that takes long, so it counts apart. */
#define IS_EXPORT  "kind='hf'"
#define IS_TOO_EARLY                                                                                                   \
    "(" IS_EXPORT " AND EXISTS (SELECT 1 FROM jobs j WHERE j.id = deliveries.job_id AND j.finished_ms = 0))"
/* NULL: it has nothing to tell and is not to be woken. */
#define DUE_MS                                                                                                         \
    "CASE WHEN " IS_TOO_EARLY " THEN NULL "                                                                            \
    "WHEN EXISTS (SELECT 1 FROM job_events e WHERE e.job_id = deliveries.job_id AND e.seq > after_seq) "          \
    "THEN next_ms WHEN wake_ms > 0 THEN MAX(next_ms, wake_ms) END"

static bool find_next(struct store *store, int64_t now_ms, int64_t *next_ms, struct err *err)
{
    struct query query = query_open(store, "SELECT COALESCE(MIN(due_ms), 9223372036854775807) FROM (SELECT " DUE_MS
                                           " AS due_ms FROM deliveries WHERE state='pending') WHERE due_ms > ?");

    *next_ms = INT64_MAX;
    query_integer(&query, now_ms);
    if (query_step(&query))
        *next_ms = query_get_integer(&query, 0);
    return query_close(&query, err);
}

bool store_delivery_due(struct store *store, int64_t now_ms, bool is_export, int limit, struct arena *arena,
                        struct store_delivery_list *list, int64_t *next_ms, struct err *err)
{
    struct query query = query_open(store, "SELECT number" STORE_DELIVERY_COLUMNS(
                                               SQL_NAME) " FROM deliveries WHERE "
                                                         "state='pending' AND next_ms <= ?1 AND (" IS_EXPORT
                                                         ")=?3 AND " DUE_MS " <= ?1 ORDER BY next_ms, number LIMIT ?2");

    *list = (struct store_delivery_list){arena_new_array(arena, struct store_delivery, (size_t)limit), 0};
    query_integer(&query, now_ms);
    query_integer(&query, limit);
    query_integer(&query, is_export);
    while (list->count < (size_t)limit && query_step(&query)) {
        struct store_delivery *delivery = &list->at[list->count++];

        row_get(&query, &delivery_row, arena, delivery);
        delivery->number = query_get_integer(&query, 0);
    }
    return query_close(&query, err) && find_next(store, now_ms, next_ms, err);
}

bool store_delivery_begin(struct store *store, int64_t number, int64_t until_ms, struct err *err)
{
    struct query query = query_open(store, "UPDATE deliveries SET is_uncertain=1, next_ms=?2 WHERE number=?1");

    query_integer(&query, number);
    query_integer(&query, until_ms);
    return query_run(&query, NULL, err);
}

bool store_delivery_recover(struct store *store, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE deliveries SET next_ms=0, wake_ms=1 WHERE state='pending' AND is_uncertain=1");

    return query_run(&query, NULL, err);
}

bool store_delivery_progress(struct store *store, int64_t number, const char *external_json, int64_t after_seq,
                             struct err *err)
{
    struct query query = query_open(store, "UPDATE deliveries SET external_json=COALESCE(?2, external_json), "
                                           "after_seq=MAX(after_seq, ?3) WHERE number=?1");

    query_integer(&query, number);
    query_text(&query, external_json);
    query_integer(&query, after_seq);
    return query_run(&query, NULL, err);
}

static bool set_end(struct store *store, int64_t number, const struct store_delivery_end *end, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE deliveries SET state=?2, failures=?3, next_ms=?4, is_uncertain=?5, wake_ms=?6 "
                          "WHERE number=?1 AND state='pending'");

    query_integer(&query, number);
    query_text(&query, end->state);
    query_integer(&query, end->failures);
    query_integer(&query, end->next_ms);
    query_integer(&query, end->is_uncertain);
    query_integer(&query, end->wake_ms);
    return query_run(&query, NULL, err);
}

static bool drop_secrets(struct store *store, const char *job_id, struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM secrets WHERE owner=?1 AND owner <> '' AND NOT EXISTS (SELECT 1 "
                          "FROM deliveries WHERE job_id=?1 AND state='pending' AND kind <> 'webhook')");

    query_text(&query, job_id);
    return query_run(&query, NULL, err);
}

bool store_delivery_end(struct store *store, const struct store_delivery *delivery,
                        const struct store_delivery_end *end, struct err *err)
{
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           set_end(store, delivery->number, end, err) &&
                               (strcmp(end->state, "pending") == 0 || drop_secrets(store, delivery->job_id, err)),
                           err);
}
