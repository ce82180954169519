/* An acknowledged write survives a kill at any moment. The test runs itself as a writer ("crash_test DIR"), which says
 * on stdout what was acknowledged; it is killed after some acknowledgements, or by strace inside its Nth sync. */
#include "fixture.h"

#include "os/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

enum { WRITES = 12, KILLS = 24 };

/* Each write is a job that is inserted, claimed, running, and has two events: five transactions, then one line. */
static int write_jobs(const char *dir)
{
    struct fixture f = {.ours = tenant_default()};
    struct err err = {0};

    f.store = store_open(dir, &err);
    for (int i = 0; i < WRITES && f.store; i++) {
        const char *id = add_job(&f, &f.ours);
        struct store_event events[2] = {
            {.kind = "step", .code = "", .step = 1, .level = "info", .message = "a", .type = "metrics"},
            {.kind = "step", .code = "", .step = 2, .level = "info", .message = "b", .type = "metrics"},
        };
        struct store_advance advance = {.id = id, .attempt = 1, .to_offset = 2, .events = events, .event_count = 2};

        run_job(&f, id);
        if (!store_queue_advance(f.store, &advance, &err) || write(STDOUT_FILENO, id, 38) != 38)
            return 1;
    }
    store_close(f.store);
    arena_deinit(&f.arena);
    return f.store ? 0 : 1;
}

/* Starts the writer; its acknowledgements come out of the descriptor. */
static pid_t start_writer(const char *dir, const char *nth_sync, int *acks)
{
    char self[4096] = {0}, inject[64];
    int ends[2];
    pid_t pid;

    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(inject, sizeof inject, "inject=fsync,fdatasync:signal=KILL:when=%s", nth_sync ? nth_sync : "1");
    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        if (nth_sync)
            execlp("strace", "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject,
                   self, dir, NULL);
        else
            execl(self, self, dir, NULL);
        _exit(127);
    }
    close(ends[1]);
    *acks = ends[0];
    return pid;
}

static bool is_whole(const char *dir)
{
    struct arena arena = {0};
    sqlite3 *db;
    sqlite3_stmt *stmt;
    bool whole;

    assert_int_equal(sqlite3_open(path_join(&arena, dir, "attune.db"), &db), SQLITE_OK);
    sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL);
    whole = sqlite3_step(stmt) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(stmt, 0), "ok") == 0;
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    arena_deinit(&arena);
    return whole;
}

/* Opens the store as a new server does; every acknowledged job must be there with both events. */
static void check_acknowledged(const char *dir, const char *acknowledged, size_t count)
{
    struct fixture f = {.ours = tenant_default()};
    struct store_job_list active;
    struct err err = {0};

    f.store = store_open(dir, &err);
    assert_ok(f.store, err);
    for (size_t i = 0; i < count; i++) {
        const char *id = arena_copy(&f.arena, acknowledged + 38 * i, 38);
        struct store_event_list events;

        assert_int_equal(get_job(&f, id).events_offset, 2);
        assert_ok(store_event_since(f.store, &f.ours, id, 0, 10, &f.arena, &events, &err), err);
        assert_int_equal(events.count, 4); /* submitted, started, two steps */
    }
    /* At most the one that was being written is not acknowledged, and it is in a state of the table. */
    assert_ok(store_queue_active(f.store, &f.arena, &active, &err), err);
    assert_true(active.count == count || active.count == count + 1);
    store_close(f.store);
    assert_true(is_whole(dir));
    arena_deinit(&f.arena);
}

static void one_kill(const char *nth_sync, size_t acks_before_kill, bool *finished)
{
    char dir[] = "/tmp/attune-crash-XXXXXX", acknowledged[WRITES * 38];
    size_t got = 0;
    ssize_t more;
    int acks, status;
    pid_t pid;

    assert_non_null(mkdtemp(dir));
    pid = start_writer(dir, nth_sync, &acks);
    while (got < 38 * acks_before_kill && (more = read(acks, acknowledged + got, 38 * acks_before_kill - got)) > 0)
        got += (size_t)more;
    if (!nth_sync)
        kill(pid, SIGKILL);
    while ((more = read(acks, acknowledged + got, sizeof acknowledged - got)) > 0)
        got += (size_t)more;
    close(acks);
    waitpid(pid, &status, 0);
    *finished = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    check_acknowledged(dir, acknowledged, got / 38);
    dir_remove(dir, NULL);
}

static void acknowledged_writes_survive_a_kill_at_any_time(void **state)
{
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)getpid();
    bool finished;

    print_message("SEED=%u\n", seed);
    srand(seed);
    for (int i = 0; i < KILLS; i++)
        one_kill(NULL, (size_t)rand() % WRITES, &finished);
}

static void acknowledged_writes_survive_a_kill_inside_each_sync(void **state)
{
    char nth[8];
    bool finished;

    if (system("strace -qq -o /dev/null true 2>/dev/null") != 0) {
        print_message("skipped: strace is not here or may not trace\n");
        skip();
    }
    for (int n = 1; n <= KILLS; n++) {
        snprintf(nth, sizeof nth, "%d", n);
        one_kill(nth, 0, &finished);
        assert_false(finished);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_writes_survive_a_kill_at_any_time),
        cmocka_unit_test(acknowledged_writes_survive_a_kill_inside_each_sync),
    };
    return argc == 2 ? write_jobs(argv[1]) : cmocka_run_group_tests(tests, NULL, NULL);
}
