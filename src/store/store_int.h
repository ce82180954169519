/* store/store_int.h - SQLite under the store's own files: prepared statements, transactions, rows from column tables.
 */
#pragma once

#include "store/deliveries.h"
#include "store/keyring.h"
#include "store/statistics.h"
#include "store/store.h"

#include <sqlite3.h>

struct prepared {
    const char *sql; /* the literal; its address is the key */
    sqlite3_stmt *stmt;
};

struct store {
    sqlite3 *db;
    sqlite3 *checkpoint_db; /* wal.c; a connection of its own, for another thread; NULL: SQLite does it */
    int wal_pages;          /* after the last commit */
    bool is_relaxed;        /* the transaction is */
    bool is_viewing;        /* within store_view_begin and _end */
    int lock_fd;
    bool is_in_doubt; /* store_is_in_doubt */
    const struct keyring *keyring; /* NULL: no secrets */
    struct prepared prepared[256];
    size_t prepared_count;
    struct store_commits commits;
    struct queue_places *places; /* places.c; NULL: nobody asked yet */
};

/* One run of a prepared statement. Errors stick and are told once, by query_close:
 *
 *     struct query query = query_open(store, "SELECT name FROM projects WHERE id=?");
 *     query_text(&query, id);
 *     while (query_step(&query))
 *         … query_get_text(&query, 0, arena) …
 *     return query_close(&query, err);
 *
 * Bound texts must live until then. */
struct query {
    struct store *store;
    sqlite3_stmt *stmt;
    int bound;
    int code; /* SQLITE_OK while all is well */
};
struct query query_open(struct store *store, const char *sql_literal);
void query_text(struct query *query, const char *text); /* NULL binds NULL */
void query_integer(struct query *query, int64_t value);
void query_blob(struct query *query, struct str bytes);
void query_tenant(struct query *query, const struct tenant *tenant); /* organisation, project */
bool query_step(struct query *query);                                /* true: a row is there */
const char *query_get_text(struct query *query, int column, struct arena *arena);
int64_t query_get_integer(struct query *query, int column);
struct str query_get_blob(struct query *query, int column, struct arena *arena);
bool query_close(struct query *query, struct err *err);
/* For a statement without rows: step and close. changed may be NULL. */
bool query_run(struct query *query, int *changed, struct err *err);

/* The first column of every row; closes the query. */
bool texts_get(struct query *query, struct arena *arena, struct store_texts *texts, struct err *err);

bool transaction_begin(struct store *store, struct err *err);
/* One whose commit is not synced by itself: the next one that is, or a checkpoint, makes it durable too. Until the end
 * of the transaction. */
bool transaction_begin_relaxed(struct store *store, struct err *err);
/* Commits when ok, else rolls back; returns whether it was committed. Keeps an error that is set. */
bool transaction_end(struct store *store, bool ok, struct err *err);

/* Rows from tables of columns. */
enum column_type { COLUMN_TEXT, COLUMN_INTEGER, COLUMN_STATE, COLUMN_WANT };
struct column {
    enum column_type type;
    size_t offset; /* in the row's struct */
};
struct row_type {
    const struct column *columns;
    size_t column_count, bytes;
};
#define COLUMN_ENTRY(row, type, name) {COLUMN_##type, offsetof(struct row, name)},
#define ROW_TYPE(columns, row)                                                                                         \
    {                                                                                                                  \
        columns, sizeof columns / sizeof *columns, sizeof(struct row)                                                  \
    }
#define SQL_NAME(type, name) "," #name
#define SQL_MARK(type, name) ",?"

/* Columns 1.. of the current row into the struct; column 0 is the row's number. */
void row_get(struct query *query, const struct row_type *type, struct arena *arena, void *row);
void row_bind(struct query *query, const struct row_type *type, const void *row);
/* First row of the query into `row`, then closes it. ERR_NOT_FOUND "no such WHAT: 'ID'". */
bool row_get_one(struct query *query, const struct row_type *type, struct arena *arena, void *row, const char *what,
                 const char *id, struct err *err);

/* A list in both orders: parameters are organisation, project, scope, number of the cursor (0: none), row count. */
#define LIST_SQL(columns, from, where, compare, order)                                                                 \
    "SELECT number" columns(SQL_NAME) " FROM " from " WHERE organization_id=?1 AND project_id=?2 AND (" where          \
                                      ") AND (?4=0 OR number" compare "?4) ORDER BY number " order " LIMIT ?5"
struct list_sql {
    const char *ascending, *descending;
    const char *cursor; /* organisation, project, scope, id → number */
    const char *what;   /* of messages */
};
#define LIST_OF(columns, from, key, where, what_)                                                                      \
    {                                                                                                                  \
        .ascending = LIST_SQL(columns, from, where, ">", "ASC"),                                                       \
        .descending = LIST_SQL(columns, from, where, "<", "DESC"),                                                     \
        .cursor =                                                                                                      \
            "SELECT number FROM " from " WHERE organization_id=?1 AND project_id=?2 AND (" where ") AND " key "=?4",   \
        .what = what_,                                                                                                 \
    }
bool row_list(struct store *store, const struct tenant *tenant, const char *scope, const struct store_page *page,
              const struct list_sql *sql, const struct row_type *type, struct arena *arena, void **rows, size_t *count,
              bool *has_more, struct err *err);

/* Tables whose rows more than one file writes. */
extern const struct row_type store_job_row, store_checkpoint_row;
bool file_insert(struct store *store, const struct tenant *tenant, const struct store_file *file, struct err *err);
/* Nothing is written when an event of this identity is there. */
bool event_insert(struct store *store, const struct tenant *tenant, const char *job_id, const struct store_event *event,
                  struct err *err);
bool model_insert(struct store *store, const struct tenant *tenant, const struct store_model *model, struct err *err);

/* Within a transaction; see store/secrets.h. */
bool secret_insert(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                   const struct secret *value, struct err *err);

/* Within the transaction that stored a checkpoint: older ones that the job does not keep begin to leave. */
bool checkpoints_retire(struct store *store, const char *job_id, struct err *err);

bool secret_insert_held(struct store *store, const struct tenant *tenant, const char *owner,
                        const struct store_held *held, struct err *err);
bool delivery_insert(struct store *store, const struct store_job *job, const struct store_delivery *delivery,
                     struct err *err);

/* Within a transaction that wrote something: ERR_QUOTA when the project now has more than it may. */
bool quota_holds(struct store *store, const struct tenant *tenant, struct err *err);

void commit_note(struct store *store, double seconds); /* a write that took so long to reach the disk */

/* The order of the queue may be another now: what waits, what is at work, a project's limits. */
void queue_places_changed(struct store *store);
void queue_places_free(struct store *store);

/* ERR_CONFLICT when the database has another schema than this program. */
bool schema_check(struct store *store, struct err *err);
/* Brings an opened database to the newest schema. */
bool schema_migrate(struct store *store, struct err *err);
