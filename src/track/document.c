#include "track/tracker_int.h"

#include "base/json.h"
#include "os/file.h"
#include "track/entrusted.h"
#include "track/result.h"

#include <stdio.h>
#include <string.h>

struct tenant delivery_tenant(const struct store_delivery *delivery)
{
    struct tenant tenant = {0};

    snprintf(tenant.organization_id, sizeof tenant.organization_id, "%s", delivery->organization_id);
    snprintf(tenant.project_id, sizeof tenant.project_id, "%s", delivery->project_id);
    return tenant;
}

bool sender_is_webhook(const struct sender *sender)
{
    return strcmp(sender->delivery.kind, "webhook") == 0;
}

const char *sender_parts_path(const struct sender *sender, struct arena *arena)
{
    return path_join(arena, sender->tracker->exports_dir,
                     arena_printf(arena, "%lld.parts", (long long)sender->delivery.number));
}

static void put_raw(struct json_writer *w, const char *key, const char *json)
{
    json_write_key(w, key);
    json_write_raw(w, str_of(json ? json : "null"));
}

static void put_job(struct json_writer *w, struct arena *arena, const struct store_job *job)
{
    const struct json *method = job->method_json ? json_parse(arena, str_of(job->method_json), NULL, NULL) : NULL;

    json_write_key(w, "job");
    json_write_begin_object(w);
    json_put_text(w, "id", job->id);
    json_put_text(w, "state", job_state_name(job->state));
    json_put_integer(w, "started_ms", job->started_ms ? job->started_ms : job->created_ms);
    json_put_integer(w, "finished_ms", job->finished_ms);
    json_put_text(w, "model", job->model);
    json_put_str(w, "method", json_string_or(json_get(method, "type"), STR("supervised")));
    json_put_text(w, "training_file", job->training_file);
    json_put_text(w, "validation_file", job->validation_file);
    json_put_text(w, "suffix", job->suffix);
    json_put_integer(w, "seed", job->seed);
    put_raw(w, "hyperparameters", job->hyperparameters_json);
    json_write_end_object(w);
}

static void put_events(struct json_writer *w, const struct store_event_list *events)
{
    json_write_key(w, "events");
    json_write_begin_array(w);
    for (size_t i = 0; i < events->count; i++) {
        const struct store_event *event = &events->at[i];

        json_write_begin_object(w);
        json_put_integer(w, "seq", event->seq);
        json_put_text(w, "kind", event->kind);
        json_put_text(w, "code", event->code);
        json_put_text(w, "type", event->type);
        json_put_text(w, "level", event->level);
        json_put_text(w, "message", event->message);
        json_put_integer(w, "step", event->step);
        json_put_integer(w, "time_ms", event->created_ms);
        put_raw(w, "data", event->data_json);
        json_write_end_object(w);
    }
    json_write_end_array(w);
}

/* Where a webhook goes is looked up when it goes. */
static bool put_webhook(struct json_writer *w, struct sender *sender, struct store_webhook *webhook, struct err *err)
{
    struct tenant tenant = delivery_tenant(&sender->delivery);
    const struct json *config = json_parse(&sender->arena, str_of(sender->delivery.config_json), NULL, err);
    struct str id = json_string_or(json_get(config, "endpoint"), STR_NONE);

    if (!config || !store_webhook_get(sender->tracker->config.store, &tenant, str_copy(&sender->arena, id),
                                      &sender->arena, webhook, err))
        return false;
    json_write_key(w, "webhook");
    json_write_begin_object(w);
    json_put_text(w, "url", webhook->url);
    json_write_end_object(w);
    return true;
}

/* And the webhook that they are of. */
static bool put_secrets(struct json_writer *w, struct sender *sender, struct err *err)
{
    struct store_webhook webhook;
    bool ok, is_hook = sender_is_webhook(sender);

    if (is_hook && !put_webhook(w, sender, &webhook, err))
        return false;
    json_write_key(w, "secrets");
    json_write_begin_object(w);
    ok = entrusted_put(w, sender->tracker->config.store, &sender->delivery, is_hook ? &webhook : NULL, &sender->arena,
                       err);
    json_write_end_object(w);
    return ok;
}

/* What the last sender of a job needs to hand its result on. */
static bool put_result(struct json_writer *w, struct sender *sender, struct err *err)
{
    const struct tracker_config *config = &sender->tracker->config;
    const struct tenant tenant = delivery_tenant(&sender->delivery);

    if (!sender->is_last || sender_is_webhook(sender))
        return true;
    json_write_key(w, "result");
    return result_write(w, &(struct result_place){config->store, config->data_dir, &tenant, &sender->job},
                        &sender->arena, err);
}

bool sender_document_write(struct sender *sender, struct strbuf *text, struct err *err)
{
    const struct tracker *tracker = sender->tracker;
    const struct store_delivery *delivery = &sender->delivery;
    struct tenant tenant = delivery_tenant(delivery);
    struct json_writer w = {.buf = text};
    struct store_event_list events;

    if (!store_job_get(tracker->config.store, &tenant, delivery->job_id, &sender->arena, &sender->job, err) ||
        !store_event_since(tracker->config.store, &tenant, delivery->job_id, delivery->after_seq, EVENTS_MAX,
                           &sender->arena, &events, err))
        return false;
    if (sender->is_export || sender_is_webhook(sender)) /* they tell how the job ended */
        events.count = 0;
    sender->is_last = job_state_is_final(sender->job.state) && events.count < EVENTS_MAX;
    strbuf_reserve(text, 1 << 20); /* a buffer that does not move leaves no copies of secrets behind */
    json_write_begin_object(&w);
    json_put_text(&w, "kind", delivery->kind);
    json_put_integer(&w, "after_seq", delivery->after_seq);
    json_put_bool(&w, "is_uncertain", delivery->is_uncertain);
    json_put_bool(&w, "is_last", sender->is_last);
    put_raw(&w, "config", delivery->config_json);
    put_raw(&w, "external", delivery->external_json);
    put_job(&w, &sender->arena, &sender->job);
    json_write_key(&w, "operator");
    json_write_begin_object(&w);
    json_put_text(&w, "origins", tracker->config.origins);
    json_put_text(&w, "wandb_url", tracker->config.wandb_url);
    json_put_text(&w, "hub_url", tracker->config.hub_url);
    json_put_text(&w, "parts_path", sender_parts_path(sender, &sender->arena));
    json_write_end_object(&w);
    put_events(&w, &events);
    if (!put_result(&w, sender, err) || !put_secrets(&w, sender, err))
        return false;
    json_write_end_object(&w);
    return true;
}
