#include "fixture.h"

#define BASE                                                                                                           \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_"   \
    "heads\":4,"                                                                                                       \
    "\"vocab_size\":100,\"max_position_embeddings\":256"

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
    {"{\"model_type\":\"gpt_oss\"}", ERR_UNSUPPORTED, "\"gpt_oss\" is not supported; supported: llama"},
    {"{\"model_type\":\"llama\"}", ERR_INPUT, "no hidden_size"},
    {"{" BASE ",\"num_key_value_heads\":3}", ERR_INPUT, "num_key_value_heads 3"},
    {"{" BASE ",\"num_key_value_heads\":0}", ERR_LIMIT, "num_key_value_heads is 0"},
    {"{" BASE ",\"num_key_value_heads\":\"4\"}", ERR_INPUT, "num_key_value_heads must be an integer"},
    {"{" BASE ",\"head_dim\":7}", ERR_INPUT, "head_dim is 7"},
    {"{" BASE ",\"head_dim\":1e9}", ERR_INPUT, "head_dim must be an integer"},
    {"{" BASE ",\"head_dim\":514}", ERR_LIMIT, "head_dim is 514"},
    {"{" BASE ",\"rms_norm_eps\":-1}", ERR_LIMIT, "rms_norm_eps"},
    {"{" BASE ",\"rope_theta\":0}", ERR_LIMIT, "rope_theta"},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}", ERR_UNSUPPORTED, "\"yarn\""},
    {"{" BASE ",\"rope_scaling\":{\"type\":\"linear\"}}", ERR_INPUT, "no factor"},
    {"{" BASE ",\"rope_scaling\":7}", ERR_INPUT, "must be objects"},
    {"{" BASE ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", ERR_UNSUPPORTED, "partial_rotary_factor"},
    {"{" BASE ",\"attention_bias\":true}", ERR_UNSUPPORTED, "attention_bias"},
    {"{" BASE ",\"mlp_bias\":true}", ERR_UNSUPPORTED, "mlp_bias"},
    {"{" BASE ",\"hidden_act\":\"gelu\"}", ERR_UNSUPPORTED, "hidden_act \"gelu\""},
    {"{" BASE ",\"attention_dropout\":0.1}", ERR_UNSUPPORTED, "attention_dropout"},
    {"{" BASE ",\"auto_map\":{\"AutoModel\":\"x.Y\"}}", ERR_UNSUPPORTED, "auto_map"},
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

/* Llama-3.2-1B's: theta 5e5, head size 64, factor 32, low 1, high 4, original length 8192. */
static void llama3_frequencies_are_the_references(void **state)
{
    static const double expected[32] = {1,
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
                                        9.41830649e-08};
    struct rope_config rope = {.kind = ROPE_LLAMA3, .dim = 64, .theta = 5e5, .factor = 32, .original_positions = 8192,
                               .low_freq_factor = 1, .high_freq_factor = 4};
    float value[32];
    double worst = 0;

    rope_inverse_frequencies(&rope, false, value);
    for (int i = 0; i < 32; i++)
        worst = fmax(worst, relative_error((double)value[i], expected[i]));
    print_message("rope llama3: worst relative err %.1e\n", worst);
    assert_true(worst <= 3e-7);
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
        cmocka_unit_test(llama3_frequencies_are_the_references),
        cmocka_unit_test(linear_divides_and_the_table_holds_cosines_then_sines),
        cmocka_unit_test(a_checkpoints_config_keeps_the_dialect),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
