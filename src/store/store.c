#include "store/projects.h"
#include "store/store_int.h"

#include "os/clock.h"
#include "os/entropy.h"
#include "os/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool store_is_in_doubt(const struct store *store)
{
    return store->is_in_doubt;
}

struct tenant tenant_default(void)
{
    return (struct tenant){"org-default", "proj-default"};
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool store_texts_have(const struct store_texts *sorted, const char *text)
{
    return sorted->count && bsearch(&text, sorted->at, sorted->count, sizeof *sorted->at, compare_texts);
}

void store_id_job(char id[STORE_ID_BYTES])
{
    memcpy(id, "ftjob-", 6);
    entropy_hex(id + 6, 16);
}

void store_id_event(char id[STORE_ID_BYTES])
{
    memcpy(id, "ftevent-", 8);
    entropy_hex(id + 8, 16);
}

/* A random UUID, version 4 of RFC 9562. */
static void add_uuid(char *out)
{
    uint8_t b[16];

    entropy_fill(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
             b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

void store_id_file(char id[STORE_ID_BYTES])
{
    memcpy(id, "file-", 5);
    add_uuid(id + 5);
}

void store_id_checkpoint(char id[STORE_ID_BYTES])
{
    memcpy(id, "ftckpt_", 7);
    add_uuid(id + 7);
}

/* WAL with FULL syncs each commit: an acknowledged write survives power loss. */
static bool configure(struct store *store, struct err *err)
{
    static const char *const pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                                       "PRAGMA busy_timeout=5000; PRAGMA trusted_schema=OFF;";

    if (sqlite3_exec(store->db, pragmas, NULL, NULL, NULL) == SQLITE_OK)
        return true;
    return err_set(err, ERR_IO, "cannot set up the database: %s", sqlite3_errmsg(store->db));
}

static bool make_default_project(struct store *store, struct err *err)
{
    struct tenant tenant = tenant_default();
    struct err problem = {0};

    if (store_project_create(store, &tenant, "local", "Default project", "nebius", NULL, &problem) ||
        problem.code == ERR_CONFLICT)
        return true;
    return err_set(err, problem.code, "%s", problem.text);
}

static bool open_database(struct store *store, const char *path, struct err *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;

    if (sqlite3_open_v2(path, &store->db, flags, NULL) != SQLITE_OK)
        return err_set(err, ERR_IO, "cannot open %s: %s", path, sqlite3_errmsg(store->db));
    sqlite3_extended_result_codes(store->db, 1);
    return configure(store, err) && schema_migrate(store, err) && make_default_project(store, err);
}

struct store *store_open(const char *data_dir, struct err *err)
{
    struct store *store = mem_alloc_zero(1, sizeof *store);
    struct arena arena = {0};
    bool ok = false;

    store->lock_fd = -1;
    if (!dir_make(data_dir, err))
        goto out;
    store->lock_fd = file_lock(path_join(&arena, data_dir, "lock"), err);
    if (store->lock_fd < 0) {
        err_prefix(err, "a server uses this data folder: stop it first");
        goto out;
    }
    if (!open_database(store, path_join(&arena, data_dir, "attune.db"), err))
        goto out;
    ok = true;
out:
    arena_deinit(&arena);
    if (ok)
        return store;
    store_close(store);
    return NULL;
}

/* The server keeps its lock; SQLite keeps the two writers apart. */
static struct store *open_shared(const char *path, struct err *err)
{
    struct store *store = mem_alloc_zero(1, sizeof *store);

    store->lock_fd = -1;
    if (sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        err_set(err, ERR_IO, "cannot open %s: %s", path, sqlite3_errmsg(store->db));
    } else {
        sqlite3_extended_result_codes(store->db, 1);
        if (configure(store, err) && schema_check(store, err))
            return store;
    }
    store_close(store);
    return NULL;
}

struct store *store_open_beside(const char *data_dir, struct err *err)
{
    struct arena arena = {0};
    struct err problem = {0};
    struct store *store = store_open(data_dir, &problem);

    if (!store && problem.code == ERR_CONFLICT)
        store = open_shared(path_join(&arena, data_dir, "attune.db"), err);
    else if (!store)
        err_set(err, problem.code, "%s", problem.text);
    arena_deinit(&arena);
    return store;
}

struct store *store_open_reader(const struct store *store, struct err *err)
{
    struct store *reader = mem_alloc_zero(1, sizeof *reader);
    const char *path = sqlite3_db_filename(store->db, "main");

    reader->lock_fd = -1;
    if (sqlite3_open_v2(path, &reader->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK)
        return reader;
    err_set(err, ERR_IO, "cannot open %s for reading: %s", path, sqlite3_errmsg(reader->db));
    store_close(reader);
    return NULL;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    queue_places_free(store);
    for (size_t i = 0; i < store->prepared_count; i++)
        sqlite3_finalize(store->prepared[i].stmt);
    sqlite3_close(store->checkpoint_db);
    sqlite3_close(store->db);
    fd_close(&store->lock_fd);
    free(store);
}
