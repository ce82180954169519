#include "api/api_int.h"
#include "api/integrations.h"
#include "api/job_request.h"
#include "api/start.h"
#include "os/clock.h"
#include "os/file.h"

#include <string.h>
#include <time.h>

enum { DRAIN_RETRY_S = 60, CONTEXT_MAX = 8192, CONFIG_BYTES_MAX = 1 << 20, RECEIPT_BYTES_MAX = 4 << 20 };

/* --- create --- */

/* Longest row of the model, from its config.json; 0: it does not say. What is wrong with the folder is for the trainer
 * to tell. */
static int64_t model_positions(struct call *call, const struct model_place *place)
{
    struct str text;
    const struct json *config;

    if (!file_read(call->arena, path_join(call->arena, place->path, "config.json"), CONFIG_BYTES_MAX, &text, NULL))
        return 0;
    config = json_parse(call->arena, text, NULL, NULL);
    return json_integer_or(json_get(config, "max_position_embeddings"), 0);
}

static void resolve_context(struct call *call, const struct model_place *place, struct job_request *request,
                            struct problems *problems)
{
    int64_t limit = model_positions(call, place), *context = &request->values.context_length;

    if (*context == 0)
        *context = limit > 0 && limit < CONTEXT_MAX ? limit : CONTEXT_MAX;
    else if (limit > 0 && *context > limit)
        problems_add(problems, "value_error", "hyperparameters", "context_length", NULL,
                     "context_length: %s takes at most %lld tokens", place->id, (long long)limit);
}

/* A preference is for dpo, and dpo takes nothing else. */
static void check_kind(const struct store_file *file, const char *field, enum method method, struct problems *problems)
{
    bool is_preference = file->kind && strcmp(file->kind, "preference") == 0;

    if (!file->kind || is_preference == (method == METHOD_DPO))
        return;
    if (is_preference)
        problems_add(problems, "value_error", field, NULL, NULL,
                     "%s: %s holds preferences, which method dpo trains on: set method.type to \"dpo\"", field,
                     file->filename);
    else
        problems_add(problems, "value_error", field, NULL, NULL,
                     "%s: %s holds %s: method dpo takes preferences, with input, preferred_output and "
                     "non_preferred_output or with prompt, chosen and rejected",
                     field, file->filename, file->kind);
}

/* False when it answered that the file is not there. A file that is there but unfit becomes a problem. */
static bool check_file(struct call *call, struct str id, const char *field, enum method method,
                       struct problems *problems)
{
    struct store_file file;
    struct err err = {0};

    if (id.len == 0)
        return true;
    if (!store_file_get(call->api->config.store, &call->tenant, str_copy(call->arena, id), call->arena, &file, &err)) {
        if (err.code == ERR_NOT_FOUND)
            answer_error(call, 404, "file_not_found", field, "No such File object: %.*s", STR_ARG(id));
        else
            answer_err(call, &err, field);
        return false;
    }
    if (strcmp(file.purpose, "fine-tune") != 0)
        problems_add(problems, "value_error", field, NULL, NULL, "%s: file %s has the purpose '%s', not 'fine-tune'",
                     field, file.id, file.purpose);
    else if (strcmp(file.status, "error") == 0)
        problems_add(problems, "invalid_file", field, NULL, NULL, "%s: %s is not valid training data. %s", field,
                     file.filename, file.status_details ? file.status_details : "");
    else
        check_kind(&file, field, method, problems);
    return true;
}

static void check_adapter(const struct model_place *place, struct job_request *request, struct problems *problems)
{
    if (place->adapter_path && !request->values.lora)
        problems_add(problems, "value_error", "hyperparameters", "lora", NULL,
                     "lora: %s is an adapter on %s: set lora to true to go on training it, or name the base", place->id,
                     place->base_id);
}

/* What only the weights can tell is settled when they are here (job/base.c); until then the usual stands for it. */
static void check_start(struct call *call, const struct job_start *start, struct job_request *request,
                        struct problems *problems)
{
    if (start->base_json && request->values.context_length == 0)
        request->values.context_length = CONTEXT_MAX;
    if (start->base_json || problems->count)
        return;
    resolve_context(call, &start->place, request, problems);
    check_adapter(&start->place, request, problems);
}

static bool is_there(const struct job_devices *devices, bool has_cpu, const char *name)
{
    if (strcmp(name, "cpu") == 0)
        return has_cpu;
    for (int i = 0; i < devices->count; i++)
        if (strcmp(name, "cuda") == 0 || strcmp(name, devices->gpu[i].name) == 0)
            return true;
    return false;
}

/* "auto" is a GPU where there is one. */
static void resolve_device(struct call *call, struct job_request *request, struct problems *problems)
{
    const struct job_devices *devices = job_manager_devices(call->api->config.jobs);
    const bool has_cpu = job_manager_has_cpu(call->api->config.jobs);
    struct strbuf list = {0};

    if (strcmp(request->device, "auto") == 0)
        request->device = devices->count ? "cuda" : "cpu";
    if (is_there(devices, has_cpu, request->device))
        return;
    strbuf_printf(&list, "%s", has_cpu ? "cpu" : "");
    for (int i = 0; i < devices->count; i++)
        strbuf_printf(&list, "%s%s", list.len ? ", " : "", devices->gpu[i].name);
    problems_add(problems, "value_error", "device", NULL, NULL, "device: there is no %s here, only %s%s%s",
                 request->device, list.at, devices->count ? "" : "; ", devices->why_none);
    strbuf_deinit(&list);
}

static const char *values_json(struct arena *arena, enum method method, const struct hyperparameters *values)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_object(&w);
#define PUT_INT                                   json_put_integer
#define PUT_FLOAT                                 json_put_number
#define PUT_BOOL                                  json_put_bool
#define PUT(name, kind, standard, min, max, help) PUT_##kind(&w, #name, values->name);
    HYPERPARAMETERS(PUT)
    if (method == METHOD_DPO) {
        DPO_HYPERPARAMETERS(PUT)
    }
#undef PUT
    json_write_end_object(&w);
    json = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return json;
}

/* "options" of job.json. The time is fixed here, so that templates which print today's date give the same tokens in
 * every attempt. */
static const char *options_json(struct arena *arena, const struct job_request *request, int64_t recovery_steps)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    time_t now = (time_t)clock_unix();
    char iso[32];
    struct tm utc;
    const char *json;

    gmtime_r(&now, &utc);
    strftime(iso, sizeof iso, "%Y-%m-%dT%H:%M:%S", &utc);
    json_write_begin_object(&w);
    json_put_text(&w, "over_length", request->over_length);
    json_put_integer(&w, "checkpoint_steps", request->checkpoint_steps);
    if (request->keep_checkpoints)
        json_put_integer(&w, "keep_checkpoints", request->keep_checkpoints);
    json_put_integer(&w, "eval_steps", request->eval_steps);
#define PUT_LORA_OPTION(name)                                                                                          \
    if (request->name)                                                                                                 \
        json_put_value(&w, #name, request->name);
    LORA_OPTIONS(PUT_LORA_OPTION)
#undef PUT_LORA_OPTION
    json_put_text(&w, "lr_scheduler_type", request->lr_scheduler_type);
    json_put_text(&w, "quantization", request->quantization);
    if (strcmp(request->optim, "adamw_torch") != 0)
        json_put_text(&w, "optim", request->optim);
    if (!request->has_tensorboard)
        json_put_bool(&w, "tensorboard", false);
    json_put_text(&w, "init", "model");
    json_put_text(&w, "dtype", "auto");
    if (strcmp(request->device, "cpu") != 0)
        json_put_text(&w, "device", request->device);
    json_put_integer(&w, "threads", 0);
    json_put_integer(&w, "recovery_steps", recovery_steps);
    json_put_text(&w, "now", iso);
    json_write_end_object(&w);
    json = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return json;
}

static const char *json_text(struct arena *arena, const struct json *value)
{
    struct strbuf text = {0};
    const char *json;

    if (!value)
        return NULL;
    json_write_value(&(struct json_writer){.buf = &text}, value);
    json = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return json;
}

/* A single string becomes a list of one. */
static const char *tags_json(struct arena *arena, const struct json *tags)
{
    const char *text = json_text(arena, tags);

    return tags && tags->type == JSON_STRING ? arena_printf(arena, "[%s]", text) : text;
}

static const char *text_or_null(struct arena *arena, struct str text)
{
    return text.len ? str_copy(arena, text) : NULL;
}

static void answer_job(struct call *call, const struct store_job *job)
{
    struct strbuf body = {0};
    struct err err = {0};
    int64_t place;

    if (store_queue_place(call->api->config.store, job, &place, &err)) {
        view_job(&(struct json_writer){.buf = &body}, job, place);
        answer_json(call, 200, &body);
    } else {
        answer_err(call, &err, NULL);
    }
    strbuf_deinit(&body);
}

static struct job_spec make_spec(struct call *call, const struct job_request *request,
                                 const struct integrations *integrations, const struct job_start *start)
{
    const struct model_place *place = &start->place;
    const bool has_use_of_secrets = integrations->count || start->base_json;

    return (struct job_spec){
        .model = place->id,
        .model_path = place->path,
        .adapter_path = place->adapter_path,
        .training_file = str_copy(call->arena, request->training_file),
        .validation_file = text_or_null(call->arena, request->validation_file),
        .suffix = text_or_null(call->arena, request->suffix),
        .seed = request->seed,
        .method = method_name(request->method),
        .hyperparameters_json = values_json(call->arena, request->method, &request->values),
        .options_json = options_json(call->arena, request, call->api->config.recovery_steps),
        .metadata_json = json_text(call->arena, request->metadata),
        .tags_json = tags_json(call->arena, request->tags),
        .device = request->device,
        .priority = request->priority,
        .keep_checkpoints = request->keep_checkpoints,
        .integrations_json = integrations->echo_json,
        .from_checkpoint_json = start->echo_json,
        .base_json = start->base_json,
        .extra = {call->secrets, has_use_of_secrets ? call->secret_count : 0, integrations->at, integrations->count},
    };
}

static void submit(struct call *call, const struct job_request *request, struct job_spec spec)
{
    struct store_job job;
    struct err err = {0};
    char id[STORE_ID_BYTES];

    if (job_manager_drain(call->api->config.jobs).refuses) {
        answer_unavailable(call, "draining", DRAIN_RETRY_S,
                           "The server is about to be maintained and takes no new jobs.");
        return;
    }
    store_id_job(id);
    spec.id = id;
    if (!idempotency_begin(call, id, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    if (call->resource_id && store_job_get(call->api->config.store, &call->tenant, id, call->arena, &job, NULL)) {
        answer_job(call, &job);
        return;
    }
    if (!job_create(call->api->config.jobs, &call->tenant, &spec, call->arena, &job, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    for (int i = 0; i < request->warning_count; i++)
        store_event_add(call->api->config.store, &call->tenant, job.id, "warn",
                        arena_printf(call->arena, "request_%d", i + 1), request->warnings[i].text, NULL, NULL);
    answer_job(call, &job);
}

static bool read_integrations(struct call *call, const struct job_request *request, struct integrations *integrations,
                              struct problems *problems)
{
    const struct api_config *config = &call->api->config;
    struct store_secret_list project_secrets = {0};
    struct err err = {0};

    if (!json_is_null(request->integrations) &&
        !store_secret_list(config->store, &call->tenant, "", call->arena, &project_secrets, &err)) {
        answer_err(call, &err, NULL);
        return false;
    }
    integrations_read(call->arena, request->integrations,
                      &(struct integration_places){.origins = &config->origins,
                                                   .wandb_url = config->wandb_url,
                                                   .hub_url = config->hub_url,
                                                   .secrets = call->secrets,
                                                   .secret_count = call->secret_count,
                                                   .project_secrets = &project_secrets,
                                                   .may_name_secrets = call->is_admin},
                      integrations, problems);
    return true;
}

static void create_from(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct job_request *request = arena_new(call->arena, struct job_request);
    struct integrations *integrations = arena_new(call->arena, struct integrations);
    struct job_start start;
    struct job_spec spec;

    if (!job_request_read(call->arena, body, request, &problems)) {
        answer_problems(call, &problems);
        return;
    }
    if (!start_find(call, request, &start, &problems) ||
        !check_file(call, request->training_file, "training_file", request->method, &problems) ||
        !check_file(call, request->validation_file, "validation_file", request->method, &problems))
        return;
    if (!read_integrations(call, request, integrations, &problems))
        return;
    check_start(call, &start, request, &problems);
    resolve_device(call, request, &problems);
    if (problems.count) {
        answer_problems(call, &problems);
        return;
    }
    spec = make_spec(call, request, integrations, &start);
    if (call->is_dry_run && start.base_json)
        answer_error(call, 400, "model_not_here", "model",
                     "A dry run needs the model here, and it is still to be fetched from the Hugging Face Hub.");
    else if (call->is_dry_run)
        estimate_answer(call, request, &spec);
    else
        submit(call, request, spec);
}

/* ?dry_run=true; false: answered that it is neither that nor false. */
static bool read_dry_run(struct call *call)
{
    struct problems problems = {.arena = call->arena};
    struct str value = STR("false");

    url_query_get(&call->query, "dry_run", &value);
    call->is_dry_run = str_is(value, "true");
    if (call->is_dry_run || value.len == 0 || str_is(value, "false"))
        return true;
    problems_add(&problems, "bool_parsing", "dry_run", NULL, NULL, "dry_run must be true or false");
    answer_problems(call, &problems);
    return false;
}

void jobs_create(struct call *call)
{
    if (read_dry_run(call))
        take_json(call, create_from);
}

/* --- one job --- */

static void answer_missing_or(struct call *call, const struct err *err)
{
    if (err->code == ERR_NOT_FOUND)
        answer_error(call, 404, "fine_tune_not_found", "fine_tune_id", "Could not find fine tune: %.*s",
                     STR_ARG(call->parameter[0]));
    else if (err->code == ERR_CONFLICT)
        answer_error(call, 400, "invalid_state", NULL, "%s", err->text);
    else
        answer_err(call, err, NULL);
}

void jobs_get(struct call *call)
{
    struct store_job job;
    struct err err = {0};

    if (store_job_get(call->api->config.store, &call->tenant, str_copy(call->arena, call->parameter[0]), call->arena,
                      &job, &err))
        answer_job(call, &job);
    else
        answer_missing_or(call, &err);
}

typedef bool job_change(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                        struct store_job *job, struct err *err);

static void change(struct call *call, job_change *how)
{
    struct store_job job;
    struct err err = {0};

    if (how(call->api->config.jobs, &call->tenant, str_copy(call->arena, call->parameter[0]), call->arena, &job, &err))
        answer_job(call, &job);
    else
        answer_missing_or(call, &err);
}

void jobs_cancel(struct call *call)
{
    change(call, job_cancel);
}

void jobs_pause(struct call *call)
{
    change(call, job_pause);
}

void jobs_resume(struct call *call)
{
    change(call, job_resume);
}

/* --- lists --- */

/* metadata[key]=value pairs as a JSON object, "null" for metadata=null, NULL for neither. */
static const char *metadata_filter(struct call *call)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *filter = NULL;
    struct str value;
    int count = 0;

    if (url_query_get(&call->query, "metadata", &value) && str_is(value, "null"))
        return "null";
    json_write_begin_object(&w);
    for (size_t i = 0; i < call->query.count; i++) {
        struct str name = call->query.pair[i].name;
        if (!str_starts(name, STR("metadata[")) || !str_ends(name, STR("]")))
            continue;
        json_write_key_str(&w, str_slice(name, 9, name.len - 1));
        json_write_string(&w, call->query.pair[i].value);
        count++;
    }
    json_write_end_object(&w);
    if (count)
        filter = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return filter;
}

void jobs_list(struct call *call)
{
    static const struct list_limits limits = {20, 20, true, true};
    struct store_job_list jobs = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};

    if (!list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_job_list(call->api->config.store, &call->tenant, metadata_filter(call), &list.page, call->arena, &jobs,
                        &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    err = (struct err){0};
    for (size_t i = 0; i < jobs.count && !err.code; i++) {
        int64_t place;

        if (store_queue_place(call->api->config.store, &jobs.at[i], &place, &err))
            view_job(&w, &jobs.at[i], place);
    }
    list_write_end(&w, LIST_WITHOUT_IDS, NULL, NULL, jobs.has_more);
    if (err.code)
        answer_err(call, &err, NULL);
    else
        answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

const char *call_find_job(struct call *call)
{
    const char *id = str_copy(call->arena, call->parameter[0]);
    struct store_job job;
    struct err err = {0};

    if (store_job_get(call->api->config.store, &call->tenant, id, call->arena, &job, &err))
        return id;
    answer_missing_or(call, &err);
    return NULL;
}

void checkpoints_list(struct call *call)
{
    static const struct list_limits limits = {100, 10, false, true};
    const char *id = call_find_job(call);
    struct store_checkpoint_list checkpoints = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};
    size_t last;

    if (!id || !list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_checkpoint_list(call->api->config.store, &call->tenant, id, &list.page, call->arena, &checkpoints,
                               &err) &&
        !list_is_past_end(&list, &err)) {
        answer_missing_or(call, &err);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < checkpoints.count; i++)
        view_checkpoint(&w, &checkpoints.at[i]);
    last = checkpoints.count ? checkpoints.count - 1 : 0;
    list_write_end(&w, LIST_IDS_OR_NULL, checkpoints.count ? checkpoints.at[0].id : NULL,
                   checkpoints.count ? checkpoints.at[last].id : NULL, checkpoints.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

static void answer_no_checkpoint_or(struct call *call, const struct err *err)
{
    if (err->code == ERR_NOT_FOUND)
        answer_error(call, 404, "checkpoint_not_found", "checkpoint_id", "Could not find checkpoint: %.*s",
                     STR_ARG(call->parameter[1]));
    else
        answer_err(call, err, NULL);
}

void checkpoints_get(struct call *call)
{
    const char *id = call_find_job(call);
    struct store_checkpoint checkpoint;
    struct strbuf body = {0};
    struct err err = {0};

    if (!id)
        return;
    if (!store_checkpoint_get(call->api->config.store, &call->tenant, id, str_copy(call->arena, call->parameter[1]),
                              call->arena, &checkpoint, &err)) {
        answer_no_checkpoint_or(call, &err);
        return;
    }
    view_checkpoint(&(struct json_writer){.buf = &body}, &checkpoint);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void checkpoints_delete(struct call *call)
{
    const char *id = call_find_job(call), *checkpoint = str_copy(call->arena, call->parameter[1]);
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};

    if (!id)
        return;
    if (!job_discard_checkpoint(call->api->config.jobs, &call->tenant, id, checkpoint, &err)) {
        answer_no_checkpoint_or(call, &err);
        return;
    }
    api_job_changed(call->api);
    json_write_begin_object(&w);
    json_put_text(&w, "id", checkpoint);
    json_put_text(&w, "object", "fine_tuning.job.checkpoint");
    json_put_bool(&w, "deleted", true);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* The trainer's file, on one line. */
static bool read_receipt(struct call *call, struct strbuf *body, struct err *err)
{
    const char *id = str_copy(call->arena, call->parameter[0]), *folder;
    const struct json *receipt;
    struct str text;

    if (!job_run_path(call->api->config.jobs, &call->tenant, id, call->arena, &folder, err))
        return false;
    if (!file_exists(path_join(call->arena, folder, "receipt.json")))
        return err_set(err, ERR_CONFLICT, "Job %s has no receipt: a job gets one when it succeeds", id);
    if (!file_read(call->arena, path_join(call->arena, folder, "receipt.json"), RECEIPT_BYTES_MAX, &text, err))
        return false;
    receipt = json_parse(call->arena, text, NULL, err);
    json_write_value(&(struct json_writer){.buf = body}, receipt);
    return receipt != NULL;
}

void receipt_get(struct call *call)
{
    struct strbuf body = {0};
    struct err err = {0};

    if (read_receipt(call, &body, &err))
        answer_json(call, 200, &body);
    else
        answer_missing_or(call, &err);
    strbuf_deinit(&body);
}
