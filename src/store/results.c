/* What jobs leave behind: events, checkpoints, models. */
#include "store/store_int.h"

#include "os/clock.h"

#define EVENT_COLUMN(type, name)      COLUMN_ENTRY(store_event, type, name)
#define CHECKPOINT_COLUMN(type, name) COLUMN_ENTRY(store_checkpoint, type, name)
#define MODEL_COLUMN(type, name)      COLUMN_ENTRY(store_model, type, name)
static const struct column event_columns[] = {STORE_EVENT_COLUMNS(EVENT_COLUMN)};
static const struct column checkpoint_columns[] = {STORE_CHECKPOINT_COLUMNS(CHECKPOINT_COLUMN)};
static const struct column model_columns[] = {STORE_MODEL_COLUMNS(MODEL_COLUMN)};
static const struct row_type event_row = ROW_TYPE(event_columns, store_event);
const struct row_type store_checkpoint_row = ROW_TYPE(checkpoint_columns, store_checkpoint);
static const struct row_type model_row = ROW_TYPE(model_columns, store_model);

static bool job_exists(struct store *store, const struct tenant *tenant, const char *job_id, struct err *err)
{
    struct query query = query_open(store, "SELECT 1 FROM jobs WHERE organization_id=? AND project_id=? AND id=?");
    bool found;

    query_tenant(&query, tenant);
    query_text(&query, job_id);
    found = query_step(&query);
    if (!query_close(&query, err))
        return false;
    return found || err_set(err, ERR_NOT_FOUND, "No such fine-tuning job: '%s'", job_id);
}

bool event_insert(struct store *store, const struct tenant *tenant, const char *job_id, const struct store_event *event,
                  struct err *err)
{
    struct query query = query_open(
        store,
        "INSERT INTO job_events(organization_id, project_id, job_id, seq, id, kind, code, step, attempt, level, "
        "message, type, data_json, created_ms) VALUES (?1,?2,?3, (SELECT COALESCE(MAX(seq), 0) + 1 FROM job_events "
        "WHERE job_id=?3), ?4,?5,?6,?7,?8,?9,?10,?11,?12,?13) ON CONFLICT(job_id, kind, code, step) DO NOTHING");
    char id[STORE_ID_BYTES];

    store_id_event(id);
    query_tenant(&query, tenant);
    query_text(&query, job_id);
    query_text(&query, id);
    query_text(&query, event->kind);
    query_text(&query, event->code);
    query_integer(&query, event->step);
    query_integer(&query, event->attempt);
    query_text(&query, event->level);
    query_text(&query, event->message);
    query_text(&query, event->type);
    query_text(&query, event->data_json);
    query_integer(&query, event->created_ms);
    return query_run(&query, NULL, err);
}

bool store_event_add(struct store *store, const struct tenant *tenant, const char *job_id, const char *level,
                     const char *code, const char *message, const char *data_json, struct err *err)
{
    struct store_event event = {.kind = "message",
                                .code = code,
                                .level = level,
                                .message = message,
                                .type = "message",
                                .data_json = data_json,
                                .created_ms = clock_unix_ms()};

    return job_exists(store, tenant, job_id, err) && event_insert(store, tenant, job_id, &event, err);
}

bool store_event_list(struct store *store, const struct tenant *tenant, const char *job_id,
                      const struct store_page *page, struct arena *arena, struct store_event_list *list,
                      struct err *err)
{
    static const struct list_sql sql = LIST_OF(STORE_EVENT_COLUMNS, "job_events", "id", "job_id=?3", "event");

    return job_exists(store, tenant, job_id, err) &&
           row_list(store, tenant, job_id, page, &sql, &event_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}

bool store_event_since(struct store *store, const struct tenant *tenant, const char *job_id, int64_t after_seq,
                       int limit, struct arena *arena, struct store_event_list *list, struct err *err)
{
    struct query query;

    *list = (struct store_event_list){.at = arena_new_array(arena, struct store_event, (size_t)limit)};
    if (!job_exists(store, tenant, job_id, err))
        return false;
    query = query_open(store, "SELECT number" STORE_EVENT_COLUMNS(
                                  SQL_NAME) " FROM job_events WHERE job_id=? AND seq > ? ORDER BY seq LIMIT ?");
    query_text(&query, job_id);
    query_integer(&query, after_seq);
    query_integer(&query, limit);
    while (query_step(&query))
        row_get(&query, &event_row, arena, &list->at[list->count++]);
    list->has_more = list->count == (size_t)limit;
    return query_close(&query, err);
}

bool store_checkpoint_get(struct store *store, const struct tenant *tenant, const char *job_id, const char *id,
                          struct arena *arena, struct store_checkpoint *checkpoint, struct err *err)
{
    struct query query;

    if (!job_exists(store, tenant, job_id, err))
        return false;
    query = query_open(store,
                       "SELECT number" STORE_CHECKPOINT_COLUMNS(
                                  SQL_NAME) " FROM checkpoints WHERE job_id=? AND id=? AND is_leaving=0");
    query_text(&query, job_id);
    query_text(&query, id);
    return row_get_one(&query, &store_checkpoint_row, arena, checkpoint, "checkpoint", id, err);
}

bool store_checkpoint_find(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
                           struct store_checkpoint *checkpoint, struct err *err)
{
    struct query query = query_open(
        store, "SELECT number" STORE_CHECKPOINT_COLUMNS(SQL_NAME) " FROM checkpoints WHERE id=? AND is_leaving=0 AND "
               "job_id IN (SELECT id FROM jobs WHERE organization_id=? AND project_id=?)");

    query_text(&query, id);
    query_text(&query, tenant->organization_id);
    query_text(&query, tenant->project_id);
    return row_get_one(&query, &store_checkpoint_row, arena, checkpoint, "checkpoint", id, err);
}

bool store_checkpoint_list(struct store *store, const struct tenant *tenant, const char *job_id,
                           const struct store_page *page, struct arena *arena, struct store_checkpoint_list *list,
                           struct err *err)
{
    static const struct list_sql sql =
        LIST_OF(STORE_CHECKPOINT_COLUMNS, "checkpoints", "id", "job_id=?3 AND is_leaving=0", "checkpoint");

    return job_exists(store, tenant, job_id, err) &&
           row_list(store, tenant, job_id, page, &sql, &store_checkpoint_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}

bool model_insert(struct store *store, const struct tenant *tenant, const struct store_model *model, struct err *err)
{
    struct query query = query_open(store, "INSERT INTO models(organization_id, project_id" STORE_MODEL_COLUMNS(
                                               SQL_NAME) ") VALUES (?,?" STORE_MODEL_COLUMNS(SQL_MARK) ")");

    query_tenant(&query, tenant);
    row_bind(&query, &model_row, model);
    return query_run(&query, NULL, err);
}

/* Its own project's, and of projects that were given a permission. Parameters are organisation and project. */
#define MODEL_IS_USABLE                                                                                                \
    "((organization_id=?1 AND project_id=?2) OR name IN (SELECT model_name FROM checkpoint_permissions WHERE "         \
    "organization_id=?1 AND granted_to=?2))"
#define MODEL_LIST(compare, order)                                                                                     \
    "SELECT number" STORE_MODEL_COLUMNS(SQL_NAME) " FROM models WHERE " MODEL_IS_USABLE                                \
    " AND ?3 IS NULL AND (?4=0 OR number" compare "?4) ORDER BY number " order " LIMIT ?5"

bool store_model_get(struct store *store, const struct tenant *tenant, const char *name, struct arena *arena,
                     struct store_model *model, struct err *err)
{
    struct query query = query_open(
        store, "SELECT number" STORE_MODEL_COLUMNS(SQL_NAME) " FROM models WHERE " MODEL_IS_USABLE " AND name=?3");

    query_tenant(&query, tenant);
    query_text(&query, name);
    return row_get_one(&query, &model_row, arena, model, "model", name, err);
}

bool store_model_list(struct store *store, const struct tenant *tenant, const struct store_page *page,
                      struct arena *arena, struct store_model_list *list, struct err *err)
{
    static const struct list_sql sql = {
        .ascending = MODEL_LIST(">", "ASC"),
        .descending = MODEL_LIST("<", "DESC"),
        .cursor = "SELECT number FROM models WHERE " MODEL_IS_USABLE " AND ?3 IS NULL AND name=?4",
        .what = "model",
    };

    return row_list(store, tenant, NULL, page, &sql, &model_row, arena, (void **)&list->at, &list->count,
                    &list->has_more, err);
}

bool store_model_delete(struct store *store, const struct tenant *tenant, const char *name, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM models WHERE organization_id=? AND project_id=? AND name=?");
    int changed;

    query_tenant(&query, tenant);
    query_text(&query, name);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_NOT_FOUND, "No such model: '%s'", name);
}
