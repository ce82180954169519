#include "fixture.h"

#include "store/blobs.h"

static const char *put(struct fixture *f, struct blobs *blobs, const char *text, char sha256[65])
{
    char *id = arena_alloc(&f->arena, STORE_ID_BYTES);
    struct err err = {0};
    struct blob_put *blob = blob_put_begin(blobs, &err);

    assert_ok(blob, err);
    store_id_file(id);
    assert_ok(blob_put_add(blob, text, 1, &err) && blob_put_add(blob, text + 1, strlen(text) - 1, &err), err);
    assert_int_equal(blob_put_bytes(blob), strlen(text));
    assert_ok(blob_put_commit(blob, id, sha256, &err), err);
    return id;
}

static void a_committed_blob_reads_back_with_its_hash(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct blobs *blobs = blobs_open(f->dir, &err);
    char sha256[65], text[8] = {0};
    const char *id = put(f, blobs, "abc", sha256);
    uint64_t bytes;
    int fd = blob_open(blobs, id, &bytes, &err);

    assert_ok(fd >= 0, err);
    assert_int_equal(bytes, 3);
    assert_int_equal(pread(fd, text, sizeof text, 0), 3);
    assert_string_equal(text, "abc");
    assert_string_equal(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    fd_close(&fd);
    blobs_close(blobs);
}

static void a_staged_blob_outlives_its_removal(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct blobs *blobs = blobs_open(f->dir, &err);
    char sha256[65];
    const char *id = put(f, blobs, "abc", sha256), *path = path_join(&f->arena, f->dir, "staged");
    struct str text;
    uint64_t bytes;

    assert_ok(blob_stage_to_path(blobs, id, path, &err), err);
    assert_ok(blob_remove(blobs, id, &err) && blob_remove(blobs, id, &err), err);
    assert_int_equal(blob_open(blobs, id, &bytes, &err), -1);
    assert_ok(file_read(&f->arena, path, 10, &text, &err), err);
    assert_true(str_is(text, "abc"));
    blobs_close(blobs);
}

static void what_a_crash_leaves_is_collected_at_start(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct blobs *blobs = blobs_open(f->dir, &err);
    struct blob_put *unfinished = blob_put_begin(blobs, &err);
    char sha256[65];
    const char *kept = put(f, blobs, "kept", sha256), *orphan = put(f, blobs, "orphan", sha256);
    struct store_file file = make_file(f, "kept");
    char **names;
    size_t removed, count;
    uint64_t bytes;
    int fd;

    assert_ok(blob_put_add(unfinished, "half", 4, &err), err);
    file.id = kept;
    assert_ok(store_file_create(f->store, &f->ours, &file, &err), err);
    blobs_close(blobs);
    blobs = blobs_open(f->dir, &err);
    assert_ok(blobs_collect(blobs, f->store, &removed, &err), err);
    assert_int_equal(removed, 1);
    assert_int_equal(blob_open(blobs, orphan, &bytes, &err), -1);
    fd = blob_open(blobs, kept, &bytes, &err);
    assert_true(fd >= 0);
    fd_close(&fd);
    assert_ok(dir_list(&f->arena, path_join(&f->arena, f->dir, "tmp"), &names, &count, &err), err);
    assert_int_equal(count, 0);
    blob_put_abort(unfinished);
    blobs_close(blobs);
}

int main(void)
{
#define BLOB_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        BLOB_TEST(a_committed_blob_reads_back_with_its_hash),
        BLOB_TEST(a_staged_blob_outlives_its_removal),
        BLOB_TEST(what_a_crash_leaves_is_collected_at_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
