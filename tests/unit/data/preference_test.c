#include "test.h"
#include "data/preference.h"

#include <string.h>

#define USER(text)      "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ASSISTANT(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"

/* Contents of messages, one behind the other. */
static char *contents(struct arena *arena, const struct json *messages)
{
    char *text = "";

    json_each(message, messages)
        text = arena_printf(arena, "%s%s%.*s", text, *text ? " " : "",
                            STR_ARG(json_string_or(json_get(message, "content"), STR("?"))));
    return text;
}

static void conversations_of_every_shape_have_a_prompt_and_two_completions(void **state)
{
    static const struct {
        const char *line, *prompt, *chosen, *rejected;
        uint32_t tools;
    } cases[] = {
        {"{\"input\":{\"messages\":[" USER("u") "],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
         "\"parallel_tool_calls\":true},\"preferred_output\":[" ASSISTANT("a") "],\"non_preferred_output\":["
         ASSISTANT("b") "]}",
         "u", "u a", "u b", 1},
        {"{\"input\":{\"messages\":[" USER("u") "]},\"preferred_completion\":[" ASSISTANT("a") "],"
         "\"non_preferred_completion\":[" ASSISTANT("b") "]}",
         "u", "u a", "u b", 0},
        {"{\"prompt\":[" USER("u") "," ASSISTANT("v") "," USER("w") "],\"chosen\":[" ASSISTANT("a") "],\"rejected\":["
         ASSISTANT("b") "],\"tools\":null}",
         "u v w", "u v w a", "u v w b", 0},
        {"{\"chosen\":[" USER("u") "," ASSISTANT("a") "],\"rejected\":[" USER("u") "," ASSISTANT("b") "]}", "u", "u a",
         "u b", 0},
        /* one is the beginning of the other, or the same: the last message is a completion all the same */
        {"{\"chosen\":[" USER("u") "," ASSISTANT("a") "],\"rejected\":[" USER("u") "," ASSISTANT("a") "," USER("v")
         "," ASSISTANT("b") "]}",
         "u", "u a", "u a v b", 0},
        {"{\"chosen\":[" USER("u") "," ASSISTANT("a") "],\"rejected\":[" USER("u") "," ASSISTANT("a") "]}", "u", "u a",
         "u a", 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct example example;
        struct err err = {0};
        assert_ok(example_parse(&arena, str_of(cases[i].line), &example, &err), err);
        assert_int_equal(example.kind, EXAMPLE_PREFERENCE);
        assert_string_equal(contents(&arena, example.messages), cases[i].prompt);
        assert_string_equal(contents(&arena, example.preference.chosen), cases[i].chosen);
        assert_string_equal(contents(&arena, example.preference.rejected), cases[i].rejected);
        assert_int_equal(example.tools ? example.tools->count : 0, cases[i].tools);
        arena_deinit(&arena);
    }
}

static void texts_have_a_prompt_and_two_completions(void **state)
{
    static const struct {
        const char *line, *prompt, *chosen, *rejected;
    } cases[] = {
        {"{\"prompt\":\"p\",\"chosen\":\" a\",\"rejected\":\"\"}", "p", " a", ""},
        {"{\"chosen\":\"the sky is blue\",\"rejected\":\"the sky is green\"}", "the sky is", " blue", " green"},
        {"{\"chosen\":\"ab\",\"rejected\":\"ac\"}", "a", "b", "c"},
        {"{\"chosen\":\"b\",\"rejected\":\"c\"}", "", "b", "c"},
        /* whole characters: both begin with the same byte */
        {"{\"chosen\":\"x\u00e4\",\"rejected\":\"x\u00f6\"}", "x", "\u00e4", "\u00f6"},
        /* one is the beginning of the other */
        {"{\"chosen\":\"a \u00e4\",\"rejected\":\"a \u00e4b\"}", "a ", "\u00e4", "\u00e4b"},
        {"{\"chosen\":\"\",\"rejected\":\"b\"}", "", "", "b"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct example example;
        struct err err = {0};
        assert_ok(example_parse(&arena, str_of(cases[i].line), &example, &err), err);
        assert_null(example.preference.chosen);
        assert_string_equal(str_copy(&arena, example.prompt), cases[i].prompt);
        assert_string_equal(str_copy(&arena, example.preference.chosen_text), cases[i].chosen);
        assert_string_equal(str_copy(&arena, example.preference.rejected_text), cases[i].rejected);
        arena_deinit(&arena);
    }
}

static void a_wrong_preference_is_refused_by_field(void **state)
{
    static const struct {
        const char *line, *error;
    } cases[] = {
        {"{\"chosen\":\"a\"}", "chosen stands there without rejected"},
        {"{\"non_preferred_output\":[]}", "non_preferred_output stands there without preferred_output"},
        {"{\"prompt\":\"p\",\"chosen\":[" ASSISTANT("a") "],\"rejected\":[" ASSISTANT("b") "]}",
         "without prompt it is what both begin with"},
        {"{\"chosen\":\"a\",\"rejected\":[" ASSISTANT("b") "]}", "must all be strings"},
        {"{\"chosen\":1,\"rejected\":2}", "chosen is a number: it must be an array"},
        {"{\"chosen\":[" ASSISTANT("a") "],\"rejected\":[" ASSISTANT("b") "]}", "the prompt is empty"},
        {"{\"prompt\":[],\"chosen\":[" ASSISTANT("a") "],\"rejected\":[" ASSISTANT("b") "]}", "the prompt is empty"},
        {"{\"prompt\":[" USER("u") "],\"chosen\":[" USER("a") "],\"rejected\":[" ASSISTANT("b") "]}",
         "chosen holds no assistant message"},
        {"{\"chosen\":[],\"rejected\":[]}", "chosen holds no assistant message"},
        {"{\"prompt\":[{}],\"chosen\":[],\"rejected\":[]}", "prompt[0].role is missing"},
        {"{\"input\":[],\"preferred_output\":[],\"non_preferred_output\":[]}", "input is an array"},
        {"{\"input\":{},\"preferred_output\":[],\"non_preferred_output\":[]}", "input.messages is missing"},
        {"{\"input\":{\"messages\":[{\"role\":\"x\"}]},\"preferred_output\":[],\"non_preferred_output\":[]}",
         "input.messages[0].role is 'x'"},
        {"{\"input\":{\"messages\":[" USER("u") "]},\"preferred_output\":[" ASSISTANT("a")
         "],\"non_preferred_output\":[{\"role\":\"assistant\"}]}",
         "non_preferred_output[0].content is missing"},
        {"{\"prompt\":\"p\",\"input\":{},\"chosen\":\"a\",\"rejected\":\"b\"}", "both prompt and input"},
        {"{\"messages\":[],\"chosen\":\"a\",\"rejected\":\"b\"}", "both preference and messages"},
        {"{\"tools\":3,\"prompt\":[" USER("u") "],\"chosen\":[" ASSISTANT("a") "],\"rejected\":[" ASSISTANT("b") "]}",
         "tools is a number"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct example example;
        struct err err = {0};
        if (example_parse(&arena, str_of(cases[i].line), &example, &err))
            fail_msg("accepted: %s", cases[i].line);
        if (!strstr(err.text, cases[i].error))
            fail_msg("%s gives %s", cases[i].line, err.text);
        arena_deinit(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_of_every_shape_have_a_prompt_and_two_completions),
        cmocka_unit_test(texts_have_a_prompt_and_two_completions),
        cmocka_unit_test(a_wrong_preference_is_refused_by_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
