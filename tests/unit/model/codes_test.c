/* Linear layers of four bits: quantized while loading, written as bitsandbytes has them and read back. Whatever way
 * they came, products have the bits of the products with the numbers that the codes stand for. */
#include "fixture.h"

#include "compute/nf4.h"
#include "model/codes.h"
#include "model/quantize.h"

enum { TOKENS = 9 };

static struct pool *pool;

static struct model_result run(struct model *model)
{
    static const int32_t tokens[TOKENS] = {1, 5, 9, 36, 7, 7, 2, 30, 2}, documents[] = {0, 6, TOKENS};
    static const float weights[TOKENS] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    struct model_step step = {.seed = 3, .step = 5};
    struct model_result result = {0};
    struct arena arena = {0};
    struct batch batch;

    batch_make(&arena, &batch, tokens, documents, 2, NULL, weights, 0.25f);
    model_zero_grads(model);
    model_forward_backward(model, &batch, true, &step, &result);
    arena_deinit(&arena);
    return result;
}

static struct model *open_lora(const char *folder, enum model_profile profile, const struct backend *backend,
                               bool is_nf4)
{
    struct model_options options = fixture_options(profile, backend, pool);

    options.lora = (struct lora_config){.rank = 3, .alpha = 6};
    options.is_nf4 = is_nf4;
    return fixture_open(folder, &options);
}

static bool is_beside_codes(struct str name)
{
    for (int i = 0; i < BESIDE_COUNT; i++)
        if (str_ends(name, str_of(codes_beside_name(i))))
            return true;
    return false;
}

/* What is written for a tensor: the numbers that its codes stand for, or what it is. */
static struct safetensors_entry plain_entry(struct arena *arena, const struct params *params,
                                            const struct safetensor *tensor)
{
    const char *name = str_copy(arena, tensor->name);
    const struct param *param = params_find(params, name);
    struct safetensors_entry entry = {.name = name, .type = tensor->type, .rank = tensor->rank};
    float *values;

    memcpy(entry.shape, tensor->shape, sizeof entry.shape);
    entry.context = (void *)(uintptr_t)tensor->data;
    if (!param || !param->codes)
        return entry;
    values = arena_new_array(arena, float, (size_t)param->codes->count);
    nf4_dequantize(param->codes, 0, param->codes->count, DTYPE_F32, values);
    entry.type = DTYPE_F32;
    entry.shape[0] = (uint64_t)param->rows, entry.shape[1] = (uint64_t)param->cols;
    entry.context = values;
    return entry;
}

/* A folder with the config of `plain` and the linear layers' numbers as the codes of `folder` have them, in F32. */
static const char *dequantized(struct arena *arena, const char *plain, const char *folder)
{
    const char *out = fixture_folder(arena);
    struct model *model = open_lora(folder, PROFILE_F32, &backend_ref, false);
    struct safetensors_entry *entries;
    struct safetensors_writer writer = {0};
    struct safetensors_set set;
    struct str config;
    struct err err;
    int count = 0;

    assert_ok(safetensors_set_open(&set, arena, folder, &err), err);
    entries = arena_new_array(arena, struct safetensors_entry, (size_t)set.count);
    for (int i = 0; i < set.count; i++)
        if (!is_beside_codes(set.tensor[i].name))
            entries[count++] = plain_entry(arena, model_params(model), &set.tensor[i]);
    assert_ok(safetensors_write_begin(&writer, path_join(arena, out, "model.safetensors"), entries, count, &err), err);
    for (int i = 0; i < count; i++)
        assert_ok(safetensors_write(&writer, entries[i].context, safetensors_entry_bytes(&entries[i]), &err), err);
    assert_ok(safetensors_write_end(&writer, NULL, NULL, &err), err);
    assert_ok(file_read(arena, path_join(arena, plain, "config.json"), 1 << 20, &config, &err), err);
    fixture_write(arena, out, "config.json", str_copy(arena, config));
    safetensors_set_close(&set);
    model_close(model);
    return out;
}

static const char *quantized(struct arena *arena, const char *plain)
{
    const char *out = arena_printf(arena, "%s/quantized", fixture_folder(arena));
    struct err err;

    assert_ok(quantize_write(plain, out, DTYPE_BF16, pool, &err), err);
    return out;
}

static void expect_same(const char *what, struct model *got, struct model *want)
{
    struct model_result a = run(got), b = run(want);
    uint64_t count, wanted;
    const float *grads = model_grads(got, &count, &(double *){NULL}),
                *others = model_grads(want, &wanted, &(double *){NULL});

    if (memcmp(&a.loss, &b.loss, sizeof a.loss) != 0)
        fail_msg("%s: loss %.17g, expected %.17g", what, a.loss, b.loss);
    assert_int_equal(count, wanted);
    assert_memory_equal(grads, others, count * sizeof(float));
    model_close(got);
    model_close(want);
}

static void a_model_quantized_while_loading_is_the_model_of_what_its_codes_stand_for(void **state)
{
    static const char *const dtypes[] = {"float32", "bfloat16"};
    struct arena arena = {0};

    for (int d = 0; d < 2; d++) {
        const char *plain = fixture_model(&arena, pool, d == 0, dtypes[d]), *codes = quantized(&arena, plain);
        const char *numbers = dequantized(&arena, plain, codes);
        for (int b = 0; b < 2; b++) {
            const struct backend *backend = b ? &backend_cpu : &backend_ref;
            for (int profile = PROFILE_F32; profile <= PROFILE_BF16; profile++) {
                expect_same("quantized while loading", open_lora(plain, profile, backend, true),
                            open_lora(numbers, profile, backend, false));
                expect_same("codes in the file", open_lora(codes, profile, backend, false),
                            open_lora(numbers, profile, backend, false));
            }
        }
    }
    arena_deinit(&arena);
}

static void every_family_takes_codes(void **state)
{
    struct arena arena = {0};

    for (int i = 0; i < TINY_FAMILY_COUNT; i++) {
        struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
        const char *folder = fixture_folder(&arena), *codes;
        struct checkpoint_files files;
        struct model *model;
        struct err err;

        options.is_random = true;
        model = fixture_open(fixture_family(&arena, &tiny_families[i]), &options);
        assert_ok(checkpoint_write(model, folder, "", &arena, &files, &err), err);
        model_close(model);
        codes = quantized(&arena, folder);
        expect_same(tiny_families[i].name, open_lora(codes, PROFILE_F32, &backend_cpu, false),
                    open_lora(dequantized(&arena, folder, codes), PROFILE_F32, &backend_cpu, false));
    }
    arena_deinit(&arena);
}

static uint64_t region_bytes(const struct plan *plan, const char *name)
{
    for (int i = 0; i < plan->region_count; i++)
        if (!strcmp(plan->region[i].name, name))
            return plan->region[i].bytes;
    return 0;
}

static void the_plan_counts_half_a_byte_a_weight_and_its_scales(void **state)
{
    struct arena arena = {0};
    const char *plain = fixture_model(&arena, pool, true, "bfloat16"), *codes = quantized(&arena, plain);
    struct model_options options = fixture_options(PROFILE_BF16, &backend_cpu, pool);
    struct plan nf4, file, used;
    struct model *model;
    struct err err;

    options.lora = (struct lora_config){.rank = 3, .alpha = 6};
    assert_ok(model_plan(codes, &options, &file, &err), err);
    model = fixture_open(codes, &options);
    used = *model_plan_used(model);
    model_close(model);
    assert_int_equal(used.total_bytes, file.total_bytes);
    options.is_nf4 = true;
    assert_ok(model_plan(plain, &options, &nf4, &err), err);
    /* 2 layers of 480 + 240 + 240 + 480 + 3 · 560 weights; the tied embedding stays in the file. */
    assert_int_equal(region_bytes(&file, "mapped weights") - region_bytes(&nf4, "mapped weights"), 3136);
    assert_int_equal(region_bytes(&nf4, "frozen weights") - region_bytes(&file, "frozen weights"),
                     2 * 2 * (256 + 128 + 128 + 256 + 3 * 320) / 2);
    arena_deinit(&arena);
}

static void weights_of_four_bits_do_not_train(void **state)
{
    struct arena arena = {0};
    const char *plain = fixture_model(&arena, pool, true, "float32"), *codes = quantized(&arena, plain);
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct model *model;
    struct err err;

    assert_false(model_open(&model, codes, &options, &err));
    assert_string_equal(err.text, "the model's weights are codes of four bits, which do not train: choose lora");
    options.is_nf4 = true;
    assert_false(model_open(&model, plain, &options, &err));
    assert_string_equal(err.text, "quantization nf4 goes with lora: weights of four bits do not train");
    options.lora = (struct lora_config){.rank = 3, .alpha = 6};
    options.is_random = true;
    assert_false(model_open(&model, plain, &options, &err));
    assert_string_equal(err.text, "random weights are not quantized: give a model with weights");
    arena_deinit(&arena);
}

static void a_folder_is_quantized_once(void **state)
{
    struct arena arena = {0};
    const char *plain = fixture_model(&arena, pool, true, "float32"), *codes = quantized(&arena, plain);
    struct err err;

    assert_false(quantize_write(plain, codes, DTYPE_F32, pool, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_false(quantize_write(codes, path_join(&arena, codes, "again"), DTYPE_F32, pool, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    arena_deinit(&arena);
}

static void a_quant_state_says_what_it_must(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[3,4]}", NULL},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[3,4],\"nested_blocksize\":256,\"nested_offset\":0.5}",
         NULL},
        {"{\"quant_type\":\"fp4\",\"blocksize\":64,\"shape\":[3,4]}", "quant_type must be nf4"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":128,\"shape\":[3,4]}", "blocksize must be 64"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[4,3]}", "expected [3, 4]"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[12]}", "expected [3, 4]"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[3,4],\"nested_blocksize\":64,\"nested_offset\":0.5}",
         "nested_blocksize must be 256"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[3,4],\"nested_offset\":\"1\"}", "must be a number"},
        {"[]", "must be an object"},
        {"{", "quant state"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        bool is_nested;
        float offset;
        struct err err = {0};
        bool ok = codes_state_parse(&arena, str_of(cases[i].text), 3, 4, &is_nested, &offset, &err);

        if (ok != !cases[i].words || (!ok && !strstr(err.text, cases[i].words)))
            fail_msg("%s: %s", cases[i].text, err.text);
        arena_deinit(&arena);
    }
}

static int open_pool(void **state)
{
    pool = pool_new(2);
    return 0;
}

static int close_pool(void **state)
{
    pool_free(pool);
    return fixture_clean(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_quantized_while_loading_is_the_model_of_what_its_codes_stand_for),
        cmocka_unit_test(every_family_takes_codes),
        cmocka_unit_test(the_plan_counts_half_a_byte_a_weight_and_its_scales),
        cmocka_unit_test(weights_of_four_bits_do_not_train),
        cmocka_unit_test(a_folder_is_quantized_once),
        cmocka_unit_test(a_quant_state_says_what_it_must),
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
