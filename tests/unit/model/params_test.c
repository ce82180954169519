/* The table of tensors follows from the config's flags: names, order and places for each way of building a block. */
#include "fixture.h"
#include "model/modules.h"

struct block {
    const char *name;
    enum tensor_names names;
    enum norm_places places;
    enum qk_norm qk_norm;
    bool has_qkv_bias, has_sinks;
    const char *tensors; /* of a layer, in order; shapes for [D 20, F 28, H 4, Hkv 2, d 6] */
};

static const struct block blocks[] = {
    {"llama", NAMES_LLAMA, NORMS_PRE, QK_NORM_NONE, false, false,
     "self_attn.q_proj.weight 24x20 self_attn.k_proj.weight 12x20 self_attn.v_proj.weight 12x20 "
     "self_attn.o_proj.weight 20x24 mlp.gate_proj.weight 28x20 mlp.up_proj.weight 28x20 mlp.down_proj.weight 20x28 "
     "input_layernorm.weight 20 post_attention_layernorm.weight 20 "},
    {"biases and sinks", NAMES_LLAMA, NORMS_PRE, QK_NORM_NONE, true, true,
     "self_attn.sinks 4 self_attn.q_proj.weight 24x20 self_attn.q_proj.bias 24 self_attn.k_proj.weight 12x20 "
     "self_attn.k_proj.bias 12 self_attn.v_proj.weight 12x20 self_attn.v_proj.bias 12 self_attn.o_proj.weight 20x24 "
     "mlp.gate_proj.weight 28x20 mlp.up_proj.weight 28x20 mlp.down_proj.weight 20x28 input_layernorm.weight 20 "
     "post_attention_layernorm.weight 20 "},
    {"fused", NAMES_FUSED, NORMS_PRE, QK_NORM_NONE, false, false,
     "self_attn.o_proj.weight 20x24 self_attn.qkv_proj.weight 48x20 mlp.gate_up_proj.weight 56x20 "
     "mlp.down_proj.weight 20x28 input_layernorm.weight 20 post_attention_layernorm.weight 20 "},
    {"sandwich, q and k normed by head", NAMES_LLAMA, NORMS_SANDWICH, QK_NORM_HEAD, false, false,
     "self_attn.q_proj.weight 24x20 self_attn.k_proj.weight 12x20 self_attn.v_proj.weight 12x20 "
     "self_attn.o_proj.weight 20x24 self_attn.q_norm.weight 6 self_attn.k_norm.weight 6 mlp.gate_proj.weight 28x20 "
     "mlp.up_proj.weight 28x20 mlp.down_proj.weight 20x28 input_layernorm.weight 20 post_attention_layernorm.weight 20 "
     "pre_feedforward_layernorm.weight 20 post_feedforward_layernorm.weight 20 "},
    {"norms behind, q and k normed whole", NAMES_LLAMA, NORMS_POST, QK_NORM_WHOLE, false, false,
     "self_attn.q_proj.weight 24x20 self_attn.k_proj.weight 12x20 self_attn.v_proj.weight 12x20 "
     "self_attn.o_proj.weight 20x24 self_attn.q_norm.weight 24 self_attn.k_norm.weight 12 mlp.gate_proj.weight 28x20 "
     "mlp.up_proj.weight 28x20 mlp.down_proj.weight 20x28 post_attention_layernorm.weight 20 "
     "post_feedforward_layernorm.weight 20 "},
};
enum { BLOCK_COUNT = sizeof blocks / sizeof *blocks };

static struct model_config config_of(struct arena *arena, const struct block *block)
{
    char text[2048];
    struct model_config config;
    struct err err;

    snprintf(text, sizeof text, tiny_config, "true", "float32");
    assert_ok(config_parse(arena, str_of(arena_copy(arena, text, strlen(text))), &config, &err), err);
    config.names = block->names;
    config.norm_places = block->places;
    config.qk_norm = block->qk_norm;
    config.has_qkv_bias = block->has_qkv_bias;
    config.has_sinks = block->has_sinks;
    return config;
}

static struct params params_of(struct arena *arena, const struct model_config *config, const struct lora_config *lora)
{
    struct params params;
    struct err err;

    assert_ok(params_make(arena, config, PROFILE_F32, lora, true, true, false, NULL, &params, &err), err);
    return params;
}

static void every_block_has_the_tensors_of_its_family(void **state)
{
    const char *prefix = "model.layers.1.";
    struct arena arena = {0};

    for (int k = 0; k < BLOCK_COUNT; k++) {
        struct model_config config = config_of(&arena, &blocks[k]);
        struct params params = params_of(&arena, &config, NULL);
        struct strbuf text = {0};
        for (int i = 0; i < params.count; i++) {
            const struct param *param = &params.param[i];
            if (strncmp(param->name, prefix, strlen(prefix)))
                continue;
            strbuf_printf(&text, param->is_vector ? "%s %d " : "%s %dx%d ", param->name + strlen(prefix),
                          param->is_vector ? param->cols : param->rows, param->cols);
        }
        if (strcmp(text.at, blocks[k].tensors))
            fail_msg("%s:\n%s\nexpected\n%s", blocks[k].name, text.at, blocks[k].tensors);
        strbuf_deinit(&text);
    }
    arena_deinit(&arena);
}

/* Every element of a stored weight of the base belongs to exactly one param. */
static void params_tile_their_stored_weights(void **state)
{
    struct arena arena = {0};

    for (int k = 0; k < BLOCK_COUNT; k++) {
        struct model_config config = config_of(&arena, &blocks[k]);
        struct params params = params_of(&arena, &config, NULL);
        for (int s = 0; s < params.stored_count; s++) {
            const struct stored *stored = &params.stored[s];
            char *seen = arena_alloc(&arena, (size_t)(stored->rows * stored->cols));
            assert_int_equal(params_stored(&params, stored->slot, stored->layer, stored->part), s);
            for (int i = 0; i < params.count; i++)
                for (int32_t e = 0; params.param[i].stored == s && e < params.param[i].rows * params.param[i].cols; e++)
                    seen[(params.param[i].row_at + e / params.param[i].cols) * stored->cols + params.param[i].col_at +
                         e % params.param[i].cols]++;
            for (int32_t e = 0; e < stored->rows * stored->cols; e++)
                assert_int_equal(seen[e], 1);
        }
    }
    arena_deinit(&arena);
}

static void norms_and_biases_do_not_decay(void **state)
{
    struct arena arena = {0};

    for (int k = 0; k < BLOCK_COUNT; k++) {
        struct model_config config = config_of(&arena, &blocks[k]);
        struct params params = params_of(&arena, &config, NULL);
        for (int i = 0; i < params.count; i++) {
            const char *name = params.param[i].name;
            assert_int_equal(params.stored[params.param[i].stored].has_decay,
                             !strstr(name, "norm") && !strstr(name, "bias"));
        }
    }
    arena_deinit(&arena);
}

static void an_adapter_on_a_fused_weight_is_one_over_all_its_rows(void **state)
{
    static const char *const targets[] = {"qkv_proj"};
    struct lora_config lora = {.rank = 3, .alpha = 3, .targets = {.name = targets, .count = 1}};
    struct arena arena = {0};
    struct model_config config = config_of(&arena, &blocks[2]);
    struct params params = params_of(&arena, &config, &lora);
    const struct param *a = params_find(&params, "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight");
    const struct param *b = params_find(&params, "base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight");

    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->rows, 3);
    assert_int_equal(b->rows, 48);
    assert_int_equal(b->cols, 3);
    assert_int_equal(params.stored[a->stored].rows, 3);
    assert_int_equal(params.trained_count, 2 * 3 * (20 + 48));
    arena_deinit(&arena);
}

static void a_target_that_names_nothing_is_told_the_names_there_are(void **state)
{
    static const char *const targets[] = {"q_proj"};
    struct lora_config lora = {.rank = 3, .alpha = 3, .targets = {.name = targets, .count = 1}};
    struct arena arena = {0};
    struct model_config config = config_of(&arena, &blocks[2]);
    struct params params;
    struct err err;

    assert_false(params_make(&arena, &config, PROFILE_F32, &lora, true, true, false, NULL, &params, &err));
    assert_non_null(strstr(err.text, "there are o_proj, qkv_proj, gate_up_proj and down_proj"));
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_has_the_tensors_of_its_family),
        cmocka_unit_test(params_tile_their_stored_weights),
        cmocka_unit_test(norms_and_biases_do_not_decay),
        cmocka_unit_test(an_adapter_on_a_fused_weight_is_one_over_all_its_rows),
        cmocka_unit_test(a_target_that_names_nothing_is_told_the_names_there_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
