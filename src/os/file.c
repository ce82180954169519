#include "os/file.h"
#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static bool fail(struct err *err, const char *what, const char *path)
{
    enum err_code code = errno == ENOENT || errno == ENOTDIR       ? ERR_NOT_FOUND
                         : errno == ENOSPC || errno == EDQUOT ? ERR_NO_SPACE
                                                              : ERR_IO;
    return err_set(err, code, "cannot %s %s: %s", what, path, strerror(errno));
}

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;

    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

bool file_map(struct mapped_file *file, const char *path, struct err *err)
{
    struct stat info;

    *file = (struct mapped_file){.data = "", .fd = -1};
    file->fd = open_retry(path, O_RDONLY, 0);
    if (file->fd < 0)
        return fail(err, "open", path);
    if (fstat(file->fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        if (errno == 0 || S_ISDIR(info.st_mode))
            errno = EISDIR;
        fail(err, "read", path);
        fd_close(&file->fd);
        return false;
    }
    file->bytes = (size_t)info.st_size;
    if (file->bytes == 0)
        return true;
    file->data = mmap(NULL, file->bytes, PROT_READ, MAP_PRIVATE, file->fd, 0);
    if (file->data == MAP_FAILED) {
        fail(err, "map", path);
        *file = (struct mapped_file){.data = "", .fd = file->fd};
        fd_close(&file->fd);
        return false;
    }
    return true;
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
        fail(err, "read", path);
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
    char folder[4096];

    if (!slash)
        return dir_sync(".", err);
    if ((size_t)(slash - path) >= sizeof folder)
        return err_set(err, ERR_LIMIT, "path too long: %s", path);
    memcpy(folder, path, (size_t)(slash - path));
    folder[slash - path] = 0;
    return dir_sync(slash == path ? "/" : folder, err);
}

static bool replace(const char *path, struct str content, bool is_durable, struct err *err)
{
    char temporary[4096];
    int fd = -1;
    bool ok = false;

    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp.%d", path, (int)getpid()) >= sizeof temporary)
        return err_set(err, ERR_LIMIT, "path too long: %s", path);
    fd = file_create(temporary, err);
    if (fd < 0)
        return false;
    if (!fd_write_all(fd, content.at, content.len, temporary, err) || (is_durable && !fd_sync(fd, temporary, err)))
        goto out;
    if (is_durable)
        ok = file_rename(temporary, path, err);
    else
        ok = rename(temporary, path) == 0 || fail(err, "rename to", path);
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
    char folder[4096];

    if (may_replace)
        return file_rename(temporary, path, err);
    if (link(temporary, path) != 0)
        return errno == EEXIST ? err_set(err, ERR_CONFLICT, "%s is there already", path) : fail(err, "create", path);
    unlink(temporary);
    snprintf(folder, sizeof folder, "%.*s", (int)(path_name(path) - path), path);
    return dir_sync(folder[0] ? folder : ".", err);
}

bool file_write_secret(const char *path, struct str content, bool may_replace, struct err *err)
{
    char temporary[4096];
    bool ok = false;
    int fd;

    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp.%d", path, (int)getpid()) >= sizeof temporary)
        return err_set(err, ERR_LIMIT, "path too long: %s", path);
    fd = file_create_secret(temporary, err);
    if (fd >= 0)
        ok = fd_write_all(fd, content.at, content.len, temporary, err) && fd_sync(fd, temporary, err) &&
             publish(temporary, path, may_replace, err);
    fd_close(&fd);
    if (!ok)
        unlink(temporary);
    return ok;
}

bool file_sha256(const char *path, uint64_t *bytes, char hex[65], bool (*go_on)(void *context), void *context, struct err *err)
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

bool dir_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool file_size(const char *path, uint64_t *bytes, struct err *err)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return fail(err, "read", path);
    *bytes = (uint64_t)info.st_size;
    return true;
}

int64_t file_changed_at(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 ? (int64_t)info.st_mtime : 0;
}

int file_open_read(const char *path, struct err *err)
{
    int fd = open_retry(path, O_RDONLY, 0);

    if (fd < 0)
        fail(err, "open", path);
    return fd;
}

int file_create(const char *path, struct err *err)
{
    int fd = open_retry(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd < 0)
        fail(err, "create", path);
    return fd;
}

int file_create_secret(const char *path, struct err *err)
{
    int fd;

    if (!file_remove(path, err))
        return -1;
    fd = open_retry(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0)
        fail(err, "create", path);
    return fd;
}

int file_open_append(const char *path, struct err *err)
{
    int fd = open_retry(path, O_WRONLY | O_CREAT | O_APPEND, 0644);

    if (fd < 0)
        fail(err, "open", path);
    return fd;
}

int file_open_update(const char *path, struct err *err)
{
    int fd = open_retry(path, O_RDWR | O_CREAT, 0644);

    if (fd < 0)
        fail(err, "open", path);
    return fd;
}

int file_lock(const char *path, struct err *err)
{
    enum { TRIES = 50, PAUSE_MS = 20 };
    int fd = open_retry(path, O_RDWR | O_CREAT, 0600);

    if (fd < 0) {
        fail(err, "open", path);
        return -1;
    }
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
        fail(err, "lock", path);
    fd_close(&fd);
    return -1;
}

bool fd_is_private(int fd, const char *path, struct err *err)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return fail(err, "look at", path);
    return !(info.st_mode & 077) ||
           err_set(err, ERR_INPUT, "%s can be read by others: give it mode 0600 (chmod 600)", path);
}

bool fd_is_removed(int fd)
{
    struct stat info;

    return fstat(fd, &info) == 0 && info.st_nlink == 0;
}

bool fd_write_all(int fd, const void *at, size_t bytes, const char *path, struct err *err)
{
    const char *p = at;

    while (bytes > 0) {
        ssize_t n = write(fd, p, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(err, "write", path);
        p += n;
        bytes -= (size_t)n;
    }
    return true;
}

bool fd_pread(int fd, void *at, size_t bytes, uint64_t offset, size_t *got, const char *path, struct err *err)
{
    char *p = at;

    *got = 0;
    while (*got < bytes) {
        ssize_t n = pread(fd, p + *got, bytes - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(err, "read", path);
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return true;
}

bool fd_pwrite_all(int fd, const void *at, size_t bytes, uint64_t offset, const char *path, struct err *err)
{
    const char *p = at;

    while (bytes > 0) {
        ssize_t n = pwrite(fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(err, "write", path);
        p += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return true;
}

static long some(ssize_t n)
{
    return n >= 0 ? n : errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
}

long fd_read_some(int fd, void *at, size_t bytes)
{
    return some(read(fd, at, bytes));
}

long fd_write_some(int fd, const void *at, size_t bytes)
{
    return some(write(fd, at, bytes));
}

int fd_in_memory(const char *name, struct str content, struct err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd < 0)
        fail(err, "make in memory", name);
    else if (fd_write_all(fd, content.at, content.len, name, err) &&
             (lseek(fd, 0, SEEK_SET) == 0 || fail(err, "rewind", name)))
        return fd;
    fd_close(&fd);
    return -1;
}

bool fd_pipe(int ends[2], struct err *err)
{
    return pipe2(ends, O_CLOEXEC) == 0 || fail(err, "make", "a pipe");
}

bool fd_set_nonblocking(int fd, struct err *err)
{
    int flags = fcntl(fd, F_GETFL);

    return (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0) || fail(err, "set up", "a pipe");
}

bool fd_wait_readable(int fd, int timeout_ms)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};

    return poll(&wait, 1, timeout_ms) > 0;
}

bool fd_reserve(int fd, uint64_t bytes, const char *path, struct err *err)
{
    int status;

    if (bytes == 0)
        return true;
    do
        status = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
    while (status != 0 && errno == EINTR);
    return status == 0 || (errno != ENOSPC && errno != EDQUOT) || fail(err, "reserve room for", path);
}

bool fd_cut(int fd, uint64_t bytes, const char *path, struct err *err)
{
    return ftruncate(fd, (off_t)bytes) == 0 || fail(err, "cut", path);
}

void fd_push(int fd, uint64_t offset, uint64_t bytes)
{
    const unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;

    sync_file_range(fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
    if (offset >= bytes)
        sync_file_range(fd, (off_t)(offset - bytes), (off_t)bytes, wait);
}

bool fd_sync(int fd, const char *path, struct err *err)
{
    return fsync(fd) == 0 || fail(err, "sync", path);
}

void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
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
            return fail(err, "make folder", partial);
        *p = '/';
    }
    if (mkdir(partial, 0755) != 0 && (errno != EEXIST || !dir_exists(partial)))
        return fail(err, "make folder", path);
    return true;
}

bool dir_sync(const char *path, struct err *err)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    bool ok;

    if (fd < 0)
        return fail(err, "open folder", path);
    ok = fsync(fd) == 0 || fail(err, "sync folder", path);
    fd_close(&fd);
    return ok;
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
        return fail(err, "remove", path);
    /* Somebody else may be removing it at the same time. */
    if (!dir_list(&arena, path, &names, &count, &problem)) {
        ok = problem.code == ERR_NOT_FOUND || err_set(err, problem.code, "%s", problem.text);
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        if (!dir_remove(path_join(&arena, path, names[i]), err))
            goto out;
    if (rmdir(path) != 0 && errno != ENOENT) {
        fail(err, "remove", path);
        goto out;
    }
    ok = true;
out:
    arena_deinit(&arena);
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
        return fail(err, "open folder", path);
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
    is_read = errno == 0 || fail(err, "read folder", path);
    closedir(dir);
    if (!is_read)
        return false;
    qsort(*names, *count, sizeof **names, compare_names);
    return true;
}

bool file_rename(const char *from, const char *to, struct err *err)
{
    if (rename(from, to) != 0)
        return fail(err, "rename to", to);
    return sync_parent(to, err);
}

bool file_symlink(const char *target, const char *path, struct err *err)
{
    char temporary[4096];

    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp.%d", path, (int)getpid()) >= sizeof temporary)
        return err_set(err, ERR_LIMIT, "path too long: %s", path);
    unlink(temporary);
    if (symlink(target, temporary) != 0)
        return fail(err, "create", path);
    if (rename(temporary, path) == 0)
        return true;
    fail(err, "rename to", path);
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
    return fail(err, "link", to);
}

bool file_remove(const char *path, struct err *err)
{
    return unlink(path) == 0 || errno == ENOENT || fail(err, "remove", path);
}

bool disk_free(const char *path, uint64_t *bytes, struct err *err)
{
    struct statvfs info;

    if (statvfs(path, &info) != 0)
        return fail(err, "read free space of", path);
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return true;
}

bool disk_sync(const char *path, struct err *err)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    bool ok;

    if (fd < 0)
        return fail(err, "open folder", path);
    ok = syncfs(fd) == 0 || fail(err, "sync", path);
    fd_close(&fd);
    return ok;
}

/* What is kept for root counts as used. */
bool disk_size(const char *path, uint64_t *bytes, struct err *err)
{
    struct statvfs info;

    if (statvfs(path, &info) != 0)
        return fail(err, "read the size of", path);
    *bytes = (uint64_t)(info.f_blocks - info.f_bfree + info.f_bavail) * info.f_frsize;
    return true;
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
        return errno == ENOENT || fail(err, "read", path);
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
        fail(err, "find", path);
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
