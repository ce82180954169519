#include "test.h"
#include "base/random.h"
#include "train/dpo.h"

#include <math.h>
#include <string.h>

#define MODEL "tests/fixtures/tiny-model"
enum { PAIRS = 6, SEQUENCES = 2 * PAIRS, LONGEST = 12 };

/* Pairs with a common prompt of 2 to 4 tokens and completions of 1 to 8. */
struct world {
    struct dataset data;
    struct dataset_entry entry[SEQUENCES];
    uint32_t tokens[SEQUENCES * LONGEST];
    double reference[SEQUENCES];
    struct pool *pool;
    struct model *model;
    struct arena arena;
};

static void fill(struct world *w)
{
    struct mt19937 mt;
    uint32_t at = 0;

    mt19937_seed(&mt, 11);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        uint32_t prompt = 2 + i / 2 % 3, completion = 1 + mt19937_next(&mt) % 8;
        w->entry[i] = (struct dataset_entry){at, i / 2 + 1, prompt + completion, completion};
        for (uint32_t t = 0; t < prompt + completion; t++)
            w->tokens[at++] = t < prompt ? i / 2 + t : (mt19937_next(&mt) % 262) | DATASET_TRAINS;
        w->reference[i] = -6.0 * completion + 0.5 * i;
    }
    w->data = (struct dataset){
        .summary = {.kind = EXAMPLE_PREFERENCE}, .tokens = w->tokens, .entry = w->entry, .count = SEQUENCES};
}

static int open_world(void **state)
{
    struct world *w = mem_alloc_zero(1, sizeof *w);
    struct model_options options = {.profile = PROFILE_F32,
                                    .is_trained = true,
                                    .is_random = true,
                                    .seed = 3,
                                    .backend = &backend_cpu,
                                    .row_tokens = 2 * LONGEST,
                                    .tokens_wanted = SEQUENCES * LONGEST};
    struct err err = {0};

    fill(w);
    options.pool = w->pool = pool_new(1);
    assert_ok(model_open(&w->model, MODEL, &options, &err), err);
    *state = w;
    return 0;
}

static int close_world(void **state)
{
    struct world *w = *state;

    model_close(w->model);
    pool_free(w->pool);
    arena_deinit(&w->arena);
    free(w);
    return 0;
}

/* One optimizer step over all pairs; without gradients only sums. */
static struct dpo_sums pass(struct world *w, uint32_t tokens_max, double beta, bool has_grads)
{
    struct dpo_sums sums = {0};
    struct model_result ignored = {0};
    struct feed feed;
    struct feed_step step;

    feed_init(&feed, &w->arena, &w->data, false, LONGEST, PAIRS, 1);
    assert_int_equal(feed.rows.row_count, PAIRS);
    feed_step_make(&feed, &w->arena, 0, tokens_max, &step);
    if (has_grads)
        model_zero_grads(w->model);
    for (int i = 0; i < step.micro_count; i++) {
        struct dpo_batch batch = {w->model, &step.micro[i], w->reference, beta, PAIRS, &w->arena, &sums};
        struct model_step place = {.weigh = dpo_weigh, .context = &batch};
        model_forward_backward(w->model, &step.micro[i].batch, has_grads, &place, &ignored);
        if (!has_grads)
            dpo_weigh(&batch, &step.micro[i].batch);
    }
    assert_int_equal(sums.pairs, PAIRS);
    return sums;
}

static double loss_of(struct world *w, double beta)
{
    struct dpo_sums sums = pass(w, SEQUENCES * LONGEST, beta, false);

    return dpo_result(&sums).loss;
}

static void move_masters(struct world *w, const float *by, double step)
{
    struct model_range range[64];
    int count = model_ranges(w->model, range, 64);
    uint64_t ignored;
    double *partial;
    const float *first = model_grads(w->model, &ignored, &partial);

    for (int i = 0; i < count; i++)
        for (uint64_t j = 0; j < range[i].count; j++)
            ((float *)range[i].master)[j] += (float)(step * (double)by[(float *)range[i].grad + j - first]);
    model_masters_changed(w->model);
}

/* Along the gradient g the loss rises with |g|². */
static void what_flows_back_is_the_gradient_of_the_mean_loss(void **state)
{
    static const double betas[] = {0.02, 0.1, 0.5};
    struct world *w = *state;

    for (size_t i = 0; i < 3; i++) {
        uint64_t count;
        double *partial, size = 0, rise, step;
        float *grad, *copy;
        pass(w, SEQUENCES * LONGEST, betas[i], true);
        grad = model_grads(w->model, &count, &partial);
        copy = mem_alloc(count * sizeof *copy);
        memcpy(copy, grad, count * sizeof *copy);
        for (uint64_t j = 0; j < count; j++)
            size += (double)copy[j] * (double)copy[j];
        step = 1e-3 / sqrt(size);
        move_masters(w, copy, step);
        rise = loss_of(w, betas[i]);
        move_masters(w, copy, -2 * step);
        rise -= loss_of(w, betas[i]);
        move_masters(w, copy, step);
        if (!(fabs(rise / (2 * step) - size) < 0.01 * size))
            fail_msg("beta %g: the loss rises by %g, the gradient says %g", betas[i], rise / (2 * step), size);
        free(copy);
    }
}

static void any_micro_batches_give_the_same_sums_and_gradients(void **state)
{
    struct world *w = *state;
    struct dpo_sums whole = pass(w, SEQUENCES * LONGEST, 0.1, true), parts;
    uint64_t count;
    double *partial, apart = 0, size = 0;
    float *grad = model_grads(w->model, &count, &partial), *copy = mem_alloc(count * sizeof *copy);

    memcpy(copy, grad, count * sizeof *copy);
    parts = pass(w, 2 * LONGEST, 0.1, true);
    assert_memory_equal(&parts, &whole, sizeof whole); /* a document's bits do not depend on its neighbours */
    for (uint64_t i = 0; i < count; i++) {
        apart += pow((double)grad[i] - (double)copy[i], 2);
        size += pow((double)copy[i], 2);
    }
    assert_true(size > 0 && sqrt(apart) < 1e-5 * sqrt(size));
    free(copy);
}

static void rewards_are_measured_against_the_reference(void **state)
{
    struct world *w = *state;
    struct dpo_sums sums = pass(w, SEQUENCES * LONGEST, 0.1, false), same;
    double chosen = 0, rejected = 0;

    for (int i = 0; i < SEQUENCES; i++)
        *(i % 2 ? &rejected : &chosen) += w->reference[i];
    assert_true(fabs(sums.rewards_chosen - 0.1 * (sums.logps_chosen - chosen)) < 1e-9);
    assert_true(fabs(sums.rewards_rejected - 0.1 * (sums.logps_rejected - rejected)) < 1e-9);
    assert_true(sums.wins > 0 && sums.wins <= PAIRS);
    for (uint32_t i = 0; i < SEQUENCES; i++) { /* a model that is its own reference */
        struct feed_step step;
        feed_examples_make(&w->data, &w->arena, &i, 1, 1, LONGEST, 0, &step);
        model_forward_backward(w->model, &step.micro[0].batch, false, &(struct model_step){0},
                               &(struct model_result){0});
        dpo_logps(w->model, &step.micro[0].batch, &w->reference[i]);
    }
    same = pass(w, SEQUENCES * LONGEST, 0.1, false);
    assert_true(same.rewards_chosen == 0 && same.rewards_rejected == 0 && same.wins == 0);
    assert_true(fabs(same.loss - PAIRS * log(2)) < 1e-12);
}

#define world_test(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        world_test(what_flows_back_is_the_gradient_of_the_mean_loss),
        world_test(any_micro_batches_give_the_same_sums_and_gradients),
        world_test(rewards_are_measured_against_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
