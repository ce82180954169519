#include "test.h"
#include "base/random.h"
#include "model/decoder.h"
#include "train/feed.h"

#include <math.h>
#include <string.h>

#define MODEL "tests/fixtures/tiny-model"
enum { EXAMPLES = 24, CAPACITY = 40 };

/* Examples of 3 to 20 tokens; about half of the tokens train. */
struct world {
    struct dataset data;
    struct dataset_entry entry[EXAMPLES];
    uint32_t tokens[EXAMPLES * 20];
    struct arena arena;
};

static void fill(struct world *w)
{
    struct mt19937 mt;
    uint32_t at = 0;

    memset(w, 0, sizeof *w);
    mt19937_seed(&mt, 5);
    for (uint32_t i = 0; i < EXAMPLES; i++) {
        uint32_t count = 3 + mt19937_next(&mt) % 18;
        w->entry[i] = (struct dataset_entry){.start = at, .line = i + 1, .count = count};
        for (uint32_t t = 0; t < count; t++) {
            bool trains = t == count - 1 || (t > 0 && mt19937_next(&mt) % 2);
            w->tokens[at++] = mt19937_next(&mt) % 262 | (trains ? DATASET_TRAINS : 0);
            w->entry[i].trained_count += trains;
        }
    }
    w->data = (struct dataset){.tokens = w->tokens, .entry = w->entry, .count = EXAMPLES};
}

/* The generator is tested against torch in base; here each epoch must be
 * the permutation of seed + epoch, cut into batches in order. */
static void rows_come_in_the_order_of_seed_plus_epoch(void **state)
{
    struct world w;
    struct feed feed;
    uint32_t order[EXAMPLES];

    fill(&w);
    feed_init(&feed, &w.arena, &w.data, false, CAPACITY, 10, 42);
    assert_int_equal(feed.steps_per_epoch, 3);
    for (int64_t step = 0; step < 6; step++) {
        struct feed_step out;
        struct mt19937 mt;
        const struct batch *batch;
        int32_t docs = step % 3 == 2 ? 4 : 10;
        mt19937_seed(&mt, 42 + (uint64_t)step / 3);
        mt19937_permutation(&mt, order, EXAMPLES);
        feed_step_make(&feed, &w.arena, step, 1000, &out);
        assert_int_equal(out.micro_count, 1);
        batch = &out.micro[0].batch;
        assert_int_equal(batch->doc_count, docs);
        for (int32_t d = 0; d < docs; d++) {
            const struct dataset_entry *entry = &w.entry[order[step % 3 * 10 + d]];
            assert_int_equal(batch->cu_seqlens[d + 1] - batch->cu_seqlens[d], entry->count);
            assert_int_equal(batch->tok[batch->cu_seqlens[d]], w.tokens[entry->start] & ~DATASET_TRAINS);
        }
    }
    arena_deinit(&w.arena);
}

static void micro_batches_share_the_divisor_of_the_step(void **state)
{
    struct world w;
    struct feed feed;
    struct feed_step out;
    int64_t rows = 0, tokens = 0;
    double weight = 0;

    fill(&w);
    feed_init(&feed, &w.arena, &w.data, true, CAPACITY, 100, 1);
    feed_step_make(&feed, &w.arena, 0, CAPACITY, &out);
    assert_int_equal(out.micro_count, feed.rows.row_count);
    for (int i = 0; i < out.micro_count; i++) {
        const struct batch *batch = &out.micro[i].batch;
        assert_int_equal(out.micro[i].row_offset, tokens);
        assert_true(batch->T <= CAPACITY);
        tokens += batch->T;
        rows += batch->head_row_count;
        for (int32_t r = 0; r < batch->head_row_count; r++)
            weight += batch->row_weight[r];
    }
    assert_int_equal(rows, out.supervised);
    assert_int_equal(tokens, out.tokens);
    assert_true(fabs(weight - 1) < 1e-5);
    arena_deinit(&w.arena);
}

struct outcome {
    double loss;
    float *grad;
    uint64_t count;
};

/* Loss and gradients of all examples as one optimizer step. tokens_max and max_docs decide the micro-batches; with
 * is_packed the rows come from the packer. */
static struct outcome run(struct world *w, int threads, bool is_packed, uint32_t tokens_max, uint32_t max_docs)
{
    struct pool *pool = pool_new(threads);
    struct model_options options = {.profile = PROFILE_F32,
                                    .is_trained = true,
                                    .is_random = true,
                                    .seed = 3,
                                    .backend = &backend_cpu,
                                    .pool = pool,
                                    .row_tokens = CAPACITY,
                                    .tokens_wanted = EXAMPLES * 20};
    struct model_result result = {0};
    struct outcome outcome = {0};
    uint32_t example[EXAMPLES];
    struct model *model;
    struct feed_step step;
    struct feed feed;
    struct err err = {0};
    const float *grad;
    double *partial;

    assert_ok(model_open(&model, MODEL, &options, &err), err);
    for (uint32_t i = 0; i < EXAMPLES; i++)
        example[i] = i;
    if (is_packed) {
        feed_init(&feed, &w->arena, &w->data, true, CAPACITY, EXAMPLES, 1);
        feed_step_make(&feed, &w->arena, 0, tokens_max, &step);
    } else {
        feed_examples_make(&w->data, &w->arena, example, EXAMPLES, 1, tokens_max, max_docs, &step);
    }
    model_zero_grads(model);
    for (int i = 0; i < step.micro_count; i++)
        model_forward_backward(model, &step.micro[i].batch, true, &(struct model_step){0}, &result);
    outcome.loss = result.loss;
    grad = model_grads(model, &outcome.count, &partial);
    outcome.grad = mem_alloc(outcome.count * sizeof *grad);
    memcpy(outcome.grad, grad, outcome.count * sizeof *grad);
    model_close(model);
    pool_free(pool);
    return outcome;
}

/* |a - b| / |a| over all gradients. */
static double distance(const struct outcome *a, const struct outcome *b)
{
    double apart = 0, size = 0;

    assert_int_equal(a->count, b->count);
    for (uint64_t i = 0; i < a->count; i++) {
        apart += ((double)a->grad[i] - b->grad[i]) * ((double)a->grad[i] - b->grad[i]);
        size += (double)a->grad[i] * a->grad[i];
    }
    return sqrt(apart / size);
}

static void packed_equals_unpacked_equals_one_by_one(void **state)
{
    struct world w;
    struct outcome together, others[4];

    fill(&w);
    together = run(&w, 2, false, EXAMPLES * 20, 0);
    others[0] = run(&w, 2, true, EXAMPLES * 20, 0);      /* packed rows in one micro-batch */
    others[1] = run(&w, 2, true, CAPACITY, 0);           /* a packed row each */
    others[2] = run(&w, 2, false, CAPACITY, 0);          /* accumulated */
    others[3] = run(&w, 2, false, CAPACITY, 1);          /* one by one */
    assert_true(together.loss > 5 && together.loss < 6); /* about ln 262 */
    for (int i = 0; i < 4; i++) {
        if (fabs(others[i].loss - together.loss) > 1e-6 * together.loss || distance(&together, &others[i]) > 1e-6)
            fail_msg("grouping %d: loss %.9f and %.9f, gradients differ by %g", i, together.loss, others[i].loss,
                     distance(&together, &others[i]));
        free(others[i].grad);
    }
    free(together.grad);
    arena_deinit(&w.arena);
}

static void one_two_and_three_threads_give_the_same_bits(void **state)
{
    struct world w;
    struct outcome one, other;

    fill(&w);
    one = run(&w, 1, true, 100, 0);
    for (int threads = 2; threads <= 3; threads++) {
        other = run(&w, threads, true, 100, 0);
        assert_true(one.loss == other.loss);
        assert_memory_equal(one.grad, other.grad, one.count * sizeof *one.grad);
        free(other.grad);
    }
    free(one.grad);
    arena_deinit(&w.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_in_the_order_of_seed_plus_epoch),
        cmocka_unit_test(micro_batches_share_the_divisor_of_the_step),
        cmocka_unit_test(packed_equals_unpacked_equals_one_by_one),
        cmocka_unit_test(one_two_and_three_threads_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
