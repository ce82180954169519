#include "test.h"
#include "os/file.h"

#include <errno.h>
#include <string.h>

static bool stop(void *context)
{
    return false;
}

/* FIPS 180-2's "abc". */
static void a_file_is_hashed_and_the_hashing_can_be_stopped(void **state)
{
    char path[] = "/tmp/attune-file-XXXXXX", hex[65];
    int fd = mkstemp(path);
    uint64_t bytes;
    struct err err = {0};

    assert_ok(fd_pwrite_all(fd, "bc", 2, 1, path, &err), err);
    assert_ok(fd_pwrite_all(fd, "a", 1, 0, path, &err), err);
    assert_ok(file_sha256(path, &bytes, hex, NULL, NULL, &err), err);
    assert_int_equal(bytes, 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_false(file_sha256(path, &bytes, hex, stop, NULL, &err));
    assert_int_equal(err.code, ERR_CANCELLED);
    fd_close(&fd);
    unlink(path);
}

static void a_secret_file_is_its_owners_alone(void **state)
{
    char path[] = "/tmp/attune-file-XXXXXX";
    int fd = mkstemp(path);
    struct stat info;
    struct err err = {0};

    assert_int_equal(fchmod(fd, 0644), 0);
    fd_close(&fd);
    fd = file_create_secret(path, &err);
    assert_ok(fd >= 0, err);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    fd_close(&fd);
    unlink(path);
}

static void a_folder_is_made_below_one_that_is_there(void **state)
{
    static const struct {
        const char *name, *missing; /* below the test's folder; missing NULL: it is made */
    } cases[] = {{"a", NULL}, {"a", NULL}, {"a/b//", NULL}, {"c/d", "c"}, {"c/d/e/", "c/d"}, {"file/x", "file"}};
    char dir[] = "/tmp/attune-file-XXXXXX";
    struct arena arena = {0};
    struct err err = {0};

    assert_non_null(mkdtemp(dir));
    assert_ok(file_replace(path_join(&arena, dir, "file"), STR("x"), &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = path_join(&arena, dir, cases[i].name), *said = cases[i].missing;
        bool ok = dir_make_last(path, &err);

        if (said)
            said = arena_printf(&arena, "cannot make %s: there is no folder %s/%s", path, dir, said);
        if (ok != !said || dir_exists(path) != ok || (said && strcmp(err.text, said) != 0))
            fail_msg("%s: %d, %s", path, ok, err.text);
    }
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

/* Blocks are counted, so a sparse file is small; what is not there has none. */
static void a_folder_counts_what_lies_in_it(void **state)
{
    char dir[] = "/tmp/attune-file-XXXXXX", text[65536];
    struct arena arena = {0};
    struct err err = {0};
    const char *folder;
    uint64_t empty = 0, bytes = 0, room = 0, size = 0;
    int fd;

    assert_non_null(mkdtemp(dir));
    folder = path_join(&arena, dir, "a/b");
    assert_ok(dir_make(folder, &err) && dir_bytes(dir, &empty, &err), err);
    memset(text, 'x', sizeof text);
    fd = file_create(path_join(&arena, folder, "c"), &err);
    assert_ok(fd_pwrite_all(fd, text, sizeof text, 0, "c", &err) && fd_sync(fd, "c", &err), err);
    assert_int_equal(ftruncate(fd, 1 << 30), 0);
    assert_ok(dir_bytes(dir, &bytes, &err), err);
    assert_in_range(bytes - empty, sizeof text, 2 * sizeof text);
    fd_close(&fd);
    assert_ok(dir_bytes(path_join(&arena, dir, "none"), &bytes, &err), err);
    assert_int_equal(bytes, 0);
    assert_ok(disk_free(dir, &room, &err) && disk_size(dir, &size, &err), err);
    assert_true(room <= size);
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

static void a_symbolic_link_takes_the_place_of_what_is_there(void **state)
{
    char dir[] = "/tmp/attune_file_XXXXXX";
    struct arena arena = {0};
    struct err err = {0};
    struct str text;
    const char *link;

    assert_non_null(mkdtemp(dir));
    link = path_join(&arena, dir, "link");
    assert_ok(file_swap(path_join(&arena, dir, "one"), STR("1"), &err), err);
    assert_ok(file_swap(path_join(&arena, dir, "two"), STR("2"), &err), err);
    assert_ok(file_symlink("one", link, &err) && file_symlink("two", link, &err), err);
    assert_ok(file_read(&arena, link, 10, &text, &err), err);
    assert_string_equal(text.at, "2");
    assert_true(path_is_same_disk(dir, link));
    assert_false(path_is_same_disk(dir, path_join(&arena, dir, "none")));
    assert_false(file_symlink("one", path_join(&arena, dir, "none/link"), &err));
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

static void a_part_of_a_mapped_file_that_was_let_go_reads_as_before(void **state)
{
    char path[] = "/tmp/attune-file-XXXXXX", content[5 * 4096 + 100];
    struct mapped_file file = {0};
    int fd = mkstemp(path);
    struct err err = {0};

    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (char)(i * 31 % 127);
    assert_ok(fd_pwrite_all(fd, content, sizeof content, 0, path, &err), err);
    fd_close(&fd);
    assert_ok(file_map(&file, path, &err), err);
    file_let_go((const char *)file.data + 10, 3 * 4096);
    file_let_go(file.data, file.bytes);
    file_let_go((const char *)file.data + 5, 7);
    assert_int_equal(file.bytes, sizeof content);
    assert_memory_equal(file.data, content, sizeof content);
    file_unmap(&file);
    unlink(path);
}

/* Without a writer, a pipe must not be waited for. */
static void only_regular_files_are_mapped(void **state)
{
    char dir[] = "/tmp/attune_file_XXXXXX";
    struct arena arena = {0};
    const char *paths[] = {dir, "/dev/null", NULL};

    assert_non_null(mkdtemp(dir));
    paths[2] = path_join(&arena, dir, "pipe");
    assert_int_equal(mkfifo(paths[2], 0600), 0);
    alarm(10);
    for (int i = 0; i < 3; i++) {
        struct mapped_file file = {0};
        struct err err = {0};

        errno = ENOENT; /* of something earlier */
        assert_false(file_map(&file, paths[i], &err));
        assert_int_equal(err.code, ERR_IO);
        assert_int_equal(file.fd, -1);
        file_unmap(&file);
    }
    alarm(0);
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

static void nothing_stays_of_a_copy_that_failed(void **state)
{
    char dir[] = "/tmp/attune_file_XXXXXX";
    struct arena arena = {0};
    struct err err = {0};
    struct str text;

    assert_non_null(mkdtemp(dir));
    assert_ok(file_swap(path_join(&arena, dir, "one"), STR("1"), &err), err);
    assert_ok(file_copy(path_join(&arena, dir, "one"), path_join(&arena, dir, "two"), &err), err);
    assert_ok(file_read(&arena, path_join(&arena, dir, "two"), 10, &text, &err), err);
    assert_string_equal(text.at, "1");
    assert_false(file_copy(dir, path_join(&arena, dir, "three"), &err)); /* a folder opens and does not read */
    assert_false(file_exists(path_join(&arena, dir, "three")));
    dir_remove(dir, NULL);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_regular_files_are_mapped),
                                       cmocka_unit_test(nothing_stays_of_a_copy_that_failed),
                                       cmocka_unit_test(a_file_is_hashed_and_the_hashing_can_be_stopped),
                                       cmocka_unit_test(a_secret_file_is_its_owners_alone),
                                       cmocka_unit_test(a_folder_is_made_below_one_that_is_there),
                                       cmocka_unit_test(a_folder_counts_what_lies_in_it),
                                       cmocka_unit_test(a_symbolic_link_takes_the_place_of_what_is_there),
                                       cmocka_unit_test(a_part_of_a_mapped_file_that_was_let_go_reads_as_before)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
