#include "test.h"
#include "os/file.h"
#include "train/folder.h"
#include "train/run.h"

#include <string.h>

static int make_dir(void **state)
{
    char path[] = "/tmp/attune-run-XXXXXX";

    *state = strdup(mkdtemp(path));
    return *state == NULL;
}

static int remove_dir(void **state)
{
    dir_remove(*state, NULL);
    free(*state);
    return 0;
}

static struct str read_whole(struct arena *arena, const char *dir, const char *name)
{
    struct str text = STR("");
    struct err err = {0};

    assert_ok(file_read(arena, path_join(arena, dir, name), 1 << 20, &text, &err), err);
    return text;
}

static void an_attempt_leaves_identity_heartbeat_events_and_exit(void **state)
{
    const char *dir = *state;
    struct arena arena = {0};
    struct run run;
    struct err err = {0}, failure = {0};
    const struct json *root;

    assert_ok(run_open(&run, dir, 3, &err), err);
    assert_ok(run_beat(&run, &err), err);
    assert_ok(run_message(&run, "warn", "few_steps", 0, &err, "only %d \"steps\"", 3), err);
    err_set(&failure, ERR_DIVERGED, "the loss is not a number");
    assert_ok(run_finish(&run, RUN_FAILED, 7, &failure, NULL, &err), err);
    run_close(&run);
    assert_true(str_is(read_whole(&arena, dir, "attempts/0003/heartbeat"), "00000000000000000002"));
    root = json_parse(&arena, read_whole(&arena, dir, "attempts/0003/identity.json"), NULL, &err);
    assert_int_equal(json_integer_or(json_get(root, "pid"), 0), getpid());
    root = json_parse(&arena, read_whole(&arena, dir, "attempts/0003/exit.json"), NULL, &err);
    assert_true(json_is(json_get(root, "status"), "failed"));
    assert_true(json_is(json_get(json_get(root, "error"), "code"), "training_diverged"));
    root = json_parse(&arena,
                      str_slice(read_whole(&arena, dir, "attempts/0003/events.jsonl"), 0,
                                (size_t)str_find(read_whole(&arena, dir, "attempts/0003/events.jsonl"), STR("\n"), 0)),
                      NULL, &err);
    assert_int_equal(json_integer_or(json_get(root, "seq"), 0), 1);
    assert_true(json_is(json_get(root, "message"), "only 3 \"steps\""));
    arena_deinit(&arena);
}

static void an_attempt_is_one_process(void **state)
{
    struct run run;
    struct err err = {0};

    assert_ok(run_open(&run, *state, 1, &err), err);
    assert_ok(run_message(&run, "info", "x", 0, &err, "x"), err);
    run_close(&run);
    assert_false(run_open(&run, *state, 1, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
}

static void a_run_that_was_removed_is_given_up(void **state)
{
    struct run run;
    struct err err = {0};

    assert_ok(run_open(&run, *state, 1, &err), err);
    assert_int_equal(run_wanted(&run), RUN_GO_ON);
    assert_ok(dir_remove(*state, &err), err);
    assert_int_equal(run_wanted(&run), RUN_SUPERSEDED);
    run_close(&run);
}

static void control_is_obeyed_by_its_attempt_alone(void **state)
{
    static const struct {
        const char *control;
        enum run_wanted wanted;
    } cases[] = {
        {"{\"format\":1,\"attempt\":2,\"wanted\":\"run\"}", RUN_GO_ON},
        {"{\"format\":1,\"attempt\":2,\"wanted\":\"pause\"}", RUN_PAUSE},
        {"{\"format\":1,\"attempt\":2,\"wanted\":\"cancel\"}", RUN_CANCEL},
        {"{\"format\":1,\"attempt\":1,\"wanted\":\"cancel\"}", RUN_GO_ON},
        {"{\"format\":1,\"attempt\":3,\"wanted\":\"run\"}", RUN_SUPERSEDED},
        {"", RUN_GO_ON},
        {"nonsense", RUN_GO_ON},
    };
    struct arena arena = {0};
    struct run run;
    struct err err = {0};

    assert_ok(run_open(&run, *state, 2, &err), err);
    assert_int_equal(run_wanted(&run), RUN_GO_ON);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(file_replace(path_join(&arena, *state, "control"), str_of(cases[i].control), &err), err);
        if (run_wanted(&run) != cases[i].wanted)
            fail_msg("%s", cases[i].control);
    }
    run_close(&run);
    arena_deinit(&arena);
}

static void a_committed_folder_verifies_until_a_byte_changes(void **state)
{
    struct arena arena = {0};
    struct checkpoint_file file[2];
    struct checkpoint_files files = {.file = file};
    const struct folder_label label = {"j", "recovery", 1, 5};
    const char *path = path_join(&arena, *state, "recovery/step-00000005"), *temporary;
    struct err err = {0};

    assert_ok(folder_begin(&arena, path, 100, &temporary, &err), err);
    assert_ok(folder_add_file(&arena, temporary, "a", STR("hello"), &files, &err), err);
    assert_ok(folder_add_file(&arena, temporary, "b", STR(""), &files, &err), err);
    assert_false(dir_exists(path));
    assert_ok(folder_commit(temporary, path, &label, &files, &err), err);
    assert_false(dir_exists(temporary));
    assert_ok(folder_verify(path, &err), err);
    assert_true(file_replace(path_join(&arena, path, "a"), STR("hallo"), NULL));
    assert_false(folder_verify(path, &err));
    assert_non_null(strstr(err.text, "is not what MANIFEST says"));
    assert_true(file_remove(path_join(&arena, path, "a"), NULL));
    assert_false(folder_verify(path, &err));
    arena_deinit(&arena);
}

static void step_names_are_read_back(void **state)
{
    struct arena arena = {0};
    int64_t step = 0;

    assert_string_equal(folder_step_name(&arena, 100), "step-00000100");
    assert_true(folder_step_parse("step-00000100", &step));
    assert_int_equal(step, 100);
    assert_false(folder_step_parse("step-00000100.tmp", &step));
    assert_false(folder_step_parse("other", &step));
    arena_deinit(&arena);
}

#define dir_test(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        dir_test(an_attempt_leaves_identity_heartbeat_events_and_exit),
        dir_test(an_attempt_is_one_process),
        dir_test(control_is_obeyed_by_its_attempt_alone),
        dir_test(a_run_that_was_removed_is_given_up),
        dir_test(a_committed_folder_verifies_until_a_byte_changes),
        cmocka_unit_test(step_names_are_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
