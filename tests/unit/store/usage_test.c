#include "fixture.h"

#include "os/clock.h"
#include "store/usage.h"

#include <sqlite3.h>

enum { DAY_MS = 86400000, HOUR_MS = 3600000 };

static struct store_usage_list ask(struct fixture *f, const struct tenant *tenant, struct store_usage_query asked)
{
    struct store_usage_list list;
    struct err err = {0};

    if (!asked.end_day)
        asked.end_day = (asked.first_day = clock_unix_ms() / DAY_MS) + 1;
    assert_ok(store_usage_read(f->store, tenant, &asked, &f->arena, &list, &err), err);
    return list;
}

static struct store_usage_row today(struct fixture *f)
{
    struct store_usage_list list = ask(f, &f->ours, (struct store_usage_query){.by_project = true});

    assert_int_equal(list.count, 1);
    assert_string_equal(list.at[0].project_id, f->ours.project_id);
    return list.at[0];
}

static int64_t storage_at_the_end_of(struct fixture *f, const struct tenant *tenant, int64_t day)
{
    struct store_usage_query asked = {.first_day = day, .end_day = day + 1};
    struct store_usage_list list;
    struct err err = {0};

    assert_ok(store_usage_storage(f->store, tenant, &asked, &f->arena, &list, &err), err);
    return list.count ? list.at[0].storage_bytes : 0;
}

/* As another process would: what the store does not offer. */
static void set_counted_until(struct fixture *f, int64_t ms)
{
    char *sql = sqlite3_mprintf("UPDATE jobs SET device_until_ms=%lld", (long long)ms);
    sqlite3 *db;

    assert_int_equal(sqlite3_open(path_join(&f->arena, f->dir, "attune.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    sqlite3_free(sql);
}

static void advance(struct fixture *f, const char *id, int64_t from, int64_t event_ms, int64_t tokens, int64_t steps)
{
    struct store_event event = {.kind = "step",
                                .code = "step",
                                .step = from,
                                .attempt = 1,
                                .level = "info",
                                .message = "Step",
                                .type = "metrics",
                                .created_ms = event_ms};
    struct store_advance change = {.id = id,
                                   .attempt = 1,
                                   .from_offset = from,
                                   .to_offset = from + 1,
                                   .events = &event,
                                   .event_count = 1,
                                   .trained_tokens = tokens,
                                   .trained_steps = steps};
    struct err err = {0};

    assert_ok(store_queue_advance(f->store, &change, &err), err);
}

static void end(struct fixture *f, const char *id, enum job_state to)
{
    struct store_move move = {
        .id = id, .attempt = 1, .to = to, .level = "info", .code = job_state_name(to), .message = "moved"};
    struct err err = {0};

    assert_ok(store_queue_move(f->store, &move, &err), err);
}

static void tokens_are_counted_once_however_often_they_are_trained(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);

    run_job(f, id);
    advance(f, id, 0, clock_unix_ms(), 100, 2);
    advance(f, id, 1, clock_unix_ms(), 50, 1); /* from a recovery point again */
    advance(f, id, 2, clock_unix_ms(), 150, 3);
    assert_int_equal(today(f).counts.trained_tokens, 150);
    assert_int_equal(today(f).counts.trained_steps, 3);
    assert_int_equal(today(f).counts.jobs, 1);
}

static void time_on_the_device_is_counted_to_the_newest_event(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    int64_t now = clock_unix_ms();

    run_job(f, id);
    set_counted_until(f, now - 3 * HOUR_MS);
    advance(f, id, 0, now - HOUR_MS, 1, 1); /* while no server was there */
    assert_int_equal(today(f).counts.device_ms, 2 * HOUR_MS);
    advance(f, id, 1, now - 2 * HOUR_MS, 1, 1); /* time does not run back */
    assert_int_equal(today(f).counts.device_ms, 2 * HOUR_MS);
    end(f, id, JOB_STATE_failed); /* silent for an hour: it had died */
    assert_int_equal(today(f).counts.device_ms, 2 * HOUR_MS + 10 * 60 * 1000);
}

static void time_that_has_not_been_is_not_counted(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);

    run_job(f, id);
    advance(f, id, 0, clock_unix_ms() + 5 * HOUR_MS, 1, 1);
    end(f, id, JOB_STATE_cancelling);
    end(f, id, JOB_STATE_cancelled);
    assert_in_range(today(f).counts.device_ms, 0, HOUR_MS);
}

static void storage_goes_up_and_down_and_carries_over(void **state)
{
    struct fixture *f = *state;
    struct store_file a = make_file(f, "a"), b = make_file(f, "b");
    int64_t day = clock_unix_ms() / DAY_MS;
    struct err err = {0};

    assert_ok(store_file_create(f->store, &f->ours, &a, &err), err);
    assert_ok(store_file_create(f->store, &f->ours, &b, &err), err);
    assert_ok(store_file_delete(f->store, &f->ours, a.id, &err), err);
    assert_int_equal(storage_at_the_end_of(f, &f->ours, day - 1), 0);
    assert_int_equal(storage_at_the_end_of(f, &f->ours, day), 7);
    assert_int_equal(storage_at_the_end_of(f, &f->ours, day + 2), 7);
    assert_int_equal(storage_at_the_end_of(f, &f->theirs, day), 0);
}

static void answers_add_up(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};

    assert_ok(store_usage_add_requests(f->store, &f->ours, "m", 1, 10, 20, &err), err);
    assert_ok(store_usage_add_requests(f->store, &f->ours, "m", 2, 1, 2, &err), err);
    assert_int_equal(today(f).counts.model_requests, 3);
    assert_int_equal(today(f).counts.input_tokens, 11);
    assert_int_equal(today(f).counts.output_tokens, 22);
}

static void counts_are_split_by_what_is_asked_and_picked_by_name(void **state)
{
    struct fixture *f = *state;
    static const struct {
        bool by_project, by_model;
        const char *projects_json, *models_json, *rows; /* model: input tokens */
    } cases[] = {
        {false, false, NULL, NULL, "-:11 "},          {false, true, NULL, NULL, "a:3 b:8 "},
        {true, true, NULL, NULL, "a:3 b:8 "},         {true, false, NULL, "[\"b\"]", "-:8 "},
        {false, true, NULL, "[\"b\",\"c\"]", "b:8 "}, {false, false, "[\"proj-none\"]", NULL, ""},
        {false, false, NULL, "[\"it's \\\"\"]", ""},
    };
    struct err err = {0};

    assert_ok(store_usage_add_requests(f->store, &f->ours, "a", 1, 3, 0, &err), err);
    assert_ok(store_usage_add_requests(f->store, &f->ours, "b", 1, 8, 0, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct store_usage_list list = ask(f, &f->ours,
                                           (struct store_usage_query){.by_project = cases[i].by_project,
                                                                      .by_model = cases[i].by_model,
                                                                      .projects_json = cases[i].projects_json,
                                                                      .models_json = cases[i].models_json});
        struct strbuf rows = {0};

        strbuf_add_text(&rows, "");
        for (size_t k = 0; k < list.count; k++)
            strbuf_printf(&rows, "%s:%lld ", list.at[k].model ? list.at[k].model : "-",
                          (long long)list.at[k].counts.input_tokens);
        assert_string_equal(rows.at, cases[i].rows);
        strbuf_deinit(&rows);
    }
    assert_int_equal(ask(f, &f->theirs, (struct store_usage_query){.by_model = true}).count, 0);
}

static void jobs_count_under_the_model_that_they_train(void **state)
{
    struct fixture *f = *state;
    struct store_usage_list list;
    struct store_job job;
    struct err err = {0};

    assert_ok(store_job_get(f->store, &f->ours, add_job(f, &f->ours), &f->arena, &job, &err), err);
    list = ask(f, &f->ours, (struct store_usage_query){.by_model = true});
    assert_int_equal(list.count, 1);
    assert_string_equal(list.at[0].model, job.model);
    assert_int_equal(list.at[0].counts.jobs, 1);
}

#define USAGE_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        USAGE_TEST(tokens_are_counted_once_however_often_they_are_trained),
        USAGE_TEST(time_on_the_device_is_counted_to_the_newest_event),
        USAGE_TEST(time_that_has_not_been_is_not_counted),
        USAGE_TEST(storage_goes_up_and_down_and_carries_over),
        USAGE_TEST(answers_add_up),
        USAGE_TEST(counts_are_split_by_what_is_asked_and_picked_by_name),
        USAGE_TEST(jobs_count_under_the_model_that_they_train),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
