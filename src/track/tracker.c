#include "track/tracker_int.h"

#include "base/json.h"
#include "base/log.h"
#include "os/clock.h"
#include "os/file.h"

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
    LINE_BYTES_MAX = 64 << 10,
    MESSAGE_BYTES_MAX = 600,
};

static void complain(const struct store_delivery *delivery, const char *what, const struct err *err)
{
    log_line("job %s: integration %lld: %s: %s", delivery->job_id, (long long)delivery->position, what, err->text);
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

    if (sender_is_webhook(sender))
        return arena_printf(&sender->arena, "webhook endpoint %.*s",
                            STR_ARG(json_string_or(json_get(config, "endpoint"), STR_NONE)));
    return arena_printf(&sender->arena, "integrations.%lld (%s)", (long long)delivery->position, delivery->kind);
}

/* Once a delivery: the event's identity is its code. */
static void warn(struct sender *sender, const char *what)
{
    struct tracker *tracker = sender->tracker;
    struct tenant tenant = delivery_tenant(&sender->delivery);
    struct err err = {0};
    char text[1024];

    snprintf(text, sizeof text, "%s: %s: %s", name_of(sender), what,
             sender->message ? sender->message : "the sender ended without a word");
    log_redact(text);
    if (!store_event_add(tracker->config.store, &tenant, sender->delivery.job_id, "warn",
                         arena_printf(&sender->arena, "%s_%lld", sender_is_webhook(sender) ? "webhook" : "integration",
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
        file_remove(sender_parts_path(sender, &sender->arena), NULL);
    sender_free(sender);
    tracker_wake(tracker);
}

/* --- what a sender tells --- */

static bool add_event(struct sender *sender, const struct json *event, struct err *err)
{
    const struct tracker_config *config = &sender->tracker->config;
    const struct tenant tenant = delivery_tenant(&sender->delivery);
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
    const struct tenant tenant = delivery_tenant(&sender->delivery);

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

    if (json_has_type(external, JSON_OBJECT))
        json_write_value(&(struct json_writer){.buf = &copy}, external);
    if (ok && json_get(line, "delivered"))
        ok = store_delivery_progress(sender->tracker->config.store, sender->delivery.number, copy.at,
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
    struct str rest = strbuf_view(&sender->line), line;

    while (str_take_line(&rest, &line))
        take_line(sender, line);
    strbuf_drop(&sender->line, sender->line.len - rest.len);
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

    ok = sender_document_write(sender, &text, err) &&
         (in_fd = fd_in_memory("a delivery", strbuf_view(&text), err)) >= 0 &&
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
