/* What an adapter adapts, from adapter_config.json or job.json: what is accepted can be asked about any module, and is
 * written as JSON that reads back. */
#include "model/lora.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct lora_config *config)
{
    static const char *const modules[] = {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj", "lm_head",
                                          "model.embed_tokens"};
    struct lora_choice choice;
    struct err err = {0};
    struct lora_rules *rules = lora_rules_new(config, &err);

    for (int i = 0; rules && i < 4; i++) {
        lora_rules_save(rules, modules[i]);
        if (lora_rules_choose(rules, modules[i], i < 2 ? 11 * i : -1, i < 2, &choice, &err))
            ASSERT(choice.rank >= 0 && choice.rank <= LORA_RANK_MAX);
    }
    if (rules)
        lora_rules_check_used(rules, "none", &err);
    lora_rules_free(rules);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct lora_config config = {.rank = 4, .alpha = 8}, again = config;
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    struct err err = {0};
    const struct json *root = json_parse(&arena, (struct str){(const char *)data, size}, NULL, &err);

    if (root && lora_json_read(&arena, root, "target_modules", &config, &err)) {
        ask(&config);
        json_write_begin_object(&w);
        json_write_key(&w, "target_modules");
        lora_json_write_names(&w, &config.targets);
        json_write_key(&w, "layers_to_transform");
        lora_json_write_layers(&w, &config);
        json_write_key(&w, "rank_pattern");
        lora_json_write_patterns(&w, &config.rank_pattern);
        json_write_end_object(&w);
        root = json_parse(&arena, strbuf_view(&text), NULL, &err);
        ASSERT(root && lora_json_read(&arena, root, "target_modules", &again, &err));
        ASSERT(again.targets.count == config.targets.count && again.rank_pattern.count == config.rank_pattern.count);
    }
    strbuf_deinit(&text);
    arena_deinit(&arena);
    return 0;
}
