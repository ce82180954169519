#include "fixture.h"

#include <sqlite3.h>

static void names_of_files(struct fixture *f, struct store_page page, const char *purpose, char *out, bool *has_more)
{
    struct store_file_list list;
    struct err err = {0};

    assert_ok(store_file_list(f->store, &f->ours, purpose, &page, &f->arena, &list, &err), err);
    *out = 0;
    for (size_t i = 0; i < list.count; i++)
        strcat(out, list.at[i].filename);
    *has_more = list.has_more;
}

static void a_file_row_reads_back_as_it_was_written(void **state)
{
    struct fixture *f = *state;
    struct store_file file = make_file(f, "a \"name\".jsonl"), got;
    struct err err = {0};

    file.sha256 = "00ff";
    file.expires_ms = INT64_MAX;
    assert_ok(store_file_create(f->store, &f->ours, &file, &err), err);
    assert_ok(store_file_get(f->store, &f->ours, file.id, &f->arena, &got, &err), err);
    assert_string_equal(got.id, file.id);
    assert_string_equal(got.filename, file.filename);
    assert_string_equal(got.sha256, "00ff");
    assert_null(got.kind);
    assert_int_equal(got.bytes, 7);
    assert_true(got.expires_ms == INT64_MAX);
}

static void a_file_cannot_be_created_twice(void **state)
{
    struct fixture *f = *state;
    struct store_file file = make_file(f, "a");
    struct err err = {0};

    assert_ok(store_file_create(f->store, &f->ours, &file, &err), err);
    assert_false(store_file_create(f->store, &f->ours, &file, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
}

static void lists_page_in_both_orders(void **state)
{
    struct fixture *f = *state;
    const char *names[] = {"a", "b", "c", "d", "e"}, *ids[5];
    char text[16];
    struct err err = {0};
    bool has_more;

    for (int i = 0; i < 5; i++) {
        struct store_file file = make_file(f, names[i]);

        if (i == 2)
            file.purpose = "batch";
        ids[i] = file.id;
        assert_ok(store_file_create(f->store, &f->ours, &file, &err), err);
    }
    const struct {
        struct store_page page;
        const char *purpose, *expected;
        bool has_more;
    } cases[] = {
        {{.limit = 10}, NULL, "edcba", false},
        {{.limit = 5}, NULL, "edcba", false},
        {{.limit = 2}, NULL, "ed", true},
        {{.limit = 2, .after = ids[3]}, NULL, "cb", true},
        {{.limit = 2, .after = ids[1]}, NULL, "a", false},
        {{.limit = 2, .after = ids[0]}, NULL, "", false},
        {{.limit = 3, .ascending = true}, NULL, "abc", true},
        {{.limit = 3, .ascending = true, .after = ids[2]}, NULL, "de", false},
        {{.limit = 10}, "batch", "c", false},
        {{.limit = 10}, "fine-tune", "edba", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        names_of_files(f, cases[i].page, cases[i].purpose, text, &has_more);
        if (strcmp(text, cases[i].expected) != 0 || has_more != cases[i].has_more)
            fail_msg("case %zu: \"%s\" %d, expected \"%s\" %d", i, text, has_more, cases[i].expected,
                     cases[i].has_more);
    }
}

struct everything {
    const char *file, *job, *event, *checkpoint, *model;
};

/* One row of each kind that belongs to the other tenant. */
static struct everything make_everything(struct fixture *f)
{
    struct store_file file = make_file(f, "theirs");
    struct store_event_list events;
    struct everything all = {.file = file.id, .model = "ft:theirs:ckpt-step-1"};
    char *checkpoint = arena_alloc(&f->arena, STORE_ID_BYTES);
    struct err err = {0};

    assert_ok(store_file_create(f->store, &f->theirs, &file, &err), err);
    all.job = add_job(f, &f->theirs);
    run_job(f, all.job);
    store_id_checkpoint(checkpoint);
    all.checkpoint = checkpoint;
    struct store_checkpoint_commit commit = {
        .checkpoint = {.id = checkpoint,
                       .job_id = all.job,
                       .step = 1,
                       .model_name = all.model,
                       .path = "/c",
                       .metrics_json = "{}",
                       .result_files_json = "[]"},
        .model = {.name = all.model,
                  .job_id = all.job,
                  .checkpoint_id = checkpoint,
                  .kind = "lora",
                  .base_model = "b",
                  .base_path = "/b",
                  .path = "/c"},
    };
    struct store_advance advance = {
        .id = all.job, .attempt = 1, .to_offset = 10, .checkpoints = &commit, .checkpoint_count = 1};
    assert_ok(store_queue_advance(f->store, &advance, &err), err);
    assert_ok(
        store_event_list(f->store, &f->theirs, all.job, &(struct store_page){.limit = 1}, &f->arena, &events, &err),
        err);
    all.event = events.at[0].id;
    return all;
}

/* Every call that takes an id, asked by `tenant` for `id`: the error it gives. */
static void ask(struct fixture *f, const struct tenant *tenant, const struct everything *id, int call, struct err *err)
{
    struct store_page page = {.limit = 3};
    struct arena *arena = &f->arena;
    union {
        struct store_file_list files;
        struct store_job_list jobs;
        struct store_event_list events;
        struct store_checkpoint_list checkpoints;
        struct store_model_list models;
        struct store_job job;
        struct store_checkpoint checkpoint;
        struct store_model model;
        struct store_file file;
    } out;
    bool ok = true;

    switch (call) {
    case 0:
        ok = store_file_get(f->store, tenant, id->file, arena, &out.file, err);
        break;
    case 1:
        ok = store_file_delete(f->store, tenant, id->file, err);
        break;
    case 2:
        ok = store_job_get(f->store, tenant, id->job, arena, &out.job, err);
        break;
    case 3:
        ok = store_event_list(f->store, tenant, id->job, &page, arena, &out.events, err);
        break;
    case 4:
        ok = store_event_since(f->store, tenant, id->job, 0, 3, arena, &out.events, err);
        break;
    case 5:
        ok = store_event_add(f->store, tenant, id->job, "info", "x", "x", NULL, err);
        break;
    case 6:
        ok = store_checkpoint_list(f->store, tenant, id->job, &page, arena, &out.checkpoints, err);
        break;
    case 7:
        ok = store_checkpoint_get(f->store, tenant, id->job, id->checkpoint, arena, &out.checkpoint, err);
        break;
    case 8:
        ok = store_model_get(f->store, tenant, id->model, arena, &out.model, err);
        break;
    case 9:
        ok = store_model_delete(f->store, tenant, id->model, err);
        break;
    case 10:
        page.after = id->file;
        ok = store_file_list(f->store, tenant, NULL, &page, arena, &out.files, err);
        break;
    case 11:
        page.after = id->job;
        ok = store_job_list(f->store, tenant, NULL, &page, arena, &out.jobs, err);
        break;
    case 12:
        page.after = id->model;
        ok = store_model_list(f->store, tenant, &page, arena, &out.models, err);
        break;
    }
    assert_false(ok);
}

static void what_another_tenant_has_looks_like_what_does_not_exist(void **state)
{
    struct fixture *f = *state;
    struct everything theirs = make_everything(f);

    for (int call = 0; call <= 12; call++) {
        struct err foreign = {0}, missing = {0};
        struct tenant nobody = {"org-nobody", "proj-nobody"};

        ask(f, &f->ours, &theirs, call, &foreign);
        ask(f, &nobody, &theirs, call, &missing);
        assert_int_equal(foreign.code, ERR_NOT_FOUND);
        assert_string_equal(foreign.text, missing.text);
    }
}

static void lists_show_the_tenants_own_rows_only(void **state)
{
    struct fixture *f = *state;
    struct store_page page = {.limit = 10};
    struct store_job_list jobs;
    struct store_model_list models;
    struct store_file_list files;
    struct err err = {0};

    make_everything(f);
    assert_ok(store_job_list(f->store, &f->ours, NULL, &page, &f->arena, &jobs, &err), err);
    assert_ok(store_model_list(f->store, &f->ours, &page, &f->arena, &models, &err), err);
    assert_ok(store_file_list(f->store, &f->ours, NULL, &page, &f->arena, &files, &err), err);
    assert_int_equal(jobs.count + models.count + files.count, 0);
}

static void a_checkpoint_of_another_job_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct everything theirs = make_everything(f);
    const char *other = add_job(f, &f->theirs);
    struct store_checkpoint checkpoint;
    struct err err = {0};

    assert_ok(store_checkpoint_get(f->store, &f->theirs, theirs.job, theirs.checkpoint, &f->arena, &checkpoint, &err),
              err);
    assert_false(store_checkpoint_get(f->store, &f->theirs, other, theirs.checkpoint, &f->arena, &checkpoint, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void a_second_server_on_the_folder_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};

    assert_null(store_open(f->dir, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
}

static void a_reopened_store_holds_what_was_written(void **state)
{
    struct fixture *f = *state;
    const char *id = add_job(f, &f->ours);
    struct err err = {0};

    store_close(f->store);
    f->store = store_open(f->dir, &err);
    assert_ok(f->store, err);
    assert_int_equal(get_job(f, id).state, JOB_STATE_queued);
}

static void a_database_of_a_newer_version_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    sqlite3 *db;

    store_close(f->store);
    assert_int_equal(sqlite3_open(path_join(&f->arena, f->dir, "attune.db"), &db), SQLITE_OK);
    sqlite3_exec(db, "INSERT INTO migrations VALUES (99, 0)", NULL, NULL, NULL);
    sqlite3_close(db);
    f->store = store_open(f->dir, &err);
    assert_null(f->store);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
}

static void projects_know_their_organisation_and_profile(void **state)
{
    struct fixture *f = *state;
    struct store_project project;
    struct tenant nobody = {"org-default", "proj-other"};
    struct err err = {0};

    assert_ok(store_project_get(f->store, &f->theirs, &f->arena, &project, &err), err);
    assert_string_equal(project.organization_name, "Other");
    assert_string_equal(project.profile, "openai");
    assert_false(store_project_get(f->store, &nobody, &f->arena, &project, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_false(store_project_create(f->store, &f->theirs, "Other", "x", "openai", NULL, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
}

int main(void)
{
#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        STORE_TEST(a_file_row_reads_back_as_it_was_written),
        STORE_TEST(a_file_cannot_be_created_twice),
        STORE_TEST(lists_page_in_both_orders),
        STORE_TEST(what_another_tenant_has_looks_like_what_does_not_exist),
        STORE_TEST(lists_show_the_tenants_own_rows_only),
        STORE_TEST(a_checkpoint_of_another_job_is_not_found),
        STORE_TEST(a_second_server_on_the_folder_is_refused),
        STORE_TEST(a_reopened_store_holds_what_was_written),
        STORE_TEST(a_database_of_a_newer_version_is_refused),
        STORE_TEST(projects_know_their_organisation_and_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
