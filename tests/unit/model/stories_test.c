/* A real trained model against values computed in float64 numpy: greedy ids, logits, loss and gradients. */
#include "fixture.h"
#include "base/json.h"

struct run {
    const struct backend *backend;
    enum model_profile profile;
    double logits_bound, loss_bound; /* relative to the largest logit; relative */
};

static const struct run runs[] = {
    {&backend_ref, PROFILE_F32, 1e-4, 1e-6},
    {&backend_ref, PROFILE_BF16, 2e-2, 1e-2},
    {&backend_cpu, PROFILE_F32, 1e-4, 1e-6},
    {&backend_cpu, PROFILE_BF16, 2e-2, 1e-2},
};
enum { RUN_COUNT = sizeof runs / sizeof *runs, IDS_MAX = 256 };

struct setup {
    struct arena arena;
    struct pool *pool;
    const char *folder;
    struct json *golden, *grads;
};

static struct json *read_json(struct arena *arena, const char *path)
{
    struct err err;
    struct str text;
    struct json *json;

    assert_ok(file_read(arena, path, 1 << 20, &text, &err), err);
    json = json_parse(arena, text, NULL, &err);
    assert_ok(json, err);
    return json;
}

static bool setup(struct setup *s)
{
    *s = (struct setup){.folder = shared_path("stories260K/hf")};
    if (!s->folder)
        return false;
    s->pool = pool_new(2);
    s->golden = read_json(&s->arena, shared_path("stories260K/golden.json"));
    s->grads = read_json(&s->arena, shared_path("stories260K/golden_grads.json"));
    return true;
}

static void teardown(struct setup *s)
{
    pool_free(s->pool);
    arena_deinit(&s->arena);
}

static struct model *open_run(const struct setup *s, const struct run *run, bool is_trained)
{
    struct model_options options = {.profile = run->profile,
                                    .is_trained = is_trained,
                                    .backend = run->backend,
                                    .pool = s->pool,
                                    .row_tokens = 256,
                                    .tokens_wanted = 256};

    return fixture_open(s->folder, &options);
}

static int32_t read_ids(const struct json *list, int32_t *ids)
{
    int32_t count = 0;

    json_each(item, list)
        if (count < IDS_MAX)
            ids[count++] = (int32_t)item->integer;
    return count;
}

/* Mean loss of one document in which every token is a label. */
static double mean_nll(struct model *model, struct arena *arena, const int32_t *ids, int32_t count, bool has_grads)
{
    int32_t cu_seqlens[2] = {0, count};
    struct model_result result = {0};
    float weight[IDS_MAX];
    struct batch batch;

    for (int32_t t = 0; t < count; t++)
        weight[t] = 1;
    batch_make(arena, &batch, ids, cu_seqlens, 1, NULL, weight, 1.0f / (float)(count - 1));
    model_forward_backward(model, &batch, has_grads, NULL, &result);
    return result.nll_sum / (double)result.row_count;
}

static double logits_error(const struct json *expected, const float *logits)
{
    double error = 0;
    int v = 0;

    json_each(item, expected)
        error = fmax(error, fabs(json_number(item) - (double)logits[v++]));
    return error;
}

static void check_logits(const struct setup *s, const struct run *run)
{
    struct model *model = open_run(s, run, false);
    int32_t ids[IDS_MAX], cu_seqlens[2] = {0, 8}, rows[2] = {0, 7};
    double largest = json_number(json_get(s->golden, "max_pos0")), error;
    struct arena arena = {0};
    float logits[2 * 512];
    struct batch batch;

    read_ids(json_get(s->golden, "greedy_ids"), ids);
    batch_make(&arena, &batch, ids, cu_seqlens, 1, NULL, NULL, 1);
    model_forward(model, &batch, NULL, NULL, rows, 2, logits);
    error = fmax(logits_error(json_get(s->golden, "logits_pos0_first16"), logits),
                 logits_error(json_get(s->golden, "logits_pos7_first16"), logits + 512)) /
            largest;
    print_message("stories260K %s %s: logits err %.2e of the largest\n", run->backend->name,
                  model_profile_name(run->profile), error);
    assert_true(error <= run->logits_bound);
    arena_deinit(&arena);
    model_close(model);
}

static void logits_are_the_references(void **state)
{
    struct setup s;

    if (!setup(&s))
        skip();
    for (int i = 0; i < RUN_COUNT; i++)
        check_logits(&s, &runs[i]);
    teardown(&s);
}

static void losses_are_the_references(void **state)
{
    struct setup s;

    if (!setup(&s))
        skip();
    for (int i = 0; i < RUN_COUNT; i++) {
        struct model *model = open_run(&s, &runs[i], false);
        double expected = json_number(json_get(s.golden, "mean_nll_first_64_targets")), error;
        int32_t ids[IDS_MAX];
        read_ids(json_get(s.golden, "greedy_ids"), ids);
        error = relative_error(mean_nll(model, &s.arena, ids, 65, false), expected);
        json_each(item, json_get(s.grads, "cases")) {
            int32_t count = read_ids(json_get(item, "ids"), ids);
            error = fmax(error, relative_error(mean_nll(model, &s.arena, ids, count, false),
                                               json_number(json_get(item, "mean_nll"))));
        }
        print_message("stories260K %s %s: loss err %.2e relative\n", runs[i].backend->name,
                      model_profile_name(runs[i].profile), error);
        assert_true(error <= runs[i].loss_bound);
        model_close(model);
    }
    teardown(&s);
}

/* Both the prompt at once and token by token with a cache. */
static void greedy_ids_are_the_references(void **state)
{
    struct setup s;

    if (!setup(&s))
        skip();
    for (int i = 0; i < RUN_COUNT; i++) {
        struct model *model;
        struct model_cache *cache;
        int32_t ids[IDS_MAX], count = read_ids(json_get(s.golden, "greedy_ids"), ids), row = 0, cu_seqlens[2] = {0, 1};
        float logits[512];
        if (runs[i].profile != PROFILE_F32)
            continue;
        model = open_run(&s, &runs[i], false);
        cache = model_cache_new(model, 256);
        for (int32_t t = 0; t + 1 < count; t++) {
            struct batch batch;
            int32_t best = 0;
            batch_make(&s.arena, &batch, &ids[t], cu_seqlens, 1, &t, NULL, 1);
            model_forward(model, &batch, cache->layer, NULL, &row, 1, logits);
            for (int32_t v = 1; v < 512; v++)
                best = logits[v] > logits[best] ? v : best;
            assert_int_equal(best, ids[t + 1]);
        }
        print_message("stories260K %s %s: %d greedy ids equal\n", runs[i].backend->name,
                      model_profile_name(runs[i].profile), count - 1);
        model_cache_free(model, cache);
        model_close(model);
    }
    teardown(&s);
}

static void gradients_are_the_references(void **state)
{
    struct setup s;

    if (!setup(&s))
        skip();
    for (int i = 0; i < RUN_COUNT; i++) {
        struct model *model;
        double worst = 0;
        int checked = 0;
        if (runs[i].profile != PROFILE_F32)
            continue;
        model = open_run(&s, &runs[i], true);
        json_each(item, json_get(s.grads, "cases")) {
            int32_t ids[IDS_MAX], count = read_ids(json_get(item, "ids"), ids);
            model_zero_grads(model);
            mean_nll(model, &s.arena, ids, count, true);
        json_each(grad, json_get(item, "grads")) {
            const struct params *params = model_params(model);
            const struct param *param = params_find(params, str_copy(&s.arena, json_at(grad, 0)->string));
            struct param_view view = model_param_view(model, (int)(param - params->param));
            int64_t index = json_at(grad, 1)->integer;
            double expected = json_number(json_at(grad, 2));
            double value = (double)((float *)view.grad)[index / view.cols * view.ld + index % view.cols];
            double error = fabs(value - expected);
            if (error > 1e-6 && error > 1e-3 * fabs(expected))
                fail_msg("%s[%lld]: %.9g, expected %.9g", param->name, (long long)index, value, expected);
            if (error > 1e-6)
                worst = fmax(worst, error / fabs(expected));
            checked++;
        }
        }
        print_message("stories260K %s: %d gradients, worst relative err %.2e (beyond 1e-6 absolute)\n",
                      runs[i].backend->name, checked, worst);
        assert_int_equal(checked, 188);
        model_close(model);
    }
    teardown(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_the_references),
        cmocka_unit_test(losses_are_the_references),
        cmocka_unit_test(greedy_ids_are_the_references),
        cmocka_unit_test(gradients_are_the_references),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
