#include "fixture.h"

#include "os/clock.h"
#include "store/blobs.h"
#include "store/uploads.h"

static struct store_upload add_upload(struct fixture *f, int64_t life_ms)
{
    char *id = arena_alloc(&f->arena, STORE_ID_BYTES);
    struct store_upload upload = {.id = id, .filename = "big.jsonl", .purpose = "fine-tune", .mime_type = "text/plain",
                                  .bytes = 6, .status = "pending", .created_ms = clock_unix_ms()};
    struct err err = {0};

    store_id_upload(id);
    upload.expires_ms = upload.created_ms + life_ms;
    assert_ok(store_upload_create(f->store, &f->ours, &upload, &err), err);
    return upload;
}

static const char *add_part(struct fixture *f, struct blobs *blobs, const char *upload_id, const char *text)
{
    struct store_part part = {.upload_id = upload_id, .bytes = (int64_t)strlen(text)};
    struct err err = {0};
    struct blob_put *put = blob_put_begin(blobs, &err);
    char *id = arena_alloc(&f->arena, STORE_ID_BYTES), sha256[65];

    store_id_part(id);
    part.id = id;
    assert_ok(put && blob_put_add(put, text, strlen(text), &err) && blob_put_commit(put, id, sha256, &err), err);
    assert_ok(store_part_create(f->store, &f->ours, &part, &err), err);
    return id;
}

static void completion_makes_a_file_and_forgets_the_parts(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct blobs *blobs = blobs_open(f->dir, &err);
    struct store_upload upload = add_upload(f, 1000000), again;
    struct store_file file = make_file(f, "big.jsonl"), found;
    struct store_part part;
    const char **ids, *first = add_part(f, blobs, upload.id, "abc");
    size_t count;

    add_part(f, blobs, upload.id, "def");
    assert_ok(store_part_ids(f->store, &f->ours, upload.id, &f->arena, &ids, &count, &err), err);
    assert_int_equal(count, 2);
    assert_ok(store_part_get(f->store, &f->ours, upload.id, first, &f->arena, &part, &err), err);
    assert_int_equal(part.bytes, 3);
    assert_false(store_part_get(f->store, &f->theirs, upload.id, first, &f->arena, &part, &err));
    assert_ok(store_upload_complete(f->store, &f->ours, upload.id, &file, &err), err);
    assert_ok(store_upload_get(f->store, &f->ours, upload.id, &f->arena, &again, &err), err);
    assert_string_equal(again.status, "completed");
    assert_string_equal(again.file_id, file.id);
    assert_ok(store_file_get(f->store, &f->ours, file.id, &f->arena, &found, &err), err);
    assert_ok(store_part_ids(f->store, &f->ours, upload.id, &f->arena, &ids, &count, &err), err);
    assert_int_equal(count, 0);
    blobs_close(blobs);
}

static void only_a_pending_upload_can_be_ended_or_get_parts(void **state)
{
    struct fixture *f = *state;
    struct store_upload cancelled = add_upload(f, 1000000), late = add_upload(f, -1), found;
    struct store_file file = make_file(f, "big.jsonl");
    struct store_part part = {.id = "part_1", .upload_id = cancelled.id};
    struct err err = {0};

    assert_false(store_upload_cancel(f->store, &f->theirs, cancelled.id, &err));
    err = (struct err){0};
    assert_ok(store_upload_cancel(f->store, &f->ours, cancelled.id, &err), err);
    assert_false(store_upload_cancel(f->store, &f->ours, cancelled.id, &err));
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_false(store_upload_complete(f->store, &f->ours, cancelled.id, &file, &err));
    assert_false(store_file_get(f->store, &f->ours, file.id, &f->arena, &file, &err));
    assert_false(store_part_create(f->store, &f->ours, &part, &err));
    assert_ok(store_upload_get(f->store, &f->ours, late.id, &f->arena, &found, &err), err);
    assert_string_equal(found.status, "expired");
    assert_false(store_upload_complete(f->store, &f->ours, late.id, &file, &err));
}

static void what_outlives_its_time_goes_with_its_blobs_and_nothing_else_does(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct blobs *blobs = blobs_open(f->dir, &err);
    struct store_upload late = add_upload(f, 1000), early = add_upload(f, 1000000);
    struct store_file lasting = make_file(f, "a"), short_lived = make_file(f, "b"), found;
    const char **ids, *lost = add_part(f, blobs, late.id, "abc"), *kept = add_part(f, blobs, early.id, "abc");
    struct store_part part;
    size_t count, removed;

    short_lived.expires_ms = late.expires_ms;
    assert_ok(store_file_create(f->store, &f->ours, &lasting, &err), err);
    assert_ok(store_file_create(f->store, &f->ours, &short_lived, &err), err);
    assert_ok(store_expire(f->store, late.expires_ms, &f->arena, &ids, &count, &err), err);
    assert_int_equal(count, 2);
    assert_string_equal(ids[0], lost);
    assert_string_equal(ids[1], short_lived.id);
    assert_false(store_file_get(f->store, &f->ours, short_lived.id, &f->arena, &found, &err));
    assert_ok(store_file_get(f->store, &f->ours, lasting.id, &f->arena, &found, &err), err);
    assert_ok(store_part_get(f->store, &f->ours, early.id, kept, &f->arena, &part, &err), err);
    assert_ok(blobs_collect(blobs, f->store, &removed, &err), err); /* the lost part's, not the kept one's */
    assert_int_equal(removed, 1);
    blobs_close(blobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(completion_makes_a_file_and_forgets_the_parts, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(only_a_pending_upload_can_be_ended_or_get_parts, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(what_outlives_its_time_goes_with_its_blobs_and_nothing_else_does, fixture_setup,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
