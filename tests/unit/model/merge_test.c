#include "fixture.h"
#include "compute/convert.h"
#include "model/merge.h"

static const char *const linear_targets[] = {"q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"};

/* An adapter on `base` whose B is not zero. */
static const char *make_adapter(struct arena *arena, struct pool *pool, const char *base)
{
    const char *folder = fixture_folder(arena);
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct checkpoint_files files;
    struct model *model;
    struct err err;

    options.lora = (struct lora_config){.rank = 3, .alpha = 5, .targets = {.name = linear_targets, .count = 5}};
    model = fixture_open(base, &options);
    for (int i = 0; i < model_params(model)->count; i++) {
        struct param_view view = model_param_view(model, i);
        for (int32_t e = 0; view.master && e < view.rows * view.cols; e++)
            ((float *)view.master)[e / view.cols * view.ld + e % view.cols] += 0.02f * (float)(e % 7 - 3);
    }
    assert_ok(checkpoint_write(model, folder, "org/base", arena, &files, &err), err);
    model_close(model);
    return folder;
}

static void last_logits(const char *folder, const char *adapter, struct pool *pool, float *logits)
{
    static const int32_t tokens[8] = {1, 5, 9, 36, 7, 7, 2, 3}, cu_seqlens[2] = {0, 8}, row = 7;
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct arena arena = {0};
    struct model *model;
    struct batch batch;

    options.is_trained = false;
    options.adapter_folder = adapter;
    model = fixture_open(folder, &options);
    batch_make(&arena, &batch, tokens, cu_seqlens, 1, NULL, NULL, 0);
    model_forward(model, &batch, NULL, NULL, &row, 1, logits);
    model_close(model);
    arena_deinit(&arena);
}

static double logits_error(const char *merged, const char *base, const char *adapter, struct pool *pool)
{
    float ours[37], theirs[37], most = 0, difference = 0;

    last_logits(merged, NULL, pool, ours);
    last_logits(base, adapter, pool, theirs);
    for (int i = 0; i < 37; i++) {
        most = fmaxf(most, fabsf(theirs[i]));
        difference = fmaxf(difference, fabsf(ours[i] - theirs[i]));
    }
    return difference / most;
}

static void a_merged_model_computes_what_base_and_adapter_do(void **state)
{
    static const char *const dtypes[] = {"float32", "bfloat16", "float16"};
    static const double bounds[] = {1e-6, 2e-2, 3e-3};
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int k = 0; k < 6; k++) {
        const char *base = fixture_model(&arena, pool, k % 2, dtypes[k / 2]),
                   *adapter = make_adapter(&arena, pool, base);
        const char *merged = path_join(&arena, fixture_folder(&arena), "merged");
        double error;
        struct err err;
        assert_ok(merge_write(base, adapter, merged, pool, &err), err);
        error = logits_error(merged, base, adapter, pool);
        if (error > bounds[k / 2])
            fail_msg("%s: %g", dtypes[k / 2], error);
        assert_true(logits_error(merged, base, NULL, pool) > 2 * bounds[k / 2]);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* Against the formula in double, rounded once; what has no adapter keeps its bytes. */
static void each_weight_is_rounded_once_to_its_own_type(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};
    const char *base = fixture_model(&arena, pool, false, "bfloat16"), *adapter = make_adapter(&arena, pool, base);
    const char *merged = path_join(&arena, fixture_folder(&arena), "merged");
    struct safetensors_set w, m, a;
    struct err err;
    int adapted = 0;

    assert_ok(merge_write(base, adapter, merged, pool, &err), err);
    assert_ok(safetensors_set_open(&w, &arena, base, &err), err);
    assert_ok(safetensors_set_open(&m, &arena, merged, &err), err);
    assert_ok(safetensors_set_open_file(&a, &arena, path_join(&arena, adapter, "adapter_model.safetensors"), &err),
              err);
    assert_int_equal(m.count, w.count);
    for (int i = 0; i < w.count; i++) {
        struct str name = str_slice(w.tensor[i].name, 0, w.tensor[i].name.len - 7);
        const char *prefix = arena_printf(&arena, "base_model.model.%.*s", STR_ARG(name));
        const struct safetensor *ta = safetensors_set_find(&a, arena_printf(&arena, "%s.lora_A.weight", prefix));
        const struct safetensor *tb = safetensors_set_find(&a, arena_printf(&arena, "%s.lora_B.weight", prefix));
        const uint16_t *before = w.tensor[i].data, *after = m.tensor[i].data;
        assert_int_equal(m.tensor[i].type, DTYPE_BF16);
        if (!ta) {
            assert_memory_equal(before, after, w.tensor[i].bytes);
            continue;
        }
        for (size_t n = 0; n < w.tensor[i].shape[0]; n++)
            for (size_t k = 0; k < w.tensor[i].shape[1]; k++) {
                size_t cols = w.tensor[i].shape[1];
                double sum = 0, value;
                float got = f32_from_bf16(after[n * cols + k]);
                for (size_t r = 0; r < 3; r++)
                    sum +=
                        (double)((const float *)tb->data)[n * 3 + r] * (double)((const float *)ta->data)[r * cols + k];
                value = (double)f32_from_bf16(before[n * cols + k]) + sum * 5 / 3;
                assert_true(fabs((double)got - value) <= fabs(value) * 0x1.0001p-8 + 1e-7);
            }
        adapted++;
    }
    assert_int_equal(adapted, 10);
    safetensors_set_close(&w);
    safetensors_set_close(&m);
    safetensors_set_close(&a);
    pool_free(pool);
    arena_deinit(&arena);
}

static void everything_else_of_the_base_is_copied(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};
    const char *base = fixture_model(&arena, pool, false, "float32"), *adapter = make_adapter(&arena, pool, base);
    const char *merged = path_join(&arena, fixture_folder(&arena), "merged");
    struct str before, after;
    struct err err;

    fixture_write(&arena, base, "tokenizer.json", "{\"a\":1}");
    fixture_write(&arena, base, "LICENSE", "free");
    fixture_write(&arena, base, "pytorch_model.bin", "old weights");
    assert_ok(merge_write(base, adapter, merged, pool, &err), err);
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"tokenizer.json", "LICENSE", "config.json"};
        assert_ok(file_read(&arena, path_join(&arena, base, names[i]), 1 << 20, &before, &err), err);
        assert_ok(file_read(&arena, path_join(&arena, merged, names[i]), 1 << 20, &after, &err), err);
        assert_true(str_equal(before, after));
    }
    assert_false(file_exists(path_join(&arena, merged, "pytorch_model.bin")));
    assert_false(merge_write(base, adapter, merged, pool, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    pool_free(pool);
    arena_deinit(&arena);
}

/* The tensors of a folder, written again as two shards with an index. */
static void split(struct arena *arena, const char *folder)
{
    static const char *const names[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    struct strbuf index = {0};
    struct safetensors_set set;
    struct err err;

    assert_ok(safetensors_set_open(&set, arena, folder, &err), err);
    strbuf_add_text(&index, "{\"metadata\":{},\"weight_map\":{");
    for (int shard = 0; shard < 2; shard++) {
        struct safetensors_entry *entries = arena_new_array(arena, struct safetensors_entry, (size_t)set.count);
        struct safetensors_writer writer;
        int count = 0;
        for (int i = shard; i < set.count; i += 2) {
            struct safetensors_entry *entry = &entries[count++];
            *entry = (struct safetensors_entry){str_copy(arena, set.tensor[i].name),
                                                set.tensor[i].type,
                                                set.tensor[i].rank,
                                                {set.tensor[i].shape[0], set.tensor[i].shape[1]},
                                                &set.tensor[i]};
            strbuf_printf(&index, "%s\"%s\":\"%s\"", shard + i ? "," : "", entry->name, names[shard]);
        }
        assert_ok(safetensors_write_begin(&writer, path_join(arena, folder, names[shard]), entries, count, &err), err);
        for (int i = 0; i < count; i++) {
            const struct safetensor *tensor = entries[i].context;
            assert_ok(safetensors_write(&writer, tensor->data, tensor->bytes, &err), err);
        }
        assert_ok(safetensors_write_end(&writer, NULL, NULL, &err), err);
    }
    strbuf_add_text(&index, "}}");
    fixture_write(arena, folder, "model.safetensors.index.json", index.at);
    strbuf_deinit(&index);
    safetensors_set_close(&set);
    assert_ok(file_remove(path_join(arena, folder, "model.safetensors"), &err), err);
}

static void shards_stay_as_the_base_has_them(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};
    const char *base = fixture_model(&arena, pool, true, "float32"), *adapter = make_adapter(&arena, pool, base);
    const char *merged = path_join(&arena, fixture_folder(&arena), "merged");
    struct safetensors_set before, after;
    struct err err;

    split(&arena, base);
    assert_ok(merge_write(base, adapter, merged, pool, &err), err);
    assert_ok(safetensors_set_open(&before, &arena, base, &err), err);
    assert_ok(safetensors_set_open(&after, &arena, merged, &err), err);
    assert_int_equal(after.file_count, 2);
    for (int i = 0; i < before.count; i++)
        assert_string_equal(after.file_name[after.tensor[i].file], before.file_name[before.tensor[i].file]);
    assert_true(logits_error(merged, base, adapter, pool) < 1e-6);
    safetensors_set_close(&before);
    safetensors_set_close(&after);
    pool_free(pool);
    arena_deinit(&arena);
}

static void an_adapter_of_another_model_leaves_nothing_behind(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};
    const char *base = fixture_model(&arena, pool, false, "float32"), *adapter = make_adapter(&arena, pool, base);
    const char *merged = path_join(&arena, fixture_folder(&arena), "merged");
    struct safetensors_entry entry = {.name = "model.other.weight", .type = DTYPE_F32, .rank = 1, .shape = {1}};
    struct safetensors_writer writer;
    float one = 1;
    struct err err = {0};

    assert_ok(safetensors_write_begin(&writer, path_join(&arena, base, "model.safetensors"), &entry, 1, &err), err);
    assert_ok(safetensors_write(&writer, &one, sizeof one, &err), err);
    assert_ok(safetensors_write_end(&writer, NULL, NULL, &err), err);
    assert_false(merge_write(base, adapter, merged, pool, &err));
    assert_non_null(strstr(err.text, "belongs to no tensor"));
    assert_false(dir_exists(merged));
    assert_false(dir_exists(arena_printf(&arena, "%s.tmp", merged)));
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merged_model_computes_what_base_and_adapter_do),
        cmocka_unit_test(each_weight_is_rounded_once_to_its_own_type),
        cmocka_unit_test(everything_else_of_the_base_is_copied),
        cmocka_unit_test(shards_stay_as_the_base_has_them),
        cmocka_unit_test(an_adapter_of_another_model_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
