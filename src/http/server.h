/* http/server.h - the HTTP/1.1 server core.
 *
 * One thread, one loop (http/loop.h). The core reads and checks heads, frames bodies, keeps deadlines, sends answers;
 * it knows no routes. For each request it makes a `struct http_exchange` and calls the handler's on_head once the
 * head is complete and beyond doubt. on_head then does one of three things:
 *
 *   answers at once               http_answer_bytes / _error / _file / _stream
 *   wants the body in one piece   http_take_whole  → on_body, which answers
 *   wants the body as it comes    http_take_stream → on_bytes …, on_end, which answers
 *
 * `100 Continue` goes out only with http_take_*, so an upload that on_head turns down never starts. An answer may
 * also come later, from any other callback of the loop (the handler keeps the exchange): the exchange stays valid
 * until its on_close is called, which happens exactly once, however the exchange ends. After on_close the pointer is
 * dead. Whoever answers late must therefore set on_close and forget the exchange there.
 *
 *   static void on_head(void *context, struct http_exchange *exchange)
 *   {
 *       const struct http_request *request = http_exchange_request(exchange);
 *       if (request->path.count == 1 && str_is(request->path.segment[0], "healthz"))
 *           http_answer_bytes(exchange, &(struct http_response){.status = 200}, STR("{\"status\":\"ok\"}"));
 *       else
 *           http_answer_error(exchange, 404, NULL, NULL, NULL, "There is no such path.");
 *   }
 *
 * What the core refuses by itself (400 framing and paths, 408, 413, 414, 417, 431, 501, 503, 505) has OpenAI's error
 * body, and the connection ends. Every answer carries Date, x-request-id, X-Content-Type-Options: nosniff and either
 * an exact Content-Length or chunked; HEAD, 204 and 304 go out without a body. When an answer comes before its
 * request's body was read, the connection ends behind it (lingering, so that the client sees the answer). */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "http/loop.h"
#include "http/url.h"

struct http_server;
struct tls;
struct http_exchange;
struct http_stream;

#define HTTP_METHODS(X) X(GET) X(HEAD) X(POST) X(PUT) X(PATCH) X(DELETE) X(OPTIONS) X(TRACE) X(QUERY)

enum http_method {
#define HTTP_METHOD_ENUM(name) HTTP_##name,
    HTTP_METHODS(HTTP_METHOD_ENUM)
#undef HTTP_METHOD_ENUM
    HTTP_METHOD_COUNT
};

const char *http_method_name(enum http_method method);

struct http_header {
    struct str name, value;
};

/* Lives as long as its exchange. */
struct http_request {
    enum http_method method;
    struct url_path path;      /* decoded segments: /v1/files/file-1 is "v1" "files" "file-1" */
    struct str path_text;      /* as sent, without query */
    struct str query_text;     /* as sent; read it with url_query_decode */
    struct str host;           /* may be empty on HTTP/1.0 */
    int minor_version;         /* 0 or 1 */
    bool has_body;
    int64_t content_length;    /* -1: chunked */
    const struct http_header *headers;
    size_t header_count;
    const char *address;       /* the client's, as text */
    uint64_t source;           /* of the address, for limits (os/socket.h) */
    const char *id;            /* what x-request-id says: "req_" and 32 hexadecimal digits */
    void *note;                /* the handler's own, set with http_exchange_note, for on_done */
    struct arena *arena;       /* goes with the exchange; use it for whatever has that lifetime */
};

/* Value of the first header of that name in any case, or an empty view. */
struct str http_request_header(const struct http_request *request, const char *name);
/* The credential of `Authorization: Bearer …`, or an empty view. */
struct str http_request_bearer(const struct http_request *request);

/* How an exchange ended. */
struct http_outcome {
    int status;             /* 0: the client went away before an answer */
    uint64_t request_bytes; /* head and body as they were read, framing included */
    uint64_t body_bytes;    /* of the request, without framing */
    uint64_t sent_bytes;    /* of the answer's body */
    int64_t duration_ms;
    bool is_complete;       /* the answer went to the kernel whole */
    bool is_last;           /* the connection ends with it */
};

struct http_handler {
    void (*on_head)(void *context, struct http_exchange *exchange);
    void *context;
    /* When an exchange is over, for the access log; may be NULL. */
    void (*on_done)(void *context, const struct http_request *request, const struct http_outcome *outcome);
    void *done_context;
};

/* Zero fields mean the default in the comment. */
struct http_config {
    const char *host;             /* 127.0.0.1; an IPv4 or IPv6 address */
    struct tls *tls;              /* of http/tls.h, which outlives the server; NULL: plain HTTP */
    int port;                     /* as given; 0: any free one, see http_server_port */
    const char *encoded_slash_under; /* prefixes of paths below which %2F is allowed, "/a/ /b/"; NULL: nowhere */
    size_t head_bytes_max;        /* 32 KiB → 431 */
    size_t line_bytes_max;        /* request line, 8 KiB → 414 */
    size_t header_count_max;      /* 64 → 431 */
    int connections_max;          /* 1,024 → 503 with Retry-After */
    int connections_per_address_max; /* 64 → closed; addresses as socket_source tells them apart; -1: no limit */
    int64_t head_ms;              /* 10 s from the first byte → 408; a handshake of TLS: 10 s → closed */
    int64_t body_gap_ms;          /* 10 s between bytes of a body → 408 */
    int64_t body_ms;              /* 30 s, plus the time that the bytes so far take at 64 KiB/s → 408 */
    int64_t idle_ms;              /* 30 s without a request → closed */
    int64_t send_stall_ms;        /* 15 s in which the client takes nothing of what waits for it → closed */
    int64_t linger_ms;            /* 5 s in which a client may still read the last answer */
};

/* Listens at once; connections are served while the loop runs. */
struct http_server *http_server_new(struct http_loop *loop, const struct http_config *config,
                                    const struct http_handler *handler, struct err *err);
int http_server_port(const struct http_server *server);
int http_server_connection_count(const struct http_server *server);
/* No more connections; idle ones close, running exchanges may finish until grace_ms have passed, then all are cut.
 * on_stopped (may be NULL) is called when nothing is left. */
void http_server_stop(struct http_server *server, int64_t grace_ms, void (*on_stopped)(void *context), void *context);
/* Cuts what is left, calling on_close; NULL is fine. Not from a handler's callback: stop first, free in on_stopped. */
void http_server_free(struct http_server *server);

/* The exchange. */
const struct http_request *http_exchange_request(const struct http_exchange *exchange);
void http_exchange_note(struct http_exchange *exchange, void *note);
bool http_exchange_is_answered(const struct http_exchange *exchange);
/* on_close is called once: is_complete when the answer went to the kernel whole, otherwise the client is gone, too
 * slow, or was refused while its body came. One callback per exchange; a second call replaces it. */
void http_exchange_on_close(struct http_exchange *exchange, void (*on_close)(void *context, bool is_complete),
                            void *context);

/* Body in one piece, at most bytes_max (413 beyond, checked before the first byte when the length is known). The view
 * lives until on_close. A request without a body gives an empty view, at once. */
void http_take_whole(struct http_exchange *exchange, size_t bytes_max,
                     void (*on_body)(void *context, struct http_exchange *exchange, struct str body), void *context);

/* Body as it comes, nothing is kept. on_bytes and on_end may answer at any time; after an answer no more bytes are
 * delivered. When the client fails, neither is called again and on_close says so. */
struct http_body_sink {
    void (*on_bytes)(void *context, struct http_exchange *exchange, struct str bytes);
    void (*on_end)(void *context, struct http_exchange *exchange);
};
void http_take_stream(struct http_exchange *exchange, uint64_t bytes_max, const struct http_body_sink *sink,
                      void *context);

/* No more of the body until it goes on: for a handler that is behind, whose client then waits. on_bytes may still be
 * called for what was read already, and on_end behind the last byte. Time does not count against the client meanwhile.
 * Both do nothing once the body is over, and calling one twice is fine. */
void http_body_pause(struct http_exchange *exchange);
void http_body_resume(struct http_exchange *exchange);

/* Answers: exactly one per exchange. Header names and values with CR, LF or NUL turn the answer into a 500. */
struct http_response {
    int status;
    const char *content_type;          /* NULL: application/json */
    const struct http_header *headers; /* further ones: not Content-Length, Content-Type, Connection … */
    size_t header_count;
};
/* Copies the body. */
void http_answer_bytes(struct http_exchange *exchange, const struct http_response *response, struct str body);

/* {"error":{"message","type","param","code"}}. type and code NULL: the usual ones of the status; param NULL: null.
 * message is copied and may hold any text. */
void http_answer_error(struct http_exchange *exchange, int status, const char *type, const char *code,
                       const char *param, const char *message);
/* Appends that body to a buffer, for answers that add further keys or headers. */
void http_error_body(struct strbuf *out, int status, const char *type, const char *code, const char *param,
                     const char *message);

/* `bytes` bytes of an open file from its start, by sendfile; a single Range is honoured (206, 416; with status 200
 * only). Takes the descriptor and closes it. content_type as you give it; add Content-Disposition through headers
 * (http_disposition writes it). */
void http_answer_file(struct http_exchange *exchange, const struct http_response *response, int fd, uint64_t bytes);
/* `attachment; filename="…"; filename*=UTF-8''…` for any name. */
char *http_disposition(struct arena *arena, struct str filename);

/* An answer of unknown length: SSE and the like. The head goes out at once. The stream is valid until it is ended by
 * http_stream_end or until the exchange's on_close, whichever is first: set on_close before. */
struct http_stream *http_answer_stream(struct http_exchange *exchange, const struct http_response *response);
/* Queued and sent as the client reads. False when the stream is broken or more than 8 MiB wait for a client that does
 * not read: then the exchange is being closed, stop writing. Empty writes do nothing. */
bool http_stream_write(struct http_stream *stream, struct str bytes);
/* One server-sent event: "data: <line>\n" per line of data and an empty line; event and id may be NULL. */
bool http_stream_event(struct http_stream *stream, const char *event, const char *id, struct str data);
size_t http_stream_pending(const struct http_stream *stream); /* bytes that the kernel has not taken yet */
void http_stream_end(struct http_stream *stream);
