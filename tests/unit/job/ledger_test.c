#include "test.h"

#include "job/ledger.h"

#include <string.h>

static char asked[512];

static void note(void *context, const char *id)
{
    strcat(asked, id);
    if (context)
        ledger_release(context, LEDGER_CHAT, id);
}

static bool reserve(struct job_ledger *ledger, enum ledger_owner owner, const char *id, int64_t bytes, void *release,
                    enum err_code *code)
{
    struct ledger_claim claim = {.owner = owner, .id = id, .bytes = bytes, .evict = note, .context = release};
    struct err err = {0};
    bool ok = ledger_reserve(ledger, &claim, &err);

    *code = err.code;
    return ok;
}

static void the_sum_never_passes_the_capacity(void **state)
{
    struct job_ledger *ledger = ledger_new(100);
    enum err_code code;

    assert_false(reserve(ledger, LEDGER_JOB, "a", 101, NULL, &code));
    assert_int_equal(code, ERR_NO_SPACE);
    assert_true(reserve(ledger, LEDGER_JOB, "a", 60, NULL, &code));
    assert_true(reserve(ledger, LEDGER_JOB, "a", 60, NULL, &code)); /* the same one */
    assert_false(reserve(ledger, LEDGER_JOB, "b", 41, NULL, &code));
    assert_int_equal(code, ERR_CONFLICT);
    assert_true(reserve(ledger, LEDGER_CHAT, "a", 40, NULL, &code)); /* another owner's "a" */
    assert_int_equal(ledger_free_bytes(ledger), 0);
    ledger_release(ledger, LEDGER_JOB, "a");
    ledger_release(ledger, LEDGER_JOB, "a");
    ledger_release(ledger, LEDGER_JOB, "unknown");
    assert_int_equal(ledger_free_bytes(ledger), 60);
    ledger_free(ledger);
}

static void a_job_asks_only_as_many_chats_to_go_as_it_needs_and_each_once(void **state)
{
    struct job_ledger *ledger = ledger_new(100);
    enum err_code code;

    asked[0] = 0;
    assert_true(reserve(ledger, LEDGER_CHAT, "1", 30, NULL, &code));
    assert_true(reserve(ledger, LEDGER_CHAT, "2", 30, NULL, &code));
    assert_true(reserve(ledger, LEDGER_CHAT, "3", 30, NULL, &code));
    assert_false(reserve(ledger, LEDGER_JOB, "j", 50, NULL, &code));
    assert_false(reserve(ledger, LEDGER_JOB, "j", 50, NULL, &code));
    assert_string_equal(asked, "12");
    ledger_release(ledger, LEDGER_CHAT, "1");
    ledger_release(ledger, LEDGER_CHAT, "2");
    assert_true(reserve(ledger, LEDGER_JOB, "j", 50, NULL, &code));
    ledger_free(ledger);
}

static void chat_never_sends_anybody_away(void **state)
{
    struct job_ledger *ledger = ledger_new(100);
    enum err_code code;

    asked[0] = 0;
    assert_true(reserve(ledger, LEDGER_CHAT, "1", 60, NULL, &code));
    assert_false(reserve(ledger, LEDGER_CHAT, "2", 60, NULL, &code));
    assert_string_equal(asked, "");
    ledger_free(ledger);
}

static void a_chat_may_release_while_it_is_asked(void **state)
{
    struct job_ledger *ledger = ledger_new(100);
    enum err_code code;

    asked[0] = 0;
    assert_true(reserve(ledger, LEDGER_CHAT, "1", 60, ledger, &code));
    assert_true(reserve(ledger, LEDGER_CHAT, "2", 40, ledger, &code));
    assert_true(reserve(ledger, LEDGER_JOB, "j", 90, NULL, &code));
    assert_string_equal(asked, "12");
    ledger_free(ledger);
}

/* A chat worker's id is two paths: results lie deep in the data folder. */
static void ids_of_any_length_are_kept_whole(void **state)
{
    struct job_ledger *ledger = ledger_new(100);
    char one[200], other[200];
    enum err_code code;

    memset(one, 'p', sizeof one);
    memcpy(other, one, sizeof other);
    one[sizeof one - 1] = other[sizeof other - 1] = 0;
    other[sizeof other - 2] = 'q';
    asked[0] = 0;
    assert_true(reserve(ledger, LEDGER_CHAT, one, 40, ledger, &code));
    assert_true(reserve(ledger, LEDGER_CHAT, other, 40, ledger, &code));
    ledger_release(ledger, LEDGER_CHAT, one);
    assert_int_equal(ledger_free_bytes(ledger), 60);
    assert_true(reserve(ledger, LEDGER_JOB, "j", 90, ledger, &code));
    assert_string_equal(asked, other);
    ledger_free(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sum_never_passes_the_capacity),
        cmocka_unit_test(a_job_asks_only_as_many_chats_to_go_as_it_needs_and_each_once),
        cmocka_unit_test(chat_never_sends_anybody_away),
        cmocka_unit_test(a_chat_may_release_while_it_is_asked),
        cmocka_unit_test(ids_of_any_length_are_kept_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
