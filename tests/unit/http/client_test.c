/* The client against the real server, which runs in a thread of its own. */
#include "test.h"

#include "http/client.h"
#include "http/multipart.h"
#include "http/server.h"
#include "os/file.h"

#include <pthread.h>
#include <string.h>

struct host {
    struct http_loop *loop;
    struct http_server *server;
    pthread_t thread;
    char url[64];
    struct multipart *reader;
    uint64_t file_bytes;
    char field[128], seen[512];
};

static void seen_request(struct host *host, const struct http_request *request)
{
    snprintf(host->seen, sizeof host->seen, "%s %.*s %.*s %.*s%s%.*s", http_method_name(request->method),
             STR_ARG(request->path_text), STR_ARG(http_request_bearer(request)),
             STR_ARG(http_request_header(request, "content-type")),
             http_request_header(request, "x-more").len ? " " : "", STR_ARG(http_request_header(request, "x-more")));
}

static bool form_part(void *context, const struct multipart_part *part, struct err *err)
{
    struct host *host = context;
    size_t len = strlen(host->field);

    snprintf(host->field + len, sizeof host->field - len, "%.*s:%.*s;", STR_ARG(part->name), STR_ARG(part->filename));
    host->file_bytes = 0;
    return true;
}

static bool form_data(void *context, struct str bytes, struct err *err)
{
    ((struct host *)context)->file_bytes += bytes.len;
    return true;
}

static bool form_part_end(void *context, struct err *err)
{
    return true;
}

static void form_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    struct err err;

    if (!multipart_feed(((struct host *)context)->reader, bytes, &err))
        http_answer_error(exchange, 400, NULL, NULL, NULL, err.text);
}

static void form_end(void *context, struct http_exchange *exchange)
{
    struct host *host = context;
    struct err err;

    if (multipart_finish(host->reader, &err))
        http_answer_bytes(exchange, &(struct http_response){.status = 200}, str_of(host->field));
    else
        http_answer_error(exchange, 400, NULL, NULL, NULL, err.text);
    multipart_free(host->reader);
    host->reader = NULL;
}

static void echo(void *context, struct http_exchange *exchange, struct str body)
{
    http_answer_bytes(exchange, &(struct http_response){.status = 200}, body);
}

static void stream(struct http_exchange *exchange)
{
    struct http_stream *out =
        http_answer_stream(exchange, &(struct http_response){.status = 200, .content_type = "text/event-stream"});

    for (int i = 0; i < 3; i++)
        http_stream_event(out, i == 1 ? "step" : NULL, NULL, STR("{\"a\":1}\nb"));
    http_stream_end(out);
}

static void on_head(void *context, struct http_exchange *exchange)
{
    static const struct multipart_sink parts = {form_part, form_data, form_part_end};
    static const struct http_body_sink sink = {form_bytes, form_end};
    const struct http_header away = {STR("Location"), STR("/elsewhere")};
    struct host *host = context;
    const struct http_request *request = http_exchange_request(exchange);
    struct str name = request->path.count ? request->path.segment[0] : STR_NONE;

    seen_request(host, request);
    if (str_is(name, "form")) {
        host->reader = multipart_new(http_request_header(request, "content-type"), &parts, host, NULL);
        http_take_stream(exchange, 1 << 30, &sink, host);
    } else if (str_is(name, "echo")) {
        http_take_whole(exchange, 1 << 20, echo, host);
    } else if (str_is(name, "events")) {
        stream(exchange);
    } else if (str_is(name, "moved")) {
        http_answer_bytes(exchange, &(struct http_response){.status = 302, .headers = &away, .header_count = 1},
                          STR_NONE);
    } else if (!str_is(name, "silence")) {
        http_answer_error(exchange, 404, NULL, NULL, NULL, "There is no such path.");
    }
}

static void *run(void *context)
{
    http_loop_run(((struct host *)context)->loop, NULL);
    return NULL;
}

static struct host host;

static int setup(void **state)
{
    struct http_handler handler = {.on_head = on_head, .context = &host};
    struct err err;

    memset(&host, 0, sizeof host);
    host.loop = http_loop_new(NULL, &err);
    host.server = http_server_new(host.loop, &(struct http_config){0}, &handler, &err);
    assert_ok(host.server != NULL, err);
    snprintf(host.url, sizeof host.url, "http://127.0.0.1:%d", http_server_port(host.server));
    return pthread_create(&host.thread, NULL, run, &host);
}

static int teardown(void **state)
{
    http_loop_stop(host.loop);
    pthread_join(host.thread, NULL);
    http_server_free(host.server);
    http_loop_free(host.loop);
    return 0;
}

static bool send_to(const char *path, struct http_client_request *request, struct http_client_answer *answer,
                    struct err *err)
{
    char url[128];

    snprintf(url, sizeof url, "%s%s", host.url, path);
    request->url = url;
    request->method = request->method ? request->method : "GET";
    http_client_answer_deinit(answer);
    *answer = (struct http_client_answer){0};
    return http_client_send(request, answer, err);
}

static void requests_carry_key_and_body_and_bring_the_answer(void **state)
{
    struct http_client_request request = {.method = "POST", .bearer = "key-1", .body = STR("{\"a\":1}")};
    struct http_client_answer answer = {0};
    struct arena arena = {0};
    struct err err;

    assert_ok(send_to("/echo", &request, &answer, &err), err);
    assert_int_equal(answer.status, 200);
    assert_string_equal(answer.body.at, "{\"a\":1}");
    assert_string_equal(answer.content_type, "application/json");
    assert_int_equal(strlen(answer.request_id), 36);
    assert_string_equal(host.seen, "POST /echo key-1 application/json");
    request = (struct http_client_request){.method = "DELETE"};
    assert_ok(send_to("/nowhere", &request, &answer, &err), err);
    assert_int_equal(answer.status, 404);
    assert_non_null(
        strstr(http_client_answer_message(&answer, &arena), "There is no such path. (status 404, request req_"));
    request = (struct http_client_request){.method = "POST"};
    assert_ok(send_to("/echo", &request, &answer, &err), err);
    assert_int_equal(answer.body.len, 0);
    http_client_answer_deinit(&answer);
    arena_deinit(&arena);
}

static bool count_progress(void *context, uint64_t sent, uint64_t total)
{
    *(uint64_t *)context = sent;
    return true;
}

static void files_go_as_multipart_with_progress(void **state)
{
    static char content[3 << 20];
    struct http_form_field fields[] = {{"purpose", "fine-tune"}};
    uint64_t progress = 0;
    char path[64];
    struct http_client_request request = {.method = "POST", .file_path = path, .fields = fields, .field_count = 1,
                                          .on_progress = count_progress, .context = &progress};
    struct http_client_answer answer = {0};
    struct err err;

    memset(content, '\r', sizeof content);
    snprintf(path, sizeof path, "http_client_test_%d.jsonl", (int)getpid());
    assert_ok(file_replace(path, (struct str){content, sizeof content}, &err), err);
    assert_ok(send_to("/form", &request, &answer, &err), err);
    assert_int_equal(answer.status, 200);
    assert_int_equal(host.file_bytes, sizeof content);
    assert_true(progress > sizeof content);
    assert_true(str_starts(strbuf_view(&answer.body), STR("purpose:;file:http_client_test_")));
    request.file_name = "train.jsonl";
    host.field[0] = 0;
    assert_ok(send_to("/form", &request, &answer, &err), err);
    assert_string_equal(answer.body.at, "purpose:;file:train.jsonl;");
    file_remove(path, &err);
    assert_false(send_to("/form", &request, &answer, &err));
    http_client_answer_deinit(&answer);
}

static void a_part_of_a_file_goes_as_it_lies_there(void **state)
{
    static char content[900 << 10];
    const struct http_form_field more[] = {{"X-More", "1"}};
    const struct { uint64_t offset, bytes; } cases[] = {{0, sizeof content}, {70001, 3}, {65536, 500000}, {5, 0}};
    struct http_client_slice slice;
    struct http_client_request request = {.method = "PUT", .slice = &slice, .headers = more, .header_count = 1};
    struct http_client_answer answer = {0};
    char path[64];
    struct err err;

    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (char)(i * 31 >> 3);
    snprintf(path, sizeof path, "http_client_test_%d.bin", (int)getpid());
    assert_ok(file_replace(path, (struct str){content, sizeof content}, &err), err);
    slice.fd = file_open_read(path, &err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        slice.offset = cases[i].offset;
        slice.bytes = cases[i].bytes;
        assert_ok(send_to("/echo", &request, &answer, &err), err);
        assert_int_equal(answer.status, 200);
        assert_string_equal(host.seen, "PUT /echo   1");
        assert_int_equal(answer.body.len, slice.bytes);
        assert_memory_equal(answer.body.at, content + slice.offset, slice.bytes);
    }
    slice = (struct http_client_slice){slice.fd, sizeof content - 10, 11};
    assert_false(send_to("/echo", &request, &answer, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.text, "cannot be read"));
    fd_close(&slice.fd);
    file_remove(path, &err);
    http_client_answer_deinit(&answer);
}

static void headers_of_the_answer_are_found_in_any_case(void **state)
{
    struct http_client_request request = {.method = "GET"};
    struct http_client_answer answer = {0};
    struct err err;

    assert_ok(send_to("/moved", &request, &answer, &err), err);
    assert_true(str_is(http_client_answer_header(&answer, "location"), "/elsewhere"));
    assert_true(str_is(http_client_answer_header(&answer, "CONTENT-LENGTH"), "0"));
    assert_null(http_client_answer_header(&answer, "loc").at);
    assert_null(http_client_answer_header(&answer, "etag").at);
    http_client_answer_deinit(&answer);
}

struct log {
    struct strbuf text;
    struct http_sse *sse;
    int stop_after;
};

static bool log_event(void *context, struct str event, struct str id, struct str data)
{
    struct log *log = context;

    strbuf_printf(&log->text, "%.*s#%.*s=%.*s;", STR_ARG(event), STR_ARG(id), STR_ARG(data));
    return --log->stop_after != 0;
}

static bool feed_sse(void *context, struct str bytes)
{
    struct err err;

    return http_sse_feed(((struct log *)context)->sse, bytes, &err);
}

static void event_streams_arrive_piece_by_piece(void **state)
{
    struct log log = {0};
    struct http_sse sse = {.on_event = log_event, .context = &log};
    struct http_client_request request = {.on_bytes = feed_sse, .context = &log};
    struct http_client_answer answer = {0};
    struct err err;

    log.sse = &sse;
    assert_ok(send_to("/events", &request, &answer, &err), err);
    assert_string_equal(log.text.at, "#={\"a\":1}\nb;step#={\"a\":1}\nb;#={\"a\":1}\nb;");
    log.stop_after = 2;
    assert_false(send_to("/events", &request, &answer, &err));
    assert_int_equal(err.code, ERR_CANCELLED);
    /* A refusal is no event stream: it comes in the buffer. */
    assert_ok(send_to("/nowhere", &request, &answer, &err), err);
    assert_true(answer.body.len > 0);
    http_client_answer_deinit(&answer);
    http_sse_deinit(&sse);
    strbuf_deinit(&log.text);
}

static void what_keeps_an_answer_away_is_an_error_with_its_code(void **state)
{
    struct http_client_answer answer = {0};
    struct http_client_request request = {.total_ms = 50};
    struct err err;

    assert_false(send_to("/silence", &request, &answer, &err));
    assert_int_equal(err.code, ERR_TIMEOUT);
    request = (struct http_client_request){.answer_bytes_max = 10};
    assert_false(send_to("/nowhere", &request, &answer, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    request = (struct http_client_request){.bearer = "a\r\nX: b"};
    assert_false(send_to("/echo", &request, &answer, &err));
    assert_int_equal(err.code, ERR_INPUT);
    request = (struct http_client_request){.method = "GET", .url = "file:///etc/passwd"};
    assert_false(http_client_send(&request, &answer, &err));
    assert_int_equal(err.code, ERR_INPUT);
    request.url = "http://127.0.0.1:1/";
    assert_false(http_client_send(&request, &answer, &err));
    assert_int_equal(err.code, ERR_IO);
    request = (struct http_client_request){0};
    assert_ok(send_to("/moved", &request, &answer, &err), err);
    assert_int_equal(answer.status, 302); /* not followed */
    http_client_answer_deinit(&answer);
}

static void events_do_not_depend_on_how_they_are_cut(void **state)
{
    static const char text[] =
        ": hi\r\ndata: a\rdata:b\ndata\n\nevent: x\nid: 7\ndata:  c\r\n\r\nevent: lost\n\nretry: 1\ndata: d\n\ndata: e";
    struct err err;

    for (size_t step = 1; step < sizeof text; step++) {
        struct log log = {0};
        struct http_sse sse = {.on_event = log_event, .context = &log};
        for (size_t at = 0; at < sizeof text - 1; at += step)
            assert_ok(http_sse_feed(&sse, str_slice(STR(text), at, at + step), &err), err);
        assert_string_equal(log.text.at, "#=a\nb\n;x#7= c;#7=d;");
        http_sse_deinit(&sse);
        strbuf_deinit(&log.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_carry_key_and_body_and_bring_the_answer),
        cmocka_unit_test(files_go_as_multipart_with_progress),
        cmocka_unit_test(a_part_of_a_file_goes_as_it_lies_there),
        cmocka_unit_test(headers_of_the_answer_are_found_in_any_case),
        cmocka_unit_test(event_streams_arrive_piece_by_piece),
        cmocka_unit_test(what_keeps_an_answer_away_is_an_error_with_its_code),
        cmocka_unit_test(events_do_not_depend_on_how_they_are_cut),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
