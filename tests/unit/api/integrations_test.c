#include "test.h"

#include "api/integrations.h"

#include <string.h>

#define A_NAME "must be a text of 1 to 128 characters without any of / \\ # ? % :"

struct fixture {
    struct arena arena;
    struct outgoing_policy origins;
    struct integrations integrations;
    struct problems problems;
};

/* What was a secret is null by now; an entity named OWN has no secret of the project. */
static void take(struct fixture *f, const char *text)
{
    const struct store_held held[] = {{.name = "integrations.0.wandb.api_key"},
                                      {.name = "integrations.0.hf.api_token"}};
    struct store_secret project[] = {{.name = "WANDB_API_KEY"}};
    struct err err = {0};
    struct json *value;

    *f = (struct fixture){.problems.arena = &f->arena};
    assert_ok(outgoing_policy_parse(&f->arena, "https://anywhere, internal:http://127.0.0.1:5000", &f->origins, &err),
              err);
    value = json_parse(&f->arena, str_of(text), NULL, &err);
    assert_ok(value, err);
    integrations_read(&f->arena, value,
                      &(struct integration_places){&f->origins, "https://api.wandb.ai", "https://huggingface.co", held,
                                                   strstr(text, "null") ? 2 : 0,
                                                   &(struct store_secret_list){project, strstr(text, "OWN") == NULL},
                                                   false},
                      &f->integrations, &f->problems);
}

static void done(struct fixture *f)
{
    arena_deinit(&f->arena);
}

static void an_entry_for_mlflow_becomes_a_delivery_and_an_echo_without_secrets(void **state)
{
    struct fixture f;

    take(&f,
         "[{\"type\":\"mlflow\",\"mlflow\":{\"tracking_uri\":\"http://127.0.0.1:5000/base/\",\"experiment_name\":\"e\","
         "\"run_name\":null,\"username\":null,\"password\":null,\"certificate_file\":null,\"certificate_file_id\":null,"
         "\"tags\":{\"team\":\"red\"}}},{\"mlflow\":{\"tracking_uri\":\"https://mlflow.example.com\"}}]");
    assert_int_equal(f.problems.count, 0);
    assert_int_equal(f.integrations.count, 2);
    assert_string_equal(f.integrations.at[0].kind, "mlflow");
    assert_int_equal(f.integrations.at[1].position, 1);
    assert_string_equal(
        f.integrations.echo_json,
        "[{\"type\":\"mlflow\",\"mlflow\":{\"tracking_uri\": \"http://127.0.0.1:5000/base/\", "
        "\"experiment_name\": \"e\", \"run_name\": null, \"tags\": {\"team\": \"red\"}, \"log_artifacts\": false}},"
        "{\"type\":\"mlflow\",\"mlflow\":{\"tracking_uri\": \"https://mlflow.example.com\", "
        "\"experiment_name\": null, \"run_name\": null, \"tags\": {}, \"log_artifacts\": false}}]");
    done(&f);
}

static void an_entry_for_the_hub_is_a_name_and_nothing_that_is_secret(void **state)
{
    struct fixture f;

    take(&f, "[{\"hf\":{\"output_repo_name\":\"org/model-1.0_a\",\"api_token\":null}}]");
    assert_int_equal(f.problems.count, 0);
    assert_string_equal(f.integrations.at[0].kind, "hf");
    assert_string_equal(f.integrations.at[0].config_json, "{\"output_repo_name\": \"org/model-1.0_a\"}");
    assert_string_equal(f.integrations.echo_json,
                        "[{\"type\":\"hf\",\"hf\":{\"output_repo_name\": \"org/model-1.0_a\"}}]");
    done(&f);
}

static void an_entry_for_wandb_has_a_key_of_its_own_or_the_projects(void **state)
{
    struct fixture f;

    take(&f,
         "[{\"type\":\"wandb\",\"wandb\":{\"project\":\"p\",\"entity\":\"OWN\",\"api_key\":null,\"tags\":[\"a\"]}}]");
    assert_int_equal(f.problems.count, 0);
    assert_string_equal(f.integrations.at[0].kind, "wandb");
    assert_string_equal(f.integrations.echo_json,
                        "[{\"type\":\"wandb\",\"wandb\":{\"project\": \"p\", \"name\": null, \"entity\": \"OWN\", "
                        "\"tags\": [\"a\"]}}]");
    done(&f);
    take(&f, "[{\"wandb\":{\"project\":\"p\",\"api_key_secret\":\"WANDB_API_KEY\"}}]");
    assert_int_equal(f.problems.count, 0);
    assert_string_equal(f.integrations.at[0].config_json, "{\"project\": \"p\", \"name\": null, \"entity\": null, "
                                                          "\"tags\": [], \"api_key_secret\": \"WANDB_API_KEY\"}");
    done(&f);
    take(&f, "[{\"wandb\":{\"project\":\"my project\"}}]");
    assert_int_equal(f.problems.count, 0);
    assert_string_equal(f.integrations.at[0].config_json,
                        "{\"project\": \"my project\", \"name\": null, \"entity\": null, \"tags\": []}");
    done(&f);
}

static void no_integrations_are_none(void **state)
{
    static const char *const none[] = {"null", "[]"};
    struct fixture f;

    for (size_t i = 0; i < 2; i++) {
        take(&f, none[i]);
        assert_int_equal(f.problems.count + f.integrations.count, 0);
        assert_null(f.integrations.echo_json);
        done(&f);
    }
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[{\"wandb\":{\"project\":\"p\",\"api_key_secret\":\"ELSE\"}}]", 
         "integrations.0.wandb.api_key_secret: must be the name of a secret of the project"},
        {"[{\"wandb\":{\"project\":\"p\",\"project_secret\":\"WANDB_API_KEY\"}}]",
         "integrations.0.wandb.project_secret: is not known"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://a.example.com\",\"token_secret\":\"WANDB_API_KEY\"}}]",
         "integrations.0.mlflow.token_secret: is for keys that administer, for the request names the service, too"},
        {"{}", "integrations must be a list of at most 8"},
        {"[1,2,3,4,5,6,7,8,9]", "integrations must be a list of at most 8"},
        {"[5]", "integrations.0: must be an object with a type and an object of that name"},
        {"[{}]", "integrations.0: must be an object with a type and an object of that name"},
        {"[{\"comet\":{\"project\":\"p\"}}]", "integrations.0: comet is not there yet: hf, mlflow and wandb are"},
        {"[{\"hf\":5,\"type\":\"hf\"}]", "integrations.0.hf: must be an object with output_repo_name"},
        {"[{\"hf\":{\"output_repo_name\":\"p\"}}]",
         "integrations.0.hf.api_token: is required, here or as the project's secret HF_TOKEN"},
        {"[{\"hf\":{\"api_token\":null}}]", "integrations.0.hf.output_repo_name: is required"},
        {"[{\"hf\":{\"api_token\":null,\"output_repo_name\":\"../p\"}}]",
         "integrations.0.hf.output_repo_name: must be name or owner/name, of letters, digits and .-_"},
        {"[{\"hf\":{\"api_token\":null,\"output_repo_name\":\"a/b/c\"}}]",
         "integrations.0.hf.output_repo_name: must be name or owner/name, of letters, digits and .-_"},
        {"[{\"hf\":{\"api_token\":null,\"output_repo_name\":\"p\",\"private\":false}}]",
         "integrations.0.hf.private: is not known"},
        {"[{\"wandb\":{}}]", "integrations.0.wandb.project: is required"},
        {"[{\"wandb\":{\"project\":\"\"}}]", "integrations.0.wandb.project: " A_NAME},
        {"[{\"wandb\":{\"project\":\"a/b\"}}]", "integrations.0.wandb.project: " A_NAME},
        {"[{\"wandb\":{\"project\":\"p\",\"entity\":\"..\"}}]", "integrations.0.wandb.entity: " A_NAME},
        {"[{\"wandb\":{\"project\":\"p\",\"entity\":\"OWN\"}}]",
         "integrations.0.wandb.api_key: is required, here or as the project's secret WANDB_API_KEY"},
        {"[{\"wandb\":{\"project\":\"p\",\"name\":5}}]",
         "integrations.0.wandb.name: must be a text of 1 to 250 characters"},
        {"[{\"wandb\":{\"project\":\"p\",\"tags\":[\"\"]}}]",
         "integrations.0.wandb.tags: must be a list of at most 50 texts of 1 to 64 characters"},
        {"[{\"wandb\":{\"project\":\"p\",\"base_url\":\"https://x.example\"}}]",
         "integrations.0.wandb.base_url: is not known"},
        {"[{\"wandb\":5,\"type\":\"wandb\"}]", "integrations.0.wandb: must be an object with project"},
        {"[{\"type\":\"mlflow\"}]", "integrations.0.mlflow: must be an object with tracking_uri"},
        {"[{\"mlflow\":{}}]", "integrations.0.mlflow.tracking_uri: is required"},
        {"[{\"mlflow\":{\"tracking_uri\":7}}]", "integrations.0.mlflow.tracking_uri: must be a string"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://u:p@example.com\"}}]",
         "integrations.0.mlflow.tracking_uri: not a URL that is taken: it names a user: give credentials by their own "
         "fields"},
        {"[{\"mlflow\":{\"tracking_uri\":\"http://169.254.169.254/\"}}]",
         "integrations.0.mlflow.tracking_uri: this server may not reach 169.254.169.254: its operator lists origins "
         "with "
         "--outgoing"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com/?token=x\"}}]",
         "integrations.0.mlflow.tracking_uri: takes no query"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com\",\"colour\":1}}]",
         "integrations.0.mlflow.colour: is not known"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com\"},\"x\":1}]", "integrations.0.x: is not known"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com\",\"run_name\":\"\"}}]",
         "integrations.0.mlflow.run_name: must be a text of 1 to 250 characters"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com\",\"log_artifacts\":1}}]",
         "integrations.0.mlflow.log_artifacts: must be true or false"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com\",\"tags\":{\"a\":1}}}]",
         "integrations.0.mlflow.tags: must be an object of at most 64 texts"},
        {"[{\"mlflow\":{\"tracking_uri\":\"https://example.com\",\"tracking_uri\":\"https://example.org\"}}]",
         "integrations.0.mlflow.tracking_uri: occurs twice"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;

        take(&f, cases[i].text);
        assert_int_equal(f.problems.count, 1);
        assert_string_equal(f.problems.first->message, cases[i].message);
        assert_null(f.integrations.echo_json);
        done(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_for_mlflow_becomes_a_delivery_and_an_echo_without_secrets),
        cmocka_unit_test(an_entry_for_the_hub_is_a_name_and_nothing_that_is_secret),
        cmocka_unit_test(an_entry_for_wandb_has_a_key_of_its_own_or_the_projects),
        cmocka_unit_test(no_integrations_are_none),
        cmocka_unit_test(what_is_wrong_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
