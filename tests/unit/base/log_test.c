#include "test.h"

#include "base/log.h"

#include <string.h>

static void what_has_the_shape_of_a_token_is_not_shown(void **state)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"key at_01234567_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG_abcdef refused", "key *** refused"},
        {"hf_abcdefghijklmnopqr", "***"},
        {"(hf_abcdefghijklmnopqr)", "(***)"},
        {"hf_short and the word sk-learn stay", "hf_short and the word sk-learn stay"},
        {"token=sk-proj-0123456789abcdef, next", "token=***, next"},
        {"Authorization: Bearer abcdef123", "Authorization: ***"},
        {"Authorization: Basic YXBpOmtleQ==", "Authorization: ***"},
        {"W&B 0123456789abcdef0123456789abcdef01234567 said no", "W&B *** said no"},
        {"sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef stays",
         "sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef stays"},
        {"ftjob-0123456789abcdef0123456789abcdef stays", "ftjob-0123456789abcdef0123456789abcdef stays"},
        {"at_01234567 is an id", "at_01234567 is an id"},
        {"http://user:pa55@host/path", "http://***@host/path"},
        {"http://host:80/a@b", "http://host:80/a@b"},
        {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "***"},
        {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "***"},
        {"that_hf_abcdefghijklmnopqr is a name", "that_hf_abcdefghijklmnopqr is a name"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];

        strcpy(text, cases[i].text);
        log_redact(text);
        assert_string_equal(text, cases[i].shown);
    }
}

static void a_line_is_one_line_whatever_it_holds(void **state)
{
    char path[] = "/tmp/attune-log-XXXXXX", got[4096] = {0}, *big = malloc(10000);
    int fd = mkstemp(path), before = dup(STDERR_FILENO);

    memset(big, 'x', 9999);
    big[9999] = 0;
    dup2(fd, STDERR_FILENO);
    log_line("job %s: a\nb\r\033[31m %s", "7", "hf_abcdefghijklmnopqr");
    log_line("%s", big);
    dup2(before, STDERR_FILENO);
    close(before);
    assert_true(pread(fd, got, sizeof got - 1, 0) > 0);
    assert_memory_equal(got, "job 7: a b  [31m ***\nxxx", 24);
    assert_ptr_equal(strchr(strchr(got, '\n') + 1, '\n') + 1, got + strlen(got));
    close(fd);
    unlink(path);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_has_the_shape_of_a_token_is_not_shown),
        cmocka_unit_test(a_line_is_one_line_whatever_it_holds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
