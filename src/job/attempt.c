#include "job/manager_int.h"

#include "os/file.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

static void on_process_ready(void *arg)
{
    struct attempt *attempt = arg;

    /* The pidfd stays readable: once is enough. */
    attempt->manager->config.loop.unwatch(attempt->manager->config.loop.context, attempt->process_watch);
    attempt->process_watch = NULL;
    manager_wake(attempt->manager);
}

struct attempt *attempt_open(struct job_manager *manager, const char *job_id, struct err *err)
{
    struct attempt *attempt = mem_alloc_zero(1, sizeof *attempt);
    int64_t now = manager_now_ms(manager);

    attempt->manager = manager;
    attempt->process = PROCESS_NONE;
    attempt->events_fd = attempt->events_watch = -1;
    attempt->next_check_ms = now + CHECK_INTERVAL_MS;
    attempt->heartbeat_ms = now;
    attempt->kill_at_ms = INT64_MAX;
    attempt->next = manager->first;
    manager->first = attempt;
    manager->attempt_count++;
    if (!store_queue_get(manager->config.store, job_id, &attempt->arena, &attempt->job, err)) {
        attempt_close(attempt);
        return NULL;
    }
    strncpy(attempt->tenant.organization_id, attempt->job.organization_id, sizeof attempt->tenant.organization_id - 1);
    strncpy(attempt->tenant.project_id, attempt->job.project_id, sizeof attempt->tenant.project_id - 1);
    attempt->run_dir = rundir_path(&attempt->arena, manager->data_dir, job_id);
    attempt->dir = rundir_attempt_path(&attempt->arena, attempt->run_dir, attempt->job.attempt);
    attempt->events_path = path_join(&attempt->arena, attempt->dir, "events.jsonl");
    attempt->offset = attempt->job.events_offset;
    attempt->total_steps = attempt->job.total_steps;
    return attempt;
}

/* The process from now on tells of its end, its events file of its growth. Without inotify the check each second does.
 */
static void watch(struct attempt *attempt)
{
    struct job_manager *manager = attempt->manager;

    attempt->events_fd = file_open_read(attempt->events_path, NULL);
    if (manager->inotify_fd >= 0)
        attempt->events_watch = inotify_add_watch(manager->inotify_fd, attempt->events_path, IN_MODIFY);
    if (attempt->process.pidfd >= 0)
        attempt->process_watch =
            manager->config.loop.watch(manager->config.loop.context, attempt->process.pidfd, on_process_ready, attempt);
    attempt->has_news = true;
}

static bool store_identity(struct attempt *attempt, struct err *err)
{
    const struct process_identity *identity = &attempt->process.identity;
    struct store_process process = {
        .pid = identity->pid, .start_time = (int64_t)identity->start_time, .boot_id = identity->boot_id};

    return store_queue_running(attempt->manager->config.store, attempt->job.id, attempt->job.attempt, &process, err);
}

/* Claimed for a GPU: job.placed_on. */
static bool is_on_gpu(const struct attempt *attempt)
{
    return attempt->job.placed_on && strcmp(attempt->job.placed_on, "cpu") != 0;
}

bool attempt_launch(struct attempt *attempt, struct err *err)
{
    const struct job_launcher *launcher = attempt->manager->config.launcher;
    struct job_launch launch = {.program = attempt->manager->program,
                                .run_dir = attempt->run_dir,
                                .device = is_on_gpu(attempt) ? attempt->job.placed_on : NULL,
                                .log_path = path_join(&attempt->arena, attempt->dir, "log.txt"),
                                .attempt = attempt->job.attempt,
                                .nice = attempt->manager->config.nice};

    if (!rundir_begin_attempt(attempt->run_dir, attempt->job.attempt, err) ||
        !launcher->launch(&attempt->process, &launch, err) || !store_identity(attempt, err))
        return false;
    watch(attempt);
    return launcher->go(&attempt->process, err);
}

void attempt_adopt(struct attempt *attempt)
{
    struct process_identity identity = {.pid = attempt->job.pid, .start_time = (uint64_t)attempt->job.pid_start_time};

    if (attempt->job.boot_id)
        strncpy(identity.boot_id, attempt->job.boot_id, sizeof identity.boot_id - 1);
    attempt->has_ended = !attempt->manager->config.launcher->adopt(&attempt->process, &identity, NULL);
    watch(attempt);
}

void attempt_close(struct attempt *attempt)
{
    struct job_manager *manager = attempt->manager;
    struct attempt **link = &manager->first;

    while (*link != attempt)
        link = &(*link)->next;
    *link = attempt->next;
    manager->attempt_count--;
    if (attempt->process_watch)
        manager->config.loop.unwatch(manager->config.loop.context, attempt->process_watch);
    if (attempt->events_watch >= 0)
        inotify_rm_watch(manager->inotify_fd, attempt->events_watch);
    metrics_csv_free(attempt->csv, false);
    fd_close(&attempt->events_fd);
    process_close(&attempt->process);
    arena_deinit(&attempt->arena);
    free(attempt);
}

struct attempt *attempt_find(struct job_manager *manager, const char *job_id)
{
    struct attempt *attempt = manager->first;

    while (attempt && strcmp(attempt->job.id, job_id) != 0)
        attempt = attempt->next;
    return attempt;
}

void attempt_tell(struct attempt *attempt, enum job_want want)
{
    struct job_manager *manager = attempt->manager;
    struct err err = {0};

    if (!rundir_write_control(attempt->run_dir, attempt->job.attempt, want, &err) ||
        !manager->config.launcher->signal(&attempt->process, SIGUSR1, &err))
        manager_complain(attempt->job.id, "telling the trainer", &err);
    if (want == JOB_WANT_cancel && attempt->kill_at_ms == INT64_MAX)
        attempt->kill_at_ms = manager_now_ms(manager) + manager->config.grace_ms;
    manager_wake(manager);
}

static void kill_process(struct attempt *attempt)
{
    struct err err = {0};

    attempt->kill_at_ms = INT64_MAX;
    if (!attempt->manager->config.launcher->kill(&attempt->process, &err))
        manager_complain(attempt->job.id, "killing the trainer", &err);
}

/* Once a second: news that inotify did not tell of, and the sign of life. */
static void check(struct attempt *attempt, int64_t now_ms)
{
    int64_t heartbeat = rundir_heartbeat(attempt->dir);
    uint64_t bytes;

    attempt->next_check_ms = now_ms + CHECK_INTERVAL_MS;
    if (file_size(attempt->events_path, &bytes, NULL) && (int64_t)bytes > attempt->offset)
        attempt->has_news = true;
    if (heartbeat != attempt->heartbeat) {
        attempt->heartbeat = heartbeat;
        attempt->heartbeat_ms = now_ms;
    } else if (now_ms - attempt->heartbeat_ms >= attempt->manager->config.hung_ms) {
        attempt->was_hung = true;
        attempt->heartbeat_ms = now_ms;
        kill_process(attempt);
    }
    room_note(attempt, now_ms);
}

static void read_news(struct attempt *attempt, int64_t now_ms)
{
    struct err err = {0};
    bool more = false;

    attempt->next_read_ms = now_ms + READ_INTERVAL_MS;
    attempt->has_news = false;
    if (attempt_read_events(attempt, &more, &err)) {
        attempt->has_news = more;
        return;
    }
    manager_complain(attempt->job.id, "storing its events", &err);
    attempt->has_news = true;
    attempt->next_read_ms = now_ms + RETRY_INTERVAL_MS;
    /* Somebody else has claimed the job: this attempt must not go on. */
    if (err.code == ERR_CONFLICT)
        kill_process(attempt);
}

bool attempt_tick(struct attempt *attempt, int64_t now_ms)
{
    struct err err = {0};

    if (!attempt->has_ended)
        attempt->has_ended = attempt->manager->config.launcher->has_ended(&attempt->process, &attempt->end);
    if (attempt->has_ended) {
        if (now_ms < attempt->settle_ms)
            return false;
        if (attempt_settle(attempt, &err))
            return true;
        if (!err.code)
            return false;
        manager_complain(attempt->job.id, "settling its end", &err);
        attempt->settle_ms = now_ms + RETRY_INTERVAL_MS;
        return false;
    }
    if (now_ms >= attempt->kill_at_ms)
        kill_process(attempt);
    if (now_ms >= attempt->next_check_ms)
        check(attempt, now_ms);
    if (attempt->has_news && now_ms >= attempt->next_read_ms)
        read_news(attempt, now_ms);
    return false;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t attempt_deadline_ms(const struct attempt *attempt)
{
    int64_t deadline = least(attempt->next_check_ms, attempt->kill_at_ms);

    if (attempt->has_ended)
        return attempt->settle_ms;
    if (attempt->has_news)
        deadline = least(deadline, attempt->next_read_ms);
    return deadline;
}
