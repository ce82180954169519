#include "test.h"
#include "infer/sample.h"

#include <math.h>

static const float logits[5] = {1.0f, 3.0f, 3.0f, 0.0f, -2.0f};

static void temperature_zero_takes_the_first_largest(void **state)
{
    int32_t order[5];

    assert_int_equal(sample_token(logits, 5, &(struct sample_options){.top_p = 1}, 0, order), 1);
}

static void draws_follow_the_probabilities(void **state)
{
    int32_t order[5];
    int hits[5] = {0}, rounds = 20000;
    double sum = 0;

    for (int i = 0; i < rounds; i++)
        hits[sample_token(logits, 5, &(struct sample_options){.temperature = 1.5, .top_p = 1, .seed = 7}, (uint32_t)i, order)]++;
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
    int32_t order[5];

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
    static int32_t order[VOCAB];
    int hits[GROUPS] = {0};
    double share[GROUPS] = {0}, sum = 0;

    for (int i = 0; i < VOCAB; i++) {
        many[i] = (float)sin(i) * 3;
        share[i % GROUPS] += exp(many[i] / 0.8);
        sum += exp(many[i] / 0.8);
    }
    for (uint32_t i = 0; i < DRAWS; i++)
        hits[sample_token(many, VOCAB, &(struct sample_options){.temperature = 0.8, .top_p = 1, .seed = 5}, i, order) % GROUPS]++;
    for (int i = 0; i < GROUPS; i++) {
        double p = share[i] / sum, sigma = sqrt(p * (1 - p) * DRAWS);
        if (fabs(hits[i] - p * DRAWS) > 5 * sigma)
            fail_msg("group %d: %d draws, %.0f expected", i, hits[i], p * DRAWS);
    }
    for (uint32_t i = 0; i < 2000; i++) {
        int32_t id = sample_token(many, VOCAB, &(struct sample_options){.temperature = 1, .top_p = 0.25, .seed = 5}, i, order);
        double above = 0, whole = 0;
        for (int k = 0; k < VOCAB; k++) {
            whole += exp(many[k]);
            above += many[k] > many[id] ? exp(many[k]) : 0;
        }
        if (above >= 0.2501 * whole)
            fail_msg("token %d is behind the first quarter", id);
    }
}

static void the_same_seed_draws_the_same(void **state)
{
    struct sample_options options = {.temperature = 1, .top_p = 1, .seed = 3};
    int32_t order[5];
    int different = 0;

    for (uint32_t i = 0; i < 100; i++) {
        int32_t first = sample_token(logits, 5, &options, i, order);
        assert_int_equal(first, sample_token(logits, 5, &options, i, order));
        different += first != sample_token(logits, 5, &(struct sample_options){.temperature = 1, .top_p = 1, .seed = 4}, i, order);
    }
    assert_true(different > 10);
}

static void logprobs_are_of_the_model_itself(void **state)
{
    struct sample_alternative top[3];
    double sum = 0;

    for (int i = 0; i < 5; i++)
        sum += exp(logits[i]);
    assert_true(fabs(sample_logprobs(logits, 5, 3, 3, top) - (0 - log(sum))) < 1e-12);
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
        cmocka_unit_test(the_same_seed_draws_the_same),
        cmocka_unit_test(logprobs_are_of_the_model_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
