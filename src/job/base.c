/* The weights that a job has waited for are here. */
#include "job/manager_int.h"

#include "base/json.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20, JOB_BYTES_MAX = 8 << 20, CONTEXT_MAX = 8192 };

/* A job on its way from waiting to ready. */
struct arrival {
    struct job_manager *manager;
    struct arena *arena;
    struct store_job row;
    struct tenant tenant;
    struct job_spec spec;
};

/* --- what only the weights could tell --- */

static bool read_limit(struct arrival *arrival, int64_t *limit, struct err *err)
{
    const char *path = path_join(arrival->arena, arrival->spec.model_path, "config.json");
    const struct json *config;
    struct str text;

    if (!file_read(arrival->arena, path, CONFIG_BYTES_MAX, &text, err) ||
        !(config = json_parse(arrival->arena, text, NULL, err)))
        return err_prefix(err, "the model's config.json");
    *limit = json_integer_or(json_get(config, "max_position_embeddings"), 0);
    return true;
}

/* The same object with another context_length. */
static const char *with_context(struct arrival *arrival, int64_t context)
{
    const struct json *values = json_parse(arrival->arena, str_of(arrival->row.hyperparameters_json), NULL, NULL);
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_object(&w);
    json_each(value, values) {
        json_write_key_str(&w, value->key);
        if (str_is(value->key, "context_length"))
            json_write_integer(&w, context);
        else
            json_write_value(&w, value);
    }
    json_write_end_object(&w);
    json = str_copy(arrival->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return json;
}

/* As api/jobs.c does it for models that are here: what was left out is as long as the model takes. */
static bool settle_context(struct arrival *arrival, const struct json *waited, struct err *err)
{
    const int64_t asked = json_integer_or(json_get(waited, "context_length"), 0);
    int64_t limit = 0, length;

    if (!read_limit(arrival, &limit, err))
        return false;
    if (limit > 0 && asked > limit)
        return err_set(err, ERR_INPUT, "context_length: %s takes at most %lld tokens", arrival->row.model,
                       (long long)limit);
    length = limit > 0 && limit < CONTEXT_MAX ? limit : CONTEXT_MAX;
    arrival->spec.hyperparameters_json = with_context(arrival, asked ? asked : length);
    return true;
}

static bool check_adapter(const struct arrival *arrival, const struct json *waited, struct err *err)
{
    if (!arrival->spec.adapter_path || json_bool_or(json_get(waited, "lora"), false))
        return true;
    return err_set(err, ERR_INPUT, "lora: %.*s is an adapter: set lora to true to go on training it, or name the base",
                   STR_ARG(json_string_or(json_get(waited, "repo"), STR_NONE)));
}

/* --- the job anew --- */

/* Without what the manager adds to them. */
static const char *read_options(struct arrival *arrival, const struct json *job)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_object(&w);
    json_each(option, json_get(job, "options")) {
        if (str_is(option->key, "memory_bytes"))
            continue;
        json_write_key_str(&w, option->key);
        json_write_value(&w, option);
    }
    json_write_end_object(&w);
    json = str_copy(arrival->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return json;
}

static bool read_spec(struct arrival *arrival, const char *run_dir, struct err *err)
{
    const struct store_job *row = &arrival->row;
    struct job_spec *spec = &arrival->spec;
    const struct json *job;
    struct str text;

    if (!file_read(arrival->arena, path_join(arrival->arena, run_dir, "job.json"), JOB_BYTES_MAX, &text, err) ||
        !(job = json_parse(arrival->arena, text, NULL, err)))
        return false;
    spec->id = row->id;
    spec->model = row->model;
    spec->training_file = row->training_file;
    spec->validation_file = row->validation_file;
    spec->suffix = row->suffix;
    spec->seed = row->seed;
    spec->device = row->device;
    spec->method = str_copy(arrival->arena, json_string_or(json_get(job, "method"), STR("supervised")));
    spec->options_json = read_options(arrival, job);
    return true;
}

static bool rewrite(struct arrival *arrival, const char *run_dir, struct err *err)
{
    struct store_job *row = &arrival->row;
    struct job_spec *spec = &arrival->spec;
    struct job_files files;
    struct rundir_job job;

    spec_find_needs(arrival->manager, &arrival->tenant, spec, &row->memory_bytes, &row->disk_bytes);
    if (!room_can_ever_be(arrival->manager, row->disk_bytes, err) ||
        !spec_describe(arrival->manager, &arrival->tenant, spec, row, arrival->arena, &files, &job, err) ||
        !rundir_rewrite(run_dir, &job, err))
        return false;
    row->model_path = spec->model_path;
    row->hyperparameters_json = spec->hyperparameters_json;
    row->method_json = spec_method(arrival->arena, spec);
    return store_queue_base_arrived(arrival->manager->config.store, row, err);
}

static bool take(struct arrival *arrival, struct err *err)
{
    const char *run_dir = rundir_path(arrival->arena, arrival->manager->data_dir, arrival->row.id);
    const struct json *waited = json_parse(arrival->arena, str_of(arrival->row.base_json), NULL, err);

    snprintf(arrival->tenant.organization_id, sizeof arrival->tenant.organization_id, "%s",
             arrival->row.organization_id);
    snprintf(arrival->tenant.project_id, sizeof arrival->tenant.project_id, "%s", arrival->row.project_id);
    return waited && check_adapter(arrival, waited, err) && settle_context(arrival, waited, err) &&
           read_spec(arrival, run_dir, err) && rewrite(arrival, run_dir, err);
}

bool job_base_arrived(struct job_manager *manager, const char *id, const char *model_path, const char *adapter_path,
                      struct err *err)
{
    struct arena arena = {0};
    struct arrival arrival = {
        .manager = manager, .arena = &arena, .spec = {.model_path = model_path, .adapter_path = adapter_path}};
    bool ok = store_queue_get(manager->config.store, id, &arena, &arrival.row, err);

    if (ok && !arrival.row.base_json)
        ok = err_set(err, ERR_CONFLICT, "%s does not wait for its weights", id);
    ok = ok && take(&arrival, err);
    if (ok) {
        manager_changed(manager, &arrival.tenant, id);
        manager_wake(manager);
    }
    arena_deinit(&arena);
    return ok;
}

bool job_base_failed(struct job_manager *manager, const char *id, const struct err *why, struct err *err)
{
    struct arena arena = {0};
    struct tenant tenant = {0};
    struct store_job row;
    bool ok = store_queue_get(manager->config.store, id, &arena, &row, err);

    if (ok) {
        struct store_move move = {.id = id,
                                  .attempt = row.attempt,
                                  .to = JOB_STATE_failed,
                                  .level = "error",
                                  .code = "failed",
                                  .message = why->text,
                                  .error_code = err_code_name(why->code),
                                  .error_message = why->text};

        snprintf(tenant.organization_id, sizeof tenant.organization_id, "%s", row.organization_id);
        snprintf(tenant.project_id, sizeof tenant.project_id, "%s", row.project_id);
        ok = row.state == JOB_STATE_queued || err_set(err, ERR_CONFLICT, "%s does not wait any more", id);
        ok = ok && store_queue_move(manager->config.store, &move, err);
    }
    if (ok) {
        manager_clean(manager, id);
        manager_changed(manager, &tenant, id);
    }
    arena_deinit(&arena);
    return ok;
}
