#include "store/store_int.h"

#include "os/clock.h"

#include <errno.h>
#include <string.h>

static sqlite3_stmt *prepare(struct store *store, const char *sql, int *code)
{
    struct prepared *slot = store->prepared;

    while (slot < store->prepared + store->prepared_count && slot->sql != sql)
        slot++;
    if (slot == store->prepared + store->prepared_count) {
        ASSERT(store->prepared_count < sizeof store->prepared / sizeof *store->prepared);
        *code = sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &slot->stmt, NULL);
        if (*code != SQLITE_OK)
            return NULL;
        slot->sql = sql;
        store->prepared_count++;
    }
    return slot->stmt;
}

struct query query_open(struct store *store, const char *sql_literal)
{
    struct query query = {.store = store, .code = SQLITE_OK};

    query.stmt = prepare(store, sql_literal, &query.code);
    if (store->is_viewing && query.stmt && !sqlite3_stmt_readonly(query.stmt))
        store_view_end(store);
    return query;
}

static void keep_code(struct query *query, int code)
{
    if (query->code == SQLITE_OK)
        query->code = code;
}

void query_text(struct query *query, const char *text)
{
    keep_code(query, query->stmt ? sqlite3_bind_text(query->stmt, ++query->bound, text, -1, SQLITE_STATIC) : SQLITE_OK);
}

void query_integer(struct query *query, int64_t value)
{
    keep_code(query, query->stmt ? sqlite3_bind_int64(query->stmt, ++query->bound, value) : SQLITE_OK);
}

void query_blob(struct query *query, struct str bytes)
{
    keep_code(query, query->stmt ? sqlite3_bind_blob64(query->stmt, ++query->bound, bytes.at, bytes.len, SQLITE_STATIC)
                                 : SQLITE_OK);
}

void query_tenant(struct query *query, const struct tenant *tenant)
{
    query_text(query, tenant->organization_id);
    query_text(query, tenant->project_id);
}

bool query_step(struct query *query)
{
    int code;

    if (query->code != SQLITE_OK)
        return false;
    code = sqlite3_step(query->stmt);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        query->code = sqlite3_extended_errcode(query->store->db);
    return code == SQLITE_ROW;
}

const char *query_get_text(struct query *query, int column, struct arena *arena)
{
    const void *text = sqlite3_column_text(query->stmt, column);

    return text ? arena_copy(arena, text, (size_t)sqlite3_column_bytes(query->stmt, column)) : NULL;
}

int64_t query_get_integer(struct query *query, int column)
{
    return sqlite3_column_int64(query->stmt, column);
}

struct str query_get_blob(struct query *query, int column, struct arena *arena)
{
    const void *at = sqlite3_column_blob(query->stmt, column);
    const size_t len = (size_t)sqlite3_column_bytes(query->stmt, column);

    return (struct str){arena_copy(arena, at, len), len};
}

/* Of the last failure. A full disk shows as SQLITE_FULL in a write, elsewhere (the shared memory of the WAL) as an I/O
 * error. */
static enum err_code err_code_of(struct store *store, int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
        return ERR_NO_SPACE;
    case SQLITE_IOERR:
        return sqlite3_system_errno(store->db) == ENOSPC || sqlite3_system_errno(store->db) == EDQUOT ? ERR_NO_SPACE
                                                                                                       : ERR_IO;
    case SQLITE_BUSY:
    case SQLITE_CONSTRAINT:
        return ERR_CONFLICT;
    default:
        return ERR_IO;
    }
}

bool query_close(struct query *query, struct err *err)
{
    if (query->code != SQLITE_OK) {
        err_set(err, err_code_of(query->store, query->code), "database: %s", sqlite3_errmsg(query->store->db));
        query->store->is_in_doubt = (query->code & 0xff) == SQLITE_IOERR;
    }
    if (query->stmt) {
        sqlite3_reset(query->stmt);
        sqlite3_clear_bindings(query->stmt);
    }
    return query->code == SQLITE_OK;
}

bool query_run(struct query *query, int *changed, struct err *err)
{
    sqlite3 *db = query->store->db;
    bool is_within = !sqlite3_get_autocommit(db), is_write = query->stmt && !sqlite3_stmt_readonly(query->stmt);
    double begin = clock_monotonic();

    while (query_step(query))
        continue;
    /* What leaves no transaction open has waited for the disk. */
    if (sqlite3_get_autocommit(db) && (is_within || is_write))
        commit_note(query->store, clock_monotonic() - begin);
    if (changed)
        *changed = query->code == SQLITE_OK ? sqlite3_changes(query->store->db) : 0;
    return query_close(query, err);
}

bool transaction_begin(struct store *store, struct err *err)
{
    struct query query;

    store_view_end(store);
    query = query_open(store, "BEGIN IMMEDIATE");
    return query_run(&query, NULL, err);
}

/* Takes effect where it is prepared, so it cannot be kept. */
static bool set_synchronous(struct store *store, bool is_full, struct err *err)
{
    const char *sql = is_full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL";

    store->is_relaxed = !is_full;
    return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ||
           err_set(err, ERR_IO, "database: %s", sqlite3_errmsg(store->db));
}

bool transaction_begin_relaxed(struct store *store, struct err *err)
{
    store_view_end(store);
    if (set_synchronous(store, false, err) && transaction_begin(store, err))
        return true;
    set_synchronous(store, true, NULL);
    return false;
}

bool transaction_end(struct store *store, bool ok, struct err *err)
{
    struct query query;

    if (ok) {
        query = query_open(store, "COMMIT");
        ok = query_run(&query, NULL, err);
    }
    /* Some failures have ended the transaction already. */
    if (!sqlite3_get_autocommit(store->db)) {
        query = query_open(store, "ROLLBACK");
        query_run(&query, NULL, NULL);
    }
    if (store->is_relaxed)
        set_synchronous(store, true, NULL);
    return ok;
}

void store_view_begin(struct store *store)
{
    struct query query;

    if (store->is_viewing)
        return;
    query = query_open(store, "BEGIN");
    store->is_viewing = sqlite3_get_autocommit(store->db) && query_run(&query, NULL, NULL);
}

void store_view_end(struct store *store)
{
    struct query query;

    if (!store->is_viewing)
        return;
    store->is_viewing = false;
    query = query_open(store, "COMMIT");
    query_run(&query, NULL, NULL);
}

static void *field(const void *row, const struct column *column)
{
    return (char *)row + column->offset;
}

void row_get(struct query *query, const struct row_type *type, struct arena *arena, void *row)
{
    for (size_t i = 0; i < type->column_count; i++) {
        const struct column *column = &type->columns[i];
        int index = (int)i + 1;

        switch (column->type) {
        case COLUMN_TEXT:
            *(const char **)field(row, column) = query_get_text(query, index, arena);
            break;
        case COLUMN_INTEGER:
            *(int64_t *)field(row, column) = query_get_integer(query, index);
            break;
        case COLUMN_STATE:
            *(enum job_state *)field(row, column) = job_state_of(str_of(query_get_text(query, index, arena)));
            break;
        case COLUMN_WANT:
            *(enum job_want *)field(row, column) = job_want_of(str_of(query_get_text(query, index, arena)));
            break;
        }
    }
}

void row_bind(struct query *query, const struct row_type *type, const void *row)
{
    for (size_t i = 0; i < type->column_count; i++) {
        const struct column *column = &type->columns[i];

        switch (column->type) {
        case COLUMN_TEXT:
            query_text(query, *(const char **)field(row, column));
            break;
        case COLUMN_INTEGER:
            query_integer(query, *(int64_t *)field(row, column));
            break;
        case COLUMN_STATE:
            query_text(query, job_state_name(*(enum job_state *)field(row, column)));
            break;
        case COLUMN_WANT:
            query_text(query, job_want_name(*(enum job_want *)field(row, column)));
            break;
        }
    }
}

bool row_get_one(struct query *query, const struct row_type *type, struct arena *arena, void *row, const char *what,
                 const char *id, struct err *err)
{
    bool found = query_step(query);

    if (found)
        row_get(query, type, arena, row);
    if (!query_close(query, err))
        return false;
    return found || err_set(err, ERR_NOT_FOUND, "No such %s: '%s'", what, id);
}

/* Number of the row behind which the page begins. */
static bool find_cursor(struct store *store, const struct tenant *tenant, const char *scope, const char *after,
                        const struct list_sql *sql, int64_t *number, struct err *err)
{
    struct query query;
    bool found;

    *number = 0;
    if (!after)
        return true;
    query = query_open(store, sql->cursor);
    query_tenant(&query, tenant);
    query_text(&query, scope);
    query_text(&query, after);
    found = query_step(&query);
    if (found)
        *number = query_get_integer(&query, 0);
    if (!query_close(&query, err))
        return false;
    return found || err_set(err, ERR_NOT_FOUND, "No such %s: '%s'", sql->what, after);
}

bool row_list(struct store *store, const struct tenant *tenant, const char *scope, const struct store_page *page,
              const struct list_sql *sql, const struct row_type *type, struct arena *arena, void **rows, size_t *count,
              bool *has_more, struct err *err)
{
    int64_t cursor;
    struct query query;
    char *at;

    *count = 0;
    *has_more = false;
    if (!find_cursor(store, tenant, scope, page->after, sql, &cursor, err))
        return false;
    *rows = at = arena_alloc_array(arena, (size_t)page->limit, type->bytes);
    query = query_open(store, page->ascending ? sql->ascending : sql->descending);
    query_tenant(&query, tenant);
    query_text(&query, scope);
    query_integer(&query, cursor);
    query_integer(&query, (int64_t)page->limit + 1);
    while (query_step(&query)) {
        if (*count == (size_t)page->limit) {
            *has_more = true;
            break;
        }
        row_get(&query, type, arena, at + (*count)++ * type->bytes);
    }
    return query_close(&query, err);
}

bool texts_get(struct query *query, struct arena *arena, struct store_texts *texts, struct err *err)
{
    size_t capacity = 0;

    *texts = (struct store_texts){0};
    while (query_step(query)) {
        if (texts->count == capacity) {
            const char **old = texts->at;

            capacity = capacity ? 2 * capacity : 16;
            texts->at = arena_new_array(arena, const char *, capacity);
            if (old)
                memcpy(texts->at, old, texts->count * sizeof *old);
        }
        texts->at[texts->count++] = query_get_text(query, 0, arena);
    }
    return query_close(query, err);
}
