/* tests/unit/http/site.h - a small site behind the real server, in the test's own process and thread.
 *
 * Its routes are those that the probes use: /healthz, files (multipart, JSON Lines checked), jobs (an empty one is
 * 422), models, and a few for the tests: /stream, /late, /file, /sink, /pausing. The clock stands still unless a test
 * moves it. */
#pragma once

#include "test.h"

#include "base/json.h"
#include "http/multipart.h"
#include "http/server.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct upload {
    struct multipart *reader;
    struct http_exchange *exchange;
    struct strbuf file, purpose, filename, expires[2], *field;
    int file_count, purpose_count, expires_count[2];
};

struct site {
    int64_t now_ms;
    struct http_loop *loop;
    struct http_server *server;
    /* what the tests look at */
    int heads, closes, completes, dones, last_status;
    struct http_outcome last;
    uint64_t body_bytes;
    struct http_exchange *late, *paused;
    struct http_stream *stream;
    const char *file_path;
    struct http_header bad_header;
};

static int64_t site_now(void *context)
{
    return ((struct site *)context)->now_ms;
}

/* Uploads. */

static bool upload_part(void *context, const struct multipart_part *part, struct err *err)
{
    struct upload *upload = context;

    if (str_is(part->name, "file")) {
        upload->field = &upload->file;
        upload->file_count++;
        strbuf_add_str(&upload->filename, part->filename);
    } else if (str_is(part->name, "purpose")) {
        upload->field = &upload->purpose;
        upload->purpose_count++;
    } else {
        size_t which = str_is(part->name, "expires_after[seconds]");
        upload->field = &upload->expires[which];
        if ((!which && !str_is(part->name, "expires_after[anchor]")) || upload->expires_count[which]++ > 0)
            return err_set(err, ERR_UNSUPPORTED, "unknown or repeated field");
    }
    return (upload->file_count <= 1 && upload->purpose_count <= 1) ||
           err_set(err, ERR_UNSUPPORTED, "a field occurs twice");
}

static bool upload_data(void *context, struct str bytes, struct err *err)
{
    struct upload *upload = context;

    strbuf_add_str(upload->field, bytes);
    return upload->field->len < 1 << 20 || err_set(err, ERR_LIMIT, "a field is too long");
}

static bool upload_part_end(void *context, struct err *err)
{
    return true;
}

static const struct multipart_sink upload_sink = {upload_part, upload_data, upload_part_end};

static void upload_refuse(struct http_exchange *exchange, const struct err *err)
{
    int status = err->code == ERR_LIMIT ? 413 : err->code == ERR_UNSUPPORTED ? 422 : 400;

    http_answer_error(exchange, status, NULL, NULL, NULL, err->text);
}

static void upload_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    struct upload *upload = context;
    struct err err;

    if (!multipart_feed(upload->reader, bytes, &err))
        upload_refuse(exchange, &err);
}

static bool is_json_lines(struct str text)
{
    struct arena arena = {0};
    size_t from = 0;
    bool ok = text.len > 0;

    for (size_t i = 0; ok && i <= text.len; i++) {
        if (i < text.len && text.at[i] != '\n')
            continue;
        if (i > from)
            ok = json_parse(&arena, str_slice(text, from, i), NULL, NULL) != NULL;
        from = i + 1;
    }
    arena_deinit(&arena);
    return ok;
}

static void upload_end(void *context, struct http_exchange *exchange)
{
    struct upload *upload = context;
    struct strbuf body = {0};
    struct json_writer writer = {.buf = &body};
    struct err err;
    bool ok = multipart_finish(upload->reader, &err);

    if (ok && (upload->file_count != 1 || !str_is(strbuf_view(&upload->purpose), "fine-tune") ||
               !is_json_lines(strbuf_view(&upload->file))))
        ok = err_set(&err, ERR_UNSUPPORTED, "the fields are not right");
    if (!ok) {
        upload_refuse(exchange, &err);
        return;
    }
    json_write_begin_object(&writer);
    json_put_integer(&writer, "bytes", (int64_t)upload->file.len);
    json_put_str(&writer, "filename", strbuf_view(&upload->filename));
    json_write_end_object(&writer);
    http_answer_bytes(exchange, &(struct http_response){.status = 200}, strbuf_view(&body));
    strbuf_deinit(&body);
}

static void upload_free(void *context, bool is_complete)
{
    struct upload *upload = context;

    multipart_free(upload->reader);
    strbuf_deinit(&upload->file);
    strbuf_deinit(&upload->purpose);
    strbuf_deinit(&upload->filename);
    strbuf_deinit(&upload->expires[0]);
    strbuf_deinit(&upload->expires[1]);
    free(upload);
}

static void upload_begin(struct http_exchange *exchange)
{
    static const struct http_body_sink sink = {upload_bytes, upload_end};
    struct upload *upload = calloc(1, sizeof *upload);
    struct err err;

    http_exchange_on_close(exchange, upload_free, upload);
    upload->reader = multipart_new(http_request_header(http_exchange_request(exchange), "content-type"), &upload_sink,
                                   upload, &err);
    if (upload->reader)
        http_take_stream(exchange, (uint64_t)50 << 30, &sink, upload);
    else
        upload_refuse(exchange, &err);
}

/* Other routes. */

static void site_closed(void *context, bool is_complete)
{
    struct site *site = context;

    site->closes++;
    site->completes += is_complete;
    site->late = NULL;
    site->paused = NULL;
    site->stream = NULL;
}

static void job_body(void *context, struct http_exchange *exchange, struct str body)
{
    struct site *site = context;

    site->body_bytes += body.len;
    http_answer_error(exchange, 422, NULL, NULL, "model", "Field required.");
}

static void sink_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    ((struct site *)context)->body_bytes += bytes.len;
}

static void sink_end(void *context, struct http_exchange *exchange)
{
    http_answer_bytes(exchange, &(struct http_response){.status = 200}, STR("{}"));
}

static void pausing_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    struct site *site = context;

    site->body_bytes += bytes.len;
    site->paused = exchange;
    http_body_pause(exchange);
}

static void serve_file(struct site *site, struct http_exchange *exchange)
{
    uint64_t bytes;
    struct err err;

    assert_ok(file_size(site->file_path, &bytes, &err), err);
    http_answer_file(exchange, &(struct http_response){.status = 200, .content_type = "application/octet-stream"},
                     file_open_read(site->file_path, &err), bytes);
}

static void route(struct site *site, struct http_exchange *exchange, const char *path)
{
    static const struct http_body_sink sink = {sink_bytes, sink_end}, pausing_sink = {pausing_bytes, sink_end};
    const struct http_request *request = http_exchange_request(exchange);
    bool is_get = request->method == HTTP_GET || request->method == HTTP_HEAD;

    if (!strcmp(path, "/v1/files") && request->method == HTTP_POST)
        upload_begin(exchange);
    else
        http_exchange_on_close(exchange, site_closed, site);
    if (http_exchange_is_answered(exchange) || (!strcmp(path, "/v1/files") && request->method == HTTP_POST))
        return;
    if ((!strcmp(path, "/healthz") || !strcmp(path, "/v1/files")) && is_get)
        http_answer_bytes(exchange, &(struct http_response){.status = 200}, STR("{\"status\":\"ok\"}"));
    else if (request->method == HTTP_OPTIONS)
        http_answer_bytes(exchange, &(struct http_response){.status = 204}, STR_NONE);
    else if (!strcmp(path, "/v1/fine_tuning/jobs") && request->method == HTTP_POST)
        http_take_whole(exchange, 4 << 20, job_body, site);
    else if (!strcmp(path, "/sink"))
        http_take_stream(exchange, UINT64_MAX / 4, &sink, site);
    else if (!strcmp(path, "/pausing"))
        http_take_stream(exchange, UINT64_MAX / 4, &pausing_sink, site);
    else if (!strcmp(path, "/file"))
        serve_file(site, exchange);
    else if (!strcmp(path, "/late"))
        site->late = exchange;
    else if (!strcmp(path, "/stream"))
        site->stream =
            http_answer_stream(exchange, &(struct http_response){.status = 200, .content_type = "text/event-stream"});
    else if (!strcmp(path, "/bad"))
        http_answer_bytes(exchange,
                          &(struct http_response){.status = 200, .headers = &site->bad_header, .header_count = 1},
                          STR("{}"));
    else if (!strcmp(path, "/healthz") || !strcmp(path, "/v1/files") || !strcmp(path, "/v1/fine_tuning/jobs"))
        http_answer_error(exchange, 405, NULL, NULL, NULL, "Not here.");
    else
        http_answer_error(exchange, 404, NULL, NULL, NULL, "There is no such path.");
}

static void site_on_head(void *context, struct http_exchange *exchange)
{
    const struct url_path *path = &http_exchange_request(exchange)->path;
    struct strbuf text = {0};

    ((struct site *)context)->heads++;
    for (size_t i = 0; i < path->count; i++) {
        strbuf_add_char(&text, '/');
        strbuf_add_str(&text, path->segment[i]);
    }
    route(context, exchange, text.len ? text.at : "/");
    strbuf_deinit(&text);
}

static void site_on_done(void *context, const struct http_request *request, const struct http_outcome *outcome)
{
    struct site *site = context;

    assert_non_null(http_method_name(request->method));
    site->dones++;
    site->last_status = outcome->status;
    site->last = *outcome;
}

/* config may be NULL. */
static void site_open(struct site *site, const struct http_config *config)
{
    struct http_config own = config ? *config : (struct http_config){0};
    struct http_handler handler = {site_on_head, site, site_on_done, site};
    struct http_clock clock = {site_now, site};
    struct err err;

    *site = (struct site){.now_ms = 1000000};
    own.encoded_slash_under = "/v1/models/";
    site->loop = http_loop_new(&clock, &err);
    assert_ok(site->loop != NULL, err);
    site->server = http_server_new(site->loop, &own, &handler, &err);
    assert_ok(site->server != NULL, err);
}

static void site_close(struct site *site)
{
    http_server_free(site->server);
    http_loop_free(site->loop);
}

/* Client side. */

static int site_connect(struct site *site)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)http_server_port(site->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        assert_int_equal(errno, EINPROGRESS);
    return fd;
}

static void site_step(struct site *site)
{
    struct err err;

    assert_ok(http_loop_step(site->loop, 0, &err), err);
}

/* Lets the server work until it has nothing more to do with what was sent. */
static void site_settle(struct site *site)
{
    for (int i = 0; i < 12; i++)
        site_step(site);
}

static inline void site_move_clock(struct site *site, int64_t ms)
{
    site->now_ms += ms;
    site_settle(site);
}

/* Sends what fits while the server works; stops early when the server has closed. */
static void site_send(struct site *site, int fd, struct str bytes)
{
    while (bytes.len > 0) {
        ssize_t sent = send(fd, bytes.at, bytes.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != ENOTCONN)
            return;
        bytes = str_slice(bytes, sent > 0 ? (size_t)sent : 0, bytes.len);
        site_step(site);
    }
    site_settle(site);
}

/* Everything that arrives until the server closes (*is_closed) or says no more. */
static void site_receive(struct site *site, int fd, struct strbuf *answer, bool *is_closed)
{
    char piece[65536];
    int quiet = 0;

    *is_closed = false;
    while (quiet < 4) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        ssize_t got;

        site_step(site);
        got = recv(fd, piece, sizeof piece, MSG_DONTWAIT);
        if (got > 0) {
            strbuf_add(answer, piece, (size_t)got);
            quiet = 0;
        } else if (got == 0 || errno != EAGAIN) {
            *is_closed = true;
            return;
        } else if (poll(&wait, 1, 1) == 0) {
            quiet++;
        }
    }
}

/* Responses. */

struct answer {
    int status;
    struct str head, body;
};

/* Value of a header in a head, or an empty view. */
static struct str answer_header(struct str head, const char *name)
{
    char key[64];
    ptrdiff_t at, end;

    snprintf(key, sizeof key, "\r\n%s: ", name);
    at = str_find(head, str_of(key), 0);
    if (at < 0)
        return STR_NONE;
    end = str_find(head, STR("\r\n"), (size_t)at + 2);
    return str_slice(head, (size_t)at + strlen(key), (size_t)end);
}

static struct str take_chunks(struct str *bytes)
{
    size_t at = 0;

    /* Bodies of the tests' streams are compared in their coded form; the end is the last chunk. */
    ptrdiff_t end = str_find(*bytes, STR("0\r\n\r\n"), 0);
    at = end < 0 ? bytes->len : (size_t)end + 5;
    struct str body = str_slice(*bytes, 0, at);
    *bytes = str_slice(*bytes, at, bytes->len);
    return body;
}

/* Splits final responses; 1xx are skipped. methods: one letter each request, 'H' for HEAD. Returns their number. */
static size_t answers_split(struct str bytes, const char *methods, struct answer *answers, size_t answers_max)
{
    size_t count = 0;

    while (bytes.len > 0 && count < answers_max) {
        ptrdiff_t head_end = str_find(bytes, STR("\r\n\r\n"), 0);
        struct answer answer = {0};
        struct str length;
        int64_t body_len = 0;
        bool is_head = methods && count < strlen(methods) && methods[count] == 'H';

        assert_true(head_end > 0 && str_starts(bytes, STR("HTTP/1.1 ")));
        answer.status = atoi(bytes.at + 9);
        answer.head = str_slice(bytes, 0, (size_t)head_end + 2);
        bytes = str_slice(bytes, (size_t)head_end + 4, bytes.len);
        if (answer.status < 200)
            continue;
        length = answer_header(answer.head, "Content-Length");
        assert_true(str_is(answer_header(answer.head, "X-Content-Type-Options"), "nosniff"));
        assert_int_equal(answer_header(answer.head, "x-request-id").len, 36);
        if (length.len > 0 && !is_head)
            assert_true(str_to_i64(length, &body_len));
        if (str_is(answer_header(answer.head, "Transfer-Encoding"), "chunked") && !is_head) {
            assert_int_equal(length.len, 0);
            answer.body = take_chunks(&bytes);
        } else {
            answer.body = str_slice(bytes, 0, (size_t)body_len);
            bytes = str_slice(bytes, (size_t)body_len, bytes.len);
        }
        answers[count++] = answer;
    }
    return count;
}

/* One request on a connection of its own. */
static inline struct answer site_ask(struct site *site, struct str request, struct strbuf *buf, bool *is_closed)
{
    struct answer answers[4];
    int fd = site_connect(site);

    strbuf_clear(buf);
    site_send(site, fd, request);
    site_receive(site, fd, buf, is_closed);
    close(fd);
    site_settle(site);
    assert_int_equal(answers_split(strbuf_view(buf), str_starts(request, STR("HEAD")) ? "H" : NULL, answers, 4), 1);
    return answers[0];
}
