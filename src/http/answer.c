#include "http/server_int.h"

#include "os/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *date_now(struct http_server *server)
{
    int64_t unix_s = clock_unix();

    if (unix_s != server->date_unix)
        date_write(unix_s, server->date);
    server->date_unix = unix_s;
    return server->date;
}

/* An answer after the core has refused is dropped; a second answer is a bug of the handler. */
static bool may_answer(struct http_exchange *exchange)
{
    if (exchange->is_refused)
        return false;
    ASSERT(exchange->status == 0);
    return true;
}

static bool head_try(struct http_exchange *exchange, const struct http_response *response, int64_t length,
                     struct strbuf *out)
{
    return message_head_write(out, &(struct message_head){
                                       .status = response->status,
                                       .content_type = response->content_type,
                                       .headers = response->headers,
                                       .header_count = response->header_count,
                                       .length = length,
                                       .id = exchange->id,
                                       .date = date_now(exchange->connection->server),
                                       .is_close = exchange->connection->is_close,
                                   });
}

/* Queues the head; the body is `length` bytes or one of the LENGTH_ constants. False: the response's headers
 * cannot be sent and a 500 was answered in its place. */
static bool head_queue(struct http_exchange *exchange, const struct http_response *response, int64_t length)
{
    struct connection *connection = exchange->connection;
    struct strbuf out = {0};
    bool ok;

    /* What was not read of a body would be taken for the next request. */
    connection->is_close |= exchange->body != BODY_DONE || connection->server->is_stopping ||
                            length == LENGTH_UNTIL_CLOSE;
    strbuf_reserve(&out, 512);
    ok = head_try(exchange, response, length, &out);
    if (ok) {
        exchange->status = response->status;
        exchange->is_body_dropped = exchange->request.method == HTTP_HEAD || status_is_bodiless(response->status);
        connection_queue(connection, strbuf_view(&out));
        connection_mark_due(connection);
    } else {
        http_answer_error(exchange, 500, NULL, NULL, NULL, "The server made an answer that cannot be sent.");
    }
    strbuf_deinit(&out);
    return ok;
}

static void body_queue(struct http_exchange *exchange, struct str bytes)
{
    if (exchange->is_body_dropped)
        return;
    exchange->bytes_sent += bytes.len;
    connection_queue(exchange->connection, bytes);
}

void http_answer_bytes(struct http_exchange *exchange, const struct http_response *response, struct str body)
{
    if (!may_answer(exchange) || !head_queue(exchange, response, (int64_t)body.len))
        return;
    body_queue(exchange, body);
    exchange->is_ended = true;
}

void http_answer_error(struct http_exchange *exchange, int status, const char *type, const char *code,
                       const char *param, const char *message)
{
    struct strbuf body = {0};

    http_error_body(&body, status, type, code, param, message);
    http_answer_bytes(exchange, &(struct http_response){.status = status}, strbuf_view(&body));
    strbuf_deinit(&body);
}

/* Files. */

static void add_header(struct http_exchange *exchange, struct http_response *response, const char *name,
                       const char *value)
{
    struct http_header *headers = arena_new_array(&exchange->arena, struct http_header, response->header_count + 1);

    for (size_t i = 0; i < response->header_count; i++)
        headers[i] = response->headers[i];
    headers[response->header_count++] = (struct http_header){str_of(name), str_of(value)};
    response->headers = headers;
}

/* Narrows the answer to the request's range, if it asks for one that we honour. False: 416 was answered. */
static bool apply_range(struct http_exchange *exchange, struct http_response *response, uint64_t size)
{
    struct str range = http_request_header(&exchange->request, "range");
    bool has_condition = http_request_header(&exchange->request, "if-range").len > 0;
    bool is_satisfiable;
    struct arena *arena = &exchange->arena;

    exchange->file_at = 0;
    exchange->file_left = size;
    if (response->status != 200)
        return true;
    add_header(exchange, response, "Accept-Ranges", "bytes");
    /* No answer carries a validator, so a condition on one never holds: the whole file is right. */
    if (exchange->request.method != HTTP_GET || has_condition ||
        !range_parse(range, size, &exchange->file_at, &exchange->file_left, &is_satisfiable)) {
        exchange->file_at = 0;
        exchange->file_left = size;
        return true;
    }
    if (is_satisfiable) {
        response->status = 206;
        add_header(exchange, response, "Content-Range",
                   arena_printf(arena, "bytes %llu-%llu/%llu", (unsigned long long)exchange->file_at,
                                (unsigned long long)(exchange->file_at + exchange->file_left - 1),
                                (unsigned long long)size));
        return true;
    }
    struct strbuf body = {0};
    struct http_response refused = {.status = 416};
    http_error_body(&body, 416, NULL, NULL, NULL, "The range begins behind the end of the file.");
    add_header(exchange, &refused, "Content-Range", arena_printf(arena, "bytes */%llu", (unsigned long long)size));
    exchange->file_left = 0;
    http_answer_bytes(exchange, &refused, strbuf_view(&body));
    strbuf_deinit(&body);
    return false;
}

void http_answer_file(struct http_exchange *exchange, const struct http_response *response, int fd, uint64_t bytes)
{
    struct http_response narrowed = *response;

    exchange->file_fd = exchange->file_fd < 0 ? fd : exchange->file_fd;
    if (!may_answer(exchange) || !apply_range(exchange, &narrowed, bytes))
        return;
    if (!head_queue(exchange, &narrowed, (int64_t)exchange->file_left) || exchange->is_body_dropped)
        exchange->file_left = 0;
    exchange->is_ended = true;
}

/* Streams. */

struct http_stream *http_answer_stream(struct http_exchange *exchange, const struct http_response *response)
{
    bool is_chunked = exchange->head.minor_version == 1;

    if (!may_answer(exchange) ||
        !head_queue(exchange, response, is_chunked ? LENGTH_CHUNKED : LENGTH_UNTIL_CLOSE))
        return &exchange->stream;
    exchange->is_stream = true;
    exchange->is_chunked_out = is_chunked;
    return &exchange->stream;
}

bool http_stream_write(struct http_stream *stream, struct str bytes)
{
    struct http_exchange *exchange = stream->exchange;
    struct connection *connection = exchange->connection;
    char size[24];

    if (!exchange->is_stream || exchange->is_ended || connection->is_cut)
        return false;
    if (bytes.len == 0 || exchange->is_body_dropped)
        return true;
    if (connection_pending(connection) + bytes.len > STREAM_PENDING_MAX) {
        connection->is_cut = true;
        connection_mark_due(connection);
        return false;
    }
    if (exchange->is_chunked_out)
        connection_queue(connection, (struct str){size, (size_t)snprintf(size, sizeof size, "%zx\r\n", bytes.len)});
    body_queue(exchange, bytes);
    if (exchange->is_chunked_out)
        connection_queue(connection, STR("\r\n"));
    connection_mark_due(connection);
    return true;
}

/* A field's value up to its first line end: an event's name or id cannot begin a new line. */
static void event_field(struct strbuf *out, const char *name, struct str value)
{
    size_t len = 0;

    while (len < value.len && value.at[len] != '\n' && value.at[len] != '\r')
        len++;
    strbuf_add_text(out, name);
    strbuf_add(out, ": ", 2);
    strbuf_add(out, value.at, len);
    strbuf_add_char(out, '\n');
}

bool http_stream_event(struct http_stream *stream, const char *event, const char *id, struct str data)
{
    struct strbuf text = {0};
    size_t from = 0;
    bool ok;

    if (event)
        event_field(&text, "event", str_of(event));
    if (id)
        event_field(&text, "id", str_of(id));
    for (size_t i = 0; i <= data.len; i++) {
        if (i < data.len && data.at[i] != '\n')
            continue;
        event_field(&text, "data", str_slice(data, from, i));
        from = i + 1;
    }
    strbuf_add_char(&text, '\n');
    ok = http_stream_write(stream, strbuf_view(&text));
    strbuf_deinit(&text);
    return ok;
}

size_t http_stream_pending(const struct http_stream *stream)
{
    return connection_pending(stream->exchange->connection);
}

void http_stream_end(struct http_stream *stream)
{
    struct http_exchange *exchange = stream->exchange;

    if (!exchange->is_stream || exchange->is_ended)
        return;
    if (exchange->is_chunked_out && !exchange->is_body_dropped)
        connection_queue(exchange->connection, STR("0\r\n\r\n"));
    exchange->is_ended = true;
    connection_mark_due(exchange->connection);
}
