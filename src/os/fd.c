#include "os/file_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool fd_is_private(int fd, const char *path, struct err *err)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return file_fail(err, "look at", path);
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
            return file_fail(err, "write", path);
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
            return file_fail(err, "read", path);
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
            return file_fail(err, "write", path);
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
        file_fail(err, "make in memory", name);
    else if (fd_write_all(fd, content.at, content.len, name, err) &&
             (lseek(fd, 0, SEEK_SET) == 0 || file_fail(err, "rewind", name)))
        return fd;
    fd_close(&fd);
    return -1;
}

bool fd_pipe(int ends[2], struct err *err)
{
    return pipe2(ends, O_CLOEXEC) == 0 || file_fail(err, "make", "a pipe");
}

bool fd_set_nonblocking(int fd, struct err *err)
{
    int flags = fcntl(fd, F_GETFL);

    return (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0) || file_fail(err, "set up", "a pipe");
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
    return status == 0 || (errno != ENOSPC && errno != EDQUOT) || file_fail(err, "reserve room for", path);
}

bool fd_cut(int fd, uint64_t bytes, const char *path, struct err *err)
{
    return ftruncate(fd, (off_t)bytes) == 0 || file_fail(err, "cut", path);
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
    return fsync(fd) == 0 || file_fail(err, "sync", path);
}

void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
