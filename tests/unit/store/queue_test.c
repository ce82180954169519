#include "fixture.h"

#include "os/clock.h"

static struct err move(struct fixture *f, const char *id, int64_t attempt, enum job_state to)
{
    struct store_move move = {
        .id = id, .attempt = attempt, .to = to, .level = "info", .code = job_state_name(to), .message = "moved"};
    struct err err = {0};

    if (store_queue_move(f->store, &move, &err))
        assert_int_equal(err.code, ERR_OK);
    else
        assert_int_not_equal(err.code, ERR_OK);
    return err;
}

static size_t count_events(struct fixture *f, const char *id, const char *kind)
{
    struct store_event_list list;
    struct err err = {0};
    size_t count = 0;

    assert_ok(store_event_since(f->store, &f->ours, id, 0, 1000, &f->arena, &list, &err), err);
    for (size_t i = 0; i < list.count; i++) {
        assert_int_equal(list.at[i].seq, i + 1);
        count += strcmp(list.at[i].kind, kind) == 0;
    }
    return count;
}

static struct store_event step_event(int64_t step)
{
    return (struct store_event){
        .kind = "step", .code = "", .step = step, .attempt = 1, .level = "info", .message = "step", .type = "metrics"};
}

static void every_pair_of_states_moves_exactly_when_the_table_says_so(void **state)
{
    struct fixture *f = *state;
    /* How to reach each state from queued. */
    static const enum job_state paths[JOB_STATE_COUNT][4] = {
        [JOB_STATE_queued] = {0},
        [JOB_STATE_starting] = {JOB_STATE_starting},
        [JOB_STATE_running] = {JOB_STATE_starting, JOB_STATE_running},
        [JOB_STATE_cancelling] = {JOB_STATE_starting, JOB_STATE_cancelling},
        [JOB_STATE_succeeded] = {JOB_STATE_COUNT},
        [JOB_STATE_failed] = {JOB_STATE_failed},
        [JOB_STATE_cancelled] = {JOB_STATE_cancelled},
    };

    for (int from = 0; from < JOB_STATE_COUNT; from++)
        for (int to = 0; to < JOB_STATE_COUNT; to++) {
            const char *id = add_job(f, &f->ours);
            struct err err;

            if (from == JOB_STATE_succeeded || to == JOB_STATE_succeeded)
                continue; /* needs a checkpoint: below */
            for (const enum job_state *step = paths[from]; *step; step++)
                assert_int_equal(move(f, id, 0, *step).code, ERR_OK);
            err = move(f, id, 0, (enum job_state)to);
            if ((err.code == ERR_OK) != job_state_may_move((enum job_state)from, (enum job_state)to))
                fail_msg("%s to %s: %s", job_state_name((enum job_state)from), job_state_name((enum job_state)to),
                         err.text);
        }
}

static void final_states_are_those_that_clients_take_as_final(void **state)
{
    for (int s = 0; s < JOB_STATE_COUNT; s++) {
        const char *status = job_state_status((enum job_state)s);
        bool is_final = !strcmp(status, "succeeded") || !strcmp(status, "failed") || !strcmp(status, "cancelled");

        if (s != JOB_STATE_cancelling && is_final != job_state_is_final((enum job_state)s))
            fail_msg("%s", job_state_name((enum job_state)s));
        assert_int_equal(job_state_of(str_of(job_state_name((enum job_state)s))), s);
    }
    assert_int_equal(job_state_of(STR("paused")), JOB_STATE_COUNT);
}

static void a_second_claim_gives_no_row(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct store_job job;
    struct err err = {0};
    bool found;

    assert_ok(store_queue_claim(f->store, id, "cpu", &f->arena, &job, &found, &err), err);
    assert_true(found);
    assert_int_equal(job.attempt, 1);
    assert_int_equal(job.state, JOB_STATE_starting);
    assert_ok(store_queue_claim(f->store, id, "cpu", &f->arena, &job, &found, &err), err);
    assert_false(found);
    assert_int_equal(get_job(f, id).attempt, 1);
}

static void expect_next(struct fixture *f, const char *id)
{
    struct store_job job;
    struct err err = {0};
    bool found;

    assert_ok(store_queue_peek(f->store, NULL, NULL, &f->arena, &job, &found, &err), err);
    assert_int_equal(found, id != NULL);
    if (id) {
        assert_string_equal(job.id, id);
        run_job(f, id);
    }
}

static void a_projects_jobs_go_by_priority_then_age_and_paused_ones_wait(void **state)
{
    struct fixture *f = *state;
    const char *paused = add_job(f, &f->ours), *first = add_job(f, &f->ours), *second = add_job(f, &f->ours);
    struct store_job urgent = make_job(f, &f->ours);
    struct err err = {0};

    urgent.priority = 1;
    assert_ok(store_queue_insert(f->store, &urgent, &err), err);
    assert_ok(store_queue_want(f->store, paused, JOB_WANT_pause, "pausing", "Job is paused", &err), err);
    expect_next(f, urgent.id);
    expect_next(f, first);
    expect_next(f, second);
    expect_next(f, NULL);
}

/* Whatever the priorities: they order a project's own jobs. */
static void projects_take_turns_at_the_queue(void **state)
{
    struct fixture *f = *state;
    const char *many[3], *one;

    for (int i = 0; i < 3; i++) {
        struct store_job job = make_job(f, &f->ours);
        struct err err = {0};
        job.priority = 9;
        assert_ok(store_queue_insert(f->store, &job, &err), err);
        many[i] = job.id;
    }
    expect_next(f, many[0]);
    one = add_job(f, &f->theirs);
    expect_next(f, one); /* theirs have none at work */
    expect_next(f, many[1]); /* as many at work as theirs, and they have none that wait */
    assert_int_equal(move(f, many[0], 1, JOB_STATE_failed).code, ERR_OK);
    assert_int_equal(move(f, many[1], 1, JOB_STATE_failed).code, ERR_OK);
    assert_int_equal(move(f, one, 1, JOB_STATE_failed).code, ERR_OK);
    one = add_job(f, &f->theirs);
    expect_next(f, one); /* ours had the last turn */
    expect_next(f, many[2]);
}

static int64_t place_of(struct fixture *f, const char *id)
{
    struct store_job job = get_job(f, id);
    struct err err = {0};
    int64_t place = -1;

    assert_ok(store_queue_place(f->store, &job, &place, &err), err);
    return place;
}

static void a_place_moves_with_what_happens_in_the_queue(void **state)
{
    struct fixture *f = *state;
    const char *first = add_job(f, &f->ours), *second = add_job(f, &f->ours), *theirs = add_job(f, &f->theirs);
    struct err err = {0};

    assert_int_equal(place_of(f, first), 1);
    assert_int_equal(place_of(f, theirs), 2); /* by turns */
    assert_int_equal(place_of(f, second), 3);
    assert_ok(store_queue_want(f->store, theirs, JOB_WANT_pause, "paused", "Job is paused", &err), err);
    assert_int_equal(place_of(f, theirs), 0);
    assert_int_equal(place_of(f, second), 2);
    expect_next(f, first);
    assert_int_equal(place_of(f, first), 0);
    assert_int_equal(place_of(f, second), 1);
    assert_ok(store_queue_want(f->store, theirs, JOB_WANT_run, "resumed", "Job is resumed", &err), err);
    assert_int_equal(place_of(f, theirs), 1); /* they have none at work */
    assert_int_equal(move(f, first, 1, JOB_STATE_queued).code, ERR_OK);
    assert_int_equal(place_of(f, first), 2);
}

static uint64_t draw(uint64_t *state, uint64_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (*state >> 33) % below;
}

enum { DRAWN_PROJECTS = 4, DRAWN_JOBS = 12 };

static void add_drawn_projects(struct fixture *f, uint64_t *seed, struct tenant tenants[DRAWN_PROJECTS])
{
    for (int i = 0; i < DRAWN_PROJECTS; i++) {
        struct store_limits limits = {.running_jobs = (int64_t)draw(seed, 3)};
        struct err err = {0};

        tenants[i] = f->ours;
        store_id_project(tenants[i].project_id);
        assert_ok(store_project_create(f->store, &tenants[i], "x", "drawn", "nebius", &limits, &err), err);
    }
}

static size_t index_of(const char *const ids[DRAWN_JOBS], const char *id)
{
    size_t index = 0;

    while (strcmp(ids[index], id) != 0)
        index++;
    return index;
}

/* Starts the next job when one may start; false: the limits of the projects forbid it. */
static bool start_next(struct fixture *f, const char **id)
{
    struct store_job job;
    struct err err = {0};
    bool found;

    assert_ok(store_queue_peek(f->store, NULL, NULL, &f->arena, &job, &found, &err), err);
    if (found)
        run_job(f, *id = job.id);
    return found;
}

/* `slots` jobs are at work and end in the order in which they began: the others start in the order of their places. */
static void expect_told_order(struct fixture *f, const char *const ids[DRAWN_JOBS], size_t slots)
{
    const char *begun[DRAWN_JOBS];
    size_t count = 0, ended = 0, before;
    int64_t told[DRAWN_JOBS];

    while (count < slots && start_next(f, &begun[count]))
        count++;
    slots = before = count;
    for (size_t i = 0; i < DRAWN_JOBS; i++)
        told[i] = place_of(f, ids[i]);
    while (count < DRAWN_JOBS) {
        if (count - ended < slots && start_next(f, &begun[count])) {
            assert_int_equal(told[index_of(ids, begun[count])], count - before + 1);
            count++;
        } else {
            assert_int_equal(move(f, begun[ended++], 1, JOB_STATE_failed).code, ERR_OK);
        }
    }
    while (ended < count)
        assert_int_equal(move(f, begun[ended++], 1, JOB_STATE_failed).code, ERR_OK);
}

static void jobs_start_in_the_order_of_their_places(void **state)
{
    struct fixture *f = *state;
    const char *given = getenv("ATTUNE_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)clock_unix_ms();

    print_message("seed %llu (ATTUNE_TEST_SEED)\n", (unsigned long long)seed);
    for (size_t round = 0; round < 20; round++) {
        struct tenant tenants[DRAWN_PROJECTS];
        const char *ids[DRAWN_JOBS];

        add_drawn_projects(f, &seed, tenants);
        for (int i = 0; i < DRAWN_JOBS; i++) {
            struct store_job job = make_job(f, &tenants[draw(&seed, DRAWN_PROJECTS)]);
            struct err err = {0};

            job.priority = (int64_t)draw(&seed, 3);
            assert_ok(store_queue_insert(f->store, &job, &err), err);
            ids[i] = job.id;
        }
        expect_told_order(f, ids, 1 + round % 4);
    }
}

static void limits_hold_in_the_transaction_that_would_pass_them(void **state)
{
    struct fixture *f = *state;
    struct store_project project;
    struct store_usage usage;
    struct store_file small = make_file(f, "a"), large = make_file(f, "b");
    struct store_job third = make_job(f, &f->ours);
    struct err err = {0};

    assert_ok(store_project_get(f->store, &f->ours, &f->arena, &project, &err), err);
    project.limits = (struct store_limits){.storage_bytes = 100, .jobs = 2, .running_jobs = 1};
    assert_ok(store_project_update(f->store, &f->ours, &project, &err), err);
    large.bytes = 94; /* 7 and 94 */
    assert_ok(store_file_create(f->store, &f->ours, &small, &err), err);
    assert_false(store_file_create(f->store, &f->ours, &large, &err));
    assert_int_equal(err.code, ERR_QUOTA);
    const char *first = add_job(f, &f->ours);
    add_job(f, &f->ours);
    assert_false(store_queue_insert(f->store, &third, &err));
    assert_int_equal(err.code, ERR_QUOTA);
    assert_ok(store_project_usage(f->store, &f->ours, &usage, &err), err);
    assert_int_equal(usage.storage_bytes, 7);
    assert_int_equal(usage.jobs, 2);
    expect_next(f, first);
    expect_next(f, NULL); /* the second waits for the first to end */
    assert_ok(store_file_create(f->store, &f->theirs, &large, &err), err);
}

static void a_stale_attempt_is_refused_everywhere(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct store_process process = {.pid = 1};
    struct store_event event = step_event(9);
    struct store_advance advance = {.id = id, .attempt = 1, .to_offset = 5, .events = &event, .event_count = 1};
    struct err err = {0};

    run_job(f, id);
    assert_int_equal(move(f, id, 1, JOB_STATE_queued).code, ERR_OK);
    run_job(f, id);
    assert_false(store_queue_advance(f->store, &advance, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_int_equal(count_events(f, id, "step"), 0);
    assert_int_equal(move(f, id, 1, JOB_STATE_failed).code, ERR_CONFLICT);
    assert_false(store_queue_running(f->store, id, 1, &process, &err));
    assert_int_equal(get_job(f, id).state, JOB_STATE_running);
    assert_int_equal(get_job(f, id).pid, 42);
}

static void events_are_stored_once_with_their_offset(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct store_event events[] = {step_event(1), step_event(2), step_event(2), step_event(3)};
    struct store_advance advance = {.id = id,
                                    .attempt = 1,
                                    .to_offset = 30,
                                    .events = events,
                                    .event_count = 4,
                                    .trained_steps = 3,
                                    .trained_tokens = 300,
                                    .total_steps = 9};
    struct err err = {0};

    run_job(f, id);
    assert_ok(store_queue_advance(f->store, &advance, &err), err);
    assert_int_equal(count_events(f, id, "step"), 3);
    assert_int_equal(get_job(f, id).events_offset, 30);

    /* The same bytes again: refused, because the offset has moved on. */
    assert_false(store_queue_advance(f->store, &advance, &err));
    assert_int_equal(err.code, ERR_CONFLICT);

    /* A resumed attempt emits steps again; the first ones stay and progress never shrinks. */
    assert_int_equal(move(f, id, 1, JOB_STATE_queued).code, ERR_OK);
    run_job(f, id);
    events[0].message = "another";
    advance.attempt = 2;
    advance.trained_steps = 1;
    assert_ok(store_queue_advance(f->store, &advance, &err), err);
    assert_int_equal(count_events(f, id, "step"), 3);
    assert_int_equal(get_job(f, id).trained_steps, 3);
    assert_int_equal(get_job(f, id).trained_tokens, 300);
}

static struct store_checkpoint_commit checkpoint_at(struct fixture *f, const char *job_id, int64_t step,
                                                    struct store_file *file)
{
    char *id = arena_alloc(&f->arena, STORE_ID_BYTES);
    char *name = arena_printf(&f->arena, "ft:x:ckpt-step-%lld", (long long)step);
    char *path = arena_printf(&f->arena, "/run/step-%lld", (long long)step);

    store_id_checkpoint(id);
    return (struct store_checkpoint_commit){
        .checkpoint = {.id = id,
                       .job_id = job_id,
                       .step = step,
                       .model_name = name,
                       .path = path,
                       .metrics_json = "{}",
                       .result_files_json = "[]"},
        .files = file,
        .file_count = 1,
        .model = {.name = name,
                  .job_id = job_id,
                  .checkpoint_id = id,
                  .kind = "lora",
                  .base_model = "org/base",
                  .base_path = "/models/org/base",
                  .path = path},
    };
}

static void a_job_succeeds_with_the_weights_of_its_newest_checkpoint(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct store_file files[] = {make_file(f, "1/a"), make_file(f, "2/a")};
    struct store_checkpoint_commit commits[] = {checkpoint_at(f, id, 5, &files[0]), checkpoint_at(f, id, 9, &files[1])};
    struct store_advance advance = {
        .id = id, .attempt = 1, .to_offset = 1, .checkpoints = commits, .checkpoint_count = 2};
    struct store_model model;
    struct store_job job;
    struct err err = {0};

    run_job(f, id);
    assert_int_equal(move(f, id, 1, JOB_STATE_succeeded).code, ERR_CONFLICT); /* nothing to give */
    assert_ok(store_queue_advance(f->store, &advance, &err), err);
    assert_int_equal(move(f, id, 1, JOB_STATE_succeeded).code, ERR_OK);
    job = get_job(f, id);
    assert_string_equal(job.fine_tuned_model, job.output_name);
    assert_true(job.finished_ms > 0 && job.pid == 0);
    assert_ok(store_model_get(f->store, &f->ours, job.fine_tuned_model, &f->arena, &model, &err), err);
    assert_string_equal(model.path, "/run/step-9");
    assert_string_equal(model.kind, "lora");
    assert_ok(store_model_get(f->store, &f->ours, "ft:x:ckpt-step-5", &f->arena, &model, &err), err);
    assert_string_equal(model.path, "/run/step-5");
}

/* One model of a checkpoint that would leave is what another job starts from. */
static void checkpoints_that_are_not_kept_leave_but_for_those_in_use(void **state)
{
    struct fixture *f = *state;
    struct store_job job = make_job(f, &f->ours), user;
    struct store_file files[4];
    struct store_checkpoint_commit commits[4];
    struct store_checkpoint_list list;
    struct store_leaving_list leaving;
    struct store_model model;
    struct err err = {0};

    job.keep_checkpoints = 1;
    assert_ok(store_queue_insert(f->store, &job, &err), err);
    run_job(f, job.id);
    for (int i = 0; i < 4; i++) {
        commits[i] = checkpoint_at(f, job.id, i + 1, &files[i]);
        files[i] = make_file(f, "model.safetensors");
        files[i].checkpoint_id = commits[i].checkpoint.id;
    }
    for (int i = 0; i < 4; i++) {
        struct store_advance advance = {.id = job.id,
                                        .attempt = 1,
                                        .from_offset = i,
                                        .to_offset = i + 1,
                                        .checkpoints = &commits[i],
                                        .checkpoint_count = 1};
        assert_ok(store_queue_advance(f->store, &advance, &err), err);
        if (i == 1) { /* the second one is in use from now on */
            user = make_job(f, &f->ours);
            user.model = commits[1].model.name;
            assert_ok(store_queue_insert(f->store, &user, &err), err);
        }
    }
    assert_ok(store_checkpoint_list(f->store, &f->ours, job.id, &(struct store_page){.limit = 9, .ascending = true},
                                    &f->arena, &list, &err),
              err);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.at[0].step, 2);
    assert_int_equal(list.at[1].step, 4);
    assert_false(store_model_get(f->store, &f->ours, commits[0].model.name, &f->arena, &model, &err));
    assert_false(store_file_get(f->store, &f->ours, files[2].id, &f->arena, &files[2], &err));
    assert_true(store_model_get(f->store, &f->ours, commits[1].model.name, &f->arena, &model, NULL));
    assert_ok(store_queue_leaving(f->store, NULL, &f->arena, &leaving, &err), err);
    assert_int_equal(leaving.count, 2);
    for (size_t i = 0; i < 2; i++)
        assert_ok(store_queue_left(f->store, leaving.at[i].id, &err), err);
    assert_ok(store_queue_left(f->store, list.at[0].id, &err), err); /* not one that is leaving: nothing happens */
    assert_ok(store_queue_leaving(f->store, job.id, &f->arena, &leaving, &err), err);
    assert_int_equal(leaving.count, 0);
    assert_true(store_checkpoint_get(f->store, &f->ours, job.id, list.at[0].id, &f->arena, &list.at[0], NULL));
}

static void a_checkpoint_reported_again_changes_nothing(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct store_file first = make_file(f, "1/a"), again = make_file(f, "1/a");
    struct store_checkpoint_commit commit = checkpoint_at(f, id, 5, &first);
    struct store_advance advance = {
        .id = id, .attempt = 1, .to_offset = 1, .checkpoints = &commit, .checkpoint_count = 1};
    struct store_checkpoint_list list;
    struct store_file_list files;
    struct err err = {0};

    run_job(f, id);
    assert_ok(store_queue_advance(f->store, &advance, &err), err);
    commit = checkpoint_at(f, id, 5, &again);
    advance.from_offset = 1;
    advance.to_offset = 2;
    assert_ok(store_queue_advance(f->store, &advance, &err), err);
    assert_ok(store_checkpoint_list(f->store, &f->ours, id, &(struct store_page){.limit = 9}, &f->arena, &list, &err),
              err);
    assert_int_equal(list.count, 1);
    assert_ok(store_file_list(f->store, &f->ours, NULL, &(struct store_page){.limit = 9}, &f->arena, &files, &err),
              err);
    assert_int_equal(files.count, 1);
}

static void cancelling_is_final_for_clients_at_once(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct store_job job;

    run_job(f, id);
    assert_int_equal(move(f, id, 1, JOB_STATE_cancelling).code, ERR_OK);
    job = get_job(f, id);
    assert_string_equal(job_state_status(job.state), "cancelled");
    assert_int_equal(job.wanted, JOB_WANT_cancel);
    assert_int_equal(job.pid, 42);
    assert_true(job.finished_ms > 0);
    assert_int_equal(move(f, id, 1, JOB_STATE_succeeded).code, ERR_CONFLICT);
    assert_int_equal(move(f, id, 1, JOB_STATE_cancelled).code, ERR_OK);
    assert_int_equal(get_job(f, id).pid, 0);
    assert_true(get_job(f, id).finished_ms == job.finished_ms);
}

static void every_move_writes_one_event(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);

    assert_int_equal(count_events(f, id, "job"), 1); /* submitted */
    run_job(f, id);
    assert_int_equal(move(f, id, 1, JOB_STATE_queued).code, ERR_OK);
    run_job(f, id);
    assert_int_equal(move(f, id, 2, JOB_STATE_failed).code, ERR_OK);
    assert_int_equal(count_events(f, id, "job"), 5);
}

int main(void)
{
#define QUEUE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        QUEUE_TEST(every_pair_of_states_moves_exactly_when_the_table_says_so),
        QUEUE_TEST(final_states_are_those_that_clients_take_as_final),
        QUEUE_TEST(a_second_claim_gives_no_row),
        QUEUE_TEST(a_projects_jobs_go_by_priority_then_age_and_paused_ones_wait),
        QUEUE_TEST(projects_take_turns_at_the_queue),
        QUEUE_TEST(a_place_moves_with_what_happens_in_the_queue),
        QUEUE_TEST(jobs_start_in_the_order_of_their_places),
        QUEUE_TEST(limits_hold_in_the_transaction_that_would_pass_them),
        QUEUE_TEST(a_stale_attempt_is_refused_everywhere),
        QUEUE_TEST(events_are_stored_once_with_their_offset),
        QUEUE_TEST(a_job_succeeds_with_the_weights_of_its_newest_checkpoint),
        QUEUE_TEST(checkpoints_that_are_not_kept_leave_but_for_those_in_use),
        QUEUE_TEST(a_checkpoint_reported_again_changes_nothing),
        QUEUE_TEST(cancelling_is_final_for_clients_at_once),
        QUEUE_TEST(every_move_writes_one_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
