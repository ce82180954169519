/* A whole connection: requests of any kind, answered at once, late, in a stream, as a file, with a body paused. Every
 * exchange ends once; the output is exactly one answer for each that was answered, as long as it says; and whatever was
 * sent, the connection is gone when its deadlines are. Bytes 1 to 5 are no bytes of requests but what happens then. */
#include "http/server_int.h"

#include <fcntl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ENDED_MAX = 4096, FILE_BYTES = 300 << 10, PASS_SECONDS = 1, READ = 2, ACT = 3, HALF_CLOSE = 4 };

#define CHECK(condition) ((condition) ? (void)0 : abort())

struct ended {
    int status;
    bool is_complete, is_head;
};

static struct world {
    struct http_loop *loop;
    struct http_server *server;
    int64_t now_ms;
    int client, file;
    struct strbuf output;
    struct http_exchange *waiting, *paused; /* for ACT */
    struct http_stream *stream;
    size_t heads, closes, ended_count;
    struct ended ended[ENDED_MAX];
} w;

static int64_t world_now(void *context)
{
    return w.now_ms;
}

static void step(int rounds)
{
    struct err err;

    while (rounds-- > 0)
        CHECK(http_loop_step(w.loop, 0, &err));
}

static void drain(void)
{
    char piece[65536];
    ssize_t got;

    for (step(4); (got = recv(w.client, piece, sizeof piece, MSG_DONTWAIT)) > 0; step(4))
        strbuf_add(&w.output, piece, (size_t)got);
}

static void on_close(void *context, bool is_complete)
{
    w.closes++;
    w.waiting = w.paused = NULL;
    w.stream = NULL;
}

static void answer(void *context, struct http_exchange *exchange)
{
    w.paused = NULL;
    http_answer_bytes(exchange, &(struct http_response){.status = 200}, STR("whole"));
}

static void on_body(void *context, struct http_exchange *exchange, struct str body)
{
    answer(context, exchange);
}

static void on_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    if (context && !w.paused) {
        w.paused = exchange;
        http_body_pause(exchange);
    }
}

static void on_head(void *context, struct http_exchange *exchange)
{
    static const struct http_body_sink sink = {on_bytes, answer};
    const struct http_request *request = http_exchange_request(exchange);
    char which = request->path.count ? request->path.segment[0].at[0] : 'n';

    w.heads++;
    http_exchange_on_close(exchange, on_close, NULL);
    if (which == 'w')
        http_take_whole(exchange, 64, on_body, NULL);
    else if (which == 's' || which == 'p')
        http_take_stream(exchange, 1000, &sink, which == 'p' ? &w : NULL);
    else if (which == 'e')
        w.stream = http_answer_stream(exchange, &(struct http_response){.status = 200});
    else if (which == 'f')
        http_answer_file(exchange, &(struct http_response){.status = 200}, dup(w.file), FILE_BYTES);
    else if (which == 'l')
        w.waiting = exchange;
    else
        http_answer_bytes(exchange, &(struct http_response){.status = which == 'n' ? 204 : 404}, STR("no such path"));
}

static void on_done(void *context, const struct http_request *request, const struct http_outcome *outcome)
{
    CHECK(w.ended_count < ENDED_MAX);
    w.ended[w.ended_count++] = (struct ended){outcome->status, outcome->is_complete, request->method == HTTP_HEAD};
}

/* What handlers do later. */
static void act(bool is_last)
{
    if (w.waiting)
        answer(NULL, w.waiting);
    w.waiting = NULL;
    if (w.paused)
        http_body_resume(w.paused);
    w.paused = NULL;
    if (w.stream && (is_last || !http_stream_event(w.stream, "a", NULL, STR("b\nc"))))
        http_stream_end(w.stream);
}

/* The server may leave bytes unread only while a handler owes it something: then the rest is not sent. */
static void send_bytes(struct str bytes)
{
    bool is_stuck = false;

    while (bytes.len > 0) {
        ssize_t sent = send(w.client, bytes.at, bytes.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return;
        if (sent < 0 && is_stuck) {
            CHECK(w.waiting || w.paused || w.stream);
            return;
        }
        is_stuck = sent < 0;
        bytes = str_slice(bytes, sent > 0 ? (size_t)sent : 0, bytes.len);
        step(3);
        if (is_stuck)
            drain();
    }
}

/* The chunks of a coded body; false when its end is missing. */
static bool skip_chunks(struct str *out)
{
    for (;;) {
        ptrdiff_t line = str_find(*out, STR("\r\n"), 0);
        size_t size = line > 0 ? strtoul(out->at, NULL, 16) : 0;
        if (line <= 0 || out->len < (size_t)line + 4 + size)
            return false;
        *out = str_slice(*out, (size_t)line + 4 + size, out->len);
        if (size == 0)
            return true;
    }
}

/* Takes one answer off the output. */
static bool skip_answer(struct str *out, const struct ended *ended)
{
    ptrdiff_t end, at;
    struct str head;

    while (str_starts(*out, STR("HTTP/1.1 100 Continue\r\n\r\n")))
        *out = str_slice(*out, 25, out->len);
    if ((end = str_find(*out, STR("\r\n\r\n"), 0)) < 0)
        return false;
    head = str_slice(*out, 0, (size_t)end + 2);
    CHECK(str_starts(head, STR("HTTP/1.1 ")) && atoi(head.at + 9) == ended->status);
    *out = str_slice(*out, (size_t)end + 4, out->len);
    if (ended->is_head || ended->status == 204)
        return true;
    if (str_find(head, STR("\r\nTransfer-Encoding: chunked\r\n"), 0) > 0)
        return skip_chunks(out);
    at = str_find(head, STR("\r\nContent-Length: "), 0);
    size_t length = at > 0 ? strtoul(head.at + at + 18, NULL, 10) : out->len; /* neither: until the end */
    bool is_whole = length <= out->len;
    *out = str_slice(*out, is_whole ? length : out->len, out->len);
    return is_whole;
}

static void check_output(void)
{
    struct str out = strbuf_view(&w.output);

    for (size_t i = 0; i < w.ended_count; i++) {
        bool is_whole = w.ended[i].status == 0 || skip_answer(&out, &w.ended[i]);
        CHECK(is_whole || !w.ended[i].is_complete);
        if (!w.ended[i].is_complete) {
            CHECK(i + 1 == w.ended_count);
            return;
        }
    }
    CHECK(out.len == 0);
}

static void world_new(void)
{
    static const struct http_handler handler = {.on_head = on_head, .on_done = on_done};
    struct http_clock clock = {world_now, NULL};
    struct err err;

    w.loop = http_loop_new(&clock, &err);
    w.server = http_server_new(w.loop, &(struct http_config){.host = "127.0.0.1"}, &handler, &err);
    w.file = memfd_create("file", MFD_CLOEXEC);
    CHECK(w.server && ftruncate(w.file, FILE_BYTES) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char address[SOCKET_ADDRESS_BYTES] = "fuzz";
    struct str rest = {(const char *)data, size < 8192 ? size : 8192};
    int ends[2];

    if (!w.loop)
        world_new();
    strbuf_clear(&w.output);
    w.heads = w.closes = w.ended_count = 0;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    w.client = ends[0];
    connection_open(w.server, ends[1], address, false);
    while (rest.len > 0) {
        size_t literal = 0;
        while (literal < rest.len && (rest.at[literal] < 1 || rest.at[literal] > 4))
            literal++;
        send_bytes(str_slice(rest, 0, literal));
        if (literal < rest.len)
            switch (rest.at[literal]) {
            case PASS_SECONDS: w.now_ms += 4000; break;
            case READ:         drain(); break;
            case ACT:          act(false); break;
            case HALF_CLOSE:   shutdown(w.client, SHUT_WR); break;
            }
        step(3);
        rest = str_slice(rest, literal + 1, rest.len);
    }
    for (int i = 0; i < 40 && http_server_connection_count(w.server) > 0; i++) {
        act(true);
        drain();
        w.now_ms += 4000;
        step(2);
    }
    CHECK(http_server_connection_count(w.server) == 0 && w.closes == w.heads && w.ended_count >= w.heads);
    drain();
    check_output();
    close(w.client);
    return 0;
}
