#include "test.h"
#include "data/example.h"

#include <string.h>

static void each_kind_is_recognised(void **state)
{
    static const struct {
        const char *line;
        enum example_kind kind;
    } cases[] = {
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}",
         EXAMPLE_MESSAGES},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"b\",\"weight\":0},{\"role\":\"user\",\"content\":\"c\"}]"
         ",\"x\":1}",
         EXAMPLE_MESSAGES},
        {"{\"prompt\":\"\",\"completion\":\"b\"}", EXAMPLE_PROMPT},
        {" {\"text\":\"t\"} ", EXAMPLE_TEXT},
        {"{\"token_ids\":[1,2],\"labels\":[-100,2],\"attention_mask\":[1,1]}", EXAMPLE_TOKENS},
        {"{\"token_ids\":[1,2],\"labels\":null}", EXAMPLE_TOKENS},
        {"{\"input_ids\":[1,2],\"completion_mask\":[0,1],\"assistant_masks\":[1,1]}", EXAMPLE_TOKENS},
        {"{\"prompt\":\"p\",\"completion\":\"\"}", EXAMPLE_PROMPT},
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"completion\":[{\"role\":\"assistant\",\"content\":"
         "\"b\"}]}",
         EXAMPLE_PROMPT},
        {"{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"}],"
         "\"tools\":\"[]\"}",
         EXAMPLE_MESSAGES},
        {"{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\"}", EXAMPLE_PREFERENCE},
        {"{\"prompt\":null,\"chosen\":\"pa\",\"rejected\":\"pb\"}", EXAMPLE_PREFERENCE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct example example;
        struct err err = {0};
        assert_ok(example_parse(&arena, str_of(cases[i].line), &example, &err), err);
        assert_int_equal(example.kind, cases[i].kind);
        arena_deinit(&arena);
    }
}

static void a_wrong_line_is_refused_by_field(void **state)
{
    static const struct {
        const char *line, *error;
    } cases[] = {
        {"[1]", "the line is an array"},
        {"{\"text\":\"a\",}", "JSON, column 13"},
        {"{}", "none of messages, prompt, text, token_ids and chosen"},
        {"{\"text\":\"a\",\"text\":\"b\"}", "text stands there twice"},
        {"{\"text\":\"a\",\"messages\":[]}", "both messages and text"},
        {"{\"text\":\"\"}", "text is empty"},
        {"{\"text\":7}", "text is a number: it must be a string"},
        {"{\"prompt\":\"a\"}", "completion is missing"},
        {"{\"completion\":\"a\"}", "completion stands there without prompt"},
        {"{\"prompt\":[],\"completion\":\"a\"}", "must both be strings, or both be arrays"},
        {"{\"prompt\":[],\"completion\":[{\"role\":\"assistant\",\"content\":\"\"}]}", "prompt is empty"},
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"\","
         "\"weight\":0}]}",
         "completion has a weight"},
        {"{\"conversations\":[]}", "conversations holds no assistant message"},
        {"{\"conversations\":[{\"from\":\"human\",\"role\":\"user\",\"value\":\"\"}]}", "both from and role"},
        {"{\"conversations\":[{\"from\":\"function_call\",\"value\":\"f()\"}]}", "conversations[0].value: JSON"},
        {"{\"conversations\":[{\"from\":\"function_call\",\"value\":\"[3]\"}]}",
         "conversations[0].tool_calls[0].function is a number"},
        {"{\"conversation\":[]}", "conversations are called messages"},
        {"{\"messages\":[],\"conversations\":[],\"input_ids\":[1]}", "both messages and token_ids"},
        {"{\"input_ids\":[1]}", "input_ids has 1 entries"},
        {"{\"input_ids\":[1,2],\"completion_mask\":[0]}", "completion_mask has 1 entries and the tokens are 2"},
        {"{\"input_ids\":[1,2],\"assistant_masks\":[0,2]}", "assistant_masks[1] must be 0 or 1"},
        {"{\"token_ids\":[1]}", "token_ids has 1 entries"},
        {"{\"token_ids\":[1,-2]}", "token_ids[1] must be an integer"},
        {"{\"token_ids\":[1,2.0]}", "token_ids[1] must be an integer"},
        {"{\"token_ids\":[1,2],\"labels\":[1]}", "labels has 1 entries and the tokens are 2"},
        {"{\"token_ids\":[1,2],\"labels\":[-100,3]}", "labels[1] must be -100 or the token itself, 2"},
        {"{\"token_ids\":[1,2],\"attention_mask\":[1,0]}", "attention_mask must be all 1"},
        {"{\"messages\":{}}", "messages is an object: it must be an array"},
        {"{\"messages\":[]}", "no assistant message"},
        {"{\"messages\":[3]}", "messages[0] is a number: it must be an object"},
        {"{\"messages\":[{\"role\":\"robot\",\"content\":\"\"}]}", "messages[0].role is 'robot'"},
        {"{\"messages\":[{\"content\":\"\"}]}", "messages[0].role is missing"},
        {"{\"messages\":[{\"role\":\"user\",\"role\":\"user\",\"content\":\"\"}]}",
         "messages[0].role stands there twice"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content is null"},
        {"{\"messages\":[{\"role\":\"assistant\"}]}", "messages[0].content is missing"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"weight\":3}]}", "messages[0].weight is 3"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"weight\":true}]}", "messages[0].weight is "},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\",\"weight\":1}]}", "only assistant messages have a weight"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "messages[0].content[0].type is 'image_url'"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\",\"tool_calls\":[]}]}",
         "only assistant messages call tools"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":{}}]}", "messages[0].tool_calls is an object"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"x\"}]}]}",
         "messages[0].tool_calls[0].type is 'x'"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}",
         "messages[0].tool_calls[0].function is missing"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":\"{}\"}}]}]}",
         "messages[0].tool_calls[0].function.name is missing"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}]"
         "}",
         "messages[0].tool_calls[0].function.arguments: JSON"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"3\"}}]}]"
         "}",
         "arguments holds a number"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}],\"tools\":{}}", "tools is an object"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}],\"tools\":\"none\"}", "tools: JSON"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}],\"chat_template_kwargs\":[]}",
         "chat_template_kwargs is an array"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}],\"tools\":[{\"function\":{}}]}",
         "tools[0].function must be"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct example example;
        struct err err = {0};
        if (example_parse(&arena, str_of(cases[i].line), &example, &err) || !strstr(err.text, cases[i].error))
            fail_msg("%s\n  expected: %s\n  got: %s", cases[i].line, cases[i].error, err.text);
        arena_deinit(&arena);
    }
}

static void content_parts_become_one_string(void **state)
{
    struct arena arena = {0};
    struct example example;
    struct err err = {0};

    assert_ok(
        example_parse(&arena,
                      STR("{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                          "{\"type\":\"text\",\"text\":\"b\"}]}]}"),
                      &example, &err),
        err);
    assert_true(json_is(json_get(json_at(example.messages, 0), "content"), "ab"));
    arena_deinit(&arena);
}

static void tool_arguments_become_the_object_they_spell(void **state)
{
    struct arena arena = {0};
    struct example example;
    struct err err = {0};
    const struct json *function;

    assert_ok(example_parse(
                  &arena,
                  STR("{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":"
                      "\"function\",\"function\":{\"arguments\":\"{\\\"city\\\": \\\"Bern\\\"}\",\"name\":\"f\"}}]}]}"),
                  &example, &err),
              err);
    function = json_get(json_at(json_get(json_at(example.messages, 0), "tool_calls"), 0), "function");
    assert_true(json_is(json_get(json_get(function, "arguments"), "city"), "Bern"));
    assert_true(json_is(json_get(function, "name"), "f"));
    arena_deinit(&arena);
}

/* Each message as "role:content:number of calls". */
static void messages_of_other_tools_get_roles(void **state)
{
    static const char line[] =
        "{\"conversations\":[{\"from\":\"system\",\"value\":\"s\"},{\"from\":\"human\",\"value\":\"h\"},"
        "{\"from\":\"function_call\",\"value\":\"{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {}}\"},"
        "{\"from\":\"observation\",\"value\":\"o\"},{\"from\":\"gpt\",\"value\":\"g\"},"
        "{\"from\":\"function_call\",\"value\":\"[{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {}}, {\\\"name\\\": "
        "\\\"g\\\", \\\"arguments\\\": \\\"{}\\\"}]\"}]}";
    struct arena arena = {0};
    struct strbuf text = {0};
    struct example example;
    struct err err = {0};

    assert_ok(example_parse(&arena, str_of(line), &example, &err), err);
    json_each(message, example.messages) {
        const struct json *calls = json_get(message, "tool_calls");
        strbuf_printf(&text, "%.*s:%.*s:%u ", STR_ARG(json_string_or(json_get(message, "role"), STR_NONE)),
                      STR_ARG(json_string_or(json_get(message, "content"), STR("-"))), calls ? calls->count : 0);
    }
    assert_string_equal(text.at, "system:s:0 user:h:0 assistant:-:1 tool:o:0 assistant:g:0 assistant:-:2 ");
    strbuf_deinit(&text);
    arena_deinit(&arena);
}

static void a_token_trains_when_every_mask_marks_it(void **state)
{
    static const char line[] = "{\"input_ids\":[5,6,7,8],\"labels\":[-100,6,7,8],\"completion_mask\":[1,1,0,1],"
                               "\"assistant_masks\":[1,1,1,0]}";
    static const int64_t expected[] = {-100, 6, -100, -100};
    struct arena arena = {0};
    struct example example;
    struct err err = {0};
    size_t i = 0;

    assert_ok(example_parse(&arena, str_of(line), &example, &err), err);
    json_each(label, example.labels)
        assert_int_equal(label->integer, expected[i++]);
    assert_int_equal(i, 4);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_is_recognised),
        cmocka_unit_test(a_wrong_line_is_refused_by_field),
        cmocka_unit_test(content_parts_become_one_string),
        cmocka_unit_test(tool_arguments_become_the_object_they_spell),
        cmocka_unit_test(messages_of_other_tools_get_roles),
        cmocka_unit_test(a_token_trains_when_every_mask_marks_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
