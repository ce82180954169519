/* Which device a job gets: two GPUs beside the processor, with the fake trainer on all of them. */
#include "server.h"

enum { GPU_BYTES = 1 << 30 };

static int set_up(void **state)
{
    static const struct job_devices gpus = {
        .count = 2,
        .gpu = {{.name = "cuda:0", .memory_bytes = GPU_BYTES}, {.name = "cuda:1", .memory_bytes = GPU_BYTES}}};
    struct server *server;

    server_setup(state);
    server = *state;
    server_stop(server);
    server->config.devices = &gpus;
    server->config.jobs_max = 1;
    server_start(server);
    return 0;
}

static const char *create_on(struct server *server, const char *device, const char *options)
{
    struct job_spec spec = server_spec(server, options);
    struct store_job job;
    struct err err = {0};

    spec.device = device;
    assert_ok(job_create(server->manager, &server->tenant, &spec, &server->arena, &job, &err), err);
    return job.id;
}

static const char *placed_on(struct server *server, const char *id)
{
    return server_await(server, id, JOB_STATE_running).placed_on;
}

static void cancel(struct server *server, const char *id)
{
    struct store_job job;
    struct err err = {0};

    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    server_await(server, id, JOB_STATE_cancelled);
}

static const char *const endless = "{\"steps\":1000000,\"step_ms\":5}";

static void a_gpu_has_one_job_and_the_processor_its_own(void **state)
{
    struct server *server = *state;
    const char *first = create_on(server, "cuda", endless), *second = create_on(server, "cuda", endless);
    const char *third = create_on(server, "cuda", endless), *picky = create_on(server, "cuda:0", endless);
    const char *cpu = create_on(server, "cpu", endless), *cpu_later = create_on(server, NULL, "{\"steps\":3}");
    int64_t place;
    struct store_job job;
    struct err err = {0};

    assert_string_equal(placed_on(server, first), "cuda:0");
    assert_string_equal(placed_on(server, second), "cuda:1");
    assert_string_equal(placed_on(server, cpu), "cpu");
    job = server_job(server, third);
    assert_int_equal(job.state, JOB_STATE_queued);
    assert_ok(store_queue_place(server->store, &job, &place, &err), err);
    assert_int_equal(place, 1);
    job = server_job(server, picky);
    assert_ok(store_queue_place(server->store, &job, &place, &err), err);
    assert_int_equal(place, 2);
    job = server_job(server, cpu_later);
    assert_ok(store_queue_place(server->store, &job, &place, &err), err);
    assert_int_equal(place, 1);

    cancel(server, second);
    assert_string_equal(placed_on(server, third), "cuda:1");
    assert_int_equal(server_job(server, picky).state, JOB_STATE_queued);
    cancel(server, first);
    assert_string_equal(placed_on(server, picky), "cuda:0");
    cancel(server, cpu);
    assert_undisturbed(server, cpu_later, 3);
}

static void what_a_job_has_outlives_the_server(void **state)
{
    struct server *server = *state;
    const char *first = create_on(server, "cuda", endless), *second;

    server_await_step(server, first, 1);
    server_stop(server);
    server_start(server);
    second = create_on(server, "cuda", endless);
    assert_string_equal(placed_on(server, second), "cuda:1");
    assert_int_equal(ledger_free_bytes(job_manager_gpu_ledger(server->manager, 0)), 0);
    cancel(server, first);
    cancel(server, second);
    assert_int_equal(ledger_free_bytes(job_manager_gpu_ledger(server->manager, 0)), GPU_BYTES);
}

/* Its trainer died: the next attempt may have another GPU. */
static void a_job_that_is_queued_again_takes_what_is_free(void **state)
{
    struct server *server = *state;
    const char *id = create_on(server, "cuda", "{\"steps\":20,\"recovery_every\":3,\"times\":1,\"kill_at\":9}");

    assert_undisturbed(server, id, 20);
    assert_int_equal(server_job(server, id).attempt, 2);
    assert_string_equal(server_job(server, id).placed_on, "cuda:0");
}

static void a_job_for_a_gpu_that_is_gone_waits_and_holds_nobody_up(void **state)
{
    struct server *server = *state;
    const char *gone = create_on(server, "cuda:5", "{\"steps\":3}"), *cpu = create_on(server, "cpu", "{\"steps\":3}");

    assert_undisturbed(server, cpu, 3);
    assert_int_equal(server_job(server, gone).state, JOB_STATE_queued);
    cancel(server, gone);
}

static void evict(void *context, const char *id)
{
    struct server *server = context;

    ledger_release(job_manager_gpu_ledger(server->manager, 0), LEDGER_CHAT, id);
}

static void chats_on_a_gpu_give_way_to_a_job(void **state)
{
    struct server *server = *state;
    struct job_ledger *ledger = job_manager_gpu_ledger(server->manager, 0);
    struct ledger_claim claim = {
        .owner = LEDGER_CHAT, .id = "chat", .bytes = 1 << 20, .evict = evict, .context = server};
    struct err err = {0};
    const char *id;

    assert_ok(ledger_reserve(ledger, &claim, &err), err);
    id = create_on(server, "cuda:0", "{\"steps\":200,\"step_ms\":2}");
    assert_string_equal(placed_on(server, id), "cuda:0");
    assert_int_equal(ledger_free_bytes(ledger), 0);
    assert_false(ledger_reserve(ledger, &claim, &err));
    server_await(server, id, JOB_STATE_succeeded);
    assert_ok(ledger_reserve(ledger, &claim, &err), err);
}

static void devices_tell_the_jobs_of_the_tenant_alone(void **state)
{
    struct server *server = *state;
    struct tenant other = {.organization_id = "org-other", .project_id = "proj-other"};
    const char *id = create_on(server, "cuda:1", endless);
    struct store_texts jobs;
    int count;

    placed_on(server, id);
    jobs = job_manager_jobs_on(server->manager, &server->tenant, "cuda:1", &server->arena, &count);
    assert_int_equal(count, 1);
    assert_int_equal(jobs.count, 1);
    assert_string_equal(jobs.at[0], id);
    jobs = job_manager_jobs_on(server->manager, &other, "cuda:1", &server->arena, &count);
    assert_int_equal(count, 1);
    assert_int_equal(jobs.count, 0);
    cancel(server, id);
}

#define PLACING_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, server_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLACING_TEST(a_gpu_has_one_job_and_the_processor_its_own),
        PLACING_TEST(what_a_job_has_outlives_the_server),
        PLACING_TEST(a_job_that_is_queued_again_takes_what_is_free),
        PLACING_TEST(a_job_for_a_gpu_that_is_gone_waits_and_holds_nobody_up),
        PLACING_TEST(chats_on_a_gpu_give_way_to_a_job),
        PLACING_TEST(devices_tell_the_jobs_of_the_tenant_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
