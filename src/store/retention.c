/* Checkpoints that go because newer ones are there (keep_checkpoints) or because somebody says so, and those whose data
 * folder has moved. */
#include "os/clock.h"
#include "store/queue.h"
#include "store/store_int.h"

/* A model that an unfinished job starts from stays, and so does the final checkpoint. */
static bool mark(struct store *store, const char *job_id, struct err *err)
{
    struct query query = query_open(
        store,
        "UPDATE checkpoints SET is_leaving=1 WHERE job_id=?1 AND is_leaving=0 AND is_final=0 AND (SELECT "
        "keep_checkpoints FROM jobs WHERE id=?1) > 0 AND step NOT IN (SELECT step FROM checkpoints WHERE job_id=?1 "
        "AND is_leaving=0 ORDER BY step DESC LIMIT (SELECT keep_checkpoints FROM jobs WHERE id=?1)) AND model_name "
        "NOT IN (SELECT model FROM jobs WHERE finished_ms=0)");

    query_text(&query, job_id);
    return query_run(&query, NULL, err);
}

static bool forget_models(struct store *store, const char *job_id, struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM models WHERE checkpoint_id IN (SELECT id FROM checkpoints WHERE "
                          "job_id=? AND is_leaving=1)");

    query_text(&query, job_id);
    return query_run(&query, NULL, err);
}

static bool forget_files(struct store *store, const char *job_id, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM files WHERE checkpoint_id IN (SELECT id FROM checkpoints WHERE "
                                           "job_id=? AND is_leaving=1)");

    query_text(&query, job_id);
    return query_run(&query, NULL, err);
}

bool checkpoints_retire(struct store *store, const char *job_id, struct err *err)
{
    return mark(store, job_id, err) && forget_models(store, job_id, err) && forget_files(store, job_id, err);
}

/* ?1 is the checkpoint's job, ?2 its id, ?3 its folder. */
static bool check_needs(struct store *store, const struct store_checkpoint *checkpoint, const char *job_id,
                        struct err *err)
{
    static const char *const needs[] = {"its job has not ended", "services that its job names are still to be told",
                                        "a job that has not ended begins with it", "another model is an adapter on it"};
    struct query query = query_open(
        store, "SELECT (SELECT COUNT(*) FROM jobs WHERE id=?1 AND finished_ms=0), "
               "(SELECT COUNT(*) FROM deliveries WHERE job_id=?1 AND state='pending'), "
               "(SELECT COUNT(*) FROM jobs WHERE finished_ms=0 AND (instr(model_path, ?3) > 0 OR model IN (SELECT name "
               "FROM models WHERE checkpoint_id=?2) OR instr(COALESCE(from_checkpoint_json, ''), ?2) > 0 OR "
               "instr(COALESCE(from_checkpoint_json, ''), ?1) > 0)), "
               "(SELECT COUNT(*) FROM models WHERE checkpoint_id<>?2 AND instr(base_path, ?3) > 0)");
    const char *need = NULL;

    query_text(&query, job_id);
    query_text(&query, checkpoint->id);
    query_text(&query, checkpoint->path);
    if (query_step(&query))
        for (int i = 0; i < 4 && !need; i++)
            need = query_get_integer(&query, i) ? needs[i] : NULL;
    if (!query_close(&query, err))
        return false;
    return !need || err_set(err, ERR_CONFLICT, "Checkpoint %s cannot be deleted: %s", checkpoint->id, need);
}

static bool mark_one(struct store *store, const char *checkpoint_id, struct err *err)
{
    struct query query = query_open(store, "UPDATE checkpoints SET is_leaving=1 WHERE id=?");

    query_text(&query, checkpoint_id);
    return query_run(&query, NULL, err);
}

static bool tell_deleted(struct store *store, const struct tenant *tenant, const char *job_id,
                         const struct store_checkpoint *checkpoint, struct arena *arena, struct err *err)
{
    const struct store_event event = {
        .kind = "message",
        .type = "message",
        .level = "info",
        .code = arena_printf(arena, "checkpoint_deleted_%s", checkpoint->id),
        .message = arena_printf(arena, "The checkpoint of step %lld was deleted, with its files and models",
                                (long long)checkpoint->step),
        .created_ms = clock_unix_ms()};

    return event_insert(store, tenant, job_id, &event, err);
}

bool store_queue_discard(struct store *store, const struct tenant *tenant, const char *job_id,
                         const char *checkpoint_id, struct err *err)
{
    struct store_checkpoint checkpoint;
    struct arena arena = {0};
    bool ok = transaction_begin(store, err);

    if (ok) {
        ok = store_checkpoint_get(store, tenant, job_id, checkpoint_id, &arena, &checkpoint, err) &&
             check_needs(store, &checkpoint, job_id, err) && mark_one(store, checkpoint_id, err) &&
             forget_models(store, job_id, err) && forget_files(store, job_id, err) &&
             tell_deleted(store, tenant, job_id, &checkpoint, &arena, err);
        ok = transaction_end(store, ok, err);
    }
    arena_deinit(&arena);
    return ok;
}

bool store_queue_leaving(struct store *store, const char *job_id, struct arena *arena, struct store_leaving_list *list,
                         struct err *err)
{
    struct query query = query_open(store, "SELECT id, job_id, path, result_files_json FROM checkpoints "
                                           "WHERE is_leaving=1 AND (?1 IS NULL OR job_id=?1) LIMIT 64");

    *list = (struct store_leaving_list){0};
    query_text(&query, job_id);
    while (query_step(&query))
        list->at[list->count++] = (struct store_leaving){
            .id = query_get_text(&query, 0, arena),
            .job_id = query_get_text(&query, 1, arena),
            .path = query_get_text(&query, 2, arena),
            .result_files_json = query_get_text(&query, 3, arena),
        };
    return query_close(&query, err);
}

bool store_queue_left(struct store *store, const char *checkpoint_id, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM checkpoints WHERE id=? AND is_leaving=1");

    query_text(&query, checkpoint_id);
    return query_run(&query, NULL, err);
}

#define PLACE(column, folder) "instr(" column ", '/" folder "')"
#define RELOCATE(table, column, folder)                                                                                \
    "UPDATE " table " SET " column " = ?1 || substr(" column ", " PLACE(column, folder) ") WHERE "                     \
    PLACE(column, folder) " > 0 AND substr(" column ", 1, " PLACE(column, folder) " - 1) <> ?1"
#define RUNS "runs/ftjob-"
#define HUB  "hub-of-projects/"

static bool relocate(struct store *store, const char *sql_literal, const char *data_dir, struct err *err)
{
    struct query query = query_open(store, sql_literal);

    query_text(&query, data_dir);
    return query_run(&query, NULL, err);
}

bool store_queue_relocate(struct store *store, const char *data_dir, struct err *err)
{
    static const char *const statements[] = {
        RELOCATE("checkpoints", "path", RUNS), RELOCATE("models", "path", RUNS),
        RELOCATE("models", "base_path", RUNS), RELOCATE("jobs", "model_path", RUNS),
        RELOCATE("models", "base_path", HUB),  RELOCATE("jobs", "model_path", HUB)};
    bool ok = transaction_begin(store, err);

    if (!ok)
        return false;
    for (size_t i = 0; ok && i < sizeof statements / sizeof *statements; i++)
        ok = relocate(store, statements[i], data_dir, err);
    return transaction_end(store, ok, err);
}
