/* Adapters opened beside each other on one model: a document's logits are those of a model opened with its adapter
 * alone. */
#include "fixture.h"
#include "model/adapter.h"

enum { ADAPTERS = 2, DOCS = 4, DOC_TOKENS = 5, T = DOCS * DOC_TOKENS, VOCAB = 37, SLOT_RANK = 6 };

static struct pool *pool;
static struct arena arena;

static int set_up(void **state)
{
    pool = pool_new(2);
    return 0;
}

static int tear_down(void **state)
{
    pool_free(pool);
    arena_deinit(&arena);
    return fixture_clean(state);
}

/* B begins with zeros; any numbers do. */
static void fill(struct model *model, int number)
{
    for (int i = 0; i < model_params(model)->count; i++) {
        struct param_view view = model_param_view(model, i);
        if (strstr(model_params(model)->param[i].name, "lora_"))
            for (int32_t e = 0; e < view.rows * view.cols; e++)
                ((float *)view.master)[e / view.cols * view.ld + e % view.cols] = (float)sin(e + i + number) / 8;
    }
    model_masters_changed(model);
}

static const char *make_adapter(const char *base, const struct lora_config *lora, int number)
{
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    const char *folder = fixture_folder(&arena);
    struct checkpoint_files files;
    struct model *model;
    struct err err;

    options.lora = *lora;
    model = fixture_open(base, &options);
    fill(model, number);
    assert_ok(checkpoint_write(model, folder, "", &arena, &files, &err), err);
    model_close(model);
    return folder;
}

static const char *make_base(const struct tiny_family *family)
{
    struct model_options options = fixture_options(PROFILE_F32, &backend_ref, pool);
    const char *folder = fixture_folder(&arena);
    struct checkpoint_files files;
    struct model *model;
    struct err err;

    options.is_random = true;
    model = fixture_open(fixture_family(&arena, family), &options);
    assert_ok(checkpoint_write(model, folder, "", &arena, &files, &err), err);
    model_close(model);
    return folder;
}

static struct model_options inference(enum model_profile profile, const struct backend *backend)
{
    struct model_options options = fixture_options(profile, backend, pool);

    options.is_trained = false;
    options.head_rows = DOCS;
    return options;
}

/* Logits of the last token of the documents first .. first + count, which are those of a batch of four. */
static void run(struct model *model, const struct adapter *const *adapters, int32_t first, int32_t count, float *logits)
{
    int32_t tok[T], pos[T], cu[DOCS + 1] = {0}, rows[DOCS];

    for (int32_t d = 0; d < count; d++) {
        for (int32_t t = 0; t < DOC_TOKENS; t++) {
            tok[d * DOC_TOKENS + t] = ((first + d) * 11 + t * 7) % VOCAB;
            pos[d * DOC_TOKENS + t] = t;
        }
        cu[d + 1] = (d + 1) * DOC_TOKENS;
        rows[d] = cu[d + 1] - 1;
    }
    model_forward(model, &(struct batch){.T = cu[count], .doc_count = count, .cu_seqlens = cu, .tok = tok, .pos = pos},
                  NULL, adapters, rows, count, logits);
}

/* Documents meet the first adapter, none, the second and the first again. */
static void check_beside(const char *base, const char *const folder[ADAPTERS], enum model_profile profile,
                         const struct backend *backend, const char *name)
{
    static const int meets[DOCS] = {0, -1, 1, 0};
    struct model_options options = inference(profile, backend);
    float together[DOCS][VOCAB], alone[VOCAB];
    const struct adapter *of_document[DOCS];
    struct adapter *adapter[ADAPTERS];
    struct model *model;
    struct err err;

    options.slot_rank = SLOT_RANK;
    model = fixture_open(base, &options);
    for (int i = 0; i < ADAPTERS; i++)
        assert_ok(adapter_open(&adapter[i], model, folder[i], &err), err);
    for (int d = 0; d < DOCS; d++)
        of_document[d] = meets[d] < 0 ? NULL : adapter[meets[d]];
    run(model, of_document, 0, DOCS, together[0]);
    for (int i = 0; i < ADAPTERS; i++)
        adapter_close(adapter[i]);
    model_close(model);
    options.slot_rank = 0;
    for (int d = 0; d < DOCS; d++) {
        options.adapter_folder = meets[d] < 0 ? NULL : folder[meets[d]];
        model = fixture_open(base, &options);
        run(model, NULL, d, 1, alone);
        model_close(model);
        if (memcmp(alone, together[d], sizeof alone) != 0)
            fail_msg("%s, %s on %s: document %d differs: %.9g together, %.9g alone", name, model_profile_name(profile),
                     backend->name, d, (double)together[d][0], (double)alone[0]);
    }
}

static void a_documents_logits_are_those_of_its_adapter_alone(void **state)
{
    static const char *const names[] = {"o_proj"};
    static const struct lora_pattern ranks[] = {{"o_proj", 2}};
    const struct lora_config first = {.rank = 4, .alpha = 8};
    const struct lora_config second[] = {{.rank = 6, .alpha = 3, .targets = {.name = names, .count = 1}},
                                         {.rank = 3, .alpha = 3, .rank_pattern = {ranks, 1}}};

    for (int k = 0; k < TINY_FAMILY_COUNT; k++) {
        const char *base = make_base(&tiny_families[k]);
        const char *folder[ADAPTERS] = {make_adapter(base, &first, 1), make_adapter(base, &second[k % 2], 2)};
        check_beside(base, folder, PROFILE_F32, &backend_ref, tiny_families[k].name);
        check_beside(base, folder, PROFILE_F32, &backend_cpu, tiny_families[k].name);
        if (model_profile_best() == PROFILE_BF16)
            check_beside(base, folder, PROFILE_BF16, &backend_cpu, tiny_families[k].name);
    }
}

static void what_changes_more_than_products_needs_a_model_of_its_own(void **state)
{
    static const char *const embeds[] = {"embed_tokens", "q_proj"}, *const norm[] = {"norm"};
    static const struct {
        struct lora_config lora;
        const char *says;
    } cases[] = {
        {{.rank = 2, .alpha = 2, .is_dora = true}, "DoRA"},
        {{.rank = 2, .alpha = 2, .saved = {.name = norm, .count = 1}}, "modules_to_save"},
        {{.rank = 2, .alpha = 2, .targets = {.name = embeds, .count = 2}}, "embeddings or head"},
        {{.rank = 7, .alpha = 2}, "rank above 6"},
    };
    const char *base = fixture_model(&arena, pool, false, "float32");
    struct model_options options = inference(PROFILE_F32, &backend_cpu);
    struct model *model;

    options.slot_rank = SLOT_RANK;
    model = fixture_open(base, &options);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct adapter *adapter;
        struct err err = {0};
        assert_false(adapter_open(&adapter, model, make_adapter(base, &cases[i].lora, 1), &err));
        assert_null(adapter);
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        if (!strstr(err.text, cases[i].says))
            fail_msg("'%s' does not say '%s'", err.text, cases[i].says);
    }
    model_close(model);
}

static void an_adapter_of_another_base_is_refused(void **state)
{
    const char *base = fixture_model(&arena, pool, false, "float32");
    const char *other = make_base(&tiny_families[5]); /* phi3, wider */
    struct model_options options = inference(PROFILE_F32, &backend_cpu);
    struct adapter *adapter;
    struct model *model;
    struct err err = {0};

    options.slot_rank = SLOT_RANK;
    model = fixture_open(base, &options);
    assert_false(
        adapter_open(&adapter, model, make_adapter(other, &(struct lora_config){.rank = 2, .alpha = 2}, 1), &err));
    assert_int_not_equal(err.code, ERR_UNSUPPORTED);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_documents_logits_are_those_of_its_adapter_alone),
        cmocka_unit_test(what_changes_more_than_products_needs_a_model_of_its_own),
        cmocka_unit_test(an_adapter_of_another_base_is_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
