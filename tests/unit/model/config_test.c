#include "fixture.h"

#define SIZES                                                                                                          \
    "\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":4,"                  \
    "\"num_key_value_heads\":4,\"head_dim\":16,\"vocab_size\":100,\"max_position_embeddings\":256"
#define BASE                                                                                                           \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                   \
    "\"num_attention_heads\":4,\"vocab_size\":100,\"max_position_embeddings\":256"

static bool parse(struct arena *arena, const char *text, struct model_config *config, struct err *err)
{
    return config_parse(arena, str_of(text), config, err);
}

static void both_dialects_give_the_same_config(void **state)
{
    static const char *const texts[] = {
        "{" BASE
        ",\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
        "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},\"torch_dtype\":\"bfloat16\",\"eos_token_"
        "id\":[5,6]}",
        "{" BASE ",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_"
        "factor\":1.0,"
        "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},\"dtype\":\"bfloat16\",\"eos_token_id\":["
        "5,6]}",
        "{" BASE ",\"rope_theta\":500000,\"original_max_position_embeddings\":8192,\"rope_scaling\":{\"type\":"
        "\"llama3\",\"factor\":32,"
        "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":77},\"torch_dtype\":\"torch."
        "bfloat16\","
        "\"eos_token_id\":[5,6]}",
    };
    struct arena arena = {0};

    for (int i = 0; i < 3; i++) {
        struct model_config config;
        struct err err;
        assert_ok(parse(&arena, texts[i], &config, &err), err);
        assert_int_equal(config.rope[0].kind, ROPE_LLAMA3);
        assert_int_equal(config.rope[0].original_positions, 8192);
        assert_true(config.rope[0].theta == 500000 && config.rope[0].factor == 32);
        assert_int_equal(config.dtype, DTYPE_BF16);
        assert_int_equal(config.kv_heads, 4);
        assert_int_equal(config.head_dim, 16);
        assert_int_equal(config.eos_count, 2);
        assert_int_equal(config.bos_id, -1);
        assert_true(config.norm_eps == 1e-6f && !config.is_tied);
    }
    arena_deinit(&arena);
}

static const struct {
    const char *text;
    enum err_code code;
    const char *names;
} refused[] = {
    {"[]", ERR_INPUT, "object"},
    {"{", ERR_INPUT, "config.json"},
    {"{\"a\":1,\"a\":2}", ERR_INPUT, "\"a\" twice"},
    {"{}", ERR_INPUT, "no model_type"},
    {"{\"model_type\":\"gpt_ios\"}", ERR_UNSUPPORTED, "\"gpt_ios\" is not supported; supported: llama, mistral"},
    {"{\"model_type\":\"llama\"}", ERR_INPUT, "no hidden_size"},
    {"{" BASE ",\"num_key_value_heads\":3}", ERR_INPUT, "num_key_value_heads 3"},
    {"{" BASE ",\"num_key_value_heads\":0}", ERR_LIMIT, "num_key_value_heads is 0"},
    {"{" BASE ",\"num_key_value_heads\":\"4\"}", ERR_INPUT, "num_key_value_heads must be an integer"},
    {"{" BASE ",\"head_dim\":7}", ERR_INPUT, "head_dim is 7"},
    {"{" BASE ",\"head_dim\":1e9}", ERR_INPUT, "head_dim must be an integer"},
    {"{" BASE ",\"head_dim\":514}", ERR_LIMIT, "head_dim is 514"},
    {"{" BASE ",\"rms_norm_eps\":-1}", ERR_LIMIT, "rms_norm_eps"},
    {"{" BASE ",\"rope_theta\":0}", ERR_LIMIT, "rope_theta"},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"su\",\"factor\":2}}", ERR_UNSUPPORTED, "\"su\""},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"dynamic\"}}", ERR_INPUT, "no factor"},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"longrope\"}}", ERR_INPUT, "short_factor must be a list of 8"},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0]}}", ERR_INPUT,
     "short_factor has"},
    {"{" BASE ",\"rope_theta\":1,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}", ERR_INPUT,
     "rope_theta must be above 1"},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"mscale\":-99,\"mscale_all_dim\":1}}", ERR_INPUT,
     "mscale"},
    {"{" BASE ",\"rope_parameters\":{\"full_attention\":{}}}", ERR_UNSUPPORTED, "per layer type"},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"linear\"}}", ERR_INPUT, "no factor"},
    {"{" BASE ",\"rope_scaling\":7}", ERR_INPUT, "must be objects"},
    {"{" BASE ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", ERR_UNSUPPORTED, "partial_rotary_factor"},
    {"{" BASE ",\"hidden_act\":\"gelu\"}", ERR_UNSUPPORTED, "hidden_act \"gelu\""},
    {"{" BASE ",\"attention_dropout\":0.1}", ERR_UNSUPPORTED, "attention_dropout"},
    {"{" BASE ",\"resid_pdrop\":0.1}", ERR_UNSUPPORTED, "resid_pdrop"},
    {"{" BASE ",\"embd_pdrop\":0.1}", ERR_UNSUPPORTED, "embd_pdrop"},
    {"{" BASE ",\"router_jitter_noise\":0.1}", ERR_UNSUPPORTED, "router_jitter_noise"},
    {"{" BASE ",\"use_bidirectional_attention\":true}", ERR_UNSUPPORTED, "use_bidirectional_attention"},
    {"{\"model_type\":\"gemma3\"}", ERR_INPUT, "text_config must be an object"},
    {"{\"model_type\":\"qwen2\"," SIZES ",\"layer_types\":[\"full_attention\"]}", ERR_INPUT,
     "layer_types must be a list with"},
    {"{\"model_type\":\"qwen2\"," SIZES ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}", ERR_UNSUPPORTED,
     "\"linear_attention\""},
    {"{\"model_type\":\"qwen2\"," SIZES ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", ERR_INPUT,
     "sliding_window is off"},
    {"{\"model_type\":\"gemma2\"," SIZES ",\"sliding_window\":0}", ERR_LIMIT, "sliding_window is 0"},
    {"{\"model_type\":\"mixtral\"," SIZES ",\"num_experts_per_tok\":9}", ERR_LIMIT,
     "num_experts_per_tok is 9; it must be from 1 to 8"},
    {"{\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":5000}", ERR_LIMIT, "num_local_experts is 5000"},
    {"{\"model_type\":\"gpt_oss\"," SIZES ",\"swiglu_alpha\":2}", ERR_UNSUPPORTED, "swiglu_alpha"},
    {"{\"model_type\":\"olmo3\"," SIZES ",\"rope_parameters\":{\"rope_type\":\"default\"}}", ERR_INPUT,
     "must have full_attention"},
    {"{\"model_type\":\"phi3\"," SIZES ",\"partial_rotary_factor\":0.45}", ERR_INPUT, "rotates 7"},
    {"{\"model_type\":\"phi3\"," SIZES ",\"partial_rotary_factor\":2}", ERR_INPUT, "at most 1"},
    {"{" BASE ",\"quantization_config\":{}}", ERR_UNSUPPORTED, "quantization_config"},
    {"{" BASE ",\"dtype\":\"int8\"}", ERR_UNSUPPORTED, "\"int8\""},
    {"{" BASE ",\"eos_token_id\":\"x\"}", ERR_INPUT, "eos_token_id"},
    {"{" BASE ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", ERR_LIMIT, "eos_token_id"},
};

static void what_cannot_be_used_is_refused_by_name(void **state)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct arena arena = {0};
        struct model_config config;
        struct err err = {0};
        bool ok = parse(&arena, refused[i].text, &config, &err);
        if (ok || err.code != refused[i].code || !strstr(err.text, refused[i].names))
            fail_msg("%s: %s", refused[i].text, ok ? "accepted" : err.text);
        arena_deinit(&arena);
    }
}

static void describe(struct arena *arena, const char *text, struct model_config *config)
{
    struct err err = {0};

    if (!parse(arena, text, config, &err))
        fail_msg("%s: %s", text, err.text);
}

/* Everything about the block on one line. */
static const char *block_text(struct arena *arena, const struct model_config *c)
{
    static const char *const kinds[] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};
    struct strbuf buf = {0};
    char *text;

    strbuf_printf(&buf, "norm %d places %d qk %d names %d bias %d%d%d%s act %d scale %.9g caps %g %g embed %.9g%s",
                  c->norm, c->norm_places, c->qk_norm, c->names, c->has_qkv_bias, c->has_o_bias, c->has_mlp_bias,
                  c->has_sinks ? " sinks" : "", c->act, (double)c->attention_scale, (double)c->attention_softcap,
                  (double)c->logit_softcap, (double)c->embed_scale, c->is_tied ? " tied" : "");
    for (int i = 0; i < c->rope_count; i++)
        strbuf_printf(&buf, " %s %d %g", kinds[c->rope[i].kind], c->rope[i].dim, c->rope[i].theta);
    for (int32_t l = 0; l < c->layers; l++)
        strbuf_printf(&buf, " [%d %d%s]", c->layer[l].window, c->layer[l].rope, c->layer[l].is_moe ? " moe" : "");
    if (c->moe.experts)
        strbuf_printf(&buf, " experts %d of %d width %d names %d%s%s", c->moe.top, c->moe.experts, c->moe.width,
                      c->moe.names, c->moe.is_normalized ? " normalized" : "",
                      c->moe.has_bias ? " bias" : "");
    text = arena_copy(arena, buf.at, buf.len);
    strbuf_deinit(&buf);
    return text;
}

#define LAYERS(n)                                                                                                      \
    "\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":" #n ",\"num_attention_heads\":4,"             \
    "\"vocab_size\":100,\"max_position_embeddings\":256"

/* What the config classes of transformers 5.23 make of these keys. */
static const struct {
    const char *text, *block;
} families[] = {
    {"{\"model_type\":\"llama\"," LAYERS(
         1) ",\"attention_bias\":true,\"mlp_bias\":true,\"hidden_act\":\"gelu_pytorch_tanh\"}",
     "norm 0 places 0 qk 0 names 0 bias 111 act 1 scale 0.25 caps 0 0 embed 1 default 16 10000 [0 0]"},
    {"{\"model_type\":\"llama\"," LAYERS(1) ",\"sliding_window\":4,\"use_sliding_window\":true,\"tie_word_embeddings\":"
                                            "true,\"auto_map\":{\"AutoModel\":\"x.Y\"}}",
     "norm 0 places 0 qk 0 names 0 bias 000 act 0 scale 0.25 caps 0 0 embed 1 tied default 16 10000 [0 0]"},
    {"{\"model_type\":\"mistral\"," LAYERS(2) ",\"head_dim\":32,\"num_key_value_heads\":2,\"attention_bias\":true}",
     "norm 0 places 0 qk 0 names 0 bias 000 act 0 scale 0.176776692 caps 0 0 embed 1 default 32 10000 [4096 0] [4096 "
     "0]"},
    {"{\"model_type\":\"mistral\"," LAYERS(1) ",\"num_key_value_heads\":2,\"sliding_window\":null,\"rope_theta\":1e6}",
     "norm 0 places 0 qk 0 names 0 bias 000 act 0 scale 0.25 caps 0 0 embed 1 default 16 1e+06 [0 0]"},
    {"{\"model_type\":\"qwen2\"," LAYERS(
         2) ",\"num_key_value_heads\":2,\"sliding_window\":8,\"max_window_layers\":1,\"rope_theta\":1e6}",
     "norm 0 places 0 qk 0 names 0 bias 100 act 0 scale 0.25 caps 0 0 embed 1 default 16 1e+06 [0 0] [0 0]"},
    {"{\"model_type\":\"qwen2\"," LAYERS(
         2) ",\"num_key_value_heads\":2,\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":1}",
     "norm 0 places 0 qk 0 names 0 bias 100 act 0 scale 0.25 caps 0 0 embed 1 default 16 10000 [0 0] [8 0]"},
    {"{\"model_type\":\"qwen2\"," LAYERS(2) ",\"num_key_value_heads\":2,\"use_sliding_window\":true,\"sliding_window\":"
                                            "8,\"layer_types\":[\"sliding_attention\",\"full_attention\"]}",
     "norm 0 places 0 qk 0 names 0 bias 100 act 0 scale 0.25 caps 0 0 embed 1 default 16 10000 [8 0] [0 0]"},
    {"{\"model_type\":\"qwen3\"," LAYERS(1) ",\"num_key_value_heads\":2,\"tie_word_embeddings\":true}",
     "norm 0 places 0 qk 1 names 0 bias 000 act 0 scale 0.0883883461 caps 0 0 embed 1 tied default 128 10000 [0 0]"},
    {"{\"model_type\":\"qwen3\"," LAYERS(1) ",\"num_key_value_heads\":2,\"attention_bias\":true,\"head_dim\":16}",
     "norm 0 places 0 qk 1 names 0 bias 110 act 0 scale 0.25 caps 0 0 embed 1 default 16 10000 [0 0]"},
    {"{\"model_type\":\"smollm3\"," LAYERS(5) "}", "norm 0 places 0 qk 0 names 0 bias 000 act 0 scale 0.25 caps 0 0 "
                                                   "embed 1 tied default 16 2e+06 [0 0] [0 0] [0 0] [0 -1] [0 0]"},
    {"{\"model_type\":\"smollm3\"," LAYERS(
         2) ",\"no_rope_layers\":[0,1],\"use_sliding_window\":true,\"sliding_window\":8,\"rope_theta\":5e6}",
     "norm 0 places 0 qk 0 names 0 bias 000 act 0 scale 0.25 caps 0 0 embed 1 tied default 16 5e+06 [8 -1] [0 0]"},
    {"{\"model_type\":\"phi3\"," LAYERS(1) ",\"sliding_window\":2047}",
     "norm 0 places 0 qk 0 names 1 bias 000 act 0 scale 0.25 caps 0 0 embed 1 default 16 10000 [2047 0]"},
    {"{\"model_type\":\"phi3\"," LAYERS(1) ",\"partial_rotary_factor\":0.75,\"tie_word_embeddings\":true}",
     "norm 0 places 0 qk 0 names 1 bias 000 act 0 scale 0.25 caps 0 0 embed 1 tied default 12 10000 [0 0]"},
    {"{\"model_type\":\"olmo2\"," LAYERS(1) ",\"rope_theta\":500000}",
     "norm 1 places 2 qk 2 names 0 bias 000 act 0 scale 0.25 caps 0 0 embed 1 default 16 500000 [0 0]"},
    {"{\"model_type\":\"olmo3\"," LAYERS(
         4) ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":64}}",
     "norm 1 places 2 qk 2 names 0 bias 000 act 0 scale 0.25 caps 0 0 embed 1 yarn 16 500000 default 16 500000 [4096 "
     "1] [4096 1] [4096 1] [0 0]"},
    {"{\"model_type\":\"gemma\"," LAYERS(1) ",\"num_key_value_heads\":1,\"hidden_act\":\"gelu\"}",
     "norm 2 places 0 qk 0 names 0 bias 000 act 1 scale 0.0625 caps 0 0 embed 8 tied default 256 10000 [0 0]"},
    {"{\"model_type\":\"gemma2\"," LAYERS(3) ",\"query_pre_attn_scalar\":144}",
     "norm 2 places 1 qk 0 names 0 bias 000 act 1 scale 0.0833333358 caps 50 30 embed 8 tied default 256 10000 [4096 "
     "0] [0 0] [4096 0]"},
    {"{\"model_type\":\"gemma2\"," LAYERS(
         1) ",\"head_dim\":16,\"attn_logit_softcapping\":null,\"final_logit_softcapping\":null,\"layer_types\":[\"full_"
            "attention\"],\"tie_word_embeddings\":false}",
     "norm 2 places 1 qk 0 names 0 bias 000 act 1 scale 0.0625 caps 0 0 embed 8 default 16 10000 [0 0]"},
    {"{\"model_type\":\"gemma3_text\"," LAYERS(
         3) ",\"head_dim\":16,\"sliding_window\":8,\"sliding_window_pattern\":2,\"rope_scaling\":{\"factor\":8.0,"
            "\"rope_type\":\"linear\"},\"rope_local_base_freq\":5000}",
     "norm 2 places 1 qk 1 names 0 bias 000 act 1 scale 0.0625 caps 0 0 embed 8 tied linear 16 1e+06 default 16 5000 "
     "[8 1] [0 0] [8 1]"},
    {"{\"model_type\":\"gemma3_text\"," LAYERS(
         6) ",\"head_dim\":16,\"rope_parameters\":{\"full_attention\":{\"rope_theta\":2e6,\"rope_type\":\"default\"},"
            "\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}}",
     "norm 2 places 1 qk 1 names 0 bias 000 act 1 scale 0.0625 caps 0 0 embed 8 tied default 16 2e+06 linear 16 10000 "
     "[4096 1] [4096 1] [4096 1] [4096 1] [4096 1] [0 0]"},
    {"{\"model_type\":\"gemma3\",\"torch_dtype\":\"bfloat16\",\"text_config\":{\"hidden_size\":64,\"num_hidden_"
     "layers\":1,"
     "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},\"sliding_window\":1024}}",
     "norm 2 places 1 qk 1 names 0 bias 000 act 1 scale 0.0625 caps 0 0 embed 8 tied linear 256 1e+06 default 256 "
     "10000 [1024 1]"},
    {"{\"model_type\":\"mixtral\"," LAYERS(1) ",\"num_key_value_heads\":2}",
     "norm 0 places 0 qk 0 names 0 bias 000 act 0 scale 0.25 caps 0 0 embed 1 default 16 1e+06 [0 0 moe] experts 2 of "
     "8 width 128 names 1 normalized"},
    {"{\"model_type\":\"qwen3_moe\"," LAYERS(4) ",\"head_dim\":32,\"decoder_sparse_step\":2,\"mlp_only_layers\":[1],"
                                                "\"num_experts\":16,\"norm_topk_prob\":true}",
     "norm 0 places 0 qk 1 names 0 bias 000 act 0 scale 0.176776692 caps 0 0 embed 1 default 32 10000 [0 0] [0 0] [0 "
     "0] [0 0 moe] experts 8 of 16 width 768 names 0 normalized"},
    {"{\"model_type\":\"gpt_oss\"," LAYERS(
         2) ",\"num_key_value_heads\":2,\"num_local_experts\":8,\"swiglu_limit\":7.0}",
     "norm 1 places 0 qk 0 names 0 bias 110 sinks act 2 scale 0.125 caps 0 0 embed 1 yarn 64 150000 [128 0 moe] [0 0 "
     "moe] experts 4 of 8 width 128 names 2 normalized bias"},
};

static void every_familys_block_is_read(void **state)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct arena arena = {0};
        struct model_config config;
        describe(&arena, families[i].text, &config);
        assert_string_equal(block_text(&arena, &config), families[i].block);
        assert_non_null(strstr(config_supported(), config.model_type));
        arena_deinit(&arena);
    }
}

/* Values of transformers 5.23, printed by tests/parity/rope_goldens.py. */
static const struct {
    const char *name, *model_type, *keys;
    int head_dim;
    bool is_long;
    double scaling, values[32];
} frequencies[] = {
    {"linear",
     "llama",
     "\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"linear\",\"factor\":8.0}",
     16,
     false,
     1,
     {0.125, 0.0222284924, 0.00395284733, 0.000702926656, 0.000125000006, 2.22284925e-05, 3.95284678e-06,
      7.02926684e-07}},
    {"dynamic",
     "llama",
     "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4.0}",
     16,
     false,
     1,
     {1, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786}},
    {"llama3",
     "llama",
     "\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32,\"low_freq_factor\":1,\"high_freq_"
     "factor\":4,\"original_max_position_embeddings\":8192}",
     64,
     false,
     1,
     {1,
      0.663601279,
      0.440366626,
      0.292227834,
      0.193922758,
      0.128687382,
      0.0853971019,
      0.0566696189,
      0.0376060307,
      0.0249554086,
      0.0165604409,
      0.0109895291,
      0.00729266508,
      0.00483942125,
      0.00321144611,
      0.00129054801,
      0.000429556705,
      9.70828623e-05,
      1.94616387e-05,
      1.29147675e-05,
      8.57025589e-06,
      5.68723226e-06,
      3.77405445e-06,
      2.50446715e-06,
      1.66196742e-06,
      1.10288363e-06,
      7.31874934e-07,
      4.85673127e-07,
      3.22293289e-07,
      2.1387423e-07,
      1.41927202e-07,
      9.41830649e-08}},
    {"yarn",
     "llama",
     "\"rope_parameters\":{\"rope_theta\":150000,\"rope_type\":\"yarn\",\"truncate\":false,\"factor\":32,\"original_"
     "max_position_embeddings\":256}",
     16,
     false,
     1.34657359,
     {1, 0.146767601, 0.0119237946, 0.000357944577, 8.0687154e-05, 1.8188337e-05, 4.09997847e-06, 9.24208962e-07}},
    {"yarn truncated",
     "llama",
     "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":32,\"original_max_position_embeddings\":256}",
     32,
     false,
     1.34657359,
     {1, 0.484517306, 0.228700444, 0.103997581, 0.0446428545, 0.0173221175, 0.00536457822, 0.000555712322,
      0.000312499993, 0.000175731664, 9.88211832e-05, 5.55712322e-05, 3.12500015e-05, 1.75731657e-05, 9.88211832e-06,
      5.55712313e-06}},
    {"yarn with mscale",
     "llama",
     "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":32,\"original_max_position_embeddings\":256,\"mscale\":0."
     "7,\"mscale_all_dim\":1.4,\"beta_fast\":8,\"beta_slow\":2}",
     16,
     false,
     0.83665431,
     {1, 0.316227764, 0.0515624993, 0.000988211832, 0.000312499993, 9.88211832e-05, 3.12500015e-05, 9.88211832e-06}},
    {"yarn, attention_factor",
     "llama",
     "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":32,\"original_max_position_embeddings\":256,\"attention_"
     "factor\":1.25}",
     16,
     false,
     1.25,
     {1, 0.239641339, 0.0515624993, 0.00864685327, 0.000312499993, 9.88211832e-05, 3.12500015e-05, 9.88211832e-06}},
    {"longrope, short",
     "phi3",
     "\"original_max_position_embeddings\":64,\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,1.02,1.03,1.05,1.1,"
     "1.3,2,2.5],\"long_factor\":[1.05,1.5,2.25,4,9.5,17,33,64]}",
     16,
     false,
     1.47196014,
     {1, 0.310027212, 0.0970873833, 0.0301169306, 0.0090909088, 0.00243252143, 0.000500000024, 0.000126491112}},
    {"longrope, long",
     "phi3",
     "\"original_max_position_embeddings\":64,\"rope_scaling\":{\"type\":\"yarn\",\"short_factor\":[1,1.02,1.03,1.05,1."
     "1,1.3,2,2.5],\"long_factor\":[1.05,1.5,2.25,4,9.5,17,33,64]}",
     16,
     true,
     1.47196014,
     {0.952381015, 0.210818499, 0.0444444455, 0.00790569466, 0.00105263153, 0.000186016347, 3.03030301e-05,
      4.94105916e-06}},
    {"longrope, partial",
     "phi3",
     "\"original_max_position_embeddings\":64,\"partial_rotary_factor\":0.5,\"rope_scaling\":{\"type\":\"longrope\","
     "\"short_factor\":[1,1.02,1.03,1.05,1.1,1.3,2,2.5],\"long_factor\":[1.05,1.5,2.25,4,9.5,17,33,64]}",
     32,
     false,
     1.47196014,
     {1, 0.310027212, 0.0970873833, 0.0301169306, 0.0090909088, 0.00243252143, 0.000500000024, 0.000126491112}},
};

static void inverse_frequencies_of_every_kind_are_transformers(void **state)
{
    for (size_t c = 0; c < sizeof frequencies / sizeof *frequencies; c++) {
        struct arena arena = {0};
        struct model_config config;
        float value[256];
        double worst = 0;
        const char *text = arena_printf(&arena,
                                        "{\"model_type\":\"%s\",\"hidden_size\":64,\"intermediate_size\":8,"
                                        "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"head_dim\":%d,"
                                        "\"vocab_size\":9,\"max_position_embeddings\":8192,%s}",
                                        frequencies[c].model_type, frequencies[c].head_dim, frequencies[c].keys);
        describe(&arena, text, &config);
        rope_inverse_frequencies(&config.rope[0], frequencies[c].is_long, value);
        for (int i = 0; i < config.rope[0].dim / 2; i++)
            worst = fmax(worst, relative_error((double)value[i], frequencies[c].values[i]));
        print_message("rope %s: worst relative err %.1e\n", frequencies[c].name, worst);
        assert_true(worst <= 4e-7);
        assert_true(relative_error((double)config.rope[0].attention_scaling, frequencies[c].scaling) < 1e-7);
        assert_int_equal(rope_table_rows(&config.rope[0], 64), 64);
        assert_int_equal(rope_table_rows(&config.rope[0], 65), config.rope[0].kind == ROPE_LONGROPE ? 130 : 65);
        arena_deinit(&arena);
    }
}

/* longrope: documents of 3 and 2 tokens, original length 2. The first has the rows of the long half. */
static void longrope_decides_for_every_document(void **state)
{
    static const float short_factor[] = {1}, long_factor[] = {4};
    static const int32_t tokens[5], cu[] = {0, 3, 5}, expected[] = {3, 4, 5, 0, 1};
    struct model_config config = {.rope[0] = {.kind = ROPE_LONGROPE,
                                              .dim = 2,
                                              .theta = 100,
                                              .original_positions = 2,
                                              .short_factor = short_factor,
                                              .long_factor = long_factor,
                                              .attention_scaling = 2}};
    struct arena arena = {0};
    struct batch batch;
    float table[6 * 2];
    int32_t row[5];

    batch_make(&arena, &batch, tokens, cu, 2, NULL, NULL, 1);
    rope_rows(&config.rope[0], &batch, 3, row);
    assert_memory_equal(row, expected, sizeof row);
    assert_int_equal(rope_table_rows(&config.rope[0], 3), 6);
    rope_table(&config, 0, 3, table);
    assert_true(fabs((double)table[2 * 2] - 2 * cos(2)) < 1e-6 && fabs((double)table[2 * 5 + 1] - 2 * sin(0.5)) < 1e-6);
    arena_deinit(&arena);
}

static void a_gemma3_folders_text_model_is_read(void **state)
{
    static const char text[] = "{\"model_type\":\"gemma3\",\"eos_token_id\":[1,106],\"torch_dtype\":\"bfloat16\","
                               "\"text_config\":{\"hidden_size\":8,\"pad_token_id\":3,\"eos_token_id\":7}}";
    struct arena arena = {0};
    struct model_config config;

    describe(&arena, text, &config);
    assert_string_equal(config.tensor_prefix, "language_model.model.");
    assert_string_equal(config.adapter_prefix, "model.language_model.");
    assert_int_equal(config.vocab, 262208);
    assert_int_equal(config.layers, 26);
    assert_int_equal(config.dtype, DTYPE_BF16);
    assert_int_equal(config.pad_id, 3);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[1], 106);
    arena_deinit(&arena);
}

static void linear_divides_and_the_table_holds_cosines_then_sines(void **state)
{
    struct model_config config = {
        .rope[0] = {.kind = ROPE_LINEAR, .dim = 4, .theta = 100, .factor = 2, .attention_scaling = 1}};
    float table[3 * 4];

    rope_table(&config, 0, 3, table);
    for (int p = 0; p < 3; p++) {
        assert_true(fabs((double)table[4 * p] - cos(p * 0.5)) < 1e-7);
        assert_true(fabs((double)table[4 * p + 1] - cos(p * 0.05)) < 1e-7);
        assert_true(fabs((double)table[4 * p + 2] - sin(p * 0.5)) < 1e-7);
        assert_true(fabs((double)table[4 * p + 3] - sin(p * 0.05)) < 1e-7);
    }
}

static void a_checkpoints_config_keeps_the_dialect(void **state)
{
    static const struct {
        const char *text, *has, *has_not;
        enum dtype type;
    } cases[] = {
        {"{" BASE ",\"torch_dtype\":\"float32\",\"x\":1e-05}", "\"torch_dtype\": \"bfloat16\"", "\"dtype\"",
         DTYPE_BF16},
        {"{" BASE ",\"dtype\":\"float32\",\"x\":1e-05}", "\"dtype\": \"bfloat16\"", "torch_dtype", DTYPE_BF16},
        {"{" BASE ",\"rope_parameters\":{\"rope_theta\":1e4},\"x\":1e-05}", "\"dtype\": \"float16\"", "torch_dtype",
         DTYPE_F16},
    };
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        struct str text;
        struct err err;
        assert_ok(parse(&arena, cases[i].text, &config, &err), err);
        assert_string_equal(config_write(&arena, &config, config.dtype).at, cases[i].text);
        text = config_write(&arena, &config, cases[i].type);
        assert_non_null(strstr(text.at, cases[i].has));
        assert_non_null(strstr(text.at, "1e-05"));
        assert_null(strstr(text.at, cases[i].has_not));
        assert_ok(config_parse(&arena, text, &config, &err), err);
        assert_int_equal(config.dtype, cases[i].type);
    }
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_dialects_give_the_same_config),
        cmocka_unit_test(what_cannot_be_used_is_refused_by_name),
        cmocka_unit_test(every_familys_block_is_read),
        cmocka_unit_test(a_gemma3_folders_text_model_is_read),
        cmocka_unit_test(inverse_frequencies_of_every_kind_are_transformers),
        cmocka_unit_test(longrope_decides_for_every_document),
        cmocka_unit_test(linear_divides_and_the_table_holds_cosines_then_sines),
        cmocka_unit_test(a_checkpoints_config_keeps_the_dialect),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
