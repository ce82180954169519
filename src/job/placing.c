/* Which device a job gets. One that asks for the processor takes its turn as --jobs says; a GPU has one job, which
 * takes its memory whole, so chats there are asked to go first. A job for any GPU gets the first that is free. */
#include "job/manager_int.h"

#include <string.h>

static int jobs_on(const struct job_manager *manager, const char *device)
{
    int count = 0;

    for (const struct attempt *attempt = manager->first; attempt; attempt = attempt->next)
        count += strcmp(attempt->job.placed_on ? attempt->job.placed_on : "cpu", device) == 0;
    return count;
}

const char *placing_free(struct job_manager *manager, struct arena *arena)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    bool has_gpu = false;
    const char *json;

    json_write_begin_array(&w);
    if (manager->has_cpu && jobs_on(manager, "cpu") < manager->config.jobs_max)
        json_write_string(&w, STR("cpu"));
    for (int i = 0; i < manager->devices.count; i++) {
        if (jobs_on(manager, manager->devices.gpu[i].name) > 0)
            continue;
        json_write_string(&w, str_of(manager->devices.gpu[i].name));
        has_gpu = true;
    }
    if (has_gpu)
        json_write_string(&w, STR("cuda"));
    json_write_end_array(&w);
    json = text.len > strlen("[]") ? str_copy(arena, strbuf_view(&text)) : NULL;
    strbuf_deinit(&text);
    return json;
}

static bool reserve(struct job_manager *manager, int gpu, const char *job_id)
{
    struct ledger_claim claim = {.owner = LEDGER_JOB, .id = job_id, .bytes = ledger_capacity(manager->gpu_ledger[gpu])};

    return ledger_reserve(manager->gpu_ledger[gpu], &claim, NULL);
}

const char *placing_take(struct job_manager *manager, const struct store_job *job)
{
    const char *asked = job->device ? job->device : "cpu";

    if (strcmp(asked, "cpu") == 0)
        return "cpu";
    for (int i = 0; i < manager->devices.count; i++) {
        const char *name = manager->devices.gpu[i].name;
        if ((strcmp(asked, "cuda") == 0 || strcmp(asked, name) == 0) && jobs_on(manager, name) == 0)
            return reserve(manager, i, job->id) ? name : NULL;
    }
    return NULL;
}

void placing_hold(struct job_manager *manager, const struct store_job *job)
{
    const struct job_device *gpu = job->placed_on ? devices_find(&manager->devices, job->placed_on) : NULL;

    if (gpu)
        reserve(manager, (int)(gpu - manager->devices.gpu), job->id);
}

void placing_release(struct job_manager *manager, const char *job_id)
{
    for (int i = 0; i < manager->devices.count; i++)
        ledger_release(manager->gpu_ledger[i], LEDGER_JOB, job_id);
}

/* Names of devices that jobs may have asked for before and that are not here now, as JSON. */
static const char *missing_devices(struct job_manager *manager, struct arena *arena)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_array(&w);
    if (!manager->has_cpu)
        json_write_string(&w, STR("cpu"));
    if (manager->devices.count == 0)
        json_write_string(&w, STR("cuda"));
    for (int i = 0; i < DEVICES_MAX; i++) {
        const char *name = arena_printf(arena, "cuda:%d", i);
        if (!devices_find(&manager->devices, name))
            json_write_string(&w, str_of(name));
    }
    json_write_end_array(&w);
    json = str_copy(arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return json;
}

static void tell_missing(struct job_manager *manager, const struct store_job *job)
{
    struct arena arena = {0};
    struct tenant tenant = {0};
    struct err err = {0};

    strncpy(tenant.organization_id, job->organization_id, sizeof tenant.organization_id - 1);
    strncpy(tenant.project_id, job->project_id, sizeof tenant.project_id - 1);
    if (!store_event_add(manager->config.store, &tenant, job->id, "warn", "device_missing",
                         arena_printf(&arena, "This server has no %s now: the job waits until it has, or is cancelled.",
                                      job->device ? job->device : "cpu"),
                         NULL, &err))
        manager_complain(job->id, "telling that its device is missing", &err);
    else
        manager_changed(manager, &tenant, job->id);
    arena_deinit(&arena);
}

void placing_tell_missing(struct job_manager *manager)
{
    struct arena arena = {0};
    struct strbuf told = {0};
    const char *missing = missing_devices(manager, &arena);
    struct store_job job;
    struct err err = {0};
    bool found = true;

    while (found) {
        const char *passed_over = told.len ? arena_printf(&arena, "%s]", told.at) : NULL;
        if (!store_queue_peek(manager->config.store, passed_over, missing, &arena, &job, &found, &err)) {
            manager_complain("", "looking for jobs whose device is missing", &err);
            break;
        }
        if (!found)
            break;
        tell_missing(manager, &job);
        strbuf_printf(&told, "%s\"%s\"", told.len ? "," : "[", job.id);
    }
    strbuf_deinit(&told);
    arena_deinit(&arena);
}

const struct job_devices *job_manager_devices(const struct job_manager *manager)
{
    return &manager->devices;
}

void job_manager_devices_seen(struct job_manager *manager, const struct job_devices *seen)
{
    struct job_devices copy = *seen;

    for (int i = 0; i < manager->devices.count; i++) {
        const struct job_device *gpu = devices_find(&copy, manager->devices.gpu[i].name);
        if (gpu)
            manager->devices.gpu[i] = *gpu;
    }
}

bool job_manager_has_cpu(const struct job_manager *manager)
{
    return manager->has_cpu;
}

int job_manager_jobs_max(const struct job_manager *manager)
{
    return manager->config.jobs_max;
}

struct job_ledger *job_manager_gpu_ledger(struct job_manager *manager, int gpu)
{
    return manager->gpu_ledger[gpu];
}

struct store_texts job_manager_jobs_on(const struct job_manager *manager, const struct tenant *tenant,
                                       const char *device, struct arena *arena, int *count_of_all)
{
    struct store_texts ids = {arena_new_array(arena, const char *, (size_t)manager->attempt_count + 1), 0};

    *count_of_all = jobs_on(manager, device);
    for (const struct attempt *attempt = manager->first; attempt; attempt = attempt->next)
        if (strcmp(attempt->job.placed_on ? attempt->job.placed_on : "cpu", device) == 0 &&
            strcmp(attempt->tenant.project_id, tenant->project_id) == 0 &&
            strcmp(attempt->tenant.organization_id, tenant->organization_id) == 0)
            ids.at[ids.count++] = str_copy(arena, str_of(attempt->job.id));
    return ids;
}
