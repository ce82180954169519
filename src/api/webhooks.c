/* Webhook endpoints of a project: where it hears how its jobs ended. The paths, fields and answers are those of
 * OpenAI's SDKs; "status" is attune's. The signing secret is shown when it is made, and never again. */
#include "api/api_int.h"
#include "base/hash.h"
#include "os/clock.h"
#include "os/entropy.h"
#include "store/webhooks.h"

#include <string.h>

enum { NAME_CHARACTERS_MAX = 128, URL_BYTES_MAX = 2048, SECRET_BYTES = 32, OLD_SECRET_MS = 24 * 3600 * 1000 };

static const char *const event_types[] = {"fine_tuning.job.succeeded", "fine_tuning.job.failed",
                                          "fine_tuning.job.cancelled"};
enum { EVENT_TYPES = sizeof event_types / sizeof *event_types };

const char *webhook_event_type(struct str name)
{
    for (size_t i = 0; i < EVENT_TYPES; i++)
        if (str_is(name, event_types[i]))
            return event_types[i];
    return NULL;
}

/* --- answers --- */

/* secret NULL: it is not shown. */
static void view(struct json_writer *w, const struct store_webhook *webhook, const char *secret)
{
    json_write_begin_object(w);
    json_put_text(w, "id", webhook->id);
    json_put_text(w, "object", "webhook_endpoint");
    json_put_integer(w, "created_at", webhook->created_ms / 1000);
    json_put_integer(w, "updated_at", webhook->updated_ms / 1000);
    json_put_text(w, "name", webhook->name);
    json_put_text(w, "url", webhook->url);
    json_write_key(w, "event_types");
    json_write_raw(w, str_of(webhook->event_types_json));
    json_put_text(w, "status", webhook->is_enabled ? "enabled" : "disabled");
    json_put_text(w, "signing_secret_hint", webhook->secret_hint);
    if (secret)
        json_put_text(w, "signing_secret", secret);
    json_write_end_object(w);
}

static void answer_webhook(struct call *call, const char *id, const char *secret)
{
    struct store_webhook webhook;
    struct strbuf body = {0};
    struct err err = {0};

    if (!store_webhook_get(call->api->config.store, &call->tenant, id, call->arena, &webhook, &err)) {
        answer_err(call, &err, "webhook_endpoint_id");
        return;
    }
    strbuf_reserve(&body, 8192); /* a buffer that does not move leaves no copies behind */
    view(&(struct json_writer){.buf = &body}, &webhook, secret);
    answer_json(call, 200, &body);
    memory_erase(body.at, body.cap);
    strbuf_deinit(&body);
}

/* --- what is sent --- */

static void read_name(struct call *call, const struct json *value, struct store_webhook *webhook,
                      struct problems *problems)
{
    struct str name = json_string_or(value, STR_NONE);

    if (name.len == 0 || utf8_length(name) > NAME_CHARACTERS_MAX || memchr(name.at, 0, name.len))
        problems_add(problems, "value_error", "name", NULL, NULL, "name: must be a text of 1 to %d characters",
                     NAME_CHARACTERS_MAX);
    else
        webhook->name = str_copy(call->arena, name);
}

static void read_url(struct call *call, const struct json *value, struct store_webhook *webhook,
                     struct problems *problems)
{
    struct str text = json_string_or(value, STR_NONE);
    struct outgoing_url url;
    struct err err = {0};

    if (text.len == 0 || text.len > URL_BYTES_MAX)
        problems_add(problems, "value_error", "url", NULL, NULL, "url: must be a URL of at most %d bytes",
                     URL_BYTES_MAX);
    else if (!outgoing_url_parse(call->arena, text, &url, &err) ||
             !outgoing_find_rule(&call->api->config.origins, &url, &err))
        problems_add(problems, "value_error", "url", NULL, NULL, "url: %s", err.text);
    else
        webhook->url = str_copy(call->arena, text);
}

/* In the order of the table, each once. */
static void read_event_types(struct call *call, const struct json *value, struct store_webhook *webhook,
                             struct problems *problems)
{
    bool is_list = json_has_type(value, JSON_ARRAY) && value->count > 0, is_wanted[EVENT_TYPES] = {0};
    struct strbuf text = {0};

    json_each(item, is_list ? value : NULL) {
        const char *type = webhook_event_type(json_string_or(item, STR_NONE));

        for (size_t i = 0; i < EVENT_TYPES; i++)
            is_wanted[i] |= type == event_types[i];
        is_list &= type != NULL;
    }
    if (!is_list) {
        problems_add(problems, "value_error", "event_types", NULL, NULL,
                     "event_types: must be a list of %s, %s and %s, at least one of them", event_types[0],
                     event_types[1], event_types[2]);
        return;
    }
    for (size_t i = 0; i < EVENT_TYPES; i++)
        if (is_wanted[i])
            strbuf_printf(&text, "%s\"%s\"", text.len ? "," : "[", event_types[i]);
    strbuf_add_char(&text, ']');
    webhook->event_types_json = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
}

static void read_status(const struct json *value, struct store_webhook *webhook, struct problems *problems)
{
    struct str status = json_string_or(value, STR_NONE);

    webhook->is_enabled = str_is(status, "enabled");
    if (!webhook->is_enabled && !str_is(status, "disabled"))
        problems_add(problems, "enum", "status", NULL, NULL, "status: must be enabled or disabled");
}

/* Members that are there. With is_new the first three are required. False: answered. */
static bool read_body(struct call *call, const struct json *body, bool is_new, struct store_webhook *webhook)
{
    struct problems problems = {.arena = call->arena};

    if (body->type != JSON_OBJECT)
        problems_add(&problems, "dict_type", NULL, NULL, NULL, "The body must be a JSON object.");
    if (is_new || json_get(body, "name"))
        read_name(call, json_get(body, "name"), webhook, &problems);
    if (is_new || json_get(body, "url"))
        read_url(call, json_get(body, "url"), webhook, &problems);
    if (is_new || json_get(body, "event_types"))
        read_event_types(call, json_get(body, "event_types"), webhook, &problems);
    if (json_get(body, "status"))
        read_status(json_get(body, "status"), webhook, &problems);
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "name") && !str_is(item->key, "url") && !str_is(item->key, "event_types") &&
            !str_is(item->key, "status"))
            problems_add(&problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "a webhook endpoint has name, url, event_types and status");
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

/* --- the secret --- */

struct made {
    struct secret secret;
    char text[80]; /* whsec_<base64> */
    char hint[16];
};

static void make_secret(struct made *made)
{
    struct strbuf text = {0};
    uint8_t bytes[SECRET_BYTES];
    size_t len;

    entropy_fill(bytes, sizeof bytes);
    strbuf_reserve(&text, sizeof made->text);
    strbuf_add_text(&text, "whsec_");
    base64_encode(bytes, sizeof bytes, &text);
    memcpy(made->text, text.at, text.len + 1);
    len = strlen(made->text);
    secret_set(&made->secret, str_of(made->text));
    memcpy(made->hint, "whsec_…", sizeof "whsec_…");
    strncat(made->hint, made->text + len - 5, 4); /* before the padding */
    memory_erase(bytes, sizeof bytes);
    memory_erase(text.at, text.cap);
    strbuf_deinit(&text);
}

static void made_wipe(struct made *made)
{
    secret_wipe(&made->secret);
    memory_erase(made, sizeof *made);
}

/* --- handlers --- */

static const char *endpoint_of(struct call *call)
{
    return str_copy(call->arena, call->parameter[0]);
}

static void create(struct call *call, struct json *body)
{
    struct store_webhook webhook = {.is_enabled = 1};
    char id[STORE_ID_BYTES] = "we_";
    struct made made = {0};
    struct err err = {0};

    if (!read_body(call, body, true, &webhook))
        return;
    entropy_hex(id + 3, 16);
    make_secret(&made);
    webhook.id = id;
    webhook.secret_hint = made.hint;
    if (store_webhook_create(call->api->config.store, &call->tenant, &webhook, &made.secret, &err))
        answer_webhook(call, id, made.text);
    else
        answer_err(call, &err, NULL);
    made_wipe(&made);
}

/* The answer holds a secret, so it is not kept for an Idempotency-Key. */
void webhooks_create(struct call *call)
{
    take_secret_json(call, create);
}

void webhooks_list(struct call *call)
{
    static const struct list_limits limits = {20, 20, true, true};
    struct store_webhook_list webhooks = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};

    if (!list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_webhook_list(call->api->config.store, &call->tenant, &list.page, call->arena, &webhooks, &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < webhooks.count; i++)
        view(&w, &webhooks.at[i], NULL);
    list_write_end(&w, LIST_IDS_OR_NULL, webhooks.count ? webhooks.at[0].id : NULL,
                   webhooks.count ? webhooks.at[webhooks.count - 1].id : NULL, webhooks.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void webhooks_get(struct call *call)
{
    answer_webhook(call, endpoint_of(call), NULL);
}

static bool is_same(const struct store_webhook *a, const struct store_webhook *b)
{
    return a->is_enabled == b->is_enabled && strcmp(a->name, b->name) == 0 && strcmp(a->url, b->url) == 0 &&
           strcmp(a->event_types_json, b->event_types_json) == 0;
}

static void update(struct call *call, const struct json *body)
{
    struct store *store = call->api->config.store;
    const char *id = endpoint_of(call);
    struct store_webhook before, webhook;
    struct err err = {0};

    if (!store_webhook_get(store, &call->tenant, id, call->arena, &before, &err)) {
        answer_err(call, &err, "webhook_endpoint_id");
        return;
    }
    webhook = before;
    if (!read_body(call, body, false, &webhook))
        return;
    webhook.updated_ms = clock_unix_ms();
    if (is_same(&before, &webhook) || store_webhook_update(store, &call->tenant, &webhook, &err))
        answer_webhook(call, id, NULL);
    else
        answer_err(call, &err, NULL);
}

void webhooks_update(struct call *call)
{
    take_json(call, update);
}

void webhooks_delete(struct call *call)
{
    const char *id = endpoint_of(call);
    struct err err = {0};

    if (!store_webhook_delete(call->api->config.store, &call->tenant, id, &err)) {
        answer_err(call, &err, "webhook_endpoint_id");
        return;
    }
    answer_deleted(call, "id", id, "webhook_endpoint.deleted");
}

/* Whether the old secret stays for a day; false: answered. */
static bool read_rotation(struct call *call, const struct json *body, bool *is_kept)
{
    const struct json *keep = json_get(body, "keep_old_secret_active_for_24_hours");
    struct problems problems = {.arena = call->arena};

    *is_kept = json_bool_or(keep, false);
    if (body->type != JSON_OBJECT)
        problems_add(&problems, "dict_type", NULL, NULL, NULL, "The body must be a JSON object.");
    if (!json_is_null(keep) && keep->type != JSON_BOOL)
        problems_add(&problems, "bool_type", "keep_old_secret_active_for_24_hours", NULL, NULL,
                     "keep_old_secret_active_for_24_hours: must be true or false");
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "keep_old_secret_active_for_24_hours"))
            problems_add(&problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "there is keep_old_secret_active_for_24_hours alone");
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

static void rotate(struct call *call, struct json *body)
{
    const char *id = endpoint_of(call);
    struct made made = {0};
    struct err err = {0};
    bool is_kept;

    if (!read_rotation(call, body, &is_kept))
        return;
    make_secret(&made);
    if (store_webhook_rotate(call->api->config.store, &call->tenant, id, &made.secret, made.hint,
                             is_kept ? clock_unix_ms() + OLD_SECRET_MS : 0, &err))
        answer_webhook(call, id, made.text);
    else
        answer_err(call, &err, "webhook_endpoint_id");
    made_wipe(&made);
}

void webhooks_rotate(struct call *call)
{
    take_secret_json(call, rotate);
}

void webhook_types_list(struct call *call)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    json_write_begin_object(&w);
    json_put_text(&w, "object", "list");
    json_write_key(&w, "data");
    json_write_begin_array(&w);
    for (size_t i = 0; i < EVENT_TYPES; i++)
        json_write_text(&w, event_types[i]);
    json_write_end_array(&w);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}
