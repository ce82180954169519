/* Drain: no job starts, those at work finish or stop at a recovery point. Kept in the store, so that a server that is
 * started during the maintenance starts none either. */
#include "job/manager_int.h"

#include "os/clock.h"
#include "store/settings.h"

#include <stdio.h>

#define SETTING "drain"

bool drain_read(struct job_manager *manager, struct err *err)
{
    struct job_drain *drain = &manager->drain;
    struct arena arena = {0};
    const char *text = NULL;
    bool ok = store_setting_get(manager->config.store, SETTING, &arena, &text, err);
    int pauses = 0, refuses = 0;
    long long since_ms = 0;

    *drain = (struct job_drain){0};
    if (ok && text && sscanf(text, "%lld %d %d", &since_ms, &pauses, &refuses) == 3)
        *drain = (struct job_drain){true, pauses != 0, refuses != 0, since_ms};
    arena_deinit(&arena);
    return ok;
}

/* A job that is to pause or to be cancelled anyway is left alone. */
static void tell_all(struct job_manager *manager, enum job_want want)
{
    for (struct attempt *attempt = manager->first; attempt; attempt = attempt->next) {
        struct arena arena = {0};
        struct store_job job;
        struct err err = {0};

        if (attempt->has_ended)
            continue;
        if (!store_queue_get(manager->config.store, attempt->job.id, &arena, &job, &err))
            manager_complain(attempt->job.id, "draining", &err);
        else if (job.wanted == JOB_WANT_run && job.state != JOB_STATE_cancelling)
            attempt_tell(attempt, want);
        arena_deinit(&arena);
    }
}

bool job_manager_set_drain(struct job_manager *manager, bool is_on, bool pauses, bool refuses, struct err *err)
{
    struct job_drain before = manager->drain;
    struct job_drain drain = {is_on, is_on && pauses, is_on && refuses, is_on ? clock_unix_ms() : 0};
    char text[64];

    if (is_on && before.is_on)
        drain.since_ms = before.since_ms;
    snprintf(text, sizeof text, "%lld %d %d", (long long)drain.since_ms, drain.pauses, drain.refuses);
    if (!store_setting_set(manager->config.store, SETTING, is_on ? text : NULL, err))
        return false;
    manager->drain = drain;
    if (drain.pauses != before.pauses)
        tell_all(manager, drain.pauses ? JOB_WANT_pause : JOB_WANT_run);
    manager_wake(manager);
    return true;
}

struct job_drain job_manager_drain(const struct job_manager *manager)
{
    return manager->drain;
}

int job_manager_active(const struct job_manager *manager)
{
    return manager->attempt_count;
}
