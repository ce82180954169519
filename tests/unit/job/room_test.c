#include "server.h"

#include "store/disk.h"

#include <string.h>

/* Four units of room; other programs that write meanwhile have a unit to do so. */
struct room {
    struct server *server;
    struct disk *disk;
    int64_t unit;
};

static struct room room_of(struct server *server)
{
    struct room room = {.server = server};
    struct err err = {0};
    uint64_t bytes;

    assert_ok(disk_free(server->dir, &bytes, &err), err);
    room.unit = (int64_t)bytes / 8 < (int64_t)1 << 30 ? (int64_t)bytes / 8 : (int64_t)1 << 30;
    room.disk = disk_open(server->dir, (int64_t)bytes - 4 * room.unit, &err);
    assert_ok(room.disk, err);
    server->manager->config.disk = room.disk;
    return room;
}

static void room_end(struct room *room)
{
    room->server->manager->config.disk = NULL;
    disk_close(room->disk);
}

static const char *create(struct room *room, int64_t disk_bytes)
{
    struct job_spec spec = server_spec(room->server, "{\"steps\":4}");
    struct store_job job;
    struct err err = {0};

    spec.disk_bytes = disk_bytes;
    assert_ok(job_create(room->server->manager, &room->server->tenant, &spec, &room->server->arena, &job, &err), err);
    return job.id;
}

static int count_events(struct server *server, const char *id, const char *code)
{
    struct store_event_list events;
    struct store_page page = {.limit = 100, .ascending = true};
    struct err err = {0};
    int count = 0;

    assert_ok(store_event_list(server->store, &server->tenant, id, &page, &server->arena, &events, &err), err);
    for (size_t i = 0; i < events.count; i++)
        count += strcmp(events.at[i].code, code) == 0;
    return count;
}

static void wait_for_end(struct server *server, const char *id)
{
    while (!job_state_is_final(server_job(server, id).state))
        server_step(server);
    assert_int_equal(server_job(server, id).state, JOB_STATE_succeeded);
}

static void a_job_without_room_waits_is_told_once_and_is_passed(void **state)
{
    struct room room = room_of(*state);
    struct err err = {0};
    const char *large, *small;

    assert_ok(disk_promise(room.disk, "an upload", 2 * room.unit, 0, &err), err);
    large = create(&room, 5 * room.unit / 2);
    small = create(&room, 1 << 20);
    wait_for_end(room.server, small);
    assert_int_equal(server_job(room.server, large).state, JOB_STATE_queued);
    room_look_again(room.server->manager);
    job_manager_tick(room.server->manager);
    assert_int_equal(server_job(room.server, large).state, JOB_STATE_queued);
    assert_int_equal(count_events(room.server, large, "waiting_for_disk"), 1);
    disk_release(room.disk, "an upload");
    wait_for_end(room.server, large); /* looked at again by itself */
    room_end(&room);
}

static void a_job_holds_its_room_until_it_has_ended(void **state)
{
    struct room room = room_of(*state);
    const char *id = create(&room, 2 * room.unit);
    struct err err = {0};

    while (server_job(room.server, id).state != JOB_STATE_running)
        server_step(room.server);
    assert_false(disk_has_room(room.disk, 3 * room.unit, &err));
    assert_int_equal(err.code, ERR_NO_SPACE);
    wait_for_end(room.server, id);
    while (room.server->manager->attempt_count > 0)
        server_step(room.server);
    assert_ok(disk_has_room(room.disk, 3 * room.unit, &err), err);
    room_end(&room);
}

static void a_job_that_no_disk_of_this_size_could_hold_is_refused(void **state)
{
    struct room room = room_of(*state);
    struct job_spec spec = server_spec(room.server, "{}");
    struct store_job job;
    struct err err = {0};

    spec.disk_bytes = disk_capacity(room.disk);
    assert_false(job_create(room.server->manager, &room.server->tenant, &spec, &room.server->arena, &job, &err));
    assert_int_equal(err.code, ERR_NO_SPACE);
    assert_non_null(strstr(err.text, "keep_checkpoints"));
    room_end(&room);
}

int main(void)
{
#define ROOM_TEST(name) cmocka_unit_test_setup_teardown(name, server_setup, server_teardown)
    const struct CMUnitTest tests[] = {
        ROOM_TEST(a_job_without_room_waits_is_told_once_and_is_passed),
        ROOM_TEST(a_job_holds_its_room_until_it_has_ended),
        ROOM_TEST(a_job_that_no_disk_of_this_size_could_hold_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
