/* What users ask for: create, cancel, pause, resume. */
#include "job/manager_int.h"

#include "os/clock.h"
#include "os/file.h"
#include "store/projects.h"

#include <string.h>

/* A trainer's memory besides its plan: tokenizer, data, threads. */
static const int64_t WORKING_BYTES = 256 << 20;

/* "ft:<base>:<organisation>:<suffix>:<id>" with as much of the id as makes names unique; a base that is a result itself
 * counts as its own base. */
static const char *make_output_name(struct arena *arena, const char *model, const char *organization,
                                    const char *suffix, const char *job_id)
{
    struct str base = str_of(model);

    if (str_starts(base, STR("ft:"))) {
        ptrdiff_t colon = str_find(base, STR(":"), 3);

        base = str_slice(base, 3, colon < 0 ? base.len : (size_t)colon);
    }
    return arena_printf(arena, "ft:%.*s:%s:%s:%.12s", STR_ARG(base), organization, suffix ? suffix : "",
                        job_id + strlen("ftjob-"));
}

static const char *method_of(const struct job_spec *spec)
{
    return spec->method ? spec->method : "supervised";
}

const char *spec_method(struct arena *arena, const struct job_spec *spec)
{
    const char *name = method_of(spec);

    return arena_printf(arena, "{\"type\":\"%s\",\"%s\":{\"hyperparameters\":%s}}", name, name,
                        spec->hyperparameters_json);
}

static struct store_job make_row(const struct tenant *tenant, const struct job_spec *spec, struct arena *arena)
{
    return (struct store_job){
        .organization_id = arena_printf(arena, "%s", tenant->organization_id),
        .project_id = arena_printf(arena, "%s", tenant->project_id),
        .model = spec->model,
        .model_path = spec->model_path,
        .training_file = spec->training_file,
        .validation_file = spec->validation_file,
        .suffix = spec->suffix,
        .seed = spec->seed,
        .hyperparameters_json = spec->hyperparameters_json,
        .method_json = spec_method(arena, spec),
        .integrations_json = spec->integrations_json,
        .from_checkpoint_json = spec->from_checkpoint_json,
        .metadata_json = spec->metadata_json,
        .tags_json = spec->tags_json,
        .request_json = spec->request_json,
        .base_json = spec->base_json,
        .device = spec->device,
        .priority = spec->priority,
        .created_ms = clock_unix_ms(),
    };
}

/* The part of a reservation that is the plan's. */
static int64_t plan_limit(int64_t reserved_bytes)
{
    return reserved_bytes > 2 * WORKING_BYTES ? reserved_bytes - WORKING_BYTES : reserved_bytes / 2;
}

bool spec_describe(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                   const struct store_job *row, struct arena *arena, struct job_files *files, struct rundir_job *job,
                   struct err *err)
{
    struct store *store = manager->config.store;
    bool is_on_host = !spec->device || strcmp(spec->device, "cpu") == 0; /* a device's plan takes what is free there */
    bool has_limit = is_on_host && row->memory_bytes > 0 && manager->config.plan_bytes;

    *job = (struct rundir_job){
        .id = row->id,
        .model = spec->model,
        .model_path = spec->model_path,
        .adapter_path = spec->adapter_path,
        .output_name = row->output_name,
        .method = method_of(spec),
        .hyperparameters_json = spec->hyperparameters_json,
        .options_json = spec->options_json ? spec->options_json : "{}",
        .cache_dir = path_join(arena, manager->data_dir, "cache"),
        .seed = spec->seed,
        .memory_bytes = has_limit ? plan_limit(row->memory_bytes) : 0,
        .training_file = &files->training,
    };
    if (spec->validation_file)
        job->validation_file = &files->validation;
    return store_file_get(store, tenant, spec->training_file, arena, &files->training, err) &&
           (!spec->validation_file ||
            store_file_get(store, tenant, spec->validation_file, arena, &files->validation, err));
}

static bool make_run_dir(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                         const struct store_job *row, struct arena *arena, struct err *err)
{
    struct job_files files;
    struct rundir_job job;

    return spec_describe(manager, tenant, spec, row, arena, &files, &job, err) && dir_make(job.cache_dir, err) &&
           rundir_create(rundir_path(arena, manager->data_dir, row->id), &job, manager->config.blobs, err);
}

/* job.json as it would be, with files where they lie now. memory_bytes: reserved, 0: not yet. */
static bool write_description(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                              int64_t memory_bytes, struct strbuf *job_json, struct err *err)
{
    const struct store_job row = {.id = "ftjob-none", .output_name = "", .memory_bytes = memory_bytes};
    struct arena arena = {0};
    struct job_files files;
    struct rundir_job job;
    bool ok = spec_describe(manager, tenant, spec, &row, &arena, &files, &job, err);

    if (ok)
        rundir_write_job(job_json, blobs_dir(manager->config.blobs), &job);
    arena_deinit(&arena);
    return ok;
}

void spec_find_needs(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                     int64_t *memory_bytes, int64_t *disk_bytes)
{
    int64_t capacity = ledger_capacity(manager->ledger), bytes = WORKING_BYTES;
    uint64_t plan = 0, disk = 0;
    struct strbuf job_json = {0};
    struct err why;

    if (manager->config.plan_bytes && write_description(manager, tenant, spec, 0, &job_json, &why) &&
        manager->config.plan_bytes(strbuf_view(&job_json), &plan, &disk, &why))
        bytes = plan < (uint64_t)capacity ? (int64_t)plan + WORKING_BYTES : capacity;
    strbuf_deinit(&job_json);
    *memory_bytes = spec->memory_bytes ? spec->memory_bytes : bytes < capacity ? bytes : capacity;
    *disk_bytes = spec->disk_bytes ? spec->disk_bytes : (int64_t)disk;
}

bool job_describe(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                  struct strbuf *job_json, struct err *err)
{
    int64_t memory_bytes, disk_bytes;

    spec_find_needs(manager, tenant, spec, &memory_bytes, &disk_bytes);
    return write_description(manager, tenant, spec, memory_bytes, job_json, err);
}

bool job_create(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                struct arena *arena, struct store_job *job, struct err *err)
{
    struct store *store = manager->config.store;
    struct store_job row = make_row(tenant, spec, arena);
    struct store_project project;
    char *id = arena_alloc(arena, STORE_ID_BYTES);

    if (spec->memory_bytes > ledger_capacity(manager->ledger))
        return err_set(err, ERR_NO_SPACE, "The job needs %lld MiB of memory, this server gives at most %lld MiB",
                       (long long)(spec->memory_bytes >> 20), (long long)(ledger_capacity(manager->ledger) >> 20));
    spec_find_needs(manager, tenant, spec, &row.memory_bytes, &row.disk_bytes);
    if (!room_can_ever_be(manager, row.disk_bytes, err) || !store_project_get(store, tenant, arena, &project, err))
        return false;
    if (spec->id)
        strcpy(id, spec->id);
    else
        store_id_job(id);
    row.id = id;
    row.output_name = make_output_name(arena, spec->model, project.organization_name, spec->suffix, id);
    row.keep_checkpoints = spec->keep_checkpoints;
    if (!make_run_dir(manager, tenant, spec, &row, arena, err))
        return false;
    if (!store_queue_insert_with(store, &row, &spec->extra, err)) {
        if (!store_is_in_doubt(store))
            dir_remove(rundir_path(arena, manager->data_dir, id), NULL);
        return false;
    }
    if (row.base_json)
        manager_changed(manager, tenant, id); /* somebody fetches what it waits for */
    manager_wake(manager);
    return store_job_get(store, tenant, id, arena, job, err);
}

static bool refuse(const struct store_job *job, const char *what, struct err *err)
{
    return err_set(err, ERR_CONFLICT, "Job %s cannot be %s: its status is %s", job->id, what,
                   job_state_status(job->state));
}

/* The row after a change, and word of it to streams. */
static bool read_again(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                       struct store_job *job, struct err *err)
{
    manager_changed(manager, tenant, id);
    manager_wake(manager);
    return store_job_get(manager->config.store, tenant, id, arena, job, err);
}

static bool move_to_cancelled(struct job_manager *manager, const struct store_job *job, enum job_state to,
                              struct err *err)
{
    struct store_move move = {.id = job->id,
                              .attempt = job->attempt,
                              .to = to,
                              .level = "info",
                              .code = job_state_name(to),
                              .message = to == JOB_STATE_cancelled ? "Job is cancelled" : "Job is being cancelled",
                              .failed_attempts = job->failed_attempts,
                              .recovery_step = job->recovery_step};

    return store_queue_move(manager->config.store, &move, err);
}

bool job_cancel(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                struct store_job *job, struct err *err)
{
    struct attempt *attempt = attempt_find(manager, id);

    if (!store_job_get(manager->config.store, tenant, id, arena, job, err))
        return false;
    if (job->state == JOB_STATE_cancelling || job->state == JOB_STATE_cancelled)
        return true;
    if (job_state_is_final(job->state))
        return refuse(job, "cancelled", err);
    if (!move_to_cancelled(manager, job, job->state == JOB_STATE_queued ? JOB_STATE_cancelled : JOB_STATE_cancelling,
                           err))
        return false;
    if (job->state != JOB_STATE_queued && attempt)
        attempt_tell(attempt, JOB_WANT_cancel);
    if (job->state == JOB_STATE_queued)
        manager_clean(manager, id);
    return read_again(manager, tenant, id, arena, job, err);
}

bool job_pause(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
               struct store_job *job, struct err *err)
{
    struct attempt *attempt = attempt_find(manager, id);

    if (!store_job_get(manager->config.store, tenant, id, arena, job, err))
        return false;
    if (job_state_is_final(job->state) || job->state == JOB_STATE_cancelling)
        return refuse(job, "paused", err);
    if (job->wanted == JOB_WANT_pause)
        return true;
    if (job->state == JOB_STATE_queued) {
        if (!store_queue_want(manager->config.store, id, JOB_WANT_pause, "paused", "Job is paused", err))
            return false;
    } else {
        if (!store_queue_want(manager->config.store, id, JOB_WANT_pause, "pausing", "Job pauses at the next step", err))
            return false;
        if (attempt)
            attempt_tell(attempt, JOB_WANT_pause);
    }
    return read_again(manager, tenant, id, arena, job, err);
}

bool job_resume(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                struct store_job *job, struct err *err)
{
    struct attempt *attempt = attempt_find(manager, id);

    if (!store_job_get(manager->config.store, tenant, id, arena, job, err))
        return false;
    if (job->wanted != JOB_WANT_pause || job_state_is_final(job->state))
        return refuse(job, "resumed, it is not paused", err);
    if (!store_queue_want(manager->config.store, id, JOB_WANT_run, "resumed", "Job is resumed", err))
        return false;
    /* A trainer that is already on its way out ends as paused and is queued again. */
    if (attempt)
        attempt_tell(attempt, JOB_WANT_run);
    return read_again(manager, tenant, id, arena, job, err);
}

bool job_run_path(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                  const char **path, struct err *err)
{
    struct store_job job;

    *path = rundir_path(arena, manager->data_dir, id);
    return store_job_get(manager->config.store, tenant, id, arena, &job, err);
}
