#include "os/file_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

bool dir_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool dir_make(const char *path, struct err *err)
{
    char partial[4096];
    size_t len = strlen(path);

    if (len == 0 || len >= sizeof partial)
        return err_set(err, ERR_LIMIT, "path too long: %s", path);
    memcpy(partial, path, len + 1);
    for (char *p = partial + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        if (mkdir(partial, 0755) != 0 && errno != EEXIST)
            return file_fail(err, "make folder", partial);
        *p = '/';
    }
    if (mkdir(partial, 0755) != 0 && (errno != EEXIST || !dir_exists(partial)))
        return file_fail(err, "make folder", path);
    return true;
}

bool dir_make_last(const char *path, struct err *err)
{
    char parent[4096];
    size_t len = strlen(path);

    while (len > 1 && path[len - 1] == '/')
        len--;
    while (len > 0 && path[len - 1] != '/')
        len--;
    snprintf(parent, sizeof parent, "%.*s", (int)len, path);
    if (len > 1 && !dir_exists(parent))
        return err_set(err, ERR_NOT_FOUND, "cannot make %s: there is no folder %.*s", path, (int)len - 1, path);
    return dir_make(path, err);
}

bool dir_sync(const char *path, struct err *err)
{
    int fd = file_open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    bool ok;

    if (fd < 0)
        return file_fail(err, "open folder", path);
    ok = fsync(fd) == 0 || file_fail(err, "sync folder", path);
    fd_close(&fd);
    return ok;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool dir_list(struct arena *arena, const char *path, char ***names, size_t *count, struct err *err)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    size_t cap = 16;
    bool is_read;

    *count = 0;
    if (!dir)
        return file_fail(err, "open folder", path);
    *names = arena_new_array(arena, char *, cap);
    while ((errno = 0, entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (*count == cap) {
            char **more = arena_new_array(arena, char *, cap * 2);
            memcpy(more, *names, cap * sizeof *more);
            *names = more;
            cap *= 2;
        }
        (*names)[(*count)++] = arena_copy(arena, entry->d_name, strlen(entry->d_name));
    }
    is_read = errno == 0 || file_fail(err, "read folder", path);
    closedir(dir);
    if (!is_read)
        return false;
    qsort(*names, *count, sizeof **names, compare_names);
    return true;
}

bool dir_remove(const char *path, struct err *err)
{
    struct arena arena = {0};
    char **names;
    size_t count;
    struct err problem;
    bool ok = false;

    if (unlink(path) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return file_fail(err, "remove", path);
    /* Somebody else may be removing it at the same time. */
    if (!dir_list(&arena, path, &names, &count, &problem)) {
        ok = problem.code == ERR_NOT_FOUND || err_set(err, problem.code, "%s", problem.text);
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        if (!dir_remove(path_join(&arena, path, names[i]), err))
            goto out;
    if (rmdir(path) != 0 && errno != ENOENT) {
        file_fail(err, "remove", path);
        goto out;
    }
    ok = true;
out:
    arena_deinit(&arena);
    return ok;
}

static bool add_bytes(const char *path, uint64_t *bytes, struct err *err)
{
    struct arena arena = {0};
    struct err problem = {0};
    struct stat info;
    char **names;
    size_t count = 0;
    bool ok = true;

    if (lstat(path, &info) != 0)
        return errno == ENOENT || file_fail(err, "read", path);
    *bytes += (uint64_t)info.st_blocks * 512;
    if (S_ISDIR(info.st_mode) && !dir_list(&arena, path, &names, &count, &problem))
        ok = problem.code == ERR_NOT_FOUND || err_set(err, problem.code, "%s", problem.text); /* removed meanwhile */
    for (size_t i = 0; ok && i < count; i++)
        ok = add_bytes(path_join(&arena, path, names[i]), bytes, err);
    arena_deinit(&arena);
    return ok;
}

bool dir_bytes(const char *path, uint64_t *bytes, struct err *err)
{
    *bytes = 0;
    return add_bytes(path, bytes, err);
}

bool disk_free(const char *path, uint64_t *bytes, struct err *err)
{
    struct statvfs info;

    if (statvfs(path, &info) != 0)
        return file_fail(err, "read free space of", path);
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return true;
}

bool disk_size(const char *path, uint64_t *bytes, struct err *err)
{
    struct statvfs info;

    if (statvfs(path, &info) != 0)
        return file_fail(err, "read the size of", path);
    *bytes = (uint64_t)(info.f_blocks - info.f_bfree + info.f_bavail) * info.f_frsize;
    return true;
}

bool disk_sync(const char *path, struct err *err)
{
    int fd = file_open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    bool ok;

    if (fd < 0)
        return file_fail(err, "open folder", path);
    ok = syncfs(fd) == 0 || file_fail(err, "sync", path);
    fd_close(&fd);
    return ok;
}

char *path_join(struct arena *arena, const char *folder, const char *name)
{
    size_t len = strlen(folder);

    return arena_printf(arena, "%s%s%s", folder, len && folder[len - 1] == '/' ? "" : "/", name);
}

char *path_absolute(struct arena *arena, const char *path, struct err *err)
{
    char *resolved = realpath(path, NULL), *copy = NULL;

    if (resolved)
        copy = arena_copy(arena, resolved, strlen(resolved));
    else
        file_fail(err, "find", path);
    free(resolved);
    return copy;
}

bool path_is_same_disk(const char *a, const char *b)
{
    struct stat first, second;

    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev;
}

const char *path_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}
