/* Permissions of checkpoints: which projects besides its own may use a model. For keys that may administer. */
#include "api/api_int.h"
#include "store/permissions.h"

#include <string.h>

enum { PROJECTS_MAX = 1000 };

static void view_permission(struct json_writer *w, const struct store_permission *permission)
{
    json_write_begin_object(w);
    json_put_text(w, "id", permission->id);
    json_put_text(w, "object", "checkpoint.permission");
    json_put_integer(w, "created_at", permission->created_ms / 1000);
    json_put_text(w, "project_id", permission->granted_to);
    json_write_end_object(w);
}

static void answer_permissions(struct call *call, const struct store_permission_list *list)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    list_write_begin(&w);
    for (size_t i = 0; i < list->count; i++)
        view_permission(&w, &list->at[i]);
    list_write_end(&w, LIST_IDS_OR_NULL, list->count ? list->at[0].id : NULL,
                   list->count ? list->at[list->count - 1].id : NULL, list->has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* The model that the path names and whose it is; NULL: answered. */
static const char *find_model(struct call *call, struct tenant *owner)
{
    const char *model = str_copy(call->arena, call->parameter[0]);
    struct err err = {0};

    if (store_model_owner(call->api->config.store, &call->tenant, model, owner, &err))
        return model;
    if (err.code == ERR_NOT_FOUND)
        answer_error(call, 404, "model_not_found", "fine_tuned_model_checkpoint", "The model '%s' does not exist.",
                     model);
    else
        answer_err(call, &err, NULL);
    return NULL;
}

/* {"project_ids": [ … ]} and nothing else. */
static const char **read_projects(struct call *call, const struct json *body, size_t *count, struct problems *problems)
{
    const struct json *ids = json_get(body, "project_ids");
    const char **projects = arena_new_array(call->arena, const char *, PROJECTS_MAX);
    bool is_list = json_has_type(ids, JSON_ARRAY) && ids->count > 0 && ids->count <= PROJECTS_MAX;

    *count = 0;
    json_each(id, is_list ? ids : NULL) {
        is_list &= id->type == JSON_STRING && !memchr(id->string.at, 0, id->string.len);
        projects[(*count)++] = is_list ? str_copy(call->arena, id->string) : NULL;
    }
    if (!is_list)
        problems_add(problems, ids ? "value_error" : "missing", "project_ids", NULL, NULL,
                     "project_ids: must be a list of 1 to %d ids of projects", PROJECTS_MAX);
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "project_ids"))
            problems_add(problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "there is project_ids alone");
    return projects;
}

static void grant(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct store_permission_list list;
    const char *model, **projects;
    struct tenant owner;
    struct err err = {0};
    size_t count;

    if (!(model = find_model(call, &owner)))
        return;
    projects = read_projects(call, body, &count, &problems);
    if (problems.count)
        answer_problems(call, &problems);
    else if (store_permission_grant(call->api->config.store, &owner, model, projects, count, call->arena, &list, &err))
        answer_permissions(call, &list);
    else
        answer_err(call, &err, "project_ids");
}

void permissions_create(struct call *call)
{
    take_json(call, grant);
}

/* Here alone OpenAI spells them out: ascending and descending. */
static void shorten_order(struct url_query *query)
{
    for (size_t i = 0; i < query->count; i++) {
        struct url_pair *pair = &query->pair[i];

        if (str_is(pair->name, "order") && (str_is(pair->value, "ascending") || str_is(pair->value, "descending")))
            pair->value.len -= strlen("ending");
    }
}

void permissions_list(struct call *call)
{
    static const struct list_limits limits = {10, 10, true, true};
    struct store_permission_list permissions = {0};
    const char *model, *project = NULL;
    struct list_query list;
    struct tenant owner;
    struct err err = {0};
    struct str text;

    shorten_order(&call->query);
    if (!(model = find_model(call, &owner)) || !list_read(call, &limits, &list))
        return;
    if (url_query_get(&call->query, "project_id", &text) && text.len)
        project = str_copy(call->arena, text);
    if (list.is_empty ||
        store_permission_list(call->api->config.store, &owner, model, project, &list.page, call->arena, &permissions,
                              &err) ||
        list_is_past_end(&list, &err))
        answer_permissions(call, &permissions);
    else
        answer_err(call, &err, NULL);
}

void permissions_delete(struct call *call)
{
    const char *id = str_copy(call->arena, call->parameter[1]), *model;
    struct tenant owner;
    struct err err = {0};

    if (!(model = find_model(call, &owner)))
        return;
    if (!store_permission_delete(call->api->config.store, &owner, model, id, &err)) {
        answer_err(call, &err, "permission_id");
        return;
    }
    answer_deleted(call, "id", id, "checkpoint.permission");
}
