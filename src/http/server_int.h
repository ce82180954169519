/* http/server_int.h - connections and exchanges, shared by server.c, connection.c and answer.c.
 *
 * A connection reads heads one after another; each becomes an exchange, and the next head is looked at only when the
 * exchange is over. Functions that handlers call only queue and mark the connection as due; all reading, writing and
 * ending happens in connection_drive, which is never entered twice for one connection. That is why no call of a handler
 * can make its exchange vanish under it. */
#pragma once

#include "http/chunked.h"
#include "http/message.h"
#include "http/tls.h"
#include "os/socket.h"

enum { STREAM_PENDING_MAX = 8 << 20, SCRATCH_BYTES = 256 << 10 };

enum body_state { BODY_WAITING, BODY_READING, BODY_DONE }; /* not wanted yet, being delivered, over or absent */

struct http_stream {
    struct http_exchange *exchange;
};

struct http_exchange {
    struct connection *connection;
    struct arena arena;
    struct head head;
    struct http_request request;
    char id[40];
    int64_t started_ms;
    uint64_t request_bytes, bytes_sent;

    enum body_state body;
    uint64_t body_bytes, body_bytes_max; /* delivered so far */
    uint64_t body_left;                  /* with a length */
    struct chunked chunked;
    int64_t body_started_ms, body_last_ms;
    bool is_paused; /* the handler wants no more of the body for now */
    int64_t paused_ms;
    struct http_body_sink sink;
    void (*on_body)(void *context, struct http_exchange *exchange, struct str body);
    void *body_context;
    struct strbuf whole;

    int status;           /* 0: not answered */
    bool is_refused;      /* by the core: the handler's own answer is ignored */
    bool is_stream, is_chunked_out, is_body_dropped; /* HEAD and 204 */
    bool is_ended;        /* all of the answer is queued */
    int file_fd;          /* -1: none */
    uint64_t file_at, file_left;
    struct http_stream stream;

    void (*on_close)(void *context, bool is_complete);
    void *close_context;
};

enum connection_state { CONNECTION_OPENING, CONNECTION_HEAD, CONNECTION_EXCHANGE, CONNECTION_LINGER };

struct connection {
    struct http_server *server;
    struct connection *next, *previous;
    struct connection *due_next, *due_previous;
    int fd;
    struct tls_wire *tls; /* NULL: none */
    uint32_t blocked_on;  /* the event that the last drive ended in wait for; 0: for none of the wire's */
    struct http_watch *watch;
    struct http_timer *timer;
    char address[SOCKET_ADDRESS_BYTES];
    uint64_t source;
    enum connection_state state;
    struct head_scan scan;
    struct strbuf in, out;
    size_t in_from, out_from;
    int64_t since_ms;    /* open, idle, head begun, or lingering since */
    int64_t progress_ms; /* last time that the kernel took output */
    struct http_exchange *exchange;
    int reads_left;      /* in this turn, so that one fast sender does not starve the others */
    bool is_close;       /* ends after this exchange */
    bool is_cut;         /* ends now */
    bool is_overload;    /* one too many: refused as soon as it can be told */
    bool is_driving, is_due;
};

struct http_server {
    struct http_loop *loop;
    struct http_config config;
    struct http_handler handler;
    int listen_fd;
    struct http_watch *listen_watch;
    struct http_timer *listen_timer, *due_timer, *stop_timer;
    struct connection *connections, *due;
    int connection_count;
    bool is_stopping;
    void (*on_stopped)(void *context);
    void *stopped_context;
    int64_t date_unix;
    char date[40];
    char *scratch; /* SCRATCH_BYTES, for whichever connection reads now */
    unsigned char id_bytes[4096]; /* random ones, for the ids of the next requests: the kernel is asked once for many */
    size_t id_bytes_left;
};

/* connection.c */
void connection_open(struct http_server *server, int fd, const char *address, bool is_overload);
void connection_drive(struct connection *connection);
void connection_close(struct connection *connection);
/* Drives it in the next round of the loop, unless it is being driven now. */
void connection_mark_due(struct connection *connection);
void connection_queue(struct connection *connection, struct str bytes);
size_t connection_pending(const struct connection *connection);

/* wire.c: everything that a connection moves. Bytes moved, 0 at the end of input, or one of these. */
enum { WIRE_WAIT = -1, WIRE_BROKEN = -2, WIRE_NOT_TLS = -3 };
/* First of all, until it is positive. WIRE_NOT_TLS: the client speaks plainly to a port of TLS; it is answered so. */
int wire_open(struct connection *connection);
ssize_t wire_read(struct connection *connection, void *at, size_t bytes);
ssize_t wire_write(struct connection *connection, const void *at, size_t bytes);
ssize_t wire_send_file(struct connection *connection, int fd, uint64_t at, uint64_t bytes);
bool wire_has_pending(const struct connection *connection); /* input that the descriptor does not tell of */
void wire_end_output(struct connection *connection);

/* exchange.c */
/* Reads the head and asks the handler, or refuses. */
void exchange_begin(struct connection *connection, struct str head);
void exchange_begin_refused(struct connection *connection, const struct refusal *refusal);
void exchange_refuse(struct http_exchange *exchange, const struct refusal *refusal);
/* Delivers what belongs to the body and takes it off *bytes. */
void exchange_body_feed(struct http_exchange *exchange, struct str *bytes);
void exchange_end(struct http_exchange *exchange, bool is_complete);
