#include "store/store_int.h"

#include "os/clock.h"

extern const char schema_0001[], schema_0002[], schema_0003[], schema_0004[], schema_0005[], schema_0006[],
    schema_0007[], schema_0008[], schema_0009[], schema_0010[], schema_0011[], schema_0012[], schema_0013[],
    schema_0014[], schema_0015[], schema_0016[], schema_0017[], schema_0018[], schema_0019[], schema_0020[],
    schema_0021[], schema_0022[], schema_0023[]; /* schema/0001.sql … */

static const char *const versions[] = {schema_0001, schema_0002, schema_0003, schema_0004, schema_0005, schema_0006,
                                       schema_0007, schema_0008, schema_0009, schema_0010, schema_0011, schema_0012,
                                       schema_0013, schema_0014, schema_0015, schema_0016,
                                       schema_0017, schema_0018, schema_0019, schema_0020, schema_0021, schema_0022,
                                       schema_0023};
#define VERSION_NEWEST ((int64_t)(sizeof versions / sizeof *versions))

static const struct {
    const char *mark, *text;
} state_texts[] = {
#define QUOTE_STATE(name, status) ",'" #name "'"
#define QUOTE_MOVE(from, to)      ",'" #from ">" #to "'"
#define QUOTE_WANT(name)          ",'" #name "'"
    {"@STATES@", JOB_STATES(QUOTE_STATE)},
    {"@MOVES@", JOB_MOVES(QUOTE_MOVE)},
    {"@WANTS@", JOB_WANTS(QUOTE_WANT)},
};

/* The script with its @NAMES@ filled in from the table of states. */
static void fill_in(struct strbuf *sql, const char *script)
{
    struct str rest = str_of(script);

    while (rest.len > 0) {
        size_t mark = 0, count = sizeof state_texts / sizeof *state_texts;

        while (mark < count && !str_starts(rest, str_of(state_texts[mark].mark)))
            mark++;
        if (mark < count) {
            strbuf_add_text(sql, state_texts[mark].text + 1);
            rest = str_slice(rest, str_of(state_texts[mark].mark).len, rest.len);
        } else {
            strbuf_add_char(sql, rest.at[0]);
            rest = str_slice(rest, 1, rest.len);
        }
    }
}

static bool run_script(struct store *store, const char *sql, struct err *err)
{
    if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return true;
    return err_set(err, ERR_IO, "cannot bring the database to the newest schema: %s", sqlite3_errmsg(store->db));
}

static bool apply(struct store *store, int64_t version, struct err *err)
{
    struct strbuf sql = {0};
    bool ok = false;

    fill_in(&sql, versions[version - 1]);
    if (!transaction_begin(store, err))
        goto out;
    ok = run_script(store, sql.at, err);
    if (ok) {
        struct query query = query_open(store, "INSERT INTO migrations(version, applied_ms) VALUES (?,?)");
        query_integer(&query, version);
        query_integer(&query, clock_unix_ms());
        ok = query_run(&query, NULL, err);
    }
    ok = transaction_end(store, ok, err);
out:
    strbuf_deinit(&sql);
    return ok;
}

static bool read_version(struct store *store, int64_t *version, struct err *err)
{
    struct query query = query_open(store, "SELECT COALESCE(MAX(version), 0) FROM migrations");

    if (query_step(&query))
        *version = query_get_integer(&query, 0);
    return query_close(&query, err);
}

bool schema_check(struct store *store, struct err *err)
{
    int64_t version = 0;

    if (!read_version(store, &version, err))
        return false;
    return version == VERSION_NEWEST ||
           err_set(err, ERR_CONFLICT, "the database has schema %lld, this attune %lld: use the server's own program",
                   (long long)version, (long long)VERSION_NEWEST);
}

bool schema_migrate(struct store *store, struct err *err)
{
    int64_t version = 0;

    if (!run_script(store,
                    "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_ms INTEGER) STRICT",
                    err) ||
        !read_version(store, &version, err))
        return false;
    if (version > VERSION_NEWEST)
        return err_set(err, ERR_UNSUPPORTED,
                       "the database has schema %lld, this attune knows up to %lld: use a newer one",
                       (long long)version, (long long)VERSION_NEWEST);
    while (version < VERSION_NEWEST)
        if (!apply(store, ++version, err))
            return false;
    return true;
}
