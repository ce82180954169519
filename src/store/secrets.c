#include "store/secrets.h"

#include "os/clock.h"
#include "store/store_int.h"

#include <stdio.h>
#include <string.h>

/* Parts end in NUL, which none of them can hold, so that no two places have one context. */
static struct str context_of(struct strbuf *context, const struct tenant *tenant, const char *owner, const char *name)
{
    const char *const parts[] = {"attune secret", tenant->organization_id, tenant->project_id, owner, name};

    strbuf_clear(context);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        strbuf_add(context, parts[i], strlen(parts[i]) + 1);
    return strbuf_view(context);
}

static bool has_keyring(const struct store *store, struct err *err)
{
    return store->keyring || err_set(err, ERR_UNSUPPORTED,
                                     "This server has no secret key and keeps no secrets: it is started with "
                                     "--secret-key-file for that");
}

bool store_secret_any(struct store *store, bool *any, struct err *err)
{
    struct query query = query_open(store, "SELECT EXISTS (SELECT 1 FROM secrets)");

    *any = query_step(&query) && query_get_integer(&query, 0);
    return query_close(&query, err);
}

bool store_use_keyring(struct store *store, const struct keyring *keyring, struct err *err)
{
    struct query query = query_open(store, "SELECT key_id, COUNT(*) FROM secrets GROUP BY key_id");
    struct arena arena = {0};
    struct err missing = {0};
    bool ok;

    while (query_step(&query)) {
        const char *id = query_get_text(&query, 0, &arena);

        if (!keyring_has(keyring, id))
            err_set(&missing, ERR_AUTH, "%lld secrets in the database are sealed under the key %s, which was not given",
                    (long long)query_get_integer(&query, 1), id);
    }
    ok = query_close(&query, err) && (!missing.code || err_set(err, missing.code, "%s", missing.text));
    if (ok)
        store->keyring = keyring;
    arena_deinit(&arena);
    return ok;
}

/* --- one secret --- */

static bool count_of(struct store *store, const struct tenant *tenant, const char *owner, int64_t *count,
                     struct err *err)
{
    struct query query = query_open(store, "SELECT COUNT(*) FROM secrets WHERE organization_id=? AND project_id=? AND "
                                           "owner=?");

    *count = 0;
    query_tenant(&query, tenant);
    query_text(&query, owner);
    if (query_step(&query))
        *count = query_get_integer(&query, 0);
    return query_close(&query, err);
}

static bool write_row(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                      struct str sealed, struct err *err)
{
    struct query query = query_open(
        store, "INSERT INTO secrets(organization_id, project_id, owner, name, key_id, sealed, created_ms, updated_ms) "
               "VALUES (?1,?2,?3,?4,?5,?6,?7,?7) ON CONFLICT (organization_id, project_id, owner, name) DO UPDATE SET "
               "key_id=excluded.key_id, sealed=excluded.sealed, updated_ms=excluded.updated_ms");

    query_tenant(&query, tenant);
    query_text(&query, owner);
    query_text(&query, name);
    query_text(&query, keyring_sealing_id(store->keyring));
    query_blob(&query, sealed);
    query_integer(&query, clock_unix_ms());
    return query_run(&query, NULL, err);
}

bool secret_insert(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                   const struct secret *value, struct err *err)
{
    struct strbuf context = {0}, sealed = {0};
    bool ok = has_keyring(store, err);

    if (ok) {
        keyring_seal(store->keyring, context_of(&context, tenant, owner, name), secret_reveal(value), &sealed);
        ok = write_row(store, tenant, owner, name, strbuf_view(&sealed), err);
    }
    strbuf_deinit(&context);
    strbuf_deinit(&sealed);
    return ok;
}

bool store_secret_put(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                      const struct secret *value, struct err *err)
{
    int64_t count;
    bool ok;

    if (!has_keyring(store, err) || !transaction_begin(store, err))
        return false;
    ok = secret_insert(store, tenant, owner, name, value, err) && count_of(store, tenant, owner, &count, err);
    if (ok && count > STORE_SECRETS_MAX)
        ok = err_set(err, ERR_QUOTA, "The project has %d secrets already, as many as it may have. Delete one first.",
                     STORE_SECRETS_MAX);
    return transaction_end(store, ok, err);
}

static bool no_such(const char *name, struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "No such secret: '%s'", name);
}

bool store_secret_get(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                      struct secret *value, struct err *err)
{
    struct query query = query_open(store, "SELECT key_id, sealed FROM secrets WHERE organization_id=? AND "
                                           "project_id=? AND owner=? AND name=?");
    struct strbuf context = {0};
    struct arena arena = {0};
    struct str sealed = STR_NONE;
    const char *key_id = NULL;
    bool ok;

    query_tenant(&query, tenant);
    query_text(&query, owner);
    query_text(&query, name);
    if (query_step(&query)) {
        key_id = query_get_text(&query, 0, &arena);
        sealed = query_get_blob(&query, 1, &arena);
    }
    ok = query_close(&query, err) && (key_id || no_such(name, err)) && has_keyring(store, err) &&
         keyring_unseal(store->keyring, key_id, context_of(&context, tenant, owner, name), sealed, value, err);
    strbuf_deinit(&context);
    arena_deinit(&arena);
    return ok;
}

bool store_secret_delete(struct store *store, const struct tenant *tenant, const char *owner, const char *name,
                         struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM secrets WHERE organization_id=? AND project_id=? AND owner=? AND name=?");
    int changed;

    query_tenant(&query, tenant);
    query_text(&query, owner);
    query_text(&query, name);
    return query_run(&query, &changed, err) && (changed == 1 || no_such(name, err));
}

bool store_secret_delete_all(struct store *store, const struct tenant *tenant, const char *owner, struct err *err)
{
    struct query query = query_open(store, "DELETE FROM secrets WHERE organization_id=? AND project_id=? AND owner=?");

    query_tenant(&query, tenant);
    query_text(&query, owner);
    return query_run(&query, NULL, err);
}

/* --- held ones --- */

static struct str context_of_held(struct strbuf *context, const char *name)
{
    strbuf_clear(context);
    strbuf_printf(context, "attune held secret %s", name);
    return strbuf_view(context);
}

bool store_secret_hold(struct store *store, const char *name, const struct secret *value, struct arena *arena,
                       struct store_held *held, struct err *err)
{
    struct strbuf context = {0}, sealed = {0};
    bool ok = has_keyring(store, err);

    if (ok) {
        keyring_seal(store->keyring, context_of_held(&context, name), secret_reveal(value), &sealed);
        *held = (struct store_held){str_copy(arena, str_of(name)),
                                    keyring_sealing_id(store->keyring),
                                    {arena_copy(arena, sealed.at, sealed.len), sealed.len}};
    }
    strbuf_deinit(&context);
    strbuf_deinit(&sealed);
    return ok;
}

bool secret_insert_held(struct store *store, const struct tenant *tenant, const char *owner,
                        const struct store_held *held, struct err *err)
{
    struct strbuf context = {0};
    struct secret value = {0};
    bool ok = has_keyring(store, err) &&
              keyring_unseal(store->keyring, held->key_id, context_of_held(&context, held->name), held->sealed, &value,
                             err) &&
              secret_insert(store, tenant, owner, held->name, &value, err);

    secret_wipe(&value);
    strbuf_deinit(&context);
    return ok;
}

/* --- many --- */

static void find_last4(struct store *store, const struct tenant *tenant, const char *owner, struct store_secret *row)
{
    struct secret value = {0};

    if (store_secret_get(store, tenant, owner, row->name, &value, NULL))
        secret_last4(&value, row->last4);
    secret_wipe(&value);
}

bool store_secret_list(struct store *store, const struct tenant *tenant, const char *owner, struct arena *arena,
                       struct store_secret_list *list, struct err *err)
{
    struct query query = query_open(store, "SELECT name, created_ms, updated_ms FROM secrets WHERE organization_id=? "
                                           "AND project_id=? AND owner=? ORDER BY name");

    *list = (struct store_secret_list){arena_new_array(arena, struct store_secret, STORE_SECRETS_MAX), 0};
    query_tenant(&query, tenant);
    query_text(&query, owner);
    while (list->count < STORE_SECRETS_MAX && query_step(&query))
        list->at[list->count++] = (struct store_secret){.name = query_get_text(&query, 0, arena),
                                                        .created_ms = query_get_integer(&query, 1),
                                                        .updated_ms = query_get_integer(&query, 2)};
    if (!query_close(&query, err))
        return false;
    for (size_t i = 0; i < list->count; i++)
        find_last4(store, tenant, owner, &list->at[i]);
    return true;
}

/* The next row behind `after` that is sealed under another key, opened and sealed again. *number is 0 at the end. */
static bool reseal_next(struct store *store, int64_t *number, struct err *err)
{
    struct query query = query_open(store, "SELECT number, organization_id, project_id, owner, name FROM secrets WHERE "
                                           "number > ? AND key_id <> ? ORDER BY number LIMIT 1");
    struct arena arena = {0};
    const char *text[4] = {0};
    struct secret value = {0};
    struct tenant tenant;
    bool ok;

    query_integer(&query, *number);
    query_text(&query, keyring_sealing_id(store->keyring));
    *number = query_step(&query) ? query_get_integer(&query, 0) : 0;
    for (int i = 0; *number && i < 4; i++)
        text[i] = query_get_text(&query, i + 1, &arena);
    ok = query_close(&query, err);
    if (ok && *number) {
        snprintf(tenant.organization_id, sizeof tenant.organization_id, "%s", text[0]);
        snprintf(tenant.project_id, sizeof tenant.project_id, "%s", text[1]);
        ok = store_secret_get(store, &tenant, text[2], text[3], &value, err) &&
             secret_insert(store, &tenant, text[2], text[3], &value, err);
    }
    secret_wipe(&value);
    arena_deinit(&arena);
    return ok;
}

bool store_secret_reseal(struct store *store, size_t *count, struct err *err)
{
    int64_t number = 0;
    bool ok = true;

    *count = 0;
    if (!has_keyring(store, err) || !transaction_begin(store, err))
        return false;
    do {
        ok = reseal_next(store, &number, err);
        *count += ok && number;
    } while (ok && number);
    return transaction_end(store, ok, err);
}
