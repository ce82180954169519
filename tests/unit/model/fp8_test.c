/* Models that train with products in eight bits: every family without experts, beside bf16, whatever is computed again,
 * and what is refused. */
#include "fixture.h"

#include "compute/cpu/cpu.h"

enum { TOKENS = 48, STEPS = 25 };

struct run {
    struct model *model;
    struct model_range range[MODEL_RANGES_MAX];
    int range_count;
};

static void run_open(struct run *run, const char *folder, const struct model_options *options)
{
    run->model = fixture_open(folder, options);
    run->range_count = model_ranges(run->model, run->range, MODEL_RANGES_MAX);
}

static double train_step(struct run *run, struct arena *arena, int64_t k)
{
    int32_t tokens[TOKENS], cu_seqlens[] = {0, 20, TOKENS};
    struct model_step place = {.seed = 3, .step = (uint32_t)k, .tokens = TOKENS};
    struct model_result result = {0};
    float weights[TOKENS];
    struct batch batch;
    double sumsq;

    for (int32_t t = 0; t < TOKENS; t++) {
        tokens[t] = t * t % model_config(run->model)->vocab;
        weights[t] = 1;
    }
    model_zero_grads(run->model);
    batch_make(arena, &batch, tokens, cu_seqlens, 2, NULL, weights, 1.0f / (TOKENS - 2));
    model_forward_backward(run->model, &batch, true, &place, &result);
    struct op_adamw rule = {.sumsq = model_grad_sumsq(run->model, &sumsq),
                            .max_norm = 1,
                            .lr = 1e-2f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .step = k,
                            .seed = 11};
    model_update(run->model, run->range, run->range_count, &rule);
    return result.loss;
}

static struct model_options options_of(struct pool *pool, bool is_fp8, bool has_lora)
{
    struct model_options options = fixture_options(PROFILE_BF16, &backend_cpu, pool);

    options.is_random = true;
    options.is_fp8 = is_fp8;
    if (has_lora)
        options.lora = (struct lora_config){.rank = 4, .alpha = 8, .dropout = 0.1};
    return options;
}

/* Steps of the same model in fp8 and in bf16: losses go down side by side, and are not the same. */
static void expect_beside(const char *name, const char *folder, bool has_lora, struct pool *pool)
{
    struct arena arena = {0};
    struct model_options options[] = {options_of(pool, false, has_lora), options_of(pool, true, has_lora)};
    struct run *run = arena_new_array(&arena, struct run, 2);
    double first = 0, last[2] = {0}, worst = 0;

    for (int i = 0; i < 2; i++)
        run_open(&run[i], folder, &options[i]);
    for (int64_t k = 1; k <= STEPS; k++) {
        for (int i = 0; i < 2; i++)
            last[i] = train_step(&run[i], &arena, k);
        first = k == 1 ? last[0] : first;
        worst = fmax(worst, fabs(last[1] - last[0]));
    }
    if (!(last[0] < first && worst > 0 && worst < 0.1 * (first - last[0]) + 0.02))
        fail_msg("%s%s: the loss of bf16 goes from %.4f to %.4f, fp8 to %.4f, at most %.4f away", name,
                 has_lora ? ", LoRA" : "", first, last[0], last[1], worst);
    for (int i = 0; i < 2; i++)
        model_close(run[i].model);
    arena_deinit(&arena);
}

static void every_family_without_experts_trains_beside_bf16(void **state)
{
    struct pool *pool = pool_new(2);
    struct arena arena = {0};

    for (int i = -1; i < TINY_FAMILY_COUNT; i++) {
        const char *name = i < 0 ? "llama" : tiny_families[i].name;
        const char *folder =
            i < 0 ? fixture_config(&arena, true, "bfloat16") : fixture_family(&arena, &tiny_families[i]);
        struct model_options options = options_of(pool, true, false);
        struct plan plan;
        struct err err;
        if (model_plan(folder, &options, &plan, &err)) {
            expect_beside(name, folder, false, pool);
            expect_beside(name, folder, true, pool);
        } else {
            assert_string_equal(err.text, "fp8 is not supported for mixtures of experts");
        }
    }
    pool_free(pool);
    arena_deinit(&arena);
}

/* Threads share out the search for the largest magnitudes; what is not kept is computed again, its scales too. */
static void threads_and_what_is_kept_do_not_change_a_bit(void **state)
{
    static const int keeps[] = {KEEP_ALL, 0, KEEP_ALL & ~(KEEP_NORM1 | KEEP_NORM2)};
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "bfloat16");
    double want = 0;

    for (int i = 0; i < 6; i++) {
        struct pool *pool = pool_new(1 + i % 2 * 2);
        struct model_options options = options_of(pool, true, i % 2);
        struct run *run = arena_new(&arena, struct run);
        double loss = 0;
        options.fixed_keep_plus_one = keeps[i / 2] + 1;
        options.lora = (struct lora_config){.rank = 3, .alpha = 6};
        run_open(run, folder, &options);
        for (int64_t k = 1; k <= 4; k++)
            loss = train_step(run, &arena, k);
        want = i ? want : loss;
        if (loss != want)
            fail_msg("run %d: loss %.17g, not %.17g", i, loss, want);
        model_close(run->model);
        pool_free(pool);
    }
    arena_deinit(&arena);
}

static void what_does_not_go_with_it_is_refused_by_name(void **state)
{
    static const struct {
        enum model_profile profile;
        bool is_nf4, is_dora;
        const char *said;
    } cases[] = {
        {PROFILE_F64, false, false, "fp8 does not go with numbers of f64"},
        {PROFILE_BF16, true, false, "fp8 does not go with weights of four bits"},
        {PROFILE_BF16, false, true, "use_dora is not supported with fp8"},
    };
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "bfloat16");

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_options options = options_of(NULL, true, true);
        struct plan plan;
        struct err err;
        options.profile = cases[i].profile;
        options.is_nf4 = cases[i].is_nf4;
        options.is_random = !cases[i].is_nf4;
        options.lora.is_dora = cases[i].is_dora;
        assert_false(model_plan(folder, &options, &plan, &err));
        if (!strstr(err.text, cases[i].said))
            fail_msg("'%s' does not say '%s'", err.text, cases[i].said);
    }
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_without_experts_trains_beside_bf16),
        cmocka_unit_test(threads_and_what_is_kept_do_not_change_a_bit),
        cmocka_unit_test(what_does_not_go_with_it_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
