#include "fixture.h"
#include "base/json.h"

/* weight: of every token; 0: no row has a label */
static double run_weighed(struct model *model, float weight)
{
    static const int32_t tokens[16] = {1, 5, 9, 36, 7, 7, 2, 3, 1, 8, 8, 20, 21, 4, 3, 2}, cu_seqlens[3] = {0, 8, 16};
    float weights[16];
    struct model_result result = {0};
    struct arena arena = {0};
    struct batch batch;

    for (int i = 0; i < 16; i++)
        weights[i] = weight;
    batch_make(&arena, &batch, tokens, cu_seqlens, 2, NULL, weights, 1.0f / 14);
    model_zero_grads(model);
    model_forward_backward(model, &batch, true, NULL, &result);
    arena_deinit(&arena);
    return result.loss;
}

static double run(struct model *model)
{
    return run_weighed(model, 1);
}

static uint64_t regions_total(const struct plan *plan)
{
    uint64_t total = 0;

    for (int i = 0; i < plan->region_count; i++)
        total += plan->region[i].bytes;
    return total;
}

static void the_dry_run_is_what_opening_takes(void **state)
{
    static const struct lora_config loras[] = {{0}, {.rank = 4, .alpha = 4}};
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int k = 0; k < 8; k++) {
        const char *folder = fixture_model(&arena, pool, k & 1, k & 2 ? "bfloat16" : "float32");
        struct model_options options = fixture_options(k & 2 ? PROFILE_BF16 : PROFILE_F32, &backend_ref, pool);
        struct model *model;
        struct plan dry;
        struct err err;
        options.lora = loras[k / 4];
        assert_ok(model_plan(folder, &options, &dry, &err), err);
        model = fixture_open(folder, &options);
        assert_int_equal(dry.total_bytes, model_plan_used(model)->total_bytes);
        assert_int_equal(dry.total_bytes, regions_total(&dry));
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void every_familys_dry_run_is_what_opening_takes(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};

    for (int k = 0; k < 4 * TINY_FAMILY_COUNT; k++) {
        const char *folder = fixture_family(&arena, &tiny_families[k / 4]);
        struct model_options options = fixture_options(k & 1 ? PROFILE_BF16 : PROFILE_F32, &backend_cpu, pool);
        struct model *model;
        struct plan dry;
        struct err err;
        options.is_random = true;
        options.lora = k & 2 ? (struct lora_config){.rank = 2, .alpha = 2} : (struct lora_config){0};
        assert_ok(model_plan(folder, &options, &dry, &err), err);
        model = fixture_open(folder, &options);
        assert_int_equal(dry.total_bytes, model_plan_used(model)->total_bytes);
        assert_int_equal(dry.total_bytes, regions_total(&dry));
        run(model);
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* Of every family, in full and as an adapter: weights that are not read, and half of the layers. */
static void a_slice_runs_and_costs_its_share(void **state)
{
    static const int32_t cu_seqlens[2] = {0, 16};
    const struct batch batch = {.T = 16, .doc_count = 1, .cu_seqlens = cu_seqlens, .head_row_count = 15};
    struct pool *pool = pool_new(1);
    struct arena arena = {0};

    for (int k = 0; k < 2 * TINY_FAMILY_COUNT; k++) {
        const char *folder = fixture_family(&arena, &tiny_families[k / 2]);
        struct model_options options = fixture_options(PROFILE_F32, &backend_cpu, pool);
        struct plan_cost cost[2];
        struct plan plan;
        struct err err;
        options.lora = k % 2 ? (struct lora_config){.rank = 2, .alpha = 2} : (struct lora_config){0};
        for (options.slice = 1; options.slice <= 2; options.slice++) {
            struct model *model;
            options.plan = NULL;
            assert_ok(model_plan(folder, &options, &plan, &err), err);
            model = fixture_open(folder, &options);
            run(model);
            assert_int_equal(model_plan_used(model)->total_bytes, plan.total_bytes);
            options.plan = &plan;
            assert_ok(model_cost(folder, &options, &batch, &cost[options.slice - 1], &err), err);
            assert_int_equal(cost[options.slice - 1].parameters, model_params(model)->total_count);
            model_close(model);
        }
        assert_true(cost[1].flops < cost[0].flops && cost[1].flops > 0.3 * cost[0].flops);
        assert_true(cost[0].flops > 2 * (cost[0].forward_flops + cost[0].head_flops));
        assert_true(cost[0].head_flops == cost[1].head_flops);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* From all activations kept down to the least: each limit is met, each plan computes the same loss, and below the least
 * the refusal says what to change. */
static void check_limits(struct pool *pool, const char *folder)
{
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct model *model;
    uint64_t limit;
    double loss;
    int met = 0;
    struct err err = {0};

    options.is_random = true;
    model = fixture_open(folder, &options);
    limit = model_plan_used(model)->total_bytes;
    loss = run(model);
    model_close(model);
    for (;; limit -= 4096) {
        options.limit_bytes = limit;
        if (!model_open(&model, folder, &options, &err))
            break;
        assert_true(model_plan_used(model)->total_bytes <= limit);
        assert_true(relative_error(run(model), loss) < 1e-12);
        met++;
        model_close(model);
    }
    assert_true(met > 3);
    assert_int_equal(err.code, ERR_NO_SPACE);
    assert_non_null(strstr(err.text, "context_length"));
    assert_non_null(strstr(err.text, "lora"));
}

static void every_limit_is_met_or_refused(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};

    check_limits(pool, fixture_config(&arena, true, "float32"));
    check_limits(pool, fixture_family(&arena, &tiny_families[TINY_FAMILY_COUNT - 1]));
    pool_free(pool);
    arena_deinit(&arena);
}

static void a_stored_plan_is_obeyed(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "float32");
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    struct strbuf text = {0};
    struct json_writer writer = {.buf = &text};
    struct model *model;
    struct plan stored;
    struct json *json;
    struct err err;

    options.is_random = true;
    options.fixed_keep_plus_one = (KEEP_QKV | KEEP_MIDDLE) + 1;
    model = fixture_open(folder, &options);
    plan_write(model_plan_used(model), model_config(model), &writer);
    json = json_parse(&arena, strbuf_view(&text), NULL, &err);
    assert_ok(json && plan_read(json, model_config(model), &stored, &err), err);
    assert_int_equal(stored.keep[1], KEEP_QKV | KEEP_MIDDLE);
    model_close(model);
    options.fixed_keep_plus_one = 0;
    options.plan = &stored;
    model = fixture_open(folder, &options);
    assert_int_equal(model_plan_used(model)->keep[0], KEEP_QKV | KEEP_MIDDLE);
    assert_int_equal(model_plan_used(model)->total_bytes, json_get(json, "total_bytes")->integer);
    strbuf_clear(&text);
    plan_print(model_plan_used(model), model_config(model), &text);
    assert_non_null(strstr(text.at, "norms in 2 of 2 layers, gate-up in 2 of 2 layers, attention in 2 of 2 layers"));
    model_close(model);
    strbuf_deinit(&text);
    pool_free(pool);
    arena_deinit(&arena);
}

static void damaged_plans_are_refused(void **state)
{
    static const char *const texts[] = {
        "{}",
        "{\"format\":2,\"tokens\":8,\"head_rows\":8,\"positions\":8,\"keep\":[63,63]}",
        "{\"format\":1,\"tokens\":0,\"head_rows\":8,\"positions\":8,\"keep\":[63,63]}",
        "{\"format\":1,\"tokens\":8,\"head_rows\":99999999,\"positions\":8,\"keep\":[63,63]}",
        "{\"format\":1,\"tokens\":8,\"head_rows\":8,\"positions\":8,\"keep\":[63]}",
        "{\"format\":1,\"tokens\":8,\"head_rows\":8,\"positions\":8,\"keep\":[63,128]}",
    };
    struct model_config config = {.layers = 2};
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct plan plan;
        struct err err = {0};
        assert_false(plan_read(json_parse(&arena, str_of(texts[i]), NULL, &err), &config, &plan, &err));
        assert_non_null(strstr(err.text, "plan.json"));
    }
    arena_deinit(&arena);
}

static void more_positions_than_the_model_has_are_refused(void **state)
{
    struct arena arena = {0};
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, NULL);
    struct plan plan;
    struct err err = {0};

    options.row_tokens = options.tokens_wanted = 65;
    assert_false(model_plan(fixture_config(&arena, true, "float32"), &options, &plan, &err));
    assert_non_null(strstr(err.text, "max_position_embeddings is 64"));
    arena_deinit(&arena);
}

/* Ranges tile the arenas, carry the decay of every tensor in them, and name a copy exactly where one is read. */
static void ranges_tile_the_arenas(void **state)
{
    struct pool *pool = pool_new(1);
    struct arena arena = {0};

    for (int k = 0; k < 8; k++) {
        struct model_options options = fixture_options(k & 1 ? PROFILE_BF16 : PROFILE_F32, &backend_ref, pool);
        struct model_range ranges[MODEL_RANGES_MAX];
        struct model *model;
        uint64_t count, total = 0;
        double *partial;
        float *grads;
        int range_count;
        options.is_random = true;
        options.lora = k & 4 ? (struct lora_config){.rank = 2, .alpha = 2} : (struct lora_config){0};
        model = fixture_open(fixture_config(&arena, k & 2, "float32"), &options);
        grads = model_grads(model, &count, &partial);
        range_count = model_ranges(model, ranges, MODEL_RANGES_MAX);
        for (int r = 0; r < range_count; r++) {
            assert_ptr_equal(ranges[r].grad, grads + total);
            assert_true(!ranges[r].copy || (k & 1));
            total += ranges[r].count;
        }
        assert_int_equal(total, count);
        for (int i = 0; i < model_params(model)->count; i++) {
            struct param_view view = model_param_view(model, i);
            const struct param *param = &model_params(model)->param[i];
            for (int r = 0; view.grad && r < range_count; r++)
                if (view.grad >= ranges[r].grad && (float *)view.grad < (float *)ranges[r].grad + ranges[r].count) {
                    assert_int_equal(ranges[r].has_decay, !param->is_vector);
                    if ((k & 1) && !param->is_vector)
                        assert_int_equal(ranges[r].copy != NULL, (k & 4) != 0);
                }
        }
        model_close(model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

static void assert_same_gradients(struct model *a, struct model *b, const char *family)
{
    uint64_t count, other_count;
    double *partial;
    const float *grads = model_grads(a, &count, &partial), *others = model_grads(b, &other_count, &partial);

    assert_int_equal(count, other_count);
    for (uint64_t i = 0; i < count; i++)
        if (memcmp(&grads[i], &others[i], sizeof *grads))
            fail_msg("%s: gradient %d is %.9g over activations, %.9g in memory of its own", family, (int)i,
                     (double)others[i], (double)grads[i]);
}

/* The whole arena, its gaps too; again after a pass that has overwritten it, and once without a row that meets the
 * head. */
static void gradients_over_activations_have_the_same_bits(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int k = 0; k < 2 * TINY_FAMILY_COUNT; k++) {
        const struct tiny_family *family = &tiny_families[k / 2];
        struct model_options options = fixture_options(k & 1 ? PROFILE_BF16 : PROFILE_F32, &backend_ref, pool);
        const char *folder = fixture_family(&arena, family);
        struct model *own, *over;
        options.is_random = true;
        options.fixed_keep_plus_one = k & 1 ? 1 : KEEP_ALL + 1;
        own = fixture_open(folder, &options);
        options.step_tokens = options.tokens_wanted;
        over = fixture_open(folder, &options);
        assert_true(model_plan_used(over)->total_bytes < model_plan_used(own)->total_bytes);
        for (int pass = 0; pass < 3; pass++) {
            assert_true(run_weighed(own, pass < 2) == run_weighed(over, pass < 2));
            assert_same_gradients(own, over, family->name);
        }
        model_close(own);
        model_close(over);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_dry_run_is_what_opening_takes),
        cmocka_unit_test(every_familys_dry_run_is_what_opening_takes),
        cmocka_unit_test(a_slice_runs_and_costs_its_share),
        cmocka_unit_test(every_limit_is_met_or_refused),
        cmocka_unit_test(a_stored_plan_is_obeyed),
        cmocka_unit_test(damaged_plans_are_refused),
        cmocka_unit_test(more_positions_than_the_model_has_are_refused),
        cmocka_unit_test(ranges_tile_the_arenas),
        cmocka_unit_test(gradients_over_activations_have_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
