#include "test.h"

#include "os/file.h"
#include "store/disk.h"

#include <stdlib.h>
#include <string.h>

struct room {
    char dir[64];
    struct disk *disk;
    int64_t free, slack; /* other programs write to the same file system meanwhile: all bounds leave them the slack */
};

/* A floor that leaves `free` bytes to promise, give or take the slack. */
static int setup(void **state)
{
    struct room *room = calloc(1, sizeof *room);
    struct err err = {0};
    uint64_t free_bytes;

    strcpy(room->dir, "/tmp/attune-disk-XXXXXX");
    assert_non_null(mkdtemp(room->dir));
    assert_ok(disk_free(room->dir, &free_bytes, &err), err);
    room->slack = (int64_t)free_bytes / 8 < (int64_t)1 << 30 ? (int64_t)free_bytes / 8 : (int64_t)1 << 30;
    room->free = 4 * room->slack;
    room->disk = disk_open(room->dir, (int64_t)free_bytes - room->free, &err);
    assert_ok(room->disk, err);
    *state = room;
    return 0;
}

static int teardown(void **state)
{
    struct room *room = *state;

    disk_close(room->disk);
    dir_remove(room->dir, NULL);
    free(room);
    return 0;
}

static void the_floor_is_never_promised(void **state)
{
    struct room *room = *state;
    struct err err = {0};

    assert_ok(disk_has_room(room->disk, room->free - room->slack, &err), err);
    assert_false(disk_has_room(room->disk, room->free + room->slack, &err));
    assert_int_equal(err.code, ERR_NO_SPACE);
    assert_non_null(strstr(err.text, "MiB are needed"));
    assert_false(disk_promise(room->disk, "a", room->free + room->slack, 0, NULL));
    assert_false(disk_has_room(room->disk, INT64_MAX, &err));
    assert_non_null(strstr(err.text, "8796093022208 MiB are needed"));
    assert_true(disk_capacity(room->disk) >= room->free - room->slack);
}

static void what_is_promised_to_one_is_refused_to_another(void **state)
{
    struct room *room = *state;
    struct err err = {0};

    assert_ok(disk_promise(room->disk, "a", 3 * room->slack, 0, &err), err);
    assert_false(disk_promise(room->disk, "b", 2 * room->slack, 0, &err));
    assert_int_equal(err.code, ERR_NO_SPACE);
    disk_release(room->disk, "a");
    disk_release(room->disk, "a");
    assert_ok(disk_promise(room->disk, "b", 2 * room->slack, 0, &err), err);
}

static void an_owner_may_raise_its_promise(void **state)
{
    struct room *room = *state;
    struct err err = {0};

    assert_ok(disk_promise(room->disk, "a", 2 * room->slack, 0, &err), err);
    assert_ok(disk_promise(room->disk, "a", 3 * room->slack, 0, &err), err);
    assert_false(disk_promise(room->disk, "a", 6 * room->slack, 0, NULL));
    assert_false(disk_has_room(room->disk, 2 * room->slack, NULL)); /* the old promise stands */
}

/* What is written shows in the file system's own figure. */
static void written_bytes_are_not_counted_twice(void **state)
{
    struct room *room = *state;
    struct err err = {0};

    assert_ok(disk_promise(room->disk, "a", 3 * room->slack, 0, &err), err);
    disk_note_written(room->disk, "a", 2 * room->slack);
    disk_note_written(room->disk, "unknown", 1);
    assert_ok(disk_has_room(room->disk, 2 * room->slack, &err), err);
    disk_note_written(room->disk, "a", 5 * room->slack); /* more than it was promised */
    assert_ok(disk_has_room(room->disk, 3 * room->slack, &err), err);
    assert_false(disk_has_room(room->disk, 5 * room->slack, NULL));
}

int main(void)
{
#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        DISK_TEST(the_floor_is_never_promised),
        DISK_TEST(what_is_promised_to_one_is_refused_to_another),
        DISK_TEST(an_owner_may_raise_its_promise),
        DISK_TEST(written_bytes_are_not_counted_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
