/* Heads and chunks without a socket: every verdict is the same whole, byte by byte and in random pieces. */
#include "test.h"

#include "http/chunked.h"

#include <string.h>

static const struct head_limits limits = {8192, 32768, 64};

/* What one way of cutting made of the bytes. */
struct verdict {
    int status; /* 0: the head is good, -1: incomplete */
    size_t used;
};

static size_t next_cut(uint64_t *seed, size_t at, size_t len, int way)
{
    size_t step = len;

    if (way == 1)
        step = 1;
    else if (way == 2) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        step = 1 + (size_t)(*seed >> 33) % 40;
    }
    return at + step < len ? at + step : len;
}

static struct verdict judge(struct str bytes, int way, uint64_t seed)
{
    struct head_scan scan = {0};
    struct refusal refusal;
    struct arena arena = {0};
    struct verdict verdict = {-1, 0};
    struct head head;
    enum head_result result = HEAD_MORE;

    for (size_t at = 0; result == HEAD_MORE && at < bytes.len;) {
        at = next_cut(&seed, at, bytes.len, way);
        result = head_scan(&scan, &limits, str_slice(bytes, 0, at), &verdict.used, &refusal);
    }
    if (result == HEAD_REFUSED)
        verdict = (struct verdict){refusal.status, 0};
    else if (result == HEAD_DONE)
        verdict.status = head_parse(&arena, str_slice(bytes, 0, verdict.used), &head, &refusal) ? 0 : refusal.status;
    arena_deinit(&arena);
    return verdict;
}

#define G "GET / HTTP/1.1\r\n"
#define H "Host: a\r\n"

static void framing_rules_hold_however_the_bytes_are_cut(void **state)
{
    static const struct {
        const char *bytes;
        int status;
    } cases[] = {
        {G H "\r\n", 0},
        {"\r\n" G H "\r\n", 0},
        {"\r\n\r\n" G H "\r\n", 400},
        {"GET / HTTP/1.0\r\n\r\n", 0},
        {"GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n", 0},
        {"OPTIONS * HTTP/1.1\r\n" H "\r\n", 0},
        {"BREW / HTTP/1.1\r\n" H "\r\n", 0}, /* the method is judged later */
        {G "Host: [::1]:80\r\n\r\n", 0},
        {G H "Content-Length: 9223372036854775807\r\n\r\n", 0},
        {G H "Transfer-Encoding: CHUNKED\r\n\r\n", 0},
        {G H "Expect: 100-Continue\r\n\r\n", 0},
        {G H "A: \t b \t\r\nB:\r\n\r\n", 0},
        {G H, -1},
        {G "\r\n", 400},
        {G H H "\r\n", 400},
        {G "Host:\r\n\r\n", 400},
        {G "Host: a b\r\n\r\n", 400},
        {G "Host: a:65536\r\n\r\n", 400},
        {G "Host: a:\r\n\r\n", 400},
        {G "Host: [::1\r\n\r\n", 400},
        {G "Host: a,b\r\n\r\n", 400},
        {"GET http://b/x HTTP/1.1\r\n" H "\r\n", 400},
        {"GET x HTTP/1.1\r\n" H "\r\n", 400},
        {"GET * HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /#x HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /\377 HTTP/1.1\r\n" H "\r\n", 400},
        {"GET  / HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /\r\n" H "\r\n", 400},
        {"GET / HTTP/2.0\r\n" H "\r\n", 505},
        {"GET / HTTP/1.2\r\n" H "\r\n", 505},
        {"GET / http/1.1\r\n" H "\r\n", 400},
        {"G(T / HTTP/1.1\r\n" H "\r\n", 400},
        {G H "A : b\r\n\r\n", 400},
        {G H ": b\r\n\r\n", 400},
        {G H "A\r\n\r\n", 400},
        {G H "A: b\r\n c\r\n\r\n", 400},
        {G H "A: b\nB: c\r\n\r\n", 400},
        {G H "A: b\rB: c\r\n\r\n", 400},
        {G H "A: \001\r\n\r\n", 400},
        {G H "A: \177\r\n\r\n", 400},
        {G H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {G H "Content-Length: 1, 1\r\n\r\n", 400},
        {G H "Content-Length: +1\r\n\r\n", 400},
        {G H "Content-Length: -1\r\n\r\n", 400},
        {G H "Content-Length: 0x1\r\n\r\n", 400},
        {G H "Content-Length:\r\n\r\n", 400},
        {G H "Content-Length: 9223372036854775808\r\n\r\n", 400},
        {G H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {G H "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
        {G H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {G H "Transfer-Encoding: identity\r\n\r\n", 400},
        {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {G H "Expect: something\r\n\r\n", 417},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int way = 0; way < 12; way++) {
            struct verdict verdict = judge(str_of(cases[i].bytes), way < 2 ? way : 2, (uint64_t)way);
            if (verdict.status != cases[i].status)
                fail_msg("case %zu, way %d: %d instead of %d: %s", i, way, verdict.status, cases[i].status,
                         cases[i].bytes);
        }
}

/* "GET /aaa… HTTP/1.1" of line_len bytes, `headers` headers, the last one with a value of value_len bytes. */
static void build(struct strbuf *out, size_t line_len, int headers, size_t value_len)
{
    strbuf_clear(out);
    strbuf_add_text(out, "GET /");
    for (size_t i = 0; i < line_len - 14; i++)
        strbuf_add_char(out, 'a');
    strbuf_add_text(out, " HTTP/1.1\r\nHost: a\r\n");
    for (int i = 1; i < headers; i++) {
        strbuf_add_text(out, "X: ");
        for (size_t k = 0; k < value_len && i == headers - 1; k++)
            strbuf_add_char(out, 'v');
        strbuf_add_text(out, "\r\n");
    }
    strbuf_add_text(out, "\r\n");
}

static void limits_are_the_same_however_the_bytes_are_cut(void **state)
{
    static const struct {
        size_t line_len;
        int headers;
        size_t value_len;
        int status;
    } cases[] = {
        {8190, 1, 0, 0},   {8193, 1, 0, 414},   {20000, 1, 0, 414},  {100, 64, 0, 0},
        {100, 65, 0, 431}, {100, 200, 0, 431},  {100, 2, 30000, 0},  {100, 2, 33000, 431},
    };
    struct strbuf text = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        build(&text, cases[i].line_len, cases[i].headers, cases[i].value_len);
        for (int way = 0; way < 3; way++)
            assert_int_equal(judge(strbuf_view(&text), way, 7).status, cases[i].status);
    }
    strbuf_deinit(&text);
}

static void a_head_tells_how_its_body_is_framed(void **state)
{
    struct str text = STR("POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nConnection: x, Close\r\nContent-Length: 12\r\n"
                          "Expect: 100-continue\r\n\r\n");
    struct arena arena = {0};
    struct refusal refusal;
    struct head head;

    assert_true(head_parse(&arena, text, &head, &refusal));
    assert_int_equal(head.method, HTTP_POST);
    assert_true(str_is(head.path, "/a") && str_is(head.query, "b=c") && str_is(head.host, "h:1"));
    assert_true(head.has_body && !head.is_chunked && head.is_close && head.expects_continue);
    assert_int_equal(head.content_length, 12);
    assert_int_equal(head.header_count, 4);
    arena_deinit(&arena);
}

/* Chunks: the decoded body, or the status of the refusal as text. */
static void decode(struct str coded, int way, uint64_t seed, uint64_t body_bytes_max, struct strbuf *out)
{
    struct chunked chunked = {.body_bytes_max = body_bytes_max};
    struct refusal refusal;
    size_t at = 0;

    strbuf_clear(out);
    while (at < coded.len) {
        size_t end = next_cut(&seed, at, coded.len, way);
        struct str bytes = str_slice(coded, at, end), data;
        enum chunked_result result;
        while ((result = chunked_read(&chunked, &bytes, &data, &refusal)) == CHUNKED_DATA)
            strbuf_add_str(out, data);
        if (result == CHUNKED_DONE) {
            strbuf_printf(out, "|%zu", coded.len - end + bytes.len);
            return;
        }
        if (result == CHUNKED_REFUSED) {
            strbuf_clear(out);
            strbuf_printf(out, "%d", refusal.status);
            return;
        }
        at = end;
    }
    strbuf_add_text(out, "|more");
}

static void chunk_rules_hold_however_the_bytes_are_cut(void **state)
{
    static const struct {
        const char *coded, *result; /* body, a bar, and the bytes left over */
    } cases[] = {
        {"2\r\n{}\r\n0\r\n\r\n", "{}|0"},
        {"2\r\n{}\r\n0\r\n\r\nGET", "{}|3"},
        {"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc|0"},
        {"A\r\n0123456789\r\n000\r\n\r\n", "0123456789|0"},
        {"000000000000002\r\n{}\r\n0\r\n\r\n", "{}|0"},
        {"2;eeeeeeeeeeeeeee\r\n{}\r\n0;c=d\r\n\r\n", "{}|0"},
        {"2\r\n{}\r\n0\r\nX-A: 1\r\nY:\r\n\r\n", "{}|0"},
        {"2\r\n{", "{|more"},
        {"2;eeeeeeeeeeeeeeeee\r\n{}\r\n0\r\n\r\n", "400"},
        {"0000000000000002\r\n{}\r\n", "400"},
        {"fffffffffffffff\r\n", "413"},
        {"65\r\n", "413"},
        {"0x2\r\n", "400"},
        {"-2\r\n", "400"},
        {" 2\r\n", "400"},
        {"2 \r\n", "400"},
        {"\r\n", "400"},
        {";a\r\n", "400"},
        {"2;\001\r\n", "400"},
        {"2\n{}", "400"},
        {"2\r{}", "400"},
        {"2\r\n{}0\r\n", "400"},
        {"2\r\n{}\n0", "400"},
        {"1\r\n{}\r\n", "400"},
        {"0\r\n\n", "400"},
        {"0\r\nNo\r\n", "400"},
        {"0\r\nA : 1\r\n", "400"},
        {"0\r\nA: 1\r\n 2\r\n", "400"},
        {"0\r\nA: 1\n", "400"},
        {"0\r\nA: \001\r\n", "400"},
        {"0\r\n: 1\r\n", "400"},
    };
    struct strbuf out = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int way = 0; way < 12; way++) {
            decode(str_of(cases[i].coded), way < 2 ? way : 2, (uint64_t)way, 100, &out);
            assert_string_equal(out.at, cases[i].result);
        }
    strbuf_deinit(&out);
}

static void framing_larger_than_the_body_is_refused(void **state)
{
    struct strbuf coded = {0}, out = {0};

    for (int i = 0; i < 1000; i++)
        strbuf_add_text(&coded, "1;eeeeeeeeeeeeeee\r\nx\r\n");
    decode(strbuf_view(&coded), 0, 0, 1 << 20, &out);
    assert_string_equal(out.at, "400");
    strbuf_clear(&coded);
    strbuf_add_text(&coded, "0\r\nX: ");
    for (int i = 0; i < 5000; i++)
        strbuf_add_char(&coded, 't');
    decode(strbuf_view(&coded), 0, 0, 1 << 20, &out);
    assert_string_equal(out.at, "400");
    strbuf_deinit(&coded);
    strbuf_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(framing_rules_hold_however_the_bytes_are_cut),
        cmocka_unit_test(limits_are_the_same_however_the_bytes_are_cut),
        cmocka_unit_test(a_head_tells_how_its_body_is_framed),
        cmocka_unit_test(chunk_rules_hold_however_the_bytes_are_cut),
        cmocka_unit_test(framing_larger_than_the_body_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
