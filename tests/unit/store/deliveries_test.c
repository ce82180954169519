#include "fixture.h"

#include "store/deliveries.h"

#define KEY "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"

struct with_key {
    struct fixture *f;
    struct keyring *keyring;
};

static int setup(void **state)
{
    struct with_key *w = calloc(1, sizeof *w);
    struct err err = {0};

    fixture_setup(state);
    w->f = *state;
    w->keyring = keyring_parse(STR(KEY), "the test's", &err);
    assert_ok(w->keyring && store_use_keyring(w->f->store, w->keyring, &err), err);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct with_key *w = *state;
    void *inner = w->f;

    fixture_teardown(&inner);
    keyring_free(w->keyring);
    free(w);
    return 0;
}

/* A job of ours with two deliveries and one secret. */
static const char *add(struct fixture *f)
{
    const struct store_delivery deliveries[] = {{.position = 0, .kind = "mlflow", .config_json = "{\"a\":1}"},
                                                {.position = 1, .kind = "mlflow", .config_json = "{\"b\":2}"}};
    struct store_job job = make_job(f, &f->ours);
    struct secret value = {0};
    struct store_held held;
    struct err err = {0};

    secret_set(&value, STR("a token"));
    assert_ok(store_secret_hold(f->store, "integrations.0.mlflow.token", &value, &f->arena, &held, &err), err);
    secret_wipe(&value);
    assert_ok(store_queue_insert_with(f->store, &job, &(struct store_job_extra){&held, 1, deliveries, 2}, &err), err);
    return job.id;
}

static struct store_delivery_list due(struct fixture *f, int64_t now_ms, int64_t *next_ms)
{
    struct store_delivery_list list;
    struct err err = {0};

    assert_ok(store_delivery_due(f->store, now_ms, false, 10, &f->arena, &list, next_ms, &err), err);
    return list;
}

static bool has_secret(struct fixture *f, const char *job_id)
{
    struct secret value = {0};
    bool has = store_secret_get(f->store, &f->ours, job_id, "integrations.0.mlflow.token", &value, NULL);

    secret_wipe(&value);
    return has;
}

static void end(struct fixture *f, const struct store_delivery *delivery, const char *state, int64_t next_ms)
{
    struct err err = {0};

    assert_ok(
        store_delivery_end(f->store, delivery, &(struct store_delivery_end){.state = state, .next_ms = next_ms}, &err),
        err);
}

static void a_job_brings_its_deliveries_and_secrets_and_they_are_due_at_once(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    const char *id = add(f);
    struct store_delivery_list list;
    int64_t next_ms;

    add_job(f, &f->theirs);
    list = due(f, 1000, &next_ms);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.at[0].job_id, id);
    assert_string_equal(list.at[0].project_id, "proj-default");
    assert_string_equal(list.at[0].config_json, "{\"a\":1}");
    assert_int_equal(list.at[1].position, 1);
    assert_int_equal(list.at[0].after_seq + list.at[0].failures + list.at[0].is_uncertain, 0);
    assert_null(list.at[0].external_json);
    assert_int_equal(next_ms, INT64_MAX);
    assert_true(has_secret(f, id));
}

static void what_is_told_is_not_due_until_there_is_more(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    const char *id = add(f);
    struct store_delivery first;
    struct err err = {0};
    int64_t next_ms;

    first = due(f, 1000, &next_ms).at[0];
    assert_ok(store_delivery_begin(f->store, first.number, 9000, &err), err);
    assert_int_equal(due(f, 1000, &next_ms).count, 1);
    assert_int_equal(next_ms, 9000);
    assert_ok(store_delivery_progress(f->store, first.number, "{\"run_id\":\"r\"}", 0, &err), err);
    assert_ok(store_delivery_progress(f->store, first.number, NULL, 1, &err), err);
    assert_ok(store_delivery_progress(f->store, first.number, NULL, 0, &err), err);
    end(f, &first, "pending", 2000);
    assert_int_equal(due(f, 3000, &next_ms).count, 1);
    assert_ok(store_event_add(f->store, &f->ours, id, "info", "more", "More", NULL, &err), err);
    first = due(f, 3000, &next_ms).at[1];
    assert_string_equal(first.external_json, "{\"run_id\":\"r\"}");
    assert_int_equal(first.after_seq, 1);
    assert_int_equal(first.is_uncertain, 0);
}

static void what_is_told_is_due_again_when_it_is_to_be_woken(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    struct store_delivery first, second;
    struct err err = {0};
    int64_t next_ms;

    add(f);
    first = due(f, 1000, &next_ms).at[0];
    second = due(f, 1000, &next_ms).at[1];
    assert_ok(store_delivery_progress(f->store, first.number, NULL, 100, &err), err);
    assert_ok(store_delivery_progress(f->store, second.number, NULL, 100, &err), err);
    assert_ok(store_delivery_end(f->store, &first,
                                 &(struct store_delivery_end){.state = "pending", .next_ms = 2000, .wake_ms = 5000},
                                 &err),
              err);
    end(f, &second, "pending", 2000);
    assert_int_equal(due(f, 4999, &next_ms).count, 0);
    assert_int_equal(next_ms, 5000);
    assert_int_equal(due(f, 5000, &next_ms).count, 1);
    assert_int_equal(next_ms, INT64_MAX);
}

static void what_a_sender_told_but_did_not_end_is_due_at_a_new_server(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    struct store_delivery first;
    struct err err = {0};
    int64_t next_ms;

    add(f);
    first = due(f, 1000, &next_ms).at[0];
    assert_ok(store_delivery_begin(f->store, first.number, INT64_MAX / 2, &err), err);
    assert_ok(store_delivery_progress(f->store, first.number, NULL, 100, &err), err);
    assert_int_equal(due(f, 1000, &next_ms).count, 1);
    assert_ok(store_delivery_recover(f->store, &err), err);
    assert_int_equal(due(f, 1000, &next_ms).count, 2);
}

static void a_new_server_goes_on_with_what_another_had_begun_and_is_not_sure(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    struct store_delivery first;
    struct err err = {0};
    int64_t next_ms;

    add(f);
    first = due(f, 1000, &next_ms).at[0];
    assert_ok(store_delivery_begin(f->store, first.number, INT64_MAX / 2, &err), err);
    assert_int_equal(due(f, 1000, &next_ms).count, 1);
    assert_ok(store_delivery_recover(f->store, &err), err);
    assert_int_equal(due(f, 1000, &next_ms).count, 2);
    assert_int_equal(due(f, 1000, &next_ms).at[0].is_uncertain, 1);
}

static void secrets_go_with_the_last_delivery_that_needs_them(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    const char *id = add(f), *other = add(f);
    struct store_delivery_list list;
    int64_t next_ms;

    list = due(f, 1000, &next_ms);
    assert_int_equal(list.count, 4);
    end(f, &list.at[0], "done", 0);
    assert_true(has_secret(f, id));
    end(f, &list.at[1], "failed", 0);
    assert_false(has_secret(f, id));
    assert_true(has_secret(f, other));
    assert_int_equal(due(f, 1000, &next_ms).count, 2);
}

static void a_job_that_is_refused_leaves_nothing(void **state)
{
    struct fixture *f = ((struct with_key *)*state)->f;
    const struct store_delivery twice[] = {{.position = 0, .kind = "mlflow", .config_json = "{}"},
                                           {.position = 0, .kind = "mlflow", .config_json = "{}"}};
    struct store_job job = make_job(f, &f->ours);
    struct err err = {0};
    int64_t next_ms;

    assert_false(store_queue_insert_with(f->store, &job,
                                         &(struct store_job_extra){.deliveries = twice, .delivery_count = 2}, &err));
    assert_int_equal(due(f, 1000, &next_ms).count, 0);
    assert_false(store_job_get(f->store, &f->ours, job.id, &f->arena, &job, &err));
}

int main(void)
{
#define WITH_KEY(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_KEY(a_job_brings_its_deliveries_and_secrets_and_they_are_due_at_once),
        WITH_KEY(what_is_told_is_not_due_until_there_is_more),
        WITH_KEY(what_is_told_is_due_again_when_it_is_to_be_woken),
        WITH_KEY(what_a_sender_told_but_did_not_end_is_due_at_a_new_server),
        WITH_KEY(a_new_server_goes_on_with_what_another_had_begun_and_is_not_sure),
        WITH_KEY(secrets_go_with_the_last_delivery_that_needs_them),
        WITH_KEY(a_job_that_is_refused_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
