#include "http/server_int.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ACCEPTS_PER_ROUND = 64, OVERLOAD_ANSWERS_MAX = 64, ACCEPT_PAUSE_MS = 100 };

#define CONFIG_DEFAULTS(X)                                                                                             \
    X(head_bytes_max, 32 << 10)                                                                                        \
    X(line_bytes_max, 8 << 10)                                                                                         \
    X(header_count_max, 64)                                                                                            \
    X(connections_max, 1024)                                                                                           \
    X(connections_per_address_max, 64)                                                                                 \
    X(head_ms, 10000)                                                                                                  \
    X(body_gap_ms, 10000)                                                                                              \
    X(body_ms, 30000)                                                                                                  \
    X(idle_ms, 30000)                                                                                                  \
    X(send_stall_ms, 15000)                                                                                            \
    X(linger_ms, 5000)

static struct http_config with_defaults(const struct http_config *given)
{
    struct http_config config = *given;

#define CONFIG_DEFAULT(field, value) config.field = config.field ? config.field : (value);
    CONFIG_DEFAULTS(CONFIG_DEFAULT)
#undef CONFIG_DEFAULT
    config.host = config.host ? config.host : "127.0.0.1";
    return config;
}

static bool is_crowded(const struct http_server *server, const char *address)
{
    uint64_t source = socket_source(address);
    int count = 0;

    for (const struct connection *connection = server->connections; connection; connection = connection->next)
        count += connection->source == source;
    return server->config.connections_per_address_max >= 0 && count >= server->config.connections_per_address_max;
}

static void admit(struct http_server *server, int fd, const char *address)
{
    const struct http_config *config = &server->config;
    bool is_overload = server->connection_count >= config->connections_max;

    if (is_crowded(server, address) ||
        server->connection_count >= config->connections_max + OVERLOAD_ANSWERS_MAX)
        close(fd);
    else
        connection_open(server, fd, address, is_overload);
}

static void on_listen_timer(void *context)
{
    struct http_server *server = context;

    if (server->listen_watch)
        http_watch_set(server->listen_watch, EPOLLIN);
}

static void on_accept(void *context, uint32_t events)
{
    struct http_server *server = context;
    char address[SOCKET_ADDRESS_BYTES];
    struct err err;

    for (int i = 0; i < ACCEPTS_PER_ROUND; i++) {
        int fd = socket_accept(server->listen_fd, address, &err);
        if (fd >= 0) {
            admit(server, fd, address);
            continue;
        }
        if (err.code == ERR_NOT_FOUND)
            return;
        /* No descriptor is left: let connections end rather than ask again at once. */
        http_watch_set(server->listen_watch, 0);
        http_timer_set(server->listen_timer, http_loop_now_ms(server->loop) + ACCEPT_PAUSE_MS);
        return;
    }
}

/* Drives what was marked since the last round; what is marked meanwhile waits for the next. */
static void on_due(void *context)
{
    struct http_server *server = context;
    struct connection *connection = server->due, *marker = NULL;

    /* The list is taken from its old end, so that new members, which go to the front, are not reached. */
    while (connection && connection->due_next)
        connection = connection->due_next;
    marker = server->due;
    while (connection) {
        struct connection *before = connection == marker ? NULL : connection->due_previous;
        connection_drive(connection);
        connection = before;
    }
    if (server->is_stopping && server->connection_count == 0 && server->on_stopped) {
        void (*on_stopped)(void *context) = server->on_stopped;
        server->on_stopped = NULL;
        on_stopped(server->stopped_context); /* may free the server */
    }
}

struct http_server *http_server_new(struct http_loop *loop, const struct http_config *config,
                                    const struct http_handler *handler, struct err *err)
{
    struct http_server *server = mem_alloc_zero(1, sizeof *server);

    server->loop = loop;
    server->config = with_defaults(config);
    server->handler = *handler;
    server->scratch = mem_alloc(SCRATCH_BYTES);
    server->listen_timer = http_loop_add_timer(loop, INT64_MAX, on_listen_timer, server);
    server->due_timer = http_loop_add_timer(loop, INT64_MAX, on_due, server);
    server->listen_fd = socket_listen_tcp(server->config.host, server->config.port, err);
    if (server->listen_fd >= 0)
        server->listen_watch = http_loop_add_fd(loop, server->listen_fd, EPOLLIN, on_accept, server, err);
    if (!server->listen_watch) {
        http_server_free(server);
        return NULL;
    }
    server->config.port = socket_port(server->listen_fd);
    return server;
}

int http_server_port(const struct http_server *server)
{
    return server->config.port;
}

int http_server_connection_count(const struct http_server *server)
{
    return server->connection_count;
}

static void stop_listening(struct http_server *server)
{
    http_watch_remove(server->listen_watch);
    server->listen_watch = NULL;
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    server->listen_fd = -1;
}

static void on_grace_over(void *context)
{
    struct http_server *server = context;

    for (struct connection *connection = server->connections; connection; connection = connection->next) {
        connection->is_cut = true;
        connection_mark_due(connection);
    }
}

void http_server_stop(struct http_server *server, int64_t grace_ms, void (*on_stopped)(void *context), void *context)
{
    int64_t now_ms = http_loop_now_ms(server->loop);

    if (server->is_stopping)
        return;
    server->is_stopping = true;
    server->on_stopped = on_stopped;
    server->stopped_context = context;
    stop_listening(server);
    for (struct connection *connection = server->connections; connection; connection = connection->next)
        connection_mark_due(connection);
    http_timer_set(server->due_timer, now_ms);
    server->stop_timer = http_loop_add_timer(server->loop, now_ms + grace_ms, on_grace_over, server);
}

void http_server_free(struct http_server *server)
{
    if (!server)
        return;
    while (server->connections)
        connection_close(server->connections);
    stop_listening(server);
    http_timer_remove(server->listen_timer);
    http_timer_remove(server->due_timer);
    http_timer_remove(server->stop_timer);
    free(server->scratch);
    free(server);
}
