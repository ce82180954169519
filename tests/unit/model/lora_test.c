/* PEFT's rules over names of modules: what has an adapter, of which rank and scale, and what is saved whole. */
#include "fixture.h"
#include "model/lora.h"

#define Q0  "model.layers.0.self_attn.q_proj"
#define Q1  "model.layers.1.self_attn.q_proj"
#define UP1 "model.layers.1.mlp.up_proj"

static int32_t layer_of(const char *module)
{
    const char *at = strstr(module, "layers.");

    return at ? atoi(at + 7) : -1;
}

static struct lora_choice choose(const struct lora_config *config, const char *module)
{
    struct lora_choice choice;
    struct err err = {0};
    struct lora_rules *rules = lora_rules_new(config, &err);

    assert_ok(rules, err);
    assert_ok(lora_rules_choose(rules, module, layer_of(module), strstr(module, "_proj") != NULL, &choice, &err), err);
    lora_rules_free(rules);
    return choice;
}

static void targets_are_ends_of_names_or_expressions_over_the_whole(void **state)
{
    static const struct {
        const char *json, *adapted, *plain; /* modules, a space between */
    } cases[] = {
        {"{}", Q0 " " UP1, "lm_head model.embed_tokens"},
        {"{\"t\":\"ALL-linear\"}", Q0 " " UP1, "lm_head"},
        {"{\"t\":[\"q_proj\"]}", Q0 " " Q1, UP1 " model.layers.0.self_attn.xq_proj"},
        {"{\"t\":[\"layers.1.mlp.up_proj\",\"lm_head\"]}", UP1 " lm_head",
         "model.layers.0.mlp.up_proj model.lm_head.x"},
        {"{\"t\":\".*\\\\.(q|k)_proj\"}", Q0 " " Q1, UP1 " model.layers.0.self_attn.q_proj.x"},
        {"{\"t\":\"q_proj\"}", "q_proj", Q0},
        {"{\"t\":[\"q_proj\",\"up_proj\"],\"exclude_modules\":[\"layers.1.mlp.up_proj\"]}", Q1, UP1},
        {"{\"exclude_modules\":\".*\\\\.1\\\\..*\"}", Q0, Q1 " " UP1},
        {"{\"t\":[\"q_proj\"],\"layers_to_transform\":[1]}", Q1, Q0},
        {"{\"t\":[\"q_proj\"],\"layers_to_transform\":0}", Q0, Q1},
        {"{\"t\":[\"" Q0 "\"],\"layers_to_transform\":[1]}", Q0, Q1}, /* a whole name is not asked for its layer */
        {"{\"t\":[\"q_proj\",\"lm_head\"],\"modules_to_save\":[\"lm_head\"]}", Q0, "lm_head"},
        {"{\"modules_to_save\":[\"self_attn\"]}", UP1, Q0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct lora_config config = {.rank = 4, .alpha = 8};
        struct err err = {0};
        const struct json *root = json_parse(&arena, str_of(cases[i].json), NULL, &err);
        assert_ok(lora_json_read(&arena, root, "t", &config, &err), err);
        for (int k = 0; k < 2; k++) {
            char list[512], *rest = list;
            snprintf(list, sizeof list, "%s", k ? cases[i].plain : cases[i].adapted);
            for (char *name = strsep(&rest, " "); name; name = strsep(&rest, " "))
                if ((choose(&config, name).rank == 0) != (k == 1))
                    fail_msg("%s: %s", cases[i].json, name);
        }
        arena_deinit(&arena);
    }
}

static void the_first_pattern_that_fits_gives_rank_and_alpha(void **state)
{
    static const struct lora_pattern ranks[] = {{"1.self_attn.q_proj", 2}, {"q_proj", 16}, {"mlp\\.(up|down)_proj", 1}};
    static const struct lora_pattern alphas[] = {{"up_proj", 3}};
    struct lora_config config = {.rank = 4, .alpha = 8, .rank_pattern = {ranks, 3}, .alpha_pattern = {alphas, 1}};

    assert_int_equal(choose(&config, Q0).rank, 16);
    assert_true(choose(&config, Q0).scale == 0.5f);
    assert_int_equal(choose(&config, Q1).rank, 2);
    assert_true(choose(&config, Q1).scale == 4);
    assert_int_equal(choose(&config, UP1).rank, 1);
    assert_true(choose(&config, UP1).scale == 3);
    assert_true(choose(&config, "model.layers.1.self_attn.k_proj").scale == 2);
    config.is_rslora = true;
    assert_true(choose(&config, Q0).scale == 2);
    assert_true(choose(&config, "model.layers.1.self_attn.k_proj").scale == 4);
}

static void modules_are_saved_by_the_end_of_their_name_dot_or_not(void **state)
{
    static const char *const saved[] = {"norm", "lm_head"};
    struct lora_config config = {.rank = 1, .alpha = 1, .saved = {.name = saved, .count = 2}};
    struct err err = {0};
    struct lora_rules *rules = lora_rules_new(&config, &err);

    assert_ok(rules, err);
    assert_true(lora_rules_save(rules, "model.layers.0.input_layernorm"));
    assert_true(lora_rules_save(rules, "model.norm"));
    assert_false(lora_rules_save(rules, "model.embed_tokens"));
    assert_false(lora_rules_check_used(rules, "q_proj", &err));
    assert_non_null(strstr(err.text, "modules_to_save: \"lm_head\""));
    lora_rules_free(rules);
}

static void what_is_no_rule_is_refused(void **state)
{
    static const struct {
        const char *json, *said;
    } cases[] = {
        {"{\"t\":[]}", "t must name modules"},
        {"{\"t\":[1]}", "t must hold names"},
        {"{\"t\":[\"a\\u0000b\"]}", "t must hold names"},
        {"{\"t\":3}", "t must be a list"},
        {"{\"t\":\"(\"}", "lora_target_modules"},
        {"{\"rank_pattern\":{\"q\":0}}", "rank_pattern: the rank of \"q\""},
        {"{\"rank_pattern\":{\"q\":2.5}}", "rank_pattern: the rank of \"q\""},
        {"{\"rank_pattern\":{\"(\":2}}", "rank_pattern"},
        {"{\"rank_pattern\":[]}", "rank_pattern must be an object"},
        {"{\"alpha_pattern\":{\"q\":0}}", "alpha_pattern: the alpha of \"q\""},
        {"{\"modules_to_save\":\"norm\"}", "modules_to_save must be a list"},
        {"{\"layers_to_transform\":[-1]}", "layers_to_transform must be"},
        {"{\"layers_to_transform\":\"x\"}", "layers_to_transform must be"},
        {"{\"use_rslora\":1}", "use_rslora must be true or false"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct lora_config config = {.rank = 4, .alpha = 8};
        struct err err = {0};
        const struct json *root = json_parse(&arena, str_of(cases[i].json), NULL, &err);
        struct lora_rules *rules =
            lora_json_read(&arena, root, "t", &config, &err) ? lora_rules_new(&config, &err) : NULL;
        if (rules || !strstr(err.text, cases[i].said))
            fail_msg("%s: %s", cases[i].json, err.text);
        arena_deinit(&arena);
    }
}

/* Steps are bounded: an expression of the kind that runs for ever ends in an error. */
static void an_expression_that_explodes_ends_in_an_error(void **state)
{
    struct lora_config config = {.rank = 1, .alpha = 1, .targets = {.regex = "(((a+)+)+)+[bc]"}};
    struct err err = {0};
    struct lora_rules *rules = lora_rules_new(&config, &err);
    struct lora_choice choice;

    assert_ok(rules, err);
    assert_false(lora_rules_choose(rules, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0, true, &choice, &err));
    lora_rules_free(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_ends_of_names_or_expressions_over_the_whole),
        cmocka_unit_test(the_first_pattern_that_fits_gives_rank_and_alpha),
        cmocka_unit_test(modules_are_saved_by_the_end_of_their_name_dot_or_not),
        cmocka_unit_test(what_is_no_rule_is_refused),
        cmocka_unit_test(an_expression_that_explodes_ends_in_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
