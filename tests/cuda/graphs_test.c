/* Graphs on the emulated device: what is launched as one does what its launches do one by one, bit for bit. */
#include "model/fixture.h"

#include "compute/device.h"
#include "compute/graphs.h"

/* The sizes that T is rounded up to are 64 and 96. */
enum { TOKENS = 96, STEPS_MAX = 4, NUMBERS = 300 };

static const struct backend *device(void)
{
    struct err err;
    int index;
    const struct backend *backend = device_find("cuda", &index, &err);

    assert_ok(backend, err);
    return backend;
}

static const struct graphs *graphs(void)
{
    assert_non_null(device_graphs(device()));
    return device_graphs(device());
}

/* --- pieces of work on a queue of their own --- */

/* y = x + x, by way of copies; with a hook between them. */
struct sum {
    struct queue queue;
    float *x, *y;
    int32_t count, calls;
    void (*between)(struct sum *sum);
};

static void sum_open(struct sum *sum)
{
    const struct memory *memory = device()->memory;
    struct err err;

    *sum = (struct sum){.count = NUMBERS};
    assert_ok(memory->open(&sum->queue, &err), err);
    sum->x = memory->take_shared(&sum->queue, NUMBERS * sizeof *sum->x);
    sum->y = memory->take_shared(&sum->queue, NUMBERS * sizeof *sum->y);
}

static void sum_close(struct sum *sum)
{
    const struct memory *memory = device()->memory;

    memory->give(&sum->queue, sum->x);
    memory->give(&sum->queue, sum->y);
    memory->close(&sum->queue);
}

static void work(void *context)
{
    struct sum *sum = context;
    struct mat x = {sum->x, 1, sum->count, NUMBERS, DTYPE_F32}, y = {sum->y, 1, sum->count, NUMBERS, DTYPE_F32};

    sum->calls++;
    device()->memory->zero(&sum->queue, sum->y, NUMBERS * sizeof *sum->y);
    device()->copy(&sum->queue, &(struct op_copy){.x = x, .y = y, .is_added = true});
    if (sum->between)
        sum->between(sum);
    device()->copy(&sum->queue, &(struct op_copy){.x = x, .y = y, .is_added = true});
}

/* Runs it on numbers of their own and looks at what came of them. */
static void expect_sum(struct sum *sum, int32_t key, int number)
{
    struct graph_key of = {{key, sum->count}};

    for (int i = 0; i < NUMBERS; i++)
        sum->x[i] = (float)(number * 1000 + i);
    graphs()->run(&sum->queue, &of, work, sum);
    device()->memory->wait(&sum->queue);
    for (int i = 0; i < sum->count; i++)
        assert_float_equal(sum->y[i], 2 * sum->x[i], 0);
}

static void expect_counts(const struct sum *sum, struct graph_counts want)
{
    struct graph_counts got = graphs()->counts(&sum->queue);

    assert_int_equal(got.plain, want.plain);
    assert_int_equal(got.recorded, want.recorded);
    assert_int_equal(got.replayed, want.replayed);
    assert_int_equal(got.broken, want.broken);
    assert_int_equal(got.kept, want.kept);
}

static void work_is_recorded_the_second_time_and_replayed_from_then_on(void **state)
{
    struct sum sum;

    sum_open(&sum);
    for (int i = 0; i < 5; i++)
        expect_sum(&sum, 7, i);
    assert_int_equal(sum.calls, 2);
    expect_counts(&sum, (struct graph_counts){.plain = 1, .recorded = 1, .replayed = 3, .kept = 1});
    sum.count = 100; /* another key */
    for (int i = 0; i < 3; i++)
        expect_sum(&sum, 7, i);
    sum.count = NUMBERS;
    expect_sum(&sum, 7, 9);
    expect_counts(&sum, (struct graph_counts){.plain = 2, .recorded = 2, .replayed = 5, .kept = 2});
    sum_close(&sum);
}

static void no_more_graphs_are_kept_than_there_are_places(void **state)
{
    struct sum sum;

    sum_open(&sum);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 4 * GRAPHS_MAX; i++) /* each is forgotten before it comes again */
            expect_sum(&sum, i, i);
    expect_counts(&sum, (struct graph_counts){.plain = 8 * GRAPHS_MAX});
    for (int i = 0; i < 3 * GRAPHS_MAX; i++)
        for (int time = 0; time < 3; time++)
            expect_sum(&sum, 1000 + i, i + time);
    expect_counts(&sum, (struct graph_counts){.plain = 11 * GRAPHS_MAX, .recorded = 3 * GRAPHS_MAX,
                                              .replayed = 3 * GRAPHS_MAX, .kept = GRAPHS_MAX});
    expect_sum(&sum, 1000 + 2 * GRAPHS_MAX, 5); /* the oldest that is there */
    expect_sum(&sum, 2000, 6);                  /* takes the place of the next */
    expect_sum(&sum, 1000 + 2 * GRAPHS_MAX, 7);
    expect_counts(&sum, (struct graph_counts){.plain = 11 * GRAPHS_MAX + 1, .recorded = 3 * GRAPHS_MAX,
                                              .replayed = 3 * GRAPHS_MAX + 2, .kept = GRAPHS_MAX - 1});
    sum_close(&sum);
}

/* What cannot be recorded. The sum that is there by then is x, as launches before it have run. */
static void wait_between(struct sum *sum)
{
    device()->memory->wait(&sum->queue);
    assert_float_equal(sum->y[3], sum->x[3], 0);
}

static void get_between(struct sum *sum)
{
    float got[NUMBERS];
    struct stretches from = {sum->y, sizeof got}, to = {got, sizeof got};

    device()->memory->get(&sum->queue, to, from, sizeof got, 1);
    assert_float_equal(got[3], sum->x[3], 0);
}

/* Through a pinned slot, which has other numbers the next time. */
static void put_between(struct sum *sum)
{
    float numbers[NUMBERS];
    struct stretches from = {numbers, sizeof numbers}, to = {sum->y, sizeof numbers};

    memcpy(numbers, sum->x, sizeof numbers);
    device()->memory->put(&sum->queue, to, from, sizeof numbers, 1);
    memset(numbers, 0, sizeof numbers);
}

static void take_between(struct sum *sum)
{
    device()->memory->give(&sum->queue, device()->memory->take(&sum->queue, 64));
    device()->memory->give_host(&sum->queue, device()->memory->take_host(&sum->queue, 64));
}

static void get_later_between(struct sum *sum)
{
    float *got = device()->memory->take_host(&sum->queue, NUMBERS * sizeof *got);

    device()->memory->get_later(&sum->queue, got, sum->y, NUMBERS * sizeof *got);
    device()->memory->wait(&sum->queue);
    assert_float_equal(got[3], sum->x[3], 0);
    device()->memory->give_host(&sum->queue, got);
}

static void copy_aside_between(struct sum *sum)
{
    const struct aside *aside = device_aside(device());
    float *got = device()->memory->take_host(&sum->queue, NUMBERS * sizeof *got);

    aside->get(&sum->queue, got, sum->y, NUMBERS * sizeof *got);
    aside->hold(&sum->queue);
    aside->wait(&sum->queue);
    aside->is_idle(&sum->queue);
    assert_float_equal(got[3], sum->x[3], 0);
    device()->memory->give_host(&sum->queue, got);
}

static void work_that_does_more_than_operations_goes_on_one_by_one(void **state)
{
    static void (*const between[])(struct sum *) = {wait_between,      get_between,        put_between, take_between,
                                                    get_later_between, copy_aside_between};
    struct sum sum;

    for (size_t i = 0; i < sizeof between / sizeof *between; i++) {
        sum_open(&sum);
        sum.between = between[i];
        for (int time = 0; time < 4; time++)
            expect_sum(&sum, 0, time);
        assert_int_equal(sum.calls, 4);
        expect_counts(&sum, (struct graph_counts){.plain = 3, .broken = 1});
        sum.between = NULL; /* other work is none the worse */
        for (int time = 0; time < 3; time++)
            expect_sum(&sum, 1, time);
        expect_counts(&sum, (struct graph_counts){.plain = 4, .recorded = 1, .replayed = 1, .broken = 1, .kept = 1});
        sum_close(&sum);
    }
}

/* Launches a kernel that nobody has launched yet, the second time. */
static void unknown_kernel_between(struct sum *sum)
{
    struct mat x = {sum->x, 1, NUMBERS, NUMBERS, DTYPE_F32}, y = {sum->y, 1, NUMBERS, NUMBERS, DTYPE_F32};
    struct mat gain = {sum->x, 1, NUMBERS, NUMBERS, DTYPE_F32};

    if (sum->calls == 2)
        device()->gain(&sum->queue, &(struct op_gain){.x = x, .y = y, .gain = gain});
    device()->memory->zero(&sum->queue, sum->y, NUMBERS * sizeof *sum->y);
    device()->copy(&sum->queue, &(struct op_copy){.x = x, .y = y, .is_added = true});
}

static void a_record_that_is_void_is_launched_one_by_one(void **state)
{
    struct sum sum;

    sum_open(&sum);
    sum.between = unknown_kernel_between;
    for (int time = 0; time < 3; time++)
        expect_sum(&sum, 0, time);
    assert_int_equal(sum.calls, 4);
    expect_counts(&sum, (struct graph_counts){.plain = 3});
    sum_close(&sum);
}

static void a_device_without_room_for_graphs_launches_one_by_one(void **state)
{
    struct sum sum;

    setenv("ATTUNE_EMULATED_NO_GRAPHS", "1", 1);
    sum_open(&sum);
    for (int i = 0; i < 4; i++)
        expect_sum(&sum, i % 2, i);
    expect_sum(&sum, 0, 5);
    assert_int_equal(sum.calls, 6); /* one was recorded in vain */
    expect_counts(&sum, (struct graph_counts){.plain = 5});
    sum_close(&sum);
    unsetenv("ATTUNE_EMULATED_NO_GRAPHS");
}

static void launches_that_are_waited_for_are_none_of_a_graph(void **state)
{
    struct sum sum;

    setenv("ATTUNE_CUDA_CHECK", "1", 1);
    sum_open(&sum);
    for (int i = 0; i < 4; i++)
        expect_sum(&sum, 0, i);
    expect_counts(&sum, (struct graph_counts){.plain = 4});
    sum_close(&sum);
    unsetenv("ATTUNE_CUDA_CHECK");
}

/* --- products --- */

enum { DEPTH = 32, ROWS = 16 };

struct products {
    struct queue queue;
    unsigned short *x;
    float *y;
    int32_t rows; /* another shape the second time, whose plan is made while the first is recorded */
};

static void product_work(void *context)
{
    struct products *p = context;
    struct weight weight = {.w = {p->x, ROWS, DEPTH, DEPTH, DTYPE_BF16}};

    device()->linear(&p->queue, &(struct op_linear){.x = {p->x, p->rows, DEPTH, DEPTH, DTYPE_BF16},
                                                    .y = {p->y, p->rows, ROWS, ROWS, DTYPE_F32},
                                                    .w = &weight});
    p->rows++;
}

static void products_that_are_timed_end_the_record(void **state)
{
    const struct memory *memory = device()->memory;
    struct graph_key key = {{0}};
    struct products p = {.rows = 2};
    struct err err;

    setenv("ATTUNE_CUDA_TUNE", "1", 1);
    assert_ok(memory->open(&p.queue, &err), err);
    p.x = memory->take_shared(&p.queue, ROWS * DEPTH * sizeof *p.x);
    p.y = memory->take_shared(&p.queue, ROWS * ROWS * sizeof *p.y);
    for (int i = 0; i < ROWS * DEPTH; i++)
        p.x[i] = 0x3f80; /* 1 */
    for (int i = 0; i < 3; i++)
        graphs()->run(&p.queue, &key, product_work, &p);
    memory->wait(&p.queue);
    assert_int_equal(graphs()->counts(&p.queue).broken, 1);
    assert_int_equal(graphs()->counts(&p.queue).plain, 2);
    for (int i = 0; i < 4 * ROWS; i++)
        assert_float_equal(p.y[i], DEPTH, 0);
    memory->give(&p.queue, p.x);
    memory->give(&p.queue, p.y);
    memory->close(&p.queue);
    unsetenv("ATTUNE_CUDA_TUNE");
}

/* --- training --- */

static struct model_options options_of(enum model_profile profile, int32_t rank)
{
    struct model_options options = fixture_options(profile, NULL, NULL);

    options.is_random = true;
    options.row_tokens = 64;
    options.tokens_wanted = TOKENS;
    options.lora = (struct lora_config){.rank = rank, .alpha = 4};
    options.backend = device();
    return options;
}

/* Documents of 5 to 39 tokens; every third token is no label. */
static void make_batch(struct arena *arena, const struct model *model, int32_t T, int k, struct batch *batch)
{
    int32_t *tokens = arena_new_array(arena, int32_t, (size_t)T);
    int32_t *ends = arena_new_array(arena, int32_t, (size_t)T + 1);
    float *weights = arena_new_array(arena, float, (size_t)T);
    int32_t count = 0;

    for (int32_t t = 0; t < T; t++) {
        tokens[t] = (t * t + 5 * k + 3) % model_config(model)->vocab;
        weights[t] = (t + k) % 3 != 0;
    }
    while (ends[count] < T) {
        int32_t end = ends[count] + 5 + (7 * count + 11 * k) % 35;
        ends[++count] = end < T ? end : T;
    }
    batch_make(arena, batch, tokens, ends, count, NULL, weights, 1.0f / 100);
}

/* Tokens of the micro-batches of a run, so many to a step. */
struct micros {
    int32_t tokens[8];
    int count, step;
};
static const struct micros mixed = {{96, 40, 64, 70, 96, 33, 64, 80}, 8, 2};
static const struct micros few = {{40, 64, 50}, 3, 1};   /* of one size when they are rounded up */
static const struct micros equal = {{40, 40, 40}, 3, 1}; /* as they are */

/* Everything that a run comes to. */
struct outcome {
    double loss[STEPS_MAX], norm[STEPS_MAX], evaluated;
    float *gradient; /* of the last step; f32 only */
    uint64_t count;
    struct graph_counts counts;
};

static void update(struct model *model, int step, double *norm)
{
    struct model_range range[64];
    int count = model_ranges(model, range, 64);
    const double *at = model_grad_sumsq(model, norm);
    struct op_adamw rule = {
        .sumsq = at, .max_norm = 1, .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = step + 1};

    model_update(model, range, count, &rule);
}

static double evaluate(struct model *model, struct arena *arena, int32_t T)
{
    struct model_result result = {0};
    struct batch batch;

    make_batch(arena, model, T, 40, &batch);
    model_forward_backward(model, &batch, false, NULL, &result);
    return result.loss;
}

/* Log-probabilities of one pass weigh the other. */
static const float *weigh(void *context, const struct batch *batch)
{
    float *weights = arena_new_array(context, float, (size_t)batch->head_row_count);

    for (int32_t i = 0; i < batch->head_row_count; i++)
        weights[i] = batch->row_weight[i] * (i % 2 ? 2 : 1);
    return weights;
}

static double pass(struct model *model, struct arena *arena, const struct micros *micros, int k, bool is_weighed)
{
    struct model_result result = {0};

    model_zero_grads(model);
    for (int i = k * micros->step; i < (k + 1) * micros->step; i++) {
        struct model_step step = {.seed = 1,
                                  .step = (uint32_t)k,
                                  .row_offset = (uint64_t)i * TOKENS,
                                  .tokens = (int64_t)micros->step * TOKENS,
                                  .weigh = is_weighed ? weigh : NULL,
                                  .context = arena};
        struct batch batch;
        make_batch(arena, model, micros->tokens[i], i, &batch);
        model_queue_pass(model, &batch, true, &step, &result);
    }
    model_finish(model);
    return result.loss;
}

static void run(const char *folder, struct model_options options, const struct micros *micros, bool is_weighed,
                struct arena *arena, struct outcome *out)
{
    struct pool *pool = pool_new(1);
    struct model *model;

    options.pool = pool;
    model = fixture_open(folder, &options);
    *out = (struct outcome){0};
    for (int k = 0; k < micros->count / micros->step; k++) {
        out->loss[k] = pass(model, arena, micros, k, is_weighed);
        if (options.profile == PROFILE_F32) {
            out->count = model_params(model)->trained_count;
            out->gradient = arena_new_array(arena, float, out->count);
            model_grads_read(model, out->gradient);
        }
        update(model, k, &out->norm[k]);
    }
    out->evaluated = evaluate(model, arena, micros->tokens[0]);
    out->counts = graphs()->counts(model_queue(model));
    model_close(model);
    pool_free(pool);
}

/* The counts of the run with graphs. */
static struct graph_counts expect_same_bits(const char *name, const char *folder, struct model_options options,
                                            const struct micros *micros, bool is_weighed)
{
    struct arena arena = {0};
    struct outcome with, without;

    options.has_graphs = false;
    run(folder, options, micros, is_weighed, &arena, &without);
    assert_int_equal(without.counts.plain + without.counts.recorded, 0);
    options.has_graphs = true;
    run(folder, options, micros, is_weighed, &arena, &with);
    for (int k = 0; k < micros->count / micros->step; k++)
        if (with.loss[k] != without.loss[k] || with.norm[k] != without.norm[k])
            fail_msg("%s %s, step %d: loss %.9g, without graphs %.9g; norm %.9g and %.9g", name,
                     model_profile_name(options.profile), k + 1, with.loss[k], without.loss[k], with.norm[k],
                     without.norm[k]);
    assert_true(with.evaluated == without.evaluated && with.evaluated != 0);
    assert_int_equal(with.count, without.count);
    if (with.count)
        assert_memory_equal(with.gradient, without.gradient, with.count * sizeof *with.gradient);
    arena_deinit(&arena);
    return with.counts;
}

static void a_run_with_graphs_has_the_bits_of_one_without(void **state)
{
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "float32");
    struct graph_counts counts = expect_same_bits("full", folder, options_of(PROFILE_F32, 0), &mixed, false);

    /* Both halves of passes of two sizes, and a pass that only goes forward: no size is recorded twice. */
    assert_int_equal(counts.plain, 4);
    assert_int_equal(counts.recorded, 4);
    assert_int_equal(counts.kept, 4);
    assert_int_equal(counts.replayed, 2 * mixed.count - 8 + 1);
    expect_same_bits("full", folder, options_of(PROFILE_BF16_STATE, 0), &few, false);
    expect_same_bits("full", folder, options_of(PROFILE_BYTE_MOMENTS, 0), &few, false);
    expect_same_bits("lora", folder, options_of(PROFILE_F32, 3), &few, false);
    expect_same_bits("lora", folder, options_of(PROFILE_BF16, 3), &few, false);
    arena_deinit(&arena);
}

/* Experts get no tokens beside the batch's own: their graphs are of sizes that come again as they are. */
static void every_family_has_the_same_bits_with_graphs(void **state)
{
    struct arena arena = {0};

    for (int i = 0; i < TINY_FAMILY_COUNT; i++) {
        const char *folder = fixture_family(&arena, &tiny_families[i]), *name = tiny_families[i].name;
        bool has_experts = strstr(tiny_families[i].config, "experts") != NULL;
        struct model_options options = options_of(i % 2 ? PROFILE_F32 : PROFILE_BF16, i % 3 ? 3 : 0);
        options.fixed_keep_plus_one = i % 4 == 1; /* everything is computed again */
        assert_int_equal(expect_same_bits(name, folder, options, has_experts ? &equal : &few, false).replayed, 3);
    }
    arena_deinit(&arena);
}

static void weights_of_four_bits_and_dora_have_the_same_bits_with_graphs(void **state)
{
    struct arena arena = {0};
    struct pool *pool = pool_new(1);
    const char *folder = fixture_model(&arena, pool, true, "float32");
    struct model_options options = options_of(PROFILE_F32, 3);

    options.is_random = false;
    options.is_nf4 = true;
    assert_true(expect_same_bits("nf4", folder, options, &few, false).replayed > 0);
    options.is_nf4 = false;
    options.lora.is_dora = true;
    assert_true(expect_same_bits("dora", folder, options, &few, false).replayed > 0);
    pool_free(pool);
    arena_deinit(&arena);
}

/* The tokens that round a pass up are the first one again: no tensor has a larger number for them. */
static void products_in_eight_bits_have_the_same_bits_with_graphs(void **state)
{
    static const char *const capabilities[] = {"80", "90"};
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "float32");

    for (int i = 0; i < 4; i++) {
        struct model_options options = options_of(PROFILE_BF16, i % 2 ? 3 : 0);
        setenv("ATTUNE_EMULATED_CAPABILITY", capabilities[i / 2], 1);
        options.is_fp8 = true;
        assert_true(expect_same_bits("fp8", folder, options, &few, false).replayed > 0);
    }
    unsetenv("ATTUNE_EMULATED_CAPABILITY");
    arena_deinit(&arena);
}

static void what_is_weighed_between_the_halves_has_the_same_bits_with_graphs(void **state)
{
    struct arena arena = {0};
    const char *folder = fixture_config(&arena, true, "float32");

    assert_true(expect_same_bits("weighed", folder, options_of(PROFILE_BF16, 3), &few, true).replayed > 0);
    arena_deinit(&arena);
}

static void passes_with_dropout_are_launched_one_by_one(void **state)
{
    struct arena arena = {0};
    struct model_options options = options_of(PROFILE_F32, 3);
    struct graph_counts counts;

    options.lora.dropout = 0.1;
    counts = expect_same_bits("dropout", fixture_config(&arena, true, "float32"), options, &few, false);
    assert_int_equal(counts.plain, 1); /* the evaluation's */
    assert_int_equal(counts.recorded + counts.replayed, 0);
    arena_deinit(&arena);
}

static void people_ask_for_graphs_by_a_variable(void **state)
{
    unsetenv("ATTUNE_CUDA_GRAPHS");
    assert_false(device_wants_graphs());
    setenv("ATTUNE_CUDA_GRAPHS", "0", 1);
    assert_false(device_wants_graphs());
    setenv("ATTUNE_CUDA_GRAPHS", "1", 1);
    assert_true(device_wants_graphs());
    unsetenv("ATTUNE_CUDA_GRAPHS");
    assert_null(device_graphs(&backend_cpu));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_is_recorded_the_second_time_and_replayed_from_then_on),
        cmocka_unit_test(no_more_graphs_are_kept_than_there_are_places),
        cmocka_unit_test(work_that_does_more_than_operations_goes_on_one_by_one),
        cmocka_unit_test(a_record_that_is_void_is_launched_one_by_one),
        cmocka_unit_test(a_device_without_room_for_graphs_launches_one_by_one),
        cmocka_unit_test(launches_that_are_waited_for_are_none_of_a_graph),
        cmocka_unit_test(products_that_are_timed_end_the_record),
        cmocka_unit_test(a_run_with_graphs_has_the_bits_of_one_without),
        cmocka_unit_test(every_family_has_the_same_bits_with_graphs),
        cmocka_unit_test(weights_of_four_bits_and_dora_have_the_same_bits_with_graphs),
        cmocka_unit_test(products_in_eight_bits_have_the_same_bits_with_graphs),
        cmocka_unit_test(what_is_weighed_between_the_halves_has_the_same_bits_with_graphs),
        cmocka_unit_test(passes_with_dropout_are_launched_one_by_one),
        cmocka_unit_test(people_ask_for_graphs_by_a_variable),
    };

    setenv("ATTUNE_EMULATED_GPUS", "1", 1);
    cmocka_set_test_filter(getenv("ONLY")); /* a pattern of names; NULL: all */
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
