#include "test.h"
#include "train/config.h"

#include <string.h>

#define JOB(more)                                                                                                      \
    "{\"format\":1,\"id\":\"j\",\"model\":{\"path\":\"/m\"},\"training_file\":{\"path\":\"/t\"},\"cache\":\"/c\"" more \
    "}"

static void what_is_left_out_has_its_default(void **state)
{
    struct arena arena = {0};
    struct train_config c;
    struct err err = {0};

    assert_ok(train_config_parse(&arena, STR(JOB("")), &c, &err), err);
    assert_int_equal(c.hp.batch_size, 8);
    assert_true(c.hp.learning_rate == 1e-5 && c.hp.packing && !c.hp.lora && c.hp.lora_alpha == 8 &&
                c.hp.max_grad_norm == 1);
    assert_int_equal(c.hp.n_epochs, 3);
    assert_null(c.valid.path);
    assert_string_equal(c.model_id, "m");
    assert_int_equal(c.over_length, OVER_LENGTH_DROP);
    arena_deinit(&arena);
}

static void a_job_reads_back_as_it_was_written(void **state)
{
    static const char *const targets[] = {"q_proj", "v_proj"};
    static const int32_t layers[] = {0, 3};
    static const struct lora_pattern ranks[] = {{"q_proj", 4}, {"layers\\.1\\..*", 2.5}};
    struct train_config c =
                            {
                                .id = "ftjob-1",
                                .model_id = "org/m",
                                .model_path = "/m",
                                .adapter_path = "/a",
                                .train = {"f1", "/t", "t"},
                                .valid = {"f2", "/v", "v"},
                                .output_name = "ft:x",
                                .cache = "/c",
                                .seed = -3,
                                .method = METHOD_DPO,
                                .hp = HYPERPARAMETERS_DEFAULT,
                                .over_length = OVER_LENGTH_TRUNCATE,
                                .schedule = SCHEDULE_COSINE,
                                .dtype = TRAIN_DTYPE_BF16,
                                .has_gradient_norms = true,
                                .is_random = true,
                                .checkpoint_steps = 5,
                                .keep_checkpoints = 2,
                                .has_tensorboard = true,
                                .is_fp8 = true,
                                .eval_steps = 6,
                                .recovery_steps = 7,
                                .threads = 2,
                                .memory_bytes = 1000,
                                .lora = {.targets = {.name = targets, .count = 2},
                                         .excluded = {.regex = ".*\\.0\\..*"},
                                         .saved = {.name = targets, .count = 1},
                                         .layers = layers,
                                         .layer_count = 2,
                                         .rank_pattern = {ranks, 1},
                                         .alpha_pattern = {ranks, 2},
                                         .is_rslora = true},
                                .now = 1769860800,
                            },
                        back;
    struct strbuf text = {0}, again = {0};
    struct arena arena = {0};
    struct err err = {0};

    c.hp.packing = false;
    c.hp.beta = 0.25;

    c.hp.lora = true;
    c.hp.learning_rate = 3e-4;
    c.hp.context_length = 128;
    train_config_write(&c, &text);
    assert_ok(train_config_parse(&arena, strbuf_view(&text), &back, &err), err);
    train_config_write(&back, &again);
    assert_string_equal(text.at, again.at);
    assert_int_equal(back.method, METHOD_DPO);
    assert_true(back.hp.beta == 0.25);
    assert_non_null(strstr(text.at, "2026-01-31T12:00:00"));
    strbuf_deinit(&text);
    strbuf_deinit(&again);
    arena_deinit(&arena);
}

static void dpo_has_defaults_of_its_own(void **state)
{
    struct arena arena = {0};
    struct train_config c;
    struct err err = {0};

    assert_ok(train_config_parse(&arena, STR(JOB(",\"method\":\"dpo\"")), &c, &err), err);
    assert_true(c.method == METHOD_DPO && c.hp.beta == 0.1 && c.hp.learning_rate == 1e-6 && !c.hp.packing);
    assert_ok(train_config_parse(&arena, STR(JOB(",\"method\":\"dpo\",\"hyperparameters\":{\"lora\":true}")), &c, &err),
              err);
    assert_true(c.hp.learning_rate == 1e-5);
    arena_deinit(&arena);
}

static void a_wrong_member_is_named(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"{\"format\":2}", "format must be 1"},
        {"{\"format\":1}", "id must be a string"},
        {JOB(",\"hyperparameters\":{\"batch_size\":0}"), "hyperparameters.batch_size must be a number from 1 to 1024"},
        {JOB(",\"hyperparameters\":{\"batch_size\":2.5}"), "hyperparameters.batch_size"},
        {JOB(",\"hyperparameters\":{\"learning_rate\":-1}"), "hyperparameters.learning_rate"},
        {JOB(",\"hyperparameters\":{\"packing\":1}"), "hyperparameters.packing must be true or false"},
        {JOB(",\"hyperparameters\":{\"context_length\":15}"), "hyperparameters.context_length"},
        {JOB(",\"hyperparameters\":{\"beta\":0.1}"), "hyperparameters.beta is of method dpo alone"},
        {JOB(",\"method\":\"ppo\""), "method must be supervised or dpo"},
        {JOB(",\"method\":\"dpo\",\"hyperparameters\":{\"beta\":3}"), "hyperparameters.beta must be a number"},
        {JOB(",\"method\":\"dpo\",\"hyperparameters\":{\"packing\":true}"), "hyperparameters.packing must be false"},
        {JOB(",\"method\":\"dpo\",\"hyperparameters\":{\"lora_dropout\":0.1}"),
         "hyperparameters.lora_dropout must be 0"},
        {JOB(",\"options\":{\"over_length\":\"x\"}"), "over_length 'x' is not drop, error or truncate"},
        {JOB(",\"options\":{\"lr_scheduler_type\":\"x\"}"), "lr_scheduler_type 'x'"},
        {JOB(",\"options\":{\"init\":\"x\"}"), "init 'x'"},
        {JOB(",\"options\":{\"dtype\":\"x\"}"), "dtype 'x'"},
        {JOB(",\"options\":{\"fp8\":1}"), "fp8"},
        {JOB(",\"options\":{\"fp8\":true,\"quantization\":\"nf4\"}"), "fp8 does not go with quantization nf4"},
        {JOB(",\"options\":{\"fp8\":true,\"use_dora\":true}"), "fp8 does not go with use_dora"},
        {JOB(",\"options\":{\"threads\":-1}"), "threads must be an integer from 0 to 1024"},
        {JOB(",\"options\":{\"gradient_norms\":1}"), "gradient_norms must be true or false"},
        {JOB(",\"options\":{\"lora_target_modules\":[]}"), "lora_target_modules must name modules"},
        {JOB(",\"options\":{\"now\":\"noon\"}"), "now 'noon' is not a time"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct train_config c;
        struct err err = {0};
        if (train_config_parse(&arena, str_of(cases[i].text), &c, &err) || !strstr(err.text, cases[i].error))
            fail_msg("case %zu: expected %s, got %s", i, cases[i].error, err.text);
        arena_deinit(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_out_has_its_default),
        cmocka_unit_test(a_job_reads_back_as_it_was_written),
        cmocka_unit_test(dpo_has_defaults_of_its_own),
        cmocka_unit_test(a_wrong_member_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
