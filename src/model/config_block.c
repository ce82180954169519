#include "model/config_int.h"

#include <math.h>
#include <string.h>

enum { WINDOW_MAX = 1 << 30, EXPERTS_MAX = 1024, TOP_MAX = 64 };

/* Which layers see a window only, once there is one. */
enum window_rule {
    WINDOWS_NONE,
    WINDOWS_ALL,
    WINDOWS_TYPES,    /* layer_types says; without it all but every pattern-th layer */
    WINDOWS_LATE,     /* layer_types says; without it those from max_window_layers on */
    WINDOWS_UNTURNED, /* layer_types says; without it those without positions */
};

/* What a block of experts is, beside its numbers in the file. */
struct expert_block {
    enum moe_names names;
    const char *width_key;
    bool is_always_normalized, has_bias, is_sparse;
};

/* What distinguishes the block of one model type from another's. `defaults` are those of the type's config class in
 * transformers 5 for keys that files leave out; what all classes agree on stands where the key is read. */
struct architecture {
    const char *model_type;
    enum norm_kind norm;
    enum norm_places norm_places;
    enum qk_norm qk_norm;
    enum tensor_names names;
    enum window_rule windows;
    int pattern; /* WINDOWS_TYPES: 0: the file's sliding_window_pattern */
    bool has_qkv_bias, reads_attention_bias, reads_mlp_bias, has_sinks, has_scaled_embedding, is_old_gelu_tanh;
    const char *act_key;  /* NULL: the activation does not come from the file */
    const char *text_key; /* NULL: the file describes the text model itself */
    const char *tensor_prefix, *adapter_prefix;
    const struct expert_block *experts;
    struct rope_dialect rope;
    const char *defaults;
};

static const struct expert_block mixtral_experts = {MOE_NAMES_MIXTRAL, "intermediate_size",
                                                    .is_always_normalized = true};
static const struct expert_block qwen_experts = {MOE_NAMES_QWEN, "moe_intermediate_size", .is_sparse = true};
static const struct expert_block oss_experts = {MOE_NAMES_OSS, "intermediate_size",
                                                .is_always_normalized = true, .has_bias = true};

#define GEMMA .norm = NORM_ONE_PLUS, .has_scaled_embedding = true, .reads_attention_bias = true
#define GEMMA3                                                                                                         \
    .norm_places = NORMS_SANDWICH, .qk_norm = QK_NORM_HEAD, .windows = WINDOWS_TYPES, .act_key = "hidden_activation",  \
    .rope = {.theta_full = 1e6, .theta_sliding = 1e4, .sliding_key = "rope_local_base_freq"},                          \
    .defaults = "{\"vocab_size\":262208,\"hidden_size\":2304,\"intermediate_size\":9216,\"num_hidden_layers\":26,"     \
                "\"num_attention_heads\":8,\"num_key_value_heads\":4,\"head_dim\":256,"                                \
                "\"max_position_embeddings\":131072,\"hidden_activation\":\"gelu_pytorch_tanh\","                      \
                "\"query_pre_attn_scalar\":256,\"sliding_window\":4096,\"sliding_window_pattern\":6,"                  \
                "\"tie_word_embeddings\":true}"
#define OLMO                                                                                                           \
    .norm = NORM_F32, .norm_places = NORMS_POST, .qk_norm = QK_NORM_WHOLE, .reads_attention_bias = true,               \
    .act_key = "hidden_act"

static const struct architecture architectures[] = {
    {"llama", .reads_attention_bias = true, .reads_mlp_bias = true, .act_key = "hidden_act",
     .rope = {.theta_full = 1e4}},
    {"mistral", .windows = WINDOWS_ALL, .act_key = "hidden_act", .rope = {.theta_full = 1e4},
     .defaults = "{\"num_key_value_heads\":8,\"sliding_window\":4096}"},
    {"qwen2", .windows = WINDOWS_LATE, .has_qkv_bias = true, .act_key = "hidden_act", .rope = {.theta_full = 1e4},
     .defaults = "{\"num_key_value_heads\":32,\"use_sliding_window\":false,\"sliding_window\":4096,"
                 "\"max_window_layers\":28}"},
    {"qwen3", .qk_norm = QK_NORM_HEAD, .windows = WINDOWS_LATE, .reads_attention_bias = true, .act_key = "hidden_act",
     .rope = {.theta_full = 1e4},
     .defaults = "{\"num_key_value_heads\":32,\"head_dim\":128,\"use_sliding_window\":false,\"sliding_window\":4096,"
                 "\"max_window_layers\":28}"},
    {"smollm3", .windows = WINDOWS_UNTURNED, .reads_attention_bias = true, .reads_mlp_bias = true,
     .act_key = "hidden_act", .rope = {.theta_full = 2e6},
     .defaults = "{\"num_key_value_heads\":4,\"use_sliding_window\":false,\"no_rope_layer_interval\":4,"
                 "\"tie_word_embeddings\":true}"},
    {"phi3", .names = NAMES_FUSED, .windows = WINDOWS_ALL, .act_key = "hidden_act",
     .rope = {.theta_full = 1e4, .is_partial = true, .has_old_longrope = true},
     .defaults = "{\"rms_norm_eps\":1e-5,\"original_max_position_embeddings\":4096}"},
    {"olmo2", OLMO, .rope = {.theta_full = 1e4}, .defaults = "{\"rms_norm_eps\":1e-5}"},
    {"olmo3", OLMO, .windows = WINDOWS_TYPES, .pattern = 4, .rope = {.theta_full = 5e5, .theta_sliding = 5e5},
     .defaults = "{\"rms_norm_eps\":1e-5,\"sliding_window\":4096}"},
    {"gemma", GEMMA, .is_old_gelu_tanh = true, .act_key = "hidden_act", .rope = {.theta_full = 1e4},
     .defaults = "{\"num_key_value_heads\":16,\"head_dim\":256,\"hidden_act\":\"gelu_pytorch_tanh\","
                 "\"tie_word_embeddings\":true}"},
    {"gemma2", GEMMA, .norm_places = NORMS_SANDWICH, .windows = WINDOWS_TYPES, .pattern = 2,
     .act_key = "hidden_activation", .rope = {.theta_full = 1e4},
     .defaults = "{\"num_key_value_heads\":4,\"head_dim\":256,\"hidden_activation\":\"gelu_pytorch_tanh\","
                 "\"query_pre_attn_scalar\":256,\"sliding_window\":4096,\"final_logit_softcapping\":30,"
                 "\"attn_logit_softcapping\":50,\"tie_word_embeddings\":true}"},
    {"gemma3_text", GEMMA, GEMMA3},
    {"gemma3", GEMMA, GEMMA3, .text_key = "text_config", .tensor_prefix = "language_model.model.",
     .adapter_prefix = "model.language_model."},
    {"mixtral", .windows = WINDOWS_ALL, .act_key = "hidden_act", .experts = &mixtral_experts,
     .rope = {.theta_full = 1e6},
     .defaults = "{\"num_key_value_heads\":8,\"rms_norm_eps\":1e-5,\"num_experts_per_tok\":2,"
                 "\"num_local_experts\":8}"},
    {"qwen3_moe", .qk_norm = QK_NORM_HEAD, .windows = WINDOWS_ALL, .reads_attention_bias = true,
     .act_key = "hidden_act", .experts = &qwen_experts, .rope = {.theta_full = 1e4},
     .defaults = "{\"num_key_value_heads\":4,\"use_sliding_window\":false,\"sliding_window\":4096,"
                 "\"moe_intermediate_size\":768,\"num_experts_per_tok\":8,\"num_local_experts\":128,"
                 "\"norm_topk_prob\":false,\"decoder_sparse_step\":1}"},
    {"gpt_oss", .norm = NORM_F32, .windows = WINDOWS_TYPES, .pattern = 2, .reads_attention_bias = true,
     .has_sinks = true, .experts = &oss_experts, .rope = {.theta_full = 150000},
     .defaults = "{\"num_key_value_heads\":8,\"head_dim\":64,\"rms_norm_eps\":1e-5,\"sliding_window\":128,"
                 "\"num_experts_per_tok\":4,\"num_local_experts\":128,\"attention_bias\":true,"
                 "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":32,\"beta_fast\":32,\"beta_slow\":1,"
                 "\"truncate\":false,\"original_max_position_embeddings\":4096}}"},
};

const char *config_supported(void)
{
    return "llama, mistral, qwen2, qwen3, smollm3, phi3, olmo2, olmo3, gemma, gemma2, gemma3_text, gemma3, mixtral, "
           "qwen3_moe, gpt_oss";
}

const struct architecture *architecture_find(struct str model_type)
{
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (str_is(model_type, architectures[i].model_type))
            return &architectures[i];
    return NULL;
}

const char *architecture_defaults(const struct architecture *architecture)
{
    return architecture->defaults ? architecture->defaults : "{}";
}

const char *architecture_text_key(const struct architecture *architecture)
{
    return architecture->text_key;
}

/* Valid features that no block here has: silence about them would train another model. */
static bool check_features(const struct keys *keys, struct err *err)
{
    static const char *const dropouts[] = {"attention_dropout", "resid_pdrop", "embd_pdrop", "router_jitter_noise"};

    for (size_t i = 0; i < sizeof dropouts / sizeof *dropouts; i++)
        if (json_number_or(key_get(keys, dropouts[i]), 0) != 0)
            return err_set(err, ERR_UNSUPPORTED, "config.json: %s above 0 is not supported", dropouts[i]);
    if (key_is_true(keys, "use_bidirectional_attention"))
        return err_set(err, ERR_UNSUPPORTED, "config.json: use_bidirectional_attention true is not supported");
    return true;
}

static bool read_act(const struct architecture *a, const struct keys *keys, struct model_config *config,
                     struct err *err)
{
    struct str name;

    if (!a->act_key) {
        double alpha;
        if (!key_positive(keys, "swiglu_alpha", 1.702, 100, &alpha, err))
            return false;
        if (alpha != 1.702)
            return err_set(err, ERR_UNSUPPORTED, "config.json: swiglu_alpha other than 1.702 is not supported");
        config->act = ACT_OSS;
        if (!key_positive(keys, "swiglu_limit", 7, 1e6, &alpha, err))
            return false;
        config->act_limit = (float)alpha;
        return true;
    }
    name = json_string_or(key_get(keys, a->act_key), STR("silu"));
    config->act = ACT_SILU;
    if (str_is(name, "gelu_pytorch_tanh") || (a->is_old_gelu_tanh && str_is(name, "gelu")))
        config->act = ACT_GELU_TANH;
    else if (!str_is(name, "silu") && !str_is(name, "swish"))
        return err_set(err, ERR_UNSUPPORTED,
                       "config.json: %s \"%.*s\" is not supported; silu and gelu_pytorch_tanh are", a->act_key,
                       (int)(name.len > 64 ? 64 : name.len), name.at);
    return true;
}

/* Scales and caps in double, rounded to f32 once, as Python's scalars meet f32 tensors. */
static bool read_scales(const struct architecture *a, const struct keys *keys, struct model_config *config,
                        struct err *err)
{
    bool has_query_scale = !json_is_null(json_get(keys->defaults, "query_pre_attn_scalar"));
    bool has_caps = !json_is_null(json_get(keys->defaults, "query_pre_attn_scalar"));
    double query = config->head_dim, cap;

    if (has_query_scale && !key_positive(keys, "query_pre_attn_scalar", 0, 1e9, &query, err))
        return false;
    config->attention_scale = (float)(1 / sqrt(query));
    config->embed_scale = a->has_scaled_embedding ? (float)sqrt(config->hidden) : 1;
    if (has_caps && !json_is_null(key_get(keys, "attn_logit_softcapping"))) {
        if (!key_positive(keys, "attn_logit_softcapping", 0, 1e9, &cap, err))
            return false;
        config->attention_softcap = (float)cap;
    }
    if (has_caps && !json_is_null(key_get(keys, "final_logit_softcapping"))) {
        if (!key_positive(keys, "final_logit_softcapping", 0, 1e9, &cap, err))
            return false;
        config->logit_softcap = (float)cap;
    }
    return true;
}

static bool read_experts(const struct architecture *a, const struct keys *keys, struct model_config *config,
                         struct err *err)
{
    struct moe_config *moe = &config->moe;
    const struct expert_block *block = a->experts;
    const char *count_key = json_is_null(json_get(keys->given, "num_experts")) ? "num_local_experts" : "num_experts";
    const char *coefficient_key = "router_aux_loss_coef";

    if (!block)
        return true;
    if (!key_size(keys, count_key, -1, 1, EXPERTS_MAX, &moe->experts, err) ||
        !key_size(keys, "num_experts_per_tok", -1, 1, moe->experts < TOP_MAX ? moe->experts : TOP_MAX,
                  &moe->top, err) ||
        !key_size(keys, block->width_key, -1, 1, 1 << 20, &moe->width, err))
        return false;
    moe->aux_coefficient = json_number_or(key_get(keys, coefficient_key), 0.001);
    if (!(moe->aux_coefficient >= 0 && moe->aux_coefficient <= 1e6))
        return err_set(err, ERR_INPUT, "config.json: %s must be from 0 to 1e6", coefficient_key);
    if ((int64_t)moe->experts * moe->width > INT32_MAX / 4 || (int64_t)moe->experts * config->hidden > INT32_MAX / 4)
        return err_set(err, ERR_LIMIT, "config.json: %d experts of this width are more than a tensor's rows hold",
                       moe->experts);
    moe->names = block->names;
    moe->has_bias = block->has_bias;
    moe->is_normalized = block->is_always_normalized || key_is_true(keys, "norm_topk_prob");
    return true;
}

/* Item `layer` of a list with an item for every layer. NULL: there is no list. */
static bool list_item(const struct keys *keys, const char *key, int32_t layer, const struct json **item,
                      struct err *err)
{
    const struct json *list = key_get(keys, key);

    *item = NULL;
    if (json_is_null(list))
        return true;
    if (list->type != JSON_ARRAY || list->count <= (uint32_t)layer)
        return err_set(err, ERR_INPUT, "config.json: %s must be a list with an item for every layer", key);
    *item = json_at(list, (size_t)layer);
    return true;
}

/* SmolLM3: 1 in no_rope_layers means that the layer has positions; without a list every fourth layer has none. */
static bool read_unturned(const struct keys *keys, int32_t layer, bool *is_unturned, struct err *err)
{
    const struct json *item;
    int32_t interval;

    if (!list_item(keys, "no_rope_layers", layer, &item, err) ||
        !key_size(keys, "no_rope_layer_interval", 4, 1, 512, &interval, err))
        return false;
    *is_unturned = item ? json_integer_or(item, 1) == 0 : (layer + 1) % interval == 0;
    return true;
}

static bool is_sliding_by_rule(const struct architecture *a, int32_t layer, int32_t border, bool is_unturned)
{
    switch (a->windows) {
    case WINDOWS_NONE:
        return false;
    case WINDOWS_ALL:
        return true;
    case WINDOWS_TYPES:
        return (layer + 1) % border != 0;
    case WINDOWS_LATE:
        return layer >= border;
    default:
        return is_unturned;
    }
}

static bool read_is_sliding(const struct architecture *a, const struct keys *keys, int32_t layer, bool is_unturned,
                            bool has_window, bool *is_sliding, struct err *err)
{
    const struct json *type = NULL;
    struct str name;
    int32_t border = a->pattern;

    if (a->windows >= WINDOWS_TYPES && !list_item(keys, "layer_types", layer, &type, err))
        return false;
    if (a->windows == WINDOWS_LATE && !key_size(keys, "max_window_layers", -1, 0, 1 << 20, &border, err))
        return false;
    if (a->windows == WINDOWS_TYPES && !border && !key_size(keys, "sliding_window_pattern", -1, 1, 512, &border, err))
        return false;
    /* Patterns slide with or without a window: which kind of positions a layer has depends on it. */
    *is_sliding = (has_window || a->windows == WINDOWS_TYPES) && is_sliding_by_rule(a, layer, border, is_unturned);
    if (!type)
        return true;
    name = json_string_or(type, STR_NONE);
    *is_sliding = str_is(name, "sliding_attention");
    if (!*is_sliding && !str_is(name, "full_attention"))
        return err_set(err, ERR_UNSUPPORTED,
                       "config.json: the layer type \"%.*s\" is not supported; full_attention and sliding_attention "
                       "are",
                       (int)(name.len > 64 ? 64 : name.len), name.at);
    return true;
}

/* 0: none. */
static bool read_window(const struct architecture *a, const struct keys *keys, int32_t *window, struct err *err)
{
    const struct json *switched = key_get(keys, "use_sliding_window");

    *window = 0;
    if (a->windows == WINDOWS_NONE || json_is_null(key_get(keys, "sliding_window")) ||
        (!json_is_null(json_get(keys->defaults, "use_sliding_window")) && !json_bool_or(switched, false)))
        return true;
    return key_size(keys, "sliding_window", -1, 1, WINDOW_MAX, window, err);
}

/* Qwen3-MoE: every decoder_sparse_step-th layer has experts unless mlp_only_layers names it. */
static bool read_is_moe(const struct architecture *a, const struct keys *keys, int32_t layer, bool *is_moe,
                        struct err *err)
{
    int32_t step;

    *is_moe = a->experts != NULL;
    if (!a->experts || !a->experts->is_sparse)
        return true;
    if (!key_size(keys, "decoder_sparse_step", 1, 1, 1 << 20, &step, err))
        return false;
    *is_moe = (layer + 1) % step == 0;
    json_each(item, key_get(keys, "mlp_only_layers"))
        if (item->type == JSON_NUMBER && item->is_integer && item->integer == layer)
            *is_moe = false;
    return true;
}

static bool read_layers(struct arena *arena, const struct architecture *a, const struct keys *keys,
                        struct model_config *config, struct err *err)
{
    int32_t window;

    config->layer = arena_new_array(arena, struct layer_config, (size_t)config->layers);
    if (!read_window(a, keys, &window, err))
        return false;
    for (int32_t l = 0; l < config->layers; l++) {
        struct layer_config *layer = &config->layer[l];
        bool is_unturned = false, is_sliding;
        if (a->windows == WINDOWS_UNTURNED && !read_unturned(keys, l, &is_unturned, err))
            return false;
        if (!read_is_sliding(a, keys, l, is_unturned, window > 0, &is_sliding, err) ||
            !read_is_moe(a, keys, l, &layer->is_moe, err))
            return false;
        if (is_sliding && !window)
            return err_set(err, ERR_INPUT, "config.json: layer %d has sliding attention, but sliding_window is off", l);
        layer->window = is_sliding ? window : 0;
        layer->rope = is_unturned ? -1 : (int8_t)(is_sliding && config->rope_count > 1);
    }
    return true;
}

bool read_block(struct arena *arena, const struct architecture *a, const struct keys *keys, struct model_config *config,
                struct err *err)
{
    bool has_bias = a->reads_attention_bias && key_is_true(keys, "attention_bias");

    config->norm = a->norm;
    config->norm_places = a->norm_places;
    config->qk_norm = a->qk_norm;
    config->names = a->names;
    config->tensor_prefix = a->tensor_prefix ? a->tensor_prefix : "model.";
    config->adapter_prefix = a->adapter_prefix ? a->adapter_prefix : config->tensor_prefix;
    config->has_qkv_bias = a->has_qkv_bias || has_bias;
    config->has_o_bias = has_bias;
    config->has_mlp_bias = a->reads_mlp_bias && key_is_true(keys, "mlp_bias");
    config->has_sinks = a->has_sinks;
    return check_features(keys, err) && read_act(a, keys, config, err) && read_scales(a, keys, config, err) &&
           read_experts(a, keys, config, err) && read_ropes(arena, &a->rope, keys, config, err) &&
           read_layers(arena, a, keys, config, err);
}
