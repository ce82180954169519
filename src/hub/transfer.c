#include "hub/transfer.h"

#include "base/hash.h"
#include "base/pool.h"
#include "hub/cache.h"
#include "hub/name.h"
#include "os/clock.h"
#include "os/file.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 5, RETRY_MS = 1000, PROGRESS_MS = 500, WAIT_STEP_MS = 200, PUSH_BYTES = 8 << 20 };

/* What the threads share, under its lock. */
struct crew {
    const struct hub_transfers *transfers;
    pthread_mutex_t lock;
    uint64_t done, bytes;
    int64_t told_ms;
    bool is_stopped; /* somebody failed, or the caller said so */
    struct err err;  /* the first */
};

/* One file on its way. */
struct transfer {
    struct crew *crew;
    struct arena arena;
    struct hub_reader reader;
    const struct hub_file *file;
    const char *blob, *partial;
    int fd;
    uint64_t have;
    bool has_begun; /* the answer's first bytes were looked at */
    struct http_client_answer answer;
    struct err err; /* why on_bytes said stop */
};

static bool note_done(struct crew *crew, int64_t change)
{
    const struct hub_transfers *transfers = crew->transfers;
    int64_t now_ms = clock_monotonic_ms();
    bool go_on;

    pthread_mutex_lock(&crew->lock);
    crew->done += (uint64_t)change;
    if (!crew->is_stopped && transfers->on_progress && now_ms - crew->told_ms >= PROGRESS_MS) {
        crew->told_ms = now_ms;
        crew->is_stopped = !transfers->on_progress(transfers->context, crew->done, crew->bytes);
    }
    go_on = !crew->is_stopped;
    pthread_mutex_unlock(&crew->lock);
    return go_on;
}

static bool is_stopped(struct crew *crew)
{
    return !note_done(crew, 0);
}

static bool stopped(const struct transfer *transfer, struct err *err)
{
    return err_set(err, ERR_CANCELLED, "the download of %s was stopped", transfer->reader.repo);
}

/* In steps, so that it ends soon when another one fails. */
static bool wait_ms(struct transfer *transfer, int64_t ms, struct err *err)
{
    for (; ms > 0; ms -= WAIT_STEP_MS) {
        if (is_stopped(transfer->crew))
            return stopped(transfer, err);
        clock_sleep_ms(ms < WAIT_STEP_MS ? ms : WAIT_STEP_MS);
    }
    return true;
}

/* --- bytes --- */

/* "bytes 100-199/200": the answer goes on where we are, and means a file of the right size. */
static bool check_range(struct transfer *transfer, struct str range)
{
    char expected[64];

    snprintf(expected, sizeof expected, "bytes %llu-%llu/%llu", (unsigned long long)transfer->have,
             (unsigned long long)transfer->file->bytes - 1, (unsigned long long)transfer->file->bytes);
    return str_is(range, expected) ||
           err_set(&transfer->err, ERR_INPUT, "%s: %s is not the file that its list has: the range does not fit",
                   transfer->reader.repo, transfer->file->path);
}

static bool drop_all(struct transfer *transfer, struct err *err)
{
    note_done(transfer->crew, -(int64_t)transfer->have);
    transfer->have = 0;
    return fd_cut(transfer->fd, 0, transfer->partial, err);
}

/* An answer without a range is the file from its beginning: some do not know ranges. */
static bool begin(struct transfer *transfer)
{
    struct str range = http_client_answer_header(&transfer->answer, "content-range");

    transfer->has_begun = true;
    return range.len ? check_range(transfer, range) : drop_all(transfer, &transfer->err);
}

static bool on_bytes(void *context, struct str bytes)
{
    struct transfer *transfer = context;

    if (!transfer->has_begun && !begin(transfer))
        return false;
    if (bytes.len > transfer->file->bytes - transfer->have)
        return err_set(&transfer->err, ERR_INPUT, "%s: %s is longer than its list says", transfer->reader.repo,
                       transfer->file->path);
    if (!fd_pwrite_all(transfer->fd, bytes.at, bytes.len, transfer->have, transfer->partial, &transfer->err))
        return false;
    if (transfer->have / PUSH_BYTES != (transfer->have + bytes.len) / PUSH_BYTES)
        fd_push(transfer->fd, transfer->have / PUSH_BYTES * PUSH_BYTES, PUSH_BYTES);
    transfer->have += bytes.len;
    return note_done(transfer->crew, (int64_t)bytes.len) || stopped(transfer, &transfer->err);
}

/* What is still missing. */
static bool get_rest(struct transfer *transfer, struct err *err)
{
    char range[32];
    const struct http_form_field header = {"Range", range};
    struct http_client_request request = {
        .headers = &header, .header_count = transfer->have > 0, .on_bytes = on_bytes, .context = transfer};
    const char *path =
        arena_printf(&transfer->arena, "/%s/resolve/%s/%s", transfer->reader.repo, transfer->crew->transfers->commit,
                     hub_name_encode(&transfer->arena, str_of(transfer->file->path), true));
    bool ok;

    snprintf(range, sizeof range, "bytes=%llu-", (unsigned long long)transfer->have);
    transfer->err = (struct err){0};
    transfer->has_begun = false;
    ok = hub_get(&transfer->reader, path, &request, &transfer->answer, err);
    if (!ok && transfer->err.code)
        *err = transfer->err;
    if (ok && transfer->have < transfer->file->bytes)
        ok = err_set(err, ERR_IO, "%s: %s ended early", transfer->reader.repo, transfer->file->path);
    http_client_answer_deinit(&transfer->answer);
    transfer->answer = (struct http_client_answer){0};
    return ok;
}

static bool may_work_later(const struct err *err)
{
    return err->code == ERR_IO || err->code == ERR_TIMEOUT;
}

/* Until all is there; a try that brought bytes is not one that failed. */
static bool get_all(struct transfer *transfer, struct err *err)
{
    const int64_t retry_ms = transfer->crew->transfers->retry_ms ? transfer->crew->transfers->retry_ms : RETRY_MS;
    int failures = 0;

    while (transfer->have < transfer->file->bytes) {
        const uint64_t before = transfer->have;
        int64_t pause_ms;

        if (is_stopped(transfer->crew))
            return stopped(transfer, err);
        if (get_rest(transfer, err))
            break;
        failures = transfer->have > before ? 1 : failures + 1;
        if (!may_work_later(err) || failures == TRIES)
            return false;
        pause_ms = retry_ms << (failures - 1);
        if (!wait_ms(transfer, pause_ms > transfer->reader.wait_ms ? pause_ms : transfer->reader.wait_ms, err))
            return false;
    }
    return true;
}

/* --- a file --- */

static bool go_on(void *context)
{
    return !is_stopped(context);
}

/* Whether the content is what the list promises. False with err only when it could not be read. */
static bool check_content(struct transfer *transfer, bool *is_right, struct err *err)
{
    struct mapped_file content = {0};
    char hex[65];
    uint64_t bytes;

    if (transfer->file->is_large) {
        if (!file_sha256(transfer->partial, &bytes, hex, go_on, transfer->crew, err))
            return false;
    } else {
        if (!file_map(&content, transfer->partial, err))
            return false;
        git_blob_hex((struct str){content.data, content.bytes}, hex);
        file_unmap(&content);
    }
    *is_right = strcmp(hex, transfer->file->blob) == 0;
    return true;
}

/* A partial file that an earlier transfer left may be spoilt: once it is fetched anew from its beginning. */
static bool get_checked(struct transfer *transfer, struct err *err)
{
    bool is_right = false;

    for (int tries = 0; tries < 2; tries++) {
        if (tries > 0 && !drop_all(transfer, err))
            return false;
        if (!get_all(transfer, err) || !check_content(transfer, &is_right, err))
            return false;
        if (is_right)
            return fd_sync(transfer->fd, transfer->partial, err) && file_rename(transfer->partial, transfer->blob, err);
    }
    return err_set(err, ERR_INPUT, "%s: what came for %s does not have the hash that its list has",
                   transfer->reader.repo, transfer->file->path);
}

static bool is_whole(const struct transfer *transfer)
{
    uint64_t bytes;

    return file_exists(transfer->blob) && file_size(transfer->blob, &bytes, NULL) && bytes == transfer->file->bytes;
}

static bool resume(struct transfer *transfer, struct err *err)
{
    uint64_t bytes = 0;

    if (file_exists(transfer->partial) && !file_size(transfer->partial, &bytes, err))
        return false;
    transfer->fd = file_open_update(transfer->partial, err);
    if (transfer->fd < 0)
        return false;
    if (bytes > transfer->file->bytes) {
        if (!fd_cut(transfer->fd, 0, transfer->partial, err))
            return false;
        bytes = 0;
    }
    transfer->have = bytes;
    note_done(transfer->crew, (int64_t)bytes);
    return true;
}

/* The lock is also that of the Hub's own client: who comes second finds the file. */
static int take_lock(struct transfer *transfer, const char *path, struct err *err)
{
    int fd;

    while ((fd = file_lock(path, err)) < 0 && err->code == ERR_CONFLICT)
        if (is_stopped(transfer->crew)) {
            stopped(transfer, err);
            break;
        }
    return fd;
}

static bool make_folders(struct transfer *transfer, const char *lock, struct err *err)
{
    const char *blob = transfer->blob;

    return dir_make(arena_printf(&transfer->arena, "%.*s", (int)(strrchr(blob, '/') - blob), blob), err) &&
           dir_make(arena_printf(&transfer->arena, "%.*s", (int)(strrchr(lock, '/') - lock), lock), err);
}

/* A disk that is full is so for everybody: what another try would go on with is worth less than room. Under the file's
 * lock. */
static void give_room_back(struct transfer *transfer, const struct err *problem)
{
    struct crew *crew = transfer->crew;
    bool is_full;

    pthread_mutex_lock(&crew->lock);
    is_full = problem->code == ERR_NO_SPACE || crew->err.code == ERR_NO_SPACE;
    pthread_mutex_unlock(&crew->lock);
    if (is_full && crew->transfers->gives_room_back)
        file_remove(transfer->partial, NULL);
}

static bool fetch(struct transfer *transfer, struct err *err)
{
    const char *cache = transfer->crew->transfers->cache, *repo = transfer->reader.repo;
    const char *lock = hub_cache_lock(&transfer->arena, cache, repo, transfer->file->blob);
    int lock_fd = -1;
    bool ok;

    transfer->blob = hub_cache_blob(&transfer->arena, cache, repo, transfer->file->blob);
    transfer->partial = arena_printf(&transfer->arena, "%s.incomplete", transfer->blob);
    if (!is_whole(transfer) && (!make_folders(transfer, lock, err) || (lock_fd = take_lock(transfer, lock, err)) < 0))
        return false;
    if (is_whole(transfer)) {
        note_done(transfer->crew, (int64_t)transfer->file->bytes);
        ok = true;
    } else {
        ok = resume(transfer, err) && get_checked(transfer, err);
        if (!ok)
            give_room_back(transfer, err);
    }
    fd_close(&lock_fd);
    return ok;
}

/* --- all of them --- */

static void run_one(void *context, int task, int thread)
{
    struct crew *crew = context;
    struct transfer transfer = {
        .crew = crew, .reader = *crew->transfers->reader, .file = crew->transfers->files[task], .fd = -1};
    struct err err = {0};

    transfer.reader.arena = &transfer.arena;
    if (!is_stopped(crew) && !fetch(&transfer, &err)) {
        pthread_mutex_lock(&crew->lock);
        if (!crew->err.code)
            crew->err = err;
        crew->is_stopped = true;
        pthread_mutex_unlock(&crew->lock);
    }
    fd_close(&transfer.fd);
    arena_deinit(&transfer.arena);
}

bool hub_transfers_run(const struct hub_transfers *transfers, struct err *err)
{
    struct crew crew = {.transfers = transfers, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct pool *pool = pool_new(transfers->threads < transfers->count ? transfers->threads : transfers->count);

    for (int i = 0; i < transfers->count; i++)
        crew.bytes += transfers->files[i]->bytes;
    pool_run(pool, transfers->count, run_one, &crew);
    pool_free(pool);
    if (!crew.is_stopped && transfers->on_progress)
        transfers->on_progress(transfers->context, crew.done, crew.bytes);
    if (crew.err.code)
        *err = crew.err;
    else if (crew.is_stopped)
        err_set(err, ERR_CANCELLED, "the download of %s was stopped", transfers->reader->repo);
    pthread_mutex_destroy(&crew.lock);
    return !crew.is_stopped;
}

uint64_t hub_file_present(struct arena *arena, const char *cache, const char *repo, const struct hub_file *file)
{
    const char *blob = hub_cache_blob(arena, cache, repo, file->blob), *partial;
    uint64_t bytes = 0;

    if (file_exists(blob) && file_size(blob, &bytes, NULL) && bytes == file->bytes)
        return bytes;
    partial = arena_printf(arena, "%s.incomplete", blob);
    if (!file_exists(partial) || !file_size(partial, &bytes, NULL) || bytes > file->bytes)
        return 0;
    return bytes;
}
