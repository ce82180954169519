#include "test.h"
#include "os/identity.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

static void a_process_keeps_its_identity_and_differs_from_others(void **state)
{
    struct process_identity self, again, parent;
    struct err err = {0};

    assert_ok(identity_of_self(&self, &err), err);
    assert_ok(identity_of(getpid(), &again, &err), err);
    assert_ok(identity_of(getppid(), &parent, &err), err);
    assert_true(identity_equal(&self, &again));
    assert_false(identity_equal(&self, &parent));
    assert_int_equal(self.pid, getpid());
    assert_true(self.start_time > 0);
    assert_int_equal(strlen(self.boot_id), 36);
}

static void a_process_that_is_gone_is_not_found(void **state)
{
    struct process_identity identity;
    struct err err = {0};
    pid_t child = fork();

    if (child == 0)
        _exit(0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_false(identity_of(child, &identity, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_keeps_its_identity_and_differs_from_others),
        cmocka_unit_test(a_process_that_is_gone_is_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
