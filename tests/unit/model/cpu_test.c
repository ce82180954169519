/* The fast backend under the whole pass: next to the reference, and the same bits for any number of threads. */
#include "fixture.h"

enum { T = 192, DOCS = 3, THREADS_MAX = 3 };

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":96,\"intermediate_size\":168,\"num_hidden_layers\":2,\"num_attention_"
    "heads\":6,"
    "\"num_key_value_heads\":2,\"vocab_size\":301,\"max_position_embeddings\":256,\"tie_word_embeddings\":true,"
    "\"torch_dtype\":\"float32\",\"initializer_range\":0.1}";

static struct model *open_model(const char *folder, const struct backend *backend, struct pool *pool,
                                enum model_profile profile, int32_t rank)
{
    struct model_options options = fixture_options(profile, backend, pool);

    options.is_random = true;
    options.row_tokens = options.tokens_wanted = T;
    options.lora = (struct lora_config){.rank = rank, .alpha = 4, .dropout = rank ? 0.1 : 0};
    return fixture_open(folder, &options);
}

/* Adapters begin with B = 0; any numbers do. */
static void fill_adapters(struct model *model)
{
    for (int i = 0; i < model_params(model)->count; i++) {
        struct param_view view = model_param_view(model, i);
        if (strstr(model_params(model)->param[i].name, "lora_B"))
            for (int32_t e = 0; e < view.rows * view.cols; e++)
                ((float *)view.master)[e / view.cols * view.ld + e % view.cols] = (float)sin(e + i) / 8;
    }
    model_masters_changed(model);
}

static struct model_result run(struct model *model)
{
    static const int32_t cu_seqlens[DOCS + 1] = {0, 70, 71, T};
    struct model_step step = {.seed = 1, .step = 2, .row_offset = 3};
    struct model_result result = {0};
    struct arena arena = {0};
    struct batch batch;
    int32_t tokens[T];
    float weights[T];

    for (int32_t t = 0; t < T; t++) {
        tokens[t] = t * t % 301;
        weights[t] = t % 5 != 0;
    }
    batch_make(&arena, &batch, tokens, cu_seqlens, DOCS, NULL, weights, 1.0f / 100);
    model_zero_grads(model);
    model_forward_backward(model, &batch, true, &step, &result);
    arena_deinit(&arena);
    return result;
}

static void threads_do_not_change_bits(void **state)
{
    struct arena arena = {0};
    const char *folder = fixture_folder(&arena);

    fixture_write(&arena, folder, "config.json", config);
    for (int k = 0; k < 4; k++) {
        struct model_result results[THREADS_MAX];
        float *grads[THREADS_MAX];
        for (int threads = 1; threads <= THREADS_MAX; threads++) {
            struct pool *pool = pool_new(threads);
            struct model *model =
                open_model(folder, &backend_cpu, pool, k & 1 ? PROFILE_BF16 : PROFILE_F32, k & 2 ? 4 : 0);
            uint64_t count;
            double *partial;
            float *from;
            fill_adapters(model);
            results[threads - 1] = run(model);
            from = model_grads(model, &count, &partial);
            grads[threads - 1] = arena_alloc(&arena, count * sizeof *from);
            memcpy(grads[threads - 1], from, count * sizeof *from);
            assert_memory_equal(&results[threads - 1], &results[0], sizeof *results);
            if (memcmp(grads[threads - 1], grads[0], count * sizeof *from))
                fail_msg("case %d: gradients of %d threads differ from those of one", k, threads);
            model_close(model);
            pool_free(pool);
        }
    }
    arena_deinit(&arena);
}

/* |a - b| in the norm of all gradients, relative. */
static double gradient_error(struct model *a, struct model *b)
{
    uint64_t count;
    double *partial, difference = 0, norm = 0;
    const float *x = model_grads(a, &count, &partial), *y = model_grads(b, &count, &partial);

    for (uint64_t i = 0; i < count; i++) {
        difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        norm += (double)y[i] * (double)y[i];
    }
    return sqrt(difference / norm);
}

static void the_fast_backend_agrees_with_the_reference(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(2);
    const char *folder = fixture_folder(&arena);

    fixture_write(&arena, folder, "config.json", config);
    for (int k = 0; k < 4; k++) {
        enum model_profile profile = k & 1 ? PROFILE_BF16 : PROFILE_F32;
        struct model *cpu = open_model(folder, &backend_cpu, pool, profile, k & 2 ? 4 : 0);
        struct model *ref = open_model(folder, &backend_ref, pool, profile, k & 2 ? 4 : 0);
        double loss, gradient;
        fill_adapters(cpu);
        fill_adapters(ref);
        loss = relative_error(run(cpu).loss, run(ref).loss);
        gradient = gradient_error(cpu, ref);
        print_message("cpu against ref, %s%s: loss err %.1e, gradient err %.1e\n", model_profile_name(profile),
                      k & 2 ? " lora" : "", loss, gradient);
        assert_true(loss <= (k & 1 ? 1e-3 : 1e-6));
        assert_true(gradient <= (k & 1 ? 2e-2 : 1e-5));
        model_close(cpu);
        model_close(ref);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(the_fast_backend_agrees_with_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
