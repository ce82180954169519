#include "api/metrics.h"

#include "api/api_int.h"
#include "api/workers.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUTES_MAX = 128, REFUSALS_MAX = 32, CLASSES = 6, BOUNDS = 13 };

/* Upper bounds of the latency buckets in milliseconds; the last is without one. */
static const int64_t bounds_ms[BOUNDS] = {1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30000, INT64_MAX};

struct route_count {
    const char *route;
    enum http_method method;
    uint64_t requests[CLASSES]; /* by the first digit of the status; 0: gone before an answer */
    uint64_t buckets[BOUNDS], duration_ms, bytes_sent, bytes_received;
};

struct refusal_count {
    int status;
    const char *code;
    uint64_t count;
};

struct metrics {
    struct route_count routes[ROUTES_MAX];
    struct refusal_count refusals[REFUSALS_MAX];
    size_t route_count, refusal_count;
    int64_t started_unix;
};

struct metrics *metrics_new(void)
{
    struct metrics *metrics = mem_alloc_zero(1, sizeof *metrics);

    metrics->started_unix = clock_unix();
    return metrics;
}

void metrics_free(struct metrics *metrics)
{
    free(metrics);
}

static struct route_count *find_route(struct metrics *metrics, const char *route, enum http_method method)
{
    struct route_count *at = metrics->routes, *end = at + metrics->route_count;

    while (at < end && (at->route != route || at->method != method))
        at++;
    if (at == end) {
        if (metrics->route_count == ROUTES_MAX)
            return NULL;
        metrics->route_count++;
        at->route = route;
        at->method = method;
    }
    return at;
}

void metrics_note_request(struct metrics *metrics, const char *route, enum http_method method,
                          const struct http_outcome *outcome)
{
    /* Whoever asks for what is not there chooses the method: it makes no line of its own. */
    struct route_count *count = find_route(metrics, route ? route : "", route ? method : HTTP_GET);
    int bucket = 0, class = outcome->status / 100;

    if (!count)
        return;
    while (outcome->duration_ms > bounds_ms[bucket])
        bucket++;
    count->requests[class >= 0 && class < CLASSES ? class : 0]++;
    count->buckets[bucket]++;
    count->duration_ms += (uint64_t)outcome->duration_ms;
    count->bytes_sent += outcome->sent_bytes;
    count->bytes_received += outcome->body_bytes;
}

void metrics_note_refusal(struct metrics *metrics, int status, const char *code)
{
    struct refusal_count *at = metrics->refusals, *end = at + metrics->refusal_count;

    while (at < end && (at->status != status || strcmp(at->code, code) != 0))
        at++;
    if (at == end) {
        if (metrics->refusal_count == REFUSALS_MAX)
            return;
        *at = (struct refusal_count){.status = status, .code = code};
        metrics->refusal_count++;
    }
    at->count++;
}

/* --- the text format --- */

static void begin(struct strbuf *out, const char *name, const char *type, const char *help)
{
    strbuf_printf(out, "# HELP attune_%s %s\n# TYPE attune_%s %s\n", name, help, name, type);
}

static void put_one(struct strbuf *out, const char *name, const char *type, const char *help, double value)
{
    begin(out, name, type, help);
    strbuf_printf(out, "attune_%s %.17g\n", name, value);
}

static void write_histogram(struct strbuf *out, const char *name, const char *labels, const uint64_t buckets[BOUNDS],
                            double sum_s)
{
    const char *comma = *labels ? "," : "";
    uint64_t total = 0;

    for (int i = 0; i < BOUNDS; i++) {
        total += buckets[i];
        if (bounds_ms[i] == INT64_MAX)
            strbuf_printf(out, "attune_%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma,
                          (unsigned long long)total);
        else
            strbuf_printf(out, "attune_%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma,
                          (double)bounds_ms[i] / 1000, (unsigned long long)total);
    }
    strbuf_printf(out, *labels ? "attune_%s_sum{%s} %.17g\n" : "attune_%s_sum%s %.17g\n", name, labels, sum_s);
    strbuf_printf(out, *labels ? "attune_%s_count{%s} %llu\n" : "attune_%s_count%s %llu\n", name, labels,
                  (unsigned long long)total);
}

static const char *route_labels(struct arena *arena, const struct route_count *count)
{
    if (!*count->route)
        return "route=\"none\",method=\"any\"";
    return arena_printf(arena, "route=\"/%s\",method=\"%s\"", count->route, http_method_name(count->method));
}

static void write_requests(struct strbuf *out, const struct metrics *metrics, struct arena *arena)
{
    begin(out, "http_requests_total", "counter",
          "Requests that are over, by route and class of status; 0xx: the client went away before an answer.");
    for (size_t i = 0; i < metrics->route_count; i++)
        for (int class = 0; class < CLASSES; class ++)
            if (metrics->routes[i].requests[class])
                strbuf_printf(out, "attune_http_requests_total{%s,status=\"%dxx\"} %llu\n",
                              route_labels(arena, &metrics->routes[i]), class,
                              (unsigned long long)metrics->routes[i].requests[class]);
    begin(out, "http_request_duration_seconds", "histogram",
          "From the head of a request to the end of its answer; streams count for as long as they last.");
    for (size_t i = 0; i < metrics->route_count; i++)
        write_histogram(out, "http_request_duration_seconds", route_labels(arena, &metrics->routes[i]),
                        metrics->routes[i].buckets, (double)metrics->routes[i].duration_ms / 1000);
    begin(out, "http_sent_bytes_total", "counter", "Bytes of answers, by route.");
    for (size_t i = 0; i < metrics->route_count; i++)
        strbuf_printf(out, "attune_http_sent_bytes_total{%s} %llu\n", route_labels(arena, &metrics->routes[i]),
                      (unsigned long long)metrics->routes[i].bytes_sent);
    begin(out, "http_received_bytes_total", "counter", "Bytes of bodies of requests, by route.");
    for (size_t i = 0; i < metrics->route_count; i++)
        strbuf_printf(out, "attune_http_received_bytes_total{%s} %llu\n", route_labels(arena, &metrics->routes[i]),
                      (unsigned long long)metrics->routes[i].bytes_received);
    begin(out, "refused_total", "counter", "Answers 429 and 503 of the API by their reason.");
    for (size_t i = 0; i < metrics->refusal_count; i++)
        strbuf_printf(out, "attune_refused_total{status=\"%d\",reason=\"%s\"} %llu\n", metrics->refusals[i].status,
                      metrics->refusals[i].code, (unsigned long long)metrics->refusals[i].count);
}

static void write_jobs(struct strbuf *out, const struct store_statistics *s)
{
    begin(out, "jobs", "gauge", "Jobs by their state.");
    for (int state = 0; state < JOB_STATE_COUNT; state++)
        strbuf_printf(out, "attune_jobs{state=\"%s\"} %lld\n", job_state_name((enum job_state)state),
                      (long long)s->jobs[state]);
    put_one(out, "queue_oldest_wait_seconds", "gauge", "How long the oldest of the jobs that wait has been there.",
            (double)s->oldest_wait_ms / 1000);
    put_one(out, "job_attempts_total", "counter", "Attempts of jobs that were begun.", (double)s->attempts);
    put_one(out, "events_stored_total", "counter", "Events of jobs that were stored.", (double)s->events);
    put_one(out, "uploads_pending", "gauge", "Uploads that were begun and are not over.", (double)s->uploads_pending);
    put_one(out, "jobs_created_total", "counter", "Jobs that were created.", (double)s->usage.jobs);
    put_one(out, "trained_tokens_total", "counter", "Tokens trained, all jobs.", (double)s->usage.trained_tokens);
    put_one(out, "trained_steps_total", "counter", "Optimizer steps, all jobs.", (double)s->usage.trained_steps);
    put_one(out, "device_seconds_total", "counter", "Time that attempts held the device.",
            (double)s->usage.device_ms / 1000);
    put_one(out, "model_requests_total", "counter", "Chats and completions that were answered.",
            (double)s->usage.model_requests);
    put_one(out, "input_tokens_total", "counter", "Tokens of prompts.", (double)s->usage.input_tokens);
    put_one(out, "output_tokens_total", "counter", "Tokens that models wrote.", (double)s->usage.output_tokens);
}

static void write_commits(struct strbuf *out, const struct store_commits *commits)
{
    uint64_t buckets[BOUNDS] = {0};

    for (size_t i = 0; i < STORE_COMMIT_BUCKETS; i++) {
        int bucket = 0;
        while (((int64_t)1 << i) > bounds_ms[bucket])
            bucket++;
        buckets[bucket] += commits->buckets[i];
    }
    begin(out, "store_commit_seconds", "histogram", "Writes of the database, to the disk and back.");
    write_histogram(out, "store_commit_seconds", "", buckets, commits->seconds);
}

static void write_machine(struct api *api, struct strbuf *out)
{
    struct job_ledger *ledger = job_manager_ledger(api->config.jobs);
    uint64_t free_bytes;

    if (api->server)
        put_one(out, "http_connections", "gauge", "Connections that are open.",
                http_server_connection_count(api->server));
    put_one(out, "draining", "gauge", "1: no job starts until the drain is ended.",
            job_manager_drain(api->config.jobs).is_on);
    put_one(out, "chat_workers", "gauge", "Inference workers.", workers_count(api->workers));
    put_one(out, "memory_capacity_bytes", "gauge", "Memory that children may reserve.",
            (double)ledger_capacity(ledger));
    put_one(out, "memory_reserved_bytes", "gauge", "Memory that children have reserved.",
            (double)(ledger_capacity(ledger) - ledger_free_bytes(ledger)));
    if (disk_free(api->config.data_dir, &free_bytes, NULL))
        put_one(out, "disk_free_bytes", "gauge", "Free on the data folder's file system.", (double)free_bytes);
}

static void write_loop(struct strbuf *out, struct http_loop_turns turns)
{
    put_one(out, "loop_turns_total", "counter", "Turns of the event loop.", (double)turns.count);
    put_one(out, "loop_slow_turns_total", "counter",
            "Turns that took longer than 50 ms: for so long nobody was served.", (double)turns.slow_count);
    put_one(out, "loop_turn_longest_seconds", "gauge", "The longest turn since the start.",
            (double)turns.longest_ms / 1000);
}

/* The whole text. */
static bool write_metrics(struct api *api, struct strbuf *out, struct err *err)
{
    struct store_statistics statistics;
    struct arena arena = {0};

    if (!store_statistics(api->config.store, &statistics, err))
        return false;
    begin(out, "build_info", "gauge", "The program that runs.");
    strbuf_printf(out, "attune_build_info{version=\"%s\"} 1\n", ATTUNE_VERSION);
    put_one(out, "start_time_seconds", "gauge", "When the server started, in Unix seconds.",
            (double)api->metrics->started_unix);
    write_requests(out, api->metrics, &arena);
    write_jobs(out, &statistics);
    write_commits(out, store_commits(api->config.store));
    write_loop(out, http_loop_turns(api->config.loop));
    write_machine(api, out);
    arena_deinit(&arena);
    return true;
}

/* --- the route --- */

void metrics_get(struct call *call)
{
    struct strbuf body = {0};
    struct err err = {0};

    if (!call_check_operator(call))
        return;
    if (write_metrics(call->api, &body, &err))
        http_answer_bytes(
            call->exchange,
            &(struct http_response){.status = 200, .content_type = "text/plain; version=0.0.4; charset=utf-8"},
            strbuf_view(&body));
    else
        answer_err(call, &err, NULL);
    strbuf_deinit(&body);
}
