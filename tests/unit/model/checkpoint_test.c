#include "fixture.h"
#include "base/json.h"

static const int32_t tokens[8] = {1, 5, 9, 36, 7, 7, 2, 3};

static double loss_of(struct model *model, bool has_grads)
{
    static const int32_t cu_seqlens[2] = {0, 8};
    static const float weights[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    struct model_result result = {0};
    struct arena arena = {0};
    struct batch batch;

    batch_make(&arena, &batch, tokens, cu_seqlens, 1, NULL, weights, 1);
    model_forward_backward(model, &batch, has_grads, NULL, &result);
    arena_deinit(&arena);
    return result.loss;
}

/* Moves masters and moments of every trained param away from where they began. */
static void disturb(struct model *model, float by)
{
    for (int i = 0; i < model_params(model)->count; i++) {
        struct param_view view = model_param_view(model, i);
        for (int32_t e = 0; view.master && e < view.rows * view.cols; e++) {
            size_t at = (size_t)(e / view.cols) * (size_t)view.ld + (size_t)(e % view.cols);
            ((float *)view.master)[at] += by * (float)(1 + e % 3);
            ((float *)view.m)[at] = by + (float)e;
            ((float *)view.v)[at] = by * (float)e;
        }
    }
    model_masters_changed(model);
}

static struct str read_text(struct arena *arena, const char *folder, const char *name)
{
    struct str text;
    struct err err;

    assert_ok(file_read(arena, path_join(arena, folder, name), 1 << 20, &text, &err), err);
    return text;
}

static void full_checkpoints_are_models_again(void **state)
{
    static const char *const dtypes[] = {"float32", "bfloat16", "float16"};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int k = 0; k < 6; k++) {
        struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
        const char *first = fixture_model(&arena, pool, k % 2, dtypes[k / 2]), *second = fixture_folder(&arena);
        struct checkpoint_files files;
        struct safetensors_set set;
        struct model *model;
        double loss;
        struct err err;
        fixture_write(&arena, first, "tokenizer.json", "{}");
        model = fixture_open(first, &options);
        loss = loss_of(model, false);
        assert_ok(checkpoint_write(model, second, "", &arena, &files, &err), err);
        model_close(model);
        assert_int_equal(files.count, 4);
        assert_string_equal(files.file[0].name, "model.safetensors");
        assert_string_equal(read_text(&arena, second, "config.json").at, read_text(&arena, first, "config.json").at);
        assert_string_equal(read_text(&arena, second, "tokenizer.json").at, "{}");
        assert_non_null(strstr(read_text(&arena, second, "generation_config.json").at, "eos_token_id"));
        assert_ok(safetensors_set_open(&set, &arena, second, &err), err);
        assert_int_equal(safetensors_set_find(&set, "model.layers.1.self_attn.k_proj.weight")->type, types[k / 2]);
        assert_int_equal(safetensors_set_find(&set, "lm_head.weight") == NULL, k % 2);
        safetensors_set_close(&set);
        model = fixture_open(second, &options);
        assert_true(loss_of(model, false) == loss);
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* In full and as an adapter on what was written, for training and for inference, which reads what it can from the map.
 */
static void every_familys_checkpoints_come_back(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};

    for (int k = 0; k < TINY_FAMILY_COUNT; k++) {
        struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
        const char *base = fixture_folder(&arena), *adapter = fixture_folder(&arena);
        struct checkpoint_files files;
        struct model *model;
        double losses[2];
        struct err err;
        options.is_random = true;
        model = fixture_open(fixture_family(&arena, &tiny_families[k]), &options);
        disturb(model, 0.01f);
        losses[0] = loss_of(model, false);
        assert_ok(checkpoint_write(model, base, "", &arena, &files, &err), err);
        model_close(model);
        options.is_random = false;
        options.lora = (struct lora_config){.rank = 3, .alpha = 6};
        model = fixture_open(base, &options);
        assert_true(loss_of(model, false) == losses[0]);
        disturb(model, 0.02f);
        losses[1] = loss_of(model, false);
        assert_true(losses[1] != losses[0]);
        assert_ok(checkpoint_write(model, adapter, "", &arena, &files, &err), err);
        model_close(model);
        for (int i = 0; i < 4; i++) {
            options.lora = (struct lora_config){0};
            options.adapter_folder = i & 1 ? adapter : NULL;
            options.is_trained = i & 2;
            model = fixture_open(base, &options);
            if (loss_of(model, false) != losses[i & 1])
                fail_msg("%s, case %d: %.9g, before %.9g", tiny_families[k].name, i, loss_of(model, false),
                         losses[i & 1]);
            model_close(model);
        }
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static uint64_t bytes_of(const struct checkpoint_files *files)
{
    uint64_t bytes = 0;

    for (int i = 0; i < files->count; i++)
        bytes += files->file[i].bytes;
    return bytes;
}

/* Told by the plan, from config.json alone. */
static void the_bytes_of_checkpoints_are_known_before_they_are_written(void **state)
{
    enum { SMALL_TEXTS = 16384 };
    struct pool *pool = pool_new(1);
    struct arena arena = {0};

    for (int k = 0; k < 2 * TINY_FAMILY_COUNT; k++) {
        struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
        const char *base = fixture_family(&arena, &tiny_families[k / 2]), *out = fixture_folder(&arena);
        struct checkpoint_files files;
        struct model *model;
        struct plan plan;
        uint64_t bytes;
        struct err err;
        char hex[65];
        fixture_write(&arena, base, "tokenizer.json", "{\"a\": 1}");
        options.is_random = true;
        options.lora = k % 2 ? (struct lora_config){.rank = 3, .alpha = 6} : (struct lora_config){0};
        assert_ok(model_plan(base, &options, &plan, &err), err);
        model = fixture_open(base, &options);
        assert_int_equal(model_plan_used(model)->checkpoint_bytes, plan.checkpoint_bytes);
        assert_ok(checkpoint_write(model, out, "", &arena, &files, &err), err);
        assert_in_range(plan.checkpoint_bytes, bytes_of(&files), bytes_of(&files) + SMALL_TEXTS);
        assert_ok(checkpoint_write_state(model, path_join(&arena, out, "state.safetensors"), &bytes, hex, &err), err);
        assert_int_equal(plan.state_bytes, bytes);
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static const char gemma3_config[] =
    "{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"gemma3_text\"," TINY_SIZES
    "\"query_pre_attn_scalar\":5,\"sliding_window\":3,\"sliding_window_pattern\":2},\"vision_config\":{}}";

/* The folder's tensors and one more, of the part that looks at pictures. */
static const char *with_vision(struct arena *arena, const char *folder)
{
    static const int64_t positions[3] = {5, 6, 7};
    const char *out = fixture_folder(arena);
    struct safetensors_writer writer = {0};
    struct safetensors_entry entries[64];
    struct safetensors_set set;
    int count = 0;
    struct err err;

    assert_ok(safetensors_set_open(&set, arena, folder, &err), err);
    for (; count < set.count; count++) {
        const struct safetensor *tensor = &set.tensor[count];
        entries[count] = (struct safetensors_entry){str_copy(arena, tensor->name),
                                                    tensor->type,
                                                    tensor->rank,
                                                    {tensor->shape[0], tensor->shape[1]},
                                                    (void *)(uintptr_t)tensor->data};
    }
    entries[count++] =
        (struct safetensors_entry){"vision_tower.positions", DTYPE_I64, 1, {3}, (void *)(uintptr_t)positions};
    assert_ok(safetensors_write_begin(&writer, path_join(arena, out, "model.safetensors"), entries, count, &err), err);
    for (int i = 0; i < count; i++)
        assert_ok(safetensors_write(&writer, entries[i].context, safetensors_entry_bytes(&entries[i]), &err), err);
    assert_ok(safetensors_write_end(&writer, NULL, NULL, &err), err);
    safetensors_set_close(&set);
    fixture_write(arena, out, "config.json", gemma3_config);
    return out;
}

static void a_text_model_inside_another_leaves_the_rest_as_it_is(void **state)
{
    struct tiny_family family = {"gemma3", gemma3_config};
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, NULL);
    struct pool *pool = options.pool = pool_new(1);
    struct arena arena = {0};
    const char *base = fixture_folder(&arena), *full = fixture_folder(&arena), *adapter = fixture_folder(&arena);
    const struct safetensor *vision;
    struct checkpoint_files files;
    struct safetensors_set set;
    struct model *model;
    struct err err;

    options.is_random = true;
    model = fixture_open(fixture_family(&arena, &family), &options);
    assert_ok(checkpoint_write(model, base, "", &arena, &files, &err), err);
    model_close(model);
    options.is_random = false;
    base = with_vision(&arena, base);
    model = fixture_open(base, &options);
    assert_ok(checkpoint_write(model, full, "", &arena, &files, &err), err);
    model_close(model);
    assert_ok(safetensors_set_open(&set, &arena, full, &err), err);
    assert_non_null(safetensors_set_find(&set, "language_model.model.layers.1.self_attn.q_norm.weight"));
    vision = safetensors_set_find(&set, "vision_tower.positions");
    assert_non_null(vision);
    assert_int_equal(vision->type, DTYPE_I64);
    assert_int_equal(((const char *)vision->data)[16], 7);
    safetensors_set_close(&set);
    options.lora = (struct lora_config){.rank = 2, .alpha = 2};
    model = fixture_open(base, &options);
    assert_ok(checkpoint_write(model, adapter, "", &arena, &files, &err), err);
    model_close(model);
    assert_non_null(strstr(read_text(&arena, adapter, "adapter_config.json").at,
                           "\"model.language_model.layers.1.self_attn.q_proj\""));
    options.lora = (struct lora_config){0};
    options.adapter_folder = adapter;
    model = fixture_open(base, &options);
    assert_non_null(
        params_find(model_params(model), "base_model.model.model.language_model.layers.1.mlp.down_proj.lora_B.weight"));
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

/* Training copies weights, inference reads what it can from the map: the numbers are the same. */
static void frozen_weights_in_the_file_give_the_same_bits(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int k = 0; k < 8; k++) {
        enum model_profile profile = k & 4 ? PROFILE_BF16 : PROFILE_F32;
        const char *folder = fixture_model(&arena, pool, k & 1, k & 2 ? "bfloat16" : "float32");
        struct model_options options = fixture_options(profile, &backend_ref, pool);
        struct model *trained = fixture_open(folder, &options), *frozen;
        double error;
        options.is_trained = false;
        frozen = fixture_open(folder, &options);
        error = relative_error(loss_of(frozen, false), loss_of(trained, false));
        /* A frozen tied f32 embedding is rounded to bf16 for both of its uses. */
        if (error > (k == 5 ? 1e-2 : 0))
            fail_msg("case %d: error %g", k, error);
        model_close(frozen);
        model_close(trained);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static const char expected_config[] =
    "{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": \"org/base\",\n  \"bias\": "
    "\"none\",\n"
    "  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n  \"layers_pattern\": "
    "null,\n"
    "  \"layers_to_transform\": null,\n  \"lora_alpha\": 6,\n  \"lora_dropout\": 0.05,\n  \"modules_to_save\": null,\n"
    "  \"peft_type\": \"LORA\",\n  \"r\": 3,\n  \"rank_pattern\": {},\n  \"revision\": null,\n  \"target_modules\": "
    "[\n    \"q_proj\",\n"
    "    \"down_proj\"\n  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": false\n}\n";

static void adapters_go_out_as_pefts_and_come_back(void **state)
{
    static const char *const targets[] = {"q_proj", "down_proj"};
    struct pool *pool = pool_new(2);
    struct arena arena = {0};
    const char *base = fixture_model(&arena, pool, false, "float32"), *folder = fixture_folder(&arena);
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct checkpoint_files files;
    struct safetensors_set set;
    struct model *model;
    double loss, base_loss;
    struct err err;

    options.lora =
        (struct lora_config){.rank = 3, .alpha = 6, .dropout = 0.05, .targets = {.name = targets, .count = 2}};
    model = fixture_open(base, &options);
    base_loss = loss_of(model, false);
    disturb(model, 0.05f);
    loss = loss_of(model, false);
    assert_true(loss != base_loss);
    assert_ok(checkpoint_write(model, folder, "org/base", &arena, &files, &err), err);
    model_close(model);
    assert_string_equal(files.file[0].name, "adapter_model.safetensors");
    assert_string_equal(read_text(&arena, folder, "adapter_config.json").at, expected_config);
    assert_ok(safetensors_set_open_file(&set, &arena, path_join(&arena, folder, "adapter_model.safetensors"), &err),
              err);
    assert_int_equal(set.count, 8);
    assert_int_equal(
        safetensors_set_find(&set, "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight")->shape[1], 28);
    assert_int_equal(
        safetensors_set_find(&set, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight")->shape[0], 24);
    safetensors_set_close(&set);
    for (int is_trained = 0; is_trained < 2; is_trained++) {
        struct model_options again = fixture_options(PROFILE_F32, &backend_ref, pool);
        again.is_trained = is_trained;
        again.adapter_folder = folder;
        model = fixture_open(base, &again);
        assert_int_equal(model_lora(model)->rank, 3);
        assert_true(loss_of(model, false) == loss);
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void foreign_adapters_are_refused_by_name(void **state)
{
    static const struct {
        const char *text, *names;
    } cases[] = {
        {"{\"peft_type\":\"IA3\"}", "IA3"},
        {"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"use_dora\":1}",
         "use_dora"},
        {"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"rank_pattern\":[]}",
         "rank_pattern"},
        {"{\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"target_parameters\":[\"experts.w\"]}",
         "target_parameters"},
        {"{\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"init_lora_weights\":\"pissa\"}", "pissa"},
        {"{\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"task_type\":\"SEQ_CLS\"}", "SEQ_CLS"},
        {"{\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"ensure_weight_tying\":true}",
         "ensure_weight_tying"},
        {"{\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"layers_pattern\":\"h\"}", "layers_pattern"},
        {"{\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"of_the_future\":1}", "of_the_future"},
        {"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"bias\":\"all\"}", "bias"},
        {"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]}", "r must be"},
        {"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":4,\"target_modules\":null}", "target_modules"},
        {"[]", "object"},
    };
    struct arena arena = {0};
    const char *folder = fixture_folder(&arena);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lora_config lora;
        struct err err = {0};
        fixture_write(&arena, folder, "adapter_config.json", cases[i].text);
        if (adapter_config_read(&arena, folder, &lora, &err) || !strstr(err.text, cases[i].names))
            fail_msg("%s: %s", cases[i].text, err.text);
    }
    arena_deinit(&arena);
}

static void recovery_state_brings_back_every_bit(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int k = 0; k < 4; k++) {
        struct model_options options = fixture_options(k & 1 ? PROFILE_BF16 : PROFILE_F32, &backend_ref, pool);
        const char *folder = fixture_config(&arena, k & 1, "float32"),
                   *path = path_join(&arena, folder, "state.safetensors");
        struct model *first, *second;
        struct err err;
        options.is_random = true;
        options.lora = k & 2 ? (struct lora_config){.rank = 2, .alpha = 2} : (struct lora_config){0};
        first = fixture_open(folder, &options);
        second = fixture_open(folder, &options);
        disturb(first, 0.01f);
        assert_true(loss_of(first, false) != loss_of(second, false));
        assert_ok(checkpoint_write_state(first, path, NULL, NULL, &err), err);
        assert_ok(checkpoint_read_state(second, path, &err), err);
        for (int i = 0; i < model_params(first)->count; i++) {
            struct param_view a = model_param_view(first, i), b = model_param_view(second, i);
            for (int32_t r = 0; a.master && r < a.rows; r++) {
                size_t at = (size_t)r * (size_t)a.ld, bytes = (size_t)a.cols * sizeof(float);
                assert_memory_equal((float *)a.master + at, (float *)b.master + at, bytes);
                assert_memory_equal((float *)a.m + at, (float *)b.m + at, bytes);
                assert_memory_equal((float *)a.v + at, (float *)b.v + at, bytes);
            }
        }
        model_close(first);
        model_close(second);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void a_state_of_another_model_changes_nothing(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};
    const char *tied = fixture_config(&arena, true, "float32"), *untied = fixture_config(&arena, false, "float32");
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    const char *path = path_join(&arena, tied, "state.safetensors");
    struct model *first, *second;
    struct err err = {0};
    double before;

    options.is_random = true;
    first = fixture_open(tied, &options);
    options.seed = 8;
    second = fixture_open(untied, &options);
    before = loss_of(second, false);
    assert_ok(checkpoint_write_state(first, path, NULL, NULL, &err), err);
    assert_false(checkpoint_read_state(second, path, &err));
    assert_non_null(strstr(err.text, "p.lm_head.weight"));
    assert_true(loss_of(second, false) == before);
    model_close(first);
    model_close(second);
    pool_free(pool);
    arena_deinit(&arena);
}

static void weights_that_do_not_fit_the_config_are_refused(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};
    const char *untied = fixture_model(&arena, pool, false, "float32"),
               *tied = fixture_model(&arena, pool, true, "float32");
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    char text[2048];
    struct model *model;
    struct err err = {0};

    snprintf(text, sizeof text, tiny_config, "false", "float32");
    fixture_write(&arena, tied, "config.json", text);
    assert_false(model_open(&model, tied, &options, &err));
    assert_non_null(strstr(err.text, "lack the tensor lm_head.weight"));
    snprintf(text, sizeof text, tiny_config, "false", "float32");
    memcpy(strstr(text, "\"intermediate_size\":28"), "\"intermediate_size\":27", 22);
    fixture_write(&arena, untied, "config.json", text);
    assert_false(model_open(&model, untied, &options, &err));
    assert_non_null(strstr(err.text, "another shape"));
    memcpy(strstr(text, "\"num_hidden_layers\":2"), "\"num_hidden_layers\":1", 21);
    memcpy(strstr(text, "\"intermediate_size\":27"), "\"intermediate_size\":28", 22);
    fixture_write(&arena, untied, "config.json", text);
    assert_false(model_open(&model, untied, &options, &err));
    assert_non_null(strstr(err.text, "does not have"));
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_checkpoints_are_models_again),
        cmocka_unit_test(every_familys_checkpoints_come_back),
        cmocka_unit_test(the_bytes_of_checkpoints_are_known_before_they_are_written),
        cmocka_unit_test(a_text_model_inside_another_leaves_the_rest_as_it_is),
        cmocka_unit_test(frozen_weights_in_the_file_give_the_same_bits),
        cmocka_unit_test(adapters_go_out_as_pefts_and_come_back),
        cmocka_unit_test(foreign_adapters_are_refused_by_name),
        cmocka_unit_test(recovery_state_brings_back_every_bit),
        cmocka_unit_test(a_state_of_another_model_changes_nothing),
        cmocka_unit_test(weights_that_do_not_fit_the_config_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
