#include "test.h"
#include "text/chat.h"

#include <string.h>

#define CHATML                                                                                                         \
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"      \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/* Renders and writes the text with each span in [..], "!" behind those with weight 0, "?" where no end token is. */
static char *mark(const char *source, const char *messages, const char *variables, char *out, size_t cap)
{
    static const struct str special[] = {{"<|im_start|>", 12}, {"<|im_end|>", 10}, {"</s>", 4}};
    struct arena arena = {0};
    struct strbuf text = {0};
    struct err err = {0};
    struct chat_text chat;
    struct chat_input input = {
        .special_tokens = special, .special_token_count = 3, .no_developer = !strstr(source, "developer")};
    size_t at = 0;

    input.template = template_parse(&arena, str_of(source), &err);
    assert_ok(input.template, err);
    input.messages = json_parse(&arena, str_of(messages), NULL, &err);
    assert_ok(input.messages, err);
    input.variables = variables ? json_parse(&arena, str_of(variables), NULL, &err) : NULL;
    if (!chat_render(&input, &arena, &chat, &err)) {
        snprintf(out, cap, "error: %s", err.text);
    } else {
        for (size_t i = 0; i < chat.span_count; i++) {
            strbuf_add_str(&text, str_slice(chat.text, at, chat.spans[i].start));
            strbuf_printf(&text, "[%.*s]", STR_ARG(str_slice(chat.text, chat.spans[i].start, chat.spans[i].end)));
            strbuf_add_text(&text, chat.spans[i].is_masked ? "!" : chat.spans[i].has_end_token ? "" : "?");
            at = chat.spans[i].end;
        }
        strbuf_add_str(&text, str_slice(chat.text, at, chat.text.len));
        snprintf(out, cap, "%s", text.at);
    }
    strbuf_deinit(&text);
    arena_deinit(&arena);
    return out;
}

static void spans_hold_the_turn_with_its_end_token(void **state)
{
    static const struct {
        const char *source, *messages, *variables, *expected;
    } cases[] = {
        {CHATML, "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b \"}]", NULL,
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b <|im_end|>]\n"},
        {CHATML,
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0}, "
         "{\"role\": \"user\", "
         "\"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\", \"weight\": 1}]",
         NULL,
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]!\n<|im_start|>user\nc<|im_end|>\n<|im_"
         "start|>"
         "assistant\n[d<|im_end|>]\n"},
        {CHATML, "[{\"role\": \"developer\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]", NULL,
         "<|im_start|>system\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"},
        {"{% for m in messages %}{{ '(developer)' if m.role == 'developer' else m.role }}{{ m.content }}{% endfor %}",
         "[{\"role\": \"developer\", \"content\": \"a\"}]", NULL, "(developer)a"},
        {"{% for m in messages %}{{ m.content }}{% endfor %}",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]", NULL, "a[b]?"},
        {"{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ tools is none }}{{ documents is none }}",
         "[{\"role\": \"user\", \"content\": \"a\"}]", "{\"bos_token\": \"<s>\"}", "<s>aTrueTrue"},
        {"{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration "
         "%}{% else %}{{ m.content }}"
         "{% endif %}{{ '\\n' }}{% endfor %}",
         "[{\"role\": \"user\", \"content\": \"\xc3\xa9\"}, {\"role\": \"assistant\", \"content\": \"b\"}, {\"role\": "
         "\"assistant\", "
         "\"content\": \"c\", \"weight\": 0}]",
         NULL, "\xc3\xa9\n[b</s>]\n[c</s>]!\n"},
        /* members that are null are not there; reasoning goes by both names */
        {"{% for m in messages %}{{ m.role }}{{ m.content is defined }}{{ m.name is defined }}{% endfor %}",
         "[{\"role\": \"user\", \"content\": null, \"name\": null}, {\"role\": \"user\", \"content\": \"a\"}]", NULL,
         "userFalseFalseuserTrueFalse"},
        {"{% for m in messages %}{{ m.thinking }}={{ m.reasoning_content }};{% endfor %}",
         "[{\"role\": \"user\", \"reasoning\": \"a\"}, {\"role\": \"user\", \"thinking\": \"b\"}, {\"role\": \"user\", "
         "\"thinking\": \"c\", \"reasoning_content\": \"d\"}, {\"role\": \"user\", \"thinking\": null, "
         "\"reasoning_content\": \"e\"}, {}]",
         NULL, "a=a;b=b;c=d;e=e;=;"},
        /* marks that touch are one turn, when their number says so */
        {"{% for m in messages %}|{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
         "{% generation %}</s>{% endgeneration %}",
         "[{\"role\": \"assistant\", \"content\": \"a\", \"weight\": 0}, {\"role\": \"assistant\", \"content\": "
         "\"b\"}]",
         NULL, "|[a]!|[b</s>]"},
        /* only white space may follow the end token, whatever stands in front */
        {"{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}",
         "[{\"role\": \"assistant\", \"content\": \"   a</s>b\"}, {\"role\": \"assistant\", \"content\": \"   a</s> "
         "\\n"
         "\"}]",
         NULL, "[   a</s>b]?|[   a</s> \n]|"},
        {"{% for m in messages %}{{ m.content }}{% endfor %}",
         "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b</s>c\"}]", NULL,
         "a[b</s>c]?"},
    };
    char out[2048];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(mark(cases[i].source, cases[i].messages, cases[i].variables, out, sizeof out),
                            cases[i].expected);
}

static void templates_that_are_not_prefix_stable_are_refused_with_the_message(void **state)
{
    /* Content of all but the last turn is shortened, as reasoning models do. */
    static const char drops[] = "{% for m in messages %}{{ m.content if loop.last else m.content[:1] }}|{% endfor %}";
    static const char messages[] =
        "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"bb\"}, "
        "{\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"dd\"}]";
    static const char prompt[] =
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>>{% endif %}";
    char out[2048];

    assert_non_null(strstr(mark(drops, messages, NULL, out, sizeof out), "not prefix-stable at message 1"));
    assert_non_null(strstr(out, "rendered differently once messages follow"));
    assert_non_null(strstr(mark(prompt, messages, NULL, out, sizeof out), "does not begin with the generation prompt"));
}

static void errors_of_the_template_and_the_input_come_through(void **state)
{
    char out[2048];

    assert_non_null(
        strstr(mark("{{ raise_exception('roles must alternate') }}", "[{\"role\": \"user\"}]", NULL, out, sizeof out),
               "roles must alternate"));
    assert_non_null(strstr(mark("x", "[]", NULL, out, sizeof out), "at least one message"));
    assert_non_null(strstr(mark("x", "[1]", NULL, out, sizeof out), "must be an object"));
    assert_non_null(
        strstr(mark("{% generation %}x{% endgeneration %}",
                    "[{\"role\": \"assistant\", \"weight\": 0}, {\"role\": \"assistant\"}]", NULL, out, sizeof out),
               "\"weight\": 0 cannot be placed"));
}

static void the_prompt_ends_where_the_model_goes_on(void **state)
{
    struct arena arena = {0};
    struct err err = {0};
    struct str text;
    struct chat_input input = {0};

    input.template = template_parse(&arena, STR(CHATML), &err);
    input.messages = json_parse(&arena, STR("[{\"role\": \"user\", \"content\": \"a\"}]"), NULL, &err);
    assert_ok(chat_render_prompt(&input, &arena, &text, &err), err);
    assert_true(str_is(text, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"));
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_hold_the_turn_with_its_end_token),
        cmocka_unit_test(templates_that_are_not_prefix_stable_are_refused_with_the_message),
        cmocka_unit_test(errors_of_the_template_and_the_input_come_through),
        cmocka_unit_test(the_prompt_ends_where_the_model_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
