/* What becomes of a job when its process has ended. */
#include "job/manager_int.h"

#include "os/file.h"

#include <signal.h>
#include <string.h>

enum { LOG_TAIL_BYTES = 400 };

/* For people: how the process ended that left no exit.json. */
static const char *describe_end(struct attempt *attempt, struct arena *arena)
{
    const struct process_end *end = &attempt->end;

    if (attempt->was_hung)
        return arena_printf(arena, "it gave no sign of life for %lld s and was ended",
                            (long long)(attempt->manager->config.hung_ms / 1000));
    if (!end->is_known)
        return "it ended without saying why";
    if (end->signal == SIGKILL)
        return "it was killed (SIGKILL): perhaps the machine ran out of memory";
    if (end->signal)
        return arena_printf(arena, "it was ended by signal SIG%s",
                            sigabbrev_np(end->signal) ? sigabbrev_np(end->signal) : "?");
    return arena_printf(arena, "it ended with status %d", end->exit_status);
}

static void queue_again(struct store_move *move, const char *level, const char *code, const char *message)
{
    move->to = JOB_STATE_queued;
    move->level = level;
    move->code = code;
    move->message = message;
}

static void fail_with(struct store_move *move, const char *code, const char *message, const char *param)
{
    move->to = JOB_STATE_failed;
    move->level = "error";
    move->code = "failed";
    move->message = message;
    move->error_code = code;
    move->error_message = message;
    move->error_param = param;
}

/* Without exit.json: again from the last recovery point, unless that has been tried often enough. */
static void decide_after_death(struct attempt *attempt, const struct store_job *job, struct arena *arena,
                               struct store_move *move)
{
    const int attempts_max = attempt->manager->config.attempts_max;
    const char *how = describe_end(attempt, arena), *log;

    if (job->wanted == JOB_WANT_pause) {
        queue_again(move, "info", "paused", "Job is paused");
        return;
    }
    move->failed_attempts = move->recovery_step > job->recovery_step ? 0 : job->failed_attempts + 1;
    if (move->failed_attempts < attempts_max) {
        queue_again(move, "warn", "requeued",
                    arena_printf(arena, "The trainer ended unexpectedly (%s); the job is queued again%s", how,
                                 move->recovery_step ? " and goes on from its last recovery point" : ""));
        return;
    }
    log = rundir_log_tail(arena, attempt->dir, LOG_TAIL_BYTES);
    fail_with(
        move, "trainer_died",
        arena_printf(arena,
                     "The trainer ended unexpectedly %d times in a row without a new recovery point; at last %s%s%s",
                     attempts_max, how, *log ? ". It wrote: " : "", log),
        NULL);
}

static void decide(struct attempt *attempt, const struct store_job *job, const struct exit_record *exit,
                   struct arena *arena, struct store_move *move)
{
    *move = (struct store_move){.id = job->id,
                                .attempt = attempt->job.attempt,
                                .recovery_step = rundir_recovery_step(attempt->run_dir),
                                .level = "info"};
    if (job->state == JOB_STATE_cancelling) {
        move->to = JOB_STATE_cancelled;
        move->code = "cancelled";
        move->message = "Job is cancelled";
        return;
    }
    switch (exit->status) {
    case EXIT_SUCCEEDED:
        move->to = JOB_STATE_succeeded;
        move->code = "succeeded";
        move->message = "Training completed successfully";
        return;
    case EXIT_FAILED:
        fail_with(move, exit->error_code ? exit->error_code : "internal_error",
                  exit->error_message ? exit->error_message : "The trainer failed without saying why",
                  exit->error_param);
        return;
    case EXIT_PAUSED:
        if (job->wanted == JOB_WANT_pause)
            queue_again(move, "info", "paused", "Job is paused");
        else
            queue_again(move, "info", "requeued", "The trainer was asked to stop; the job is queued again");
        return;
    case EXIT_CANCELLED: /* nobody here asked for it */
    case EXIT_NONE:
        decide_after_death(attempt, job, arena, move);
        return;
    }
}

static bool read_all_events(struct attempt *attempt, struct err *err)
{
    bool more = true;

    while (more)
        if (!attempt_read_events(attempt, &more, err))
            return false;
    return true;
}

/* The metrics' file is made first, in the background: false without an error until it is there. */
static bool succeed(struct attempt *attempt, struct store_move *move, struct err *err)
{
    struct store *store = attempt->manager->config.store;
    struct err problem = {0};
    bool ok;

    if (!attempt->csv && !metrics_csv_begin(attempt, err))
        return false;
    if (!metrics_csv_is_done(attempt->csv)) {
        attempt->settle_ms = INT64_MAX;
        return false;
    }
    move->result_file = metrics_csv_file(attempt->csv, err);
    ok = move->result_file && store_queue_move(store, move, &problem);
    metrics_csv_free(attempt->csv, ok || store_is_in_doubt(store));
    attempt->csv = NULL;
    if (ok || !move->result_file)
        return ok;
    if (problem.code != ERR_CONFLICT)
        return err_set(err, problem.code, "%s", problem.text);
    /* It says that it succeeded but has left nothing. */
    move->result_file = NULL;
    fail_with(move, "internal_error", "The trainer ended without a checkpoint", NULL);
    return store_queue_move(store, move, err);
}

static bool move_on(struct attempt *attempt, const struct store_job *job, struct arena *arena, struct err *err)
{
    struct exit_record exit = rundir_exit(arena, attempt->dir);
    struct store_move move;

    decide(attempt, job, &exit, arena, &move);
    if (move.to == JOB_STATE_succeeded)
        return succeed(attempt, &move, err);
    return store_queue_move(attempt->manager->config.store, &move, err);
}

/* What the process began in the shared cache: such folders end in its pid (docs/formats.md). */
static bool clean_cache(struct attempt *attempt, struct err *err)
{
    struct arena arena = {0};
    const char *cache = path_join(&arena, attempt->manager->data_dir, "cache");
    const char *ending = arena_printf(&arena, ".tmp.%lld", (long long)attempt->process.identity.pid);
    char **names;
    size_t count = 0;
    bool ok = !dir_exists(cache) || dir_list(&arena, cache, &names, &count, err);

    for (size_t i = 0; ok && i < count; i++)
        if (str_ends(str_of(names[i]), str_of(ending)))
            ok = dir_remove(path_join(&arena, cache, names[i]), err);
    arena_deinit(&arena);
    return ok;
}

/* The state is what the store says, so this may run again after a crash at any point: then the job has moved on, or the
 * same is decided once more. */
bool attempt_settle(struct attempt *attempt, struct err *err)
{
    struct arena arena = {0};
    struct store_job job;
    bool ok = false;

    if (!store_queue_get(attempt->manager->config.store, attempt->job.id, &arena, &job, err))
        goto out;
    if (job.attempt == attempt->job.attempt && !job_state_is_final(job.state) && job.state != JOB_STATE_queued)
        if (!read_all_events(attempt, err) || !clean_cache(attempt, err) || !move_on(attempt, &job, &arena, err))
            goto out;
    if (!store_queue_get(attempt->manager->config.store, attempt->job.id, &arena, &job, err))
        goto out;
    if (job_state_is_final(job.state))
        manager_clean(attempt->manager, attempt->job.id);
    manager_changed(attempt->manager, &attempt->tenant, attempt->job.id);
    ok = true;
out:
    arena_deinit(&arena);
    return ok;
}
