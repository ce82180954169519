/* load - requests at a constant rate against a running server: an open loop.
 *
 * Request n is due n / rate after the start, whatever the answers do. Its latency counts from that moment, so a server
 * that stalls is charged for every request that it kept waiting, sent or not (no "coordinated omission"). Connections
 * are kept alive and carry one request at a time, as clients do; a request that finds none free waits. Every answer's
 * status is checked, its length, and that its body holds the text that --expect names. All latencies are kept, so the
 * percentiles are exact.
 *
 *   load --port 8080 --path /v1/fine_tuning/jobs/ftjob-… --rate 2000 --seconds 20 [--key KEY] [--expect TEXT]
 *
 * The last line of output is JSON. Exit status 1: an answer was wrong or missing. */
#include "base/arena.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 1 << 16, EVENTS_MAX = 64, DRAIN_S = 10, NS_PER_S = 1000000000 };

struct connection {
    int fd;               /* -1: to be opened for the next request */
    bool is_busy;
    int64_t due_ns;       /* of the request that is under way */
    char in[ANSWER_BYTES_MAX];
    size_t in_len;
};

struct load {
    int64_t port, rate, connection_count;
    double seconds;
    const char *path, *key, *expect;
    struct strbuf request;
    struct connection *connections;
    struct connection **idle;
    int64_t idle_count;
    int epoll_fd;
    int64_t start_ns, total, sent, answered, wrong, lost;
    double *latency_ms;
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int64_t due_ns(const struct load *load, int64_t request)
{
    return load->start_ns + (int64_t)((double)request * NS_PER_S / (double)load->rate);
}

static void connection_open(struct load *load, struct connection *connection)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)load->port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    int on = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->in_len = 0;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("cannot connect to port %d: %s", (int)load->port, strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
        die("cannot watch a connection: %s", strerror(errno));
}

static void release(struct load *load, struct connection *connection)
{
    connection->is_busy = false;
    load->idle[load->idle_count++] = connection;
}

/* The server may end a connection that idles; one that carried a request has lost it. */
static void connection_drop(struct load *load, struct connection *connection)
{
    close(connection->fd);
    connection->fd = -1;
    if (!connection->is_busy)
        return;
    load->lost++;
    release(load, connection);
}

static void send_request(struct load *load, int64_t due)
{
    struct connection *connection = load->idle[--load->idle_count];

    if (connection->fd < 0)
        connection_open(load, connection);
    connection->is_busy = true;
    connection->due_ns = due;
    connection->in_len = 0;
    if (send(connection->fd, load->request.at, load->request.len, MSG_NOSIGNAL) != (ssize_t)load->request.len)
        connection_drop(load, connection);
}

/* Length of the whole answer, 0 while that is not known, -1 when it has no Content-Length. */
static int64_t answer_length(struct str answer, size_t *head_len)
{
    ptrdiff_t end = str_find(answer, STR("\r\n\r\n"), 0), at;
    int64_t length = 0;
    struct str value;

    if (end < 0)
        return 0;
    *head_len = (size_t)end + 4;
    at = str_find(answer, STR("Content-Length: "), 0);
    if (at < 0 || at > end)
        return -1;
    value = str_slice(answer, (size_t)at + strlen("Content-Length: "), *head_len);
    return str_to_i64(str_slice(value, 0, (size_t)str_find(value, STR("\r"), 0)), &length) ? (int64_t)*head_len + length
                                                                                           : -1;
}

static bool is_right(const struct load *load, struct str answer, size_t head_len)
{
    return str_starts(answer, STR("HTTP/1.1 200 ")) &&
           (!load->expect || str_find(answer, str_of(load->expect), head_len) >= 0);
}

static void on_readable(struct load *load, struct connection *connection)
{
    ssize_t got =
        recv(connection->fd, connection->in + connection->in_len, sizeof connection->in - connection->in_len, 0);
    struct str answer;
    int64_t length;
    size_t head_len = 0;

    if (got <= 0) {
        connection_drop(load, connection);
        return;
    }
    connection->in_len += (size_t)got;
    answer = (struct str){connection->in, connection->in_len};
    length = answer_length(answer, &head_len);
    if (length >= 0 && (length == 0 || (size_t)length > connection->in_len) &&
        connection->in_len < sizeof connection->in)
        return;
    load->wrong += (size_t)length != connection->in_len || !is_right(load, answer, head_len);
    load->latency_ms[load->answered++] = (double)(now_ns() - connection->due_ns) / 1e6;
    release(load, connection);
}

/* Until the next request is due, or an answer comes. */
static void wait_and_read(struct load *load)
{
    struct epoll_event events[EVENTS_MAX];
    int64_t wait =
        load->sent < load->total && load->idle_count > 0 ? due_ns(load, load->sent) - now_ns() : NS_PER_S / 10;
    struct timespec timeout = {wait > 0 ? wait / NS_PER_S : 0, wait > 0 ? wait % NS_PER_S : 0};
    int count = epoll_pwait2(load->epoll_fd, events, EVENTS_MAX, &timeout, NULL);

    for (int i = 0; i < count; i++)
        on_readable(load, events[i].data.ptr);
}

static void run(struct load *load)
{
    int64_t end_ns;

    load->start_ns = now_ns();
    end_ns = due_ns(load, load->total) + (int64_t)DRAIN_S * NS_PER_S;
    while (load->answered + load->lost < load->total && now_ns() < end_ns) {
        while (load->sent < load->total && load->idle_count > 0 && due_ns(load, load->sent) <= now_ns()) {
            send_request(load, due_ns(load, load->sent));
            load->sent++;
        }
        wait_and_read(load);
    }
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The smallest latency that `share` of all requests do not exceed; those without an answer count as endless. */
static double percentile(const struct load *load, double share)
{
    int64_t place = (int64_t)((double)load->total * share + 0.999999);

    place = place < 1 ? 1 : place;
    return place <= load->answered ? load->latency_ms[place - 1] : -1;
}

static bool report(struct load *load)
{
    int64_t missing = load->total - load->answered;

    qsort(load->latency_ms, (size_t)load->answered, sizeof *load->latency_ms, compare);
    printf(
        "{\"rate\": %lld, \"seconds\": %g, \"connections\": %lld, \"requests\": %lld, \"wrong\": %lld, \"missing\": "
        "%lld, \"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f}\n",
        (long long)load->rate, load->seconds, (long long)load->connection_count, (long long)load->total,
        (long long)load->wrong, (long long)missing, percentile(load, 0.5), percentile(load, 0.9),
        percentile(load, 0.99), percentile(load, 0.999), percentile(load, 1));
    return load->wrong == 0 && missing == 0;
}

static void prepare(struct load *load)
{
    strbuf_printf(&load->request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n", load->path,
                  (int)load->port);
    if (load->key)
        strbuf_printf(&load->request, "Authorization: Bearer %s\r\n", load->key);
    strbuf_printf(&load->request, "\r\n");
    load->total = (int64_t)(load->seconds * (double)load->rate);
    load->latency_ms = mem_alloc((size_t)load->total * sizeof *load->latency_ms);
    load->connections = mem_alloc_zero((size_t)load->connection_count, sizeof *load->connections);
    load->idle = mem_alloc((size_t)load->connection_count * sizeof(struct connection *));
    load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int64_t i = 0; i < load->connection_count; i++) {
        connection_open(load, &load->connections[i]);
        release(load, &load->connections[i]);
    }
    prctl(PR_SET_TIMERSLACK, 1000UL); /* wake on time: the kernel's default is 50 microseconds late */
}

static void finish(struct load *load)
{
    for (int64_t i = 0; i < load->connection_count; i++)
        if (load->connections[i].fd >= 0)
            close(load->connections[i].fd);
    close(load->epoll_fd);
    strbuf_deinit(&load->request);
    free(load->latency_ms);
    free(load->connections);
    free(load->idle);
}

int main(int argc, char **argv)
{
    struct load load = {.port = 8080, .rate = 2000, .connection_count = 32, .seconds = 10, .path = "/healthz"};
    const struct option list[] = {
        {"port", OPTION_INT, &load.port, "N", "of the server on this machine (default 8080)", NULL},
        {"path", OPTION_TEXT, &load.path, "PATH", "what to get (default /healthz)", NULL},
        {"key", OPTION_TEXT, &load.key, "KEY", "API key", NULL},
        {"expect", OPTION_TEXT, &load.expect, "TEXT", "that every body must hold", NULL},
        {"rate", OPTION_INT, &load.rate, "N", "requests a second (default 2000)", NULL},
        {"seconds", OPTION_FLOAT, &load.seconds, "S", "for so long (default 10)", NULL},
        {"connections", OPTION_INT, &load.connection_count, "N", "kept alive (default 32)", NULL},
    };
    const struct options options = {
        .usage = "load [options]",
        .about = "Requests at a constant rate; exact percentiles of their latencies.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct err err = {0};
    bool ok;

    if (!options_parse(&options, argc, argv, NULL, NULL, &err))
        die("load: %s", err.text);
    if (load.rate < 1 || load.connection_count < 1 || load.seconds <= 0)
        die("load: --rate, --connections and --seconds must be above 0");
    prepare(&load);
    run(&load);
    ok = report(&load);
    finish(&load);
    return ok ? 0 : 1;
}
