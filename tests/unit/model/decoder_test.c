/* Properties of the pass on tiny random models: gradients by finite differences, packing, recomputation, decoding. */
#include "fixture.h"

enum { TOKENS = 22, DOCS = 3 };

static const int32_t tokens[TOKENS] = {1, 5, 9, 36, 7, 7, 2, 1, 30, 5, 5, 12, 1, 22, 9, 3, 17, 8, 0, 4, 11, 2};
static const int32_t documents[DOCS + 1] = {0, 7, 12, TOKENS};
/* Token 3 and the third document's first five carry no loss; one token weighs more. */
static const float weights[TOKENS] = {1, 1, 1, 0, 1, 1, 1, 1, 1, 2, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1};

struct variant {
    const char *name;
    bool is_tied;
    struct lora_config lora;
    const struct tiny_family *family; /* NULL: the llama of the fixture */
};
static const char *const some_targets[] = {"q_proj", "v_proj", "layers.1.mlp.up_proj"};
static const char *const wide_targets[] = {"embed_tokens", "lm_head", "q_proj", "k_proj", "up_proj", "o_proj"};
static const char *const saved_modules[] = {"lm_head", "norm", "embed_tokens"}, *const saved_head[] = {"lm_head"};
static const struct lora_pattern ranks[] = {{"k_proj", 1}, {"layers\\.1\\..*up_proj", 5}, {"lm_head", 2}};
static const struct lora_pattern alphas[] = {{"q_proj", 9}, {"embed_tokens", 1.5}};
static const struct variant variants[] = {
    {.name = "full, tied", .is_tied = true},
    {.name = "full, untied"},
    {.name = "lora on all", .lora = {.rank = 3, .alpha = 6}},
    {.name = "lora on some, rslora",
     .is_tied = true,
     .lora = {.rank = 4, .alpha = 3, .is_rslora = true, .targets = {.name = some_targets, .count = 3}}},
    {.name = "lora on embedding and head, ranks and alphas of their own",
     .lora = {.rank = 3,
              .alpha = 6,
              .targets = {.name = wide_targets, .count = 6},
              .rank_pattern = {ranks, 3},
              .alpha_pattern = {alphas, 2}}},
    {.name = "the same, tied",
     .is_tied = true,
     .lora = {.rank = 3,
              .alpha = 6,
              .targets = {.name = wide_targets, .count = 6},
              .rank_pattern = {ranks, 3},
              .alpha_pattern = {alphas, 2}}},
    {.name = "lora, embedding, head and norms whole",
     .is_tied = true,
     .lora = {.rank = 2, .alpha = 2, .saved = {.name = saved_modules, .count = 3}}},
    {.name = "dora, ranks of their own", .lora = {.rank = 3, .alpha = 6, .is_dora = true, .rank_pattern = {ranks, 2}}},
    {.name = "dora on some",
     .lora = {.rank = 2, .alpha = 6, .is_dora = true, .targets = {.name = some_targets, .count = 3}}},
    {.name = "lora, tied head whole",
     .is_tied = true,
     .lora = {.rank = 2, .alpha = 2, .saved = {.name = saved_head, .count = 1}}},
};
enum { LLAMA_COUNT = sizeof variants / sizeof *variants, VARIANT_COUNT = LLAMA_COUNT + 2 * TINY_FAMILY_COUNT };

/* The llamas, then every family in full and with adapters. */
static struct variant variant_at(int k)
{
    const struct tiny_family *family;

    if (k < LLAMA_COUNT)
        return variants[k];
    family = &tiny_families[(k - LLAMA_COUNT) / 2];
    if ((k - LLAMA_COUNT) % 2 == 0)
        return (struct variant){.name = family->name, .family = family};
    return (struct variant){.name = family->name, .family = family, .lora = {.rank = 3, .alpha = 6}};
}

static const struct backend *const backends[] = {&backend_ref, &backend_cpu};

static struct model *open_variant(struct arena *arena, const struct variant *variant, struct model_options options)
{
    options.is_random = true;
    options.lora = variant->lora;
    return fixture_open(variant->family ? fixture_family(arena, variant->family)
                                        : fixture_config(arena, variant->is_tied, "float32"),
                        &options);
}

/* B is zero at first, and A's gradient with it; biases are zero and norms alike: gives all of them numbers of their
 * own. */
static void fill_params(struct model *model)
{
    const struct params *params = model_params(model);

    for (int i = 0; i < params->count; i++) {
        struct param_view view = model_param_view(model, i);
        if ((params->stored[params->param[i].stored].part != PART_B && !params->param[i].is_vector) || !view.master)
            continue;
        for (int32_t r = 0; r < view.rows; r++)
            for (int32_t c = 0; c < view.cols; c++) {
                double value = sin(1.0 + 7 * i + 3 * r + c) / 4;
                if (params->master_type == DTYPE_F64)
                    ((double *)view.master)[r * view.ld + c] += value;
                else
                    ((float *)view.master)[r * view.ld + c] += (float)value;
            }
    }
    model_masters_changed(model);
}

static struct model_result run(struct model *model, bool has_grads)
{
    struct model_step step = {.seed = 3, .step = 5};
    struct model_result result = {0};
    struct arena arena = {0};
    struct batch batch;

    batch_make(&arena, &batch, tokens, documents, DOCS, NULL, weights, 0.25f);
    model_forward_backward(model, &batch, has_grads, &step, &result);
    arena_deinit(&arena);
    return result;
}

static double central_difference(struct model *model, double *value)
{
    double before = *value, eps = 1e-5, up, down;

    *value = before + eps;
    up = run(model, false).loss;
    *value = before - eps;
    down = run(model, false).loss;
    *value = before;
    return (up - down) / (2 * eps);
}

static void gradients_are_central_differences(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);

    for (int k = 0; k < VARIANT_COUNT; k++) {
        struct variant variant = variant_at(k);
        struct model *model = open_variant(&arena, &variant, fixture_options(PROFILE_F64, &backend_ref, pool));
        const struct params *params = model_params(model);
        double worst = 0;
        int checked = 0;
        fill_params(model);
        model_zero_grads(model);
        run(model, true);
        for (int i = 0; i < params->count; i++) {
            struct param_view view = model_param_view(model, i);
            if (variant.lora.is_dora && params->stored[params->param[i].stored].part != PART_M)
                continue; /* the norms are no part of the gradient of A and B: parity holds those against PEFT's */
            for (int e = 0; view.master && e < 3; e++) {
                int32_t index = (int32_t)(((int64_t)view.rows * view.cols - 1) * e / 2);
                size_t at = (size_t)(index / view.cols) * (size_t)view.ld + (size_t)(index % view.cols);
                double expected = central_difference(model, (double *)view.master + at),
                       value = ((double *)view.grad)[at];
                if (fabs(value - expected) > 1e-9 + 1e-6 * fabs(expected))
                    fail_msg("%s: %s[%d]: %.12g, difference %.12g", variant.name, params->param[i].name, index, value,
                             expected);
                worst = fmax(worst, fabs(value - expected) / (1e-3 + fabs(expected)));
                checked++;
            }
        }
        print_message("float64, %s: %d gradients, worst err %.1e\n", variant.name, checked, worst);
        assert_true(checked >= (variant.lora.is_dora ? 9 : 30));
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void frozen_params_have_no_gradients_and_missing_parts_stay_zero(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    struct model *model = open_variant(&arena, &variants[3], fixture_options(PROFILE_F32, &backend_ref, pool));
    const struct params *params = model_params(model);
    double *partial;
    uint64_t count, nonzero = 0;
    float *grads;

    fill_params(model);
    model_zero_grads(model);
    run(model, true);
    assert_null(params_find(params, "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"));
    assert_null(params_find(params, "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"));
    assert_non_null(params_find(params, "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"));
    grads = model_grads(model, &count, &partial);
    for (uint64_t i = 0; i < count; i++)
        nonzero += grads[i] != 0;
    assert_true(nonzero > 0 && nonzero <= params->trained_count);
    for (int i = 0; i < params->count; i++)
        if (params->stored[params->param[i].stored].part == PART_W)
            assert_null(model_param_view(model, i).grad);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

/* Every mask for the block with everything; for the others nothing, all, all but one activation, and one alone. */
static bool is_mask_tried(const struct variant *variant, int keep)
{
    int lost = KEEP_ALL & ~keep;

    return (variant->family && !strcmp(variant->name, "gemma3")) || !(keep & (keep - 1)) || !(lost & (lost - 1));
}

static void every_keep_mask_gives_the_same_bits(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);

    for (int k = 0; k < 4 * VARIANT_COUNT; k++) {
        struct variant variant = variant_at(k / 4);
        struct model_options options = fixture_options(k & 1 ? PROFILE_BF16 : PROFILE_F32, backends[k >> 1 & 1], pool);
        struct model_result expected = {0};
        float *reference = NULL;
        variant.lora.dropout = variant.lora.rank && !variant.lora.is_dora ? 0.25 : 0;
        for (int keep = KEEP_ALL; keep >= 0; keep--) {
            struct model_result result;
            struct model *model;
            double *partial;
            uint64_t count;
            float *grads;
            if (!is_mask_tried(&variant, keep))
                continue;
            options.fixed_keep_plus_one = keep + 1;
            model = open_variant(&arena, &variant, options);
            fill_params(model);
            model_zero_grads(model);
            result = run(model, true);
            grads = model_grads(model, &count, &partial);
            if (keep == KEEP_ALL) {
                reference = arena_alloc(&arena, count * sizeof *grads);
                memcpy(reference, grads, count * sizeof *grads);
                expected = result;
            }
            if (memcmp(&result, &expected, sizeof result) || memcmp(grads, reference, count * sizeof *grads))
                fail_msg("%s %s %s: keep mask %d changes bits", options.backend->name, variant.name,
                         model_profile_name(options.profile), keep);
            model_close(model);
        }
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void dropout_changes_with_the_step_and_not_in_evaluation(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    struct variant dropped = variants[2];
    struct model *plain = open_variant(&arena, &variants[2], fixture_options(PROFILE_F32, &backend_ref, pool)), *model;

    dropped.lora.dropout = 0.5;
    model = open_variant(&arena, &dropped, fixture_options(PROFILE_F32, &backend_ref, pool));
    fill_params(plain);
    fill_params(model);
    assert_true(run(plain, false).loss == run(model, false).loss);
    assert_true(run(plain, true).loss != run(model, true).loss);
    model_close(plain);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

/* Splits the documents into micro-batches as told and adds everything up. */
static struct model_result run_split(struct model *model, const int *docs_per_batch, int batch_count)
{
    struct model_result result = {0};
    struct arena arena = {0};
    int32_t doc = 0;

    model_zero_grads(model);
    for (int b = 0; b < batch_count; b++) {
        int32_t cu_seqlens[DOCS + 1], first = documents[doc];
        struct batch batch;
        for (int d = 0; d <= docs_per_batch[b]; d++)
            cu_seqlens[d] = documents[doc + d] - first;
        batch_make(&arena, &batch, tokens + first, cu_seqlens, docs_per_batch[b], NULL, weights + first, 0.25f);
        model_forward_backward(model, &batch, true, NULL, &result);
        doc += docs_per_batch[b];
    }
    arena_deinit(&arena);
    return result;
}

static void check_packing(const struct backend *backend)
{
    static const int splits[][DOCS] = {{3}, {1, 2}, {1, 1, 1}};
    static const int counts[] = {1, 2, 3};
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    struct model *model = open_variant(&arena, &variants[0], fixture_options(PROFILE_F32, backend, pool));
    double *partial, norms[3], losses[3];

    for (int k = 0; k < 3; k++) {
        uint64_t count;
        float *grads;
        losses[k] = run_split(model, splits[k], counts[k]).loss;
        grads = model_grads(model, &count, &partial);
        norms[k] = 0;
        for (uint64_t i = 0; i < count; i++)
            norms[k] += (double)grads[i] * (double)grads[i];
    }
    for (int k = 1; k < 3; k++) {
        assert_true(relative_error(losses[k], losses[0]) <= 1e-6);
        assert_true(relative_error(norms[k], norms[0]) <= 1e-5);
    }
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

static void packed_equals_one_by_one(void **state)
{
    check_packing(&backend_ref);
    check_packing(&backend_cpu);
}

/* Two documents of different length at once, then both in steps of one token until the shorter ends. */
static void check_decoding(const struct backend *backend, const struct variant *variant)
{
    enum { FIRST = 5, SECOND = 7, VOCAB = 37, LAYERS = 2 };
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    struct model_options options = fixture_options(PROFILE_F32, backend, pool);
    struct kv_cache caches[LAYERS * 2];
    struct model_cache *own[2];
    int32_t cu_seqlens[3] = {0, FIRST, FIRST + SECOND}, rows[FIRST + SECOND], single[3] = {0, 1, 2};
    float *whole = arena_alloc(&arena, sizeof(float) * VOCAB * (FIRST + SECOND)), stepped[2 * VOCAB];
    struct batch batch;
    struct model *model;

    options.is_trained = false;
    model = open_variant(&arena, variant, options);
    for (int i = 0; i < FIRST + SECOND; i++)
        rows[i] = i;
    for (int d = 0; d < 2; d++) {
        own[d] = model_cache_new(model, 16);
        for (int l = 0; l < LAYERS; l++)
            caches[2 * l + d] = own[d]->layer[l];
    }
    batch_make(&arena, &batch, tokens, cu_seqlens, 2, NULL, NULL, 1);
    model_forward(model, &batch, NULL, NULL, rows, FIRST + SECOND, whole);
    for (int32_t t = 0; t < FIRST; t++) {
        int32_t pair[2] = {tokens[t], tokens[FIRST + t]}, first_pos[2] = {t, t};
        batch_make(&arena, &batch, pair, single, 2, first_pos, NULL, 1);
        model_forward(model, &batch, caches, NULL, rows, 2, stepped);
        for (int v = 0; v < VOCAB; v++) {
            float first = whole[t * VOCAB + v], second = whole[(FIRST + t) * VOCAB + v];
            if (fabsf(stepped[v] - first) > 2e-5f || fabsf(stepped[VOCAB + v] - second) > 2e-5f)
                fail_msg("%s %s, token %d: %g and %g, at once %g and %g", backend->name, variant->name, t, stepped[v],
                         stepped[VOCAB + v], first, second);
        }
    }
    assert_int_equal(caches[0].length, FIRST);
    for (int d = 0; d < 2; d++)
        model_cache_free(model, own[d]);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

static void decoding_step_by_step_is_the_forward_pass_at_once(void **state)
{
    for (int k = 0; k < VARIANT_COUNT; k++) {
        struct variant variant = variant_at(k);
        for (int b = 0; !variant.lora.rank && b < 2; b++)
            check_decoding(backends[b], &variant);
    }
}

static void bf16_is_near_f32(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);

    for (int k = 0; k < VARIANT_COUNT; k++) {
        struct variant variant = variant_at(k);
        struct model *f32 = open_variant(&arena, &variant, fixture_options(PROFILE_F32, &backend_ref, pool));
        struct model *bf16 = open_variant(&arena, &variant, fixture_options(PROFILE_BF16, &backend_ref, pool));
        double error;
        fill_params(f32);
        fill_params(bf16);
        error = relative_error(run(bf16, false).loss, run(f32, false).loss);
        print_message("bfloat16, %s: loss err %.1e\n", variant.name, error);
        assert_true(error <= 1e-2 && error > 0);
        model_close(f32);
        model_close(bf16);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void expect_all(struct model *model, const char *name, float value)
{
    const struct params *params = model_params(model);
    const struct param *param = params_find(params, name);
    struct param_view view;

    assert_non_null(param);
    view = model_param_view(model, (int)(param - params->param));
    for (int32_t i = 0; i < view.cols; i++)
        if (((float *)view.master)[i] != value)
            fail_msg("%s[%d] is %g, not %g", name, i, ((float *)view.master)[i], value);
}

static void random_weights_begin_as_their_family_does(void **state)
{
    static const struct tiny_family padded = {
        "llama", "{\"model_type\":\"llama\",\"hidden_size\":20,\"intermediate_size\":28,\"num_hidden_layers\":1,"
                 "\"num_attention_heads\":2,\"vocab_size\":37,\"max_position_embeddings\":64,\"pad_token_id\":0}"};
    static const struct {
        const struct tiny_family *family;
        const char *name;
        float value;
    } cases[] = {
        {&tiny_families[0], "model.layers.1.self_attn.o_proj.bias", 0},
        {&tiny_families[0], "model.layers.1.input_layernorm.weight", 1},
        {&tiny_families[6], "model.layers.0.self_attn.q_norm.weight", 1},
        {&tiny_families[9], "model.layers.1.post_feedforward_layernorm.weight", 0},
        {&tiny_families[10], "model.layers.1.self_attn.k_norm.weight", 0},
        {&tiny_families[10], "model.norm.weight", 0},
        {&padded, "model.embed_tokens.weight", 0},
    };
    struct arena arena = {0};
    struct pool *pool = pool_new(1);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct variant variant = {.name = cases[i].family->name, .family = cases[i].family};
        struct model *model = open_variant(&arena, &variant, fixture_options(PROFILE_F32, &backend_ref, pool));
        expect_all(model, cases[i].name, cases[i].value);
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* Seed 7: MT19937's outputs 132 .. 135 through kaiming's bound for 20 inputs, worked out in exact fractions; 132 = 3·20
 * + 24·3 draws are thrown away before. */
static void adapters_begin_with_torchs_draws(void **state)
{
    static const float expected[] = {-0x1.ac1c08p-3f, 0x1.ec5508p-4f, 0x1.8bfb66p-3f, 0x1.2b84fap-4f};
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    struct model *model = open_variant(&arena, &variants[2], fixture_options(PROFILE_F32, &backend_ref, pool));
    const struct params *params = model_params(model);
    const struct param *a = params_find(params, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    struct param_view view = model_param_view(model, (int)(a - params->param));

    assert_int_equal(view.rows * view.cols, 60);
    assert_memory_equal(view.master, expected, sizeof expected);
    view = model_param_view(model, (int)(a - params->param) + 1);
    for (int32_t i = 0; i < view.rows; i++)
        assert_true(((float *)view.master)[i * view.ld] == 0);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_central_differences),
        cmocka_unit_test(frozen_params_have_no_gradients_and_missing_parts_stay_zero),
        cmocka_unit_test(every_keep_mask_gives_the_same_bits),
        cmocka_unit_test(dropout_changes_with_the_step_and_not_in_evaluation),
        cmocka_unit_test(packed_equals_one_by_one),
        cmocka_unit_test(decoding_step_by_step_is_the_forward_pass_at_once),
        cmocka_unit_test(bf16_is_near_f32),
        cmocka_unit_test(random_weights_begin_as_their_family_does),
        cmocka_unit_test(adapters_begin_with_torchs_draws),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
