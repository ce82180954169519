#include "test.h"
#include "os/file.h"
#include "template_cases.h"
#include "text/template.h"

#include <string.h>

struct fixture {
    struct arena arena;
    struct strbuf out;
    struct template_spans spans;
    struct err err;
};

static bool render(struct fixture *fixture, struct str source, const char *variables,
                   const struct template_limits *limits)
{
    struct template_options options = {.now = 1722004205};
    struct json *json = json_parse(&fixture->arena, str_of(variables), NULL, &fixture->err);
    struct template *template;

    assert_ok(json, fixture->err);
    if (limits)
        options.limits = *limits;
    fixture->err = (struct err){0};
    strbuf_clear(&fixture->out);
    template = template_parse(&fixture->arena, source, &fixture->err);
    return template &&
           template_render(template, json, &options, &fixture->out, &fixture->spans, &fixture->arena, &fixture->err);
}

static void fixture_deinit(struct fixture *fixture)
{
    strbuf_deinit(&fixture->out);
    arena_deinit(&fixture->arena);
}

static const char *spans_text(struct fixture *fixture)
{
    struct strbuf text = {0};
    const char *copy;

    strbuf_add_char(&text, '[');
    for (size_t i = 0; i < fixture->spans.count; i++)
        strbuf_printf(&text, "%s[%zu, %zu]", i ? ", " : "", fixture->spans.at[i].start_codepoint,
                      fixture->spans.at[i].end_codepoint);
    strbuf_add_char(&text, ']');
    copy = str_copy(&fixture->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return copy;
}

static void every_construct_prints_what_jinja2_prints(void **state)
{
    int wrong = 0;

    for (size_t i = 0; i < sizeof template_cases / sizeof *template_cases; i++) {
        const struct template_case *kase = &template_cases[i];
        struct fixture fixture = {0};
        bool ok = render(&fixture, str_of(kase->source), template_variables, NULL);
        bool is_right = ok ? kase->text && str_is(strbuf_view(&fixture.out), kase->text) &&
                                 strcmp(spans_text(&fixture), kase->spans) == 0
                           : !kase->text;
        if (!is_right)
            print_error("%s: %s\n  wanted %s %s\n  got    %s %s\n", kase->group, kase->source,
                        kase->text ? kase->text : "an error", kase->spans, ok ? fixture.out.at : fixture.err.text,
                        ok ? spans_text(&fixture) : "");
        wrong += !is_right;
        fixture_deinit(&fixture);
    }
    assert_int_equal(wrong, 0);
}

static void errors_name_the_line_and_the_reason(void **state)
{
    static const struct {
        const char *source, *message;
    } cases[] = {
        {"a\n\n{{ missing.x }}", "chat template, line 3: 'missing' is undefined"},
        {"{{ s.x.y }}", "chat template, line 1: 'str' has no attribute 'x'"},
        {"\n{{ raise_exception('no system role') }}", "chat template, line 2: no system role"},
        {"\n{{ list.append(1) }}",
         "chat template, line 2: 'append' of a list is not allowed: templates cannot change values"},
        {"{% include 'x' %}", "chat template, line 1: unknown or unsupported statement 'include'"},
        {"\n\n{% if yes %}", "chat template, line 3: the template ends where 'endif' is missing"},
        {"{{ a | nothing }}", "chat template, line 1: there is no filter named 'nothing'"},
        {"{% for x in list recursive %}{% endfor %}", "chat template, line 1: recursive loops are not supported"},
        {"{{ big + 1 }}", "chat template, line 1: an integer leaves 64 bits"},
        {"{{ -big - 2 }}", "chat template, line 1: an integer leaves 64 bits"},
        {"{{ big * 2 }}", "chat template, line 1: an integer leaves 64 bits"},
        {"{{ 3 ** 50 }}", "chat template, line 1: an integer leaves 64 bits"},
        {"{{ (-big - 1) // -1 }}", "chat template, line 1: an integer leaves 64 bits"},
        {"{{ 99999999999999999999 }}", "chat template, line 1: a number does not fit 64 bits"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture fixture = {0};
        assert_false(render(&fixture, str_of(cases[i].source), template_variables, NULL));
        assert_string_equal(fixture.err.text, cases[i].message);
        assert_int_equal(fixture.out.len, 0);
        fixture_deinit(&fixture);
    }
}

static void every_budget_ends_in_an_error(void **state)
{
    static const char *const sources[] = {
        "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10001) | length }}",
        "{{ 'x' * 5000000 }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(200) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% for i in range(10000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ '%9999d' % 1 }}",
        "{{ 'a' | center(99999999999) }}",
        "{{ 'a\\nb' | indent(99999999999) }}",
        "{{ 'aaaaaaaa' | replace('a', 'b' * 1000000) }}",
        "{{ [1] * 99999999999 }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
        "{% set s = 'ab' * 1000000 %}{% for i in range(10000) %}{% if 'c' in s %}{% endif %}{% endfor %}",
    };

    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct fixture fixture = {0};
        if (render(&fixture, str_of(sources[i]), "{}", NULL) || fixture.err.code != ERR_LIMIT)
            fail_msg("%s: %s", sources[i], fixture.err.text);
        fixture_deinit(&fixture);
    }
}

static void deep_nesting_is_refused_when_parsed(void **state)
{
    static const char *const open[] = {"(", "[", "-", "not ", "{'a':", "f("};

    for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
        struct fixture fixture = {0};
        struct strbuf source = {0};
        strbuf_add_text(&source, "{{ ");
        for (int j = 0; j < 5000; j++)
            strbuf_add_text(&source, open[i]);
        assert_false(render(&fixture, strbuf_view(&source), "{}", NULL));
        strbuf_deinit(&source);
        fixture_deinit(&fixture);
    }
}

static void limits_of_the_caller_are_kept(void **state)
{
    const struct template_limits limits = {.steps = 50, .output_bytes = 10};
    struct fixture fixture = {0};

    assert_true(render(&fixture, STR("0123456789"), "{}", &limits));
    assert_false(render(&fixture, STR("0123456789a"), "{}", &limits));
    assert_int_equal(fixture.err.code, ERR_LIMIT);
    assert_false(render(&fixture, STR("{% for i in range(50) %}{% endfor %}"), "{}", &limits));
    assert_int_equal(fixture.err.code, ERR_LIMIT);
    fixture_deinit(&fixture);
}

static void times_are_read_as_iso_8601(void **state)
{
    static const struct {
        const char *text;
        int64_t now;
    } cases[] = {{"2024-07-26T14:30:05", 1722004205},
                 {"2024-07-26 14:30:05Z", 1722004205},
                 {"1970-01-02", 86400},
                 {"2024-13-01", -1},
                 {"2024-07-26T25:00:00", -1},
                 {"2024-07-26x14:30:05", -1},
                 {"today", -1},
                 {"", -1},
                 {"2024-07-26T14:30:05+02:00", -1}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t now = -1;
        bool ok = template_time_parse(str_of(cases[i].text), &now);
        if (ok != (cases[i].now >= 0) || (ok && now != cases[i].now))
            fail_msg("%s: %d, %lld", cases[i].text, ok, (long long)now);
    }
}

static void write_text(const char *folder, const char *name, const char *text)
{
    struct arena arena = {0};
    struct err err = {0};

    assert_ok(file_replace(path_join(&arena, folder, name), str_of(text), &err), err);
    arena_deinit(&arena);
}

static void expect_found(const char *folder, bool has_tools, const char *expected)
{
    struct arena arena = {0};
    struct err err = {0};
    struct str source;
    bool ok = template_find(folder, has_tools, &arena, &source, &err);

    if (expected) {
        assert_ok(ok, err);
        assert_true(str_is(source, expected));
    } else {
        assert_false(ok);
        assert_int_equal(err.code, ERR_NOT_FOUND);
    }
    arena_deinit(&arena);
}

static void a_models_template_is_found_in_its_three_places(void **state)
{
    char folder[] = "/tmp/attune-template-XXXXXX";
    struct err err = {0};
    struct arena arena = {0};

    assert_non_null(mkdtemp(folder));
    expect_found(folder, false, NULL);
    write_text(folder, "tokenizer_config.json", "{\"chat_template\": \"one\"}");
    expect_found(folder, true, "one");
    write_text(folder, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"}, {\"name\": \"tool_use\", "
               "\"template\": \"t\"}]}");
    expect_found(folder, false, "d");
    expect_found(folder, true, "t");
    write_text(folder, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"}]}");
    expect_found(folder, false, NULL);
    write_text(folder, "chat_template.jinja", "file");
    expect_found(folder, true, "file");
    assert_ok(dir_make(path_join(&arena, folder, "additional_chat_templates"), &err), err);
    write_text(folder, "additional_chat_templates/tool_use.jinja", "tools");
    expect_found(folder, true, "tools");
    expect_found(folder, false, "file");
    assert_ok(dir_remove(folder, &err), err);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_construct_prints_what_jinja2_prints),
        cmocka_unit_test(errors_name_the_line_and_the_reason),
        cmocka_unit_test(every_budget_ends_in_an_error),
        cmocka_unit_test(deep_nesting_is_refused_when_parsed),
        cmocka_unit_test(limits_of_the_caller_are_kept),
        cmocka_unit_test(times_are_read_as_iso_8601),
        cmocka_unit_test(a_models_template_is_found_in_its_three_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
