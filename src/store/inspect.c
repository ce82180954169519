#include "store/inspect.h"

#include "os/file.h"
#include "store/store_int.h"

#include <stdlib.h>
#include <string.h>

/* Each statement gives the ids of rows that must not be. */
static const struct {
    const char *what, *sql;
} rules[] = {
    {"the database is damaged", "SELECT integrity_check FROM pragma_integrity_check(10) WHERE integrity_check <> 'ok'"},
    {"a row refers to one that is not there", "SELECT \"table\" || ' ' || rowid FROM pragma_foreign_key_check"},
    {"a job has ended at no time",
     "SELECT id FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled') AND finished_ms = 0"},
    {"a job has an end and goes on",
     "SELECT id FROM jobs WHERE state IN ('queued', 'starting', 'running') AND finished_ms <> 0"},
    {"a job without a process has one",
     "SELECT id FROM jobs WHERE pid <> 0 AND state NOT IN ('running', 'cancelling')"},
    {"a job runs and was never claimed",
     "SELECT id FROM jobs WHERE attempt = 0 AND state NOT IN ('queued', 'cancelled', 'failed')"},
    {"a job succeeded without a model or the other way round",
     "SELECT id FROM jobs WHERE (state = 'succeeded') <> (fine_tuned_model IS NOT NULL)"},
    {"a job succeeded without a checkpoint",
     "SELECT id FROM jobs j WHERE state = 'succeeded' AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE job_id = j.id) "
     "AND NOT EXISTS (SELECT 1 FROM job_events WHERE job_id = j.id AND code LIKE 'checkpoint_deleted_%')"},
    {"a failed job does not say why", "SELECT id FROM jobs WHERE state = 'failed' AND error_message IS NULL"},
    {"a job has trained more than all its steps",
     "SELECT id FROM jobs WHERE total_steps > 0 AND trained_steps > total_steps"},
    {"events of a job are not numbered one by one",
     "SELECT job_id FROM job_events GROUP BY job_id HAVING MIN(seq) <> 1 OR MAX(seq) <> COUNT(*)"},
    {"a model has no checkpoint",
     "SELECT name FROM models WHERE checkpoint_id NOT IN (SELECT id FROM checkpoints WHERE is_leaving = 0)"},
    {"a result file has no checkpoint", "SELECT id FROM files WHERE checkpoint_id IS NOT NULL AND checkpoint_id NOT IN "
                                        "(SELECT id FROM checkpoints WHERE is_leaving = 0)"},
    {"a part belongs to an upload that is over",
     "SELECT p.id FROM upload_parts p JOIN uploads u ON u.id = p.upload_id WHERE u.status <> 'pending'"},
    {"a completed upload has no file's id", "SELECT id FROM uploads WHERE status = 'completed' AND file_id IS NULL"},
    {"a project's stored bytes are not the sum of its files",
     "SELECT p.id FROM projects p WHERE COALESCE((SELECT bytes FROM storage_days d WHERE d.organization_id = "
     "p.organization_id AND d.project_id = p.id ORDER BY day DESC LIMIT 1), 0) <> (SELECT COALESCE(SUM(bytes), 0) FROM "
     "files f WHERE f.organization_id = p.organization_id AND f.project_id = p.id) + (SELECT COALESCE(SUM(bytes), 0) "
     "FROM upload_parts u WHERE u.organization_id = p.organization_id AND u.project_id = p.id)"},
};

static struct store *open_database(const char *path, int flags, struct err *err)
{
    struct store *store = mem_alloc_zero(1, sizeof *store);

    store->lock_fd = -1;
    if (sqlite3_open_v2(path, &store->db, flags | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK) {
        sqlite3_extended_result_codes(store->db, 1);
        sqlite3_busy_timeout(store->db, 5000);
        return store;
    }
    err_set(err, ERR_IO, "cannot open %s: %s", path, sqlite3_errmsg(store->db));
    store_close(store);
    return NULL;
}

static struct store *open_in(const char *data_dir, int flags, struct err *err)
{
    struct arena arena = {0};
    const char *path = path_join(&arena, data_dir, "attune.db");
    struct store *store = NULL;

    if (file_exists(path))
        store = open_database(path, flags, err);
    else
        err_set(err, ERR_NOT_FOUND, "%s is not a data folder: there is no attune.db in it", data_dir);
    arena_deinit(&arena);
    return store;
}

struct store *store_open_to_read(const char *data_dir, struct err *err)
{
    struct store *store = open_in(data_dir, SQLITE_OPEN_READONLY, err);

    if (store && schema_check(store, err))
        return store;
    store_close(store);
    return NULL;
}

static bool forget_processes(struct store *store, struct err *err)
{
    struct query query = query_open(store, "UPDATE jobs SET pid=0, pid_start_time=0, boot_id=NULL WHERE pid<>0");

    return query_run(&query, NULL, err);
}

/* One file, which readers open without leaving anything beside it; a server turns its log on again. */
static bool make_single(struct store *store, struct err *err)
{
    return sqlite3_exec(store->db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) == SQLITE_OK ||
           err_set(err, ERR_IO, "cannot copy the database: %s", sqlite3_errmsg(store->db));
}

static bool copy_pages(struct store *to, struct store *from, struct err *err)
{
    sqlite3_backup *backup = sqlite3_backup_init(to->db, "main", from->db, "main");

    if (backup) {
        sqlite3_backup_step(backup, -1);
        sqlite3_backup_finish(backup);
    }
    return sqlite3_errcode(to->db) == SQLITE_OK ||
           err_set(err, sqlite3_errcode(to->db) == SQLITE_FULL ? ERR_NO_SPACE : ERR_IO, "cannot copy the database: %s",
                   sqlite3_errmsg(to->db));
}

bool store_copy(const char *data_dir, const char *to_dir, struct err *err)
{
    struct arena arena = {0};
    const char *path = path_join(&arena, to_dir, "attune.db");
    struct store *from = store_open_to_read(data_dir, err), *to = NULL;
    bool ok = from && file_remove(path, err) &&
              (to = open_database(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, err)) &&
              copy_pages(to, from, err) && make_single(to, err) && forget_processes(to, err);

    store_close(from);
    store_close(to);
    arena_deinit(&arena);
    return ok;
}

static void add(struct stored_list *list, size_t *cap, struct arena *arena, const struct stored *stored)
{
    if (list->count == *cap) {
        struct stored *more = arena_new_array(arena, struct stored, *cap * 2 + 64);

        if (list->count)
            memcpy(more, list->at, list->count * sizeof *more);
        list->at = more;
        *cap = *cap * 2 + 64;
    }
    list->at[list->count++] = *stored;
}

bool store_list_stored(struct store *store, struct arena *arena, struct stored_list *list, struct err *err)
{
    struct query query = query_open(
        store,
        "SELECT 0, id, NULL, NULL, sha256, bytes, 0 FROM files UNION ALL SELECT 1, id, NULL, NULL, NULL, bytes, 0 "
        "FROM upload_parts UNION ALL SELECT 2, id, NULL, NULL, NULL, 0, state IN ('succeeded', 'failed', 'cancelled') "
        "AND has_leftovers = 0 FROM jobs UNION ALL SELECT 3, id, job_id, path, NULL, 0, 0 FROM checkpoints WHERE "
        "is_leaving = 0 ORDER BY 1");
    size_t cap = 0;

    *list = (struct stored_list){0};
    while (query_step(&query)) {
        struct stored stored = {.kind = (enum stored_kind)query_get_integer(&query, 0),
                                .id = query_get_text(&query, 1, arena),
                                .job_id = query_get_text(&query, 2, arena),
                                .path = query_get_text(&query, 3, arena),
                                .sha256 = query_get_text(&query, 4, arena),
                                .bytes = query_get_integer(&query, 5),
                                .is_clean = query_get_integer(&query, 6) != 0};
        add(list, &cap, arena, &stored);
    }
    return query_close(&query, err);
}

bool store_check_rows(struct store *store, void (*tell)(void *context, const char *what, const char *id), void *context,
                      struct err *err)
{
    struct arena arena = {0};
    bool ok = true;

    for (size_t i = 0; ok && i < sizeof rules / sizeof *rules; i++) {
        struct query query = query_open(store, rules[i].sql);

        while (query_step(&query))
            tell(context, rules[i].what, query_get_text(&query, 0, &arena));
        ok = query_close(&query, err);
    }
    arena_deinit(&arena);
    return ok;
}
