#include "test.h"

#include "base/arena.h"
#include "os/file.h"
#include "os/process.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

static char output[64];

static int make_output(void **state)
{
    int fd;

    strcpy(output, "/tmp/attune-process-XXXXXX");
    fd = mkstemp(output);
    return fd < 0 || close(fd) != 0;
}

static int remove_output(void **state)
{
    return unlink(output);
}

static struct process spawn(const char *script)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    struct process process;
    struct err err = {0};

    assert_ok(process_spawn(&process, &(struct process_spawn){.argv = argv, .cwd = "/", .output_path = output}, &err),
              err);
    return process;
}

static void wait_until_ended(struct process *process)
{
    struct pollfd ended = {.fd = process->pidfd, .events = POLLIN};

    assert_int_equal(poll(&ended, 1, 60000), 1);
}

static struct process_end end_of(struct process *process)
{
    struct process_end end;

    wait_until_ended(process);
    assert_true(process_has_ended(process, &end));
    process_close(process);
    return end;
}

static void output_is(const char *expected)
{
    struct arena arena = {0};
    struct str text;
    struct err err = {0};

    assert_ok(file_read(&arena, output, 1000, &text, &err), err);
    assert_string_equal(text.at, expected);
    arena_deinit(&arena);
}

static void a_child_stands_back_as_far_as_asked(void **state)
{
    const char *argv[] = {"/bin/sh", "-c",
                          "nice; sed 's/.* nice/session/' /proc/self/autogroup 2>/dev/null || echo session $(nice)",
                          NULL};
    struct process_spawn spawn = {.argv = argv, .cwd = "/", .output_path = output};
    struct process process;
    struct err err = {0};
    char expected[40];

    for (int now = getpriority(PRIO_PROCESS, 0) + 1; now <= 19; now++) {
        spawn.nice = now - getpriority(PRIO_PROCESS, 0);
        assert_int_equal(truncate(output, 0), 0);
        assert_ok(process_spawn(&process, &spawn, &err), err);
        assert_true(process_go(&process, &err));
        end_of(&process);
        snprintf(expected, sizeof expected, "%d\nsession %d\n", now, now);
        output_is(expected);
    }
}

static void a_child_begins_when_told_and_its_end_is_known(void **state)
{
    struct process process = spawn("echo out; echo err >&2; exit 3");
    struct process_end end;
    struct err err = {0};

    assert_false(process_has_ended(&process, &end));
    output_is("");
    assert_ok(process_go(&process, &err), err);
    end = end_of(&process);
    assert_true(end.is_known && end.signal == 0);
    assert_int_equal(end.exit_status, 3);
    output_is("out\nerr\n");
}

static void a_child_that_is_never_told_does_nothing(void **state)
{
    struct process process = spawn("echo out");

    fd_close(&process.go_fd);
    assert_int_equal(end_of(&process).exit_status, 125);
    output_is("");
}

static void a_child_leads_its_group_and_has_no_descriptor_of_ours(void **state)
{
    struct process process = spawn("ls /proc/self/fd | tr '\\n' ' '; cut -d' ' -f1,5,6 /proc/$$/stat >&2");
    char expected[128];
    struct err err = {0};
    int pid = (int)process.identity.pid;

    assert_ok(process_go(&process, &err), err);
    end_of(&process);
    /* 3 is the folder that ls reads. */
    snprintf(expected, sizeof expected, "0 1 2 3 %d %d %d\n", pid, pid, pid);
    output_is(expected);
}

static void sigusr1_before_a_handler_is_there_does_no_harm(void **state)
{
    struct process process = spawn("kill -USR1 $$; exit 4");
    struct err err = {0};

    assert_ok(process_signal(&process, SIGUSR1, &err), err);
    assert_ok(process_go(&process, &err), err);
    assert_int_equal(end_of(&process).exit_status, 4);
}

static void the_whole_group_is_killed(void **state)
{
    /* The shell's own child holds the fifo open until it is dead too. */
    char script[256], fifo[80], byte;
    int fd;
    struct process process;
    struct err err = {0};

    snprintf(fifo, sizeof fifo, "%s.fifo", output);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    snprintf(script, sizeof script, "sh -c 'sleep 600' > %s & wait", fifo);
    process = spawn(script);
    assert_ok(process_go(&process, &err), err);
    fd = file_open_read(fifo, &err);
    assert_true(fd >= 0);
    assert_ok(process_kill_group(&process, &err), err);
    assert_int_equal(end_of(&process).signal, SIGKILL);
    assert_int_equal(read(fd, &byte, 1), 0);
    fd_close(&fd);
    unlink(fifo);
}

static void only_the_same_process_is_adopted(void **state)
{
    struct process process = spawn("read x"), adopted;
    struct process_identity stranger = process.identity, other_boot = process.identity;
    struct err err = {0};

    stranger.start_time++;
    other_boot.boot_id[0] ^= 1;
    assert_ok(process_adopt(&adopted, &process.identity, &err), err);
    process_close(&adopted);
    assert_false(process_adopt(&adopted, &stranger, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_false(process_adopt(&adopted, &other_boot, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);

    /* Ended but not reaped is ended. */
    fd_close(&process.go_fd);
    wait_until_ended(&process);
    assert_false(process_adopt(&adopted, &process.identity, &err));
    end_of(&process);
    assert_false(process_adopt(&adopted, &process.identity, &err));
}

static void an_adopted_process_is_signalled_and_seen_to_end(void **state)
{
    struct process process = spawn("read x"), adopted;
    struct process_end end;
    struct err err = {0};

    assert_ok(process_adopt(&adopted, &process.identity, &err), err);
    assert_false(process_has_ended(&adopted, &end));
    assert_ok(process_signal(&adopted, SIGKILL, &err), err);
    wait_until_ended(&adopted);
    assert_true(process_has_ended(&adopted, &end));
    assert_false(end.is_known);
    assert_ok(process_signal(&adopted, SIGKILL, &err), err);
    assert_ok(process_kill_group(&adopted, &err), err);
    process_close(&adopted);
    assert_int_equal(end_of(&process).signal, SIGKILL);
}

int main(void)
{
#define PROCESS_TEST(name) cmocka_unit_test_setup_teardown(name, make_output, remove_output)
    const struct CMUnitTest tests[] = {
        PROCESS_TEST(a_child_begins_when_told_and_its_end_is_known),
        PROCESS_TEST(a_child_stands_back_as_far_as_asked),
        PROCESS_TEST(a_child_that_is_never_told_does_nothing),
        PROCESS_TEST(a_child_leads_its_group_and_has_no_descriptor_of_ours),
        PROCESS_TEST(sigusr1_before_a_handler_is_there_does_no_harm),
        PROCESS_TEST(the_whole_group_is_killed),
        PROCESS_TEST(only_the_same_process_is_adopted),
        PROCESS_TEST(an_adopted_process_is_signalled_and_seen_to_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
