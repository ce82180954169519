/* gpt-oss' experts: how files turn them, codes of four bits, and the load balance of a training step. */
#include "fixture.h"
#include "model/experts_file.h"

/* Two experts, 3 inputs, 4 outputs: gates 0 and 1, then ups 0 and 1 in memory; in turns in the file. */
static const struct param weights = {.rows = 8, .cols = 3, .experts = 2, .is_interleaved = true};
static const struct param biases = {.rows = 1, .cols = 8, .experts = 2, .is_interleaved = true, .is_vector = true};

static void experts_are_turned_on_the_way_in_and_back(void **state)
{
    static const int32_t order[] = {0, 2, 1, 3}; /* of a file's output in memory */
    float file[24], memory[8 * 5], back[12];

    for (int i = 0; i < 24; i++)
        file[i] = (float)i;
    experts_place(&weights, file, DTYPE_F32, NULL, memory, 5, DTYPE_F32);
    for (int e = 0; e < 2; e++) {
        for (int o = 0; o < 4; o++)
            for (int c = 0; c < 3; c++)
                assert_true(memory[(e * 4 + order[o]) * 5 + c] == file[(e * 3 + c) * 4 + o]);
        experts_fetch(&weights, memory, DTYPE_F32, 5, e, back);
        assert_memory_equal(back, file + 12 * e, sizeof back);
    }
    experts_place(&biases, file, DTYPE_F32, NULL, memory, 8, DTYPE_F32);
    for (int o = 0; o < 8; o++)
        assert_true(memory[o / 4 * 4 + order[o % 4]] == file[o]);
    assert_int_equal(experts_elements(&weights), 12);
    assert_int_equal(experts_elements(&biases), 4);
}

/* The lower half of a byte comes first; scales are powers of two around 127. */
static void codes_widen_to_what_the_format_says(void **state)
{
    static const float table[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    static const uint8_t scales[] = {127, 124};
    uint8_t codes[32];
    float values[64];

    for (int i = 0; i < 32; i++)
        codes[i] = (uint8_t)((2 * i % 16) | (2 * i + 1) % 16 << 4);
    mxfp4_widen(codes, scales, 64, values);
    for (int i = 0; i < 64; i++)
        assert_true(values[i] == table[i % 16] * (i < 32 ? 1 : 0.125f));
}

static const char oss_config[] =
    "{\"model_type\":\"gpt_oss\",\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":8,\"vocab_size\":37,\"max_position_embeddings\":"
    "64,"
    "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"initializer_range\":0.3,\"dtype\":\"bfloat16\"%s}";

/* Writes the folder again with the experts' weights as codes: every value of expert e, output o is table[o % 16]. */
static void write_codes(struct arena *arena, const char *from, const char *to)
{
    static const char *const stems[] = {"gate_up_proj", "down_proj"};
    struct safetensors_writer writer = {0};
    struct safetensors_entry entries[32];
    struct safetensors_set set = {0};
    uint8_t *bytes = arena_alloc(arena, 2 * 64 * 16);
    struct err err;
    int count = 0;

    assert_ok(safetensors_set_open(&set, arena, from, &err), err);
    for (int i = 0; i < set.count; i++) {
        const struct safetensor *tensor = &set.tensor[i];
        struct safetensors_entry *entry = &entries[count];
        if (str_ends(tensor->name, STR("_proj")))
            continue;
        *entry =
            (struct safetensors_entry){str_copy(arena, tensor->name), tensor->type, tensor->rank, {0}, &set.tensor[i]};
        memcpy(entry->shape, tensor->shape, sizeof entry->shape);
        count++;
    }
    for (int s = 0; s < 2; s++)
        for (int is_scale = 0; is_scale < 2; is_scale++)
            entries[count++] = (struct safetensors_entry){
                arena_printf(arena, "model.layers.0.mlp.experts.%s_%s", stems[s], is_scale ? "scales" : "blocks"),
                DTYPE_U8,
                is_scale ? 3 : 4,
                {2, s ? 32 : 64, 1, 16},
                NULL};
    assert_ok(safetensors_write_begin(&writer, path_join(arena, to, "model.safetensors"), entries, count, &err), err);
    for (int i = 0; i < count; i++) {
        const struct safetensor *tensor = entries[i].context;
        uint64_t size = safetensors_entry_bytes(&entries[i]);
        if (!tensor && entries[i].rank == 3)
            memset(bytes, 127, size);
        else if (!tensor)
            for (uint64_t b = 0; b < size; b++)
                bytes[b] = (uint8_t)(b / 16 % 16 * 17);
        assert_ok(safetensors_write(&writer, tensor ? tensor->data : bytes, size, &err), err);
    }
    assert_ok(safetensors_write_end(&writer, NULL, NULL, &err), err);
    safetensors_set_close(&set);
}

static void a_folder_with_codes_is_a_model(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    const char *base = fixture_folder(&arena), *plain = fixture_folder(&arena), *codes = fixture_folder(&arena);
    struct checkpoint_files files;
    struct param_view view;
    struct model *model;
    struct str text;
    struct err err;

    fixture_write(&arena, base, "config.json", arena_printf(&arena, oss_config, ""));
    fixture_write(&arena, codes, "config.json",
                  arena_printf(&arena, oss_config, ",\"quantization_config\":{\"quant_method\":\"mxfp4\"}"));
    options.is_random = true;
    model = fixture_open(base, &options);
    assert_ok(checkpoint_write(model, plain, "", &arena, &files, &err), err);
    model_close(model);
    write_codes(&arena, plain, codes);
    options.is_random = false;
    model = fixture_open(codes, &options);
    view = model_param_view(model, (int)(params_find(model_params(model), "model.layers.0.mlp.experts.gate_up_proj") -
                                         model_params(model)->param));
    for (int o = 0; o < 64; o++) { /* output o of the file: a gate where it is even */
        static const float table[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};
        int row = o / 2 + (o % 2 ? 32 : 0);
        assert_true(((float *)view.master)[(64 + row) * view.ld + 7] == table[o % 16]);
    }
    assert_ok(checkpoint_write(model, base, "", &arena, &files, &err), err);
    assert_ok(file_read(&arena, path_join(&arena, base, "config.json"), 1 << 20, &text, &err), err);
    assert_null(strstr(text.at, "quantization_config"));
    model_close(model);
    model = fixture_open(base, &options);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

/* The step's loss gains coefficient · E · Σ f·P, by the micro-batch's share of the step's tokens. */
static void the_balance_joins_the_loss_of_a_step(void **state)
{
    static const int32_t tokens[] = {1, 5, 9, 36, 7, 2, 1, 30}, documents[] = {0, 5, 8};
    struct pool *pool = pool_new(1);
    struct arena arena = {0};
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct model_result plain = {0}, whole = {0}, half = {0};
    struct batch batch;
    struct model *model;

    options.is_random = true;
    model = fixture_open(fixture_family(&arena, &tiny_families[11]), &options);
    batch_make(&arena, &batch, tokens, documents, 2, NULL, NULL, 0.25f);
    model_forward_backward(model, &batch, true, &(struct model_step){0}, &plain);
    model_forward_backward(model, &batch, true, &(struct model_step){.tokens = 8}, &whole);
    model_forward_backward(model, &batch, true, &(struct model_step){.tokens = 16}, &half);
    /* Between top, when the load is even, and E, with the coefficient's default of 0.001. */
    assert_true(whole.loss - plain.loss > 0.001 * 2 * 0.9 && whole.loss - plain.loss < 0.001 * 5);
    assert_true(fabs(2 * (half.loss - plain.loss) - (whole.loss - plain.loss)) < 1e-12);
    assert_true(whole.nll_sum == plain.nll_sum);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_turned_on_the_way_in_and_back),
        cmocka_unit_test(codes_widen_to_what_the_format_says),
        cmocka_unit_test(a_folder_with_codes_is_a_model),
        cmocka_unit_test(the_balance_joins_the_loss_of_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
