/* Event files for TensorBoard, read back by a decoder of this test's own; tests/track has the real one read them. */
#include "test.h"
#include "base/hash.h"
#include "os/file.h"
#include "train/tensorboard.h"

#include <string.h>

static int make_dir(void **state)
{
    char path[] = "/tmp/attune-board-XXXXXX";

    *state = strdup(mkdtemp(path));
    return *state == NULL;
}

static int remove_dir(void **state)
{
    dir_remove(*state, NULL);
    free(*state);
    return 0;
}

/* --- the decoder: from TensorFlow's descriptions, apart from the writer --- */

struct seen {
    char text[4096]; /* "tag@step=value " for scalars, "version:… " and "start " */
};

static uint64_t varint(const uint8_t **at)
{
    uint64_t value = 0;
    int shift = 0;

    do
        value |= (uint64_t)(**at & 0x7f) << shift, shift += 7;
    while (*(*at)++ & 0x80);
    return value;
}

static uint32_t mask(uint32_t crc)
{
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static void read_value(struct seen *seen, const uint8_t *at, const uint8_t *end, long step)
{
    char tag[64] = "";
    float value = 0;

    while (at < end) {
        uint64_t key = varint(&at);
        if (key == 0x0a) {
            uint64_t len = varint(&at);
            assert_true(len < sizeof tag);
            memcpy(tag, at, len);
            at += len;
        } else {
            assert_int_equal(key, 0x15);
            memcpy(&value, at, 4);
            at += 4;
        }
    }
    snprintf(seen->text + strlen(seen->text), sizeof seen->text - strlen(seen->text), "%s@%ld=%g ", tag, step, value);
}

static void read_event(struct seen *seen, const uint8_t *at, const uint8_t *end)
{
    char *out = seen->text + strlen(seen->text);
    double seconds = 0;
    long step = 0;

    while (at < end) {
        uint64_t key = varint(&at), len;
        if (key == 0x09) {
            memcpy(&seconds, at, 8);
            at += 8;
            continue;
        }
        len = varint(&at);
        if (key == 0x10)
            step = (long)len;
        else if (key == 0x1a)
            sprintf(out, "version:%.*s ", (int)len, (const char *)at);
        else if (key == 0x3a)
            sprintf(out, "start ");
        else
            for (const uint8_t *value = at; value < at + len;) {
                assert_int_equal(varint(&value), 0x0a);
                uint64_t bytes = varint(&value);
                read_value(seen, value, value + bytes, step);
                value += bytes;
            }
        at += key == 0x10 ? 0 : len;
    }
    assert_true(seconds > 1.7e9);
}

static struct seen read_all(const char *folder)
{
    struct arena arena = {0};
    struct seen seen = {{0}};
    struct err err = {0};
    struct str file;
    char **names;
    size_t count;

    assert_ok(dir_list(&arena, folder, &names, &count, &err), err);
    for (size_t i = 0; i < count; i++) {
        assert_ok(file_read(&arena, path_join(&arena, folder, names[i]), 1 << 20, &file, &err), err);
        assert_true(i + 1 == count || file.len == 0);
    }
    for (const uint8_t *at = (const uint8_t *)file.at, *end = at + file.len; at < end;) {
        uint64_t len;
        uint32_t crc;

        memcpy(&len, at, 8);
        memcpy(&crc, at + 8, 4);
        assert_int_equal(crc, mask(crc32c_of(at, 8)));
        memcpy(&crc, at + 12 + len, 4);
        assert_int_equal(crc, mask(crc32c_of(at + 12, len)));
        read_event(&seen, at + 12, at + 12 + len);
        at += 16 + len;
    }
    arena_deinit(&arena);
    return seen;
}

/* --- the tests --- */

static void write_steps(struct tensorboard *board, int64_t from, int64_t to)
{
    struct err err = {0};

    for (int64_t step = from; step <= to; step++) {
        tensorboard_add(board, "train/loss", (double)step / 2);
        if (step % 2 == 0)
            tensorboard_add(board, "x", -1e-3);
        assert_ok(tensorboard_write(board, step, &err), err);
    }
}

static void open_board(struct tensorboard *board, struct arena *arena, const char *folder, int64_t attempt,
                       int64_t step_max)
{
    struct err err = {0};

    assert_ok(tensorboard_open(board, arena, folder, attempt, step_max, &err), err);
}

static void a_run_is_read_back(void **state)
{
    struct tensorboard board = {0};
    struct arena arena = {0};

    open_board(&board, &arena, *state, 1, 0);
    write_steps(&board, 1, 2);
    write_steps(&board, 200, 200);
    tensorboard_close(&board);
    tensorboard_close(&board);
    assert_string_equal(read_all(*state).text,
                        "version:brain.Event:2 train/loss@1=0.5 train/loss@2=1 x@2=-0.001 "
                        "train/loss@200=100 x@200=-0.001 ");
    arena_deinit(&arena);
}

static void a_later_attempt_keeps_what_it_does_not_repeat(void **state)
{
    struct tensorboard first = {0}, second = {0}, third = {0};
    struct arena arena = {0};

    open_board(&first, &arena, *state, 1, 0);
    write_steps(&first, 1, 5);
    open_board(&second, &arena, *state, 2, 3);
    write_steps(&first, 6, 6); /* one that was overtaken writes for nobody */
    write_steps(&second, 4, 4);
    open_board(&third, &arena, *state, 3, 4);
    write_steps(&third, 5, 5);
    assert_string_equal(read_all(*state).text,
                        "version:brain.Event:2 start start train/loss@1=0.5 train/loss@2=1 x@2=-0.001 train/loss@3=1.5 "
                        "train/loss@4=2 x@4=-0.001 train/loss@5=2.5 ");
    tensorboard_close(&first);
    tensorboard_close(&second);
    tensorboard_close(&third);
    arena_deinit(&arena);
}

static void a_run_that_begins_anew_has_nothing_of_the_old_one(void **state)
{
    struct tensorboard board = {0};
    struct arena arena = {0};

    open_board(&board, &arena, *state, 1, 0);
    write_steps(&board, 1, 3);
    tensorboard_close(&board);
    open_board(&board, &arena, *state, 2, 0);
    write_steps(&board, 1, 1);
    tensorboard_close(&board);
    assert_string_equal(read_all(*state).text, "version:brain.Event:2 start train/loss@1=0.5 ");
    arena_deinit(&arena);
}

/* Every way in which a file can be cut or changed: what is kept is a prefix of whole records. */
static void a_record_that_is_torn_or_changed_ends_what_is_kept(void **state)
{
    struct tensorboard board = {0};
    struct arena arena = {0};
    struct err err = {0};
    size_t whole[8] = {0}, count = 0;
    struct str file;
    char *bytes;

    open_board(&board, &arena, *state, 1, 0);
    whole[count++] = 0;
    whole[count++] = board.bytes;
    for (int64_t step = 1; step <= 4; step++) {
        write_steps(&board, step, step);
        whole[count++] = board.bytes;
    }
    assert_ok(file_read(&arena, board.path, 1 << 20, &file, &err), err);
    tensorboard_close(&board);
    assert_int_equal(tensorboard_prefix(file, INT64_MAX), file.len);
    assert_int_equal(tensorboard_prefix(file, 2), whole[3]);
    bytes = arena_copy(&arena, file.at, file.len);
    for (size_t i = 0, record = 0; i < file.len; i++) {
        record += i == whole[record + 1];
        assert_int_equal(tensorboard_prefix((struct str){file.at, i}, INT64_MAX), whole[record]);
        bytes[i] ^= 0x10;
        assert_int_equal(tensorboard_prefix((struct str){bytes, file.len}, INT64_MAX), whole[record]);
        bytes[i] ^= 0x10;
    }
    arena_deinit(&arena);
}

static void a_folder_that_cannot_be_written_is_an_error(void **state)
{
    struct tensorboard board = {0};
    struct arena arena = {0};
    struct err err = {0};

    assert_false(tensorboard_open(&board, &arena, "/proc/none/tensorboard", 1, 0, &err));
    assert_null(board.path);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_run_is_read_back, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_later_attempt_keeps_what_it_does_not_repeat, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_run_that_begins_anew_has_nothing_of_the_old_one, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_record_that_is_torn_or_changed_ends_what_is_kept, make_dir, remove_dir),
        cmocka_unit_test(a_folder_that_cannot_be_written_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
