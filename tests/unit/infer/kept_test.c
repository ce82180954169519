#include "model/fixture.h"
#include "infer/kept.h"

enum { STEP_TOKENS = 64, TOKENS = 32 };

static struct pool *pool;
static struct arena arena;
static struct model *model;
static struct model_cache *cache; /* of 64 positions, as if run */

static int set_up(void **state)
{
    struct model_options options;

    pool = pool_new(2);
    options = fixture_options(PROFILE_F32, &backend_cpu, pool);
    options.is_trained = false;
    options.row_tokens = options.tokens_wanted = options.positions = STEP_TOKENS;
    model = fixture_open(fixture_model(&arena, pool, true, "float32"), &options);
    cache = model_cache_new(model, STEP_TOKENS);
    for (int32_t l = 0; l < model_config(model)->layers; l++)
        cache->layer[l].length = STEP_TOKENS;
    return 0;
}

static int tear_down(void **state)
{
    model_cache_free(model, cache);
    model_close(model);
    pool_free(pool);
    arena_deinit(&arena);
    return fixture_clean(state);
}

/* All of them `first`, then counted on. */
static const int32_t *tokens_from(int32_t first)
{
    static int32_t tokens[STEP_TOKENS];

    for (int32_t i = 0; i < STEP_TOKENS; i++)
        tokens[i] = first + i;
    return tokens;
}

static int32_t found(struct kept *kept, int32_t first, int32_t count)
{
    int32_t same;
    const struct model_cache *from = kept_find(kept, "a", tokens_from(first), count, &same);

    assert_int_equal(from != NULL, same > 0);
    return same;
}

static void what_was_of_no_use_for_longest_makes_room(void **state)
{
    struct kept *kept = kept_new(model, 2 * model_cache_bytes(model, TOKENS));

    kept_add(kept, "a", tokens_from(100), TOKENS, cache);
    kept_add(kept, "a", tokens_from(200), TOKENS, cache);
    assert_int_equal(found(kept, 100, TOKENS), TOKENS);
    kept_add(kept, "a", tokens_from(300), TOKENS, cache);
    assert_int_equal(found(kept, 100, TOKENS), TOKENS);
    assert_int_equal(found(kept, 200, TOKENS), 0);
    assert_int_equal(found(kept, 300, TOKENS), TOKENS);
    assert_true(kept_clear(kept));
    assert_false(kept_clear(kept));
    assert_int_equal(found(kept, 100, TOKENS), 0);
    kept_free(kept);
}

static void what_goes_on_takes_the_place_of_its_beginning(void **state)
{
    struct kept *kept = kept_new(model, 2 * model_cache_bytes(model, TOKENS));

    kept_add(kept, "a", tokens_from(100), TOKENS, cache);
    kept_add(kept, "a", tokens_from(200), TOKENS / 2, cache);
    kept_add(kept, "a", tokens_from(200), TOKENS, cache);
    kept_add(kept, "a", tokens_from(200), TOKENS / 2, cache); /* known */
    assert_int_equal(found(kept, 100, TOKENS), TOKENS);
    assert_int_equal(found(kept, 200, STEP_TOKENS), TOKENS);
    assert_int_equal(found(kept, 200, 20), 20);
    kept_free(kept);
}

static void the_few_and_the_too_many_are_not_kept(void **state)
{
    struct kept *kept = kept_new(model, model_cache_bytes(model, STEP_TOKENS) - 1), *nothing = kept_new(model, 0);

    kept_add(kept, "a", tokens_from(100), KEPT_TOKENS_MIN - 1, cache);
    assert_int_equal(found(kept, 100, TOKENS), 0);
    kept_add(nothing, "a", tokens_from(100), TOKENS, cache);
    assert_int_equal(found(nothing, 100, TOKENS), 0);
    for (int32_t i = 0; i < KEPT_MAX + 1; i++)
        kept_add(kept, "a", tokens_from(1000 * i), KEPT_TOKENS_MIN, cache);
    kept_free(kept);
    kept_free(nothing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_of_no_use_for_longest_makes_room),
        cmocka_unit_test(what_goes_on_takes_the_place_of_its_beginning),
        cmocka_unit_test(the_few_and_the_too_many_are_not_kept),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
