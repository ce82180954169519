/* tests/unit/model/fixture.h - tiny models in a temporary folder, and opening them. */
#pragma once

#include "test.h"
#include "model/checkpoint.h"
#include "os/file.h"

#include <math.h>
#include <string.h>

/* hidden 20 and 3-wide parts: nothing is a multiple of a vector. */
static const char tiny_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":20,\"intermediate_size\":28,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":6,\"vocab_size\":37,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"rope_scaling\":null,\"hidden_act\":"
    "\"silu\","
    "\"tie_word_embeddings\":%s,\"bos_token_id\":1,\"eos_token_id\":[2,3],\"torch_dtype\":\"%s\",\"initializer_range\":"
    "0.3}";

/* The other families with the same sizes. Windows are shorter than the documents of tests, soft caps low enough to
 * bend. */
#define TINY_SIZES                                                                                                     \
    "\"hidden_size\":20,\"intermediate_size\":28,\"num_hidden_layers\":2,\"num_attention_heads\":4,"                   \
    "\"num_key_value_heads\":2,\"head_dim\":6,\"vocab_size\":37,\"max_position_embeddings\":64,\"initializer_range\":" \
    "0.3,"                                                                                                             \
    "\"bos_token_id\":1,\"eos_token_id\":2,\"pad_token_id\":null,"
static const struct tiny_family {
    const char *name, *config;
} tiny_families[] = {
    {"llama with biases", "{\"model_type\":\"llama\"," TINY_SIZES "\"attention_bias\":true,\"mlp_bias\":true}"},
    {"mistral", "{\"model_type\":\"mistral\"," TINY_SIZES "\"sliding_window\":3}"},
    {"qwen2", "{\"model_type\":\"qwen2\"," TINY_SIZES "\"use_sliding_window\":true,\"sliding_window\":4,"
              "\"max_window_layers\":1,\"tie_word_embeddings\":true}"},
    {"qwen3", "{\"model_type\":\"qwen3\"," TINY_SIZES "\"tie_word_embeddings\":true}"},
    {"smollm3", "{\"model_type\":\"smollm3\"," TINY_SIZES "\"no_rope_layers\":[1,0],\"tie_word_embeddings\":true}"},
    {"phi3", "{\"model_type\":\"phi3\",\"hidden_size\":24,\"intermediate_size\":28,\"num_hidden_layers\":2,"
             "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":37,\"max_position_embeddings\":64,"
             "\"initializer_range\":0.3,\"pad_token_id\":null,\"partial_rotary_factor\":0.67,\"sliding_window\":5,"
             "\"original_max_position_embeddings\":8,"
             "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1.0,1.5],\"long_factor\":[2.0,5.0]}}"},
    {"olmo2", "{\"model_type\":\"olmo2\"," TINY_SIZES "\"rope_theta\":500000.0}"},
    {"olmo3", "{\"model_type\":\"olmo3\"," TINY_SIZES "\"sliding_window\":3,"
              "\"layer_types\":[\"sliding_attention\",\"full_attention\"],\"rope_scaling\":{\"rope_type\":\"yarn\","
              "\"factor\":4.0,\"original_max_position_embeddings\":16}}"},
    {"gemma", "{\"model_type\":\"gemma\"," TINY_SIZES "\"hidden_activation\":\"gelu_pytorch_tanh\"}"},
    {"gemma2", "{\"model_type\":\"gemma2\"," TINY_SIZES "\"query_pre_attn_scalar\":5,\"sliding_window\":3,"
               "\"attn_logit_softcapping\":1.5,\"final_logit_softcapping\":2.5}"},
    {"gemma3", "{\"model_type\":\"gemma3_text\"," TINY_SIZES "\"query_pre_attn_scalar\":5,\"sliding_window\":3,"
               "\"sliding_window_pattern\":2,\"rope_theta\":1000000.0,\"rope_local_base_freq\":10000.0,"
               "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}}"},
    {"mixtral", "{\"model_type\":\"mixtral\"," TINY_SIZES "\"num_local_experts\":5,\"num_experts_per_tok\":2}"},
    {"qwen3_moe", "{\"model_type\":\"qwen3_moe\"," TINY_SIZES "\"num_experts\":4,\"num_experts_per_tok\":3,"
                  "\"moe_intermediate_size\":9,\"norm_topk_prob\":false,\"mlp_only_layers\":[0]}"},
    {"gpt_oss", "{\"model_type\":\"gpt_oss\"," TINY_SIZES "\"num_local_experts\":4,\"num_experts_per_tok\":2,"
                "\"sliding_window\":3,\"swiglu_limit\":0.7}"},
};
enum { TINY_FAMILY_COUNT = sizeof tiny_families / sizeof *tiny_families };

static int fixture_count;

static inline char *fixture_path(struct arena *arena, int number)
{
    return arena_printf(arena, "/tmp/attune_model_test.%d.%d", (int)getpid(), number);
}

static inline const char *fixture_folder(struct arena *arena)
{
    char *folder = fixture_path(arena, fixture_count++);
    struct err err;

    assert_ok(dir_make(folder, &err), err);
    return folder;
}

/* Group teardown. */
static inline int fixture_clean(void **state)
{
    struct arena arena = {0};

    for (int i = 0; i < fixture_count; i++)
        dir_remove(fixture_path(&arena, i), NULL);
    arena_deinit(&arena);
    return 0;
}

static inline void fixture_write(struct arena *arena, const char *folder, const char *name, const char *text)
{
    struct err err;

    assert_ok(file_replace(path_join(arena, folder, name), str_of(text), &err), err);
}

/* A folder with config.json only: enough for random weights. */
static inline const char *fixture_config(struct arena *arena, bool is_tied, const char *dtype)
{
    const char *folder = fixture_folder(arena);
    char text[2048];

    snprintf(text, sizeof text, tiny_config, is_tied ? "true" : "false", dtype);
    fixture_write(arena, folder, "config.json", text);
    return folder;
}

static inline const char *fixture_family(struct arena *arena, const struct tiny_family *family)
{
    const char *folder = fixture_folder(arena);

    fixture_write(arena, folder, "config.json", family->config);
    return folder;
}

static inline struct model_options fixture_options(enum model_profile profile, const struct backend *backend,
                                                   struct pool *pool)
{
    return (struct model_options){.profile = profile,
                                  .is_trained = true,
                                  .seed = 7,
                                  .backend = backend,
                                  .pool = pool,
                                  .row_tokens = 32,
                                  .tokens_wanted = 64};
}

static inline struct model *fixture_open(const char *folder, const struct model_options *options)
{
    struct model *model;
    struct err err;

    assert_ok(model_open(&model, folder, options, &err), err);
    return model;
}

/* A folder with weights: drawn from the seed for the config.json of another and written by checkpoint_write. */
static inline const char *fixture_weights(struct arena *arena, struct pool *pool, const char *config_folder)
{
    const char *folder = fixture_folder(arena);
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct checkpoint_files files;
    struct model *model;
    struct err err;

    options.is_random = true;
    model = fixture_open(config_folder, &options);
    assert_ok(checkpoint_write(model, folder, "", arena, &files, &err), err);
    model_close(model);
    return folder;
}

static inline const char *fixture_model(struct arena *arena, struct pool *pool, bool is_tied, const char *dtype)
{
    return fixture_weights(arena, pool, fixture_config(arena, is_tied, dtype));
}

static inline double relative_error(double value, double expected)
{
    return fabs(value - expected) / fmax(fabs(expected), 1e-30);
}
