/* A job's events: as a list, and as a stream of server-sent events that begins with what is stored and goes on as it
 * happens. A client that lost the connection sends Last-Event-ID, as EventSource does by itself, and misses nothing. */
#include "api/api_int.h"

#include <stdlib.h>
#include <string.h>

enum {
    EVENTS_AT_ONCE = 200,
    KEEP_ALIVE_MS = 15000,
    STREAMS_PER_KEY_MAX = 16,
    PENDING_BYTES_MAX = 1 << 20, /* a client that reads slowly gets the rest when it has read this */
};

struct event_stream {
    struct event_streams *all;
    struct event_stream *next;
    struct call *call;
    struct http_stream *stream;
    const char *job_id;
    struct strbuf last_id; /* of the event sent last; empty: none yet */
};

struct event_streams {
    const struct api_config *config;
    struct event_stream *first;
    struct http_timer *timer;
};

/* --- the list --- */

static void answer_list(struct call *call)
{
    static const struct list_limits limits = {100, 20, false, true};
    const char *id = call_find_job(call);
    struct store_event_list events = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};

    if (!id || !list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_event_list(call->api->config.store, &call->tenant, id, &list.page, call->arena, &events, &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < events.count; i++)
        view_event(&w, &events.at[i]);
    list_write_end(&w, LIST_WITHOUT_IDS, NULL, NULL, events.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* --- the stream --- */

static bool send_event(struct event_stream *s, const struct store_event *event)
{
    struct strbuf text = {0};
    bool is_open;

    view_event(&(struct json_writer){.buf = &text}, event);
    is_open = http_stream_event(s->stream, NULL, event->id, strbuf_view(&text));
    strbuf_clear(&s->last_id);
    strbuf_add_text(&s->last_id, event->id);
    strbuf_deinit(&text);
    return is_open;
}

/* False: the stream is over, or broken. */
static bool send_more(struct event_stream *s, struct arena *arena, bool *is_idle)
{
    struct store_page page = {
        .limit = EVENTS_AT_ONCE, .ascending = true, .after = s->last_id.len ? s->last_id.at : NULL};
    struct store *store = s->all->config->store;
    struct store_event_list events = {0};
    struct store_job job;

    *is_idle = false;
    if (http_stream_pending(s->stream) > PENDING_BYTES_MAX)
        return true;
    /* The job first: what it says is final has all its events stored. */
    if (!store_job_get(store, &s->call->tenant, s->job_id, arena, &job, NULL) ||
        !store_event_list(store, &s->call->tenant, s->job_id, &page, arena, &events, NULL))
        return false;
    for (size_t i = 0; i < events.count; i++)
        if (!send_event(s, &events.at[i]))
            return false;
    *is_idle = !events.has_more;
    return events.has_more || !job_state_is_final(job.state);
}

static void end_stream(struct event_stream *s)
{
    if (http_stream_event(s->stream, NULL, NULL, STR("[DONE]")))
        http_stream_end(s->stream);
}

static void pump(struct event_stream *s, bool is_keep_alive)
{
    struct arena arena = {0};
    bool is_idle, goes_on = send_more(s, &arena, &is_idle);

    if (!goes_on)
        end_stream(s);
    else if (is_idle && is_keep_alive)
        http_stream_write(s->stream, STR(": still here\n\n"));
    else if (!is_idle)
        http_timer_set(s->all->timer, http_loop_now_ms(s->all->config->loop) + 10);
    arena_deinit(&arena);
}

static void on_due(void *context)
{
    struct event_streams *all = context;

    http_timer_set(all->timer, http_loop_now_ms(all->config->loop) + KEEP_ALIVE_MS);
    for (struct event_stream *s = all->first, *next; s; s = next) {
        next = s->next;
        pump(s, true);
    }
}

static void on_close(void *context, bool is_complete)
{
    struct event_stream *s = context;
    struct event_stream **link = &s->all->first;

    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    strbuf_deinit(&s->last_id);
}

struct event_streams *event_streams_new(const struct api_config *config)
{
    struct event_streams *all = mem_alloc_zero(1, sizeof *all);

    all->config = config;
    all->timer = http_loop_add_timer(config->loop, http_loop_now_ms(config->loop) + KEEP_ALIVE_MS, on_due, all);
    return all;
}

void event_streams_free(struct event_streams *all)
{
    if (!all)
        return;
    http_timer_remove(all->timer);
    free(all);
}

void event_streams_end(struct event_streams *all)
{
    for (struct event_stream *s = all->first, *next; s; s = next) {
        next = s->next;
        http_stream_end(s->stream);
    }
}

/* The store's writer is in the middle of its work: streams look at the store in the loop's next round. */
void event_streams_wake(struct event_streams *all)
{
    if (all->first)
        http_timer_set(all->timer, http_loop_now_ms(all->config->loop));
}

/* Where the client wants to go on: the query's `after`, or the header that EventSource sends. */
static bool read_start(struct call *call, struct event_stream *s)
{
    struct str after = http_request_header(call->request, "Last-Event-ID");
    struct store_event_list events;
    struct err err = {0};

    if (after.len == 0)
        url_query_get(&call->query, "after", &after);
    if (after.len == 0)
        return true;
    strbuf_add_str(&s->last_id, after);
    if (store_event_list(call->api->config.store, &call->tenant, s->job_id,
                         &(struct store_page){.limit = 1, .after = s->last_id.at, .ascending = true}, call->arena,
                         &events, &err))
        return true;
    strbuf_deinit(&s->last_id);
    if (err.code == ERR_NOT_FOUND)
        answer_error(call, 404, "event_not_found", "after", "This job has no event '%.*s' to go on from.",
                     STR_ARG(str_clip(after, 64)));
    else
        answer_err(call, &err, "after");
    return false;
}

static bool check_streams_of_key(struct call *call)
{
    int count = 0;

    for (const struct event_stream *s = call->api->streams->first; s; s = s->next)
        count += strcmp(s->call->key_id, call->key_id) == 0;
    if (count < STREAMS_PER_KEY_MAX)
        return true;
    answer_too_many(call, "too_many_streams", NULL, 10,
                    "This key has 16 event streams open already; close one, or ask for the list of events.");
    return false;
}

/* A stream tells all there is, from the oldest on. */
static bool check_stream_query(struct call *call)
{
    static const char *const of_lists[] = {"limit", "order"};
    struct problems problems = {.arena = call->arena};
    struct str value;

    for (size_t i = 0; i < sizeof of_lists / sizeof *of_lists; i++)
        if (url_query_get(&call->query, of_lists[i], &value) && value.len > 0)
            problems_add(&problems, "value_error", of_lists[i], NULL, NULL,
                         "%s: has no meaning with stream=true, which sends all events in order", of_lists[i]);
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

static void begin_stream(struct call *call)
{
    struct event_stream *s = arena_new(call->arena, struct event_stream);
    struct event_streams *all = call->api->streams;

    *s = (struct event_stream){.all = all, .call = call, .job_id = call_find_job(call)};
    if (!s->job_id || !check_stream_query(call) || !check_streams_of_key(call) || !read_start(call, s))
        return;
    s->next = all->first;
    all->first = s;
    http_exchange_on_close(call->exchange, on_close, s);
    s->stream = http_answer_stream(call->exchange,
                                   &(struct http_response){.status = 200, .content_type = "text/event-stream"});
    pump(s, false);
}

void events_list(struct call *call)
{
    struct str stream;
    struct problems problems = {.arena = call->arena};

    if (!url_query_get(&call->query, "stream", &stream) || stream.len == 0 || str_is(stream, "false")) {
        answer_list(call);
    } else if (str_is(stream, "true")) {
        begin_stream(call);
    } else {
        problems_add(&problems, "bool_parsing", "stream", NULL, NULL, "stream must be true or false");
        answer_problems(call, &problems);
    }
}
