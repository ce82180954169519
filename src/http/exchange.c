#include "http/server_int.h"

#include "base/hash.h"
#include "os/entropy.h"
#include "os/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WHOLE_BYTES_FIRST = 16 << 10 };

static int64_t now_ms(const struct http_exchange *exchange)
{
    return http_loop_now_ms(exchange->connection->server->loop);
}

static void make_id(struct http_server *server, char id[40])
{
    enum { ID_BYTES = 16 };

    if (server->id_bytes_left < ID_BYTES) {
        entropy_fill(server->id_bytes, sizeof server->id_bytes);
        server->id_bytes_left = sizeof server->id_bytes;
    }
    server->id_bytes_left -= ID_BYTES;
    memcpy(id, "req_", 4);
    hex_encode(server->id_bytes + server->id_bytes_left, ID_BYTES, id + 4);
}

static struct http_exchange *exchange_new(struct connection *connection)
{
    struct http_exchange *exchange = mem_alloc_zero(1, sizeof *exchange);

    exchange->connection = connection;
    exchange->file_fd = -1;
    exchange->stream.exchange = exchange;
    exchange->started_ms = now_ms(exchange);
    exchange->body = BODY_DONE;
    exchange->head = (struct head){.method = HTTP_METHOD_COUNT, .minor_version = 1};
    make_id(connection->server, exchange->id);
    exchange->request = (struct http_request){
        .method = HTTP_METHOD_COUNT, .address = connection->address, .source = connection->source, .id = exchange->id,
        .arena = &exchange->arena};
    connection->exchange = exchange;
    connection->state = CONNECTION_EXCHANGE;
    return exchange;
}

static void request_fill(struct http_exchange *exchange)
{
    const struct head *head = &exchange->head;
    struct http_request *request = &exchange->request;

    request->method = head->method;
    request->path_text = head->path;
    request->query_text = head->query;
    request->host = head->host;
    request->minor_version = head->minor_version;
    request->has_body = head->has_body;
    request->content_length = head->is_chunked ? -1 : head->content_length;
    request->headers = head->headers;
    request->header_count = head->header_count;
    exchange->body = head->has_body ? BODY_WAITING : BODY_DONE;
    exchange->body_left = (uint64_t)head->content_length;
    exchange->connection->is_close |= head->is_close;
}

/* prefixes: words separated by spaces. */
static bool begins_with_one(struct str path, const char *prefixes)
{
    for (const char *at = prefixes; at && *at; at += strspn(at, " ")) {
        struct str prefix = {at, strcspn(at, " ")};

        if (str_starts(path, prefix))
            return true;
        at += prefix.len;
    }
    return false;
}

static bool read_path(struct http_exchange *exchange, struct refusal *refusal)
{
    const char *allowed = exchange->connection->server->config.encoded_slash_under;
    struct url_path *path = &exchange->request.path;
    struct err err;

    if (url_path_decode(&exchange->arena, exchange->head.path, path, &err) &&
        (!path->has_encoded_slash || begins_with_one(exchange->head.path, allowed)))
        return true;
    refusal->status = 400;
    snprintf(refusal->text, sizeof refusal->text, "The path is refused: %s.",
             path->has_encoded_slash ? "it holds an encoded slash" : err.text);
    return false;
}

static bool read_head(struct http_exchange *exchange, struct str bytes, struct refusal *refusal)
{
    struct str copy = {arena_copy(&exchange->arena, bytes.at, bytes.len), bytes.len};

    if (!head_parse(&exchange->arena, copy, &exchange->head, refusal))
        return false;
    request_fill(exchange);
    if (exchange->head.method != HTTP_METHOD_COUNT)
        return str_is(exchange->head.path, "*") || read_path(exchange, refusal);
    *refusal = (struct refusal){501, "The request's method is not known here."};
    return false;
}

void http_exchange_note(struct http_exchange *exchange, void *note)
{
    exchange->request.note = note;
}

void exchange_begin(struct connection *connection, struct str head)
{
    struct http_exchange *exchange = exchange_new(connection);
    const struct http_handler *handler = &connection->server->handler;
    struct refusal refusal;

    exchange->request_bytes = head.len;
    if (!read_head(exchange, head, &refusal))
        exchange_refuse(exchange, &refusal);
    else if (str_is(exchange->head.path, "*")) /* OPTIONS of the server as a whole */
        http_answer_bytes(exchange, &(struct http_response){.status = 204}, STR_NONE);
    else
        handler->on_head(handler->context, exchange);
}

void exchange_begin_refused(struct connection *connection, const struct refusal *refusal)
{
    exchange_refuse(exchange_new(connection), refusal);
}

void exchange_refuse(struct http_exchange *exchange, const struct refusal *refusal)
{
    static const struct http_header retry = {{"Retry-After", 11}, {"5", 1}};
    struct http_response response = {.status = refusal->status, .headers = &retry,
                                     .header_count = refusal->status == 503};
    struct strbuf body = {0};

    exchange->connection->is_close = true;
    http_error_body(&body, refusal->status, NULL, NULL, NULL, refusal->text);
    http_answer_bytes(exchange, &response, strbuf_view(&body));
    exchange->is_refused = true;
    strbuf_deinit(&body);
}

void exchange_end(struct http_exchange *exchange, bool is_complete)
{
    struct connection *connection = exchange->connection;
    const struct http_handler *handler = &connection->server->handler;

    connection->exchange = NULL;
    if (handler->on_done)
        handler->on_done(handler->done_context, &exchange->request,
                         &(struct http_outcome){.status = exchange->status,
                                                .request_bytes = exchange->request_bytes,
                                                .body_bytes = exchange->body_bytes,
                                                .sent_bytes = exchange->bytes_sent,
                                                .duration_ms = now_ms(exchange) - exchange->started_ms,
                                                .is_complete = is_complete,
                                                .is_last = !is_complete || connection->is_close});
    if (exchange->on_close)
        exchange->on_close(exchange->close_context, is_complete && !exchange->is_refused);
    if (exchange->file_fd >= 0)
        close(exchange->file_fd);
    memory_erase(exchange->whole.at, exchange->whole.len);
    strbuf_deinit(&exchange->whole);
    arena_deinit(&exchange->arena);
    free(exchange);
}

/* The body. */

static void body_done(struct http_exchange *exchange)
{
    exchange->body = BODY_DONE;
    if (exchange->on_body)
        exchange->on_body(exchange->body_context, exchange, strbuf_view(&exchange->whole));
    else
        exchange->sink.on_end(exchange->body_context, exchange);
}

/* Bodies in one piece are JSON, which may bring secrets: no copy of them stays in the buffers of the connection, and a
 * small one does not move while it grows. */
static void body_deliver(struct http_exchange *exchange, struct str bytes)
{
    exchange->body_bytes += bytes.len;
    if (exchange->on_body) {
        if (!exchange->whole.at)
            strbuf_reserve(&exchange->whole, WHOLE_BYTES_FIRST);
        strbuf_add_str(&exchange->whole, bytes);
        memory_erase(bytes.at, bytes.len);
    } else {
        exchange->sink.on_bytes(exchange->body_context, exchange, bytes);
    }
}

static void feed_length(struct http_exchange *exchange, struct str *bytes)
{
    struct str piece =
        str_slice(*bytes, 0, exchange->body_left < bytes->len ? (size_t)exchange->body_left : bytes->len);

    *bytes = str_slice(*bytes, piece.len, bytes->len);
    exchange->body_left -= piece.len;
    body_deliver(exchange, piece);
    if (exchange->body_left == 0 && exchange->status == 0)
        body_done(exchange);
}

static void feed_chunked(struct http_exchange *exchange, struct str *bytes)
{
    while (exchange->status == 0) {
        struct refusal refusal;
        struct str piece;

        switch (chunked_read(&exchange->chunked, bytes, &piece, &refusal)) {
        case CHUNKED_MORE:
            return;
        case CHUNKED_DATA:
            body_deliver(exchange, piece);
            break;
        case CHUNKED_DONE:
            body_done(exchange);
            return;
        case CHUNKED_REFUSED:
            exchange_refuse(exchange, &refusal);
            return;
        }
    }
}

void exchange_body_feed(struct http_exchange *exchange, struct str *bytes)
{
    size_t offered = bytes->len;

    if (exchange->head.is_chunked)
        feed_chunked(exchange, bytes);
    else
        feed_length(exchange, bytes);
    exchange->request_bytes += offered - bytes->len;
}

/* Common to both ways of taking a body: limits, then 100 Continue, then reading. */
static void take(struct http_exchange *exchange, uint64_t bytes_max)
{
    static const struct refusal too_large = {413, "The request's body is larger than this path takes."};
    struct connection *connection = exchange->connection;

    ASSERT(exchange->is_refused || exchange->status == 0);
    exchange->body_bytes_max = bytes_max;
    exchange->chunked.body_bytes_max = bytes_max;
    connection_mark_due(connection);
    if (exchange->status != 0)
        return;
    if (exchange->body_left > bytes_max) {
        exchange_refuse(exchange, &too_large);
        return;
    }
    if (exchange->body == BODY_DONE) {
        body_done(exchange);
        return;
    }
    exchange->body = BODY_READING;
    exchange->body_started_ms = exchange->body_last_ms = now_ms(exchange);
    if (exchange->head.expects_continue)
        connection_queue(connection, STR("HTTP/1.1 100 Continue\r\n\r\n"));
}

void http_take_whole(struct http_exchange *exchange, size_t bytes_max,
                     void (*on_body)(void *context, struct http_exchange *exchange, struct str body), void *context)
{
    exchange->on_body = on_body;
    exchange->body_context = context;
    take(exchange, bytes_max);
}

void http_take_stream(struct http_exchange *exchange, uint64_t bytes_max, const struct http_body_sink *sink,
                      void *context)
{
    exchange->sink = *sink;
    exchange->body_context = context;
    take(exchange, bytes_max);
}

void http_body_pause(struct http_exchange *exchange)
{
    if (exchange->is_paused)
        return;
    exchange->is_paused = true;
    exchange->paused_ms = now_ms(exchange);
}

void http_body_resume(struct http_exchange *exchange)
{
    if (!exchange->is_paused)
        return;
    exchange->is_paused = false;
    exchange->body_started_ms += now_ms(exchange) - exchange->paused_ms;
    exchange->body_last_ms = now_ms(exchange);
    connection_mark_due(exchange->connection);
}

/* What handlers ask. */

const struct http_request *http_exchange_request(const struct http_exchange *exchange)
{
    return &exchange->request;
}

bool http_exchange_is_answered(const struct http_exchange *exchange)
{
    return exchange->status != 0;
}

void http_exchange_on_close(struct http_exchange *exchange, void (*on_close)(void *context, bool is_complete),
                            void *context)
{
    exchange->on_close = on_close;
    exchange->close_context = context;
}

struct str http_request_header(const struct http_request *request, const char *name)
{
    for (size_t i = 0; i < request->header_count; i++)
        if (str_equal_nocase(request->headers[i].name, str_of(name)))
            return request->headers[i].value;
    return STR_NONE;
}

struct str http_request_bearer(const struct http_request *request)
{
    struct str value = http_request_header(request, "authorization");

    if (!str_equal_nocase(str_slice(value, 0, 7), STR("Bearer ")))
        return STR_NONE;
    return str_trim(str_slice(value, 7, value.len));
}
