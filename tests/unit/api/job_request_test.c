#include "test.h"
#include "api/job_request.h"

#include <string.h>

static struct arena arena;

static bool read_text(const char *text, struct job_request *request, struct problems *problems)
{
    struct err err = {0};
    struct json *body = json_parse(&arena, str_of(text), NULL, &err);

    assert_ok(body, err);
    *problems = (struct problems){.arena = &arena};
    return job_request_read(&arena, body, request, problems);
}

static void defaults_are_nebius(void **state)
{
    struct job_request request;
    struct problems problems;

    assert_true(read_text("{\"model\":\"m\",\"training_file\":\"file-1\",\"validation_file\":null,\"suffix\":null}",
                          &request, &problems));
    assert_int_equal(request.values.batch_size, 8);
    assert_int_equal(request.values.n_epochs, 3);
    assert_true(request.values.learning_rate == 1e-5);
    assert_true(request.values.packing && !request.values.lora);
    assert_true(request.values.max_grad_norm == 1);
    assert_int_equal(request.values.lora_r, 8);
    assert_int_equal(request.seed, 0);
    assert_string_equal(request.over_length, "drop");
}

static void wrong_bodies_name_the_field(void **state)
{
    static const struct {
        const char *members, *param, *message;
    } cases[] = {
        {"\"hyperparameters\":{\"learning_rate\":-1}", "hyperparameters.learning_rate", "must be from 0 to 1, not -1"},
        {"\"hyperparameters\":{\"learnin_rate\":1}", "hyperparameters.learnin_rate", "did you mean \"learning_rate\"?"},
        {"\"hyperparameters\":{\"lora_rank\":8}", "hyperparameters.lora_rank", "did you mean \"lora_r\"?"},
        {"\"hyperparameters\":{\"n_epochs\":1.5}", "hyperparameters.n_epochs", "must be an integer"},
        {"\"hyperparameters\":{\"n_epochs\":0}", "hyperparameters.n_epochs", "from 1 to 100"},
        {"\"hyperparameters\":{\"packing\":1}", "hyperparameters.packing", "must be true or false, not a number"},
        {"\"hyperparameters\":[]", "hyperparameters", "must be an object"},
        {"\"hyperparameters\":{\"batch_size\":8,\"batch_size\":9}", "hyperparameters.batch_size", "occurs twice"},
        {"\"method\":{\"type\":\"reinforcement\"}", "method.type", "\"supervised\" and \"dpo\" are"},
        {"\"hyperparameters\":{\"beta\":0.1}", "hyperparameters.beta", "is of method dpo alone"},
        {"\"method\":{\"type\":\"dpo\",\"dpo\":{\"hyperparameters\":{\"beta\":2.5}}}", "method.hyperparameters.beta",
         "to 2, not 2.5"},
        {"\"method\":{\"type\":\"dpo\",\"dpo\":{\"hyperparameters\":{\"packing\":true}}}", "hyperparameters.packing",
         "must be false"},
        {"\"method\":{\"type\":\"dpo\",\"dpo\":{\"hyperparameters\":{\"lora_dropout\":0.1}}}",
         "hyperparameters.lora_dropout", "must be 0"},
        {"\"method\":{\"type\":\"supervised\",\"supervised\":{\"hyperparameters\":{\"lora_r\":0}}}",
         "method.hyperparameters.lora_r", "from 1 to 512"},
        {"\"hyperparameters\":{\"lora\":true},\"method\":{\"type\":\"supervised\","
         "\"supervised\":{\"hyperparameters\":{\"lora\":false}}}",
         "method.supervised.hyperparameters", "differ"},
        {"\"suffix\":\"a:b\"", "suffix", "may hold"},
        {"\"suffix\":\"a\\u0000b\"", "suffix", "NUL"},
        {"\"seed\":-1", "seed", "from 0 to"},
        {"\"metadata\":{\"a\":1}", "metadata.a", "takes strings"},
        {"\"over_length\":\"cut\"", "over_length", "\"truncate\""},
        {"\"lora_target_modules\":[]", "lora_target_modules", "list of module names"},
        {"\"modules_to_save\":\"norm\"", "modules_to_save", "list of module names"},
        {"\"layers_to_transform\":[-1]", "layers_to_transform", "list of layers' numbers"},
        {"\"hyperparameters\":{\"rank_pattern\":3}", "hyperparameters.rank_pattern", "object of numbers by module"},
        {"\"use_dora\":\"yes\"", "use_dora", "true or false"},
        {"\"quantization\":\"int8\"", "quantization", "\"none\", \"nf4\""},
        {"\"quantization\":\"nf4\"", "quantization", "goes with lora"},
        {"\"fp8\":1", "fp8", "true or false"},
        {"\"quantization\":\"nf4\",\"fp8\":true,\"hyperparameters\":{\"lora\":true}", "fp8", "nf4"},
        {"\"use_dora\":true,\"fp8\":true,\"hyperparameters\":{\"lora\":true}", "fp8", "use_dora"},
        {"\"hyperparameters\":{\"learning_rate\":1e-3,\"learning_rate_multiplier\":2}",
         "hyperparameters.learning_rate_multiplier", "both"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_request request;
        struct problems problems;
        char *text = arena_printf(&arena, "{\"model\":\"m\",\"training_file\":\"f\",%s}", cases[i].members);
        if (read_text(text, &request, &problems))
            fail_msg("accepted: %s", text);
        if (!problems_param(&problems) || strcmp(problems_param(&problems), cases[i].param) != 0 ||
            !strstr(problems.first->message, cases[i].message))
            fail_msg("%s gives %s: %s", cases[i].members, problems_param(&problems), problems.first->message);
    }
}

static void dpo_takes_the_branch_that_type_names(void **state)
{
    static const struct {
        const char *hyperparameters;
        double beta, rate;
    } cases[] = {
        {"{}", 0.1, 1e-6},
        {"{\"beta\":\"auto\",\"learning_rate_multiplier\":\"auto\",\"n_epochs\":\"auto\",\"batch_size\":\"auto\"}", 0.1,
         1e-6},
        {"{\"beta\":0.25,\"lora\":true,\"learning_rate_multiplier\":2}", 0.25, 2e-5},
        {"{\"beta\":2,\"learning_rate\":3e-4,\"packing\":false}", 2, 3e-4},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_request request;
        struct problems problems;
        char *text = arena_printf(
            &arena,
            "{\"model\":\"m\",\"training_file\":\"f\",\"method\":{\"type\":\"dpo\",\"dpo\":{\"hyperparameters\":%s},"
            "\"supervised\":{\"hyperparameters\":{\"n_epochs\":50}}}}",
            cases[i].hyperparameters);
        if (!read_text(text, &request, &problems))
            fail_msg("%s: %s", text, problems.first->message);
        assert_int_equal(request.method, METHOD_DPO);
        assert_int_equal(request.values.n_epochs, 3);
        assert_false(request.values.packing);
        assert_true(request.values.beta == cases[i].beta && request.values.learning_rate == cases[i].rate);
        assert_int_equal(request.warning_count, 0);
    }
}

static void every_problem_is_told_at_once(void **state)
{
    struct job_request request;
    struct problems problems;
    struct strbuf out = {0};

    assert_false(read_text("{\"hyperparameters\":{\"n_epochs\":\"x\"}}", &request, &problems));
    assert_int_equal(problems.count, 3);
    problems_write(&problems, &out);
    assert_non_null(strstr(
        out.at,
        "{\"loc\": [\"body\", \"training_file\"], \"msg\": \"training_file is required\", \"type\": \"missing\"}"));
    strbuf_deinit(&out);
}

static void the_rate_is_resolved(void **state)
{
    static const struct {
        const char *hyperparameters;
        double rate;
        int warnings;
    } cases[] = {
        {"{}", 1e-5, 0},
        {"{\"lora\":true}", 1e-5, 1},
        {"{\"learning_rate\":\"auto\"}", 1e-5, 0},
        {"{\"learning_rate\":\"auto\",\"lora\":true}", 2e-4, 0},
        {"{\"learning_rate_multiplier\":2}", 2e-5, 0},
        {"{\"learning_rate_multiplier\":2e-5}", 2e-5, 1},
        {"{\"learning_rate_multiplier\":\"auto\",\"lora\":true,\"n_epochs\":\"auto\",\"batch_size\":\"auto\"}", 2e-4,
         0},
        {"{\"learning_rate\":0.003,\"lora\":true}", 0.003, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_request request;
        struct problems problems;
        char *text = arena_printf(&arena, "{\"model\":\"m\",\"training_file\":\"f\",\"hyperparameters\":%s}",
                                  cases[i].hyperparameters);
        if (!read_text(text, &request, &problems))
            fail_msg("%s", problems.first->message);
        if (request.values.learning_rate != cases[i].rate || request.warning_count != cases[i].warnings)
            fail_msg("%s: rate %g, %d warnings", text, request.values.learning_rate, request.warning_count);
    }
}

static void extensions_are_taken_in_three_places(void **state)
{
    struct job_request request;
    struct problems problems;

    assert_true(read_text(
        "{\"model\":\"m\",\"training_file\":\"f\",\"over_length\":\"truncate\",\"extra_body\":{\"eval_steps\":5,"
        "\"x\":1},\"hyperparameters\":{\"checkpoint_steps\":7,\"keep_checkpoints\":3},\"tags\":\"one\",\"surprise\":1}",
        &request, &problems));
    assert_string_equal(request.over_length, "truncate");
    assert_int_equal(request.eval_steps, 5);
    assert_int_equal(request.checkpoint_steps, 7);
    assert_int_equal(request.keep_checkpoints, 3);
    assert_int_equal(request.warning_count, 2);
    assert_string_equal(request.quantization, "none");
    assert_false(request.is_fp8);
    assert_true(read_text(
        "{\"model\":\"m\",\"training_file\":\"f\",\"hyperparameters\":{\"quantization\":\"nf4\",\"lora\":true}}",
        &request, &problems));
    assert_string_equal(request.quantization, "nf4");
    assert_true(read_text("{\"model\":\"m\",\"training_file\":\"f\",\"fp8\":true}", &request, &problems));
    assert_true(request.is_fp8);
}

static int release(void **state)
{
    arena_deinit(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_nebius),  cmocka_unit_test(wrong_bodies_name_the_field),
        cmocka_unit_test(dpo_takes_the_branch_that_type_names),
        cmocka_unit_test(every_problem_is_told_at_once), cmocka_unit_test(the_rate_is_resolved),
        cmocka_unit_test(extensions_are_taken_in_three_places),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
