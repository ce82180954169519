/* POST /v1/webhook_endpoints/{id}/test: one event of an example, signed and sent as real ones are, and how it went. No
 * job is behind it and nothing of it is stored; `attune send` alone uses the network, as ever. */
#include "api/api_int.h"
#include "os/clock.h"
#include "os/entropy.h"
#include "os/file.h"
#include "os/process.h"
#include "store/webhooks.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { AT_ONCE_MAX = 4, TIME_MS = 40000, LINES_BYTES_MAX = 64 << 10, KILL_WAIT_MS = 1000 };

#define EXAMPLE_JOB "ftjob-test"

/* In the arena of the call, which may outlive the ping, and the other way round. */
struct asked {
    struct ping *ping; /* NULL: answered */
};

struct ping {
    struct pings *all;
    struct ping *next;
    struct call *call;   /* NULL: nobody waits any more */
    struct asked *asked; /* while there is a call */
    const char *endpoint, *event_id, *event_type;
    int64_t begun_ms;
    struct process process;
    int fd; /* what the sender tells */
    struct http_watch *watch;
    struct http_timer *timer;
    struct strbuf lines;
};

struct pings {
    const struct api_config *config;
    char program[4096];
    struct ping *first;
    int count;
};

/* --- the end --- */

static void ping_free(struct ping *ping)
{
    struct ping **at = &ping->all->first;
    struct process_end end;

    while (*at != ping)
        at = &(*at)->next;
    *at = ping->next;
    ping->all->count--;
    if (ping->call)
        ping->asked->ping = NULL;
    http_watch_remove(ping->watch);
    http_timer_remove(ping->timer);
    process_kill_group(&ping->process, NULL);
    if (ping->process.pidfd >= 0)
        fd_wait_readable(ping->process.pidfd, KILL_WAIT_MS);
    process_has_ended(&ping->process, &end);
    process_close(&ping->process);
    fd_close(&ping->fd);
    strbuf_deinit(&ping->lines);
    free(ping);
}

/* status 0: no answer came. error NULL: it is delivered. */
static void answer(struct ping *ping, int64_t status, const char *error)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    json_write_begin_object(&w);
    json_put_text(&w, "object", "webhook_endpoint.test");
    json_put_text(&w, "webhook_endpoint_id", ping->endpoint);
    json_put_text(&w, "event_id", ping->event_id);
    json_put_text(&w, "event_type", ping->event_type);
    json_put_bool(&w, "delivered", error == NULL);
    json_write_key(&w, "status");
    status ? json_write_integer(&w, status) : json_write_null(&w);
    json_put_text(&w, "error", error);
    json_put_integer(&w, "duration_ms", clock_monotonic_ms() - ping->begun_ms);
    json_write_end_object(&w);
    answer_json(ping->call, 200, &body);
    strbuf_deinit(&body);
}

/* What the sender told: track/sending.h. */
static void judge(struct ping *ping)
{
    struct arena *arena = ping->call->arena;
    struct str rest = strbuf_view(&ping->lines), text;
    const char *error = "The sender ended without a word.";
    int64_t status = 0;

    while (str_take_line(&rest, &text)) {
        const struct json *line = json_parse(arena, text, NULL, NULL);
        const struct json *answered = json_get(json_get(line, "external"), "status");

        status = json_integer_or(answered, status);
        if (json_get(line, "end"))
            error = json_is(json_get(line, "end"), "ok")
                        ? NULL
                        : str_copy(arena, json_string_or(json_get(line, "message"), STR("unknown reason")));
    }
    answer(ping, status, error);
}

static void on_output(void *context, uint32_t events)
{
    struct ping *ping = context;
    char bytes[4096];
    long got;

    (void)events;
    while ((got = fd_read_some(ping->fd, bytes, sizeof bytes)) > 0 && ping->lines.len < LINES_BYTES_MAX)
        strbuf_add(&ping->lines, bytes, (size_t)got);
    if (got == -1)
        return;
    if (ping->call)
        judge(ping);
    ping_free(ping);
}

static void on_late(void *context)
{
    struct ping *ping = context;

    if (ping->call)
        answer(ping, 0, "The endpoint did not answer in time.");
    ping_free(ping);
}

static void on_close(void *context, bool is_complete)
{
    struct asked *asked = context;

    (void)is_complete;
    if (asked->ping)
        asked->ping->call = NULL;
}

/* --- the begin --- */

static bool put_secret(struct json_writer *w, struct call *call, const char *endpoint, const char *name,
                       struct err *err)
{
    struct secret secret = {0};
    bool ok = store_secret_get(call->api->config.store, &call->tenant, endpoint, name, &secret, err);

    if (ok)
        json_put_str(w, name, secret_reveal(&secret));
    secret_wipe(&secret);
    return ok;
}

static bool put_secrets(struct json_writer *w, struct call *call, const struct store_webhook *webhook, struct err *err)
{
    bool ok;

    json_write_key(w, "secrets");
    json_write_begin_object(w);
    ok = put_secret(w, call, webhook->id, STORE_WEBHOOK_SECRET, err) &&
         (webhook->old_secret_until_ms <= clock_unix_ms() ||
          put_secret(w, call, webhook->id, STORE_WEBHOOK_OLD_SECRET, err));
    json_write_end_object(w);
    return ok;
}

static bool write_document(struct ping *ping, const struct store_webhook *webhook, struct strbuf *text, struct err *err)
{
    struct json_writer w = {.buf = text};
    bool ok;

    strbuf_reserve(text, 64 << 10); /* a buffer that does not move leaves no copies of secrets behind */
    json_write_begin_object(&w);
    json_put_text(&w, "kind", "webhook");
    json_write_key(&w, "job");
    json_write_begin_object(&w);
    json_put_text(&w, "id", EXAMPLE_JOB);
    json_put_integer(&w, "finished_ms", clock_unix_ms());
    json_write_end_object(&w);
    json_write_key(&w, "config");
    json_write_begin_object(&w);
    json_put_text(&w, "event", ping->event_id);
    json_put_text(&w, "message", arena_printf(ping->call->arena, "msg_%s", ping->event_id));
    json_put_text(&w, "type", ping->event_type);
    json_write_end_object(&w);
    json_write_key(&w, "webhook");
    json_write_begin_object(&w);
    json_put_text(&w, "url", webhook->url);
    json_write_end_object(&w);
    json_write_key(&w, "operator");
    json_write_begin_object(&w);
    json_put_text(&w, "origins", ping->all->config->outgoing);
    json_write_end_object(&w);
    ok = put_secrets(&w, ping->call, webhook, err);
    json_write_end_object(&w);
    return ok;
}

static bool spawn(struct ping *ping, int input_fd, struct err *err)
{
    const char *const argv[] = {ping->all->program, "send", NULL};
    int ends[2];
    bool ok;

    if (!fd_pipe(ends, err))
        return false;
    ping->fd = ends[0];
    ok = fd_set_nonblocking(ends[0], err) &&
         process_spawn(
             &ping->process,
             &(struct process_spawn){.argv = argv, .output_path = "/dev/null", .input_fd = input_fd, .io_fd = ends[1]},
             err) &&
         process_go(&ping->process, err);
    fd_close(&ends[1]);
    return ok;
}

static bool begin(struct ping *ping, const struct store_webhook *webhook, struct err *err)
{
    struct http_loop *loop = ping->all->config->loop;
    struct strbuf text = {0};
    int input_fd = -1;
    bool ok = write_document(ping, webhook, &text, err) &&
              (input_fd = fd_in_memory("a test event", strbuf_view(&text), err)) >= 0 && spawn(ping, input_fd, err) &&
              (ping->watch = http_loop_add_fd(loop, ping->fd, EPOLLIN, on_output, ping, err));

    memory_erase(text.at, text.len);
    strbuf_deinit(&text);
    fd_close(&input_fd);
    if (ok)
        ping->timer = http_loop_add_timer(loop, http_loop_now_ms(loop) + TIME_MS, on_late, ping);
    return ok;
}

static void send_example(struct call *call, const struct store_webhook *webhook, const char *event_type)
{
    struct pings *all = call->api->pings;
    struct ping *ping;
    struct err err = {0};
    char id[48] = "evt_test_";

    if (all->count >= AT_ONCE_MAX) {
        answer_unavailable(call, "server_busy", 1, "Other endpoints are being tested; try again in a moment.");
        return;
    }
    entropy_hex(id + strlen(id), 12);
    ping = mem_alloc_zero(1, sizeof *ping);
    *ping = (struct ping){.all = all, .next = all->first, .call = call, .process = PROCESS_NONE, .fd = -1};
    ping->asked = arena_new(call->arena, struct asked);
    ping->asked->ping = ping;
    ping->endpoint = webhook->id;
    ping->event_id = arena_printf(call->arena, "%s", id);
    ping->event_type = event_type;
    ping->begun_ms = clock_monotonic_ms();
    all->first = ping;
    all->count++;
    if (begin(ping, webhook, &err)) {
        http_exchange_on_close(call->exchange, on_close, ping->asked);
        return;
    }
    answer_err(call, &err, NULL);
    ping_free(ping);
}

/* --- the request --- */

/* Absent: the first that the endpoint hears of. NULL: answered. */
static const char *read_event_type(struct call *call, const struct json *body, const struct store_webhook *webhook)
{
    const struct json *named = json_get(body, "event_type"),
                      *wanted = json_parse(call->arena, str_of(webhook->event_types_json), NULL, NULL);
    const char *type = webhook_event_type(json_is_null(named) ? json_string_or(json_at(wanted, 0), STR_NONE)
                                                              : json_string_or(named, STR_NONE));
    struct problems problems = {.arena = call->arena};

    if (body->type != JSON_OBJECT)
        problems_add(&problems, "dict_type", NULL, NULL, NULL, "The body must be a JSON object.");
    else if (!type)
        problems_add(&problems, "enum", "event_type", NULL, NULL, "event_type: must be one of webhook_event_types");
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "event_type"))
            problems_add(&problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "there is event_type alone");
    if (problems.count == 0)
        return type;
    answer_problems(call, &problems);
    return NULL;
}

static void test(struct call *call, const struct json *body)
{
    struct store_webhook webhook;
    const char *type;
    struct err err = {0};

    if (!store_webhook_get(call->api->config.store, &call->tenant, str_copy(call->arena, call->parameter[0]),
                           call->arena, &webhook, &err))
        answer_err(call, &err, "webhook_endpoint_id");
    else if ((type = read_event_type(call, body, &webhook)))
        send_example(call, &webhook, type);
}

void webhooks_test(struct call *call)
{
    take_json(call, test);
}

struct pings *pings_new(const struct api_config *config, struct err *err)
{
    struct pings *all = mem_alloc_zero(1, sizeof *all);

    all->config = config;
    if (config->program && strlen(config->program) < sizeof all->program) {
        memcpy(all->program, config->program, strlen(config->program) + 1);
    } else if (!process_self_path(all->program, sizeof all->program, err)) {
        free(all);
        return NULL;
    }
    return all;
}

void pings_free(struct pings *all)
{
    if (!all)
        return;
    while (all->first) {
        if (all->first->call)
            answer_unavailable(all->first->call, "server_stopping", 1, "The server is stopping.");
        ping_free(all->first);
    }
    free(all);
}
