/* Every template × conversation that jinja2 rendered for us: shared/data/chat-templates/goldens.jsonl. */
#include "test.h"
#include "os/file.h"
#include "text/template.h"

#include <string.h>

struct counts {
    int identical, errors_as_due, spans_equal, wrong;
};

static struct json *read_json(struct arena *arena, struct str text)
{
    struct err err = {0};
    struct json *json = json_parse(arena, text, NULL, &err);

    assert_ok(json, err);
    return json;
}

static struct str read_text(struct arena *arena, const char *path)
{
    struct err err = {0};
    struct str text;

    assert_ok(file_read(arena, path, 64 << 20, &text, &err), err);
    return text;
}

/* The conversation with the special tokens of the goldens, as one object. */
static struct json *make_variables(struct arena *arena, const struct json *conversation)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    struct json *json;

    json_write_begin_object(&w);
    json_each(member, conversation)
        json_put_value(&w, str_copy(arena, member->key), member);
    json_put_text(&w, "bos_token", "<s>");
    json_put_text(&w, "eos_token", "</s>");
    json_put_text(&w, "unk_token", "<unk>");
    json_put_text(&w, "pad_token", "<pad>");
    if (!json_get(conversation, "tools"))
        json_put_null(&w, "tools");
    if (!json_get(conversation, "documents"))
        json_put_null(&w, "documents");
    if (!json_get(conversation, "add_generation_prompt"))
        json_put_bool(&w, "add_generation_prompt", false);
    json_write_end_object(&w);
    json = read_json(arena, (struct str){str_copy(arena, strbuf_view(&text)), text.len});
    strbuf_deinit(&text);
    return json;
}

static bool spans_equal(const struct template_spans *spans, const struct json *expected)
{
    size_t i = 0;

    if (spans->count != (expected ? expected->count : 0))
        return false;
    json_each(pair, expected) {
        if ((int64_t)spans->at[i].start_codepoint != json_at(pair, 0)->integer ||
            (int64_t)spans->at[i].end_codepoint != json_at(pair, 1)->integer)
            return false;
        i++;
    }
    return true;
}

static void check_golden(struct arena *arena, const struct json *golden, const struct json *conversations,
                         struct counts *counts)
{
    struct str name = json_get(golden, "template")->string, text = STR_NONE;
    const char *kase = str_copy(arena, json_get(golden, "case")->string);
    const struct json *wanted = json_get(golden, "text"), *wanted_spans = json_get(golden, "generation_spans");
    struct template_options options = {.now = 1722004205};
    struct template_spans spans = {0};
    struct strbuf out = {0};
    struct err err = {0};
    struct template *template = template_parse(arena, read_text(arena, shared_path(str_copy(arena, name))), &err);
    bool ok = template && template_render(template, make_variables(arena, json_get(conversations, kase)), &options,
                                          &out, &spans, arena, &err);
    bool is_right = ok ? wanted && str_equal(strbuf_view(&out), wanted->string) : !wanted;

    text = strbuf_view(&out);
    counts->identical += ok && is_right;
    counts->errors_as_due += !ok && is_right;
    if (ok && is_right && wanted_spans) {
        counts->spans_equal += spans_equal(&spans, wanted_spans);
        is_right = spans_equal(&spans, wanted_spans);
    }
    if (!is_right) {
        counts->wrong++;
        print_error("%.*s, %s:\n  wanted %.*s\n  got    %.*s%s\n", STR_ARG(name), kase,
                    STR_ARG(wanted ? wanted->string : STR("an error")), STR_ARG(text), err.text);
    }
    strbuf_deinit(&out);
}

static void templates_render_what_jinja2_renders(void **state)
{
    struct arena data = {0}, arena = {0};
    struct counts counts = {0};
    struct str goldens, line;
    struct json *conversations;

    if (!shared_path("chat-templates/goldens.jsonl"))
        skip();
    goldens = read_text(&data, shared_path("chat-templates/goldens.jsonl"));
    conversations = read_json(&data, read_text(&data, shared_path("chat-templates/conversations.json")));
    while (goldens.len) {
        ptrdiff_t end = str_find(goldens, STR("\n"), 0);
        line = str_slice(goldens, 0, end < 0 ? goldens.len : (size_t)end);
        goldens = str_slice(goldens, line.len + 1, goldens.len);
        if (line.len)
            check_golden(&arena, read_json(&arena, line), conversations, &counts);
        arena_reset(&arena);
    }
    print_message("template goldens: %d identical, %d errors as due, %d span lists equal\n", counts.identical,
                  counts.errors_as_due, counts.spans_equal);
    arena_deinit(&arena);
    arena_deinit(&data);
    assert_int_equal(counts.wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(templates_render_what_jinja2_renders)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
