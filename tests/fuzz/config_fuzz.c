/* config.json from outside: what is accepted has a param table, a rope table and a plan, and survives being written. */
#include "model/decoder.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct arena *arena, const struct model_config *config)
{
    struct lora_config lora = {.rank = 4, .alpha = 8};
    struct plan *plan = mem_alloc_zero(1, sizeof *plan);
    struct model_config again;
    struct params params;
    struct err err = {0};
    float table[4 * 512];

    for (int rope = 0; rope < config->rope_count; rope++) {
        ASSERT(rope_table_rows(&config->rope[rope], 2) <= 4);
        rope_table(config, rope, 2, table);
    }
    ASSERT(config_parse(arena, config_write(arena, config, DTYPE_BF16), &again, &err));
    ASSERT(again.dtype == DTYPE_BF16 && again.hidden == config->hidden && again.rope[0].kind == config->rope[0].kind);
    if (config->layers <= 4) {
        ASSERT(params_make(arena, config, PROFILE_BF16, &lora, true, false, false, NULL, &params, &err));
        plan_make(&(struct plan_request){.config = config,
                                         .params = &params,
                                         .is_trained = true,
                                         .row_tokens = 1,
                                         .tokens_wanted = 16,
                                         .limit_bytes = 1 << 20,
                                         .fixed_keep = -1,
                                         .backend = &backend_ref,
                                         .thread_count = 1},
                  plan, &err);
    }
    free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct model_config config;
    struct err err = {0};

    if (config_parse(&arena, (struct str){(const char *)data, size}, &config, &err))
        use(&arena, &config);
    else
        ASSERT(err.code != ERR_OK && err.text[0]);
    arena_deinit(&arena);
    return 0;
}
