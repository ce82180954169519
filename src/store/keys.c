#include "store/keys.h"

#include "base/hash.h"
#include "os/clock.h"
#include "os/entropy.h"
#include "store/store_int.h"

#include <openssl/crypto.h>
#include <string.h>

enum { ID_LEN = 8, SECRET_LEN = 43, CHECKSUM_LEN = 6 };
enum {
    ID_AT = 3,
    SECRET_AT = ID_AT + ID_LEN + 1,
    CHECKSUM_AT = SECRET_AT + SECRET_LEN + 1,
    KEY_LEN = CHECKSUM_AT + CHECKSUM_LEN
};
_Static_assert(KEY_LEN < API_KEY_BYTES, "a key fits its buffer");
_Static_assert(ID_AT + ID_LEN == API_KEY_ID_LEN, "the header tells how long the id is");

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#define KEY_COLUMN(type, name) COLUMN_ENTRY(store_key, type, name)
static const struct column columns[] = {STORE_KEY_COLUMNS(KEY_COLUMN)};
static const struct row_type key_row = ROW_TYPE(columns, store_key);

/* Uniform: bytes past the last multiple of 62 are drawn again. */
static void random_digits(char *out, size_t count)
{
    while (count > 0) {
        uint8_t byte;

        entropy_fill(&byte, 1);
        if (byte < 62 * 4) {
            *out++ = digits[byte % 62];
            count--;
        }
    }
}

/* Six digits of SHA-256 over what stands before them. */
static void checksum(const char *key, char out[CHECKSUM_LEN])
{
    uint8_t digest[32];
    uint64_t value = 0;

    sha256_of((struct str){key, CHECKSUM_AT - 1}, digest);
    for (int i = 0; i < 8; i++)
        value = value << 8 | digest[i];
    for (int i = 0; i < CHECKSUM_LEN; i++, value /= 62)
        out[i] = digits[value % 62];
}

static void make_key(char key[API_KEY_BYTES])
{
    memset(key, 0, API_KEY_BYTES);
    memcpy(key, "at_", 3);
    random_digits(key + ID_AT, ID_LEN);
    key[SECRET_AT - 1] = '_';
    random_digits(key + SECRET_AT, SECRET_LEN);
    key[CHECKSUM_AT - 1] = '_';
    checksum(key, key + CHECKSUM_AT);
}

static bool well_formed(struct str key)
{
    char sum[CHECKSUM_LEN];

    if (key.len != KEY_LEN || memcmp(key.at, "at_", 3) != 0)
        return false;
    checksum(key.at, sum);
    return memcmp(sum, key.at + CHECKSUM_AT, CHECKSUM_LEN) == 0;
}

bool key_create(struct store *store, const struct tenant *tenant, const char *name, const char *scopes,
                char key[API_KEY_BYTES], struct err *err)
{
    return key_add(store, tenant, &(struct store_key){.name = name, .scopes = scopes}, key, err);
}

bool key_add(struct store *store, const struct tenant *tenant, const struct store_key *row, char key[API_KEY_BYTES],
             struct err *err)
{
    char id[ID_AT + ID_LEN + 1] = {0}, hash[65];
    struct query query;

    make_key(key);
    memcpy(id, key, ID_AT + ID_LEN);
    sha256_hex(str_of(key), hash);
    query = query_open(store, "INSERT INTO api_keys(organization_id, project_id, id, name, scopes, hash, created_ms, "
                              "expires_ms, profile) VALUES (?,?,?,?,?,?,?,?,?)");
    query_tenant(&query, tenant);
    query_text(&query, id);
    query_text(&query, row->name);
    query_text(&query, row->scopes);
    query_text(&query, hash);
    query_integer(&query, clock_unix_ms());
    query_integer(&query, row->expires_ms);
    query_text(&query, row->profile);
    return query_run(&query, NULL, err);
}

static void copy_text(char *out, size_t cap, const char *text)
{
    strncpy(out, text, cap - 1);
    out[cap - 1] = 0;
}

/* The row of this id, or one that nothing matches, so that both cost the same. */
static bool find_key(struct store *store, const char *id, struct arena *arena, struct tenant *tenant,
                     struct store_key *row, const char **hash, struct err *err)
{
    struct query query = query_open(
        store,
        "SELECT number" STORE_KEY_COLUMNS(SQL_NAME) ", hash, organization_id, project_id FROM api_keys WHERE id=?");
    const int next = (int)key_row.column_count + 1;

    *hash = "0000000000000000000000000000000000000000000000000000000000000000";
    query_text(&query, id);
    if (query_step(&query)) {
        row_get(&query, &key_row, arena, row);
        *hash = query_get_text(&query, next, arena);
        copy_text(tenant->organization_id, sizeof tenant->organization_id, query_get_text(&query, next + 1, arena));
        copy_text(tenant->project_id, sizeof tenant->project_id, query_get_text(&query, next + 2, arena));
    }
    return query_close(&query, err);
}

/* The first use in each hour: not a write for every request. One that fails (a full disk, say) refuses nobody: the next
 * tries again. */
static void note_use(struct store *store, struct store_key *row)
{
    const int64_t hour_ms = 3600 * 1000, now = clock_unix_ms();
    struct query query;

    if (row->last_used_ms / hour_ms == now / hour_ms)
        return;
    row->last_used_ms = now;
    query = query_open(store, "UPDATE api_keys SET last_used_ms=? WHERE id=?");
    query_integer(&query, now);
    query_text(&query, row->id);
    query_run(&query, NULL, NULL);
}

bool key_check(struct store *store, struct str key, struct arena *arena, struct tenant *tenant, struct store_key *row,
               struct err *err)
{
    static const char *const refusal = "Incorrect API key provided";
    char id[ID_AT + ID_LEN + 1] = {0}, hash[65];
    const char *stored;

    *row = (struct store_key){0};
    if (!well_formed(key))
        return err_set(err, ERR_AUTH, "%s", refusal);
    memcpy(id, key.at, ID_AT + ID_LEN);
    sha256_hex(key, hash);
    if (!find_key(store, id, arena, tenant, row, &stored, err))
        return false;
    if (strlen(stored) != 64 || CRYPTO_memcmp(stored, hash, 64) != 0) {
        *row = (struct store_key){0};
        return err_set(err, ERR_AUTH, "%s", refusal);
    }
    if (row->revoked_ms != 0 || (row->expires_ms != 0 && row->expires_ms <= clock_unix_ms()))
        return err_set(err, ERR_AUTH, "%s", refusal);
    note_use(store, row);
    return true;
}

bool key_scopes_are_known(const char *scopes)
{
    struct str rest = str_of(scopes);

    while (rest.len > 0) {
        ptrdiff_t space = str_find(rest, STR(" "), 0);
        struct str word = str_slice(rest, 0, space < 0 ? rest.len : (size_t)space);

        if (!str_is(word, "read") && !str_is(word, "write") && !str_is(word, "admin") && !str_is(word, "metrics"))
            return false;
        rest = str_slice(rest, word.len + 1, rest.len);
    }
    return *scopes != 0;
}

bool key_has_scope(const struct store_key *row, const char *scope)
{
    struct str rest = str_of(row->scopes);

    while (rest.len > 0) {
        ptrdiff_t space = str_find(rest, STR(" "), 0);
        size_t len = space < 0 ? rest.len : (size_t)space;

        if (str_is(str_slice(rest, 0, len), scope))
            return true;
        rest = str_slice(rest, len + 1, rest.len);
    }
    return false;
}

bool key_read(struct store *store, const struct tenant *tenant, const char *id, struct arena *arena,
              struct store_key *row, struct err *err)
{
    struct query query =
        query_open(store, "SELECT number" STORE_KEY_COLUMNS(
                              SQL_NAME) " FROM api_keys WHERE organization_id=? AND project_id=? AND id=?");

    query_tenant(&query, tenant);
    query_text(&query, id);
    return row_get_one(&query, &key_row, arena, row, "API key", id, err);
}

bool key_revoke(struct store *store, const struct tenant *tenant, const char *id, struct err *err)
{
    struct query query =
        query_open(store, "UPDATE api_keys SET revoked_ms=CASE revoked_ms WHEN 0 THEN ?4 ELSE revoked_ms "
                          "END WHERE organization_id=?1 AND project_id=?2 AND id=?3");
    int changed;

    query_tenant(&query, tenant);
    query_text(&query, id);
    query_integer(&query, clock_unix_ms());
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_NOT_FOUND, "No such API key: '%s'", id);
}

bool key_list(struct store *store, const struct tenant *tenant, const struct store_page *page, struct arena *arena,
              struct store_key_list *list, struct err *err)
{
    static const struct list_sql sql = LIST_OF(STORE_KEY_COLUMNS, "api_keys", "id", "?3 IS NULL", "API key");

    return row_list(store, tenant, NULL, page, &sql, &key_row, arena, (void **)&list->at, &list->count, &list->has_more,
                    err);
}
