#include "job/manager_int.h"

#include "base/log.h"
#include "os/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

void manager_complain(const char *job_id, const char *what, const struct err *err)
{
    log_line("job %s: %s: %s", job_id, what, err->text);
}

int64_t manager_now_ms(const struct job_manager *manager)
{
    return manager->config.loop.now_ms(manager->config.loop.context);
}

static void set_deadline(struct job_manager *manager)
{
    int64_t deadline = manager->is_woken ? manager_now_ms(manager) : manager->retry_ms ? manager->retry_ms : INT64_MAX;

    if (manager->room_retry_ms && manager->room_retry_ms < deadline)
        deadline = manager->room_retry_ms;
    for (struct attempt *attempt = manager->first; attempt; attempt = attempt->next)
        if (attempt_deadline_ms(attempt) < deadline)
            deadline = attempt_deadline_ms(attempt);
    manager->config.loop.set_deadline(manager->config.loop.context, deadline);
}

void manager_wake(struct job_manager *manager)
{
    manager->is_woken = true;
    set_deadline(manager);
}

void manager_changed(struct job_manager *manager, const struct tenant *tenant, const char *job_id)
{
    if (manager->config.on_change)
        manager->config.on_change(manager->config.on_change_context, tenant, job_id);
}

static void note_news(struct job_manager *manager, int events_watch)
{
    for (struct attempt *attempt = manager->first; attempt; attempt = attempt->next)
        if (attempt->events_watch == events_watch)
            attempt->has_news = true;
}

static void on_inotify_ready(void *arg)
{
    struct job_manager *manager = arg;
    _Alignas(struct inotify_event) char buf[4096];
    ssize_t got;

    while ((got = read(manager->inotify_fd, buf, sizeof buf)) > 0)
        for (char *at = buf; at < buf + got;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)at;

            note_news(manager, event->wd);
            at += sizeof *event + event->len;
        }
    set_deadline(manager);
}

static void on_release(void *context)
{
    manager_wake(context);
}

/* The config with its defaults filled in and its texts kept. */
static bool take_config(struct job_manager *manager, const struct job_config *config, struct err *err)
{
    char path[4096];

    manager->config = *config;
    manager->data_dir = path_absolute(&manager->arena, config->data_dir, err);
    if (!manager->data_dir)
        return err_prefix(err, "the data folder");
    if (!config->program && !process_self_path(path, sizeof path, err))
        return false;
    manager->program = arena_printf(&manager->arena, "%s", config->program ? config->program : path);
    if (!config->launcher)
        manager->config.launcher = &launcher_local;
    if (config->jobs_max == 0)
        manager->config.jobs_max = 1;
    if (config->attempts_max == 0)
        manager->config.attempts_max = 3;
    if (config->hung_ms == 0)
        manager->config.hung_ms = 10 * 60 * 1000;
    if (config->grace_ms == 0)
        manager->config.grace_ms = 10 * 1000;
    if (config->memory_bytes == 0) {
        if (!host_memory_bytes(&manager->config.memory_bytes, err))
            return false;
        manager->config.memory_bytes -= manager->config.memory_bytes / 10;
    }
    return true;
}

static void open_devices(struct job_manager *manager)
{
    manager->has_cpu = !manager->config.is_without_cpu;
    if (manager->config.devices)
        manager->devices = *manager->config.devices;
    for (int i = 0; i < manager->devices.count; i++) {
        manager->gpu_ledger[i] = ledger_new(manager->devices.gpu[i].memory_bytes);
        ledger_on_release(manager->gpu_ledger[i], on_release, manager);
    }
}

struct job_manager *job_manager_new(const struct job_config *config, struct err *err)
{
    struct job_manager *manager = mem_alloc_zero(1, sizeof *manager);

    manager->inotify_fd = -1;
    if (!take_config(manager, config, err)) {
        job_manager_free(manager);
        return NULL;
    }
    manager->read_buf = mem_alloc(EVENT_LINE_BYTES_MAX);
    manager->ledger = ledger_new(manager->config.memory_bytes);
    ledger_on_release(manager->ledger, on_release, manager);
    open_devices(manager);
    /* Without inotify events are looked for once a second. */
    manager->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (manager->inotify_fd >= 0)
        manager->inotify_watch =
            config->loop.watch(config->loop.context, manager->inotify_fd, on_inotify_ready, manager);
    return manager;
}

void job_manager_free(struct job_manager *manager)
{
    if (!manager)
        return;
    while (manager->first)
        attempt_close(manager->first);
    if (manager->inotify_watch)
        manager->config.loop.unwatch(manager->config.loop.context, manager->inotify_watch);
    fd_close(&manager->inotify_fd);
    ledger_free(manager->ledger);
    for (int i = 0; i < manager->devices.count; i++)
        ledger_free(manager->gpu_ledger[i]);
    strbuf_deinit(&manager->passed_over);
    free(manager->read_buf);
    arena_deinit(&manager->arena);
    free(manager);
}

struct job_ledger *job_manager_ledger(struct job_manager *manager)
{
    return manager->ledger;
}

/* Run directories that a crash left without a row. */
static bool collect_run_dirs(struct job_manager *manager, struct err *err)
{
    struct arena arena = {0};
    const char *runs_dir = path_join(&arena, manager->data_dir, "runs");
    struct store_texts ids;
    char **names;
    size_t count = 0;
    bool ok = dir_make(runs_dir, err) && store_queue_ids(manager->config.store, &arena, &ids, err) &&
              dir_list(&arena, runs_dir, &names, &count, err);

    for (size_t i = 0; i < count; i++)
        if (!store_texts_have(&ids, names[i]))
            dir_remove(path_join(&arena, runs_dir, names[i]), NULL);
    arena_deinit(&arena);
    return ok;
}

/* Jobs that ended without being cleaned: the server stopped between the two. */
static bool clean_ended(struct job_manager *manager, struct err *err)
{
    struct arena arena = {0};
    struct store_texts ids;
    bool ok = store_queue_to_clean(manager->config.store, &arena, &ids, err);

    for (size_t i = 0; ok && i < ids.count; i++)
        manager_clean(manager, ids.at[i]);
    arena_deinit(&arena);
    return ok;
}

/* "go" is said only after the move to running, so a job in `starting` has no process that did anything. */
static bool queue_again(struct job_manager *manager, const struct store_job *job, struct err *err)
{
    struct store_move move = {.id = job->id,
                              .attempt = job->attempt,
                              .to = JOB_STATE_queued,
                              .level = "info",
                              .code = "requeued",
                              .message = "The server stopped before the trainer started; the job is queued again",
                              .failed_attempts = job->failed_attempts,
                              .recovery_step = job->recovery_step};

    return store_queue_move(manager->config.store, &move, err);
}

static void reserve_again(struct job_manager *manager, const struct store_job *job)
{
    struct ledger_claim claim = {.owner = LEDGER_JOB, .id = job->id, .bytes = job->memory_bytes};
    struct err err = {0};

    if (!ledger_reserve(manager->ledger, &claim, &err))
        manager_complain(job->id, "it runs on without a reservation", &err);
    placing_hold(manager, job);
    room_hold(manager, job);
}

static bool recover_job(struct job_manager *manager, const struct store_job *job, struct err *err)
{
    struct attempt *attempt;

    if (job->state == JOB_STATE_starting)
        return queue_again(manager, job, err);
    attempt = attempt_open(manager, job->id, err);
    if (!attempt)
        return false;
    attempt_adopt(attempt);
    if (attempt->has_ended)
        return true; /* the first tick settles it */
    reserve_again(manager, job);
    if (job->wanted != JOB_WANT_run)
        attempt_tell(attempt, job->wanted);
    else if (manager->drain.pauses && job->state == JOB_STATE_running)
        attempt_tell(attempt, JOB_WANT_pause);
    return true;
}

/* Jobs that may have a process but that nobody watches: all of them at start, later those that an error of the store
 * left. */
static bool recover_jobs(struct job_manager *manager, struct err *err)
{
    struct arena arena = {0};
    struct store_job_list active;
    bool ok = store_queue_active(manager->config.store, &arena, &active, err);

    for (size_t i = 0; ok && i < active.count; i++) {
        struct err problem = {0};

        if (attempt_find(manager, active.at[i].id) || recover_job(manager, &active.at[i], &problem))
            continue;
        manager_complain(active.at[i].id, "recovering it", &problem);
        manager->retry_ms = manager_now_ms(manager) + RETRY_INTERVAL_MS;
    }
    arena_deinit(&arena);
    return ok;
}

bool job_manager_start(struct job_manager *manager, struct err *err)
{
    size_t removed;

    if (!drain_read(manager, err))
        return false;
    if (!store_queue_relocate(manager->config.store, manager->data_dir, err) ||
        !blobs_collect(manager->config.blobs, manager->config.store, &removed, err) ||
        !collect_run_dirs(manager, err) || !clean_ended(manager, err) || !recover_jobs(manager, err))
        return false;
    manager_retire(manager, NULL);
    placing_tell_missing(manager);
    job_manager_tick(manager);
    return true;
}

/* A job that was claimed but could not be started counts as an attempt that failed. */
static bool give_up_start(struct job_manager *manager, const struct store_job *job, const struct err *why,
                          struct err *err)
{
    struct arena arena = {0};
    bool is_last = job->failed_attempts + 1 >= manager->config.attempts_max;
    const char *message = arena_printf(&arena, "The trainer could not be started: %s", why->text);
    struct store_move move = {.id = job->id,
                              .attempt = job->attempt,
                              .to = is_last ? JOB_STATE_failed : JOB_STATE_queued,
                              .level = is_last ? "error" : "warn",
                              .code = is_last ? "failed" : "requeued",
                              .message = message,
                              .error_code = is_last ? err_code_name(why->code) : NULL,
                              .error_message = is_last ? message : NULL,
                              .failed_attempts = job->failed_attempts + 1,
                              .recovery_step = job->recovery_step};
    bool ok = store_queue_move(manager->config.store, &move, err);

    arena_deinit(&arena);
    return ok;
}

static void release(struct job_manager *manager, const char *job_id)
{
    ledger_release(manager->ledger, LEDGER_JOB, job_id);
    placing_release(manager, job_id);
    room_release(manager, job_id);
}

/* Claimed, with its memory reserved: starts it, or puts it back. */
static bool start_claimed(struct job_manager *manager, const struct store_job *job, struct err *err)
{
    struct err problem = {0};
    struct attempt *attempt = attempt_open(manager, job->id, &problem);
    struct tenant tenant;

    if (attempt && attempt_launch(attempt, &problem)) {
        tenant = attempt->tenant;
        manager_changed(manager, &tenant, job->id);
        return true;
    }
    manager_complain(job->id, "starting it", &problem);
    if (attempt)
        attempt_close(attempt); /* a child that waits for "go" ends when its pipe is closed */
    release(manager, job->id);
    return give_up_start(manager, job, &problem, err);
}

static bool start_next(struct job_manager *manager, bool *started, bool *passed_over, struct err *err)
{
    struct arena arena = {0};
    struct store_job job;
    struct ledger_claim claim = {.owner = LEDGER_JOB};
    const char *device, *free_devices = placing_free(manager, &arena);
    bool found, ok = true;

    *started = *passed_over = false;
    if (!free_devices)
        goto out;
    ok = store_queue_peek(manager->config.store, room_passed_over(manager, &arena), free_devices,
                          &arena, &job, &found, err);
    if (!ok || !found)
        goto out;
    if (!room_promise(manager, &job)) {
        *passed_over = true;
        goto out;
    }
    claim.id = job.id;
    claim.bytes =
        job.memory_bytes < ledger_capacity(manager->ledger) ? job.memory_bytes : ledger_capacity(manager->ledger);
    /* Strictly in turn: a large job is not passed by small ones for ever. A release wakes us. */
    device = placing_take(manager, &job);
    if (!device || !ledger_reserve(manager->ledger, &claim, NULL)) {
        placing_release(manager, job.id);
        room_release(manager, job.id);
        goto out;
    }
    ok = store_queue_claim(manager->config.store, job.id, device, &arena, &job, &found, err);
    if (!ok || !found) {
        release(manager, claim.id);
        goto out;
    }
    ok = start_claimed(manager, &job, err);
    *started = ok;
out:
    arena_deinit(&arena);
    return ok;
}

static bool start_jobs(struct job_manager *manager, struct err *err)
{
    bool started = true, passed_over = false;

    while (!manager->drain.is_on && (started || passed_over))
        if (!start_next(manager, &started, &passed_over, err))
            return false;
    return true;
}

/* When the store refuses, everything is tried again after a while. */
static void fill_slots(struct job_manager *manager, int64_t now_ms)
{
    bool is_retry = manager->retry_ms != 0;
    struct err err = {0};

    if (now_ms < manager->retry_ms)
        return;
    manager->retry_ms = 0;
    if ((!is_retry || recover_jobs(manager, &err)) && start_jobs(manager, &err))
        return;
    manager_complain("queue", "starting a job", &err);
    manager->retry_ms = now_ms + RETRY_INTERVAL_MS;
}

void job_manager_tick(struct job_manager *manager)
{
    int64_t now_ms = manager_now_ms(manager);
    struct attempt *next;

    manager->is_woken = false;
    for (struct attempt *attempt = manager->first; attempt; attempt = next) {
        next = attempt->next;
        if (attempt_tick(attempt, now_ms)) {
            release(manager, attempt->job.id);
            attempt_close(attempt);
        }
    }
    if (manager->room_retry_ms && now_ms >= manager->room_retry_ms)
        room_look_again(manager);
    fill_slots(manager, now_ms);
    set_deadline(manager);
}
