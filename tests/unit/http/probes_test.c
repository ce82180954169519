/* The project's shared probes, each against the real server on a connection of its own. */
#include "site.h"

#include <openssl/evp.h>

static struct str decode_base64(struct arena *arena, struct str text)
{
    unsigned char *out = arena_alloc(arena, text.len + 4);
    int len = EVP_DecodeBlock(out, (const unsigned char *)text.at, (int)text.len);

    assert_true(len >= 0);
    for (size_t i = text.len; i > 0 && text.at[i - 1] == '='; i--)
        len--;
    return (struct str){(char *)out, (size_t)len};
}

static struct str put_host(struct arena *arena, struct str raw, int port)
{
    struct strbuf out = {0};
    struct str result;
    size_t from = 0;
    ptrdiff_t at;

    while ((at = str_find(raw, STR("{HOST}"), from)) >= 0) {
        strbuf_add_str(&out, str_slice(raw, from, (size_t)at));
        strbuf_printf(&out, "127.0.0.1:%d", port);
        from = (size_t)at + 6;
    }
    strbuf_add_str(&out, str_slice(raw, from, raw.len));
    result = (struct str){arena_copy(arena, out.at, out.len), out.len};
    strbuf_deinit(&out);
    return result;
}

static bool status_is_allowed(const struct json *probe, int status)
{
    json_each(allowed, json_get(probe, "status"))
        if (allowed->integer == status)
            return true;
    return false;
}

/* Which answers have no body: the letters of the requests' methods, as far as they can be told. */
static const char *methods_of(struct str raw)
{
    if (str_starts(raw, STR("HEAD")))
        return "H";
    return str_find(raw, STR("\r\n\r\nHEAD "), 0) > 0 ? "GHG" : NULL;
}

static bool framing_probe_holds(struct site *site, struct arena *arena, const struct json *probe)
{
    bool is_text = json_get(probe, "raw") != NULL, is_closed, ok;
    struct str raw =
        is_text ? json_get(probe, "raw")->string : decode_base64(arena, json_get(probe, "raw_b64")->string);
    bool is_refuse = str_is(json_get(probe, "expect")->string, "refuse");
    int64_t wanted = json_get(probe, "answers")->integer;
    struct strbuf buf = {0};
    struct answer answers[16];
    int fd = site_connect(site);
    size_t count;

    raw = put_host(arena, raw, http_server_port(site->server));
    site_send(site, fd, raw);
    site_receive(site, fd, &buf, &is_closed);
    count = answers_split(strbuf_view(&buf), methods_of(raw), answers, 16);
    ok = is_refuse ? count >= 1 && (int64_t)count <= wanted : (int64_t)count == wanted;
    for (size_t i = 0; i < count; i++)
        ok &= status_is_allowed(probe, answers[i].status);
    ok &= is_closed || !json_get(probe, "close")->boolean;
    if (!ok)
        print_message("%.*s: %zu answers, first %d, %s\n", STR_ARG(json_get(probe, "name")->string), count,
                      count ? answers[0].status : 0, is_closed ? "closed" : "open");
    close(fd);
    site_settle(site);
    strbuf_deinit(&buf);
    return ok;
}

static void send_multipart(struct site *site, int fd, struct arena *arena, const struct json *probe)
{
    struct str body = decode_base64(arena, json_get(probe, "body_b64")->string);
    struct json *chunks = json_get(probe, "chunks");
    struct strbuf text = {0};
    size_t from = 0;

    strbuf_printf(&text, "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: %.*s\r\n",
                  STR_ARG(json_get(probe, "content_type")->string));
    if (chunks)
        strbuf_add_text(&text, "Transfer-Encoding: chunked\r\n\r\n");
    else
        strbuf_printf(&text, "Content-Length: %zu\r\n\r\n", body.len);
    site_send(site, fd, strbuf_view(&text));
    if (!chunks)
        site_send(site, fd, body);
    json_each(size, chunks) {
        strbuf_clear(&text);
        strbuf_printf(&text, "%x\r\n", (unsigned)size->integer);
        strbuf_add_str(&text, str_slice(body, from, from + (size_t)size->integer));
        strbuf_add_text(&text, "\r\n");
        site_send(site, fd, strbuf_view(&text));
        from += (size_t)size->integer;
    }
    if (chunks)
        site_send(site, fd, STR("0\r\n\r\n"));
    strbuf_deinit(&text);
}

static bool file_is_right(struct arena *arena, const struct json *probe, struct str body)
{
    struct json *file = json_parse(arena, body, NULL, NULL), *name = json_get(probe, "filename");

    return json_get(file, "bytes")->integer == json_get(probe, "file_bytes")->integer &&
           (!name || str_equal(json_get(file, "filename")->string, name->string));
}

static bool multipart_probe_holds(struct site *site, struct arena *arena, const struct json *probe)
{
    struct strbuf buf = {0};
    struct answer answers[2];
    int fd = site_connect(site);
    bool is_closed, ok;
    size_t count;

    send_multipart(site, fd, arena, probe);
    site_receive(site, fd, &buf, &is_closed);
    count = answers_split(strbuf_view(&buf), NULL, answers, 2);
    ok = count == 1 && status_is_allowed(probe, answers[0].status) &&
         (answers[0].status != 200 || file_is_right(arena, probe, answers[0].body));
    if (!ok)
        print_message("%.*s: %zu answers, first %d %.*s\n", STR_ARG(json_get(probe, "name")->string), count,
                      count ? answers[0].status : 0, count ? (int)answers[0].body.len : 0, answers[0].body.at);
    close(fd);
    site_settle(site);
    strbuf_deinit(&buf);
    return ok;
}

static void run_probes(const char *name, const char *title,
                       bool (*holds)(struct site *site, struct arena *arena, const struct json *probe))
{
    const char *path = shared_path(name);
    struct arena arena = {0};
    struct site site;
    struct str text;
    struct err err;
    int count = 0, held = 0;

    if (!path)
        skip();
    assert_ok(file_read(&arena, path, 16 << 20, &text, &err), err);
    site_open(&site, NULL);
    for (size_t from = 0, end; from < text.len; from = end + 1) {
        end = (size_t)str_find(text, STR("\n"), from);
        struct json *probe = json_parse(&arena, str_slice(text, from, end), NULL, &err);
        assert_ok(probe != NULL, err);
        count++;
        held += holds(&site, &arena, probe);
    }
    assert_int_equal(http_server_connection_count(site.server), 0);
    site_close(&site);
    arena_deinit(&arena);
    print_message("%s probes: %d as expected, of %d\n", title, held, count);
    assert_int_equal(held, count);
}

static void every_framing_probe_is_answered_as_expected(void **state)
{
    run_probes("probes/http-framing.jsonl", "http-framing", framing_probe_holds);
}

static void every_multipart_probe_is_answered_as_expected(void **state)
{
    run_probes("probes/multipart.jsonl", "multipart", multipart_probe_holds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_framing_probe_is_answered_as_expected),
        cmocka_unit_test(every_multipart_probe_is_answered_as_expected),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
