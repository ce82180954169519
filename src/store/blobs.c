#include "store/blobs.h"

#include "base/hash.h"
#include "os/entropy.h"
#include "os/file.h"
#include "store/store_int.h"

#include <stdlib.h>
#include <string.h>

struct blobs {
    struct arena arena; /* the two folders */
    const char *files_dir, *tmp_dir;
};

enum { PROMISE_STEP_BYTES = 8 << 20, PUSH_BYTES = 8 << 20 };

struct blob_put {
    struct blobs *blobs;
    struct disk *disk; /* NULL: nothing was promised */
    int64_t promised_bytes;
    char *path;
    int fd;
    struct sha256 hash;
    uint64_t bytes, pushed_bytes;
};

struct blobs *blobs_open(const char *data_dir, struct err *err)
{
    struct blobs *blobs = mem_alloc_zero(1, sizeof *blobs);

    blobs->files_dir = path_join(&blobs->arena, data_dir, "files");
    blobs->tmp_dir = path_join(&blobs->arena, data_dir, "tmp");
    if (dir_remove(blobs->tmp_dir, err) && dir_make(blobs->tmp_dir, err) && dir_make(blobs->files_dir, err) &&
        dir_sync(data_dir, err))
        return blobs;
    blobs_close(blobs);
    return NULL;
}

void blobs_close(struct blobs *blobs)
{
    if (!blobs)
        return;
    arena_deinit(&blobs->arena);
    free(blobs);
}

const char *blobs_dir(const struct blobs *blobs)
{
    return blobs->files_dir;
}

/* Ids are made by the server; a name that could leave the folder is a bug. */
static char *path_of(struct blobs *blobs, struct arena *arena, const char *id)
{
    ASSERT((strncmp(id, "file-", 5) == 0 || strncmp(id, "part_", 5) == 0) && !strchr(id, '/'));
    return path_join(arena, blobs->files_dir, id);
}

struct blob_put *blob_put_begin(struct blobs *blobs, struct err *err)
{
    struct blob_put *put = mem_alloc_zero(1, sizeof *put);
    struct arena arena = {0};
    char name[33];

    entropy_hex(name, 16);
    put->blobs = blobs;
    put->path = mem_copy_text(path_join(&arena, blobs->tmp_dir, name));
    arena_deinit(&arena);
    sha256_begin(&put->hash);
    put->fd = file_create(put->path, err);
    if (put->fd >= 0)
        return put;
    blob_put_abort(put);
    return NULL;
}

bool blob_put_promise(struct blob_put *put, struct disk *disk, int64_t bytes, struct err *err)
{
    if (!disk_promise(disk, put->path, bytes < 0 ? PROMISE_STEP_BYTES : bytes, 0, err))
        return false;
    put->disk = disk;
    put->promised_bytes = bytes < 0 ? PROMISE_STEP_BYTES : bytes;
    return true;
}

static bool promise_more(struct blob_put *put, struct err *err)
{
    int64_t wanted = (int64_t)put->bytes + PROMISE_STEP_BYTES;

    if (!disk_promise(put->disk, put->path, wanted, (int64_t)put->bytes, err))
        return false;
    put->promised_bytes = wanted;
    return true;
}

bool blob_put_add(struct blob_put *put, const void *at, size_t bytes, struct err *err)
{
    if (put->disk && (int64_t)(put->bytes + bytes) > put->promised_bytes && !promise_more(put, err))
        return false;
    sha256_add(&put->hash, at, bytes);
    put->bytes += bytes;
    if (!fd_write_all(put->fd, at, bytes, put->path, err))
        return false;
    if (put->bytes - put->pushed_bytes >= PUSH_BYTES) {
        fd_push(put->fd, put->pushed_bytes, put->bytes - put->pushed_bytes);
        put->pushed_bytes = put->bytes;
    }
    if (put->disk)
        disk_note_written(put->disk, put->path, (int64_t)put->bytes);
    return true;
}

uint64_t blob_put_bytes(const struct blob_put *put)
{
    return put->bytes;
}

static void put_free(struct blob_put *put)
{
    if (put->disk)
        disk_release(put->disk, put->path);
    fd_close(&put->fd);
    free(put->path);
    free(put);
}

bool blob_put_commit(struct blob_put *put, const char *id, char sha256_hex[65], struct err *err)
{
    struct arena arena = {0};
    bool ok = fd_sync(put->fd, put->path, err) && file_rename(put->path, path_of(put->blobs, &arena, id), err);

    sha256_end_hex(&put->hash, sha256_hex);
    if (!ok)
        file_remove(put->path, NULL);
    put_free(put);
    arena_deinit(&arena);
    return ok;
}

void blob_put_abort(struct blob_put *put)
{
    uint8_t digest[32];

    if (!put)
        return;
    sha256_end(&put->hash, digest);
    if (put->fd >= 0)
        file_remove(put->path, NULL);
    put_free(put);
}

int blob_open(struct blobs *blobs, const char *id, uint64_t *bytes, struct err *err)
{
    struct arena arena = {0};
    const char *path = path_of(blobs, &arena, id);
    int fd = file_open_read(path, err);

    if (fd >= 0 && !file_size(path, bytes, err))
        fd_close(&fd);
    arena_deinit(&arena);
    return fd;
}

bool blob_stage_to_path(struct blobs *blobs, const char *id, const char *path, struct err *err)
{
    struct arena arena = {0};
    bool ok = file_link(path_of(blobs, &arena, id), path, err);

    arena_deinit(&arena);
    return ok;
}

bool blob_link_from_path(struct blobs *blobs, const char *id, const char *path, struct err *err)
{
    struct arena arena = {0};
    bool ok = file_link(path, path_of(blobs, &arena, id), err);

    arena_deinit(&arena);
    return ok;
}

bool blobs_sync(struct blobs *blobs, struct err *err)
{
    return dir_sync(blobs->files_dir, err);
}

bool blob_rename(struct blobs *blobs, const char *id, const char *new_id, struct err *err)
{
    struct arena arena = {0};
    bool ok = file_rename(path_of(blobs, &arena, id), path_of(blobs, &arena, new_id), err);

    arena_deinit(&arena);
    return ok;
}

bool blob_remove(struct blobs *blobs, const char *id, struct err *err)
{
    struct arena arena = {0};
    bool ok = file_remove(path_of(blobs, &arena, id), err);

    arena_deinit(&arena);
    return ok;
}

bool blobs_collect(struct blobs *blobs, struct store *store, size_t *removed, struct err *err)
{
    struct query query =
        query_open(store, "SELECT id FROM files UNION ALL SELECT id FROM upload_parts ORDER BY id");
    struct arena arena = {0};
    struct store_texts ids;
    char **names;
    size_t count = 0;
    bool ok = texts_get(&query, &arena, &ids, err) && dir_list(&arena, blobs->files_dir, &names, &count, err);

    *removed = 0;
    for (size_t i = 0; ok && i < count; i++) {
        if (store_texts_have(&ids, names[i]))
            continue;
        ok = file_remove(path_join(&arena, blobs->files_dir, names[i]), err);
        *removed += ok;
    }
    arena_deinit(&arena);
    return ok;
}
