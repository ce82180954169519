#include "fixture.h"

#include "store/store_int.h"

static bool file_is_there(struct fixture *f, const char *id)
{
    struct store_file file;

    return store_file_get(f->store, &f->ours, id, &f->arena, &file, NULL);
}

static void add_file(struct fixture *f, const char *name)
{
    struct store_file file = make_file(f, name);
    struct err err = {0};

    assert_ok(store_file_create(f->store, &f->ours, &file, &err), err);
}

static int64_t pragma(struct fixture *f, const char *sql)
{
    sqlite3_stmt *stmt;
    int64_t value;

    assert_int_equal(sqlite3_prepare_v2(f->store->db, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

static void the_log_grows_until_its_owner_moves_it(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    int files = 0, pages;

    assert_ok(store_take_checkpoints(f->store, &err), err);
    while (!store_wants_checkpoint(f->store)) {
        add_file(f, arena_printf(&f->arena, "%d", files));
        assert_true(++files < 10000);
    }
    pages = f->store->wal_pages;
    assert_ok(store_checkpoint(f->store, &err), err);
    add_file(f, "behind");
    assert_true(f->store->wal_pages < pages); /* it began anew */
    assert_false(store_wants_checkpoint(f->store));
    store_close(f->store);
    f->store = store_open(f->dir, &err);
    assert_ok(f->store, err);
    assert_int_equal(pragma(f, "SELECT COUNT(*) FROM files"), files + 1);
}

static void a_view_reads_and_a_write_within_ends_it(void **state)
{
    struct fixture *f = *state;
    struct store_file file = make_file(f, "a");
    struct err err = {0};

    store_view_begin(f->store);
    assert_false(file_is_there(f, file.id));
    assert_false(sqlite3_get_autocommit(f->store->db));
    assert_ok(store_file_create(f->store, &f->ours, &file, &err), err); /* a transaction */
    assert_true(sqlite3_get_autocommit(f->store->db));
    assert_true(file_is_there(f, file.id));
    store_view_end(f->store);
    store_view_begin(f->store);
    assert_true(file_is_there(f, file.id));
    assert_ok(store_file_delete(f->store, &f->ours, file.id, &err), err); /* a statement by itself */
    assert_true(sqlite3_get_autocommit(f->store->db));
    assert_false(file_is_there(f, file.id));
    store_view_end(f->store);
    store_view_end(f->store);
    assert_false(file_is_there(f, file.id));
}

static void what_follows_a_relaxed_commit_is_synced_again(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};

    for (int is_committed = 0; is_committed < 2; is_committed++) {
        assert_ok(transaction_begin_relaxed(f->store, &err), err);
        assert_int_equal(pragma(f, "PRAGMA synchronous"), 1);
        assert_int_equal(transaction_end(f->store, is_committed, &err), is_committed);
        assert_int_equal(pragma(f, "PRAGMA synchronous"), 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_log_grows_until_its_owner_moves_it, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(a_view_reads_and_a_write_within_ends_it, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(what_follows_a_relaxed_commit_is_synced_again, fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
