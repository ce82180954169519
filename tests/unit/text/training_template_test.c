#include "test.h"
#include "os/file.h"
#include "text/template.h"
#include "text/training_template.h"

#include <string.h>

static bool read_shared(struct arena *arena, const char *name, struct str *source)
{
    struct err err = {0};
    const char *path = shared_path(name);

    if (!path)
        return false;
    assert_ok(file_read(arena, path, TEMPLATE_SOURCE_BYTES_MAX, source, &err), err);
    return true;
}

static void a_known_template_gets_marks(void **state)
{
    static const struct {
        const char *file, *name;
    } cases[] = {
        {"trl/qwen2_5", "Qwen2.5"},
        {"trl/qwen3_instruct_2507", "Qwen3 Instruct 2507"},
        {"llama.cpp/Qwen-Qwen3-0.6B", "Qwen3, first revision"},
        {"trl/qwen3_5_think", "Qwen3.5"},
        {"trl/llama3", "Llama 3"},
        {"trl/phi3_5", "Phi-3.5"},
        {"trl/gemma", "Gemma 1 and 2"},
        {"trl/gemma3", "Gemma 3"},
        {"llama.cpp/openai-gpt-oss-120b", "gpt-oss"},
        {"trl/deepseekv3", "DeepSeek V3"},
        {"trl/nemotron_3_nano", "Nemotron 3 Nano"},
        {"trl/llama3_1", NULL},
        {"llama.cpp/HuggingFaceTB-SmolLM3-3B", NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct str source, training;
        struct err err = {0};
        const char *name;
        if (read_shared(&arena, arena_printf(&arena, "chat-templates/%s.jinja", cases[i].file), &source)) {
            name = training_template_find(source, &arena, &training);
            assert_int_equal(name != NULL, cases[i].name != NULL);
            if (name) {
                struct template *template = template_parse(&arena, training, &err);
                assert_string_equal(name, cases[i].name);
                assert_ok(template, err);
                assert_true(template_has_generation(template));
            }
        }
        arena_deinit(&arena);
    }
}

static void another_text_is_not_known(void **state)
{
    struct arena arena = {0};
    struct str source, training;

    assert_null(training_template_find(STR("{{ messages }}"), &arena, &training));
    if (read_shared(&arena, "chat-templates/trl/llama3.jinja", &source))
        assert_null(training_template_find(str_slice(source, 0, source.len - 1), &arena, &training));
    arena_deinit(&arena);
}

/* The text with each span in [..]. */
static void qwen3_keeps_the_reasoning_of_every_turn(void **state)
{
    static const char variables[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"<think>\\n"
        "x\\n"
        "</think>\\n"
        "\\n"
        "b\"}, {\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\"}]}";
    struct arena arena = {0};
    struct strbuf text = {0}, marked = {0};
    struct template_spans spans;
    struct str source, training;
    struct err err = {0};
    size_t at = 0;

    if (!read_shared(&arena, "chat-templates/llama.cpp/Qwen-Qwen3-0.6B.jinja", &source))
        goto out;
    assert_non_null(training_template_find(source, &arena, &training));
    assert_ok(template_render(template_parse(&arena, training, &err),
                              json_parse(&arena, STR(variables), NULL, &err), NULL, &text, &spans, &arena, &err),
              err);
    for (size_t i = 0; i < spans.count; i++) {
        strbuf_add_str(&marked, str_slice(strbuf_view(&text), at, spans.at[i].start));
        strbuf_printf(&marked, "[%.*s]", STR_ARG(str_slice(strbuf_view(&text), spans.at[i].start, spans.at[i].end)));
        at = spans.at[i].end;
    }
    assert_int_equal(at, text.len);
    assert_string_equal(marked.at,
                        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[<think>\nx\n</think>\n\nb<|im_end|>\n]"
                        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nd<|im_end|>\n]");
out:
    strbuf_deinit(&text);
    strbuf_deinit(&marked);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_known_template_gets_marks),
        cmocka_unit_test(another_text_is_not_known),
        cmocka_unit_test(qwen3_keeps_the_reasoning_of_every_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
