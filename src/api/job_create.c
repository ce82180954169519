/* POST /v1/fine_tuning/jobs: what the request names is looked up, everything that is wrong is gathered, and the job
 * joins the queue or, with ?dry_run=true, is only estimated. */
#include "api/api_int.h"
#include "api/job_spec.h"
#include "os/file.h"

#include <string.h>

enum { DRAIN_RETRY_S = 60, CONTEXT_MAX = 8192, CONFIG_BYTES_MAX = 1 << 20 };

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
        job_answer(call, &job);
        return;
    }
    if (!job_create(call->api->config.jobs, &call->tenant, &spec, call->arena, &job, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    for (int i = 0; i < request->warning_count; i++)
        store_event_add(call->api->config.store, &call->tenant, job.id, "warn",
                        arena_printf(call->arena, "request_%d", i + 1), request->warnings[i].text, NULL, NULL);
    job_answer(call, &job);
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
    spec = job_spec_make(call, request, integrations, &start);
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
