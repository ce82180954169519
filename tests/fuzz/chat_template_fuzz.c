/* Any bytes as a template: parsing and rendering end within their budgets. */
#include "text/template.h"

static const char variables[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"h\xc3\xa9llo\"}, {\"role\": \"assistant\", \"content\": "
    "\"<think>x</think> y\","
    " \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1.5, \"b\": [null, true, -3]}}}]}],"
    " \"tools\": null, \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"s\": \" a b \", \"n\": 7, \"l\": [3, "
    "1, 2], \"d\": {\"a\": 1}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct template_options options = {
        .now = 1722004205,
        .limits = {.steps = 20000, .output_bytes = 64 << 10, .memory_bytes = 4 << 20, .range_items = 1000}};
    struct arena arena = {0};
    struct strbuf out = {0};
    struct template_spans spans;
    struct err err = {0};
    struct json *json = json_parse(&arena, STR(variables), NULL, &err);
    struct template *template = template_parse(&arena, (struct str){(const char *)data, size}, &err);

    ASSERT(json);
    if (template && template_render(template, json, &options, &out, &spans, &arena, &err)) {
        ASSERT(out.len <= options.limits.output_bytes && utf8_is_valid(strbuf_view(&out)));
        for (size_t i = 0; i < spans.count; i++)
            ASSERT(spans.at[i].start <= spans.at[i].end);
    } else {
        ASSERT(err.code == ERR_INPUT || err.code == ERR_LIMIT);
    }
    strbuf_deinit(&out);
    arena_deinit(&arena);
    return 0;
}
