/* The CUDA backend on the emulated device: its operations beside the reference, and models that train on it beside the
 * processor. The library is opened as the program opens it. */
#include "model/fixture.h"

#include "compute/device.h"
#include "compute/layout.h"
#include "compute/selftest/selftest.h"
#include "infer/generate.h"
#include "model/adapter.h"
#include "model/merge.h"
#include "model/state_copy.h"

enum { ROUNDS = 2, T = 40, STEPS = 12, REPLY_TOKENS = 20, REPLIES = 4 };

static const struct backend *device(void)
{
    struct err err;
    int index;
    const struct backend *backend = device_find("cuda", &index, &err);

    assert_ok(backend, err);
    return backend;
}

static void expect_agreement(void *context, const struct selftest_result *result)
{
    *(int *)context += result->comparison_count;
    if (result->failure_count)
        print_error("%s: %s\n", op_name(result->op), result->failure);
}

static void every_operation_agrees_with_the_reference(void **state)
{
    struct selftest_options options = {.seed = (uint64_t)getpid(), .rounds = ROUNDS};
    int compared_count = 0;
    struct err err = {0};

    print_message("seed %d\n", (int)options.seed);
    assert_int_equal(selftest_run(device(), &options, expect_agreement, &compared_count, &err), 0);
    assert_true(compared_count > 60);
}

/* By our own kernel, and by the library of a device that multiplies them. */
static void products_in_eight_bits_agree_with_the_reference(void **state)
{
    static const char *const cases[] = {"eight", "eight_grad"};
    struct err err = {0};

    for (int i = 0; i < 4; i++) {
        struct selftest_options options = {.seed = (uint64_t)getpid(), .rounds = 6, .only = cases[i % 2]};
        int compared_count = 0;
        if (i >= 2)
            setenv("ATTUNE_EMULATED_CAPABILITY", "90", 1);
        print_message("seed %d\n", (int)options.seed);
        assert_int_equal(selftest_run(device(), &options, expect_agreement, &compared_count, &err), 0);
        assert_true(compared_count >= 6);
    }
    unsetenv("ATTUNE_EMULATED_CAPABILITY");
}

static void a_device_that_is_not_there_is_named(void **state)
{
    struct err err = {0};
    int index;

    assert_null(device_find("cuda:9", &index, &err));
    assert_non_null(strstr(err.text, "device cuda:9: there are 1 GPUs"));
    assert_null(device_find("gpu", &index, &err));
    assert_non_null(strstr(err.text, "'gpu' is not cpu, cuda or cuda:N"));
    assert_true(device_name_is_valid("cuda:12") && !device_name_is_valid("cuda:") && !device_name_is_valid("cuda:1x"));
}

static void a_library_of_other_structs_is_refused(void **state)
{
    struct err err = {0};
    struct cuda_module module = {.module_bytes = sizeof module, .layout = ATTUNE_LAYOUT, .version = ATTUNE_VERSION};

    assert_true(device_module_check(&module, &err));
    module.layout = "0123456789abcdef0123456789abcdef";
    assert_false(device_module_check(&module, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_non_null(strstr(err.text, "libattune_cuda.so belongs to another build of attune"));
    module = (struct cuda_module){.module_bytes = sizeof module, .layout = ATTUNE_LAYOUT, .version = "0.0.0"};
    assert_false(device_module_check(&module, &err));
    module = (struct cuda_module){.module_bytes = sizeof module - 8};
    assert_false(device_module_check(&module, &err));
    assert_false(device_module_check(NULL, &err));
}

/* A model on the device and the same one on the processor. */
static struct model *open_on(const char *folder, bool is_on_device, struct pool *pool, struct model_options options)
{
    options.backend = is_on_device ? device() : &backend_cpu;
    options.pool = pool;
    return fixture_open(folder, &options);
}

static void put_master(struct model *model, const struct param_view *view, const float *values)
{
    const struct memory *memory = model_backend(model)->memory;
    size_t row_bytes = (size_t)view->cols * sizeof(float);
    struct stretches to = {view->master, (size_t)view->ld * sizeof(float)};
    struct stretches from = {(void *)(uintptr_t)values, row_bytes};

    if (memory)
        memory->put(model_queue(model), to, from, row_bytes, (size_t)view->rows);
    else
        for (int32_t r = 0; r < view->rows; r++)
            memcpy((float *)view->master + (size_t)r * (size_t)view->ld, values + (size_t)r * (size_t)view->cols,
                   row_bytes);
}

/* Adapters begin with B = 0; any numbers do. */
static void fill_adapters(struct model *model)
{
    for (int i = 0; i < model_params(model)->count; i++) {
        struct param_view view = model_param_view(model, i);
        int32_t count = view.rows * view.cols;
        float *values;
        if (!strstr(model_params(model)->param[i].name, "lora_B"))
            continue;
        values = mem_alloc((size_t)count * sizeof *values);
        for (int32_t e = 0; e < count; e++)
            values[e] = (float)sin(e + i) / 8;
        put_master(model, &view, values);
        free(values);
    }
    model_masters_changed(model);
}

/* Two documents; every third token is no label. */
static void make_batch(struct arena *arena, const struct model *model, int k, struct batch *batch)
{
    static const int32_t cu_seqlens[] = {0, 23, T};
    int32_t *tokens = arena_new_array(arena, int32_t, T);
    float *weights = arena_new_array(arena, float, T);

    for (int32_t t = 0; t < T; t++) {
        tokens[t] = (t * t + k) % model_config(model)->vocab;
        weights[t] = t % 3 != 0;
    }
    batch_make(arena, batch, tokens, cu_seqlens, 2, NULL, weights, 1.0f / 25);
}

static double pass(struct model *model, struct arena *arena, int k)
{
    struct model_step step = {.seed = 1, .step = (uint32_t)k, .row_offset = 3, .tokens = T};
    struct model_result result = {0};
    struct batch batch;

    make_batch(arena, model, k, &batch);
    model_zero_grads(model);
    model_forward_backward(model, &batch, true, &step, &result);
    return result.loss;
}

static float *gradient_of(struct model *model, struct arena *arena, uint64_t *count)
{
    float *values;

    *count = model_params(model)->trained_count;
    values = arena_new_array(arena, float, *count);
    model_grads_read(model, values);
    return values;
}

/* |a - b| / |b| */
static double distance(const float *a, const float *b, uint64_t count)
{
    double difference = 0, norm = 0;

    for (uint64_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / norm);
}

static void expect_same_step(const char *name, const char *folder, const struct model_options *options, double bound)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    double loss[2];
    float *gradient[2];
    uint64_t count = 0;

    for (int k = 0; k < 2; k++) {
        struct model *model = open_on(folder, k == 0, pool, *options);
        fill_adapters(model);
        loss[k] = pass(model, &arena, 1);
        gradient[k] = gradient_of(model, &arena, &count);
        model_close(model);
    }
    if (relative_error(loss[0], loss[1]) > bound || distance(gradient[0], gradient[1], count) > bound)
        fail_msg("%s %s: loss %.7f, the processor's %.7f; gradients differ by %.1e", name,
                 model_profile_name(options->profile), loss[0], loss[1], distance(gradient[0], gradient[1], count));
    pool_free(pool);
    arena_deinit(&arena);
}

static struct model_options step_options(enum model_profile profile, int32_t rank)
{
    struct model_options options = fixture_options(profile, NULL, NULL);

    options.is_random = true;
    options.row_tokens = options.tokens_wanted = T;
    options.lora = (struct lora_config){.rank = rank, .alpha = 4, .dropout = rank ? 0.1 : 0};
    return options;
}

/* Beside mixtures of experts, whose choices flip where logits are rounded, in BF16 too. */
static void a_step_of_every_family_is_that_of_the_processor(void **state)
{
    struct arena arena = {0};

    for (int i = 0; i < TINY_FAMILY_COUNT; i++) {
        const char *folder = fixture_family(&arena, &tiny_families[i]), *name = tiny_families[i].name;
        bool has_experts = strstr(tiny_families[i].config, "experts") != NULL;
        struct model_options full = step_options(PROFILE_F32, 0), lora = step_options(PROFILE_F32, 3);
        struct model_options half = step_options(PROFILE_BF16, i % 2 ? 3 : 0);
        full.fixed_keep_plus_one = i % 2; /* everything is computed again */
        expect_same_step(name, folder, &full, 2e-5);
        if (has_experts)
            expect_same_step(name, folder, &lora, 2e-5);
        else
            expect_same_step(name, folder, &half, 4e-2);
    }
    arena_deinit(&arena);
}

static void a_step_with_timed_products_and_checked_launches_is_the_same(void **state)
{
    struct arena arena = {0};
    struct model_options options = step_options(PROFILE_BF16, 3);

    setenv("ATTUNE_CUDA_TUNE", "1", 1);
    setenv("ATTUNE_CUDA_CHECK", "1", 1);
    expect_same_step("timed", fixture_config(&arena, true, "float32"), &options, 4e-2);
    unsetenv("ATTUNE_CUDA_TUNE");
    unsetenv("ATTUNE_CUDA_CHECK");
    arena_deinit(&arena);
}

/* With and without the library, which takes what is a multiple of sixteen. A number that a rounding in bf16 carries
 * over the middle of two codes moves by a sixteenth: the two steps are 0.15 and 0.21 apart, both 0.33 from bf16's. */
static void a_step_in_eight_bits_is_that_of_the_processor(void **state)
{
    static const char *const capabilities[] = {"80", "89"};
    struct arena arena = {0};

    for (int i = 0; i < 4; i++) {
        struct model_options options = step_options(PROFILE_BF16, i % 2 ? 3 : 0);
        setenv("ATTUNE_EMULATED_CAPABILITY", capabilities[i / 2], 1);
        options.is_fp8 = true;
        expect_same_step("fp8", fixture_config(&arena, true, "float32"), &options, 0.25);
    }
    unsetenv("ATTUNE_EMULATED_CAPABILITY");
    arena_deinit(&arena);
}

enum { SHAPES = 1100, DEPTH = 48, COLS = 2 };

/* The last of the rows of a product of so many. cuBLASLt's stand-in sums in another order than our own kernels. */
static float last_of_product(struct queue *queue, unsigned short *x, unsigned short *w, float *y, int32_t rows)
{
    struct weight weight = {.w = {w, COLS, DEPTH, DEPTH, DTYPE_BF16}};
    struct op_linear op = {.x = {x, rows, DEPTH, DEPTH, DTYPE_BF16}, .y = {y, rows, COLS, COLS, DTYPE_F32},
                           .w = &weight};

    device()->linear(queue, &op);
    device()->memory->wait(queue);
    return y[(rows - 1) * COLS];
}

static void products_of_more_shapes_than_are_kept_have_the_same_bits(void **state)
{
    const struct memory *memory = device()->memory;
    struct queue queue = {0};
    unsigned short *x, *w;
    float *y, first;
    struct err err;

    assert_ok(memory->open(&queue, &err), err);
    x = memory->take_shared(&queue, SHAPES * DEPTH * sizeof *x);
    w = memory->take_shared(&queue, COLS * DEPTH * sizeof *w);
    y = memory->take_shared(&queue, SHAPES * COLS * sizeof *y);
    for (int i = 0; i < SHAPES * DEPTH; i++)
        x[i] = (unsigned short)(0x3f00 + i * 7919 % 251);
    for (int i = 0; i < COLS * DEPTH; i++)
        w[i] = (unsigned short)(0x3e00 + i * 104729 % 509);
    first = last_of_product(&queue, x, w, y, SHAPES);
    for (int32_t rows = 1; rows < SHAPES; rows++)
        last_of_product(&queue, x, w, y, rows);
    assert_true(last_of_product(&queue, x, w, y, SHAPES) == first);
    memory->close(&queue);
    assert_ok(memory->open(&queue, &err), err);
    for (int32_t rows = 1; rows < SHAPES; rows++)
        last_of_product(&queue, x, w, y, rows);
    assert_true(last_of_product(&queue, x, w, y, SHAPES) == first);
    memory->give(&queue, x);
    memory->give(&queue, w);
    memory->give(&queue, y);
    memory->close(&queue);
}

static void weights_of_four_bits_and_dora_give_the_step_of_the_processor(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_model(&arena, pool, true, "float32");
    struct model_options options = step_options(PROFILE_F32, 3);

    options.is_random = false;
    expect_same_step("a model from its files", folder, &options, 2e-5);
    options.is_nf4 = true;
    expect_same_step("nf4", folder, &options, 2e-5);
    options.is_nf4 = false;
    options.lora.is_dora = true;
    options.lora.dropout = 0;
    expect_same_step("dora", folder, &options, 2e-5);
    pool_free(pool);
    arena_deinit(&arena);
}

/* --- runs --- */

static double train_step(struct model *model, struct arena *arena, int k)
{
    struct model_range range[64];
    int count = model_ranges(model, range, 64);
    double loss = pass(model, arena, k), sumsq;
    const double *at = model_grad_sumsq(model, &sumsq);

    struct op_adamw rule = {.sumsq = at, .max_norm = 1, .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                            .step = k};

    model_update(model, range, count, &rule);
    return loss;
}

static void expect_same_run(enum model_profile profile, double bound)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_config(&arena, true, "float32");
    struct model_options options = step_options(profile, 0);
    double loss[2][STEPS];

    for (int k = 0; k < 2; k++) {
        struct model *model = open_on(folder, k == 0, pool, options);
        for (int step = 0; step < STEPS; step++)
            loss[k][step] = train_step(model, &arena, step + 1);
        model_close(model);
    }
    for (int step = 0; step < STEPS; step++)
        if (relative_error(loss[0][step], loss[1][step]) > bound)
            fail_msg("%s, step %d: loss %.6f, the processor's %.6f", model_profile_name(profile), step + 1,
                     loss[0][step], loss[1][step]);
    assert_true(loss[0][STEPS - 1] < loss[0][0] - 0.2);
    pool_free(pool);
    arena_deinit(&arena);
}

static void a_run_follows_that_of_the_processor(void **state)
{
    expect_same_run(PROFILE_F32, 1e-4);
    expect_same_run(PROFILE_BF16_STATE, 2e-2);
    expect_same_run(PROFILE_BYTE_MOMENTS, 2e-2);
}

static void expect_same_file(struct arena *arena, const char *a, const char *b)
{
    struct str x, y;
    struct err err;

    assert_ok(file_read(arena, a, 1 << 22, &x, &err), err);
    assert_ok(file_read(arena, b, 1 << 22, &y, &err), err);
    if (!str_equal(x, y))
        fail_msg("%s is not the same", a);
}

static void expect_same_files(struct arena *arena, const char *a, const char *b, const char *name)
{
    expect_same_file(arena, path_join(arena, a, name), path_join(arena, b, name));
}

/* In BF16, so that the compute copy must follow the masters too. */
static void expect_resumed(enum model_profile profile)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_config(&arena, true, "float32");
    const char *out[2] = {fixture_folder(&arena), fixture_folder(&arena)};
    const char *point = path_join(&arena, fixture_folder(&arena), "state.safetensors");
    struct model_options options = step_options(profile, 0);
    struct checkpoint_files files;
    char sha256[65];
    uint64_t bytes;
    struct err err;

    for (int k = 0; k < 2; k++) {
        struct model *model = open_on(folder, true, pool, options);
        for (int step = k ? STEPS / 2 : 0; step < STEPS; step++) {
            if (k == 1 && step == STEPS / 2)
                assert_ok(checkpoint_read_state(model, point, &err), err);
            train_step(model, &arena, step + 1);
            if (k == 0 && step == STEPS / 2 - 1)
                assert_ok(checkpoint_write_state(model, point, &bytes, sha256, &err), err);
        }
        assert_ok(checkpoint_write(model, out[k], "", &arena, &files, &err), err);
        model_close(model);
    }
    expect_same_files(&arena, out[0], out[1], "model.safetensors");
    pool_free(pool);
    arena_deinit(&arena);
}

static void a_resumed_run_ends_with_the_bits_of_one_that_was_not(void **state)
{
    expect_resumed(PROFILE_BF16);
    expect_resumed(PROFILE_BF16_STATE);
    expect_resumed(PROFILE_BYTE_MOMENTS);
}

/* A state that is taken after STEPS / 2 steps and written during the two that follow. */
static void write_beside(struct model *model, struct arena *arena, const char *path)
{
    struct state_copy *copy = state_copy_new(model);
    char sha256[65];
    uint64_t bytes;
    struct err err;

    assert_non_null(copy);
    assert_ok(state_copy_begin(copy, path, &err), err);
    state_copy_hold(copy);
    train_step(model, arena, STEPS / 2 + 1);
    for (int left = state_copy_left(copy); state_copy_left(copy) > left / 2;)
        assert_ok(state_copy_write(copy, &err), err);
    train_step(model, arena, STEPS / 2 + 2);
    while (state_copy_left(copy))
        assert_ok(state_copy_write(copy, &err), err);
    assert_ok(state_copy_end(copy, &bytes, sha256, &err), err);
    assert_int_equal(bytes, checkpoint_state_bytes(model));
    state_copy_free(copy);
}

static void expect_state_written_beside(enum model_profile profile)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_config(&arena, true, "float32"), *point = fixture_folder(&arena);
    struct model_options options = step_options(profile, 0);
    struct model *model = open_on(folder, true, pool, options);
    char sha256[65];
    uint64_t bytes;
    struct err err;

    for (int step = 0; step < STEPS / 2; step++)
        train_step(model, &arena, step + 1);
    assert_ok(checkpoint_write_state(model, path_join(&arena, point, "whole"), &bytes, sha256, &err), err);
    write_beside(model, &arena, path_join(&arena, point, "beside"));
    expect_same_file(&arena, path_join(&arena, point, "whole"), path_join(&arena, point, "beside"));
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

static void a_state_written_beside_steps_is_that_before_them(void **state)
{
    expect_state_written_beside(PROFILE_BF16);
    expect_state_written_beside(PROFILE_BYTE_MOMENTS);
}

/* The largest limit under which the device has no room for the moments; its plan goes through plan.json. */
static void plan_without_room(struct arena *arena, const char *folder, struct model_options *options, struct plan *plan)
{
    struct strbuf text = {0};
    struct json_writer writer = {.buf = &text};
    struct model_config config;
    struct json *json;
    struct err err;

    assert_ok(config_read(arena, folder, &config, &err), err);
    assert_ok(model_plan(folder, options, plan, &err), err);
    assert_false(plan->moments_on_host || plan->host_bytes);
    for (options->limit_bytes = plan->total_bytes; !plan->moments_on_host; options->limit_bytes -= 4096)
        assert_ok(model_plan(folder, options, plan, &err), err);
    options->limit_bytes += 4096;
    assert_true(plan->total_bytes <= options->limit_bytes && plan->host_bytes > 0 &&
                plan_part_bytes(plan, PLAN_OPTIMIZER) == 0);
    plan_write(plan, &config, &writer);
    json = json_parse(arena, strbuf_view(&text), NULL, &err);
    assert_ok(json && plan_read(json, &config, plan, &err), err);
    assert_true(plan->moments_on_host);
    strbuf_deinit(&text);
}

static void expect_moments_on_host(enum model_profile profile)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_config(&arena, true, "float32");
    const char *out[2] = {fixture_folder(&arena), fixture_folder(&arena)};
    const char *point = path_join(&arena, fixture_folder(&arena), "state.safetensors");
    struct model_options options = step_options(profile, 0);
    struct checkpoint_files files;
    struct plan plan;
    char sha256[65];
    uint64_t bytes;
    struct err err = {0};

    options.backend = device();
    options.pool = pool;
    for (int k = 0; k < 2; k++) {
        struct model *model = open_on(folder, true, pool, options);
        assert_true(model_plan_used(model)->moments_on_host == (k == 1));
        for (int step = 0; step < STEPS; step++) {
            if (step == STEPS / 2) { /* through a recovery point, to where the moments lie */
                assert_ok(checkpoint_write_state(model, point, &bytes, sha256, &err), err);
                train_step(model, &arena, step + 1);
                assert_ok(checkpoint_read_state(model, point, &err), err);
            }
            train_step(model, &arena, step + 1);
        }
        assert_ok(checkpoint_write(model, out[k], "", &arena, &files, &err), err);
        model_close(model);
        if (k == 0) {
            plan_without_room(&arena, folder, &options, &plan);
            options.plan = &plan;
        }
    }
    expect_same_files(&arena, out[0], out[1], "model.safetensors");
    options.plan = NULL;
    while (model_plan(folder, &options, &plan, &err))
        options.limit_bytes -= 4096;
    assert_int_equal(err.code, ERR_NO_SPACE);
    pool_free(pool);
    arena_deinit(&arena);
}

static void moments_go_to_the_host_as_a_last_resort_and_change_no_bit(void **state)
{
    expect_moments_on_host(PROFILE_F32);
    expect_moments_on_host(PROFILE_BYTE_MOMENTS);
}

static void what_was_not_trained_is_written_as_it_was_read(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_model(&arena, pool, false, "bfloat16"), *out = fixture_folder(&arena);
    struct model_options options = step_options(PROFILE_BF16, 0);
    struct checkpoint_files files;
    struct model *model;
    struct err err;

    options.is_random = false;
    model = open_on(folder, true, pool, options);
    assert_ok(checkpoint_write(model, out, "", &arena, &files, &err), err);
    expect_same_files(&arena, folder, out, "model.safetensors");
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
}

static void merged_products_are_probed_on_the_device(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    struct merge_probe probe[2];

    for (int k = 0; k < 2; k++) {
        struct model_options options = step_options(PROFILE_F32, 3);
        struct model *model = open_on(fixture_config(&arena, true, "float32"), k == 0, pool, options);
        struct batch batch;
        fill_adapters(model);
        make_batch(&arena, model, 1, &batch);
        model_probe_merge(model, &batch, &probe[k]);
        model_close(model);
    }
    assert_int_equal(probe[0].product_count, probe[1].product_count);
    assert_true(probe[0].product_difference < 1e-5 && probe[0].logit_difference < 1e-5);
    assert_true(probe[1].product_difference < 1e-5);
    pool_free(pool);
    arena_deinit(&arena);
}

static void logits_are_those_of_the_processor(void **state)
{
    static const int32_t rows[] = {3, 22, 39};
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_config(&arena, true, "float32");
    float logits[2][3 * 37];

    for (int k = 0; k < 2; k++) {
        struct model_options options = step_options(PROFILE_F32, 0);
        struct batch batch;
        struct model *model;
        options.is_trained = false;
        model = open_on(folder, k == 0, pool, options);
        make_batch(&arena, model, 1, &batch);
        model_forward(model, &batch, NULL, NULL, rows, 3, logits[k]);
        model_close(model);
    }
    for (int i = 0; i < 3 * 37; i++)
        if (fabs((double)logits[0][i] - (double)logits[1][i]) > 1e-4)
            fail_msg("logit %d: %.7f, the processor's %.7f", i, (double)logits[0][i], (double)logits[1][i]);
    pool_free(pool);
    arena_deinit(&arena);
}

/* --- replies --- */

struct reply {
    int32_t id[REPLY_TOKENS];
    int count;
};

static bool keep(void *context, const struct sequence_token *token, bool is_last)
{
    struct reply *reply = context;

    reply->id[reply->count++] = token->id;
    return !is_last;
}

/* Prompts from one token to more than a step takes; each reply begins while the others run.
 * adapter: of every second one; NULL: none. */
static void run_replies(struct model *model, const struct adapter *adapter, struct reply replies[REPLIES])
{
    static const int32_t lengths[REPLIES] = {1, 33, 7, 16};
    struct generator *generator =
        generator_new(model, model_plan_used(model)->tokens, model_plan_used(model)->tokens, 0);
    int32_t prompt[33];

    memset(replies, 0, REPLIES * sizeof *replies);
    for (int i = 0; i < REPLIES; i++) {
        struct sequence_request request = {.prompt = prompt, .prompt_count = lengths[i], .max_tokens = REPLY_TOKENS,
                                           .sampling = {.temperature = i == 3 ? 1 : 0, .top_p = 1, .seed = 4},
                                           .logprobs = -1, .adapter = i % 2 ? adapter : NULL};
        for (int32_t t = 0; t < lengths[i]; t++)
            prompt[t] = (t * 7 + i * 11 + 3) % model_config(model)->vocab;
        assert_non_null(generator_add(generator, &request, keep, &replies[i]));
        generator_step(generator);
    }
    while (generator_step(generator))
        ;
    generator_free(generator);
}

static const char *make_adapter(struct arena *arena, const char *base, struct pool *pool)
{
    struct model_options options = fixture_options(PROFILE_F32, &backend_cpu, pool);
    const char *folder = fixture_folder(arena);
    struct checkpoint_files files;
    struct model *model;
    struct err err;

    options.lora = (struct lora_config){.rank = 3, .alpha = 4};
    model = fixture_open(base, &options);
    fill_adapters(model);
    assert_ok(checkpoint_write(model, folder, "", arena, &files, &err), err);
    model_close(model);
    return folder;
}

/* A model as the inference worker opens it, with steps of 16 tokens. */
static struct model *open_resident(const char *base, bool is_on_device, struct pool *pool, bool is_nf4)
{
    struct model_options options = fixture_options(PROFILE_F32, NULL, NULL);

    options.is_trained = false;
    options.is_nf4 = is_nf4;
    options.slot_rank = 4;
    options.row_tokens = options.tokens_wanted = 16;
    options.positions = 64;
    options.head_rows = SEQUENCES_MAX;
    return open_on(base, is_on_device, pool, options);
}

static void replies_are_those_of_the_processor(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *base = fixture_model(&arena, pool, true, "float32"), *folder = make_adapter(&arena, base, pool);

    for (int is_nf4 = 0; is_nf4 < 2; is_nf4++) {
        struct reply replies[2][REPLIES], plain[REPLIES];
        for (int k = 0; k < 2; k++) {
            struct model *model = open_resident(base, k == 0, pool, is_nf4);
            struct adapter *adapter;
            struct err err;
            assert_ok(adapter_open(&adapter, model, folder, &err), err);
            run_replies(model, adapter, replies[k]);
            if (k == 0)
                run_replies(model, NULL, plain);
            adapter_close(adapter);
            model_close(model);
        }
        assert_int_equal(replies[0][0].count, REPLY_TOKENS);
        assert_memory_equal(replies[0], replies[1], sizeof replies[0]);
        assert_memory_equal(&replies[0][2], &plain[2], sizeof plain[2]);
        assert_memory_not_equal(&replies[0][1], &plain[1], sizeof plain[1]);
    }
    pool_free(pool);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_agrees_with_the_reference),
        cmocka_unit_test(products_in_eight_bits_agree_with_the_reference),
        cmocka_unit_test(a_device_that_is_not_there_is_named),
        cmocka_unit_test(a_library_of_other_structs_is_refused),
        cmocka_unit_test(a_step_of_every_family_is_that_of_the_processor),
        cmocka_unit_test(a_step_with_timed_products_and_checked_launches_is_the_same),
        cmocka_unit_test(a_step_in_eight_bits_is_that_of_the_processor),
        cmocka_unit_test(products_of_more_shapes_than_are_kept_have_the_same_bits),
        cmocka_unit_test(weights_of_four_bits_and_dora_give_the_step_of_the_processor),
        cmocka_unit_test(a_run_follows_that_of_the_processor),
        cmocka_unit_test(a_resumed_run_ends_with_the_bits_of_one_that_was_not),
        cmocka_unit_test(a_state_written_beside_steps_is_that_before_them),
        cmocka_unit_test(moments_go_to_the_host_as_a_last_resort_and_change_no_bit),
        cmocka_unit_test(what_was_not_trained_is_written_as_it_was_read),
        cmocka_unit_test(merged_products_are_probed_on_the_device),
        cmocka_unit_test(logits_are_those_of_the_processor),
        cmocka_unit_test(replies_are_those_of_the_processor),
    };

    setenv("ATTUNE_EMULATED_GPUS", "1", 1);
    cmocka_set_test_filter(getenv("ONLY")); /* a pattern of names; NULL: all */
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
