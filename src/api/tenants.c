/* Organisations: tenants that see nothing of each other. For keys of the one that runs the server. */
#include "api/api_int.h"
#include "os/clock.h"
#include "store/projects.h"

#include <string.h>

enum { NAME_CHARACTERS_MAX = 32 };

/* It becomes a part of the names of models, between colons. */
static const char *read_name(struct call *call, const struct json *body, struct problems *problems)
{
    const struct json *name = json_get(body, "name");
    struct str text = json_string_or(name, STR_NONE);
    bool ok = text.len >= 1 && text.len <= NAME_CHARACTERS_MAX;

    for (size_t i = 0; ok && i < text.len; i++)
        ok = (text.at[i] >= 'a' && text.at[i] <= 'z') || (text.at[i] >= '0' && text.at[i] <= '9') ||
             (text.at[i] == '-' && i > 0);
    if (!ok)
        problems_add(problems, name ? "value_error" : "missing", "name", NULL, NULL,
                     "name: 1 to %d of a-z, 0-9 and hyphens, as it becomes a part of models' names",
                     NAME_CHARACTERS_MAX);
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "name"))
            problems_add(problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "an organization has a name");
    return str_copy(call->arena, text);
}

static void put_organization(struct json_writer *w, const struct store_organization *organization)
{
    json_put_text(w, "id", organization->id);
    json_put_text(w, "object", "organization");
    json_put_text(w, "name", organization->name);
    json_put_integer(w, "created_at", organization->created_ms / 1000);
    json_put_integer(w, "projects", organization->projects);
}

/* With its first project and an administering key of it, shown this once. */
static void create_organization(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct store_key key = {.name = "first", .scopes = "read write admin"};
    struct store_organization made = {
        .name = read_name(call, body, &problems), .created_ms = clock_unix_ms(), .projects = 1};
    char organization_id[STORE_ID_BYTES], project_id[STORE_ID_BYTES], value[API_KEY_BYTES];
    struct strbuf answer = {0};
    struct json_writer w = {.buf = &answer};
    struct tenant tenant = {0};
    struct err err = {0};

    if (problems.count) {
        answer_problems(call, &problems);
        return;
    }
    store_id_organization(organization_id);
    store_id_project(project_id);
    strcpy(tenant.organization_id, organization_id);
    strcpy(tenant.project_id, project_id);
    made.id = organization_id;
    if (!store_project_create(call->api->config.store, &tenant, made.name, "Default project", "nebius", NULL, &err) ||
        !key_add(call->api->config.store, &tenant, &key, value, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    json_write_begin_object(&w);
    put_organization(&w, &made);
    json_put_text(&w, "project_id", project_id);
    json_put_text(&w, "api_key", value);
    json_write_end_object(&w);
    answer_json(call, 200, &answer);
    strbuf_deinit(&answer);
}

void organizations_create(struct call *call)
{
    if (call_check_operator(call))
        take_json(call, create_organization);
}

void organizations_list(struct call *call)
{
    struct store_organization_list list;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};

    if (!call_check_operator(call))
        return;
    if (!store_organization_list(call->api->config.store, call->arena, &list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < list.count; i++) {
        json_write_begin_object(&w);
        put_organization(&w, &list.at[i]);
        json_write_end_object(&w);
    }
    list_write_end(&w, LIST_IDS_OR_NULL, list.count ? list.at[0].id : NULL,
                   list.count ? list.at[list.count - 1].id : NULL, false);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}
