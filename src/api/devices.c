#include "api/devices.h"

#include "api/api_int.h"
#include "os/background.h"
#include "os/clock.h"
#include "os/process.h"

#include <stdlib.h>
#include <string.h>

enum { OLD_MS = 10000 };

struct device_watch {
    const struct api_config *config;
    struct background_task task;
    struct job_devices seen; /* the task's while it is under way */
    char program[4096];
    bool is_asking;
    int64_t checked_ms;
};

struct device_watch *device_watch_new(const struct api_config *config)
{
    struct device_watch *watch = mem_alloc_zero(1, sizeof *watch);

    watch->config = config;
    watch->checked_ms = clock_unix_ms();
    if (config->program && strlen(config->program) < sizeof watch->program)
        strcpy(watch->program, config->program);
    else
        process_self_path(watch->program, sizeof watch->program, NULL);
    return watch;
}

void device_watch_free(struct device_watch *watch)
{
    free(watch);
}

static void ask(void *context)
{
    struct device_watch *watch = context;

    devices_probe(watch->program, &watch->seen);
}

static void asked(void *context)
{
    struct device_watch *watch = context;

    job_manager_devices_seen(watch->config->jobs, &watch->seen);
    watch->checked_ms = clock_unix_ms();
    watch->is_asking = false;
}

/* The answer is for whoever looks next: nobody waits for a driver. */
static void ask_again(struct device_watch *watch)
{
    if (watch->is_asking || clock_unix_ms() - watch->checked_ms < OLD_MS ||
        !job_manager_devices(watch->config->jobs)->count)
        return;
    watch->is_asking = true;
    watch->task = (struct background_task){.run = ask, .done = asked, .context = watch};
    background_add(watch->config->background, &watch->task);
}

/* Of other projects it is told that they run jobs, not which. */
static void put_jobs(struct call *call, struct json_writer *w, const char *device, int64_t jobs_max)
{
    int count;
    struct store_texts jobs = job_manager_jobs_on(call->api->config.jobs, &call->tenant, device, call->arena, &count);

    json_put_integer(w, "jobs_max", jobs_max);
    json_put_integer(w, "jobs_running", count);
    json_write_key(w, "jobs");
    json_write_begin_array(w);
    for (size_t i = 0; i < jobs.count; i++)
        json_write_string(w, str_of(jobs.at[i]));
    json_write_end_array(w);
}

static void put_cpu(struct call *call, struct json_writer *w)
{
    struct job_ledger *ledger = job_manager_ledger(call->api->config.jobs);

    json_write_begin_object(w);
    json_put_text(w, "id", "cpu");
    json_put_text(w, "object", "device");
    json_put_text(w, "type", "cpu");
    json_put_null(w, "name");
    json_put_integer(w, "memory_bytes", ledger_capacity(ledger));
    json_put_integer(w, "free_memory_bytes", ledger_free_bytes(ledger));
    json_put_null(w, "compute_capability");
    json_put_null(w, "driver_version");
    put_jobs(call, w, "cpu", job_manager_jobs_max(call->api->config.jobs));
    json_write_end_object(w);
}

static void put_gpu(struct call *call, struct json_writer *w, const struct job_devices *devices,
                    const struct job_device *gpu)
{
    json_write_begin_object(w);
    json_put_text(w, "id", gpu->name);
    json_put_text(w, "object", "device");
    json_put_text(w, "type", "gpu");
    json_put_text(w, "name", gpu->title);
    json_put_integer(w, "memory_bytes", gpu->memory_bytes);
    json_put_integer(w, "free_memory_bytes", gpu->free_bytes);
    json_put_text(w, "compute_capability", gpu->capability);
    json_put_text(w, "driver_version", devices->driver[0] ? devices->driver : NULL);
    put_jobs(call, w, gpu->name, 1);
    json_write_end_object(w);
}

void devices_list(struct call *call)
{
    struct job_manager *jobs = call->api->config.jobs;
    const struct job_devices *devices = job_manager_devices(jobs);
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    ask_again(call->api->devices);
    json_write_begin_object(&w);
    json_put_text(&w, "object", "list");
    json_write_key(&w, "data");
    json_write_begin_array(&w);
    if (job_manager_has_cpu(jobs))
        put_cpu(call, &w);
    for (int i = 0; i < devices->count; i++)
        put_gpu(call, &w, devices, &devices->gpu[i]);
    json_write_end_array(&w);
    json_put_text(&w, "default_device", devices->count ? "cuda" : "cpu");
    json_put_text(&w, "why_no_gpu", devices->count ? NULL : devices->why_none);
    json_put_integer(&w, "checked_at", call->api->devices->checked_ms / 1000);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}
