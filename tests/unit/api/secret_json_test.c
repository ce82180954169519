#include "test.h"

#include "api/secret_json.h"

#include <string.h>

struct taken {
    struct arena arena;
    struct job_secrets secrets;
    const char *wrong;
    char text[1024], left[1024];
    bool ok;
};

static void take(struct taken *taken, const char *text)
{
    struct strbuf left = {0};
    struct err err = {0};
    struct json *body;

    *taken = (struct taken){0};
    strcpy(taken->text, text);
    body = json_parse(&taken->arena, str_of(taken->text), NULL, &err);
    assert_ok(body, err);
    taken->ok = job_secrets_take(&taken->arena, body, &taken->secrets, &taken->wrong);
    json_write_value(&(struct json_writer){.buf = &left}, body);
    strcpy(taken->left, left.at);
    strbuf_deinit(&left);
}

static void done(struct taken *taken)
{
    job_secrets_wipe(&taken->secrets);
    arena_deinit(&taken->arena);
}

static bool text_holds(const struct taken *taken, size_t len, const char *needle)
{
    return memmem(taken->text, len, needle, strlen(needle)) != NULL;
}

static void secrets_leave_the_request_by_their_place(void **state)
{
    static const char request[] =
        "{\"model\":\"m\",\"integrations\":[{\"type\":\"wandb\",\"wandb\":{\"project\":\"p\",\"api_key\":\"CANARY1\"}},"
        "{\"type\":\"mlflow\",\"mlflow\":{\"tracking_uri\":\"u\",\"username\":\"CANARY2\",\"password\":"
        "\"CAN\\u0041RY3\","
        "\"certificate_file\":\"-----CANARY4\\n-----\"}},{\"type\":\"hf\",\"hf\":{\"api_token\":\"CANARY5\"}}],"
        "\"from_checkpoint\":{\"type\":\"hf\",\"repo\":\"r\",\"token\":\"CANARY6\"},\"metadata\": {\"token\": "
        "\"kept\"}}";
    static const struct {
        const char *name, *value;
    } expected[] = {
        {"integrations.0.wandb.api_key", "CANARY1"},
        {"integrations.1.mlflow.username", "CANARY2"},
        {"integrations.1.mlflow.password", "CANARY3"},
        {"integrations.1.mlflow.certificate_file", "-----CANARY4\n-----"},
        {"integrations.2.hf.api_token", "CANARY5"},
        {"from_checkpoint.token", "CANARY6"},
    };
    struct taken taken;

    take(&taken, request);
    assert_true(taken.ok);
    assert_int_equal(taken.secrets.count, 6);
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(taken.secrets.at[i].name, expected[i].name);
        assert_string_equal(secret_reveal(&taken.secrets.at[i].value).at, expected[i].value);
    }
    assert_null(strstr(taken.left, "CANARY"));
    assert_non_null(strstr(taken.left, "\"api_key\": null"));
    assert_non_null(strstr(taken.left, "\"metadata\": {\"token\": \"kept\"}"));
    assert_false(text_holds(&taken, sizeof request - 1, "CANARY") || text_holds(&taken, sizeof request - 1, "RY3"));
    done(&taken);
}

static void what_is_misplaced_twice_or_no_text_is_erased_all_the_same(void **state)
{
    static const struct {
        const char *text;
        size_t count;
        const char *wrong;
    } cases[] = {
        {"{\"from_checkpoint\":{\"token\":\"CANARY\"},\"from_checkpoint\":{\"token\":\"CANARY\"}}", 2, NULL},
        {"{\"extra_body\":{\"integrations\":[{\"wandb\":{\"api_key\":\"CANARY\"}}]}}", 1, NULL},
        {"{\"integrations\":{\"a\":[[{\"deep\":{\"password\":\"CANARY\"}}]]}}", 1, NULL},
        {"{\"integrations\":[{\"hf\":{\"api_token\":null}}]}", 0, NULL},
        {"{\"integrations\":[{\"hf\":{\"api_token\":{\"x\":[\"CANARY\"]}}}]}", 0,
         "integrations.0.hf.api_token must be"},
        {"{\"integrations\":[{\"hf\":{\"api_token\":\"\"}}]}", 0, "integrations.0.hf.api_token must be"},
        {"{\"integrations\":[{\"hf\":{\"api_token\":\"CANARY\\u0000\"}}]}", 0, "integrations.0.hf.api_token must be"},
        {"{\"integrations\":[{\"hf\":{\"api_token\":1234567}}]}", 0, "integrations.0.hf.api_token must be"},
        {"[\"integrations\"]", 0, NULL},
        {"7", 0, NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct taken taken;

        take(&taken, cases[i].text);
        assert_int_equal(taken.secrets.count, cases[i].count);
        assert_int_equal(taken.ok, cases[i].wrong == NULL);
        if (cases[i].wrong)
            assert_memory_equal(taken.wrong, cases[i].wrong, strlen(cases[i].wrong));
        assert_null(strstr(taken.left, "CANARY"));
        assert_null(strstr(taken.left, "1234567"));
        assert_false(text_holds(&taken, strlen(cases[i].text), "CANARY"));
        done(&taken);
    }
}

static void more_secrets_than_a_job_takes_are_erased_and_refused(void **state)
{
    struct strbuf text = {0};
    struct taken *taken = malloc(sizeof *taken);

    strbuf_add_text(&text, "{\"integrations\":[");
    for (int i = 0; i < JOB_SECRETS_MAX + 1; i++)
        strbuf_printf(&text, "%s{\"token\":\"CANARY\"}", i ? "," : "");
    strbuf_add_text(&text, "]}");
    assert_true(text.len < sizeof taken->text);
    take(taken, text.at);
    assert_false(taken->ok);
    assert_int_equal(taken->secrets.count, JOB_SECRETS_MAX);
    assert_null(strstr(taken->left, "CANARY"));
    done(taken);
    free(taken);
    strbuf_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(secrets_leave_the_request_by_their_place),
        cmocka_unit_test(what_is_misplaced_twice_or_no_text_is_erased_all_the_same),
        cmocka_unit_test(more_secrets_than_a_job_takes_are_erased_and_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
