#include "store/disk.h"

#include "base/arena.h"
#include "os/file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct promise {
    struct promise *next;
    char *owner;
    int64_t total_bytes, written_bytes;
};

struct disk {
    char *path;
    int64_t floor_bytes, size_bytes;
    pthread_mutex_t lock; /* over the promises */
    struct promise *first;
};

struct disk *disk_open(const char *data_dir, int64_t free_min_bytes, struct err *err)
{
    struct disk *disk;
    uint64_t size;

    if (!disk_size(data_dir, &size, err))
        return NULL;
    disk = mem_alloc_zero(1, sizeof *disk);
    disk->path = mem_copy_text(data_dir);
    disk->size_bytes = (int64_t)size;
    disk->floor_bytes = free_min_bytes;
    if (free_min_bytes < 0)
        disk->floor_bytes = disk->size_bytes / 20 < (int64_t)1 << 30 ? disk->size_bytes / 20 : (int64_t)1 << 30;
    pthread_mutex_init(&disk->lock, NULL);
    return disk;
}

static void remove_promise(struct promise **link)
{
    struct promise *gone = *link;

    *link = gone->next;
    free(gone->owner);
    free(gone);
}

void disk_close(struct disk *disk)
{
    if (!disk)
        return;
    while (disk->first)
        remove_promise(&disk->first);
    pthread_mutex_destroy(&disk->lock);
    free(disk->path);
    free(disk);
}

int64_t disk_capacity(const struct disk *disk)
{
    return disk->size_bytes - disk->floor_bytes;
}

static struct promise **find(struct disk *disk, const char *owner)
{
    struct promise **link = &disk->first;

    while (*link && strcmp((*link)->owner, owner) != 0)
        link = &(*link)->next;
    return link;
}

static int64_t left_of(const struct promise *promise)
{
    return promise->total_bytes > promise->written_bytes ? promise->total_bytes - promise->written_bytes : 0;
}

/* Whether bytes fit beside every promise but the one of `except`. */
static bool fits(struct disk *disk, const char *except, int64_t bytes, struct err *err)
{
    int64_t promised = 0, room;
    uint64_t free_bytes;

    if (!disk_free(disk->path, &free_bytes, err))
        return false;
    for (const struct promise *promise = disk->first; promise; promise = promise->next)
        if (!except || strcmp(promise->owner, except) != 0)
            promised += left_of(promise);
    room = (int64_t)free_bytes - promised - disk->floor_bytes;
    if (bytes <= room)
        return true;
    return err_set(err, ERR_NO_SPACE,
                   "There is no room on the server's disk: %lld MiB are needed, %lld MiB are free for it",
                   (long long)(bytes >> 20) + (bytes % (1 << 20) > 0), room > 0 ? (long long)(room >> 20) : 0LL);
}

bool disk_has_room(struct disk *disk, int64_t bytes, struct err *err)
{
    bool ok;

    pthread_mutex_lock(&disk->lock);
    ok = fits(disk, NULL, bytes, err);
    pthread_mutex_unlock(&disk->lock);
    return ok;
}

bool disk_promise(struct disk *disk, const char *owner, int64_t total_bytes, int64_t written_bytes, struct err *err)
{
    struct promise **link, wanted = {.total_bytes = total_bytes, .written_bytes = written_bytes};
    bool ok;

    pthread_mutex_lock(&disk->lock);
    ok = fits(disk, owner, left_of(&wanted), err);
    if (ok) {
        link = find(disk, owner);
        if (!*link) {
            *link = mem_alloc_zero(1, sizeof **link);
            (*link)->owner = mem_copy_text(owner);
        }
        (*link)->total_bytes = total_bytes;
        (*link)->written_bytes = written_bytes;
    }
    pthread_mutex_unlock(&disk->lock);
    return ok;
}

void disk_note_written(struct disk *disk, const char *owner, int64_t written_bytes)
{
    struct promise **link;

    pthread_mutex_lock(&disk->lock);
    link = find(disk, owner);
    if (*link)
        (*link)->written_bytes = written_bytes;
    pthread_mutex_unlock(&disk->lock);
}

void disk_release(struct disk *disk, const char *owner)
{
    struct promise **link;

    pthread_mutex_lock(&disk->lock);
    link = find(disk, owner);
    if (*link)
        remove_promise(link);
    pthread_mutex_unlock(&disk->lock);
}
