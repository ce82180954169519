/* The organisation's own routes: its projects, what they may use, and their keys. For keys that may administer. */
#include "api/api_int.h"
#include "os/clock.h"
#include "store/projects.h"

#include <string.h>

enum { NAME_CHARACTERS_MAX = 128 };

static void put_limits(struct json_writer *w, const struct store_limits *limits)
{
    json_write_key(w, "limits");
    json_write_begin_object(w);
#define PUT_LIMIT(name) limits->name ? json_put_integer(w, #name, limits->name) : json_put_null(w, #name);
    STORE_LIMITS(PUT_LIMIT)
#undef PUT_LIMIT
    json_write_end_object(w);
}

static bool write_project(struct call *call, struct json_writer *w, const struct store_project *project,
                          struct err *err)
{
    struct tenant tenant = call->tenant;
    struct store_usage usage;

    strcpy(tenant.project_id, project->project_id);
    if (!store_project_usage(call->api->config.store, &tenant, &usage, err))
        return false;
    json_write_begin_object(w);
    json_put_text(w, "id", project->project_id);
    json_put_text(w, "object", "organization.project");
    json_put_integer(w, "created_at", project->created_ms / 1000);
    json_put_text(w, "name", project->name);
    json_put_text(w, "profile", project->profile);
    put_limits(w, &project->limits);
    json_write_key(w, "usage");
    json_write_begin_object(w);
    json_put_integer(w, "storage_bytes", usage.storage_bytes);
    json_put_integer(w, "jobs", usage.jobs);
    json_put_integer(w, "running_jobs", usage.running_jobs);
    json_write_end_object(w);
    json_write_end_object(w);
    return true;
}

static void answer_project(struct call *call, const struct tenant *tenant)
{
    struct strbuf body = {0};
    struct store_project project;
    struct err err = {0};

    if (store_project_get(call->api->config.store, tenant, call->arena, &project, &err) &&
        write_project(call, &(struct json_writer){.buf = &body}, &project, &err))
        answer_json(call, 200, &body);
    else
        answer_err(call, &err, "project_id");
    strbuf_deinit(&body);
}

bool project_find(struct call *call, struct tenant *tenant, struct store_project *project)
{
    struct str id = call->parameter[0];
    struct err err = {0};

    *tenant = call->tenant;
    if (id.len < sizeof tenant->project_id) {
        memcpy(tenant->project_id, id.at, id.len);
        tenant->project_id[id.len] = 0;
        if (store_project_get(call->api->config.store, tenant, call->arena, project, &err))
            return true;
    }
    answer_error(call, err.code && err.code != ERR_NOT_FOUND ? 500 : 404, "project_not_found", "project_id",
                 "There is no project '%.*s'.", STR_ARG(str_clip(id, 64)));
    return false;
}

/* --- what a request says --- */

static const char *read_name(struct call *call, const struct json *value, struct problems *problems)
{
    if (value->type == JSON_STRING && value->string.len && utf8_length(value->string) <= NAME_CHARACTERS_MAX &&
        !memchr(value->string.at, 0, value->string.len))
        return str_copy(call->arena, value->string);
    problems_add(problems, "value_error", "name", NULL, NULL, "name: must be a text of 1 to %d characters",
                 NAME_CHARACTERS_MAX);
    return NULL;
}

static void read_limit(const struct json *value, int64_t *limit, const char *name, struct problems *problems)
{
    if (json_is_null(value))
        *limit = 0;
    else if (value->type == JSON_NUMBER && value->is_integer && value->integer > 0)
        *limit = value->integer;
    else
        problems_add(problems, "value_error", "limits", name, NULL,
                     "limits.%s: must be an integer above 0, or null for no limit", name);
}

static void read_limits(const struct json *object, struct store_limits *limits, struct problems *problems)
{
    if (object->type != JSON_OBJECT)
        problems_add(problems, "value_error", "limits", NULL, NULL, "limits: must be an object, not %s",
                     json_type_name(object));
    json_each(item, object) {
        bool is_known = false;
#define READ_LIMIT(name)                                                                                               \
    if (str_is(item->key, #name)) {                                                                                    \
        is_known = true;                                                                                               \
        read_limit(item, &limits->name, #name, problems);                                                              \
    }
        STORE_LIMITS(READ_LIMIT)
#undef READ_LIMIT
        if (!is_known)
            problems_add(problems, "extra_forbidden", "limits", str_copy(problems->arena, str_clip(item->key, 64)),
                         NULL, "limits: there are storage_bytes, jobs, running_jobs and requests_per_minute");
    }
}

/* name, profile and limits, each as given; what is absent stays as it is. */
static void read_project(struct call *call, const struct json *body, struct store_project *project,
                         struct problems *problems)
{
    if (body->type != JSON_OBJECT)
        problems_add(problems, "value_error", NULL, NULL, NULL, "the body must be an object, not %s",
                     json_type_name(body));
    json_each(item, body->type == JSON_OBJECT ? body : NULL) {
        if (str_is(item->key, "name"))
            project->name = read_name(call, item, problems);
        else if (str_is(item->key, "limits"))
            read_limits(item, &project->limits, problems);
        else if (!str_is(item->key, "profile"))
            problems_add(problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "a project has name, profile and limits");
        else if (item->type == JSON_STRING && (str_is(item->string, "nebius") || str_is(item->string, "openai")))
            project->profile = str_copy(call->arena, item->string);
        else
            problems_add(problems, "value_error", "profile", NULL, NULL, "profile: must be nebius or openai");
    }
}

/* --- projects --- */

static void create_project(struct call *call, const struct json *body)
{
    struct store *store = call->api->config.store;
    struct store_project project = {.profile = "nebius"};
    struct problems problems = {.arena = call->arena};
    struct tenant tenant = call->tenant;
    char id[STORE_ID_BYTES];
    struct err err = {0};

    read_project(call, body, &project, &problems);
    if (!problems.count && !project.name)
        problems_add(&problems, "missing", "name", NULL, NULL, "name: a required property");
    if (problems.count) {
        answer_problems(call, &problems);
        return;
    }
    store_id_project(id);
    strcpy(tenant.project_id, id);
    if (store_project_create(store, &tenant, tenant.organization_id, project.name, project.profile, &project.limits,
                             &err))
        answer_project(call, &tenant);
    else
        answer_err(call, &err, NULL);
}

void projects_create(struct call *call)
{
    take_json(call, create_project);
}

static void update_project(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct store_project project;
    struct tenant tenant;
    struct err err = {0};

    if (!project_find(call, &tenant, &project))
        return;
    read_project(call, body, &project, &problems);
    if (problems.count)
        answer_problems(call, &problems);
    else if (store_project_update(call->api->config.store, &tenant, &project, &err))
        answer_project(call, &tenant);
    else
        answer_err(call, &err, NULL);
}

void projects_update(struct call *call)
{
    take_json(call, update_project);
}

void projects_get(struct call *call)
{
    struct store_project project;
    struct tenant tenant;

    if (project_find(call, &tenant, &project))
        answer_project(call, &tenant);
}

void projects_list(struct call *call)
{
    struct store_project_list projects;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};
    bool ok = store_project_list(call->api->config.store, &call->tenant, call->arena, &projects, &err);

    list_write_begin(&w);
    for (size_t i = 0; ok && i < projects.count; i++)
        ok = write_project(call, &w, &projects.at[i], &err);
    list_write_end(&w, LIST_IDS_OR_NULL, projects.count ? projects.at[0].project_id : NULL,
                   projects.count ? projects.at[projects.count - 1].project_id : NULL, false);
    if (ok)
        answer_json(call, 200, &body);
    else
        answer_err(call, &err, NULL);
    strbuf_deinit(&body);
}

/* --- keys --- */

static void write_key(struct json_writer *w, const struct store_key *key, const char *value)
{
    struct str rest = str_of(key->scopes);

    json_write_begin_object(w);
    json_put_text(w, "id", key->id);
    json_put_text(w, "object", "organization.project.api_key");
    json_put_text(w, "name", key->name);
    json_write_key(w, "scopes");
    json_write_begin_array(w);
    while (rest.len) {
        ptrdiff_t space = str_find(rest, STR(" "), 0);
        size_t len = space < 0 ? rest.len : (size_t)space;
        json_write_string(w, str_slice(rest, 0, len));
        rest = str_slice(rest, len + 1, rest.len);
    }
    json_write_end_array(w);
    json_put_integer(w, "created_at", key->created_ms / 1000);
    json_write_key(w, "last_used_at");
    key->last_used_ms ? json_write_integer(w, key->last_used_ms / 1000) : json_write_null(w);
    json_write_key(w, "revoked_at");
    key->revoked_ms ? json_write_integer(w, key->revoked_ms / 1000) : json_write_null(w);
    json_write_key(w, "expires_at");
    key->expires_ms ? json_write_integer(w, key->expires_ms / 1000) : json_write_null(w);
    json_put_text(w, "profile", key->profile);
    if (value)
        json_put_text(w, "value", value);
    json_write_end_object(w);
}

/* Words separated by spaces, as the store has them. */
static const char *read_scopes(struct call *call, const struct json *scopes, struct problems *problems)
{
    const char *text = "";

    if (json_is_null(scopes))
        return "read write";
    json_each(scope, scopes->type == JSON_ARRAY ? scopes : NULL) {
        struct str word = json_string_or(scope, STR_NONE);
        if (!str_is(word, "read") && !str_is(word, "write") && !str_is(word, "admin") &&
            !str_is(word, "metrics"))
            text = NULL;
        text = text ? arena_printf(call->arena, "%s%s%.*s", text, *text ? " " : "", STR_ARG(word)) : NULL;
        if (!text)
            break;
    }
    if (!text || !*text || scopes->count > 4)
        problems_add(problems, "value_error", "scopes", NULL, NULL, "scopes: a list of read, write, admin and metrics");
    return text;
}

/* 0: never. */
static int64_t read_expiry(const struct json *value, struct problems *problems)
{
    const int64_t latest = 253402300799; /* the end of the year 9999 */

    if (json_is_null(value))
        return 0;
    if (value->type == JSON_NUMBER && value->is_integer && value->integer > clock_unix() && value->integer <= latest)
        return value->integer * 1000;
    problems_add(problems, "value_error", "expires_at", NULL, NULL,
                 "expires_at: must be a time to come in Unix seconds, or null for a key that does not expire");
    return 0;
}

static const char *read_profile(struct call *call, const struct json *value, struct problems *problems)
{
    struct str word = json_string_or(value, STR_NONE);

    if (json_is_null(value))
        return NULL;
    if (!str_is(word, "nebius") && !str_is(word, "openai"))
        problems_add(problems, "value_error", "profile", NULL, NULL, "profile: must be nebius or openai");
    return str_copy(call->arena, word);
}

static void create_key(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    const struct json *given = json_get(body, "name");
    const char *name = json_is_null(given) ? "key" : read_name(call, given, &problems);
    struct store_key wanted = {.name = name,
                               .scopes = read_scopes(call, json_get(body, "scopes"), &problems),
                               .expires_ms = read_expiry(json_get(body, "expires_at"), &problems),
                               .profile = read_profile(call, json_get(body, "profile"), &problems)};
    struct strbuf answer = {0};
    struct store_project project;
    struct tenant tenant;
    struct store_key row;
    char key[API_KEY_BYTES];
    struct err err = {0};

    if (!project_find(call, &tenant, &project))
        return;
    if (body->type != JSON_OBJECT)
        problems_add(&problems, "value_error", NULL, NULL, NULL, "the body must be an object, not %s",
                     json_type_name(body));
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "name") && !str_is(item->key, "scopes") && !str_is(item->key, "expires_at") &&
            !str_is(item->key, "profile"))
            problems_add(&problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "a key has name, scopes, expires_at and profile");
    if (problems.count) {
        answer_problems(call, &problems);
        return;
    }
    if (!key_add(call->api->config.store, &tenant, &wanted, key, &err) ||
        !key_read(call->api->config.store, &tenant, arena_copy(call->arena, key, API_KEY_ID_LEN), call->arena, &row,
                 &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    write_key(&(struct json_writer){.buf = &answer}, &row, key);
    answer_json(call, 200, &answer);
    strbuf_deinit(&answer);
}

void keys_create(struct call *call)
{
    take_json(call, create_key);
}

void keys_list(struct call *call)
{
    static const struct list_limits limits = {100, 100, false, false};
    struct store_key_list keys = {0};
    struct store_project project;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct tenant tenant;
    struct err err = {0};

    if (!project_find(call, &tenant, &project) || !list_read(call, &limits, &list))
        return;
    if (!list.is_empty && !key_list(call->api->config.store, &tenant, &list.page, call->arena, &keys, &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < keys.count; i++)
        write_key(&w, &keys.at[i], NULL);
    list_write_end(&w, LIST_IDS_OR_NULL, keys.count ? keys.at[0].id : NULL,
                   keys.count ? keys.at[keys.count - 1].id : NULL, keys.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void keys_revoke(struct call *call)
{
    const char *id = str_copy(call->arena, call->parameter[1]);
    struct store_project project;
    struct tenant tenant;
    struct err err = {0};

    if (!project_find(call, &tenant, &project))
        return;
    if (!key_revoke(call->api->config.store, &tenant, id, &err)) {
        answer_err(call, &err, "key_id");
        return;
    }
    answer_deleted(call, "id", id, "organization.project.api_key.deleted");
}
