/* Jobs that wait for their weights. */
#include "server.h"

#define WAITS(context, lora)                                                                                           \
    "{\"repo\":\"org/base\",\"revision\":null,\"base\":null,\"base_path\":null,\"context_length\":" context            \
    ",\"lora\":" lora "}"

/* A folder with nothing but a config.json. */
static const char *make_model(struct server *server, const char *config)
{
    const char *folder = path_join(&server->arena, server->dir, "weights");
    struct err err = {0};

    assert_ok(dir_make(folder, &err) &&
                  file_swap(path_join(&server->arena, folder, "config.json"), str_of(config), &err),
              err);
    return folder;
}

static const char *create_waiting(struct server *server, const char *waits)
{
    struct job_spec spec = server_spec(server, "{\"steps\":3,\"over_length\":\"drop\"}");
    struct store_job job;
    struct err err = {0};

    spec.model_path = "";
    spec.memory_bytes = 0;
    spec.hyperparameters_json = "{\"context_length\":8192,\"lora\":true}";
    spec.base_json = waits;
    assert_ok(job_create(server->manager, &server->tenant, &spec, &server->arena, &job, &err), err);
    return job.id;
}

static bool has_turn(struct server *server)
{
    struct store_job job;
    struct err err = {0};
    bool found;

    assert_ok(store_queue_peek(server->store, NULL, NULL, &server->arena, &job, &found, &err), err);
    return found;
}

static void it_takes_its_turn_when_they_are_here(void **state)
{
    struct server *server = *state;
    const char *id = create_waiting(server, WAITS("0", "true")),
               *model = make_model(server, "{\"max_position_embeddings\":512}");
    struct store_job_list waiting;
    struct store_job job;
    struct str text;
    struct err err = {0};
    int64_t place;

    job = server_job(server, id);
    assert_false(has_turn(server));
    assert_ok(store_queue_place(server->store, &job, &place, &err), err);
    assert_int_equal(place, 0);
    assert_ok(store_queue_to_fetch(server->store, &server->arena, &waiting, &err), err);
    assert_int_equal(waiting.count, 1);

    assert_ok(job_base_arrived(server->manager, id, model, "/adapter", &err), err);
    job = server_job(server, id);
    assert_null(job.base_json);
    assert_string_equal(job.model_path, model);
    assert_string_equal(job.hyperparameters_json, "{\"context_length\": 512, \"lora\": true}");
    assert_string_equal(
        job.method_json,
        "{\"type\":\"supervised\",\"supervised\":{\"hyperparameters\":{\"context_length\": 512, \"lora\": true}}}");
    assert_ok(file_read(&server->arena,
                        path_join(&server->arena, rundir_path(&server->arena, server->dir, id), "job.json"), 1 << 20,
                        &text, &err),
              err);
    assert_true(str_find(text, STR("\"adapter\": {\"path\": \"/adapter\"}"), 0) > 0);
    assert_true(str_find(text, STR("\"options\": {\"steps\": 3, \"over_length\": \"drop\", \"memory_bytes\": "), 0) >
                0);
    assert_non_null(server_find_event(server, id, "job", "base_arrived"));
    server_await(server, id, JOB_STATE_succeeded);
    assert_false(job_base_arrived(server->manager, id, model, NULL, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
}

static void what_only_they_could_tell_is_checked(void **state)
{
    static const struct {
        const char *waits, *config, *adapter, *words;
    } cases[] = {
        {WAITS("1024", "true"), "{\"max_position_embeddings\":512}", NULL, "takes at most 512 tokens"},
        {WAITS("0", "false"), "{}", "/adapter", "set lora to true"},
        {WAITS("0", "true"), "[", NULL, "config.json"},
    };
    struct server *server = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *id = create_waiting(server, cases[i].waits), *model = make_model(server, cases[i].config);
        struct err err = {0};

        assert_false(job_base_arrived(server->manager, id, model, cases[i].adapter, &err));
        if (!strstr(err.text, cases[i].words))
            fail_msg("%s: no '%s'", err.text, cases[i].words);
        assert_non_null(server_job(server, id).base_json);
        assert_ok(job_base_failed(server->manager, id, &err, &(struct err){0}), err);
        assert_int_equal(server_job(server, id).state, JOB_STATE_failed);
    }
}

static void a_job_that_was_cancelled_neither_begins_nor_fails(void **state)
{
    struct server *server = *state;
    const char *id = create_waiting(server, WAITS("0", "true")), *model = make_model(server, "{}");
    struct store_job_list waiting;
    struct store_job job;
    struct err err = {0}, why = {ERR_IO, "away"};

    assert_ok(job_cancel(server->manager, &server->tenant, id, &server->arena, &job, &err), err);
    assert_int_equal(job.state, JOB_STATE_cancelled);
    assert_ok(store_queue_to_fetch(server->store, &server->arena, &waiting, &err), err);
    assert_int_equal(waiting.count, 0);
    assert_false(job_base_arrived(server->manager, id, model, NULL, &err));
    assert_false(job_base_failed(server->manager, id, &why, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_int_equal(server_job(server, id).state, JOB_STATE_cancelled);
}

static void it_waits_on_after_a_restart(void **state)
{
    struct server *server = *state;
    const char *id = create_waiting(server, WAITS("0", "true")), *model = make_model(server, "{}");
    struct err err = {0};

    server_stop(server);
    server_start(server);
    assert_false(has_turn(server));
    assert_ok(job_base_arrived(server->manager, id, model, NULL, &err), err);
    assert_string_equal(server_job(server, id).hyperparameters_json, "{\"context_length\": 8192, \"lora\": true}");
    server_await(server, id, JOB_STATE_succeeded);
}

int main(void)
{
#define BASE_TEST(name) cmocka_unit_test_setup_teardown(name, server_setup, server_teardown)
    const struct CMUnitTest tests[] = {
        BASE_TEST(it_takes_its_turn_when_they_are_here),
        BASE_TEST(what_only_they_could_tell_is_checked),
        BASE_TEST(a_job_that_was_cancelled_neither_begins_nor_fails),
        BASE_TEST(it_waits_on_after_a_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
