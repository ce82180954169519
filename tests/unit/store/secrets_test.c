#include "fixture.h"

#include "store/secrets.h"
#include "store/store_int.h"

#define KEY_A "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
#define KEY_B "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"

static struct keyring *parse(const char *text)
{
    struct err err = {0};
    struct keyring *keyring = keyring_parse(str_of(text), "the test's", &err);

    assert_ok(keyring, err);
    return keyring;
}

static void put(struct fixture *f, const struct tenant *tenant, const char *owner, const char *name, const char *text)
{
    struct secret value = {0};
    struct err err = {0};

    secret_set(&value, str_of(text));
    assert_ok(store_secret_put(f->store, tenant, owner, name, &value, &err), err);
    secret_wipe(&value);
}

static void expect(struct fixture *f, const struct tenant *tenant, const char *owner, const char *name,
                   const char *text)
{
    struct secret value = {0};
    struct err err = {0};

    assert_ok(store_secret_get(f->store, tenant, owner, name, &value, &err), err);
    assert_string_equal(secret_reveal(&value).at, text);
    secret_wipe(&value);
}

static enum err_code get_fails(struct fixture *f, const struct tenant *tenant, const char *owner, const char *name)
{
    struct secret value = {0};
    struct err err = {0};

    assert_false(store_secret_get(f->store, tenant, owner, name, &value, &err));
    assert_false(secret_is_set(&value));
    return err.code;
}

static void a_secret_belongs_to_its_tenant_and_owner(void **state)
{
    struct fixture *f = *state;
    struct keyring *keyring = parse(KEY_A);
    struct store_secret_list list;
    struct err err = {0};

    assert_ok(store_use_keyring(f->store, keyring, &err), err);
    put(f, &f->ours, "", "HF_TOKEN", "hf_0123456789abcdefXYZW");
    put(f, &f->ours, "", "A", "short");
    put(f, &f->ours, "ftjob-1", "HF_TOKEN", "the job's");
    put(f, &f->ours, "", "HF_TOKEN", "hf_0123456789abcdefZYXW");
    expect(f, &f->ours, "", "HF_TOKEN", "hf_0123456789abcdefZYXW");
    expect(f, &f->ours, "ftjob-1", "HF_TOKEN", "the job's");
    assert_int_equal(get_fails(f, &f->theirs, "", "HF_TOKEN"), ERR_NOT_FOUND);
    assert_false(store_secret_delete(f->store, &f->theirs, "", "HF_TOKEN", &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);

    assert_ok(store_secret_list(f->store, &f->ours, "", &f->arena, &list, &err), err);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.at[0].name, "A");
    assert_string_equal(list.at[0].last4, "");
    assert_string_equal(list.at[1].last4, "ZYXW");
    assert_ok(store_secret_list(f->store, &f->theirs, "", &f->arena, &list, &err), err);
    assert_int_equal(list.count, 0);

    assert_ok(store_secret_delete(f->store, &f->ours, "", "HF_TOKEN", &err), err);
    assert_int_equal(get_fails(f, &f->ours, "", "HF_TOKEN"), ERR_NOT_FOUND);
    assert_ok(store_secret_delete_all(f->store, &f->ours, "ftjob-1", &err), err);
    assert_int_equal(get_fails(f, &f->ours, "ftjob-1", "HF_TOKEN"), ERR_NOT_FOUND);
    expect(f, &f->ours, "", "A", "short");
    keyring_free(keyring);
}

static void a_row_that_was_copied_to_another_place_does_not_open(void **state)
{
    struct fixture *f = *state;
    struct keyring *keyring = parse(KEY_A);
    struct err err = {0};

    assert_ok(store_use_keyring(f->store, keyring, &err), err);
    put(f, &f->ours, "", "MINE", "canary");
    put(f, &f->theirs, "", "MINE", "other");
    assert_int_equal(sqlite3_exec(f->store->db,
                                  "UPDATE secrets SET sealed=(SELECT sealed FROM secrets WHERE "
                                  "project_id='proj-default') WHERE project_id='proj-other'",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(get_fails(f, &f->theirs, "", "MINE"), ERR_AUTH);
    expect(f, &f->ours, "", "MINE", "canary");
    keyring_free(keyring);
}

static void a_store_without_a_keyring_takes_no_secret(void **state)
{
    struct fixture *f = *state;
    struct secret value = {0};
    struct err err = {0};
    bool any = true;

    secret_set(&value, STR("x"));
    assert_false(store_secret_put(f->store, &f->ours, "", "A", &value, &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_ok(store_secret_any(f->store, &any, &err), err);
    assert_false(any);
    secret_wipe(&value);
}

static void the_wrong_key_is_refused_and_a_new_one_takes_over(void **state)
{
    struct fixture *f = *state;
    struct keyring *a = parse(KEY_A), *b = parse(KEY_B), *both = parse(KEY_B "\n" KEY_A);
    struct err err = {0};
    size_t count;
    bool any;

    assert_ok(store_use_keyring(f->store, a, &err), err);
    put(f, &f->ours, "", "A", "one");
    put(f, &f->theirs, "ftjob-2", "A", "two");
    assert_ok(store_secret_any(f->store, &any, &err) && any, err);
    assert_false(store_use_keyring(f->store, b, &err));
    assert_int_equal(err.code, ERR_AUTH);
    assert_non_null(strstr(err.text, keyring_sealing_id(a)));
    assert_ok(store_use_keyring(f->store, both, &err), err);
    expect(f, &f->ours, "", "A", "one");
    assert_ok(store_secret_reseal(f->store, &count, &err), err);
    assert_int_equal(count, 2);
    assert_ok(store_secret_reseal(f->store, &count, &err), err);
    assert_int_equal(count, 0);
    assert_ok(store_use_keyring(f->store, b, &err), err);
    expect(f, &f->ours, "", "A", "one");
    expect(f, &f->theirs, "ftjob-2", "A", "two");
    keyring_free(a);
    keyring_free(b);
    keyring_free(both);
}

static void an_owner_has_at_most_a_hundred_secrets(void **state)
{
    struct fixture *f = *state;
    struct keyring *keyring = parse(KEY_A);
    struct secret value = {0};
    struct err err = {0};

    assert_ok(store_use_keyring(f->store, keyring, &err), err);
    for (int i = 0; i < STORE_SECRETS_MAX; i++)
        put(f, &f->ours, "", arena_printf(&f->arena, "S%d", i), "x");
    secret_set(&value, STR("y"));
    assert_false(store_secret_put(f->store, &f->ours, "", "ONE_MORE", &value, &err));
    assert_int_equal(err.code, ERR_QUOTA);
    assert_int_equal(get_fails(f, &f->ours, "", "ONE_MORE"), ERR_NOT_FOUND);
    put(f, &f->ours, "", "S99", "another value");
    secret_wipe(&value);
    keyring_free(keyring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_secret_belongs_to_its_tenant_and_owner, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(a_row_that_was_copied_to_another_place_does_not_open, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(a_store_without_a_keyring_takes_no_secret, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(the_wrong_key_is_refused_and_a_new_one_takes_over, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(an_owner_has_at_most_a_hundred_secrets, fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
