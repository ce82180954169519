#include "fixture.h"

#include "base/hash.h"
#include "store/keys.h"

static bool check(struct fixture *f, const char *key, struct tenant *tenant, struct store_key *row, struct err *err)
{
    return key_check(f->store, str_of(key), &f->arena, tenant, row, err);
}

static void a_key_names_its_tenant_and_scopes(void **state)
{
    struct fixture *f = *state;
    char key[API_KEY_BYTES];
    struct tenant tenant;
    struct store_key row;
    struct err err = {0};

    assert_ok(key_create(f->store, &f->theirs, "laptop", "read write", key, &err), err);
    assert_int_equal(strlen(key), 3 + 8 + 1 + 43 + 1 + 6);
    assert_ok(check(f, key, &tenant, &row, &err), err);
    assert_string_equal(tenant.project_id, "proj-other");
    assert_string_equal(row.name, "laptop");
    assert_true(key_has_scope(&row, "read") && key_has_scope(&row, "write"));
    assert_false(key_has_scope(&row, "admin") || key_has_scope(&row, "rea") || key_has_scope(&row, "read write"));
    assert_true(row.last_used_ms >= row.created_ms);
}

/* The checksum is public: a forger can make it for any id and secret. */
static void sign(char *key)
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint8_t digest[32];
    uint64_t value = 0;

    sha256_of((struct str){key, 55}, digest);
    for (int i = 0; i < 8; i++)
        value = value << 8 | digest[i];
    for (int i = 0; i < 6; i++, value /= 62)
        key[56 + i] = digits[value % 62];
}

static void wrong_keys_are_all_refused_with_one_text(void **state)
{
    struct fixture *f = *state;
    char key[API_KEY_BYTES], other[API_KEY_BYTES], typo[API_KEY_BYTES], forged[API_KEY_BYTES], unknown[API_KEY_BYTES];
    struct err err = {0};

    assert_ok(key_create(f->store, &f->ours, "a", "read", key, &err), err);
    assert_ok(key_create(f->store, &f->ours, "b", "read", other, &err), err);
    strcpy(typo, key);
    typo[20] = typo[20] == 'x' ? 'y' : 'x';
    strcpy(forged, key);
    memcpy(forged, other, 11);
    sign(forged);
    strcpy(unknown, key);
    memcpy(unknown, "at_00000000", 11);
    sign(unknown);
    const char *cases[] = {"", "at_", "sk-0123", typo, forged, unknown};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tenant tenant;
        struct store_key row;

        err = (struct err){0};
        assert_false(check(f, cases[i], &tenant, &row, &err));
        assert_int_equal(err.code, ERR_AUTH);
        assert_string_equal(err.text, "Incorrect API key provided");
    }
}

static void a_revoked_key_is_refused_at_once(void **state)
{
    struct fixture *f = *state;
    char key[API_KEY_BYTES];
    struct tenant tenant;
    struct store_key row;
    struct err err = {0};

    assert_ok(key_create(f->store, &f->ours, "a", "read", key, &err), err);
    assert_ok(check(f, key, &tenant, &row, &err), err);
    assert_false(key_revoke(f->store, &f->theirs, row.id, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_ok(check(f, key, &tenant, &row, &err), err);
    assert_ok(key_revoke(f->store, &f->ours, row.id, &err), err);
    assert_false(check(f, key, &tenant, &row, &err));
    assert_int_equal(err.code, ERR_AUTH);
}

static void the_list_and_the_database_hold_no_secret(void **state)
{
    struct fixture *f = *state;
    char key[API_KEY_BYTES], *database;
    struct store_key_list list;
    struct str bytes;
    struct err err = {0};

    assert_ok(key_create(f->store, &f->ours, "a", "read", key, &err), err);
    assert_ok(key_list(f->store, &f->ours, &(struct store_page){.limit = 5}, &f->arena, &list, &err), err);
    assert_int_equal(list.count, 1);
    assert_memory_equal(list.at[0].id, key, 11);
    assert_int_equal(strlen(list.at[0].id), 11);
    assert_ok(key_list(f->store, &f->theirs, &(struct store_page){.limit = 5}, &f->arena, &list, &err), err);
    assert_int_equal(list.count, 0);
    for (int i = 0; i < 2; i++) {
        database = path_join(&f->arena, f->dir, i ? "attune.db-wal" : "attune.db");
        assert_ok(file_read(&f->arena, database, 1 << 26, &bytes, &err), err);
        assert_int_equal(str_find(bytes, (struct str){key + 12, 43}, 0), -1);
    }
}

int main(void)
{
#define KEY_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        KEY_TEST(a_key_names_its_tenant_and_scopes),
        KEY_TEST(wrong_keys_are_all_refused_with_one_text),
        KEY_TEST(a_revoked_key_is_refused_at_once),
        KEY_TEST(the_list_and_the_database_hold_no_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
