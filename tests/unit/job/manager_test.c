#include "server.h"

#include "os/process.h"

static void a_job_runs_to_its_end(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":6}");
    struct store_job job = server_await(server, id, JOB_STATE_succeeded);
    struct store_event_list events;
    struct store_checkpoint_list checkpoints;
    struct store_file file;
    struct str bytes = STR_NONE;
    struct err err = {0};
    uint64_t size;
    int fd;

    assert_undisturbed(server, id, 6);
    assert_int_equal(job.attempt, 1);
    assert_int_equal(job.total_steps, 6);
    assert_true(job.started_ms >= job.created_ms && job.finished_ms >= job.started_ms);
    assert_string_equal(job.fine_tuned_model, arena_printf(&server->arena, "ft:org/base:local:test:%.12s", id + 6));
    assert_int_equal(ledger_free_bytes(job_manager_ledger(server->manager)), 1 << 30);

    events = server_events(server, id);
    assert_string_equal(events.at[0].message, "Job is submitted");
    assert_string_equal(events.at[events.count - 1].message, "Training completed successfully");
    assert_string_equal(server_find_event(server, id, "step", "")->message, "Step 1/6: training loss=1.00");
    assert_string_equal(server_find_event(server, id, "message", "training_dataset")->message,
                        "Dataset 'training' processed successfully");
    assert_null(server_find_event(server, id, "message", "validation_dataset"));

    /* Its result file is an ordinary file with the checkpoint's bytes. */
    assert_ok(store_checkpoint_list(server->store, &server->tenant, id, &(struct store_page){.limit = 1},
                                    &server->arena, &checkpoints, &err),
              err);
    const char *file_id = arena_copy(&server->arena, checkpoints.at[0].result_files_json + 2,
                                     strlen(checkpoints.at[0].result_files_json) - 4);
    assert_ok(store_file_get(server->store, &server->tenant, file_id, &server->arena, &file, &err), err);
    assert_string_equal(file.filename, arena_printf(&server->arena, "%s/weights", checkpoints.at[0].id));
    fd = blob_open(server->blobs, file_id, &size, &err);
    assert_ok(fd >= 0, err);
    assert_int_equal(size, file.bytes);
    fd_close(&fd);
    assert_ok(
        file_read(&server->arena, path_join(&server->arena, checkpoints.at[0].path, "weights"), 100, &bytes, &err),
        err);
    assert_int_equal(bytes.len, size);
}

static void ten_jobs_killed_once_each_end_as_if_undisturbed(void **state)
{
    struct server *server = *state;
    const char *ids[10];
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)clock_unix();

    print_message("SEED=%u\n", seed);
    srand(seed);
    for (int i = 0; i < 10; i++)
        ids[i] = server_create(server, arena_printf(&server->arena,
                                                    "{\"steps\":20,\"recovery_every\":3,\"times\":1,\"kill_at\":%d}",
                                                    1 + rand() % 20));
    for (int i = 0; i < 10; i++) {
        assert_undisturbed(server, ids[i], 20);
        assert_int_equal(server_job(server, ids[i]).attempt, 2);
    }
}

static void a_job_killed_ten_times_goes_on_each_time_from_its_recovery_point(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":24,\"recovery_every\":1,\"times\":10,\"kill_after\":2}");

    assert_undisturbed(server, id, 24);
    assert_int_equal(server_job(server, id).attempt, 11);
    assert_int_equal(server_job(server, id).failed_attempts, 0);
}

static void trainers_outlive_ten_servers(void **state)
{
    struct server *server = *state;
    const char *first = server_create(server, "{\"steps\":300,\"step_ms\":5}");
    const char *second = server_create(server, "{\"steps\":300,\"step_ms\":5}");

    server_await_step(server, first, 1);
    server_await_step(server, second, 1);
    for (int i = 1; i <= 10; i++) {
        server_stop(server);
        server_start(server);
        server_await_step(server, first, 20 * i);
    }
    assert_undisturbed(server, first, 300);
    assert_undisturbed(server, second, 300);
    assert_int_equal(server_job(server, first).attempt, 1);
    assert_int_equal(server_job(server, second).attempt, 1);
}

/* Lets the trainer of `id` run to its end while no server is there. */
static void outlast(struct server *server, const char *id)
{
    struct process_identity identity = {.pid = server_job(server, id).pid};

    server_stop(server);
    waitpid((pid_t)identity.pid, NULL, 0);
    server_start(server);
}

static void an_end_without_a_server_is_found_at_start(void **state)
{
    struct server *server = *state;
    const char *done = server_create(server, "{\"steps\":30,\"step_ms\":2}");

    server_await(server, done, JOB_STATE_running);
    outlast(server, done);
    assert_undisturbed(server, done, 30);
}

static void a_death_without_a_server_is_found_at_start(void **state)
{
    struct server *server = *state;
    const char *id =
        server_create(server, "{\"steps\":30,\"step_ms\":2,\"recovery_every\":4,\"times\":1,\"kill_at\":17}");

    server_await(server, id, JOB_STATE_running);
    outlast(server, id);
    assert_undisturbed(server, id, 30);
    assert_int_equal(server_job(server, id).attempt, 2);
}

static void a_claim_without_a_process_goes_back_to_the_queue(void **state)
{
    struct server *server = *state;
    struct store_job job;
    struct err err = {0};
    bool found;
    const char *id = server_create(server, "{\"steps\":3}");

    /* The server dies between claim and fork. */
    assert_ok(store_queue_claim(server->store, id, "cpu", &server->arena, &job, &found, &err), err);
    server_stop(server);
    server_start(server);
    assert_undisturbed(server, id, 3);
    assert_int_equal(server_job(server, id).attempt, 2);
    assert_int_equal(server_job(server, id).failed_attempts, 0);
}

static void a_stranger_with_the_stored_pid_is_left_alone(void **state)
{
    struct server *server = *state;
    struct store_process stranger = {.pid = getpid(), .start_time = 1, .boot_id = "another"};
    struct store_job job;
    struct err err = {0};
    bool found;
    const char *id = server_create(server, "{\"steps\":3}");

    assert_ok(store_queue_claim(server->store, id, "cpu", &server->arena, &job, &found, &err), err);
    assert_ok(store_queue_running(server->store, id, 1, &stranger, &err), err);
    server_stop(server);
    server_start(server);
    assert_undisturbed(server, id, 3);
    assert_int_equal(server_job(server, id).attempt, 2);
}

static void a_job_that_only_dies_fails_with_the_reason(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":9,\"times\":99,\"kill_at\":2}");
    struct store_job job = server_await(server, id, JOB_STATE_failed);

    assert_int_equal(job.attempt, 3);
    assert_string_equal(job.error_code, "trainer_died");
    assert_non_null(strstr(job.error_message, "SIGKILL"));
    assert_non_null(strstr(job.error_message, "the last words of attempt 3"));
    assert_null(job.fine_tuned_model);
}

static void an_error_of_the_data_is_never_tried_again(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":9,\"times\":99,\"fail_at\":2}");
    struct store_job job = server_await(server, id, JOB_STATE_failed);

    assert_int_equal(job.attempt, 1);
    assert_string_equal(job.error_code, "invalid_training_file");
    assert_string_equal(job.error_message, "line 3 is bad");
    assert_string_equal(job.error_param, "training_file");
    assert_string_equal(server_find_event(server, id, "job", "failed")->level, "error");
}

static void success_without_a_checkpoint_is_a_failure(void **state)
{
    struct server *server = *state;
    struct store_job job = server_await(server, server_create(server, "{\"steps\":2,\"nothing\":1}"), JOB_STATE_failed);

    assert_string_equal(job.error_message, "The trainer ended without a checkpoint");
}

static void a_program_that_does_not_start_fails_the_job(void **state)
{
    struct server *server = *state;
    struct store_job job;

    server_stop(server);
    strcpy(server->program, "/nowhere/attune");
    server_start(server);
    job = server_await(server, server_create(server, "{}"), JOB_STATE_failed);
    assert_non_null(strstr(job.error_message, "status 127"));
    assert_non_null(strstr(job.error_message, "cannot start the program"));
}

static void a_hung_trainer_is_ended_and_the_job_goes_on(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":9,\"recovery_every\":2,\"times\":1,\"hang_at\":5}");

    server_await_step(server, id, 5);
    /* Two checks: one sees the last heartbeat, one that it stays. */
    server->skew_ms += 2000;
    server_step(server);
    server->skew_ms += 10 * 60 * 1000;
    assert_undisturbed(server, id, 9);
    assert_non_null(strstr(server_find_event(server, id, "job", "requeued")->message, "no sign of life"));
}

static void a_slow_trainer_with_a_heartbeat_is_not_hung(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":60,\"step_ms\":10}");
    const char *dir = arena_printf(&server->arena, "%s/runs/%s/attempts/0001", server->dir, id);

    for (int64_t step = 1; step <= 40; step += 10) {
        while (rundir_heartbeat(dir) < step)
            server_step(server);
        server->skew_ms += 9 * 60 * 1000;
        job_manager_tick(server->manager);
    }
    assert_undisturbed(server, id, 60);
    assert_int_equal(server_job(server, id).attempt, 1);
}

static void cancelling_a_running_job_ends_its_process(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":100000,\"step_ms\":1}");
    struct store_job job = server_await(server, id, JOB_STATE_running);
    struct process_identity identity = {.pid = job.pid};
    struct err err = {0};

    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    assert_string_equal(job_state_status(job.state), "cancelled");
    assert_true(job.finished_ms > 0);
    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    job = server_await(server, id, JOB_STATE_cancelled);
    assert_false(identity_of(identity.pid, &identity, &err));
    assert_true(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err));
}

static void a_trainer_that_does_not_listen_is_killed_after_the_grace_time(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":100000,\"step_ms\":1,\"deaf\":1}");
    struct store_job job = server_await(server, id, JOB_STATE_running);
    struct err err = {0};

    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    server->skew_ms += 9000;
    server_step(server);
    assert_int_equal(server_job(server, id).state, JOB_STATE_cancelling);
    server->skew_ms += 1000;
    server_await(server, id, JOB_STATE_cancelled);
}

static void a_cancel_survives_the_server(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":100000,\"step_ms\":1,\"deaf\":1}");
    struct store_job job = server_await(server, id, JOB_STATE_running);
    struct err err = {0};

    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    server_stop(server);
    server_start(server);
    server->skew_ms += 10000;
    server_await(server, id, JOB_STATE_cancelled);
}

static void a_queued_job_is_cancelled_without_a_process(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":3}");
    struct store_job job;
    struct err err = {0};

    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    assert_int_equal(job.state, JOB_STATE_cancelled);
    assert_int_equal(job.attempt, 0);
}

static void a_paused_job_goes_on_where_it_was(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":60,\"step_ms\":2}");
    struct store_job job = server_await_step(server, id, 3);
    struct err err = {0};

    assert_ok(job_pause(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    job = server_await(server, id, JOB_STATE_queued);
    assert_int_equal(job.wanted, JOB_WANT_pause);
    job_manager_tick(server->manager);
    assert_int_equal(server_job(server, id).state, JOB_STATE_queued);
    assert_ok(job_resume(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    assert_undisturbed(server, id, 60);
    assert_int_equal(server_job(server, id).attempt, 2);
}

static void requests_that_the_state_does_not_allow_are_refused(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":1}");
    struct tenant other = {"org-default", "proj-other"};
    struct store_job job;
    struct err err = {0};

    assert_false(job_resume(server->manager, &server->tenant, id, &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    server_await(server, id, JOB_STATE_succeeded);
    assert_false(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_false(job_pause(server->manager, &server->tenant, id, &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_false(job_cancel(server->manager, &other, id, &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_false(job_cancel(server->manager, &server->tenant, "ftjob-0", &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void nonsense_in_the_events_is_noted_once_and_passed_over(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":5,\"times\":1,\"babble_at\":3}");

    assert_undisturbed(server, id, 5);
    assert_string_equal(server_find_event(server, id, "message", "unreadable_event")->level, "warn");
}

static void half_a_line_of_a_dead_trainer_is_not_an_event(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":5,\"times\":1,\"half_line_at\":3}");

    assert_undisturbed(server, id, 5);
    assert_null(server_find_event(server, id, "message", "unreadable_event"));
}

static void no_more_jobs_run_than_allowed(void **state)
{
    struct server *server = *state;
    const char *ids[5];

    for (int i = 0; i < 5; i++)
        ids[i] = server_create(server, "{\"steps\":4}");
    for (int i = 0; i < 5; i++) {
        while (!job_state_is_final(server_job(server, ids[i]).state)) {
            server_step(server);
            assert_true(server->manager->attempt_count <= 2);
        }
        assert_undisturbed(server, ids[i], 4);
    }
}

static void a_job_that_can_never_fit_is_refused(void **state)
{
    struct server *server = *state;
    struct job_spec spec = server_spec(server, "{}");
    struct store_job job;
    struct err err = {0};

    spec.memory_bytes = ((int64_t)1 << 30) + 1;
    assert_false(job_create(server->manager, &server->tenant, &spec, &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_NO_SPACE);
    spec.memory_bytes = 0;
    spec.training_file = "file-0";
    assert_false(job_create(server->manager, &server->tenant, &spec, &server->arena, &job, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void evict(void *context, const char *id)
{
    struct server *server = context;

    ledger_release(job_manager_ledger(server->manager), LEDGER_CHAT, id);
}

static void chat_gives_way_to_a_job(void **state)
{
    struct server *server = *state;
    struct job_ledger *ledger = job_manager_ledger(server->manager);
    struct ledger_claim chat = {
        .owner = LEDGER_CHAT, .id = "chat-1", .bytes = 1 << 30, .evict = evict, .context = server};
    struct err err = {0};

    assert_ok(ledger_reserve(ledger, &chat, &err), err);
    assert_undisturbed(server, server_create(server, "{\"steps\":3}"), 3);
}

static void what_a_crash_left_without_a_row_is_removed_at_start(void **state)
{
    struct server *server = *state;
    const char *orphan = arena_printf(&server->arena, "%s/runs/ftjob-0", server->dir);
    struct err err = {0};

    assert_ok(dir_make(orphan, &err), err);
    server_stop(server);
    server_start(server);
    assert_false(dir_exists(orphan));
}

/* A server that was killed between the move to a final state and the cleaning. */
static void what_an_ended_job_left_unfinished_is_removed_at_the_next_start(void **state)
{
    struct server *server = *state;
    const char *id = server_create(server, "{\"steps\":3,\"recovery_every\":1}"), *run_dir, *gone[5];
    struct store_move cancel = {
        .id = id, .to = JOB_STATE_cancelled, .level = "info", .code = "cancelled", .message = "Job is cancelled"};
    struct err err = {0};

    assert_ok(store_queue_move(server->store, &cancel, &err), err);
    run_dir = rundir_path(&server->arena, server->dir, id);
    gone[0] = arena_printf(&server->arena, "%s/control.tmp.77", run_dir);
    gone[1] = arena_printf(&server->arena, "%s/attempts/0001/exit.json.tmp.77", run_dir);
    gone[2] = arena_printf(&server->arena, "%s/attempts/0001/recovery/step-00000001", run_dir);
    gone[3] = arena_printf(&server->arena, "%s/attempts/0001/checkpoints/step-00000001", run_dir);
    gone[4] = arena_printf(&server->arena, "%s/attempts/0001/checkpoints/step-00000002.tmp", run_dir);
    for (size_t i = 0; i < 5; i++)
        assert_ok(dir_make(gone[i], &err), err);
    server_stop(server);
    server_start(server);
    for (size_t i = 0; i < 5; i++)
        assert_false(dir_exists(gone[i]));
    assert_true(file_exists(path_join(&server->arena, run_dir, "job.json")));
}

int main(void)
{
#define MANAGER_TEST(name) cmocka_unit_test_setup_teardown(name, server_setup, server_teardown)
    const struct CMUnitTest tests[] = {
        MANAGER_TEST(a_job_runs_to_its_end),
        MANAGER_TEST(ten_jobs_killed_once_each_end_as_if_undisturbed),
        MANAGER_TEST(a_job_killed_ten_times_goes_on_each_time_from_its_recovery_point),
        MANAGER_TEST(trainers_outlive_ten_servers),
        MANAGER_TEST(an_end_without_a_server_is_found_at_start),
        MANAGER_TEST(a_death_without_a_server_is_found_at_start),
        MANAGER_TEST(a_claim_without_a_process_goes_back_to_the_queue),
        MANAGER_TEST(a_stranger_with_the_stored_pid_is_left_alone),
        MANAGER_TEST(a_job_that_only_dies_fails_with_the_reason),
        MANAGER_TEST(an_error_of_the_data_is_never_tried_again),
        MANAGER_TEST(success_without_a_checkpoint_is_a_failure),
        MANAGER_TEST(a_program_that_does_not_start_fails_the_job),
        MANAGER_TEST(a_hung_trainer_is_ended_and_the_job_goes_on),
        MANAGER_TEST(a_slow_trainer_with_a_heartbeat_is_not_hung),
        MANAGER_TEST(cancelling_a_running_job_ends_its_process),
        MANAGER_TEST(a_trainer_that_does_not_listen_is_killed_after_the_grace_time),
        MANAGER_TEST(a_cancel_survives_the_server),
        MANAGER_TEST(a_queued_job_is_cancelled_without_a_process),
        MANAGER_TEST(a_paused_job_goes_on_where_it_was),
        MANAGER_TEST(requests_that_the_state_does_not_allow_are_refused),
        MANAGER_TEST(nonsense_in_the_events_is_noted_once_and_passed_over),
        MANAGER_TEST(half_a_line_of_a_dead_trainer_is_not_an_event),
        MANAGER_TEST(no_more_jobs_run_than_allowed),
        MANAGER_TEST(a_job_that_can_never_fit_is_refused),
        MANAGER_TEST(chat_gives_way_to_a_job),
        MANAGER_TEST(what_a_crash_left_without_a_row_is_removed_at_start),
        MANAGER_TEST(what_an_ended_job_left_unfinished_is_removed_at_the_next_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
