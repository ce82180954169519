#include "server.h"

#include "job/doctor.h"

#include <sqlite3.h>
#include <string.h>

/* A data folder in which a job has run to its end, without its server. */
static int setup(void **state)
{
    struct server *server;
    const char *id;

    server_setup(state);
    server = *state;
    id = server_create(server, "{\"steps\":4}");
    while (!job_state_is_final(server_job(server, id).state) || server->manager->attempt_count > 0)
        server_step(server);
    assert_int_equal(server_job(server, id).state, JOB_STATE_succeeded);
    server_stop(server);
    server->manager = NULL;
    return 0;
}

static int teardown(void **state)
{
    struct server *server = *state;

    arena_deinit(&server->arena);
    dir_remove(server->dir, NULL);
    free(server);
    return 0;
}

static struct findings examine(struct server *server, bool with_hashes)
{
    struct findings findings;
    struct err err = {0};

    assert_ok(doctor_examine(server->dir, with_hashes, &server->arena, &findings, &err), err);
    return findings;
}

static void run_sql(struct server *server, const char *sql)
{
    sqlite3 *db;
    char *message = NULL;

    assert_int_equal(sqlite3_open(path_join(&server->arena, server->dir, "attune.db"), &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    sqlite3_close(db);
}

static void a_folder_of_a_good_life_has_no_findings(void **state)
{
    struct server *server = *state;
    struct findings findings = examine(server, true);

    for (size_t i = 0; i < findings.count; i++)
        printf("%s: %s\n", findings.at[i].what, findings.at[i].id);
    assert_int_equal(findings.count, 0);
}

static void every_broken_rule_is_found(void **state)
{
    static const struct {
        const char *what, *damage, *repair;
    } cases[] = {
        {"a job has ended at no time", "UPDATE jobs SET finished_ms = 0", "UPDATE jobs SET finished_ms = 1"},
        {"a job without a process has one", "UPDATE jobs SET pid = 7", "UPDATE jobs SET pid = 0"},
        {"a job succeeded without a model or the other way round", "UPDATE jobs SET fine_tuned_model = NULL",
         "UPDATE jobs SET fine_tuned_model = output_name"},
        {"a job has trained more than all its steps", "UPDATE jobs SET trained_steps = trained_steps + 100",
         "UPDATE jobs SET trained_steps = trained_steps - 100"},
        {"events of a job are not numbered one by one", "UPDATE job_events SET seq = seq + 1000 WHERE seq = 2",
         "UPDATE job_events SET seq = 2 WHERE seq = 1002"},
        {"a project's stored bytes are not the sum of its files", "UPDATE storage_days SET bytes = bytes + 1",
         "UPDATE storage_days SET bytes = bytes - 1"},
        {"a file's bytes are not there or not what its row says",
         "DROP TRIGGER IF EXISTS none; UPDATE files SET bytes = bytes + 1 WHERE purpose = 'fine-tune'",
         "UPDATE files SET bytes = bytes - 1 WHERE purpose = 'fine-tune'"},
    };
    struct server *server = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct findings findings;
        bool found = false;

        run_sql(server, cases[i].damage);
        findings = examine(server, false);
        for (size_t k = 0; k < findings.count; k++)
            found |= strcmp(findings.at[k].what, cases[i].what) == 0;
        if (!found)
            fail_msg("not found: %s", cases[i].what);
        run_sql(server, cases[i].repair);
    }
    assert_int_equal(examine(server, false).count, 0);
}

static void bytes_without_a_row_and_rows_without_bytes_are_found(void **state)
{
    struct server *server = *state;
    const char *file = arena_printf(&server->arena, "%s/files/%s", server->dir, server->training_file);
    struct findings findings;
    struct err err = {0};

    run_sql(server, "UPDATE files SET sha256 = 'ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356' "
                    "WHERE purpose = 'fine-tune'"); /* of "{}" and a newline, which is what it holds */
    assert_int_equal(examine(server, true).count, 0);
    assert_ok(file_replace(path_join(&server->arena, server->dir, "files/file-x"), STR("x"), &err), err);
    assert_ok(dir_make(path_join(&server->arena, server->dir, "runs/ftjob-x"), &err), err);
    assert_ok(file_replace(file, STR("{]\n"), &err), err);
    findings = examine(server, false);
    assert_int_equal(findings.count, 2);
    assert_string_equal(findings.at[0].what, "bytes belong to no file");
    assert_string_equal(findings.at[1].id, "ftjob-x");
    assert_int_equal(examine(server, true).count, 3); /* the size is right, the bytes are not */
    assert_ok(file_remove(file, &err), err);
    assert_int_equal(examine(server, false).count, 3);
}

static void a_folder_without_a_database_is_refused(void **state)
{
    struct server *server = *state;
    struct findings findings;
    struct err err = {0};

    assert_false(doctor_examine("/tmp", false, &server->arena, &findings, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

int main(void)
{
#define DOCTOR_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        DOCTOR_TEST(a_folder_of_a_good_life_has_no_findings),
        DOCTOR_TEST(every_broken_rule_is_found),
        DOCTOR_TEST(bytes_without_a_row_and_rows_without_bytes_are_found),
        DOCTOR_TEST(a_folder_without_a_database_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
