/* tests/unit/job/server.h - a job manager with a loop of its own around poll, and jobs for the fake trainer. */
#pragma once

#include "test.h"

#include "base/hash.h"
#include "job/manager_int.h"
#include "os/background.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/queue.h"

#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

struct watch {
    int fd;
    void (*on_ready)(void *arg);
    void *arg;
};

struct server {
    char dir[64], program[4096];
    struct arena arena;
    struct store *store;
    struct blobs *blobs;
    struct background *background;
    struct job_manager *manager;
    struct job_config config;
    struct tenant tenant;
    const char *training_file;
    struct watch *watches[32];
    int64_t deadline_ms, skew_ms;
};

static inline int64_t server_now_ms(void *context)
{
    return clock_monotonic_ms() + ((struct server *)context)->skew_ms;
}

static inline void *server_watch(void *context, int fd, void (*on_ready)(void *arg), void *arg)
{
    struct server *server = context;

    for (size_t i = 0; i < sizeof server->watches / sizeof *server->watches; i++)
        if (!server->watches[i]) {
            server->watches[i] = mem_alloc(sizeof(struct watch));
            *server->watches[i] = (struct watch){fd, on_ready, arg};
            return server->watches[i];
        }
    return NULL;
}

static inline void server_unwatch(void *context, void *watch)
{
    struct server *server = context;

    for (size_t i = 0; i < sizeof server->watches / sizeof *server->watches; i++)
        if (server->watches[i] == watch)
            server->watches[i] = NULL;
    free(watch);
}

static inline void server_set_deadline(void *context, int64_t at_ms)
{
    ((struct server *)context)->deadline_ms = at_ms;
}

static inline void server_start(struct server *server)
{
    struct err err = {0};

    server->store = store_open(server->dir, &err);
    assert_ok(server->store, err);
    server->blobs = blobs_open(server->dir, &err);
    assert_ok(server->blobs, err);
    server->background = background_new(2, &err);
    assert_ok(server->background, err);
    server->config.background = server->background;
    server->config.data_dir = server->dir;
    server->config.store = server->store;
    server->config.blobs = server->blobs;
    server->config.program = server->program;
    server->config.loop = (struct job_loop){server, server_now_ms, server_watch, server_unwatch, server_set_deadline};
    server->manager = job_manager_new(&server->config, &err);
    assert_ok(server->manager, err);
    assert_ok(job_manager_start(server->manager, &err), err);
    background_finish(server->background); /* what it cleans up */
}

/* As a crash would: nothing is told to the trainers. */
static inline void server_stop(struct server *server)
{
    background_finish(server->background);
    job_manager_free(server->manager);
    background_free(server->background);
    blobs_close(server->blobs);
    store_close(server->store);
}

/* One round of the loop, at most 1 s. */
static inline void server_step(struct server *server)
{
    struct pollfd fds[33];
    struct watch *ready[32];
    nfds_t count = 0;
    int64_t wait_ms = server->deadline_ms - server_now_ms(server);

    for (size_t i = 0; i < 32; i++)
        if (server->watches[i]) {
            ready[count] = server->watches[i];
            fds[count++] = (struct pollfd){.fd = server->watches[i]->fd, .events = POLLIN};
        }
    fds[count] = (struct pollfd){.fd = background_fd(server->background), .events = POLLIN};
    poll(fds, count + 1, wait_ms < 0 ? 0 : wait_ms > 1000 ? 1000 : (int)wait_ms);
    background_collect(server->background);
    for (nfds_t i = 0; i < count; i++)
        if (fds[i].revents)
            for (size_t k = 0; k < 32; k++)
                if (server->watches[k] && server->watches[k] == ready[i]) {
                    ready[i]->on_ready(ready[i]->arg);
                    break;
                }
    if (server_now_ms(server) >= server->deadline_ms)
        job_manager_tick(server->manager);
}

static inline int server_setup(void **state)
{
    struct server *server = calloc(1, sizeof *server);
    struct err err = {0};
    char sha256[65], self[4096] = {0};
    char *id = arena_alloc(&server->arena, STORE_ID_BYTES);
    struct blob_put *put;

    strcpy(server->dir, "/tmp/attune-job-XXXXXX");
    assert_non_null(mkdtemp(server->dir));
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(server->program, sizeof server->program, "%s/job/fake_trainer", dirname(self));
    server->config.jobs_max = 2;
    server->config.memory_bytes = 1 << 30;
    server->tenant = tenant_default();
    server_start(server);
    store_id_file(id);
    put = blob_put_begin(server->blobs, &err);
    assert_ok(blob_put_add(put, "{}\n", 3, &err) && blob_put_commit(put, id, sha256, &err), err);
    struct store_file file = {
        .id = id, .filename = "a.jsonl", .purpose = "fine-tune", .bytes = 3, .status = "processed"};
    assert_ok(store_file_create(server->store, &server->tenant, &file, &err), err);
    server->training_file = id;
    *state = server;
    return 0;
}

/* No process may stay behind. */
static inline void server_kill_trainers(struct server *server)
{
    for (struct attempt *attempt = server->manager->first; attempt; attempt = attempt->next)
        process_kill_group(&attempt->process, NULL);
}

static inline int server_teardown(void **state)
{
    struct server *server = *state;

    server_kill_trainers(server);
    server_stop(server);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
    arena_deinit(&server->arena);
    dir_remove(server->dir, NULL);
    free(server);
    return 0;
}

static inline struct job_spec server_spec(struct server *server, const char *options)
{
    return (struct job_spec){
        .model = "org/base",
        .model_path = "/nowhere/org/base",
        .training_file = server->training_file,
        .suffix = "test",
        .hyperparameters_json = "{\"lora\":true}",
        .options_json = options,
        .memory_bytes = 1 << 20,
    };
}

static inline const char *server_create(struct server *server, const char *options)
{
    struct job_spec spec = server_spec(server, options);
    struct store_job job;
    struct err err = {0};

    assert_ok(job_create(server->manager, &server->tenant, &spec, &server->arena, &job, &err), err);
    assert_int_equal(job.state, JOB_STATE_queued);
    return job.id;
}

static inline struct store_job server_job(struct server *server, const char *id)
{
    struct store_job job;
    struct err err = {0};

    assert_ok(store_job_get(server->store, &server->tenant, id, &server->arena, &job, &err), err);
    return job;
}

/* Runs the loop until the job is in the state; a job that never gets there fails the test. */
static inline struct store_job server_await(struct server *server, const char *id, enum job_state state)
{
    int64_t until_ms = clock_monotonic_ms() + 120000;
    struct store_job job = server_job(server, id);

    while (job.state != state) {
        if (clock_monotonic_ms() > until_ms || (job_state_is_final(job.state) && job.state != state))
            fail_msg("%s is %s, not %s: %s", id, job_state_name(job.state), job_state_name(state),
                     job.error_message ? job.error_message : "");
        server_step(server);
        job = server_job(server, id);
    }
    return job;
}

static inline struct store_job server_await_step(struct server *server, const char *id, int64_t step)
{
    int64_t until_ms = clock_monotonic_ms() + 120000;
    struct store_job job = server_job(server, id);

    while (job.trained_steps < step && !job_state_is_final(job.state)) {
        if (clock_monotonic_ms() > until_ms)
            fail_msg("%s is at step %lld, not %lld", id, (long long)job.trained_steps, (long long)step);
        server_step(server);
        job = server_job(server, id);
    }
    return job;
}

static inline struct store_event_list server_events(struct server *server, const char *id)
{
    struct store_event_list list;
    struct err err = {0};

    assert_ok(store_event_since(server->store, &server->tenant, id, 0, 10000, &server->arena, &list, &err), err);
    return list;
}

static inline const struct store_event *server_find_event(struct server *server, const char *id, const char *kind,
                                                          const char *code)
{
    struct store_event_list list = server_events(server, id);

    for (size_t i = 0; i < list.count; i++)
        if (strcmp(list.at[i].kind, kind) == 0 && strcmp(list.at[i].code, code) == 0)
            return &list.at[i];
    return NULL;
}

/* What `steps` undisturbed steps of the fake trainer end with. */
static inline void expected_weights(int64_t steps, char state[65])
{
    strcpy(state, "begin");
    for (int64_t step = 1; step <= steps; step++) {
        char text[128];
        uint8_t digest[32];

        snprintf(text, sizeof text, "%s %lld", state, (long long)step);
        sha256_of(str_of(text), digest);
        hex_encode(digest, 32, state);
    }
}

/* The job has succeeded as if nothing had happened: weights, every step's event once and in order, sequence without
 * gaps. */
static inline void assert_undisturbed(struct server *server, const char *id, int64_t steps)
{
    struct store_job job = server_await(server, id, JOB_STATE_succeeded);
    struct store_event_list events = server_events(server, id);
    struct store_checkpoint_list checkpoints;
    struct store_model model;
    struct str weights;
    char expected[65];
    struct err err = {0};
    int64_t next_step = 1;

    for (size_t i = 0; i < events.count; i++) {
        assert_int_equal(events.at[i].seq, i + 1);
        if (strcmp(events.at[i].kind, "step") == 0)
            assert_int_equal(events.at[i].step, next_step++);
    }
    assert_int_equal(next_step, steps + 1);
    assert_int_equal(job.trained_steps, steps);
    assert_int_equal(job.trained_tokens, 10 * steps);
    assert_ok(store_checkpoint_list(server->store, &server->tenant, id, &(struct store_page){.limit = 9},
                                    &server->arena, &checkpoints, &err),
              err);
    assert_int_equal(checkpoints.count, 1);
    assert_ok(store_model_get(server->store, &server->tenant, job.fine_tuned_model, &server->arena, &model, &err), err);
    assert_ok(file_read(&server->arena, path_join(&server->arena, model.path, "weights"), 100, &weights, &err), err);
    expected_weights(steps, expected);
    assert_string_equal(weights.at, expected);
}
