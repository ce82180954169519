#include "track/tracker.h"

#include "base/json.h"
#include "base/log.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/process.h"
#include "track/entrusted.h"
#include "track/result.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SENDERS_MAX = 4,
    EXPORTS_MAX = 2, /* besides them: each sends for long */
    BATCH_MS = 2000,
    REAP_MS = 1000, /* for a child that was killed */
    RETRY_MS = 1000,
    RETRY_MS_MAX = 600000,
    WARN_AFTER = 3,        /* failures in a row */
    GIVE_UP_MS = 86400000, /* after the job's end */
    SENDER_MS = 600000,    /* one that says nothing for so long is killed */
    PATIENCE_MS = 60000,   /* between two notes that it may take longer */
    EVENTS_MAX = 1000,
    LINE_BYTES_MAX = 64 << 10,
    MESSAGE_BYTES_MAX = 600,
};

struct sender {
    struct tracker *tracker;
    struct sender *next;
    struct arena arena; /* of the delivery and its job */
    struct store_delivery delivery;
    struct store_job job;
    bool is_last, is_export;
    int64_t patience_ms; /* when that was noted last */
    struct process process;
    int out_fd;
    struct http_watch *watch;
    struct http_timer *timer;
    struct strbuf line;
    const char *end, *message; /* as it told them; NULL: not yet */
    int64_t wait_ms, again_ms;
};

struct tracker {
    struct tracker_config config;
    char program[PATH_MAX];
    struct arena arena;
    const char *log_path;
    struct http_timer *timer;
    struct sender *first;
    int count, export_count;
    const char *exports_dir;
};

static struct tenant tenant_of(const struct store_delivery *delivery)
{
    struct tenant tenant = {0};

    snprintf(tenant.organization_id, sizeof tenant.organization_id, "%s", delivery->organization_id);
    snprintf(tenant.project_id, sizeof tenant.project_id, "%s", delivery->project_id);
    return tenant;
}

static void complain(const struct store_delivery *delivery, const char *what, const struct err *err)
{
    log_line("job %s: integration %lld: %s: %s", delivery->job_id, (long long)delivery->position, what, err->text);
}

static struct store *store_of(const struct sender *sender)
{
    return sender->tracker->config.store;
}

/* --- the document --- */

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

static bool is_webhook(const struct sender *sender)
{
    return strcmp(sender->delivery.kind, "webhook") == 0;
}

/* Where a webhook goes is looked up when it goes. */
static bool put_webhook(struct json_writer *w, struct sender *sender, struct store_webhook *webhook, struct err *err)
{
    struct tenant tenant = tenant_of(&sender->delivery);
    const struct json *config = json_parse(&sender->arena, str_of(sender->delivery.config_json), NULL, err);
    struct str id = json_string_or(json_get(config, "endpoint"), STR_NONE);

    if (!config || !store_webhook_get(store_of(sender), &tenant, str_copy(&sender->arena, id), &sender->arena, webhook,
                                      err))
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
    bool ok, is_hook = is_webhook(sender);

    if (is_hook && !put_webhook(w, sender, &webhook, err))
        return false;
    json_write_key(w, "secrets");
    json_write_begin_object(w);
    ok = entrusted_put(w, store_of(sender), &sender->delivery, is_hook ? &webhook : NULL, &sender->arena, err);
    json_write_end_object(w);
    return ok;
}

/* What a Hub export knows of its parts outlives its sender, and goes with its end. */
static const char *parts_path(const struct sender *sender, struct arena *arena)
{
    return path_join(arena, sender->tracker->exports_dir,
                     arena_printf(arena, "%lld.parts", (long long)sender->delivery.number));
}

/* What the last sender of a job needs to hand its result on. */
static bool put_result(struct json_writer *w, struct sender *sender, struct err *err)
{
    const struct tracker_config *config = &sender->tracker->config;
    const struct tenant tenant = tenant_of(&sender->delivery);

    if (!sender->is_last || is_webhook(sender))
        return true;
    json_write_key(w, "result");
    return result_write(w, &(struct result_place){config->store, config->data_dir, &tenant, &sender->job},
                        &sender->arena, err);
}

static bool write_document(struct sender *sender, struct strbuf *text, struct err *err)
{
    const struct tracker *tracker = sender->tracker;
    const struct store_delivery *delivery = &sender->delivery;
    struct tenant tenant = tenant_of(delivery);
    struct json_writer w = {.buf = text};
    struct store_event_list events;

    if (!store_job_get(tracker->config.store, &tenant, delivery->job_id, &sender->arena, &sender->job, err) ||
        !store_event_since(tracker->config.store, &tenant, delivery->job_id, delivery->after_seq, EVENTS_MAX,
                           &sender->arena, &events, err))
        return false;
    if (sender->is_export || is_webhook(sender)) /* they tell how the job ended */
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
    json_put_text(&w, "parts_path", parts_path(sender, &sender->arena));
    json_write_end_object(&w);
    put_events(&w, &events);
    if (!put_result(&w, sender, err) || !put_secrets(&w, sender, err))
        return false;
    json_write_end_object(&w);
    return true;
}

/* --- the end of a sender --- */

static void sender_free(struct sender *sender)
{
    struct sender **at = &sender->tracker->first;
    struct process_end end;

    while (*at != sender)
        at = &(*at)->next;
    *at = sender->next;
    *(sender->is_export ? &sender->tracker->export_count : &sender->tracker->count) -= 1;
    http_watch_remove(sender->watch);
    http_timer_remove(sender->timer);
    process_kill_group(&sender->process, NULL);
    if (sender->process.pidfd >= 0)
        fd_wait_readable(sender->process.pidfd, REAP_MS);
    process_has_ended(&sender->process, &end);
    process_close(&sender->process);
    fd_close(&sender->out_fd);
    strbuf_deinit(&sender->line);
    arena_deinit(&sender->arena);
    free(sender);
}

static int64_t retry_wait(const struct sender *sender)
{
    const int64_t first = sender->tracker->config.retry_ms;
    const int64_t failures = sender->delivery.failures < 20 ? sender->delivery.failures : 20;
    const int64_t wait = first << failures < RETRY_MS_MAX ? first << failures : RETRY_MS_MAX;

    return wait > sender->wait_ms ? wait : sender->wait_ms;
}

static const char *name_of(struct sender *sender)
{
    const struct store_delivery *delivery = &sender->delivery;
    const struct json *config = json_parse(&sender->arena, str_of(delivery->config_json), NULL, NULL);

    if (is_webhook(sender))
        return arena_printf(&sender->arena, "webhook endpoint %.*s",
                            STR_ARG(json_string_or(json_get(config, "endpoint"), STR_NONE)));
    return arena_printf(&sender->arena, "integrations.%lld (%s)", (long long)delivery->position, delivery->kind);
}

/* Once a delivery: the event's identity is its code. */
static void warn(struct sender *sender, const char *what)
{
    struct tracker *tracker = sender->tracker;
    struct tenant tenant = tenant_of(&sender->delivery);
    struct err err = {0};
    char text[1024];

    snprintf(text, sizeof text, "%s: %s: %s", name_of(sender), what,
             sender->message ? sender->message : "the sender ended without a word");
    log_redact(text);
    if (!store_event_add(tracker->config.store, &tenant, sender->delivery.job_id, "warn",
                         arena_printf(&sender->arena, "%s_%lld", is_webhook(sender) ? "webhook" : "integration",
                                      (long long)sender->delivery.position),
                         text, NULL, &err))
        complain(&sender->delivery, "cannot warn", &err);
    else if (tracker->config.on_change)
        tracker->config.on_change(tracker->config.callback_context, &tenant, sender->delivery.job_id);
}

static struct store_delivery_end judge(struct sender *sender)
{
    const int64_t now_ms = clock_unix_ms(), failures = sender->delivery.failures + 1;
    struct store_delivery_end end = {.state = "pending", .next_ms = now_ms + sender->tracker->config.batch_ms};
    const bool is_over = sender->job.finished_ms && now_ms - sender->job.finished_ms > GIVE_UP_MS;

    if (sender->end && strcmp(sender->end, "ok") == 0) {
        if (sender->is_last)
            end.state = "done";
        end.wake_ms = sender->again_ms ? now_ms + sender->again_ms : 0;
        return end;
    }
    end.failures = failures;
    end.is_uncertain = true;
    end.next_ms = end.wake_ms = now_ms + retry_wait(sender);
    if ((sender->end && strcmp(sender->end, "failed") == 0) || is_over) {
        end.state = "failed";
        warn(sender, "given up, what is not there yet is not sent");
    } else if (failures == WARN_AFTER) {
        warn(sender, "not reached, tried again until a day after the job's end");
    }
    return end;
}

static void sender_end(struct sender *sender)
{
    struct tracker *tracker = sender->tracker;
    struct store_delivery_end end = judge(sender);
    struct err err = {0};

    if (!store_delivery_end(tracker->config.store, &sender->delivery, &end, &err))
        complain(&sender->delivery, "cannot store how a delivery ended", &err);
    else if (sender->is_export && strcmp(end.state, "pending") != 0)
        file_remove(parts_path(sender, &sender->arena), NULL);
    sender_free(sender);
    tracker_wake(tracker);
}

/* --- what a sender tells --- */

static bool add_event(struct sender *sender, const struct json *event, struct err *err)
{
    const struct tracker_config *config = &sender->tracker->config;
    const struct tenant tenant = tenant_of(&sender->delivery);
    const char *code = arena_printf(&sender->arena, "integration_%lld_%.*s", (long long)sender->delivery.position,
                                    STR_ARG(str_clip(json_string_or(json_get(event, "code"), STR("told")), 32)));
    char *message =
        str_copy(&sender->arena, str_clip(json_string_or(json_get(event, "message"), STR_NONE), MESSAGE_BYTES_MAX));

    log_redact(message);
    if (!store_event_add(config->store, &tenant, sender->delivery.job_id, "info", code, message, NULL, err))
        return false;
    if (config->on_change)
        config->on_change(config->callback_context, &tenant, sender->delivery.job_id);
    return true;
}

static void pass_stop(struct sender *sender)
{
    const struct tracker_config *config = &sender->tracker->config;
    const struct tenant tenant = tenant_of(&sender->delivery);

    if (config->on_stop)
        config->on_stop(config->callback_context, &tenant, sender->delivery.job_id);
}

static void take_line(struct sender *sender, struct str text)
{
    struct err err = {0};
    const struct json *line = json_parse(&sender->arena, text, NULL, &err), *external = json_get(line, "external");
    struct str end = json_string_or(json_get(line, "end"), STR_NONE);
    struct strbuf copy = {0};
    bool ok = line != NULL;

    if (external && external->type == JSON_OBJECT)
        json_write_value(&(struct json_writer){.buf = &copy}, external);
    if (ok && json_get(line, "delivered"))
        ok = store_delivery_progress(store_of(sender), sender->delivery.number, copy.at,
                                     json_integer_or(json_get(line, "delivered"), 0), &err);
    if (ok && json_get(line, "event"))
        ok = add_event(sender, json_get(line, "event"), &err);
    if (ok && json_bool_or(json_get(line, "stop"), false))
        pass_stop(sender);
    if (end.len) {
        sender->end = str_copy(&sender->arena, end);
        sender->message =
            str_copy(&sender->arena, str_clip(json_string_or(json_get(line, "message"), STR_NONE), MESSAGE_BYTES_MAX));
        sender->wait_ms = json_integer_or(json_get(line, "wait_ms"), 0);
        sender->again_ms = json_integer_or(json_get(line, "again_ms"), 0);
    }
    if (!ok)
        complain(&sender->delivery, "cannot store progress", &err);
    strbuf_deinit(&copy);
}

static void take_lines(struct sender *sender)
{
    struct str rest = strbuf_view(&sender->line);
    struct strbuf left = {0};

    for (ptrdiff_t end; (end = str_find(rest, STR("\n"), 0)) >= 0; rest = str_slice(rest, (size_t)end + 1, rest.len))
        take_line(sender, str_slice(rest, 0, (size_t)end));
    strbuf_add_str(&left, rest);
    strbuf_deinit(&sender->line);
    sender->line = left;
}

/* A sign of life: the deadline moves, here and for a server after this one. */
static void be_patient(struct sender *sender)
{
    const int64_t now_ms = http_loop_now_ms(sender->tracker->config.loop);
    struct err err = {0};

    http_timer_set(sender->timer, now_ms + SENDER_MS);
    if (now_ms - sender->patience_ms < PATIENCE_MS)
        return;
    sender->patience_ms = now_ms;
    if (!store_delivery_begin(sender->tracker->config.store, sender->delivery.number,
                              clock_unix_ms() + 2 * (int64_t)SENDER_MS, &err))
        complain(&sender->delivery, "cannot store that it takes longer", &err);
}

static void on_output(void *context, uint32_t events)
{
    struct sender *sender = context;
    char bytes[4096];
    long got;

    (void)events;
    while ((got = fd_read_some(sender->out_fd, bytes, sizeof bytes)) > 0) {
        strbuf_add(&sender->line, bytes, (size_t)got);
        take_lines(sender);
        be_patient(sender);
        if (sender->line.len > LINE_BYTES_MAX)
            break;
    }
    if (got != -1)
        sender_end(sender);
}

static void on_late(void *context)
{
    sender_end(context);
}

/* --- the begin --- */

static bool launch(struct sender *sender, int in_fd, struct err *err)
{
    struct tracker *tracker = sender->tracker;
    const char *const argv[] = {tracker->config.program, "send", NULL};
    int ends[2];
    bool ok;

    if (!fd_pipe(ends, err))
        return false;
    sender->out_fd = ends[0];
    ok = fd_set_nonblocking(ends[0], err) &&
         process_spawn(&sender->process,
                       &(struct process_spawn){
                           .argv = argv, .output_path = tracker->log_path, .input_fd = in_fd, .io_fd = ends[1]},
                       err) &&
         process_go(&sender->process, err);
    fd_close(&ends[1]);
    if (ok)
        sender->watch = http_loop_add_fd(tracker->config.loop, ends[0], EPOLLIN, on_output, sender, err);
    return sender->watch != NULL;
}

static bool start(struct sender *sender, struct err *err)
{
    struct tracker *tracker = sender->tracker;
    struct strbuf text = {0};
    int in_fd = -1;
    bool ok;

    ok = write_document(sender, &text, err) && (in_fd = fd_in_memory("a delivery", strbuf_view(&text), err)) >= 0 &&
         store_delivery_begin(tracker->config.store, sender->delivery.number, clock_unix_ms() + 2 * (int64_t)SENDER_MS,
                              err) &&
         launch(sender, in_fd, err);
    memory_erase(text.at, text.len);
    strbuf_deinit(&text);
    fd_close(&in_fd);
    return ok;
}

static const char *copy(struct arena *arena, const char *text)
{
    return text ? str_copy(arena, str_of(text)) : NULL;
}

static void send_one(struct tracker *tracker, const struct store_delivery *due, bool is_export)
{
    struct sender *sender = mem_alloc_zero(1, sizeof *sender);
    struct arena *arena = &sender->arena;
    struct err err = {0};

    *sender = (struct sender){.tracker = tracker, .next = tracker->first, .process = PROCESS_NONE, .out_fd = -1};
    sender->is_export = is_export;
    sender->patience_ms = http_loop_now_ms(tracker->config.loop);
    sender->delivery = *due;
    sender->delivery.organization_id = copy(arena, due->organization_id);
    sender->delivery.project_id = copy(arena, due->project_id);
    sender->delivery.job_id = copy(arena, due->job_id);
    sender->delivery.kind = copy(arena, due->kind);
    sender->delivery.config_json = copy(arena, due->config_json);
    sender->delivery.external_json = copy(arena, due->external_json);
    tracker->first = sender;
    *(is_export ? &tracker->export_count : &tracker->count) += 1;
    sender->timer =
        http_loop_add_timer(tracker->config.loop, http_loop_now_ms(tracker->config.loop) + SENDER_MS, on_late, sender);
    if (start(sender, &err))
        return;
    complain(&sender->delivery, "cannot start a sender", &err);
    sender->end = "retry";
    sender->message = "the server could not start a sender";
    sender_end(sender);
}

static int64_t send_due(struct tracker *tracker, bool is_export, int free_slots)
{
    const int64_t now_ms = clock_unix_ms();
    struct store_delivery_list due = {0};
    struct arena arena = {0};
    struct err err = {0};
    int64_t next_ms = INT64_MAX;

    if (free_slots > 0) {
        if (!store_delivery_due(tracker->config.store, now_ms, is_export, free_slots, &arena, &due, &next_ms, &err)) {
            log_line("attune serve: cannot look for deliveries: %s", err.text);
            next_ms = now_ms + RETRY_MS;
        }
        for (size_t i = 0; i < due.count; i++)
            send_one(tracker, &due.at[i], is_export);
    }
    arena_deinit(&arena);
    return next_ms;
}

static void on_due(void *context)
{
    struct tracker *tracker = context;
    int64_t next_ms = send_due(tracker, false, tracker->config.senders_max - tracker->count);
    const int64_t export_ms = send_due(tracker, true, EXPORTS_MAX - tracker->export_count);

    next_ms = export_ms < next_ms ? export_ms : next_ms;
    if (next_ms != INT64_MAX)
        http_timer_set(tracker->timer, http_loop_now_ms(tracker->config.loop) + (next_ms - clock_unix_ms()));
}

void tracker_wake(struct tracker *tracker)
{
    http_timer_set(tracker->timer, http_loop_now_ms(tracker->config.loop));
}

struct tracker *tracker_new(const struct tracker_config *config, struct err *err)
{
    struct tracker *tracker = mem_alloc_zero(1, sizeof *tracker);

    tracker->config = *config;
    tracker->config.senders_max = config->senders_max ? config->senders_max : SENDERS_MAX;
    tracker->config.batch_ms = config->batch_ms ? config->batch_ms : BATCH_MS;
    tracker->config.retry_ms = config->retry_ms ? config->retry_ms : RETRY_MS;
    tracker->log_path = path_join(&tracker->arena, config->data_dir, "send.log");
    tracker->exports_dir = path_join(&tracker->arena, config->data_dir, "exports");
    tracker->timer = http_loop_add_timer(config->loop, http_loop_now_ms(config->loop), on_due, tracker);
    if (!config->program) {
        tracker->config.program = tracker->program;
        if (!process_self_path(tracker->program, sizeof tracker->program, err))
            goto fail;
    }
    if (dir_make(tracker->exports_dir, err) && store_delivery_recover(config->store, err))
        return tracker;
fail:
    tracker_free(tracker);
    return NULL;
}

void tracker_free(struct tracker *tracker)
{
    if (!tracker)
        return;
    while (tracker->first)
        sender_free(tracker->first);
    http_timer_remove(tracker->timer);
    arena_deinit(&tracker->arena);
    free(tracker);
}
