#include "text/training_template.h"
#include "base/hash.h"

/* What is done to a known template, in the order of its text: each step looks for `from` behind the step before. The
 * anchors are as short as they can be and still name one place. Where a step says REPLACE, the text from `from` through
 * `through` (NULL: `from` itself) gives way to `put`. */
enum edit_kind { NONE, BEFORE, AFTER, REPLACE };

struct edit {
    enum edit_kind kind;
    const char *from, *through, *put;
};

static const struct edit qwen3[] = {
    {REPLACE, "{%- if loop.index0 > ns.last_query_index %}", "+ content }}\n        {%- endif %}",
     "{{- '<|im_start|>' + message.role + '\\n' }}{%- generation %}"
     "{{- '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"},
    {BEFORE, "{%- elif message.role == \"tool\" %}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit qwen3_5[] = {
    {REPLACE, "{%- if loop.index0 > ns.last_query_index %}", "+ content }}\n        {%- endif %}",
     "{{- '<|im_start|>' + message.role + '\\n' }}{%- generation %}"
     "{{- '<think>\\n' + reasoning_content + '\\n</think>\\n\\n' + content }}"},
    {BEFORE, "{%- elif message.role == \"tool\" %}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit qwen3_6[] = {
    {REPLACE, "{%- if (preserve_thinking is defined", "+ content }}\n        {%- endif %}",
     "{{- '<|im_start|>' + message.role + '\\n' }}{%- generation %}"
     "{{- '<think>\\n' + reasoning_content + '\\n</think>\\n\\n' + content }}"},
    {BEFORE, "{%- elif message.role == \"tool\" %}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit qwen3_8[] = {
    {REPLACE, "{%- if preserve_thinking is undefined or", "+ content }}\n        {%- endif %}",
     "{{- '<|im_start|>' + message.role + '\\n' }}{%- generation %}"
     "{{- '<think>\\n' + reasoning_content + '\\n</think>\\n\\n' + content }}"},
    {BEFORE, "{%- elif message.role == \"tool\" %}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit qwen3_instruct[] = {
    {REPLACE, "+ content }}", NULL, "}}{%- generation %}{{- content }}"},
    {BEFORE, "{%- elif message.role == \"tool\" %}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit qwen2_5[] = {
    {REPLACE, " or (message.role == \"assistant\" and not message.tool_calls)", NULL, ""},
    {AFTER, "{{- '<|im_start|>' + message.role }}", NULL, "{%- generation %}"},
    {REPLACE, "if message.content %}", NULL, "if message.content or not message.tool_calls %}"},
    {BEFORE, "{%- elif message.role == \"tool\" %}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit gpt_oss[] = {
    {BEFORE, "{%- if \"tool_calls\" in message %}\n            {#- We need", NULL, "{%- generation %}"},
    {BEFORE, "{%- elif message.role == 'tool' -%}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit llama3[] = {
    {REPLACE, "{{ content }}", NULL,
     "{% if message['role'] == 'assistant' %}"
     "{% set head = (bos_token if loop.first else '') + '<|start_header_id|>assistant<|end_header_id|>\n\n' %}"
     "{{ head }}{% generation %}{{ content[head | length:] }}{% endgeneration %}{% else %}{{ content }}{% endif %}"},
    {0},
};

static const struct edit phi3[] = {
    {REPLACE, "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}", NULL,
     "{{'<|assistant|>\n'}}{% generation %}{{ message['content'] + '<|end|>\n' }}{% endgeneration %}"},
    {REPLACE, "{{ eos_token }}", NULL,
     "{% if messages[-1]['role'] == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% else %}"
     "{{ eos_token }}{% endif %}"},
    {0},
};

static const struct edit gemma[] = {
    {BEFORE, "{{ '<start_of_turn>' + role", NULL,
     "{% if role == 'model' %}{{ '<start_of_turn>model\n' }}{% generation %}"
     "{{ message['content'] | trim + '<end_of_turn>\n' }}{% endgeneration %}{% else %}"},
    {BEFORE, "{% endfor %}", NULL, "{% endif %}"},
    {0},
};

static const struct edit gemma3[] = {
    {BEFORE, "{{ '<start_of_turn>' + role + '\n'", NULL,
     "{%- if role == 'model' -%}{{ '<start_of_turn>model\n' }}{% generation %}"
     "{{ message['content'] | trim if message['content'] is string else raise_exception(\"Invalid content type\") }}"
     "{{ '<end_of_turn>\n' }}{% endgeneration %}{%- else -%}\n    "},
    {BEFORE, "{%- endfor -%}\n{%- if add_generation_prompt", NULL, "{%- endif -%}\n"},
    {0},
};

static const struct edit aya[] = {
    {REPLACE, "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content", NULL,
     "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% generation %}{{ content"},
    {AFTER, "'<|END_OF_TURN_TOKEN|>' }}", NULL, "{% endgeneration %}"},
    {0},
};

static const struct edit tiny_aya[] = {
    {AFTER, "<|USER_TOKEN|>{{ message['content'] }}", NULL, "<|END_OF_TURN_TOKEN|>"},
    {AFTER, "<|CHATBOT_TOKEN|><|START_RESPONSE|>", NULL, "{% generation %}"},
    {AFTER, "<|END_RESPONSE|>", NULL, "<|END_OF_TURN_TOKEN|>{% endgeneration %}"},
    {REPLACE, "{% endif %}<|END_OF_TURN_TOKEN|>", NULL, "<|END_OF_TURN_TOKEN|>{% endif %}"},
    {0},
};

static const struct edit lfm2[] = {
    {REPLACE, "{{- content + \"<|im_end|>\\n\" -}}", NULL,
     "{%- if message[\"role\"] == \"assistant\" -%}{% generation %}{{- content + \"<|im_end|>\\n\" -}}"
     "{% endgeneration %}{%- else -%}{{- content + \"<|im_end|>\\n\" -}}{%- endif -%}"},
    {0},
};

static const struct edit lfm2_v2[] = {
    {AFTER, "{%- if message[\"role\"] == \"assistant\" and message.get(\"tool_calls\") -%}", NULL,
     "{% generation %}"},
    {BEFORE, "{%- else -%}\n\t\t{{- content", NULL,
     "{% endgeneration %}{%- elif message[\"role\"] == \"assistant\" -%}{% generation %}"
     "{{- content + \"<|im_end|>\\n\" -}}{% endgeneration %}"},
    {0},
};

static const struct edit deepseek_r1[] = {
    {BEFORE, "{%- for tool in message['tool_calls']", NULL, "{%- generation %}"},
    {AFTER, "{%- endif %}{%- endfor %}", NULL, "{%- endgeneration %}"},
    {REPLACE, "{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'", NULL,
     "{%- if ns.is_tool %}{%- generation %}{{'<｜tool▁outputs▁end｜>'"},
    {BEFORE, "{%- else %}{% set content", NULL, "{%- endgeneration %}"},
    {REPLACE, "{% set content = message['content'] %}", "{% endif %}",
     "{%- generation %}{% set content = message['content'] %}"},
    {AFTER, "'<｜end▁of▁sentence｜>'}}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit deepseek_v3[] = {
    {BEFORE, "{%- for tool in message['tool_calls']", NULL, "{%- generation %}"},
    {AFTER, "tool['function']['arguments']", NULL, " | tojson"},
    {AFTER, "tool['function']['arguments']", NULL, " | tojson"},
    {AFTER, "tool['function']['arguments']", NULL, " | tojson"},
    {AFTER, "{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}", NULL, "{%- endgeneration %}"},
    {REPLACE, "{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'", NULL,
     "{%- if ns.is_tool %}{%- generation %}{{'<｜tool▁outputs▁end｜>'"},
    {BEFORE, "{%- else %}{% set content", NULL, "{%- endgeneration %}"},
    {BEFORE, "{% set content = message['content'] %}", NULL, "{%- generation %}"},
    {AFTER, "'<｜end▁of▁sentence｜>'}}", NULL, "{%- endgeneration %}"},
    {0},
};

static const struct edit nemotron_nano[] = {
    {AFTER, "{{- '<|im_start|>assistant\\n' }}", NULL, "{%- generation %}"},
    {BEFORE, "{%- else %}\n            {# Assistant message doesn't", NULL, "{%- endgeneration %}"},
    {REPLACE, "~ (content", NULL, "}}{%- generation %}{{- (content"},
    {AFTER, "'<|im_end|>\\n' }}", NULL, "{%- endgeneration %}"},
    {REPLACE, "~ c ~", NULL, "}}{%- generation %}{{- c ~"},
    {AFTER, "'<|im_end|>\\n' }}", NULL, "{%- endgeneration %}"},
    {REPLACE, "<|im_end|>\\n' }}", NULL, "' }}{%- generation %}{{- '<|im_end|>\\n' }}{%- endgeneration %}"},
    {0},
};

static const struct edit nemotron_ultra[] = {
    {AFTER, "{{- '<|im_start|>assistant\\n' }}", NULL, "{%- generation %}"},
    {BEFORE, "{%- else %}\n            {%- if not (truncate_history_thinking", NULL, "{%- endgeneration %}"},
    {REPLACE, "~ (content", NULL, "}}{%- generation %}{{- (content"},
    {AFTER, "'<|im_end|>\\n' }}", NULL, "{%- endgeneration %}"},
    {REPLACE, "~ c ~", NULL, "}}{%- generation %}{{- c ~"},
    {AFTER, "'<|im_end|>\\n' }}", NULL, "{%- endgeneration %}"},
    {REPLACE, "<|im_end|>\\n' }}", NULL, "' }}{%- generation %}{{- '<|im_end|>\\n' }}{%- endgeneration %}"},
    {0},
};

static const struct edit muse_glimmer[] = {
    {AFTER, "{%- elif role == 'assistant' -%}", NULL, "{%- generation %}"},
    {BEFORE, "{%- endif -%}\n{%- endfor -%}\n{%- if add_generation_prompt", NULL, "{%- endgeneration %}"},
    {0},
};

/* By the SHA-256 of the template's text. */
static const struct {
    const char *sha256;
    const struct edit *edits;
    const char *name;
} known[] = {
    {"a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", qwen3, "Qwen3"},
    {"273d8e0e683b885071fb17e08d71e5f2a5ddfb5309756181681de4f5a1822d80", qwen3_5, "Qwen3.5 without thinking"},
    {"a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715", qwen3_5, "Qwen3.5"},
    {"e84f32a23fdda27689f868aa4a1a5621f41133e51a48d7f3efcbea2839574259", qwen3_6, "Qwen3.6"},
    {"c3cf9e34abf4f9e36c2d72165aa9c132d3e2a725b6c2586aaa3a8af9d7a81041", qwen3_8, "Qwen3.8"},
    {"64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326", qwen3_instruct, "Qwen3 Instruct 2507"},
    {"cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f", qwen2_5, "Qwen2.5"},
    {"a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146", gpt_oss, "gpt-oss"},
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", llama3, "Llama 3"},
    {"dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa", phi3, "Phi-3"},
    {"78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90", phi3, "Phi-3.5"},
    {"ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6", gemma, "Gemma 1 and 2"},
    {"7de1c58e208eda46e9c7f86397df37ec49883aeece39fb961e0a6b24088dd3c4", gemma3, "Gemma 3"},
    {"90c33aee14aa2a226127516d48ee9184c9b90745d4a04c484621ec2e82fb712c", aya, "Aya Expanse"},
    {"2147c474f41b522b7296f74692b9f31e45f49a31465960576a9d321339c5915a", tiny_aya, "Tiny Aya"},
    {"cef187400d62a59507aab3a642ea9a8d2a2ef263562bc3430560e116945273cf", lfm2, "LFM2"},
    {"5504d163d879bfb6fd4135b7fa3d56768b2e69dd718338f7b146750289f46ab0", lfm2_v2, "LFM2, second revision"},
    {"56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f", deepseek_r1, "DeepSeek R1 Distill"},
    {"563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64", deepseek_v3, "DeepSeek V3"},
    {"ab7813c3abdd9cb655905a410728b26c7884eca45ddfab8d9f931553485a7862", nemotron_nano, "Nemotron 3 Nano"},
    {"575fb74f54ed264df9047d0ecce3c98938aae953fb4f50356675706264cbb68a", nemotron_nano, "Nemotron 3 Super"},
    {"82753bef5cedc4932c1ed509b5c9a12be680fd86d1adb65bc3f7398d11c8eebc", nemotron_ultra, "Nemotron 3 Ultra"},
    {"58933db77d3099b4f78c55a38347a72e1ea05b97d6bd8f38775303dc0194e0a9", nemotron_ultra, "Nemotron 3.5 Lightning"},
    {"cfc67e5f349f37690dfd31ed1f18bc4442a9dd32fe39a648f993cb4eb3cae678", muse_glimmer, "Muse Glimmer"},
    {"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", qwen3, "Qwen3, first revision"},
};

static bool apply(const struct edit *edit, struct str source, struct strbuf *out)
{
    size_t at = 0;

    for (; edit->kind != NONE; edit++) {
        struct str from = str_of(edit->from), through = str_of(edit->through ? edit->through : edit->from);
        ptrdiff_t start = str_find(source, from, at), last = start < 0 ? -1 : str_find(source, through, (size_t)start);
        size_t end = (size_t)last + through.len;
        if (last < 0)
            return false;
        strbuf_add_str(out, str_slice(source, at, edit->kind == AFTER ? end : (size_t)start));
        strbuf_add_text(out, edit->put);
        at = edit->kind == BEFORE ? (size_t)start : end;
    }
    strbuf_add_str(out, str_slice(source, at, source.len));
    return true;
}

const char *training_template_find(struct str source, struct arena *arena, struct str *training)
{
    struct strbuf text = {0};
    const char *name = NULL;
    char hash[65];

    sha256_hex(source, hash);
    for (size_t i = 0; i < sizeof known / sizeof *known && !name; i++)
        if (str_is(str_of(hash), known[i].sha256) && apply(known[i].edits, source, &text))
            name = known[i].name;
    if (name)
        *training = (struct str){str_copy(arena, strbuf_view(&text)), text.len};
    strbuf_deinit(&text);
    return name;
}
