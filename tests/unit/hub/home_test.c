#include "test.h"

#include "hub/home.h"

static void answers_ask_for_patience_in_one_of_two_ways_and_for_five_minutes_at_most(void **state)
{
    static const struct {
        const char *headers;
        int64_t retry_after_s, wait_ms;
    } cases[] = {
        {"", 0, 0},
        {"", 7, 8000},
        {"", 100000, 301000},
        {"", -5, 0},
        {"ratelimit: \"api\";r=0;t=55\n", 0, 56000},
        {"ratelimit: \"api\";r=0;t=55;w=300\n", 0, 56000},
        {"ratelimit: \"api\";r=0;t=55\n", 2, 3000},
        {"ratelimit: \"api\";r=0;t=99999999999999999999\n", 0, 0},
        {"ratelimit: \"api\";r=0;t=\n", 0, 0},
        {"ratelimit: \"api\";r=0\n", 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_client_answer answer = {.status = 429, .retry_after_s = cases[i].retry_after_s};

        strbuf_add_text(&answer.headers, cases[i].headers);
        assert_int_equal(hub_answer_wait_ms(&answer), cases[i].wait_ms);
        http_client_answer_deinit(&answer);
    }
}

static void an_endpoint_loses_its_slashes_and_is_held_against_the_policy(void **state)
{
    static const struct {
        const char *text, *endpoint; /* NULL: refused */
    } cases[] = {{"https://hub.example.com", "https://hub.example.com"},
                 {"https://hub.example.com//", "https://hub.example.com"},
                 {"https://hub.example.com/mirror/", "https://hub.example.com/mirror"},
                 {"https://other.example.com", NULL},
                 {"hub.example.com", NULL}};
    struct outgoing_policy policy;
    struct arena arena = {0};
    struct err err = {0};

    assert_ok(outgoing_policy_parse(&arena, "https://hub.example.com", &policy, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hub_home home;
        bool ok = hub_home_read(&arena, &policy, cases[i].text, &home, &err);

        assert_int_equal(ok, cases[i].endpoint != NULL);
        if (ok)
            assert_string_equal(home.endpoint, cases[i].endpoint);
    }
    arena_deinit(&arena);
}

static void without_a_policy_a_place_is_neither_resolved_nor_pinned(void **state)
{
    struct http_client_request request = {.method = "GET"};
    struct http_place place;
    struct outgoing_url url;
    struct arena arena = {0};
    struct err err = {0};

    assert_ok(outgoing_url_parse(&arena, STR("http://no.such.name.invalid:8080/x"), &url, &err), err);
    assert_ok(http_place_find(&arena, NULL, &url, &place, &err), err);
    http_place_hold(&place, &request);
    assert_string_equal(place.origin, "http://no.such.name.invalid:8080");
    assert_true(!place.pin && !request.pin && !request.may_connect);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_ask_for_patience_in_one_of_two_ways_and_for_five_minutes_at_most),
        cmocka_unit_test(an_endpoint_loses_its_slashes_and_is_held_against_the_policy),
        cmocka_unit_test(without_a_policy_a_place_is_neither_resolved_nor_pinned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
