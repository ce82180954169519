#include "test.h"

#include "base/json.h"
#include "http/outgoing.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <string.h>

static struct outgoing_policy policy_of(struct arena *arena, const char *text)
{
    struct outgoing_policy policy;
    struct err err = {0};

    assert_ok(outgoing_policy_parse(arena, text, &policy, &err), err);
    return policy;
}

static bool may_reach(struct arena *arena, const struct outgoing_policy *policy, struct str text)
{
    struct outgoing_url url;

    return outgoing_url_parse(arena, text, &url, NULL) && outgoing_find_rule(policy, &url, NULL);
}

static bool address_is_global(struct arena *arena, struct str text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    const char *copy = str_copy(arena, text);

    if (inet_pton(AF_INET, copy, &v4.sin_addr) == 1)
        return outgoing_address_is_global((struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, copy, &v6.sin6_addr), 1);
    return outgoing_address_is_global((struct sockaddr *)&v6);
}

static void a_url_is_read_into_the_parts_that_the_request_is_made_of(void **state)
{
    static const struct {
        const char *text, *host, *rest, *origin;
        int port;
    } cases[] = {
        {"https://Example.COM", "example.com", "/", "https://example.com", 443},
        {"HTTP://example.com:8080/a/b?c=d", "example.com", "/a/b?c=d", "http://example.com:8080", 8080},
        {"https://example.com?x=1", "example.com", "/?x=1", "https://example.com", 443},
        {"https://[2606:4700:0::1111]:443/", "2606:4700::1111", "/", "https://[2606:4700::1111]", 443},
        {"https://1.1.1.1:8443", "1.1.1.1", "/", "https://1.1.1.1:8443", 8443},
    };
    struct arena arena = {0};
    struct outgoing_url url;
    struct err err = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(outgoing_url_parse(&arena, str_of(cases[i].text), &url, &err), err);
        assert_string_equal(url.host, cases[i].host);
        assert_string_equal(url.rest, cases[i].rest);
        assert_string_equal(outgoing_url_origin(&arena, &url), cases[i].origin);
        assert_int_equal(url.port, cases[i].port);
    }
    arena_deinit(&arena);
}

static void a_redirect_is_read_as_strictly_and_keeps_to_https(void **state)
{
    static const struct {
        const char *from, *location, *origin, *rest;
        bool is_same;
    } cases[] = {
        {"https://hub.example/a/b", "/c?d=1", "https://hub.example", "/c?d=1", true},
        {"https://hub.example/a", "https://hub.example:443/c", "https://hub.example", "/c", true},
        {"https://hub.example/a", "//cdn.example/c", "https://cdn.example", "/c", false},
        {"https://hub.example/a", "https://hub.example:444/c", "https://hub.example:444", "/c", false},
        {"http://hub.example/a", "https://hub.example/c", "https://hub.example", "/c", false},
        {"https://hub.example/a", "http://hub.example/c", NULL, NULL, false},
        {"https://hub.example/a", "c", NULL, NULL, false},
        {"https://hub.example/a", "../c", NULL, NULL, false},
        {"https://hub.example/a", "", NULL, NULL, false},
        {"https://hub.example/a", "file:///etc/passwd", NULL, NULL, false},
        {"https://hub.example/a", "https://user@cdn.example/", NULL, NULL, false},
        {"https://hub.example/a", "//", NULL, NULL, false},
        {"https://hub.example/a", "/a b", NULL, NULL, false},
    };
    struct arena arena = {0};
    struct outgoing_url from, to;
    struct err err = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(outgoing_url_parse(&arena, str_of(cases[i].from), &from, &err), err);
        assert_int_equal(outgoing_follow(&arena, &from, str_of(cases[i].location), &to, &err), cases[i].origin != NULL);
        if (!cases[i].origin)
            continue;
        assert_string_equal(outgoing_url_origin(&arena, &to), cases[i].origin);
        assert_string_equal(to.rest, cases[i].rest);
        assert_int_equal(outgoing_is_same(&from, &to), cases[i].is_same);
    }
    arena_deinit(&arena);
}

static void an_origin_is_reached_when_the_operator_lists_it(void **state)
{
    static const struct {
        const char *policy, *url;
        bool is_allowed;
    } cases[] = {
        {"", "https://example.com/", false},
        {"https://example.com", "https://example.com/x", true},
        {"https://example.com", "https://example.com:443/x", true},
        {"https://example.com", "https://example.com:444/x", false},
        {"https://example.com", "http://example.com/x", false},
        {"https://example.com", "https://www.example.com/", false},
        {"http://example.com:5000", "http://example.com:5000/", true},
        {"https://anywhere", "https://anything.example.org:9/", true},
        {"https://anywhere", "http://anything.example.org/", false},
        {"https://anywhere", "https://localhost/", false},
        {"http://127.0.0.1:5000", "http://127.0.0.1:5000/", false},
        {"internal:http://127.0.0.1:5000", "http://127.0.0.1:5000/", true},
        {"internal:http://127.0.0.1:5000", "http://127.0.0.1:5001/", false},
        {"https://a.example.com,internal:http://mlflow:5000\n https://b.example.com", "http://mlflow:5000/", true},
        {"https://a.example.com,internal:http://mlflow:5000\n https://b.example.com", "https://b.example.com/", true},
    };
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outgoing_policy policy = policy_of(&arena, cases[i].policy);

        if (may_reach(&arena, &policy, str_of(cases[i].url)) != cases[i].is_allowed)
            fail_msg("%s under %s", cases[i].url, cases[i].policy);
    }
    arena_deinit(&arena);
}

static void a_list_of_origins_that_is_wrong_is_refused(void **state)
{
    static const char *const wrong[] = {"example.com", "https://example.com/path", "ftp://example.com",
                                        "internal:", "*"};
    struct arena arena = {0};
    struct outgoing_policy policy;
    struct err err = {0};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(outgoing_policy_parse(&arena, wrong[i], &policy, &err));
    arena_deinit(&arena);
}

static void names_are_resolved_once_and_every_address_is_checked(void **state)
{
    struct arena arena = {0};
    struct outgoing_rule rule = {.is_internal = true};
    struct outgoing_url url = {.host = "localhost", .port = 5000, .rest = "/"};
    struct strbuf pin = {0};
    struct err err = {0};

    assert_ok(outgoing_resolve(&rule, &url, &pin, &err), err);
    assert_memory_equal(pin.at, "localhost:5000:", 15);
    assert_true(strstr(pin.at, "127.0.0.1") || strstr(pin.at, "[::1]"));
    rule.is_internal = false;
    strbuf_clear(&pin);
    assert_false(outgoing_resolve(&rule, &url, &pin, &err));
    assert_int_equal(err.code, ERR_AUTH);
    strbuf_deinit(&pin);
    arena_deinit(&arena);
}

/* Redirects are never followed, so their lines ask for the refusal of the first step's target alone where it is a URL.
 */
static bool line_is_accepted(struct arena *arena, const struct outgoing_policy *policy, const struct json *line)
{
    if (json_get(line, "redirect_to"))
        return false;
    if (!may_reach(arena, policy, json_get(line, "url")->string))
        return false;
    json_each(address, json_get(line, "resolves"))
        if (!address_is_global(arena, address->string))
            return false;
    return !json_get(line, "resolves") || json_get(line, "resolves")->count > 0;
}

static void every_probe_of_addresses_is_answered_as_it_says(void **state)
{
    const char *path = shared_path("probes/ssrf.jsonl");
    struct arena arena = {0};
    struct outgoing_policy policy = policy_of(&arena, "https://anywhere");
    struct err err = {0};
    struct str text;
    size_t count = 0;

    if (!path)
        skip();
    assert_ok(file_read(&arena, path, 16 << 20, &text, &err), err);
    while (text.len) {
        ptrdiff_t end = str_find(text, STR("\n"), 0);
        struct str line = str_slice(text, 0, end < 0 ? text.len : (size_t)end);
        struct json *probe = json_parse(&arena, line, NULL, &err);

        assert_ok(probe, err);
        if (line_is_accepted(&arena, &policy, probe) != str_is(json_get(probe, "expect")->string, "accept"))
            fail_msg("%.*s", STR_ARG(line));
        text = str_slice(text, line.len + 1, text.len);
        count++;
    }
    print_message("addresses: %zu probes\n", count);
    assert_true(count > 300);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_url_is_read_into_the_parts_that_the_request_is_made_of),
        cmocka_unit_test(a_redirect_is_read_as_strictly_and_keeps_to_https),
        cmocka_unit_test(an_origin_is_reached_when_the_operator_lists_it),
        cmocka_unit_test(a_list_of_origins_that_is_wrong_is_refused),
        cmocka_unit_test(names_are_resolved_once_and_every_address_is_checked),
        cmocka_unit_test(every_probe_of_addresses_is_answered_as_it_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
