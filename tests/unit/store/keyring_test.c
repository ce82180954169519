#include "test.h"

#include "os/file.h"
#include "store/keyring.h"

#include <string.h>
#include <sys/wait.h>

#define KEY_A "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
#define KEY_B "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"

static struct keyring *parse(const char *text)
{
    struct err err = {0};
    struct keyring *keyring = keyring_parse(str_of(text), "the test's", &err);

    assert_ok(keyring, err);
    return keyring;
}

static void what_is_sealed_opens_in_its_context_alone(void **state)
{
    struct keyring *a = parse(KEY_A), *b = parse(KEY_B);
    struct strbuf sealed = {0};
    struct secret plain = {0};
    struct err err = {0};

    keyring_seal(a, STR("context"), STR("canary-7f3a"), &sealed);
    assert_int_equal(sealed.len, 12 + 11 + 16);
    assert_int_equal(str_find(strbuf_view(&sealed), STR("canary"), 0), -1);
    assert_ok(keyring_unseal(a, keyring_sealing_id(a), STR("context"), strbuf_view(&sealed), &plain, &err), err);
    assert_string_equal(secret_reveal(&plain).at, "canary-7f3a");
    secret_wipe(&plain);
    assert_false(keyring_unseal(a, keyring_sealing_id(a), STR("Context"), strbuf_view(&sealed), &plain, &err));
    assert_int_equal(err.code, ERR_AUTH);
    assert_false(keyring_unseal(b, keyring_sealing_id(a), STR("context"), strbuf_view(&sealed), &plain, &err));
    assert_false(keyring_unseal(b, keyring_sealing_id(b), STR("context"), strbuf_view(&sealed), &plain, &err));
    assert_false(secret_is_set(&plain));
    strbuf_deinit(&sealed);
    keyring_free(a);
    keyring_free(b);
}

static void every_changed_or_missing_byte_is_noticed(void **state)
{
    struct keyring *keyring = parse(KEY_A);
    struct strbuf sealed = {0};
    struct secret plain = {0};

    keyring_seal(keyring, STR("c"), STR("twelve bytes"), &sealed);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.at[i] ^= 1;
        assert_false(
            keyring_unseal(keyring, keyring_sealing_id(keyring), STR("c"), strbuf_view(&sealed), &plain, NULL));
        sealed.at[i] ^= 1;
        assert_false(
            keyring_unseal(keyring, keyring_sealing_id(keyring), STR("c"), (struct str){sealed.at, i}, &plain, NULL));
    }
    assert_true(keyring_unseal(keyring, keyring_sealing_id(keyring), STR("c"), strbuf_view(&sealed), &plain, NULL));
    secret_wipe(&plain);
    strbuf_deinit(&sealed);
    keyring_free(keyring);
}

static void sealing_twice_gives_other_bytes_and_an_empty_text_seals_too(void **state)
{
    struct keyring *keyring = parse(KEY_A);
    struct strbuf one = {0}, two = {0};
    struct secret plain = {0};

    keyring_seal(keyring, STR("c"), STR(""), &one);
    keyring_seal(keyring, STR("c"), STR(""), &two);
    assert_int_equal(one.len, 28);
    assert_memory_not_equal(one.at, two.at, 28);
    assert_true(keyring_unseal(keyring, keyring_sealing_id(keyring), STR("c"), strbuf_view(&two), &plain, NULL));
    assert_true(secret_is_set(&plain) && secret_reveal(&plain).len == 0);
    secret_wipe(&plain);
    strbuf_deinit(&one);
    strbuf_deinit(&two);
    keyring_free(keyring);
}

static void a_keyring_is_keys_in_hexadecimal_apart_by_white_space(void **state)
{
    static const char *const wrong[] = {
        "", " \n", "abc", KEY_A "0", KEY_A "," KEY_B, "g" KEY_A, KEY_A "\n" KEY_B "\nx"};
    struct keyring *two = parse("\n" KEY_B "\r\n\t" KEY_A "\n"), *a = parse(KEY_A);
    struct err err = {0};

    assert_int_equal(keyring_key_count(two), 2);
    assert_true(keyring_has(two, keyring_sealing_id(a)));
    assert_string_not_equal(keyring_sealing_id(two), keyring_sealing_id(a));
    assert_int_equal(strlen(keyring_sealing_id(a)), 16);
    keyring_free(two);
    keyring_free(a);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_null(keyring_parse(str_of(wrong[i]), "KEYS", &err));
        assert_int_equal(err.code, ERR_INPUT);
        assert_string_equal(err.text, "KEYS is not a keyring: it takes 1 to 16 keys of 64 hexadecimal digits");
    }
}

static void a_key_file_is_made_once_private_and_refused_when_others_may_read_it(void **state)
{
    char dir[] = "/tmp/attune-keyring-XXXXXX";
    struct arena arena = {0};
    struct keyring *made, *again;
    struct err err = {0};
    struct stat info;

    assert_non_null(mkdtemp(dir));
    const char *path = path_join(&arena, dir, "a/b/secret.key");
    assert_null(keyring_open_file(path, false, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    made = keyring_open_file(path, true, &err);
    assert_ok(made, err);
    again = keyring_open_file(path, true, &err);
    assert_ok(again, err);
    assert_string_equal(keyring_sealing_id(made), keyring_sealing_id(again));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    keyring_free(again);
    assert_int_equal(chmod(path, 0640), 0);
    assert_null(keyring_open_file(path, true, &err));
    assert_non_null(strstr(err.text, "chmod 600"));
    assert_int_equal(chmod(path, 0600), 0);

    assert_ok(keyring_file_add_key(path, &err), err);
    again = keyring_open_file(path, false, &err);
    assert_int_equal(keyring_key_count(again), 2);
    assert_true(keyring_has(again, keyring_sealing_id(made)));
    assert_string_not_equal(keyring_sealing_id(again), keyring_sealing_id(made));
    keyring_free(again);
    assert_ok(keyring_file_keep_first(path, &err), err);
    again = keyring_open_file(path, false, &err);
    assert_int_equal(keyring_key_count(again), 1);
    assert_false(keyring_has(again, keyring_sealing_id(made)));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    keyring_free(again);
    keyring_free(made);
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

static void processes_that_start_at_once_end_up_with_one_key(void **state)
{
    enum { CHILDREN = 8 };
    char dir[] = "/tmp/attune-keyring-XXXXXX", ids[CHILDREN][KEYRING_ID_BYTES];
    struct arena arena = {0};
    int fds[2], status;

    assert_non_null(mkdtemp(dir));
    const char *path = path_join(&arena, dir, "k/secret.key");
    assert_int_equal(pipe(fds), 0);
    for (int i = 0; i < CHILDREN; i++) {
        if (fork() == 0) {
            struct keyring *keyring = keyring_open_file(path, true, NULL);
            bool ok = keyring && write(fds[1], keyring_sealing_id(keyring), KEYRING_ID_BYTES) == KEYRING_ID_BYTES;
            _exit(ok ? 0 : 1);
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        wait(&status);
        assert_int_equal(status, 0);
        assert_int_equal(read(fds[0], ids[i], KEYRING_ID_BYTES), KEYRING_ID_BYTES);
        assert_string_equal(ids[i], ids[0]);
    }
    close(fds[0]);
    close(fds[1]);
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sealed_opens_in_its_context_alone),
        cmocka_unit_test(every_changed_or_missing_byte_is_noticed),
        cmocka_unit_test(sealing_twice_gives_other_bytes_and_an_empty_text_seals_too),
        cmocka_unit_test(a_keyring_is_keys_in_hexadecimal_apart_by_white_space),
        cmocka_unit_test(a_key_file_is_made_once_private_and_refused_when_others_may_read_it),
        cmocka_unit_test(processes_that_start_at_once_end_up_with_one_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
