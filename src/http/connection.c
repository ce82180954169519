#include "http/server_int.h"
#include "os/secret.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READS_PER_TURN = 4, BUFFER_KEPT_BYTES = 4 << 10, BODY_BYTES_PER_S = 64 << 10 };

static int64_t now_ms(const struct connection *connection)
{
    return http_loop_now_ms(connection->server->loop);
}

/* Life. */

static void on_ready(void *context, uint32_t events)
{
    struct connection *connection = context;

    /* RDHUP is asked for only while the handler is at work: then a client that stops sending has gone. */
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP))
        connection->is_cut = true;
    connection_drive(connection);
}

static void on_deadline(void *context);

void connection_open(struct http_server *server, int fd, const char *address, bool is_overload)
{
    struct connection *connection = mem_alloc_zero(1, sizeof *connection);
    struct err err;

    connection->server = server;
    connection->fd = fd;
    memcpy(connection->address, address, sizeof connection->address);
    connection->source = socket_source(address);
    connection->since_ms = now_ms(connection);
    connection->watch = http_loop_add_fd(server->loop, fd, EPOLLIN, on_ready, connection, &err);
    connection->timer = http_loop_add_timer(server->loop, INT64_MAX, on_deadline, connection);
    connection->next = server->connections;
    if (connection->next)
        connection->next->previous = connection;
    server->connections = connection;
    server->connection_count++;
    connection->is_cut = !connection->watch;
    connection->is_overload = is_overload;
    if (server->config.tls)
        connection->tls = tls_wire_new(server->config.tls, fd);
    connection_drive(connection);
}

static void due_remove(struct connection *connection)
{
    if (!connection->is_due)
        return;
    if (connection->due_next)
        connection->due_next->due_previous = connection->due_previous;
    if (connection->due_previous)
        connection->due_previous->due_next = connection->due_next;
    else
        connection->server->due = connection->due_next;
    connection->is_due = false;
}

void connection_mark_due(struct connection *connection)
{
    struct http_server *server = connection->server;

    if (connection->is_driving || connection->is_due)
        return;
    connection->is_due = true;
    connection->due_previous = NULL;
    connection->due_next = server->due;
    if (server->due)
        server->due->due_previous = connection;
    server->due = connection;
    http_timer_set(server->due_timer, http_loop_now_ms(server->loop));
}

void connection_close(struct connection *connection)
{
    struct http_server *server = connection->server;

    if (connection->exchange)
        exchange_end(connection->exchange, false);
    due_remove(connection);
    http_watch_remove(connection->watch);
    http_timer_remove(connection->timer);
    tls_wire_free(connection->tls);
    close(connection->fd);
    strbuf_deinit(&connection->in);
    strbuf_deinit(&connection->out);
    if (connection->next)
        connection->next->previous = connection->previous;
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    server->connection_count--;
    if (server->is_stopping && server->connection_count == 0)
        http_timer_set(server->due_timer, http_loop_now_ms(server->loop));
    free(connection);
}

/* Output. */

size_t connection_pending(const struct connection *connection)
{
    return connection->out.len - connection->out_from;
}

void connection_queue(struct connection *connection, struct str bytes)
{
    if (connection_pending(connection) == 0)
        connection->progress_ms = now_ms(connection);
    /* What was sent is forgotten when it is the larger part, so each byte moves at most once. */
    if (connection->out_from > connection->out.len / 2) {
        strbuf_drop(&connection->out, connection->out_from);
        connection->out_from = 0;
    }
    strbuf_add_str(&connection->out, bytes);
}

static void buffer_reset(struct strbuf *buf, size_t *from)
{
    if (buf->cap > BUFFER_KEPT_BYTES)
        strbuf_deinit(buf);
    strbuf_clear(buf);
    *from = 0;
}

enum step { STEP_AGAIN, STEP_WAIT, STEP_CLOSE };

/* STEP_AGAIN: nothing is left to send. */
static enum step send_queued(struct connection *connection)
{
    while (connection_pending(connection) > 0) {
        ssize_t sent = wire_write(connection, connection->out.at + connection->out_from,
                                  connection_pending(connection));
        if (sent < 0)
            return sent == WIRE_WAIT ? STEP_WAIT : STEP_CLOSE;
        connection->out_from += (size_t)sent;
        connection->progress_ms = now_ms(connection);
    }
    buffer_reset(&connection->out, &connection->out_from);
    return STEP_AGAIN;
}

static enum step send_file(struct connection *connection, struct http_exchange *exchange)
{
    ssize_t sent = wire_send_file(connection, exchange->file_fd, exchange->file_at, exchange->file_left);

    if (sent < 0)
        return sent == WIRE_WAIT ? STEP_WAIT : STEP_CLOSE;
    exchange->file_at += (uint64_t)sent;
    exchange->file_left -= (uint64_t)sent;
    exchange->bytes_sent += (uint64_t)sent;
    connection->progress_ms = now_ms(connection);
    return connection->reads_left-- > 0 ? STEP_AGAIN : STEP_WAIT;
}

/* Input. */

static struct str unread(const struct connection *connection)
{
    return str_slice(strbuf_view(&connection->in), connection->in_from, connection->in.len);
}

static void consume(struct connection *connection, size_t bytes)
{
    connection->in_from += bytes;
    if (connection->in_from == connection->in.len)
        buffer_reset(&connection->in, &connection->in_from);
}

/* Keeps a long row of pipelined requests from growing the buffer. */
static void drop_consumed(struct connection *connection)
{
    struct str rest = unread(connection);

    if (connection->in_from == 0)
        return;
    memmove(connection->in.at, rest.at, rest.len);
    connection->in.len = rest.len;
    connection->in_from = 0;
}

/* Reads into the server's scratch buffer; the view is valid until the next read of any connection. */
static enum step read_some(struct connection *connection, size_t bytes_max, struct str *bytes)
{
    ssize_t got;

    if (connection->reads_left-- <= 0)
        return STEP_WAIT;
    got = wire_read(connection, connection->server->scratch, bytes_max);
    if (got == WIRE_WAIT)
        return STEP_WAIT;
    if (got <= 0)
        return STEP_CLOSE;
    *bytes = (struct str){connection->server->scratch, (size_t)got};
    return STEP_AGAIN;
}

static enum step step_opening(struct connection *connection)
{
    static const struct refusal overload = {503, "The server has too many connections; try again."};
    static const struct refusal not_tls = {400, "This port speaks HTTPS: ask for https:// in place of http://."};
    int result = connection->server->is_stopping ? WIRE_BROKEN : wire_open(connection);

    if (result == WIRE_WAIT)
        return STEP_WAIT;
    if (result <= 0 && result != WIRE_NOT_TLS)
        return STEP_CLOSE;
    connection->state = CONNECTION_HEAD;
    connection->since_ms = now_ms(connection);
    if (result == WIRE_NOT_TLS || connection->is_overload)
        exchange_begin_refused(connection, result == WIRE_NOT_TLS ? &not_tls : &overload);
    return STEP_AGAIN;
}

static enum step read_head_bytes(struct connection *connection)
{
    struct str bytes;
    bool is_first = unread(connection).len == 0;
    enum step step;

    if (is_first && connection->server->is_stopping)
        return STEP_CLOSE;
    step = read_some(connection, 16384, &bytes);
    if (step != STEP_AGAIN)
        return step;
    if (is_first)
        connection->since_ms = now_ms(connection);
    drop_consumed(connection);
    strbuf_add_str(&connection->in, bytes);
    memory_erase(bytes.at, bytes.len); /* heads carry keys, and a body's beginning may come with them */
    return STEP_AGAIN;
}

static enum step step_head(struct connection *connection)
{
    const struct http_config *config = &connection->server->config;
    struct head_limits limits = {config->line_bytes_max, config->head_bytes_max, config->header_count_max};
    struct refusal refusal;
    size_t head_len;

    switch (head_scan(&connection->scan, &limits, unread(connection), &head_len, &refusal)) {
    case HEAD_MORE:
        return read_head_bytes(connection);
    case HEAD_REFUSED:
        exchange_begin_refused(connection, &refusal);
        break;
    case HEAD_DONE:
        /* The exchange copies its head first of all. */
        exchange_begin(connection, str_slice(unread(connection), 0, head_len));
        consume(connection, head_len);
        break;
    }
    return STEP_AGAIN;
}

static enum step step_body(struct connection *connection, struct http_exchange *exchange)
{
    struct str bytes = unread(connection);
    size_t offered, wanted = SCRATCH_BYTES;
    bool is_fresh = bytes.len == 0;

    if (!exchange->head.is_chunked && exchange->body_left < wanted)
        wanted = (size_t)exchange->body_left;
    if (is_fresh) {
        enum step step = read_some(connection, wanted, &bytes);
        if (step != STEP_AGAIN)
            return step;
    }
    exchange->body_last_ms = now_ms(connection);
    offered = bytes.len;
    exchange_body_feed(exchange, &bytes);
    if (!is_fresh)
        consume(connection, offered - bytes.len);
    else if (exchange->body == BODY_DONE)
        strbuf_add_str(&connection->in, bytes); /* the next request, pipelined */
    return STEP_AGAIN;
}

static void finish_exchange(struct connection *connection)
{
    exchange_end(connection->exchange, true);
    connection->scan = (struct head_scan){0};
    connection->since_ms = now_ms(connection);
    connection->state = CONNECTION_HEAD;
    if (connection->is_close) {
        wire_end_output(connection);
        connection->state = CONNECTION_LINGER;
    }
}

static enum step step_exchange(struct connection *connection)
{
    struct http_exchange *exchange = connection->exchange;

    if (exchange->status == 0)
        return exchange->body == BODY_READING && !exchange->is_paused ? step_body(connection, exchange) : STEP_WAIT;
    if (exchange->file_left > 0)
        return send_file(connection, exchange);
    if (!exchange->is_ended)
        return STEP_WAIT;
    finish_exchange(connection);
    return STEP_AGAIN;
}

static enum step step_linger(struct connection *connection)
{
    struct str discarded;

    return read_some(connection, SCRATCH_BYTES, &discarded);
}

static enum step step_once(struct connection *connection)
{
    enum step step;

    if (connection->is_cut)
        return STEP_CLOSE;
    step = send_queued(connection);
    if (step != STEP_AGAIN)
        return step;
    switch (connection->state) {
    case CONNECTION_OPENING:  return step_opening(connection);
    case CONNECTION_HEAD:     return step_head(connection);
    case CONNECTION_EXCHANGE: return step_exchange(connection);
    case CONNECTION_LINGER:   return step_linger(connection);
    }
    return STEP_CLOSE;
}

/* Waiting. */

static bool is_sending(const struct connection *connection)
{
    return connection_pending(connection) > 0 || (connection->exchange && connection->exchange->file_left > 0);
}

static bool is_reading_body(const struct connection *connection)
{
    return connection->exchange && connection->exchange->status == 0 && connection->exchange->body == BODY_READING;
}

static uint32_t wanted_events(const struct connection *connection)
{
    if (connection->blocked_on)
        return connection->blocked_on;
    if (is_sending(connection))
        return EPOLLOUT;
    if (is_reading_body(connection))
        return connection->exchange->is_paused ? 0 : EPOLLIN;
    return connection->state == CONNECTION_EXCHANGE ? EPOLLRDHUP : EPOLLIN;
}

static int64_t body_deadline(const struct connection *connection)
{
    const struct http_config *config = &connection->server->config;
    const struct http_exchange *exchange = connection->exchange;
    int64_t gap_end = exchange->body_last_ms + config->body_gap_ms;
    int64_t end = exchange->body_started_ms + config->body_ms +
                  (int64_t)(exchange->body_bytes * 1000 / BODY_BYTES_PER_S);

    return gap_end < end ? gap_end : end;
}

static int64_t deadline(const struct connection *connection)
{
    const struct http_config *config = &connection->server->config;

    if (is_sending(connection))
        return connection->progress_ms + config->send_stall_ms;
    if (is_reading_body(connection))
        return connection->exchange->is_paused ? INT64_MAX : body_deadline(connection);
    switch (connection->state) {
    case CONNECTION_OPENING:
        return connection->since_ms + config->head_ms;
    case CONNECTION_HEAD:
        return connection->since_ms + (unread(connection).len > 0 ? config->head_ms : config->idle_ms);
    case CONNECTION_EXCHANGE:
        return INT64_MAX; /* the handler is at work, or a stream has nothing to say */
    case CONNECTION_LINGER:
        return connection->since_ms + config->linger_ms;
    }
    return INT64_MAX;
}

void connection_drive(struct connection *connection)
{
    enum step step;

    ASSERT(!connection->is_driving);
    connection->is_driving = true;
    connection->reads_left = READS_PER_TURN;
    connection->blocked_on = 0;
    due_remove(connection);
    do
        step = step_once(connection);
    while (step == STEP_AGAIN);
    connection->is_driving = false;
    if (step == STEP_CLOSE) {
        connection_close(connection);
        return;
    }
    if (!connection->blocked_on && (wanted_events(connection) & EPOLLIN) && wire_has_pending(connection))
        connection_mark_due(connection);
    http_watch_set(connection->watch, wanted_events(connection));
    http_timer_set(connection->timer, deadline(connection));
}

static void on_deadline(void *context)
{
    static const struct refusal too_slow = {408, "The request did not arrive in time."};
    struct connection *connection = context;

    if (is_sending(connection))
        connection->is_cut = true;
    else if (is_reading_body(connection))
        exchange_refuse(connection->exchange, &too_slow);
    else if (connection->state == CONNECTION_HEAD && unread(connection).len > 0)
        exchange_begin_refused(connection, &too_slow);
    else
        connection->is_cut = true;
    connection_drive(connection);
}
