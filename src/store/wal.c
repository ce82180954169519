/* The write-ahead log into the database, on a thread of the caller's choice. */
#include "store/store_int.h"

enum { PAGES_MAX = 1000 };

static int on_commit(void *context, sqlite3 *db, const char *name, int pages)
{
    ((struct store *)context)->wal_pages = pages;
    return SQLITE_OK;
}

bool store_take_checkpoints(struct store *store, struct err *err)
{
    const char *path = sqlite3_db_filename(store->db, "main");

    if (sqlite3_open_v2(path, &store->checkpoint_db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK ||
        sqlite3_exec(store->checkpoint_db, "PRAGMA synchronous=FULL", NULL, NULL, NULL) != SQLITE_OK)
        return err_set(err, ERR_IO, "cannot open %s once more: %s", path, sqlite3_errmsg(store->checkpoint_db));
    sqlite3_wal_hook(store->db, on_commit, store); /* in the place of SQLite's own */
    return true;
}

bool store_wants_checkpoint(const struct store *store)
{
    return store->wal_pages >= PAGES_MAX;
}

/* Passive: it waits for nobody, and nobody waits for it. The log begins anew with the next write that finds all of it
 * moved. */
bool store_checkpoint(struct store *store, struct err *err)
{
    return sqlite3_wal_checkpoint_v2(store->checkpoint_db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) == SQLITE_OK ||
           err_set(err, ERR_IO, "cannot move the log into the database: %s", sqlite3_errmsg(store->checkpoint_db));
}
