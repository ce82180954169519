/* Secrets of a project: written, replaced, deleted and listed by name, never read. What a job's integrations need and
 * its request does not bring is looked up here. For keys that may administer. */
#include "api/api_int.h"
#include "api/secret_json.h"
#include "store/projects.h"
#include "store/secrets.h"

#include <string.h>

static void write_secret(struct json_writer *w, const struct store_secret *secret)
{
    json_write_begin_object(w);
    json_put_text(w, "object", "organization.project.secret");
    json_put_text(w, "name", secret->name);
    json_put_text(w, "last4", secret->last4[0] ? secret->last4 : NULL);
    json_put_integer(w, "created_at", secret->created_ms / 1000);
    json_put_integer(w, "updated_at", secret->updated_ms / 1000);
    json_write_end_object(w);
}

static bool is_name(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.at[i];
        bool is_letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
        if (!is_letter && (i == 0 || !((c >= '0' && c <= '9') || c == '-' || c == '.')))
            return false;
    }
    return name.len >= 1 && name.len <= STORE_SECRET_NAME_MAX;
}

/* name and value; the value is gone from the request afterwards, whatever is wrong with the rest. */
static const char *read_secret(struct call *call, struct json *body, struct secret *value, struct problems *problems)
{
    const struct json *name = json_get(body, "name");

    if (!secret_json_take(json_get(body, "value"), value))
        problems_add(problems, "value_error", "value", NULL, NULL, "value: must be a text of 1 to %d bytes without NUL",
                     STORE_SECRET_BYTES_MAX);
    json_each(item, body)
        if (!str_is(item->key, "name") && !str_is(item->key, "value"))
            problems_add(problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "a secret has name and value");
    if (!is_name(json_string_or(name, STR_NONE))) {
        problems_add(problems, "value_error", "name", NULL, NULL,
                     "name: 1 to %d letters, digits and _ - . that begin with a letter or _, such as HF_TOKEN",
                     STORE_SECRET_NAME_MAX);
        return NULL;
    }
    return str_copy(call->arena, name->string);
}

static void answer_secret(struct call *call, const struct tenant *tenant, const char *name)
{
    struct store_secret_list secrets;
    struct strbuf body = {0};
    struct err err = {0};

    if (!store_secret_list(call->api->config.store, tenant, "", call->arena, &secrets, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    for (size_t i = 0; i < secrets.count; i++)
        if (strcmp(secrets.at[i].name, name) == 0)
            write_secret(&(struct json_writer){.buf = &body}, &secrets.at[i]);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

static void put_secret(struct call *call, struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct secret value = {0};
    const char *name = read_secret(call, body, &value, &problems);
    struct store_project project;
    struct tenant tenant;
    struct err err = {0};

    if (!project_find(call, &tenant, &project))
        goto out;
    if (problems.count)
        answer_problems(call, &problems);
    else if (store_secret_put(call->api->config.store, &tenant, "", name, &value, &err))
        answer_secret(call, &tenant, name);
    else
        answer_err(call, &err, NULL);
out:
    secret_wipe(&value);
}

void secrets_put(struct call *call)
{
    take_secret_json(call, put_secret);
}

void secrets_list(struct call *call)
{
    struct store_secret_list secrets;
    struct store_project project;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct tenant tenant;
    struct err err = {0};

    if (!project_find(call, &tenant, &project))
        return;
    if (!store_secret_list(call->api->config.store, &tenant, "", call->arena, &secrets, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < secrets.count; i++)
        write_secret(&w, &secrets.at[i]);
    list_write_end(&w, LIST_WITHOUT_IDS, NULL, NULL, false);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void secrets_delete(struct call *call)
{
    const char *name = str_copy(call->arena, call->parameter[1]);
    struct store_project project;
    struct tenant tenant;
    struct err err = {0};

    if (!project_find(call, &tenant, &project))
        return;
    if (!store_secret_delete(call->api->config.store, &tenant, "", name, &err)) {
        answer_err(call, &err, "name");
        return;
    }
    answer_deleted(call, "name", name, "organization.project.secret.deleted");
}
