#include "os/file_int.h"
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_fail(struct err *err, const char *what, const char *path)
{
    enum err_code code = errno == ENOENT || errno == ENOTDIR   ? ERR_NOT_FOUND
                         : errno == ENOSPC || errno == EDQUOT ? ERR_NO_SPACE
                                                              : ERR_IO;
    return err_set(err, code, "cannot %s %s: %s", what, path, strerror(errno));
}

int file_open_retry(const char *path, int flags, mode_t mode)
{
    int fd;

    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static bool map_open(struct mapped_file *file, const char *path, struct err *err)
{
    struct stat info;
    void *data;

    if (fstat(file->fd, &info) != 0)
        return file_fail(err, "read", path);
    if (!S_ISREG(info.st_mode))
        return err_set(err, ERR_IO, "cannot read %s: it is %s", path, S_ISDIR(info.st_mode) ? "a folder" : "no file");
    if (info.st_size == 0)
        return true;
    data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file->fd, 0);
    if (data == MAP_FAILED)
        return file_fail(err, "map", path);
    file->data = data;
    file->bytes = (size_t)info.st_size;
    return true;
}

/* Not blocking: to open a pipe would wait for somebody to write to it. */
bool file_map(struct mapped_file *file, const char *path, struct err *err)
{
    *file = (struct mapped_file){.data = "", .fd = file_open_retry(path, O_RDONLY | O_NONBLOCK, 0)};
    if (file->fd < 0)
        return file_fail(err, "open", path);
    if (map_open(file, path, err))
        return true;
    fd_close(&file->fd);
    return false;
}

void file_let_go(const void *part, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)part + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)part + bytes) / page * page;

    if (from < end)
        madvise((void *)from, end - from, MADV_DONTNEED);
}

void file_unmap(struct mapped_file *file)
{
    if (file->bytes)
        munmap((void *)(uintptr_t)file->data, file->bytes);
    if (file->data && file->fd >= 0)
        fd_close(&file->fd);
    *file = (struct mapped_file){0};
}

bool file_read(struct arena *arena, const char *path, size_t bytes_max, struct str *text, struct err *err)
{
    int fd = file_open_read(path, err);
    struct stat info;
    size_t got = 0;
    char *at;
    bool ok = false;

    if (fd < 0)
        return false;
    if (fstat(fd, &info) != 0) {
        file_fail(err, "read", path);
        goto out;
    }
    if ((uint64_t)info.st_size > bytes_max) {
        err_set(err, ERR_LIMIT, "%s has %lld bytes, at most %zu are read", path, (long long)info.st_size, bytes_max);
        goto out;
    }
    at = arena_alloc(arena, (size_t)info.st_size + 1);
    if (!fd_pread(fd, at, (size_t)info.st_size, 0, &got, path, err))
        goto out;
    *text = (struct str){at, got};
    ok = true;
out:
    fd_close(&fd);
    return ok;
}

static bool sync_parent(const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char folder[PATH_MAX];

    if (!slash)
        return dir_sync(".", err);
    if ((size_t)(slash - path) >= sizeof folder)
        return err_set(err, ERR_LIMIT, "path too long: %s", path);
    memcpy(folder, path, (size_t)(slash - path));
    folder[slash - path] = 0;
    return dir_sync(slash == path ? "/" : folder, err);
}

/* A name beside path that no other process takes. */
static bool name_temporary(const char *path, char temporary[PATH_MAX], struct err *err)
{
    return snprintf(temporary, PATH_MAX, "%s.tmp.%d", path, (int)getpid()) < PATH_MAX ||
           err_set(err, ERR_LIMIT, "path too long: %s", path);
}

static bool replace(const char *path, struct str content, bool is_durable, struct err *err)
{
    char temporary[PATH_MAX];
    int fd = -1;
    bool ok = false;

    if (!name_temporary(path, temporary, err))
        return false;
    fd = file_create(temporary, err);
    if (fd < 0)
        return false;
    if (!fd_write_all(fd, content.at, content.len, temporary, err) || (is_durable && !fd_sync(fd, temporary, err)))
        goto out;
    if (is_durable)
        ok = file_rename(temporary, path, err);
    else
        ok = rename(temporary, path) == 0 || file_fail(err, "rename to", path);
out:
    fd_close(&fd);
    if (!ok)
        unlink(temporary);
    return ok;
}

bool file_replace(const char *path, struct str content, struct err *err)
{
    return replace(path, content, true, err);
}

bool file_swap(const char *path, struct str content, struct err *err)
{
    return replace(path, content, false, err);
}

/* Both names of a link are there for a moment, so that a file that somebody else makes meanwhile is never lost. */
static bool publish(const char *temporary, const char *path, bool may_replace, struct err *err)
{
    if (may_replace)
        return file_rename(temporary, path, err);
    if (link(temporary, path) != 0)
        return errno == EEXIST ? err_set(err, ERR_CONFLICT, "%s is there already", path)
                               : file_fail(err, "create", path);
    unlink(temporary);
    return sync_parent(path, err);
}

bool file_write_secret(const char *path, struct str content, bool may_replace, struct err *err)
{
    char temporary[PATH_MAX];
    bool ok = false;
    int fd;

    if (!name_temporary(path, temporary, err))
        return false;
    fd = file_create_secret(temporary, err);
    if (fd >= 0)
        ok = fd_write_all(fd, content.at, content.len, temporary, err) && fd_sync(fd, temporary, err) &&
             publish(temporary, path, may_replace, err);
    fd_close(&fd);
    if (!ok)
        unlink(temporary);
    return ok;
}

bool file_sha256(const char *path, uint64_t *bytes, char hex[65], bool (*go_on)(void *context), void *context,
                 struct err *err)
{
    enum { BLOCK_BYTES = 4 << 20 };
    int fd = file_open_read(path, err);
    char *block = mem_alloc(BLOCK_BYTES);
    struct sha256 hash;
    size_t got = BLOCK_BYTES;
    bool ok = fd >= 0;

    sha256_begin(&hash);
    for (*bytes = 0; ok && got == BLOCK_BYTES; *bytes += got) {
        ok = fd_pread(fd, block, BLOCK_BYTES, *bytes, &got, path, err);
        if (!ok)
            break;
        sha256_add(&hash, block, got);
        if (go_on && !go_on(context))
            ok = err_set(err, ERR_CANCELLED, "cancelled while %s was read", path);
    }
    sha256_end_hex(&hash, hex);
    fd_close(&fd);
    free(block);
    return ok;
}

bool file_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool file_size(const char *path, uint64_t *bytes, struct err *err)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return file_fail(err, "read", path);
    *bytes = (uint64_t)info.st_size;
    return true;
}

int64_t file_changed_at(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 ? (int64_t)info.st_mtime : 0;
}

static int open_as(const char *what, const char *path, int flags, mode_t mode, struct err *err)
{
    int fd = file_open_retry(path, flags, mode);

    if (fd < 0)
        file_fail(err, what, path);
    return fd;
}

int file_open_read(const char *path, struct err *err)
{
    return open_as("open", path, O_RDONLY, 0, err);
}

int file_create(const char *path, struct err *err)
{
    return open_as("create", path, O_WRONLY | O_CREAT | O_TRUNC, 0644, err);
}

int file_create_secret(const char *path, struct err *err)
{
    if (!file_remove(path, err))
        return -1;
    return open_as("create", path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, err);
}

int file_open_append(const char *path, struct err *err)
{
    return open_as("open", path, O_WRONLY | O_CREAT | O_APPEND, 0644, err);
}

int file_open_update(const char *path, struct err *err)
{
    return open_as("open", path, O_RDWR | O_CREAT, 0644, err);
}

int file_lock(const char *path, struct err *err)
{
    enum { TRIES = 50, PAUSE_MS = 20 };
    int fd = open_as("open", path, O_RDWR | O_CREAT, 0600, err);

    if (fd < 0)
        return -1;
    for (int i = 0; i < TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        if (errno != EWOULDBLOCK && errno != EINTR)
            break;
        poll(NULL, 0, PAUSE_MS);
    }
    if (errno == EWOULDBLOCK)
        err_set(err, ERR_CONFLICT, "%s is locked by another process", path);
    else
        file_fail(err, "lock", path);
    fd_close(&fd);
    return -1;
}

bool file_rename(const char *from, const char *to, struct err *err)
{
    if (rename(from, to) != 0)
        return file_fail(err, "rename to", to);
    return sync_parent(to, err);
}

bool file_symlink(const char *target, const char *path, struct err *err)
{
    char temporary[PATH_MAX];

    if (!name_temporary(path, temporary, err))
        return false;
    unlink(temporary);
    if (symlink(target, temporary) != 0)
        return file_fail(err, "create", path);
    if (rename(temporary, path) == 0)
        return true;
    file_fail(err, "rename to", path);
    unlink(temporary);
    return false;
}

bool file_copy(const char *from, const char *to, struct err *err)
{
    int in = file_open_read(from, err), out = -1;
    char *buf = mem_alloc(1 << 20);
    uint64_t offset = 0;
    size_t got = 1;
    bool ok = false;

    if (in < 0 || (out = file_create(to, err)) < 0)
        goto out;
    while (got > 0) {
        if (!fd_pread(in, buf, 1 << 20, offset, &got, from, err) || !fd_write_all(out, buf, got, to, err))
            goto out;
        offset += got;
    }
    ok = fd_sync(out, to, err);
out:
    if (!ok && out >= 0)
        unlink(to);
    fd_close(&in);
    fd_close(&out);
    free(buf);
    return ok;
}

bool file_link(const char *from, const char *to, struct err *err)
{
    if (link(from, to) == 0)
        return true;
    if (errno == EXDEV || errno == EPERM || errno == EMLINK)
        return file_copy(from, to, err);
    return file_fail(err, "link", to);
}

bool file_remove(const char *path, struct err *err)
{
    return unlink(path) == 0 || errno == ENOENT || file_fail(err, "remove", path);
}
