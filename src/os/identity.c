#include "os/identity.h"
#include "os/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Files of /proc say that they are empty: they are read to their end instead. */
static bool read_small(const char *path, char *text, size_t cap, struct err *err)
{
    int fd = file_open_read(path, err);
    size_t got = 0;
    bool ok = fd >= 0 && fd_pread(fd, text, cap - 1, 0, &got, path, err);

    text[got] = 0;
    fd_close(&fd);
    return ok;
}

/* The second field is the program's name in parentheses and may hold anything: fields are counted behind its end. */
static bool find_start_time(const char *stat, uint64_t *start_time)
{
    const char *at = strrchr(stat, ')');

    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return false;
    *start_time = strtoull(at + 1, NULL, 10);
    return true;
}

bool identity_of(int64_t pid, struct process_identity *identity, struct err *err)
{
    char path[64], stat[1024];

    *identity = (struct process_identity){.pid = pid};
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    if (!read_small(path, stat, sizeof stat, err) ||
        !read_small("/proc/sys/kernel/random/boot_id", identity->boot_id, sizeof identity->boot_id, err))
        return false;
    identity->boot_id[strcspn(identity->boot_id, "\n")] = 0;
    return find_start_time(stat, &identity->start_time) || err_set(err, ERR_IO, "cannot understand %s", path);
}

bool identity_of_self(struct process_identity *identity, struct err *err)
{
    return identity_of(getpid(), identity, err);
}

bool identity_equal(const struct process_identity *a, const struct process_identity *b)
{
    return a->pid == b->pid && a->start_time == b->start_time && strcmp(a->boot_id, b->boot_id) == 0;
}
