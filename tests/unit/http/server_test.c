#include "site.h"

#define GET(path) STR("GET " path " HTTP/1.1\r\nHost: x\r\n\r\n")
#define HEALTH "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

static bool is_error_body(struct str body, const char *code)
{
    struct arena arena = {0};
    struct json *json = json_parse(&arena, body, NULL, NULL), *error = json_get(json, "error");
    bool ok = error && error->count == 4 && json_get(error, "message")->string.len > 0 &&
              json_get(error, "type")->type == JSON_STRING && json_is_null(json_get(error, "param")) &&
              str_is(json_get(error, "code")->string, code);

    arena_deinit(&arena);
    return ok;
}

static void refusals_of_the_core_have_openai_error_bodies(void **state)
{
    static const struct {
        const char *request;
        int status;
        const char *code;
    } cases[] = {
        {"GET /\r\n\r\n", 400, "bad_request"},
        {"GET / HTTP/3.0\r\n\r\n", 505, "http_version_not_supported"},
        {"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501, "method_not_implemented"},
        {"GET /.. HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"},
        {"GET /a%2fb HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"},
        {"GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417, "expectation_failed"},
        {"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n", 413, "request_too_large"},
        {"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400001\r\n", 413,
         "request_too_large"},
        {"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{X", 400,
         "bad_request"},
    };
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;

    site_open(&site, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct answer answer = site_ask(&site, str_of(cases[i].request), &buf, &is_closed);
        assert_int_equal(answer.status, cases[i].status);
        assert_true(is_error_body(answer.body, cases[i].code));
        assert_true(str_is(answer_header(answer.head, "Content-Type"), "application/json"));
        assert_true(str_is(answer_header(answer.head, "Connection"), "close"));
        assert_true(is_closed);
    }
    assert_int_equal(site.closes, site.completes + 3); /* what the core refused was not complete */
    site_close(&site);
    strbuf_deinit(&buf);
}

static void a_connection_serves_one_request_after_another(void **state)
{
    struct strbuf buf = {0};
    struct answer answers[8];
    struct site site;
    bool is_closed;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    for (int i = 0; i < 3; i++) {
        site_send(&site, fd,
                  STR(HEALTH HEALTH "POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"));
        strbuf_clear(&buf);
        site_receive(&site, fd, &buf, &is_closed);
        assert_false(is_closed);
        assert_int_equal(answers_split(strbuf_view(&buf), NULL, answers, 8), 3);
        assert_int_equal(answers[2].status, 422);
    }
    assert_int_equal(site.heads, 9);
    assert_int_equal(site.completes, 9);
    assert_int_equal(site.dones, 9);
    close(fd);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void a_paused_body_waits_without_a_deadline_and_goes_on(void **state)
{
    const size_t bytes = 3 << 20;
    char *body = calloc(1, bytes);
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;
    size_t sent = 0;
    int pauses = 0, fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, STR("POST /pausing HTTP/1.1\r\nHost: x\r\nContent-Length: 3145728\r\n\r\n"));
    while (sent < bytes || site.paused) {
        ssize_t took = sent < bytes ? send(fd, body + sent, bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
        sent += took > 0 ? (size_t)took : 0;
        site_settle(&site);
        if (site.paused) {
            uint64_t before = site.body_bytes;
            pauses++;
            site_move_clock(&site, 3600 * 1000);
            assert_int_equal(site.body_bytes, before);
            assert_int_equal(site.closes, 0);
            http_body_resume(site.paused);
            site.paused = NULL;
            site_settle(&site);
        }
    }
    site_receive(&site, fd, &buf, &is_closed);
    assert_memory_equal(buf.at, "HTTP/1.1 200", 12);
    assert_int_equal(site.body_bytes, bytes);
    assert_true(pauses > 1);
    close(fd);
    site_close(&site);
    strbuf_deinit(&buf);
    free(body);
}

static void a_client_that_goes_while_its_body_is_paused_is_noticed_behind_it(void **state)
{
    struct site site;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, STR("POST /pausing HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"));
    assert_non_null(site.paused);
    close(fd);
    site_settle(&site);
    assert_int_equal(site.closes, 0);
    http_body_resume(site.paused);
    site_settle(&site);
    assert_int_equal(site.closes, 1);
    assert_int_equal(site.completes, 0);
    site_close(&site);
}

static void head_answers_have_the_length_but_no_body(void **state)
{
    struct strbuf buf = {0};
    struct answer answer;
    struct site site;
    bool is_closed;

    site_open(&site, NULL);
    answer = site_ask(&site, STR("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), &buf, &is_closed);
    assert_int_equal(answer.status, 200);
    assert_true(str_is(answer_header(answer.head, "Content-Length"), "15"));
    assert_int_equal(buf.len, answer.head.len + 2);
    answer = site_ask(&site, STR("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), &buf, &is_closed);
    assert_int_equal(answer.status, 204);
    assert_int_equal(answer_header(answer.head, "Content-Length").len, 0);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void continue_comes_only_when_the_handler_takes_the_body(void **state)
{
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, STR("POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"));
    site_receive(&site, fd, &buf, &is_closed);
    assert_string_equal(buf.at, "HTTP/1.1 100 Continue\r\n\r\n");
    site_send(&site, fd, STR("abc"));
    site_receive(&site, fd, &buf, &is_closed);
    assert_int_equal(site.body_bytes, 3);
    assert_false(is_closed);
    close(fd);
    /* An answer without the body: no 100, and the connection ends, because the body may come or not. */
    fd = site_connect(&site);
    strbuf_clear(&buf);
    site_send(&site, fd, STR("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"));
    site_receive(&site, fd, &buf, &is_closed);
    assert_true(str_starts(strbuf_view(&buf), STR("HTTP/1.1 404")));
    assert_true(is_closed);
    close(fd);
    site_close(&site);
    strbuf_deinit(&buf);
}

/* Each: what is sent at first, then `bytes` one at a time every `gap_ms` until the server reacts. */
static void slow_clients_are_ended_by_absolute_deadlines(void **state)
{
    static const struct {
        const char *begin, *drip;
        int64_t gap_ms, end_ms; /* no reaction before end_ms - gap_ms, one at end_ms + gap_ms */
        int status;             /* 0: closed without a word */
    } cases[] = {
        {"", "", 1000, 30000, 0},
        {"G", "ET / HTTP/1.1", 1000, 10000, 408},
        {"GET / HTTP/1.1\r\nHost: x\r\n", "X: aaaaaaaaaaaaaaaaaaaaaaaaaaa", 900, 10000, 408},
        {"POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", "", 1000, 10000, 408},
        {"POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", "aaaaaaaaaaaaaaaaaaa", 5000, 30000, 408},
        {"POST /sink HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n1\r\nb\r\n", 5000, 30000,
         408},
        {HEALTH, "", 1000, 30000, 0},
        {"GET / HTTP/1.0\r\n\r\n", "", 1000, 5000, 0},
    };
    struct site site;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct strbuf buf = {0};
        bool is_closed = false;
        int64_t waited_ms = 0;
        int fd;
        site_open(&site, NULL);
        fd = site_connect(&site);
        site_settle(&site);
        site_send(&site, fd, str_of(cases[i].begin));
        while (http_server_connection_count(site.server) > 0 && site.last_status != 408 && waited_ms < 60000) {
            site_move_clock(&site, cases[i].gap_ms);
            waited_ms += cases[i].gap_ms;
            if ((size_t)(waited_ms / cases[i].gap_ms) <= strlen(cases[i].drip))
                site_send(&site, fd, (struct str){cases[i].drip + waited_ms / cases[i].gap_ms - 1, 1});
        }
        if (waited_ms < cases[i].end_ms || waited_ms > cases[i].end_ms + cases[i].gap_ms)
            fail_msg("case %zu: ended after %lld ms", i, (long long)waited_ms);
        site_receive(&site, fd, &buf, &is_closed);
        assert_true(is_closed);
        if (cases[i].status)
            assert_true(str_find(strbuf_view(&buf), STR("HTTP/1.1 408"), 0) == 0);
        close(fd);
        site_close(&site);
        strbuf_deinit(&buf);
    }
}

static void a_steady_upload_outlives_every_deadline(void **state)
{
    static char piece[512 << 10];
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, STR("POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n"));
    for (int i = 0; i < 20; i++) { /* 5 s a piece: 100 s in all, at 100 KiB/s */
        site_send(&site, fd, (struct str){piece, sizeof piece});
        site_move_clock(&site, 5000);
    }
    site_receive(&site, fd, &buf, &is_closed);
    assert_true(str_starts(strbuf_view(&buf), STR("HTTP/1.1 200")));
    assert_int_equal(site.body_bytes, 10485760);
    close(fd);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void a_client_that_does_not_read_is_cut(void **state)
{
    static char block[1 << 20];
    struct site site;
    int fd, writes = 0;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, GET("/stream"));
    /* The kernel's buffers fill first, then 8 MiB of ours; then the write says that the stream is broken. */
    while (writes < 64 && http_stream_write(site.stream, (struct str){block, sizeof block})) {
        site_step(&site);
        writes++;
    }
    assert_in_range(writes, 8, 63);
    site_settle(&site);
    assert_int_equal(site.closes, 1);
    assert_int_equal(site.completes, 0);
    assert_int_equal(http_server_connection_count(site.server), 0);
    close(fd);
    /* With less than that waiting, 15 s without progress end it. */
    fd = site_connect(&site);
    site_send(&site, fd, GET("/stream"));
    while (http_stream_pending(site.stream) < 4096) {
        assert_true(http_stream_write(site.stream, (struct str){block, sizeof block}));
        site_settle(&site);
    }
    site_move_clock(&site, 14000);
    assert_int_equal(site.closes, 1);
    site_move_clock(&site, 2000);
    assert_int_equal(site.closes, 2);
    close(fd);
    site_close(&site);
}

static void streams_are_chunked_and_sent_as_written(void **state)
{
    struct strbuf buf = {0};
    struct answer answer;
    struct site site;
    bool is_closed;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, GET("/stream"));
    site_receive(&site, fd, &buf, &is_closed);
    assert_int_equal(answers_split(strbuf_view(&buf), NULL, &answer, 1), 1);
    assert_true(str_is(answer_header(answer.head, "Content-Type"), "text/event-stream"));
    strbuf_clear(&buf);
    assert_true(http_stream_event(site.stream, "step", "7\nx", STR("a\nb")));
    assert_true(http_stream_write(site.stream, STR_NONE));
    site_move_clock(&site, 3600000); /* silence is no fault of the client */
    site_receive(&site, fd, &buf, &is_closed);
    assert_string_equal(buf.at, "23\r\nevent: step\nid: 7\ndata: a\ndata: b\n\n\r\n");
    strbuf_clear(&buf);
    http_stream_end(site.stream);
    site_receive(&site, fd, &buf, &is_closed);
    assert_string_equal(buf.at, "0\r\n\r\n");
    assert_false(is_closed);
    assert_int_equal(site.completes, 1);
    close(fd);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void a_stream_is_told_when_its_client_goes(void **state)
{
    struct site site;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, GET("/stream"));
    assert_non_null(site.stream);
    close(fd);
    site_settle(&site);
    assert_int_equal(site.closes, 1);
    assert_int_equal(site.completes, 0);
    assert_null(site.stream);
    site_close(&site);
}

static void answers_may_come_late(void **state)
{
    struct strbuf buf = {0};
    struct answer answers[2];
    struct site site;
    bool is_closed;
    int fd;

    site_open(&site, NULL);
    fd = site_connect(&site);
    site_send(&site, fd, STR("GET /late HTTP/1.1\r\nHost: x\r\n\r\n" HEALTH));
    site_receive(&site, fd, &buf, &is_closed);
    assert_int_equal(buf.len, 0);
    assert_int_equal(site.heads, 1); /* the second waits for the first one's answer */
    assert_false(http_exchange_is_answered(site.late));
    http_answer_bytes(site.late, &(struct http_response){.status = 202}, STR("{}"));
    site_receive(&site, fd, &buf, &is_closed);
    assert_int_equal(answers_split(strbuf_view(&buf), NULL, answers, 2), 2);
    assert_int_equal(answers[0].status, 202);
    assert_int_equal(answers[1].status, 200);
    close(fd);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void headers_that_would_split_the_answer_become_a_500(void **state)
{
    static const struct http_header cases[] = {
        {{"X-A", 3}, {"a\r\nB: c", 7}}, {{"X-A", 3}, {"a\nb", 3}}, {{"X-A", 3}, {"a\0b", 3}},
        {{"X A", 3}, {"a", 1}},         {{"X-A:", 4}, {"a", 1}},   {{"", 0}, {"a", 1}},
    };
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;

    site_open(&site, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        site.bad_header = cases[i];
        assert_int_equal(site_ask(&site, GET("/bad"), &buf, &is_closed).status, 500);
    }
    site.bad_header = (struct http_header){STR("X-A"), STR("caf\303\251\tb")};
    assert_int_equal(site_ask(&site, GET("/bad"), &buf, &is_closed).status, 200);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void files_are_sent_whole_or_by_one_range(void **state)
{
    static const struct {
        const char *range;
        int status;
        const char *body, *content_range;
    } cases[] = {
        {"", 200, "0123456789", ""},
        {"Range: bytes=2-4\r\n", 206, "234", "bytes 2-4/10"},
        {"Range: bytes=7-\r\n", 206, "789", "bytes 7-9/10"},
        {"Range: bytes=7-99\r\n", 206, "789", "bytes 7-9/10"},
        {"Range: bytes=-3\r\n", 206, "789", "bytes 7-9/10"},
        {"Range: bytes=-99\r\n", 206, "0123456789", "bytes 0-9/10"},
        {"Range: bytes=10-\r\n", 416, NULL, "bytes */10"},
        {"Range: bytes=-0\r\n", 416, NULL, "bytes */10"},
        {"Range: bytes=0-1,3-4\r\n", 200, "0123456789", ""},
        {"Range: bytes=4-2\r\n", 200, "0123456789", ""},
        {"Range: lines=1-2\r\n", 200, "0123456789", ""},
        {"Range: bytes=99999999999999999999-\r\n", 200, "0123456789", ""},
        {"Range: bytes=2-4\r\nIf-Range: \"x\"\r\n", 200, "0123456789", ""},
    };
    char path[64], request[256];
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;
    struct err err;

    snprintf(path, sizeof path, "http_server_test_%d.bin", (int)getpid());
    assert_ok(file_replace(path, STR("0123456789"), &err), err);
    site_open(&site, NULL);
    site.file_path = path;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(request, sizeof request, "GET /file HTTP/1.1\r\nHost: x\r\n%s\r\n", cases[i].range);
        struct answer answer = site_ask(&site, str_of(request), &buf, &is_closed);
        assert_int_equal(answer.status, cases[i].status);
        assert_true(str_is(answer_header(answer.head, "Content-Range"), cases[i].content_range));
        assert_true(!cases[i].body || str_is(answer.body, cases[i].body));
        assert_false(is_closed);
    }
    struct answer head =
        site_ask(&site, STR("HEAD /file HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2\r\n\r\n"), &buf, &is_closed);
    assert_true(head.status == 200 && str_is(answer_header(head.head, "Content-Length"), "10"));
    site_close(&site);
    file_remove(path, &err);
    strbuf_deinit(&buf);
}

static void dispositions_hold_any_name(void **state)
{
    struct arena arena = {0};

    assert_string_equal(http_disposition(&arena, STR("a b.jsonl")),
                        "attachment; filename=\"a b.jsonl\"; filename*=UTF-8''a%20b.jsonl");
    assert_string_equal(http_disposition(&arena, STR("\"\\\r\n\303\251")),
                        "attachment; filename=\"______\"; filename*=UTF-8''%22%5C%0D%0A%C3%A9");
    arena_deinit(&arena);
}

static void more_connections_than_allowed_get_503_or_nothing(void **state)
{
    struct http_config config = {.connections_max = 3, .connections_per_address_max = 5};
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;
    int fds[6];

    site_open(&site, &config);
    for (int i = 0; i < 6; i++) {
        fds[i] = site_connect(&site);
        site_settle(&site);
    }
    for (int i = 0; i < 6; i++) {
        strbuf_clear(&buf);
        site_send(&site, fds[i], STR(HEALTH));
        site_receive(&site, fds[i], &buf, &is_closed);
        if (i < 3)
            assert_true(!is_closed && str_starts(strbuf_view(&buf), STR("HTTP/1.1 200")));
        else
            assert_true(is_closed && (i < 5 ? str_starts(strbuf_view(&buf), STR("HTTP/1.1 503")) : buf.len == 0));
        assert_true((i == 3 || i == 4) == (str_find(strbuf_view(&buf), STR("\r\nRetry-After: 5\r\n"), 0) > 0));
    }
    for (int i = 0; i < 6; i++)
        close(fds[i]);
    site_settle(&site);
    assert_int_equal(http_server_connection_count(site.server), 0);
    site_close(&site);
    strbuf_deinit(&buf);
}

static void the_limit_of_an_address_can_be_lifted(void **state)
{
    struct http_config config = {.connections_per_address_max = -1};
    struct site site;
    int fds[100];

    site_open(&site, &config);
    for (int i = 0; i < 100; i++) {
        fds[i] = site_connect(&site);
        site_settle(&site);
    }
    assert_int_equal(http_server_connection_count(site.server), 100);
    for (int i = 0; i < 100; i++)
        close(fds[i]);
    site_close(&site);
}

static void an_outcome_counts_the_bytes_of_its_request(void **state)
{
    static const struct {
        const char *request;
        uint64_t body_bytes, sent_bytes, behind; /* bytes that belong to no request */
        int status;
        bool is_last;
    } cases[] = {
        {HEALTH, 0, 15, 0, 200, false},
        {"POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 3, 2, 0, 200, false},
        {"POST /sink HTTP/1.1\r\n"
         "Host: x\r\n"
         "Transfer-Encoding: chunked\r\n"
         "\r\n"
         "3\r\n"
         "abc\r\n"
         "1;x\r\n"
         "d\r\n"
         "0\r\n"
         "A: b\r\n"
         "\r\n",
         4, 2, 0, 200, false},
        {"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 0, 0, 3, 404, true},
        {"HEAD /healthz HTTP/1.0\r\n\r\n", 0, 0, 0, 200, true},
    };
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;

    site_open(&site, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        site_ask(&site, str_of(cases[i].request), &buf, &is_closed);
        assert_int_equal(site.last.status, cases[i].status);
        assert_int_equal(site.last.request_bytes, strlen(cases[i].request) - cases[i].behind);
        assert_int_equal(site.last.body_bytes, cases[i].body_bytes);
        assert_true(!cases[i].sent_bytes || site.last.sent_bytes == cases[i].sent_bytes);
        assert_true(site.last.is_complete && site.last.is_last == cases[i].is_last);
    }
    site_close(&site);
    strbuf_deinit(&buf);
}

static void note_stop(void *context)
{
    ++*(int *)context;
}

static void a_stopping_server_finishes_what_it_began(void **state)
{
    struct strbuf buf = {0};
    struct site site;
    bool is_closed;
    int idle, busy, stuck, stops = 0;

    site_open(&site, NULL);
    idle = site_connect(&site);
    busy = site_connect(&site);
    site_send(&site, idle, STR(HEALTH));
    site_send(&site, busy, GET("/late"));
    http_server_stop(site.server, 5000, note_stop, &stops);
    site_settle(&site);
    assert_int_equal(http_server_connection_count(site.server), 1);
    stuck = site_connect(&site); /* nobody listens any more */
    http_answer_bytes(site.late, &(struct http_response){.status = 200}, STR("{}"));
    site_receive(&site, busy, &buf, &is_closed);
    assert_true(is_closed && str_find(strbuf_view(&buf), STR("Connection: close"), 0) > 0);
    assert_int_equal(stops, 0);
    close(busy);
    site_settle(&site);
    assert_int_equal(stops, 1);
    close(idle);
    close(stuck);
    site_close(&site);
    /* What does not end by itself is cut when the grace is over. */
    site_open(&site, NULL);
    busy = site_connect(&site);
    site_send(&site, busy, GET("/stream"));
    http_server_stop(site.server, 5000, note_stop, &stops);
    site_move_clock(&site, 4000);
    assert_int_equal(stops, 1);
    site_move_clock(&site, 2000);
    assert_int_equal(stops, 2);
    assert_int_equal(site.closes, 1);
    close(busy);
    site_close(&site);
    strbuf_deinit(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals_of_the_core_have_openai_error_bodies),
        cmocka_unit_test(a_connection_serves_one_request_after_another),
        cmocka_unit_test(a_paused_body_waits_without_a_deadline_and_goes_on),
        cmocka_unit_test(a_client_that_goes_while_its_body_is_paused_is_noticed_behind_it),
        cmocka_unit_test(head_answers_have_the_length_but_no_body),
        cmocka_unit_test(continue_comes_only_when_the_handler_takes_the_body),
        cmocka_unit_test(slow_clients_are_ended_by_absolute_deadlines),
        cmocka_unit_test(a_steady_upload_outlives_every_deadline),
        cmocka_unit_test(a_client_that_does_not_read_is_cut),
        cmocka_unit_test(streams_are_chunked_and_sent_as_written),
        cmocka_unit_test(a_stream_is_told_when_its_client_goes),
        cmocka_unit_test(answers_may_come_late),
        cmocka_unit_test(headers_that_would_split_the_answer_become_a_500),
        cmocka_unit_test(files_are_sent_whole_or_by_one_range),
        cmocka_unit_test(dispositions_hold_any_name),
        cmocka_unit_test(more_connections_than_allowed_get_503_or_nothing),
        cmocka_unit_test(the_limit_of_an_address_can_be_lifted),
        cmocka_unit_test(an_outcome_counts_the_bytes_of_its_request),
        cmocka_unit_test(a_stopping_server_finishes_what_it_began),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
