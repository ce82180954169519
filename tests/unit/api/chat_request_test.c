#include "test.h"
#include "api/chat_request.h"

#include <string.h>

static struct arena arena;

static bool read_text(const char *text, bool is_chat, struct chat_fields *fields, struct problems *problems)
{
    struct err err = {0};
    struct json *body = json_parse(&arena, str_of(text), NULL, &err);

    assert_ok(body, err);
    *problems = (struct problems){.arena = &arena};
    return chat_fields_read(&arena, body, is_chat, fields, problems);
}

#define CHAT "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
#define TEXT "\"model\":\"m\",\"prompt\":\"x\""

static const char *body_of(bool is_chat, const char *members)
{
    return arena_printf(&arena, "{%s%s%s}", is_chat ? CHAT : TEXT, *members ? "," : "", members);
}

static void wrong_bodies_name_the_field(void **state)
{
    static const struct {
        bool is_chat;
        const char *members, *param, *message;
    } cases[] = {
        {true, "\"temperature\":2.5", "temperature", "from 0 to 2"},
        {true, "\"temperature\":\"hot\"", "temperature", "must be a number"},
        {true, "\"top_p\":-0.1", "top_p", "from 0 to 1"},
        {true, "\"n\":0", "n", "from 1 to 128"},
        {true, "\"n\":129", "n", "from 1 to 128"},
        {true, "\"n\":1.5", "n", "must be an integer"},
        {true, "\"max_tokens\":0", "max_tokens", "must be an integer from 1"},
        {true, "\"max_completion_tokens\":-1", "max_completion_tokens", "must be an integer from 1"},
        {true, "\"seed\":\"x\"", "seed", "must be an integer"},
        {true, "\"stop\":\"\"", "stop", "up to 4 strings"},
        {true, "\"stop\":[\"a\",\"\"]", "stop", "none empty"},
        {true, "\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop", "up to 4"},
        {true, "\"stream\":1", "stream", "true or false"},
        {true, "\"stream_options\":true", "stream_options", "must be an object"},
        {true, "\"stream_options\":{\"include_usage\":5}", "stream_options", "include_usage must be true or false"},
        {true, "\"logprobs\":3", "logprobs", "true or false"},
        {true, "\"logprobs\":true,\"top_logprobs\":21", "top_logprobs", "from 0 to 20"},
        {true, "\"top_logprobs\":2", "top_logprobs", "needs logprobs"},
        {true, "\"response_format\":{\"type\":\"json_object\"}", "response_format", "only"},
        {true, "\"tools\":[{}]", "tools", "is not supported"},
        {true, "\"tool_choice\":\"required\"", "tool_choice", "is not supported"},
        {true, "\"frequency_penalty\":0.5", "frequency_penalty", "is not supported"},
        {true, "\"logit_bias\":{\"5\":1}", "logit_bias", "is not supported"},
        {true, "\"prompt\":\"x\"", "prompt", "is not known"},
        {true, "\"wish\":1", "wish", "is not known"},
        {true, "\"n\":2,\"n\":3", "n", "occurs twice"},
        {false, "\"n\":\"2\"", "n", "must be an integer"},
        {false, "\"logprobs\":6", "logprobs", "from 0 to 5"},
        {false, "\"best_of\":2", "best_of", "is not supported"},
        {false, "\"suffix\":\"y\"", "suffix", "is not supported"},
        {false, "\"echo\":true,\"logprobs\":1", "echo", "together with logprobs"},
        {false, "\"messages\":[]", "messages", "is not known"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fields fields;
        struct problems problems;
        const char *text = body_of(cases[i].is_chat, cases[i].members);
        if (read_text(text, cases[i].is_chat, &fields, &problems))
            fail_msg("accepted: %s", text);
        if (!problems_param(&problems) || strcmp(problems_param(&problems), cases[i].param) != 0 ||
            !strstr(problems.first->message, cases[i].message))
            fail_msg("%s gives %s: %s", text, problems_param(&problems), problems.first->message);
    }
}

static void what_must_be_there_is_asked_for(void **state)
{
    static const struct {
        bool is_chat;
        const char *text, *param;
    } cases[] = {
        {true, "[]", NULL},
        {true, "{\"messages\":[{\"role\":\"user\"}]}", "model"},
        {true, "{\"model\":\"\",\"messages\":[{\"role\":\"user\"}]}", "model"},
        {true, "{\"model\":5,\"messages\":[{\"role\":\"user\"}]}", "model"},
        {true, "{\"model\":\"a\\u0000b\",\"messages\":[{\"role\":\"user\"}]}", "model"},
        {true, "{\"model\":\"m\"}", "messages"},
        {true, "{\"model\":\"m\",\"messages\":null}", "messages"},
        {true, "{\"model\":\"m\",\"messages\":[]}", "messages"},
        {true, "{\"model\":\"m\",\"messages\":[5]}", "messages.0.role"},
        {true, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"},{\"role\":\"wizard\"}]}", "messages.1.role"},
        {true,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"text\":\"x\"}]}]}",
         "messages.0.content"},
        {true, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":5}]}]}",
         "messages.0.content"},
        {true, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", "messages.0.content"},
        {true, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages.0.content"},
        {false, "{\"model\":\"m\"}", "prompt"},
        {false, "{\"model\":\"m\",\"prompt\":null}", "prompt"},
        {false, "{\"model\":\"m\",\"prompt\":[]}", "prompt"},
        {false, "{\"model\":\"m\",\"prompt\":{}}", "prompt"},
        {false, "{\"model\":\"m\",\"prompt\":[\"a\",[\"b\"]]}", "prompt"},
        {false, "{\"model\":\"m\",\"prompt\":[[]]}", "prompt"},
        {false, "{\"model\":\"m\",\"prompt\":[1,2],\"echo\":true}", "echo"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fields fields;
        struct problems problems;
        const char *param;
        if (read_text(cases[i].text, cases[i].is_chat, &fields, &problems))
            fail_msg("accepted: %s", cases[i].text);
        param = problems_param(&problems);
        if ((param == NULL) != (cases[i].param == NULL) || (param && strcmp(param, cases[i].param) != 0))
            fail_msg("%s names %s", cases[i].text, param);
    }
}

/* Fields left out, null or neutral mean the same. */
static void the_worker_gets_every_field(void **state)
{
    static const struct {
        bool is_chat;
        const char *members, *written;
    } cases[] = {
        {true, "",
         "\"max_tokens\": 0, \"temperature\": 1, \"top_p\": 1, \"seed\": 0, \"stop\": [], \"n\": 1, \"logprobs\": -1"},
        {true,
         "\"temperature\":null,\"stop\":null,\"n\":null,\"logprobs\":null,\"tools\":null,\"response_format\":null,"
         "\"stream\":null",
         "\"max_tokens\": 0, \"temperature\": 1, \"top_p\": 1, \"seed\": 0, \"stop\": [], \"n\": 1, \"logprobs\": -1"},
        {true,
         "\"frequency_penalty\":0,\"logit_bias\":{},\"tools\":[],\"tool_choice\":\"none\","
         "\"response_format\":{\"type\":\"text\"},\"user\":\"u\"",
         "\"max_tokens\": 0, \"temperature\": 1, \"top_p\": 1, \"seed\": 0, \"stop\": [], \"n\": 1, \"logprobs\": -1"},
        {true,
         "\"temperature\":0,\"top_p\":0.5,\"max_tokens\":7,\"seed\":-3,\"stop\":\"a\",\"n\":2,\"logprobs\":true,"
         "\"top_logprobs\":4",
         "\"max_tokens\": 7, \"temperature\": 0, \"top_p\": 0.5, \"seed\": -3, \"stop\": [\"a\"], \"n\": 2, "
         "\"logprobs\": 4"},
        {true, "\"max_completion_tokens\":9,\"stop\":[\"a\",\"b\\n\"],\"logprobs\":true",
         "\"max_tokens\": 9, \"temperature\": 1, \"top_p\": 1, \"seed\": 0, \"stop\": [\"a\", \"b\\n"
         "\"], \"n\": 1, \"logprobs\": 0"},
        {false, "\"best_of\":1,\"logprobs\":2,\"echo\":false",
         "\"max_tokens\": 16, \"temperature\": 1, \"top_p\": 1, \"seed\": 0, \"stop\": [], \"n\": 1, \"logprobs\": 2"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fields fields;
        struct problems problems;
        struct strbuf out = {0};
        char expected[512];
        const char *head =
            cases[i].is_chat ? "\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], " : "\"prompt\": \"x\", ";
        if (!read_text(body_of(cases[i].is_chat, cases[i].members), cases[i].is_chat, &fields, &problems))
            fail_msg("%s: %s", cases[i].members, problems.first->message);
        chat_fields_write(&fields, 0, "proj", &out);
        snprintf(expected, sizeof expected, "%s%s, \"scope\": \"proj\"", head, cases[i].written);
        if (strcmp(out.at, expected) != 0)
            fail_msg("%s is written as %s", cases[i].members, out.at);
        strbuf_deinit(&out);
    }
}

static void text_parts_reach_the_worker_as_one_text(void **state)
{
    struct chat_fields fields;
    struct problems problems;
    struct strbuf out = {0};
    const char *written =
        "\"messages\": [{\"role\": \"system\", \"content\": null}, {\"name\": \"n\", \"content\": \"ab\", \"role\": "
        "\"user\"}], ";

    assert_true(
        read_text("{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":null},{\"name\":\"n\",\"content\":"
                  "[{\"type\":\"text\",\"text\":\"a\"},{\"text\":\"b\",\"type\":\"text\"}],\"role\":\"user\"}]}",
                  true, &fields, &problems));
    chat_fields_write(&fields, 0, "proj", &out);
    if (strncmp(out.at, written, strlen(written)) != 0)
        fail_msg("written as %s", out.at);
    strbuf_deinit(&out);
}

static void prompts_are_texts_or_ids_one_or_many(void **state)
{
    static const struct {
        const char *prompt;
        int count;
        const char *last;
    } cases[] = {
        {"\"one\"", 1, "\"prompt\": \"one\""},          {"\"\"", 1, "\"prompt\": \"\""},
        {"[\"one\",\"two\"]", 2, "\"prompt\": \"two\""}, {"[5,6]", 1, "\"prompt_ids\": [5, 6]"},
        {"[[5],[6,7]]", 2, "\"prompt_ids\": [6, 7]"},    {"[\"one\",[6]]", 2, "\"prompt_ids\": [6]"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fields fields;
        struct problems problems;
        struct strbuf out = {0};
        assert_true(read_text(arena_printf(&arena, "{\"model\":\"m\",\"prompt\":%s}", cases[i].prompt), false, &fields,
                              &problems));
        assert_int_equal(fields.prompt_count, cases[i].count);
        chat_fields_write(&fields, fields.prompt_count - 1, "proj", &out);
        if (strncmp(out.at, cases[i].last, strlen(cases[i].last)) != 0)
            fail_msg("%s is written as %s", cases[i].prompt, out.at);
        strbuf_deinit(&out);
    }
}

static void streams_may_end_with_the_usage(void **state)
{
    struct chat_fields fields;
    struct problems problems;

    assert_true(read_text(body_of(true, "\"stream\":true,\"stream_options\":{\"include_usage\":true}"), true, &fields,
                          &problems));
    assert_true(fields.is_stream && fields.has_usage);
    assert_true(read_text(body_of(true, "\"stream\":true,\"stream_options\":{\"include_obfuscation\":false}"), true,
                          &fields, &problems));
    assert_true(fields.is_stream && !fields.has_usage);
    assert_true(read_text(body_of(true, ""), true, &fields, &problems));
    assert_false(fields.is_stream || fields.has_usage);
}

/* 200 of them: more than there is room for stop strings and prompts. */
static void fields_that_are_repeated_without_end_are_refused(void **state)
{
    static const char *const members[] = {"\"stop\":\"a\"", "\"stop\":[\"a\",\"b\"]", "\"prompt\":\"p\""};
    struct chat_fields fields;
    struct problems problems;

    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        struct strbuf many = {0};
        for (int k = 0; k < 200; k++)
            strbuf_printf(&many, "%s%s", k ? "," : "", members[i]);
        assert_false(read_text(body_of(false, many.at), false, &fields, &problems));
        assert_non_null(strstr(problems.first->message, "occurs twice"));
        assert_true(fields.stop_count <= 4 && fields.prompt_count <= 128);
        strbuf_deinit(&many);
    }
}

static int tear_down(void **state)
{
    arena_deinit(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_bodies_name_the_field),
        cmocka_unit_test(what_must_be_there_is_asked_for),
        cmocka_unit_test(the_worker_gets_every_field),
        cmocka_unit_test(text_parts_reach_the_worker_as_one_text),
        cmocka_unit_test(prompts_are_texts_or_ids_one_or_many),
        cmocka_unit_test(streams_may_end_with_the_usage),
        cmocka_unit_test(fields_that_are_repeated_without_end_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, tear_down);
}
