#include "test.h"

#include "api/integrations.h"

#include <string.h>

struct fixture {
    struct arena arena;
    struct outgoing_policy origins;
    struct integrations integrations;
    struct problems problems;
};

static void take(struct fixture *f, const char *text)
{
    struct err err = {0};
    struct json *value;

    *f = (struct fixture){.problems.arena = &f->arena};
    assert_ok(outgoing_policy_parse(&f->arena, "https://anywhere, internal:http://127.0.0.1:5000", &f->origins, &err),
              err);
    value = json_parse(&f->arena, str_of(text), NULL, &err);
    assert_ok(value, err);
    integrations_read(&f->arena, value, &f->origins, &f->integrations, &f->problems);
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
    assert_string_equal(f.integrations.echo_json,
                        "[{\"type\":\"mlflow\",\"mlflow\":{\"tracking_uri\": \"http://127.0.0.1:5000/base/\", "
                        "\"experiment_name\": \"e\", \"run_name\": null, \"tags\": {\"team\": \"red\"}}},"
                        "{\"type\":\"mlflow\",\"mlflow\":{\"tracking_uri\": \"https://mlflow.example.com\", "
                        "\"experiment_name\": null, \"run_name\": null, \"tags\": {}}}]");
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
        {"{}", "integrations must be a list of at most 8"},
        {"[1,2,3,4,5,6,7,8,9]", "integrations must be a list of at most 8"},
        {"[5]", "integrations.0: must be an object with a type and an object of that name"},
        {"[{}]", "integrations.0: must be an object with a type and an object of that name"},
        {"[{\"type\":\"wandb\",\"wandb\":{\"project\":\"p\"}}]", "integrations.0: wandb is not there yet: mlflow is"},
        {"[{\"hf\":{\"output_repo_name\":\"p\"}}]", "integrations.0: hf is not there yet: mlflow is"},
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
        cmocka_unit_test(no_integrations_are_none),
        cmocka_unit_test(what_is_wrong_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
