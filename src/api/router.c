#include "api/api_int.h"
#include "api/devices.h"
#include "api/prepare.h"
#include "api/workers.h"

#include "store/projects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Everything the API answers. {name} matches one segment; {name...} matches one or more, up to what the pattern has
 * behind it: names of models hold slashes. Then the scope of keys that may, NULL: everybody, without a key; and the
 * query parameters besides ai_project_id: any other would be believed to work and is refused by name. "metadata[]"
 * takes metadata[any]. */
#define PAGE "limit after order "
#define AUDIT                                                                                                          \
    "project_ids project_ids[] event_types event_types[] actor_ids actor_ids[] effective_at[gt] effective_at[gte] "    \
    "effective_at[lt] effective_at[lte]"
#define MODELS " models models[]"
#define USAGE "start_time end_time bucket_width limit page group_by group_by[] project_ids project_ids[]"
#define ROUTES(X)                                                                                                      \
    X(POST, "v1/files", "write", "", files_create)                                                                     \
    X(GET, "v1/files", "read", PAGE "purpose", files_list)                                                             \
    X(GET, "v1/files/{id}", "read", "", files_get)                                                                     \
    X(DELETE, "v1/files/{id}", "write", "", files_delete)                                                              \
    X(GET, "v1/files/{id}/content", "read", "", files_content)                                                         \
    X(GET, "v1/files/{id}/preview", "read", "model line count", files_preview)                                         \
    X(POST, "v1/uploads", "write", "", uploads_create)                                                                 \
    X(POST, "v1/uploads/{id}/parts", "write", "", uploads_add_part)                                                    \
    X(POST, "v1/uploads/{id}/complete", "write", "", uploads_complete)                                                 \
    X(POST, "v1/uploads/{id}/cancel", "write", "", uploads_cancel)                                                     \
    X(POST, "v1/fine_tuning/jobs", "write", "dry_run", jobs_create)                                                    \
    X(GET, "v1/fine_tuning/jobs", "read", PAGE "metadata metadata[]", jobs_list)                                       \
    X(GET, "v1/fine_tuning/jobs/{id}", "read", "", jobs_get)                                                           \
    X(POST, "v1/fine_tuning/jobs/{id}/cancel", "write", "", jobs_cancel)                                               \
    X(POST, "v1/fine_tuning/jobs/{id}/pause", "write", "", jobs_pause)                                                 \
    X(POST, "v1/fine_tuning/jobs/{id}/resume", "write", "", jobs_resume)                                               \
    X(GET, "v1/fine_tuning/jobs/{id}/events", "read", PAGE "stream", events_list)                                      \
    X(GET, "v1/fine_tuning/jobs/{id}/checkpoints", "read", PAGE, checkpoints_list)                                     \
    X(GET, "v1/fine_tuning/jobs/{id}/checkpoints/{id}", "read", "", checkpoints_get)                                   \
    X(DELETE, "v1/fine_tuning/jobs/{id}/checkpoints/{id}", "write", "", checkpoints_delete)                            \
    X(GET, "v1/fine_tuning/jobs/{id}/receipt", "read", "", receipt_get)                                                \
    X(POST, "v1/fine_tuning/checkpoints/{model...}/permissions", "admin", "", permissions_create)                      \
    X(GET, "v1/fine_tuning/checkpoints/{model...}/permissions", "admin", PAGE "project_id", permissions_list)          \
    X(DELETE, "v1/fine_tuning/checkpoints/{model...}/permissions/{id}", "admin", "", permissions_delete)               \
    X(POST, "v1/fine_tuning/alpha/graders/run", "write", "", graders_refuse)                                           \
    X(POST, "v1/fine_tuning/alpha/graders/validate", "write", "", graders_refuse)                                      \
    X(GET, "v1/devices", "read", "", devices_list)                                                                     \
    X(GET, "v1/models", "read", "", models_list)                                                                       \
    X(GET, "v1/models/{id...}", "read", "", models_get)                                                                \
    X(DELETE, "v1/models/{id...}", "write", "", models_delete)                                                         \
    X(POST, "v0/models", "write", "", deployments_create)                                                              \
    X(GET, "v0/models", "read", "", deployments_list)                                                                  \
    X(GET, "v0/models/{id...}", "read", "", deployments_get)                                                           \
    X(DELETE, "v0/models/{id...}", "write", "", deployments_delete)                                                    \
    X(POST, "v1/webhook_endpoints", "write", "", webhooks_create)                                                      \
    X(GET, "v1/webhook_endpoints", "read", PAGE, webhooks_list)                                                        \
    X(GET, "v1/webhook_endpoints/{id}", "read", "", webhooks_get)                                                      \
    X(POST, "v1/webhook_endpoints/{id}", "write", "", webhooks_update)                                                 \
    X(DELETE, "v1/webhook_endpoints/{id}", "write", "", webhooks_delete)                                               \
    X(POST, "v1/webhook_endpoints/{id}/rotate_secret", "write", "", webhooks_rotate)                                   \
    X(POST, "v1/webhook_endpoints/{id}/test", "write", "", webhooks_test)                                              \
    X(GET, "v1/webhook_event_types", "read", "", webhook_types_list)                                                   \
    X(POST, "v1/organizations", "admin", "", organizations_create)                                                     \
    X(GET, "v1/organizations", "admin", "", organizations_list)                                                        \
    X(POST, "v1/organization/projects", "admin", "", projects_create)                                                  \
    X(GET, "v1/organization/projects", "admin", "", projects_list)                                                     \
    X(GET, "v1/organization/projects/{id}", "admin", "", projects_get)                                                 \
    X(POST, "v1/organization/projects/{id}", "admin", "", projects_update)                                             \
    X(POST, "v1/organization/projects/{id}/secrets", "admin", "", secrets_put)                                         \
    X(GET, "v1/organization/projects/{id}/secrets", "admin", "", secrets_list)                                         \
    X(DELETE, "v1/organization/projects/{id}/secrets/{id}", "admin", "", secrets_delete)                               \
    X(POST, "v1/organization/projects/{id}/api_keys", "admin", "", keys_create)                                        \
    X(GET, "v1/organization/projects/{id}/api_keys", "admin", PAGE, keys_list)                                         \
    X(DELETE, "v1/organization/projects/{id}/api_keys/{id}", "admin", "", keys_revoke)                                 \
    X(GET, "v1/organization/usage/completions", "admin", USAGE MODELS, usage_completions)                              \
    X(GET, "v1/organization/usage/fine_tuning", "admin", USAGE MODELS, usage_fine_tuning)                              \
    X(GET, "v1/organization/usage/storage", "admin", USAGE, usage_storage)                                             \
    X(GET, "v1/organization/audit_logs", "admin", PAGE AUDIT, audit_logs_list)                                         \
    X(GET, "v1/organization/drain", "admin", "", drain_get)                                                            \
    X(POST, "v1/organization/drain", "admin", "", drain_begin)                                                         \
    X(DELETE, "v1/organization/drain", "admin", "", drain_end)                                                         \
    X(GET, "metrics", "metrics", "", metrics_get)                                                                      \
    X(POST, "v1/chat/completions", "write", "", chat_create)                                                           \
    X(POST, "v1/completions", "write", "", completions_create)                                                         \
    X(GET, "healthz", NULL, "", health_get)                                                                            \
    X(GET, "readyz", NULL, "", ready_get)

static const struct route {
    enum http_method method;
    const char *pattern, *scope, *query;
    call_fn *run;
} routes[] = {
#define ROUTE(method, pattern, scope, query, run) {HTTP_##method, pattern, scope, query, run},
    ROUTES(ROUTE)
#undef ROUTE
};

/* The segments from one on and before another, joined again. */
static struct str join_segments(struct arena *arena, const struct url_path *path, size_t from, size_t to)
{
    struct strbuf joined = {0};
    struct str text;

    for (size_t i = from; i < to; i++) {
        if (i > from)
            strbuf_add_char(&joined, '/');
        strbuf_add_str(&joined, path->segment[i]);
    }
    text = (struct str){arena_copy(arena, joined.at, joined.len), joined.len};
    strbuf_deinit(&joined);
    return text;
}

static size_t segment_count(const char *pattern)
{
    size_t count = *pattern != 0;

    for (; *pattern; pattern++)
        count += *pattern == '/';
    return count;
}

static bool matches(const char *pattern, struct call *call)
{
    const struct url_path *path = &call->request->path;
    size_t segment = 0, parameter = 0;

    while (*pattern) {
        struct str want = {pattern, strcspn(pattern, "/")};
        if (segment == path->count)
            return false;
        pattern += want.len + (pattern[want.len] == '/');
        if (str_ends(want, STR("...}"))) {
            size_t behind = segment_count(pattern);
            if (path->count <= segment + behind)
                return false;
            call->parameter[parameter++] = join_segments(call->arena, path, segment, path->count - behind);
            segment = path->count - behind;
            continue;
        }
        if (want.at[0] == '{')
            call->parameter[parameter++] = path->segment[segment];
        else if (!str_equal(want, path->segment[segment]))
            return false;
        segment++;
    }
    return segment == path->count;
}

/* The methods that the path knows, "GET, POST"; NULL when it knows none. */
static const char *allowed_methods(struct call *call)
{
    struct strbuf list = {0};
    const char *text = NULL;

    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!matches(routes[i].pattern, call))
            continue;
        strbuf_printf(&list, "%s%s", list.len ? ", " : "", http_method_name(routes[i].method));
        if (routes[i].method == HTTP_GET)
            strbuf_add_text(&list, ", HEAD");
    }
    if (list.len)
        text = arena_copy(call->arena, list.at, list.len);
    strbuf_deinit(&list);
    return text;
}

static void answer_no_route(struct call *call)
{
    const char *allowed = allowed_methods(call);
    struct strbuf body = {0};
    struct http_header allow = {STR("Allow"), str_of(allowed)};

    if (!allowed) {
        answer_error(call, 404, "unknown_url", NULL,
                     "Unknown request URL: %s %.*s. The API is described in docs/openapi.yaml.",
                     http_method_name(call->request->method), STR_ARG(call->request->path_text));
        return;
    }
    http_error_body(&body, 405, NULL, "method_not_allowed", NULL,
                    arena_printf(call->arena, "%s is not allowed here. Allowed: %s.",
                                 http_method_name(call->request->method), allowed));
    http_answer_bytes(call->exchange, &(struct http_response){.status = 405, .headers = &allow, .header_count = 1},
                      strbuf_view(&body));
    strbuf_deinit(&body);
}

static const struct route *find_route(struct call *call)
{
    enum http_method method = call->request->method == HTTP_HEAD ? HTTP_GET : call->request->method;

    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (routes[i].method == method && matches(routes[i].pattern, call))
            return &routes[i];
    return NULL;
}

static void answer_unauthorized(struct call *call, const char *message)
{
    struct http_header challenge = {STR("WWW-Authenticate"), STR("Bearer")};
    struct strbuf body = {0};

    http_error_body(&body, 401, "invalid_request_error", "invalid_api_key", NULL, message);
    http_answer_bytes(call->exchange, &(struct http_response){.status = 401, .headers = &challenge, .header_count = 1},
                      strbuf_view(&body));
    strbuf_deinit(&body);
}

/* A key that was right until it was revoked is no guess. */
static void refuse_key(struct call *call, const struct store_key *row, const struct err *err)
{
    struct failures *failures = call->api->failures;
    int64_t wait_s;

    if (err->code != ERR_AUTH)
        answer_err(call, err, NULL);
    else if (!failures || row->revoked_ms != 0 || row->expires_ms != 0 ||
        failures_note(failures, call->request->source, http_loop_now_ms(call->api->config.loop), &wait_s))
        answer_unauthorized(call, err->text);
    else
        answer_too_many(call, "rate_limit_exceeded", NULL, wait_s,
                        arena_printf(call->arena,
                                     "Too many wrong API keys came from this address. Try again in %lld s.",
                                     (long long)wait_s));
}

/* Who calls, and whether they may: fills the tenant or answers. */
static bool authenticate(struct call *call, const char *scope)
{
    struct str key = http_request_bearer(call->request);
    struct store_key row;
    struct err err = {0};

    call->tenant = tenant_default();
    call->key_id = "";
    call->is_admin = call->api->config.is_open;
    if (call->is_admin)
        return true;
    if (key.len == 0) {
        answer_unauthorized(call, "No API key was sent: put 'Authorization: Bearer KEY' into the request. "
                                  "'attune keys create' makes one.");
        return false;
    }
    if (!key_check(call->api->config.store, key, call->arena, &call->tenant, &row, &err)) {
        refuse_key(call, &row, &err);
        return false;
    }
    call->key_id = row.id;
    call->profile = row.profile;
    call->is_admin = key_has_scope(&row, "admin");
    if (!key_has_scope(&row, scope) && !call->is_admin) {
        answer_error(call, 403, "insufficient_scope", NULL, "This key may not %s.", scope);
        return false;
    }
    return true;
}

static bool check_rate(struct call *call, int64_t limit)
{
    int64_t wait_s;

    if (!limit || rates_take(call->api->rates, &call->tenant, limit, http_loop_now_ms(call->api->config.loop), &wait_s))
        return true;
    answer_too_many(call, "rate_limit_exceeded", NULL, wait_s,
                    arena_printf(call->arena, "The project has used its %lld requests a minute. Try again in %lld s.",
                                 (long long)limit, (long long)wait_s));
    return false;
}

/* ai_project_id and OpenAI-Project name the project. A key belongs to one; those that administer reach all projects of
 * their organisation, for anybody else another one is not there. */
static bool select_project(struct call *call)
{
    struct str named = http_request_header(call->request, "OpenAI-Project");
    struct store_project project;
    struct err err = {0};
    struct str query;
    bool is_known;

    if (url_query_get(&call->query, "ai_project_id", &query) && query.len)
        named = query;
    is_known = !named.len || str_is(named, call->tenant.project_id) ||
               (call->is_admin && named.len < sizeof call->tenant.project_id);
    if (is_known && named.len)
        snprintf(call->tenant.project_id, sizeof call->tenant.project_id, "%.*s", STR_ARG(named));
    if (is_known &&
        !store_project_get(call->api->config.store, &call->tenant, call->arena, &project, &err) &&
        err.code != ERR_NOT_FOUND) {
        answer_err(call, &err, NULL);
        return false;
    }
    if (!is_known || err.code) {
        answer_error(call, 404, "project_not_found", "ai_project_id", "There is no project '%.*s' for this key.",
                     STR_ARG(named));
        return false;
    }
    call->is_openai_profile = strcmp(call->profile ? call->profile : project.profile, "openai") == 0;
    return check_rate(call, project.limits.requests_per_minute);
}

/* A browser that was led here under another name sends that name. HTTP/1.0 may send none; browsers do not speak it. */
static bool check_host(struct call *call)
{
    const struct api_config *config = &call->api->config;
    struct str host = call->request->host;

    if (!config->is_local || host.len == 0 || url_host_is_local(host) ||
        (config->public_host && url_host_is(host, config->public_host)))
        return true;
    answer_error(
        call, 421, NULL, NULL,
        "This server answers to localhost only, not to '%.*s'. Behind a proxy, name its host with --public-host.",
        STR_ARG(host));
    return false;
}

static bool is_known_query(const struct route *route, struct str name)
{
    const char *at = route->query;

    if (str_is(name, "ai_project_id"))
        return true;
    if (str_is(name, "metadata[]"))
        return false;
    if (str_starts(name, STR("metadata[")) && str_ends(name, STR("]")))
        name = STR("metadata[]");
    while (*at) {
        size_t len = strcspn(at, " ");
        if (str_equal(name, (struct str){at, len}))
            return true;
        at += len + (at[len] == ' ');
    }
    return false;
}

/* A list's items repeat their name; of anything else the second would be overlooked. */
static bool is_repeated(const struct call *call, const struct route *route, size_t at)
{
    struct str name = call->query.pair[at].name;
    bool is_item = str_ends(name, STR("[]")) ||
                   is_known_query(route, str_of(arena_printf(call->arena, "%.*s[]", STR_ARG(name))));

    for (size_t i = 0; i < at && !is_item; i++)
        if (str_equal(call->query.pair[i].name, name))
            return true;
    return false;
}

static bool check_query(struct call *call, const struct route *route)
{
    struct problems problems = {.arena = call->arena};

    for (size_t i = 0; i < call->query.count; i++) {
        struct str name = call->query.pair[i].name;
        if (is_repeated(call, route, i))
            problems_add(&problems, "value_error", str_copy(call->arena, name), NULL, NULL,
                         "the query parameter %.*s is given more than once", STR_ARG(name));
        if (!is_known_query(route, name) && call->query.pair[i].value.len > 0)
            problems_add(&problems, "extra_forbidden", str_copy(call->arena, name), NULL, NULL,
                         "the query parameter %.*s is not supported here", STR_ARG(name));
    }
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

bool call_check_operator(struct call *call)
{
    if (strcmp(call->tenant.organization_id, tenant_default().organization_id) == 0)
        return true;
    answer_error(call, 403, "operator_only", NULL, "This is for keys of the organisation that runs the server.");
    return false;
}

static void serve(struct call *call, const struct route *route)
{
    struct err err = {0};

    if (!url_query_decode(call->arena, call->request->query_text, &call->query, &err)) {
        answer_error(call, 400, "invalid_query", NULL, "%s", err.text);
    } else if (!route->scope ||
               (authenticate(call, route->scope) && select_project(call) && check_query(call, route))) {
        audit_begin(call);
        route->run(call);
    }
}

/* GETs that arrive together read one state of the store, which locks it once for all of them. */
static void view_for_this_turn(struct api *api)
{
    store_view_begin(api->config.store);
    http_timer_set(api->turn_end, http_loop_now_ms(api->config.loop));
}

static void on_turn_end(void *context)
{
    struct api *api = context;

    store_view_end(api->config.store);
}

static void on_head(void *context, struct http_exchange *exchange)
{
    const struct http_request *request = http_exchange_request(exchange);
    struct call *call = arena_new(request->arena, struct call);
    const struct route *route;

    *call = (struct call){.api = context, .exchange = exchange, .request = request, .arena = request->arena};
    http_exchange_note(exchange, call);
    if (!check_host(call))
        return;
    route = find_route(call);
    call->route = route ? route->pattern : NULL;
    if (!route) {
        answer_no_route(call);
        return;
    }
    if (route->method == HTTP_GET)
        view_for_this_turn(call->api);
    serve(call, route);
}

void api_request_done(struct api *api, const struct http_request *request, const struct http_outcome *outcome)
{
    const struct call *call = request->note;

    metrics_note_request(api->metrics, call ? call->route : NULL, request->method, outcome);
}

void api_set_server(struct api *api, const struct http_server *server)
{
    api->server = server;
}

void api_job_changed(struct api *api)
{
    event_streams_wake(api->streams);
}

void api_stop(struct api *api, int64_t grace_ms)
{
    event_streams_end(api->streams);
    workers_stop(api->workers, grace_ms - grace_ms / 5);
}

struct http_handler api_handler(struct api *api)
{
    return (struct http_handler){.on_head = on_head, .context = api};
}

struct api *api_new(const struct api_config *config, struct err *err)
{
    struct api *api = mem_alloc_zero(1, sizeof *api);

    api->config = *config;
    api->metrics = metrics_new();
    if (!api->config.file_bytes_max)
        api->config.file_bytes_max = 50ull << 30;
    api->workers = workers_new(&api->config, err);
    api->preparers = api->workers ? preparers_new(&api->config, err) : NULL;
    api->pings = api->preparers ? pings_new(&api->config, err) : NULL;
    if (!api->pings) {
        api_free(api);
        return NULL;
    }
    api->devices = device_watch_new(&api->config);
    api->expiry = expiry_new(&api->config);
    api->upkeep = upkeep_new(&api->config);
    api->streams = event_streams_new(&api->config);
    api->turn_end = http_loop_add_timer(config->loop, INT64_MAX, on_turn_end, api);
    api->rates = rates_new();
    api->usage = usage_book_new(&api->config);
    if (config->auth_failures_per_minute >= 0)
        api->failures = failures_new(config->auth_failures_per_minute ? config->auth_failures_per_minute : 10);
    return api;
}

void api_free(struct api *api)
{
    if (!api)
        return;
    store_view_end(api->config.store);
    http_timer_remove(api->turn_end);
    usage_book_free(api->usage);
    rates_free(api->rates);
    failures_free(api->failures);
    event_streams_free(api->streams);
    expiry_free(api->expiry);
    upkeep_free(api->upkeep);
    pings_free(api->pings);
    preparers_free(api->preparers);
    device_watch_free(api->devices);
    workers_free(api->workers);
    metrics_free(api->metrics);
    free(api);
}
