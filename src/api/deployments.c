/* /v0/models: how Nebius' scripts put a checkpoint into service. Here each checkpoint can be asked by its name from the
 * moment it is listed, so nothing is made: the answer says that it is active and under which name. */
#include "api/api_int.h"

#include <string.h>

enum { DEPLOYMENTS_MAX = 10000, LABEL_CHARACTERS_MAX = 512 };

static void view_deployment(struct json_writer *w, struct arena *arena, const struct store_model *model,
                            const char *status)
{
    json_write_begin_object(w);
    json_put_text(w, "name", model->name);
    json_put_text(w, "base_model", model->base_model);
    json_put_text(w, "source", arena_printf(arena, "%s:%s", model->job_id, model->checkpoint_id));
    json_put_text(w, "type", "text2text");
    json_put_text(w, "status", status);
    json_put_null(w, "status_reason");
    json_put_text(w, "job_id", model->job_id);
    json_put_text(w, "checkpoint_id", model->checkpoint_id);
    json_put_integer(w, "created_at", model->created_ms / 1000);
    json_write_end_object(w);
}

static void answer_deployment(struct call *call, const struct store_model *model, const char *status)
{
    struct strbuf body = {0};

    view_deployment(&(struct json_writer){.buf = &body}, call->arena, model, status);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

static void answer_missing(struct call *call, const struct err *err, struct str name)
{
    if (err->code == ERR_NOT_FOUND)
        answer_error(call, 404, "model_not_found", "name", "The model '%.*s' does not exist.", STR_ARG(name));
    else
        answer_err(call, err, NULL);
}

/* --- POST: the checkpoint that source names --- */

static struct str read_label(const struct json *body, const char *name, struct problems *problems)
{
    const struct json *value = json_get(body, name);
    struct str text = json_string_or(value, STR_NONE);

    if (json_is_null(value))
        problems_add(problems, "missing", name, NULL, NULL, "%s is required", name);
    else if (text.len == 0 || text.len > LABEL_CHARACTERS_MAX || memchr(text.at, 0, text.len))
        problems_add(problems, "string_type", name, NULL, NULL, "%s must be a text of 1 to %d bytes", name,
                     LABEL_CHARACTERS_MAX);
    return text;
}

static void check_keys(struct call *call, const struct json *body, struct problems *problems)
{
    static const char *const known[] = {"name", "base_model", "source", "description"};
    const struct json *description = json_get(body, "description");

    if (body->type != JSON_OBJECT)
        problems_add(problems, "dict_type", NULL, NULL, NULL, "the body must be a JSON object");
    json_each(value, body->type == JSON_OBJECT ? body : NULL) {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            is_known |= str_is(value->key, known[i]);
        if (!is_known)
            problems_add(problems, "extra_forbidden", str_copy(call->arena, str_clip(value->key, 64)), NULL, NULL,
                         "%.*s is not known", STR_ARG(str_clip(value->key, 64)));
    }
    if (!json_is_null(description) && description->type != JSON_STRING)
        problems_add(problems, "string_type", "description", NULL, NULL, "description must be a text");
}

/* The model of the checkpoint that "job:checkpoint" names. */
static bool find_source(struct call *call, struct str source, struct store_model *model, struct err *err)
{
    ptrdiff_t split = str_find(source, STR(":"), 0);
    const char *job = str_copy(call->arena, str_slice(source, 0, (size_t)split));
    const char *id = str_copy(call->arena, str_slice(source, (size_t)split + 1, source.len));
    struct store_checkpoint checkpoint;

    return store_checkpoint_get(call->api->config.store, &call->tenant, job, id, call->arena, &checkpoint, err) &&
           store_model_get(call->api->config.store, &call->tenant, checkpoint.model_name, call->arena, model, err);
}

static void deploy(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct str source, base;
    struct store_model model;
    struct err err = {0};

    check_keys(call, body, &problems);
    read_label(body, "name", &problems);
    base = read_label(body, "base_model", &problems);
    source = read_label(body, "source", &problems);
    if (source.len && str_find(source, STR(":"), 0) <= 0)
        problems_add(&problems, "value_error", "source", NULL, NULL,
                     "source must be \"<job>:<checkpoint>\": other sources are not supported");
    if (problems.count == 0 && !find_source(call, source, &model, &err)) {
        answer_missing(call, &err, source);
        return;
    }
    if (problems.count == 0 && !str_is(base, model.base_model))
        problems_add(&problems, "value_error", "base_model", NULL, NULL,
                     "base_model: the base of this checkpoint is %s", model.base_model);
    if (problems.count)
        answer_problems(call, &problems);
    else
        answer_deployment(call, &model, "active");
}

void deployments_create(struct call *call)
{
    take_json(call, deploy);
}

/* --- the others --- */

/* A list without an envelope: that is how Nebius answers here. */
void deployments_list(struct call *call)
{
    struct store_model_list models = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};

    if (!store_model_list(call->api->config.store, &call->tenant,
                          &(struct store_page){.limit = DEPLOYMENTS_MAX, .ascending = true}, call->arena, &models,
                          &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    json_write_begin_array(&w);
    for (size_t i = 0; i < models.count; i++)
        view_deployment(&w, call->arena, &models.at[i], "active");
    json_write_end_array(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void deployments_get(struct call *call)
{
    struct store_model model;
    struct err err = {0};

    if (store_model_get(call->api->config.store, &call->tenant, str_copy(call->arena, call->parameter[0]), call->arena,
                        &model, &err))
        answer_deployment(call, &model, "active");
    else
        answer_missing(call, &err, call->parameter[0]);
}

void deployments_delete(struct call *call)
{
    const char *name = str_copy(call->arena, call->parameter[0]);
    struct store_model model;
    struct err err = {0};

    if (store_model_get(call->api->config.store, &call->tenant, name, call->arena, &model, &err) &&
        store_model_delete(call->api->config.store, &call->tenant, name, &err))
        answer_deployment(call, &model, "deleted");
    else
        answer_missing(call, &err, call->parameter[0]);
}
