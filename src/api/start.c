#include "api/start.h"

#include "hub/cache.h"
#include "hub/name.h"

#include <string.h>

/* from_checkpoint as it was read. */
struct from {
    bool is_given, is_hub;
    const char *repo, *revision;        /* revision NULL: main */
    const char *job_id, *checkpoint_id; /* one of them at least */
};

/* --- reading --- */

static const char *read_text(struct call *call, const struct json *from, const char *name, struct problems *problems)
{
    const struct json *value = json_get(from, name);

    if (json_is_null(value))
        return NULL;
    if (value->type == JSON_STRING && value->string.len > 0 && value->string.len <= 256 &&
        !memchr(value->string.at, 0, value->string.len))
        return str_copy(call->arena, value->string);
    problems_add(problems, "string_type", "from_checkpoint", name, NULL,
                 "from_checkpoint.%s must be a text of 1 to 256 characters", name);
    return NULL;
}

static void check_members(const struct json *value, bool is_hub, struct problems *problems)
{
    static const char *const hub[] = {"type", "repo", "revision", "token"}, *const ours[] = {"type", "job_id",
                                                                                             "checkpoint_id"};
    const char *const *known = is_hub ? hub : ours;
    const size_t count = is_hub ? 4 : 3;

    json_each(member, value) {
        bool is_known = false;

        for (size_t i = 0; i < count; i++)
            is_known |= str_is(member->key, known[i]);
        if (!is_known && member->type != JSON_NULL)
            problems_add(problems, "extra_forbidden", "from_checkpoint", NULL, NULL,
                         "from_checkpoint of type %s does not have a field \"%.*s\"", is_hub ? "hf" : "ft",
                         STR_ARG(str_clip(member->key, 64)));
    }
}

static void check_values(const struct from *from, struct problems *problems)
{
    if (!from->is_hub && !from->job_id && !from->checkpoint_id)
        problems_add(problems, "missing", "from_checkpoint", NULL, NULL,
                     "from_checkpoint of type ft needs a job_id or a checkpoint_id");
    if (from->is_hub && !from->repo)
        problems_add(problems, "missing", "from_checkpoint", "repo", NULL, "from_checkpoint.repo is required");
    else if (from->is_hub && !hub_name_is_repo(str_of(from->repo)))
        problems_add(problems, "value_error", "from_checkpoint", "repo", NULL,
                     "from_checkpoint.repo is the name of a repository: org/name");
    if (from->revision && !hub_name_is_revision(str_of(from->revision)))
        problems_add(problems, "value_error", "from_checkpoint", "revision", NULL,
                     "from_checkpoint.revision is a branch, a tag or a commit");
}

/* The type has a default, so the other members decide where it is left out. */
static void read_from(struct call *call, const struct json *value, struct from *from, struct problems *problems)
{
    struct str type = json_string_or(json_get(value, "type"), STR_NONE);
    const bool is_typed = !json_is_null(json_get(value, "type"));

    *from = (struct from){.is_given = !json_is_null(value)};
    if (!from->is_given)
        return;
    if (value->type != JSON_OBJECT || (is_typed && !str_is(type, "hf") && !str_is(type, "ft"))) {
        problems_add(problems, "value_error", "from_checkpoint", value->type == JSON_OBJECT ? "type" : NULL, NULL,
                     "from_checkpoint is an object of type \"hf\", a repository of the Hugging Face Hub, or \"ft\", a "
                     "job of here");
        return;
    }
    from->is_hub = is_typed ? str_is(type, "hf")
                            : json_is_null(json_get(value, "job_id")) && json_is_null(json_get(value, "checkpoint_id"));
    check_members(value, from->is_hub, problems);
    from->repo = read_text(call, value, "repo", problems);
    from->revision = read_text(call, value, "revision", problems);
    from->job_id = read_text(call, value, "job_id", problems);
    from->checkpoint_id = read_text(call, value, "checkpoint_id", problems);
    check_values(from, problems);
}

static const char *echo(struct call *call, const struct from *from)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_object(&w);
    json_put_text(&w, "type", from->is_hub ? "hf" : "ft");
    json_put_text(&w, from->is_hub ? "repo" : "job_id", from->is_hub ? from->repo : from->job_id);
    json_put_text(&w, from->is_hub ? "revision" : "checkpoint_id", from->is_hub ? from->revision : from->checkpoint_id);
    json_write_end_object(&w);
    json = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return json;
}

/* --- a job of here --- */

static bool answer_missing(struct call *call, const struct err *err, const char *what)
{
    if (err->code == ERR_NOT_FOUND)
        answer_error(call, 404, "checkpoint_not_found", "from_checkpoint", "%s", what);
    else
        answer_err(call, err, "from_checkpoint");
    return false;
}

/* The name of the model that the job or the checkpoint is, and what the job trained. */
static bool find_name(struct call *call, const struct from *from, const char **name, const char **base, struct err *err)
{
    struct store *store = call->api->config.store;
    struct store_checkpoint checkpoint = {.job_id = from->job_id};
    struct store_job job;

    if (from->checkpoint_id &&
        !store_checkpoint_find(store, &call->tenant, from->checkpoint_id, call->arena, &checkpoint, err))
        return false;
    if (from->job_id && strcmp(from->job_id, checkpoint.job_id) != 0)
        return err_set(err, ERR_NOT_FOUND, "the checkpoint is another job's");
    if (!store_job_get(store, &call->tenant, checkpoint.job_id, call->arena, &job, err))
        return false;
    *base = job.model;
    *name = from->checkpoint_id ? checkpoint.model_name : job.fine_tuned_model;
    return *name || err_set(err, ERR_NOT_FOUND, "the job has no result");
}

static bool find_ours(struct call *call, const struct job_request *request, const struct from *from,
                      struct job_start *start, struct problems *problems)
{
    const char *name = NULL, *base = NULL;
    struct err err = {0};

    if (!find_name(call, from, &name, &base, &err) || !model_find(call, str_of(name), &start->place, &err))
        return answer_missing(call, &err,
                              arena_printf(call->arena, "from_checkpoint: no such %s, or it has no result: %s",
                                           from->checkpoint_id ? "checkpoint of that job" : "job",
                                           from->checkpoint_id ? from->checkpoint_id : from->job_id));
    if (!str_is(request->model, base) && !str_is(request->model, start->place.base_id) && !str_is(request->model, name))
        problems_add(problems, "value_error", "model", NULL, NULL,
                     "model: from_checkpoint goes on with %s, whose model is %s", name, base);
    return true;
}

/* --- a repository --- */

/* What the job waits for. base: of an adapter; NULL: what the adapter says. */
static const char *write_base(struct call *call, const struct job_request *request, const char *repo,
                              const char *revision, const struct model_place *base)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_object(&w);
    json_put_text(&w, "repo", repo);
    json_put_text(&w, "revision", revision);
    json_put_text(&w, "base", base ? base->id : NULL);
    json_put_text(&w, "base_path", base ? base->path : NULL);
    json_put_integer(&w, "context_length", request->values.context_length);
    json_put_bool(&w, "lora", request->values.lora);
    json_write_end_object(&w);
    json = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return json;
}

static void wait_for(struct call *call, const struct job_request *request, const char *repo, const char *revision,
                     const struct model_place *base, struct job_start *start)
{
    const char *model = str_copy(call->arena, request->model);

    start->base_json = write_base(call, request, repo, revision, base);
    start->place = (struct model_place){.id = model, .base_id = model, .path = ""};
}

/* A server that fetches nothing still goes on with what its cache has. */
static bool is_cached(struct call *call, const char *repo, const char *revision)
{
    const struct api_config *config = &call->api->config;

    return (config->hub_cache && hub_cache_find(call->arena, config->hub_cache, repo, revision)) ||
           hub_cache_find(call->arena, hub_cache_of_project(call->arena, config->data_dir, call->tenant.project_id),
                          repo, revision);
}

static bool find_hub(struct call *call, const struct job_request *request, const struct from *from,
                     struct job_start *start, struct problems *problems)
{
    const char *model = str_copy(call->arena, request->model);
    struct model_place base = {.id = model};
    struct err err = {0};

    if (!call->api->config.hub_endpoint && !is_cached(call, from->repo, from->revision)) {
        problems_add(problems, "value_error", "from_checkpoint", "repo", NULL,
                     "from_checkpoint.repo: %s is not in this server's cache, and it may not fetch it: its operator "
                     "allows that with --outgoing",
                     from->repo);
        return true;
    }
    if (model_find(call, request->model, &base, &err)) {
        if (base.adapter_path)
            problems_add(problems, "value_error", "model", NULL, NULL,
                         "model: %s is an adapter itself; with from_checkpoint, name the base", model);
    } else if (err.code != ERR_NOT_FOUND) {
        answer_err(call, &err, "model");
        return false;
    } else if (!hub_name_is_repo(request->model)) {
        answer_error(call, 404, "model_not_found", "model", "%s", err.text);
        return false;
    }
    wait_for(call, request, from->repo, from->revision, &base, start);
    return true;
}

/* --- the model alone --- */

static bool find_model(struct call *call, const struct job_request *request, struct job_start *start)
{
    struct err err = {0};

    if (model_find(call, request->model, &start->place, &err))
        return true;
    if (err.code != ERR_NOT_FOUND) {
        answer_error(call, 500, "model_not_found", "model", "%s", err.text);
        return false;
    }
    /* "org/name" alone is taken for a repository: a name without a slash is more likely a mistake. */
    if (call->api->config.hub_endpoint && hub_name_is_repo(request->model) &&
        memchr(request->model.at, '/', request->model.len)) {
        wait_for(call, request, str_copy(call->arena, request->model), NULL, NULL, start);
        return true;
    }
    answer_error(call, 404, "model_not_found", "model", "%s", err.text);
    return false;
}

bool start_find(struct call *call, const struct job_request *request, struct job_start *start,
                struct problems *problems)
{
    struct from from;

    *start = (struct job_start){0};
    read_from(call, request->from_checkpoint, &from, problems);
    if (problems->count) {
        answer_problems(call, problems);
        return false;
    }
    if (from.is_given)
        start->echo_json = echo(call, &from);
    if (!from.is_given)
        return find_model(call, request, start);
    return from.is_hub ? find_hub(call, request, &from, start, problems)
                       : find_ours(call, request, &from, start, problems);
}
