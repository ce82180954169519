#include "test.h"

#include "job/event.h"

#include <string.h>

static const struct event_context context = {.output_name = "ft:b:o:s:1", .total_steps = 9, .attempt = 2, .now_ms = 77};

#define SHA   "\"sha256\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\""
#define FILES "\"files\":[{\"name\":\"a.safetensors\",\"bytes\":5," SHA "}]"

static void lines_become_events_in_clients_words(void **state)
{
    static const struct {
        const char *line, *type, *message, *data;
    } cases[] = {
        {"{\"seq\":1,\"kind\":\"start\",\"code\":\"\",\"step\":0,\"time\":5,\"total_steps\":9,\"train_examples\":4,"
         "\"train_tokens\":40}",
         "message", "Training for 9 steps: 4 examples, 40 tokens an epoch",
         "{\"step\": 0, \"total_steps\": 9, \"train_examples\": 4, \"train_tokens\": 40}"},
        {"{\"seq\":2,\"kind\":\"step\",\"code\":\"\",\"step\":3,\"time\":5,\"loss\":0.528,\"token_accuracy\":0.5}",
         "metrics", "Step 3/9: training loss=0.53",
         "{\"step\": 3, \"train_loss\": 0.528, \"train_mean_token_accuracy\": 0.5, \"total_steps\": 9}"},
        {"{\"kind\":\"valid\",\"step\":3,\"valid_loss\":1.5,\"valid_mean_token_accuracy\":0.25}", "metrics",
         "Step 3/9: validation loss=1.50",
         "{\"step\": 3, \"valid_loss\": 1.5, \"valid_mean_token_accuracy\": 0.25, \"total_steps\": 9}"},
        {"{\"kind\":\"message\",\"step\":0,\"level\":\"warn\",\"code\":\"few\",\"message\":\"few "
         "steps\",\"data\":[1,null]}",
         "message", "few steps", "[1, null]"},
        {"{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"attempts/0001/checkpoints/step-00000009\"," FILES "}",
         "message", "Checkpoint created at step 9 with Snapshot ID: ft:b:o:s:1:ckpt-step-9",
         "{\"step\": 9, \"total_steps\": 9}"},
    };
    struct arena arena = {0};
    struct err err = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_event event;

        assert_ok(event_parse(&arena, str_of(cases[i].line), &context, &event, &err), err);
        assert_string_equal(event.row.type, cases[i].type);
        assert_string_equal(event.row.message, cases[i].message);
        assert_string_equal(event.row.data_json, cases[i].data);
        assert_int_equal(event.row.attempt, 2);
    }
    arena_deinit(&arena);
}

static void a_step_tells_progress(void **state)
{
    struct arena arena = {0};
    struct job_event event;
    struct err err = {0};

    assert_ok(
        event_parse(&arena,
                    STR("{\"kind\":\"step\",\"step\":3,\"time\":1000,\"trained_tokens\":300,\"seconds_left\":2.5}"),
                    &context, &event, &err),
        err);
    assert_int_equal(event.trained_steps, 3);
    assert_int_equal(event.trained_tokens, 300);
    assert_int_equal(event.estimated_finish_ms, 3500);
    assert_ok(event_parse(&arena, STR("{\"kind\":\"step\",\"step\":3,\"time\":-1}"), &context, &event, &err), err);
    assert_int_equal(event.row.created_ms, 77);
    assert_int_equal(event.estimated_finish_ms, 0);
    arena_deinit(&arena);
}

static void a_checkpoint_names_its_files_and_metrics(void **state)
{
    struct arena arena = {0};
    struct job_event event;
    struct err err = {0};

    assert_ok(
        event_parse(&arena,
                    STR("{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a/b\",\"train_loss\":0.5,\"valid_loss\":null,"
                        "\"is_final\":true," FILES "}"),
                    &context, &event, &err),
        err);
    assert_true(event.is_checkpoint && event.is_final);
    assert_int_equal(event.file_count, 1);
    assert_string_equal(event.files[0].name, "a.safetensors");
    assert_int_equal(event.files[0].bytes, 5);
    assert_string_equal(event.metrics_json,
                        "{\"step\": 9, \"train_loss\": 0.5, \"train_mean_token_accuracy\": null, \"valid_loss\": null, "
                        "\"valid_mean_token_accuracy\": null, \"full_valid_loss\": null, "
                        "\"full_valid_mean_token_accuracy\": null}");
    arena_deinit(&arena);
}

static void lines_that_are_no_events_are_refused(void **state)
{
    static const char *const lines[] = {
        "",
        "nonsense",
        "[]",
        "{}",
        "{\"kind\":\"step\"}",
        "{\"kind\":\"step\",\"step\":-1}",
        "{\"kind\":\"step\",\"step\":1.5}",
        "{\"kind\":\"step\",\"step\":2000000000000}",
        "{\"kind\":\"dance\",\"step\":1}",
        "{\"kind\":7,\"step\":1}",
        "{\"kind\":\"start\",\"step\":0}",
        "{\"kind\":\"start\",\"step\":0,\"total_steps\":-3}",
        "{\"kind\":\"step\",\"step\":1,\"trained_tokens\":-1}",
        "{\"kind\":\"message\",\"step\":0,\"message\":\"x\"}",
        "{\"kind\":\"message\",\"step\":0,\"level\":\"info\"}",
        "{\"kind\":\"checkpoint\",\"step\":9," FILES "}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a\"}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a\",\"files\":[]}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"/etc\"," FILES "}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a/../b\"," FILES "}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a/\"," FILES "}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a//b\"," FILES "}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a\\u0000b\"," FILES "}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a\",\"files\":[{\"name\":\"../x\",\"bytes\":1," SHA "}]}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a\",\"files\":[{\"name\":\"x\",\"bytes\":-1," SHA "}]}",
        "{\"kind\":\"checkpoint\",\"step\":9,\"path\":\"a\",\"files\":[{\"name\":\"x\",\"bytes\":1}]}",
    };
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct job_event event;
        struct err err = {0};

        if (event_parse(&arena, str_of(lines[i]), &context, &event, &err) || err.code == ERR_OK)
            fail_msg("taken: %s", lines[i]);
    }
    arena_deinit(&arena);
}

static void long_texts_are_cut_behind_a_whole_character(void **state)
{
    struct arena arena = {0};
    struct strbuf line = {0};
    struct job_event event;
    struct err err = {0};

    strbuf_add_text(&line, "{\"kind\":\"message\",\"step\":0,\"level\":\"info\",\"message\":\"x");
    for (int i = 0; i < 5000; i++)
        strbuf_add_text(&line, "\xc3\xa9");
    strbuf_add_text(&line, "\"}");
    assert_ok(event_parse(&arena, strbuf_view(&line), &context, &event, &err), err);
    assert_int_equal(strlen(event.row.message), 8191);
    assert_true(utf8_is_valid(str_of(event.row.message)));
    strbuf_deinit(&line);
    arena_deinit(&arena);
}

static void an_exit_record_says_how_it_ended(void **state)
{
    static const struct {
        const char *text;
        enum exit_status status;
        const char *code;
    } cases[] = {
        {"{\"format\":1,\"status\":\"succeeded\",\"error\":null}", EXIT_SUCCEEDED, NULL},
        {"{\"format\":1,\"status\":\"failed\",\"error\":{\"code\":\"bad\",\"message\":\"m\",\"param\":null}}",
         EXIT_FAILED, "bad"},
        {"{\"format\":1,\"status\":\"cancelled\"}", EXIT_CANCELLED, NULL},
        {"{\"format\":1,\"status\":\"paused\"}", EXIT_PAUSED, NULL},
        {"{\"format\":1,\"status\":\"pau", EXIT_NONE, NULL},
        {"{\"status\":7}", EXIT_NONE, NULL},
        {"", EXIT_NONE, NULL},
    };
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct exit_record record = exit_parse(&arena, str_of(cases[i].text));

        assert_int_equal(record.status, cases[i].status);
        if (cases[i].code)
            assert_string_equal(record.error_code, cases[i].code);
        else
            assert_null(record.error_code);
    }
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_become_events_in_clients_words),
        cmocka_unit_test(a_step_tells_progress),
        cmocka_unit_test(a_checkpoint_names_its_files_and_metrics),
        cmocka_unit_test(lines_that_are_no_events_are_refused),
        cmocka_unit_test(long_texts_are_cut_behind_a_whole_character),
        cmocka_unit_test(an_exit_record_says_how_it_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
