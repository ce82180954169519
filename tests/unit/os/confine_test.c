#include "test.h"

#include "base/arena.h"
#include "os/confine.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a confined child sees, as its exit status. */
static int in_child(int (*look)(void))
{
    struct err err;
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(confine_process(0, &err) ? look() : 99);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int open_sockets(void)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK};

    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (socket(families[i], SOCK_STREAM, 0) >= 0 || errno != EACCES)
            return 1;
    return 0;
}

static int run_program(void)
{
    execl("/bin/true", "true", (char *)NULL);
    return errno == EACCES ? 0 : 1;
}

static int read_and_write(void)
{
    char text[4];
    int ends[2];

    return pipe(ends) == 0 && write(ends[1], "abc", 4) == 4 && read(ends[0], text, 4) == 4 && strcmp(text, "abc") == 0
               ? 0
               : 1;
}

static void a_confined_process_opens_no_socket(void **state)
{
    assert_int_equal(in_child(open_sockets), 0);
}

static void a_confined_process_runs_no_program(void **state)
{
    assert_int_equal(in_child(run_program), 0);
}

static void a_confined_process_reads_and_writes(void **state)
{
    assert_int_equal(in_child(read_and_write), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_confined_process_opens_no_socket),
        cmocka_unit_test(a_confined_process_runs_no_program),
        cmocka_unit_test(a_confined_process_reads_and_writes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
