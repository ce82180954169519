/* Training in 8 bytes a parameter: weights, gradients and moments in bf16, rounded stochastically; and in 6, with
 * moments in bytes. */
#include "fixture.h"

#include "compute/cpu/cpu.h"

enum { TOKENS = 48, STEPS = 30, RESUMED_AT = 11 };
static const enum model_profile profiles[] = {PROFILE_BF16_STATE, PROFILE_BYTE_MOMENTS};

struct run {
    struct model *model;
    struct model_range range[MODEL_RANGES_MAX];
    int range_count;
};

static void run_open(struct run *run, const char *folder, enum model_profile profile, struct pool *pool)
{
    struct model_options options = fixture_options(profile, &backend_cpu, pool);

    options.is_random = true;
    run->model = fixture_open(folder, &options);
    run->range_count = model_ranges(run->model, run->range, MODEL_RANGES_MAX);
}

/* Two micro-batches, the same in every step. */
static double train_step(struct run *run, struct arena *arena, int64_t k, float rate)
{
    int32_t tokens[TOKENS], cu_seqlens[] = {0, 20, TOKENS};
    struct model_result result = {0};
    float weights[TOKENS];
    struct batch batch;
    double sumsq;

    model_zero_grads(run->model);
    for (int32_t micro = 0; micro < 2; micro++) {
        struct model_step place = {
            .seed = 3, .step = (uint32_t)k, .row_offset = (uint64_t)(micro * TOKENS), .tokens = 2 * TOKENS};
        for (int32_t t = 0; t < TOKENS; t++) {
            tokens[t] = (t * t + 7 * micro) % model_config(run->model)->vocab;
            weights[t] = 1;
        }
        batch_make(arena, &batch, tokens, cu_seqlens, 2, NULL, weights, 1.0f / (2 * (TOKENS - 2)));
        model_forward_backward(run->model, &batch, true, &place, &result);
    }
    struct op_adamw rule = {.sumsq = model_grad_sumsq(run->model, &sumsq),
                            .max_norm = 1,
                            .lr = rate,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .decay = 0.01f,
                            .step = k,
                            .seed = 11};
    model_update(run->model, run->range, run->range_count, &rule);
    return result.loss;
}

static void expect_same_state(struct model *a, struct model *b, const char *what)
{
    for (int i = 0; i < model_params(a)->count; i++) {
        struct param_view x = model_param_view(a, i), y = model_param_view(b, i);
        void *const first[] = {x.master, x.m, x.v}, *const second[] = {y.master, y.m, y.v};
        for (int part = 0; part < 3; part++)
            for (int32_t r = 0; r < x.rows; r++) {
                size_t size = dtype_bytes(part ? x.moment_type : x.type), bytes = (size_t)x.cols * size;
                if (memcmp((char *)first[part] + (size_t)r * (size_t)x.ld * size,
                           (char *)second[part] + (size_t)r * (size_t)y.ld * size, bytes) != 0)
                    fail_msg("%s: part %d of %s has other bits", what, part, model_params(a)->param[i].name);
            }
    }
    for (int is_v = 0; model_moment_scales(a, false) && is_v < 2; is_v++)
        assert_memory_equal(model_moment_scales(a, is_v), model_moment_scales(b, is_v),
                            params_scale_count(model_params(a)) * sizeof(float));
}

static void any_threads_and_a_resumed_run_have_the_same_bits(void **state)
{
    struct arena arena = {0};

    for (int family = -1, turn = 0; family < TINY_FAMILY_COUNT; family += 2, turn++) {
        enum model_profile profile = profiles[turn % 2];
        const char *folder =
            family < 0 ? fixture_config(&arena, true, "bfloat16") : fixture_family(&arena, &tiny_families[family]);
        const char *path = path_join(&arena, folder, "state.safetensors");
        struct run run[3];
        struct err err;
        for (int threads = 1; threads <= 3; threads++) {
            struct pool *pool = pool_new(threads);
            struct run *one = &run[threads - 1];
            run_open(one, folder, profile, pool);
            for (int64_t k = 1; k <= STEPS; k++) {
                if (threads == 3 && k == RESUMED_AT) {
                    assert_ok(checkpoint_write_state(one->model, path, NULL, NULL, &err), err);
                    model_close(one->model);
                    run_open(one, folder, profile, pool);
                    assert_ok(checkpoint_read_state(one->model, path, &err), err);
                }
                train_step(one, &arena, k, 1e-2f);
            }
            expect_same_state(run[0].model, one->model, threads == 3 ? "three threads, resumed" : "two threads");
            pool_free(pool);
        }
        for (int i = 0; i < 3; i++)
            model_close(run[i].model);
    }
    arena_deinit(&arena);
}

/* Every family trains: what its operations read and write may be bf16. */
static void every_family_trains(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int i = 0; i < TINY_FAMILY_COUNT; i++) {
        struct run *run = arena_new(&arena, struct run);
        double first, last = 0;
        run_open(run, fixture_family(&arena, &tiny_families[i]), profiles[i % 2], pool);
        first = train_step(run, &arena, 1, 1e-2f);
        for (int64_t k = 2; k <= 12; k++)
            last = train_step(run, &arena, k, 1e-2f);
        if (!(last < first))
            fail_msg("%s: the loss goes from %.6f to %.6f", tiny_families[i].name, first, last);
        model_close(run->model);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* At a rate at which rounding to nearest would lose most updates the loss stays beside that of f32 masters. */
static void the_loss_follows_that_of_f32_masters(void **state)
{
    enum { LONG = 400 };
    struct pool *pool = pool_new(2);
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "float32");
    struct run *run = arena_new_array(&arena, struct run, 3);
    double worst[2] = {0}, first = 0, last = 0;

    run_open(&run[0], folder, PROFILE_BF16, pool);
    for (int i = 0; i < 2; i++)
        run_open(&run[1 + i], folder, profiles[i], pool);
    for (int64_t k = 1; k <= LONG; k++) {
        double want = train_step(&run[0], &arena, k, 3e-4f);
        for (int i = 0; i < 2; i++)
            worst[i] = fmax(worst[i], fabs(train_step(&run[1 + i], &arena, k, 3e-4f) - want));
        first = k == 1 ? want : first;
        last = want;
    }
    print_message(
        "the loss falls from %.4f to %.4f; with bf16 state it is at most %.4f away, with moments in bytes %.4f\n",
        first, last, worst[0], worst[1]);
    assert_true(last < first - 0.5);
    assert_true(worst[0] < 0.02 * (first - last));
    assert_true(worst[1] < 0.05 * (first - last));
    for (int i = 0; i < 3; i++)
        model_close(run[i].model);
    pool_free(pool);
    arena_deinit(&arena);
}

static void expect_bytes(enum model_profile profile, double each, uint64_t slack)
{
    struct arena arena = {0};
    struct model_options options = fixture_options(profile, &backend_cpu, NULL);
    const char *folder = fixture_config(&arena, false, "bfloat16");
    struct plan plan;
    struct err err;
    struct model *model;
    uint64_t bytes = 0, vectors = 0, matrices = 0;

    assert_ok(model_plan(folder, &options, &plan, &err), err);
    for (enum plan_part part = PLAN_WEIGHTS; part <= PLAN_OPTIMIZER; part++)
        bytes += plan_part_bytes(&plan, part);
    options.is_random = true;
    options.pool = pool_new(1);
    model = fixture_open(folder, &options);
    for (int i = 0; i < model_params(model)->count; i++) {
        const struct param *param = &model_params(model)->param[i];
        *(param->is_vector ? &vectors : &matrices) += (uint64_t)param->rows * (uint64_t)param->cols;
    }
    assert_true((double)bytes >= each * (double)matrices + 16 * (double)vectors);
    assert_true((double)bytes <=
                each * (double)matrices + (double)(16 * vectors + slack * (uint64_t)model_params(model)->count));
    model_close(model);
    pool_free(options.pool);
    arena_deinit(&arena);
}

static void a_parameter_takes_eight_bytes_or_six(void **state)
{
    expect_bytes(PROFILE_BF16_STATE, 8, 1024);
    expect_bytes(PROFILE_BYTE_MOMENTS, 6 + 8.0 / 256, 2048);
}

static void adapters_keep_their_f32(void **state)
{
    struct arena arena = {0};
    struct model_options options = fixture_options(PROFILE_BF16_STATE, &backend_cpu, NULL);
    struct plan plan;
    struct err err;

    options.lora = (struct lora_config){.rank = 2, .alpha = 2};
    assert_false(model_plan(fixture_config(&arena, true, "bfloat16"), &options, &plan, &err));
    assert_non_null(strstr(err.text, "full fine-tuning"));
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_threads_and_a_resumed_run_have_the_same_bits),
        cmocka_unit_test(every_family_trains),
        cmocka_unit_test(the_loss_follows_that_of_f32_masters),
        cmocka_unit_test(a_parameter_takes_eight_bytes_or_six),
        cmocka_unit_test(adapters_keep_their_f32),
    };

    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
