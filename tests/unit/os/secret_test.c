#include "test.h"

#include "os/process.h"
#include "os/secret.h"

#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void a_secret_is_a_copy_that_ends_in_nul(void **state)
{
    char given[] = "hf_0123456789abcdef";
    struct secret secret = {0};

    assert_false(secret_is_set(&secret));
    assert_int_equal(secret_reveal(&secret).len, 0);
    secret_set(&secret, str_of(given));
    memory_erase(given, sizeof given);
    assert_int_equal(given[0], 0);
    assert_string_equal(secret_reveal(&secret).at, "hf_0123456789abcdef");
    assert_int_equal(secret_reveal(&secret).len, 19);
    secret_set(&secret, STR(""));
    assert_true(secret_is_set(&secret));
    secret_wipe(&secret);
    assert_false(secret_is_set(&secret));
    secret_wipe(&secret);
}

static void the_last_four_characters_are_told_of_long_printable_ones_alone(void **state)
{
    static const struct {
        const char *text, *last4;
    } cases[] = {{"0123456789abcdef", "cdef"}, {"0123456789abcde", ""},   {"", ""},
                 {"0123456789abcd\nef", ""},   {"0123456789abcd ef", ""}, {"0123456789abcd\xc3\xa9", ""}};
    struct secret secret = {0};
    char last4[5];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        secret_set(&secret, str_of(cases[i].text));
        secret_last4(&secret, last4);
        assert_string_equal(last4, cases[i].last4);
    }
    secret_wipe(&secret);
}

static void a_descriptor_gives_a_secret_without_the_line_end(void **state)
{
    struct secret secret = {0};
    struct err err = {0};
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "top secret\r\n", 12), 12);
    close(fds[1]);
    assert_ok(secret_read_fd(&secret, fds[0], 12, "the pipe", &err), err);
    assert_string_equal(secret_reveal(&secret).at, "top secret");
    assert_int_equal(secret_reveal(&secret).len, 10);
    close(fds[0]);

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "0123456789", 10), 10);
    close(fds[1]);
    assert_false(secret_read_fd(&secret, fds[0], 9, "the pipe", &err));
    assert_int_equal(err.code, ERR_LIMIT);
    assert_false(secret_is_set(&secret));
    close(fds[0]);
}

static void a_forked_child_has_no_secret(void **state)
{
    struct secret secret = {0};
    int status;
    pid_t pid;

    secret_set(&secret, STR("canary-of-the-parent"));
    const char *at = secret_reveal(&secret).at;
    pid = fork();
    if (pid == 0)
        _exit(at[0] == 0 && at[19] == 0 ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_string_equal(at, "canary-of-the-parent");
    secret_wipe(&secret);
}

static void a_process_that_forbids_cores_is_not_dumpable(void **state)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct rlimit limit;
        struct err err = {0};
        bool ok = process_forbid_core(&err) && prctl(PR_GET_DUMPABLE) == 0 && getrlimit(RLIMIT_CORE, &limit) == 0 &&
                  limit.rlim_max == 0;
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_secret_is_a_copy_that_ends_in_nul),
        cmocka_unit_test(the_last_four_characters_are_told_of_long_printable_ones_alone),
        cmocka_unit_test(a_descriptor_gives_a_secret_without_the_line_end),
        cmocka_unit_test(a_forked_child_has_no_secret),
        cmocka_unit_test(a_process_that_forbids_cores_is_not_dumpable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
