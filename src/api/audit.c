/* The audit log: a row for each write request that a key was let through with, before its answer, and the list of them.
 */
#include "api/api_int.h"
#include "base/log.h"
#include "store/audit.h"

#include <string.h>

enum { PATH_BYTES_MAX = 512 };

/* Types of OpenAI where it has one. A route that is not here has its method and pattern for a type. */
static const struct {
    enum http_method method;
    const char *pattern, *type; /* NULL: what it does is no write */
} types[] = {
    {HTTP_POST, "v1/files", "file.created"},
    {HTTP_DELETE, "v1/files/{id}", "file.deleted"},
    {HTTP_POST, "v1/uploads", "upload.created"},
    {HTTP_POST, "v1/uploads/{id}/parts", "upload.part.created"},
    {HTTP_POST, "v1/uploads/{id}/complete", "upload.completed"},
    {HTTP_POST, "v1/uploads/{id}/cancel", "upload.cancelled"},
    {HTTP_POST, "v1/fine_tuning/jobs", "fine_tuning.job.created"},
    {HTTP_POST, "v1/fine_tuning/jobs/{id}/cancel", "fine_tuning.job.cancelled"},
    {HTTP_POST, "v1/fine_tuning/jobs/{id}/pause", "fine_tuning.job.paused"},
    {HTTP_POST, "v1/fine_tuning/jobs/{id}/resume", "fine_tuning.job.resumed"},
    {HTTP_DELETE, "v1/fine_tuning/jobs/{id}/checkpoints/{id}", "checkpoint.deleted"},
    {HTTP_POST, "v1/fine_tuning/checkpoints/{model...}/permissions", "checkpoint.permission.created"},
    {HTTP_DELETE, "v1/fine_tuning/checkpoints/{model...}/permissions/{id}", "checkpoint.permission.deleted"},
    {HTTP_DELETE, "v1/models/{id...}", "model.deleted"},
    {HTTP_POST, "v1/organizations", "organization.created"},
    {HTTP_POST, "v1/organization/projects", "project.created"},
    {HTTP_POST, "v1/organization/projects/{id}", "project.updated"},
    {HTTP_POST, "v1/organization/projects/{id}/secrets", "secret.created"},
    {HTTP_DELETE, "v1/organization/projects/{id}/secrets/{id}", "secret.deleted"},
    {HTTP_POST, "v1/organization/projects/{id}/api_keys", "api_key.created"},
    {HTTP_DELETE, "v1/organization/projects/{id}/api_keys/{id}", "api_key.deleted"},
    {HTTP_POST, "v1/webhook_endpoints", "webhook_endpoint.created"},
    {HTTP_POST, "v1/webhook_endpoints/{id}", "webhook_endpoint.updated"},
    {HTTP_DELETE, "v1/webhook_endpoints/{id}", "webhook_endpoint.deleted"},
    {HTTP_POST, "v1/webhook_endpoints/{id}/rotate_secret", "webhook_endpoint.secret.rotated"},
    {HTTP_POST, "v1/webhook_endpoints/{id}/test", "webhook_endpoint.tested"},
    {HTTP_POST, "v1/organization/drain", "drain.begun"},
    {HTTP_DELETE, "v1/organization/drain", "drain.ended"},
    {HTTP_POST, "v1/chat/completions", NULL},
    {HTTP_POST, "v1/completions", NULL},
    {HTTP_POST, "v1/fine_tuning/alpha/graders/run", NULL},
    {HTTP_POST, "v1/fine_tuning/alpha/graders/validate", NULL},
};

static const char *type_of(struct call *call)
{
    enum http_method method = call->request->method;
    struct str dry_run;

    if (method == HTTP_GET || method == HTTP_HEAD ||
        (url_query_get(&call->query, "dry_run", &dry_run) && str_is(dry_run, "true")))
        return NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].method == method && strcmp(types[i].pattern, call->route) == 0)
            return types[i].type;
    return arena_printf(call->arena, "%s /%s", http_method_name(method), call->route);
}

void audit_begin(struct call *call)
{
    call->audit_type = type_of(call);
}

/* What was made says its id; else the path names it, its last part first. */
static const char *object_of(struct call *call, int status, const char *body)
{
    const struct json *answer = status < 300 && body ? json_parse(call->arena, str_of(body), NULL, NULL) : NULL;
    struct str id = json_string_or(json_get(answer, "id"), STR_NONE);

    if (!id.len)
        id = call->parameter[1].len ? call->parameter[1] : call->parameter[0];
    return id.len ? str_copy(call->arena, str_clip(id, PATH_BYTES_MAX)) : NULL;
}

void audit_end(struct call *call, int status, const char *body)
{
    struct store_audit row = {.type = call->audit_type};
    struct err err = {0};

    if (!row.type)
        return;
    call->audit_type = NULL; /* once */
    row.key_id = call->key_id && *call->key_id ? call->key_id : NULL;
    row.object_id = object_of(call, status, body);
    row.method = http_method_name(call->request->method);
    row.path = str_copy(call->arena, str_clip(call->request->path_text, PATH_BYTES_MAX));
    row.status = status;
    row.request_id = call->request->id;
    row.address = call->request->address;
    /* What was done is done: the answer says so, and the log of the server says what is missing. */
    if (!store_audit_add(call->api->config.store, &call->tenant, &row, &err))
        log_line("attune serve: cannot note %s (%s) in the audit log: %s", row.request_id, row.type, err.text);
}

/* --- the list --- */

static void put_array(struct call *call, struct json_writer *w, const char *key, const char *name)
{
    bool is_open = false;

    for (size_t i = 0; i < call->query.count; i++) {
        const struct url_pair *pair = &call->query.pair[i];

        if (!url_is_array_item(pair, name) || pair->value.len == 0)
            continue;
        if (!is_open) {
            json_write_key(w, key);
            json_write_begin_array(w);
        }
        is_open = true;
        json_write_string(w, pair->value);
    }
    if (is_open)
        json_write_end_array(w);
}

/* effective_at[gt] and its like, in Unix seconds, as a range of milliseconds with both its ends. */
static void read_range(struct call *call, int64_t *from_ms, int64_t *to_ms, struct problems *problems)
{
    static const struct {
        const char *name;
        bool is_from;
        int64_t add_ms;
    } ends[] = {{"effective_at[gt]", true, 1000},
                {"effective_at[gte]", true, 0},
                {"effective_at[lt]", false, -1},
                {"effective_at[lte]", false, 999}};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct str text;
        int64_t seconds;

        if (!url_query_get(&call->query, ends[i].name, &text) || text.len == 0)
            continue;
        if (!str_to_i64(text, &seconds) || seconds < 0 || seconds > 253402300799)
            problems_add(problems, "value_error", "effective_at", NULL, NULL, "%s: must be a time in Unix seconds",
                         ends[i].name);
        else if (ends[i].is_from)
            *from_ms = seconds * 1000 + ends[i].add_ms;
        else
            *to_ms = seconds * 1000 + ends[i].add_ms;
    }
}

static const char *read_filter(struct call *call, struct problems *problems)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    int64_t from_ms = 0, to_ms = INT64_MAX;
    const char *filter;

    read_range(call, &from_ms, &to_ms, problems);
    json_write_begin_object(&w);
    put_array(call, &w, "projects", "project_ids");
    put_array(call, &w, "types", "event_types");
    put_array(call, &w, "keys", "actor_ids");
    json_put_integer(&w, "from_ms", from_ms);
    json_put_integer(&w, "to_ms", to_ms);
    json_write_end_object(&w);
    filter = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return filter;
}

static void view_audit(struct json_writer *w, const struct store_audit *row)
{
    json_write_begin_object(w);
    json_put_text(w, "id", row->id);
    json_put_text(w, "type", row->type);
    json_put_integer(w, "effective_at", row->created_ms / 1000);
    json_write_key(w, "project");
    json_write_begin_object(w);
    json_put_text(w, "id", row->project_id);
    json_write_end_object(w);
    json_write_key(w, "actor");
    if (row->key_id) {
        json_write_begin_object(w);
        json_put_text(w, "type", "api_key");
        json_write_key(w, "api_key");
        json_write_begin_object(w);
        json_put_text(w, "id", row->key_id);
        json_write_end_object(w);
        json_write_end_object(w);
    } else {
        json_write_null(w);
    }
    json_put_text(w, "object_id", row->object_id);
    json_write_key(w, "request");
    json_write_begin_object(w);
    json_put_text(w, "id", row->request_id);
    json_put_text(w, "method", row->method);
    json_put_text(w, "path", row->path);
    json_put_integer(w, "status", row->status);
    json_put_text(w, "ip_address", row->address);
    json_write_end_object(w);
    json_write_end_object(w);
}

void audit_logs_list(struct call *call)
{
    static const struct list_limits limits = {20, 20, true, true};
    struct problems problems = {.arena = call->arena};
    const char *filter = read_filter(call, &problems);
    struct store_audit_list rows = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};

    if (problems.count) {
        answer_problems(call, &problems);
        return;
    }
    if (!list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_audit_list(call->api->config.store, &call->tenant, filter, &list.page, call->arena, &rows, &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < rows.count; i++)
        view_audit(&w, &rows.at[i]);
    list_write_end(&w, LIST_IDS_OR_NULL, rows.count ? rows.at[0].id : NULL,
                   rows.count ? rows.at[rows.count - 1].id : NULL, rows.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}
