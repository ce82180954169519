#include "test.h"
#include "base/random.h"
#include "infer/sample.h"

#include <math.h>
#include <stdlib.h>

static const float logits[5] = {1.0f, 3.0f, 3.0f, 0.0f, -2.0f};

static void temperature_zero_takes_the_first_largest(void **state)
{
    uint64_t order[2 * 5];

    assert_int_equal(sample_token(logits, 5, &(struct sample_options){.top_p = 1}, 0, order), 1);
}

static void draws_follow_the_probabilities(void **state)
{
    uint64_t order[2 * 5];
    int hits[5] = {0}, rounds = 20000;
    double sum = 0;

    for (int i = 0; i < rounds; i++)
        hits[sample_token(logits, 5, &(struct sample_options){.temperature = 1.5, .top_p = 1, .seed = 7}, (uint32_t)i,
                          order)]++;
    for (int i = 0; i < 5; i++)
        sum += exp(logits[i] / 1.5);
    for (int i = 0; i < 5; i++) {
        double p = exp(logits[i] / 1.5) / sum, sigma = sqrt(p * (1 - p) * rounds);
        if (fabs(hits[i] - p * rounds) > 5 * sigma)
            fail_msg("token %d: %d draws, %.0f expected", i, hits[i], p * rounds);
    }
}

static void top_p_cuts_the_tail(void **state)
{
    uint64_t order[2 * 5];

    for (uint32_t i = 0; i < 1000; i++) {
        int32_t id = sample_token(logits, 5, &(struct sample_options){.temperature = 1, .top_p = 0.8}, i, order);
        assert_true(id == 1 || id == 2);
    }
}

/* Vocabularies of several blocks and an odd rest: every token has its share, and the nucleus is that of a full sort. */
static void large_vocabularies_are_drawn_from_as_small_ones(void **state)
{
    enum { VOCAB = 2600, DRAWS = 40000, GROUPS = 13 };
    static float many[VOCAB];
    static uint64_t order[2 * VOCAB];
    int hits[GROUPS] = {0};
    double share[GROUPS] = {0}, sum = 0;

    for (int i = 0; i < VOCAB; i++) {
        many[i] = (float)sin(i) * 3;
        share[i % GROUPS] += exp(many[i] / 0.8);
        sum += exp(many[i] / 0.8);
    }
    for (uint32_t i = 0; i < DRAWS; i++)
        hits[sample_token(many, VOCAB, &(struct sample_options){.temperature = 0.8, .top_p = 1, .seed = 5}, i, order) %
             GROUPS]++;
    for (int i = 0; i < GROUPS; i++) {
        double p = share[i] / sum, sigma = sqrt(p * (1 - p) * DRAWS);
        if (fabs(hits[i] - p * DRAWS) > 5 * sigma)
            fail_msg("group %d: %d draws, %.0f expected", i, hits[i], p * DRAWS);
    }
    for (uint32_t i = 0; i < 2000; i++) {
        int32_t id =
            sample_token(many, VOCAB, &(struct sample_options){.temperature = 1, .top_p = 0.25, .seed = 5}, i, order);
        double above = 0, whole = 0;
        for (int k = 0; k < VOCAB; k++) {
            whole += exp(many[k]);
            above += many[k] > many[id] ? exp(many[k]) : 0;
        }
        if (above >= 0.2501 * whole)
            fail_msg("token %d is behind the first quarter", id);
    }
}

enum { MANY = 5000 };

static float many_logits[MANY];

static int compare_logits(const void *a, const void *b)
{
    int i = *(const int *)a, j = *(const int *)b;

    if (many_logits[i] != many_logits[j])
        return many_logits[i] > many_logits[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* The definition: all tokens sorted, the first that reach top_p, one draw among them. */
static int sorted_draw(double top_p, uint64_t seed, uint32_t position)
{
    static int order[MANY];
    uint32_t counter[4] = {position}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, out[4];
    double sum = 0, reached = 0, target;
    int kept = 0;

    for (int i = 0; i < MANY; i++) {
        order[i] = i;
        sum += exp(many_logits[i]);
    }
    qsort(order, MANY, sizeof *order, compare_logits);
    while (kept < MANY && (kept == 0 || reached < top_p * sum))
        reached += exp(many_logits[order[kept++]]);
    philox4x32(counter, key, out);
    target = (double)(((uint64_t)out[0] << 21) ^ (out[1] >> 11)) * 0x1p-53 * reached;
    for (int i = 0; i < kept; i++)
        if ((target -= exp(many_logits[order[i]])) < 0)
            return order[i];
    return order[kept - 1];
}

/* Flat logits keep nearly all tokens, steep ones few; steps make many equal, zeros of both signs among them. */
static void top_p_draws_what_sorting_all_tokens_would(void **state)
{
    static uint64_t order[2 * MANY];
    const struct {
        double scale, step, top_p;
    } cases[] = {{0.01, 0, 0.9}, {1, 0.25, 0.95}, {0.3, 0.5, 0.5}, {4, 0, 0.9},
                 {8, 1, 0.99},   {2, 0, 1e-9},    {0, 1, 0.999}};

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (int i = 0; i < MANY; i++) {
            double value = cases[c].scale * sin(i * 1.7);
            many_logits[i] = (float)(cases[c].step > 0 ? cases[c].step * round(value / cases[c].step) : value);
        }
        for (uint32_t i = 0; i < 40; i++) {
            struct sample_options options = {.temperature = 1, .top_p = cases[c].top_p, .seed = 11};
            int is = sample_token(many_logits, MANY, &options, i, order), wanted = sorted_draw(cases[c].top_p, 11, i);
            if (is != wanted)
                fail_msg("case %zu, draw %u: %d instead of %d", c, i, is, wanted);
        }
    }
}

static void the_same_seed_draws_the_same(void **state)
{
    struct sample_options options = {.temperature = 1, .top_p = 1, .seed = 3};
    uint64_t order[2 * 5];
    int different = 0;

    for (uint32_t i = 0; i < 100; i++) {
        int32_t first = sample_token(logits, 5, &options, i, order);
        assert_int_equal(first, sample_token(logits, 5, &options, i, order));
        different += first != sample_token(logits, 5, &(struct sample_options){.temperature = 1, .top_p = 1, .seed = 4},
                                           i, order);
    }
    assert_true(different > 10);
}

static void logprobs_are_of_the_model_itself(void **state)
{
    struct sample_alternative top[3];
    double sum = 0;

    for (int i = 0; i < 5; i++)
        sum += exp(logits[i]);
    assert_true(fabs(sample_logprobs(logits, 5, 3, 3, top) - (0 - log(sum))) < 1e-6);
    assert_int_equal(top[0].id, 1);
    assert_int_equal(top[1].id, 2);
    assert_int_equal(top[2].id, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temperature_zero_takes_the_first_largest),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(top_p_cuts_the_tail),
        cmocka_unit_test(large_vocabularies_are_drawn_from_as_small_ones),
        cmocka_unit_test(top_p_draws_what_sorting_all_tokens_would),
        cmocka_unit_test(the_same_seed_draws_the_same),
        cmocka_unit_test(logprobs_are_of_the_model_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
