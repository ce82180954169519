#include "job/backup.h"

#include "base/json.h"
#include "job/doctor.h"
#include "job/rundir.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BACKUP_FORMAT = 1, PASSES_MAX = 20, MANIFEST_BYTES_MAX = 1 << 16, TREE_DEPTH_MAX = 8 };

struct backup {
    struct arena arena;
    const char *from, *to; /* to: under its temporary name */
    const char *previous;  /* the newest one that is there; NULL: none */
    bool independent, is_missing;
    struct backup_report *report;
};

/* What is written in place and grows; everything else has its content when it has its name. */
static bool is_mutable(const char *name)
{
    static const char *const names[] = {"events.jsonl", "heartbeat", "log.txt", "control", "exit.json", "receipt.json"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return str_starts(str_of(name), STR("events.out.tfevents.")); /* TensorBoard's, which the trainer appends to */
}

static void count(struct backup *b, uint64_t bytes, bool is_copied)
{
    b->report->files++;
    b->report->bytes += (int64_t)bytes;
    b->report->copied_bytes += is_copied ? (int64_t)bytes : 0;
}

/* An earlier backup's, when that has it. */
static bool share_with_previous(struct backup *b, const char *name, uint64_t bytes, const char *to)
{
    const char *path = b->previous ? path_join(&b->arena, b->previous, name) : NULL;
    uint64_t found;

    return path && file_size(path, &found, NULL) && found == bytes && file_link(path, to, NULL);
}

/* One file by its name in the data folder; what is not there (any more) is noted. */
static bool take_file(struct backup *b, const char *name, bool must_copy, struct err *err)
{
    const char *from = path_join(&b->arena, b->from, name), *to = path_join(&b->arena, b->to, name);
    struct err problem = {0};
    uint64_t bytes;
    bool ok;

    if (!must_copy && file_exists(to))
        return true;
    if (!file_size(from, &bytes, &problem)) {
        b->is_missing = true;
        return problem.code == ERR_NOT_FOUND || err_set(err, problem.code, "%s", problem.text);
    }
    if (!must_copy && share_with_previous(b, name, bytes, to)) {
        count(b, bytes, false);
        return true;
    }
    ok = must_copy || b->independent ? file_copy(from, to, &problem) : file_link(from, to, &problem);
    if (ok) {
        count(b, bytes, must_copy || b->independent);
        return true;
    }
    b->is_missing = true;
    return problem.code == ERR_NOT_FOUND || err_set(err, problem.code, "%s", problem.text);
}

/* A folder with everything in it but what is unfinished. What disappears meanwhile is the caller's to miss. */
static bool take_tree(struct backup *b, const char *name, int depth, struct err *err)
{
    const char *from = path_join(&b->arena, b->from, name);
    char **names;
    size_t name_count;
    bool ok = true;

    if (!dir_exists(from))
        return true;
    if (depth > TREE_DEPTH_MAX)
        return err_set(err, ERR_LIMIT, "%s is nested too deeply", name);
    if (!dir_make(path_join(&b->arena, b->to, name), err) || !dir_list(&b->arena, from, &names, &name_count, err))
        return false;
    for (size_t i = 0; ok && i < name_count; i++) {
        const char *entry = path_join(&b->arena, name, names[i]);
        const char *path = path_join(&b->arena, b->from, entry);

        if (str_find(str_of(names[i]), STR(".tmp"), 0) >= 0)
            continue;
        if (dir_exists(path))
            ok = take_tree(b, entry, depth + 1, err);
        else if (file_exists(path) && !(is_mutable(names[i]) && depth == 2)) /* those of attempts were taken before */
            ok = take_file(b, entry, is_mutable(names[i]), err);
    }
    return ok;
}

/* In this order an end that is copied has all its events, and an event that is copied all that it tells of. */
static bool take_attempt(struct backup *b, const char *name, struct err *err)
{
    static const char *const first[] = {"exit.json", "events.jsonl", "heartbeat", "log.txt"};

    if (!dir_make(path_join(&b->arena, b->to, name), err))
        return false;
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        const char *file = path_join(&b->arena, name, first[i]);

        if (file_exists(path_join(&b->arena, b->from, file)) && !take_file(b, file, true, err))
            return false;
    }
    return take_tree(b, name, 2, err);
}

/* Recovery points that went while they were copied are of no use. */
static bool drop_halves(struct backup *b, const char *attempt, struct err *err)
{
    const char *name = path_join(&b->arena, attempt, "recovery"), *to = path_join(&b->arena, b->to, name);
    char **names;
    size_t name_count;

    if (!dir_exists(to))
        return true;
    if (!dir_list(&b->arena, to, &names, &name_count, err))
        return false;
    for (size_t i = 0; i < name_count; i++)
        if (!dir_exists(path_join(&b->arena, path_join(&b->arena, b->from, name), names[i])) &&
            !dir_remove(path_join(&b->arena, to, names[i]), err))
            return false;
    return true;
}

static bool take_run(struct backup *b, const char *job_id, struct err *err)
{
    const char *run = path_join(&b->arena, "runs", job_id), *attempts = path_join(&b->arena, run, "attempts");
    const char *folder = path_join(&b->arena, b->from, attempts);
    char **names;
    size_t name_count = 0;
    bool was_missing = b->is_missing;

    if (dir_exists(folder) && !dir_list(&b->arena, folder, &names, &name_count, err))
        return false;
    for (size_t i = 0; i < name_count; i++) {
        const char *attempt = path_join(&b->arena, attempts, names[i]);

        if (!take_attempt(b, attempt, err) || !drop_halves(b, attempt, err))
            return false;
    }
    if (!take_tree(b, run, 0, err))
        return false;
    b->is_missing = was_missing; /* the database names the checkpoints, not the rest */
    return true;
}

/* It was taken with its run directory, unless it had gone by then. */
static void check_checkpoint(struct backup *b, const struct stored *stored)
{
    const char *path = rundir_place(&b->arena, b->to, stored->job_id, stored->path);

    if (!file_exists(path_join(&b->arena, path, "MANIFEST")))
        b->is_missing = true;
}

static bool take_stored(struct backup *b, const struct stored *stored, struct err *err)
{
    switch (stored->kind) {
    case STORED_FILE:
    case STORED_PART:
        return take_file(b, path_join(&b->arena, "files", stored->id), false, err);
    case STORED_JOB:
        return take_run(b, stored->id, err);
    case STORED_CHECKPOINT:
        check_checkpoint(b, stored);
        return true;
    }
    return true;
}

/* The database and all that it names, unless something of that had gone. */
static bool take_all(struct backup *b, struct err *err)
{
    struct stored_list list;
    struct store *store;
    bool ok;

    b->is_missing = false;
    if (!store_copy(b->from, b->to, err))
        return false;
    store = store_open_to_read(b->to, err);
    ok = store && store_list_stored(store, &b->arena, &list, err);
    store_close(store);
    for (size_t i = 0; ok && i < list.count; i++)
        ok = take_stored(b, &list.at[i], err);
    return ok;
}

static bool take_until_whole(struct backup *b, struct err *err)
{
    if (!dir_make(path_join(&b->arena, b->to, "files"), err) || !dir_make(path_join(&b->arena, b->to, "runs"), err))
        return false;
    for (int i = 0; i < PASSES_MAX; i++) {
        if (!take_all(b, err))
            return false;
        if (!b->is_missing)
            return true;
    }
    return err_set(err, ERR_CONFLICT, "files were deleted faster than they could be copied: try again");
}

static bool write_manifest(struct backup *b, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text, .indent = 1};
    char sha256[65];
    uint64_t bytes;
    bool ok = file_sha256(path_join(&b->arena, b->to, "attune.db"), &bytes, sha256, NULL, NULL, err);

    json_write_begin_object(&w);
    json_put_integer(&w, "format", BACKUP_FORMAT);
    json_put_text(&w, "kind", "backup");
    json_put_text(&w, "version", ATTUNE_VERSION);
    json_put_integer(&w, "created", clock_unix_ms());
    json_put_text(&w, "database_sha256", sha256);
    json_put_integer(&w, "files", b->report->files);
    json_put_integer(&w, "bytes", b->report->bytes);
    json_write_end_object(&w);
    strbuf_add_char(&text, '\n');
    ok = ok && file_replace(path_join(&b->arena, b->to, "MANIFEST"), strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

/* The newest complete backup; what an interrupted one left goes. */
static bool look_around(struct backup *b, const char *to, struct err *err)
{
    char **names;
    size_t name_count;

    if (!dir_list(&b->arena, to, &names, &name_count, err))
        return false;
    for (size_t i = 0; i < name_count; i++) {
        const char *path = path_join(&b->arena, to, names[i]);

        if (str_ends(str_of(names[i]), STR("Z.tmp")) && !dir_remove(path, err))
            return false;
        if (str_ends(str_of(names[i]), STR("Z")) && file_exists(path_join(&b->arena, path, "MANIFEST")))
            b->previous = path;
    }
    return true;
}

static const char *name_now(struct arena *arena, const char *to)
{
    char name[40];
    struct tm utc;
    time_t now = (time_t)clock_unix();

    do { /* two within a second get two names */
        gmtime_r(&now, &utc);
        strftime(name, sizeof name, "%Y-%m-%dT%H-%M-%SZ", &utc);
        now++;
    } while (dir_exists(path_join(arena, to, name)));
    return path_join(arena, to, arena_printf(arena, "%s", name));
}

static bool make_in(struct backup *b, const char *to, struct err *err)
{
    const char *path;

    if (!look_around(b, to, err))
        return false;
    path = name_now(&b->arena, to);
    b->to = arena_printf(&b->arena, "%s.tmp", path);
    snprintf(b->report->path, sizeof b->report->path, "%s", path);
    if (take_until_whole(b, err) && write_manifest(b, err) && disk_sync(b->to, err) && file_rename(b->to, path, err))
        return true;
    dir_remove(b->to, NULL);
    return false;
}

bool backup_make(const char *data_dir, const char *to, bool independent, struct backup_report *report, struct err *err)
{
    struct backup b = {.independent = independent, .report = report};
    int lock_fd = -1;
    bool ok = false;

    *report = (struct backup_report){0};
    b.from = path_absolute(&b.arena, data_dir, err);
    if (!b.from || !dir_make(to, err))
        goto out;
    to = path_absolute(&b.arena, to, err);
    if (!to)
        goto out;
    if (str_starts(str_of(arena_printf(&b.arena, "%s/", to)), str_of(arena_printf(&b.arena, "%s/", b.from)))) {
        err_set(err, ERR_INPUT, "a backup must lie outside of the data folder");
        goto out;
    }
    lock_fd = file_lock(path_join(&b.arena, to, "lock"), err);
    ok = lock_fd >= 0 && make_in(&b, to, err);
out:
    fd_close(&lock_fd);
    arena_deinit(&b.arena);
    return ok;
}

static bool database_is(struct arena *arena, const char *path, struct err *err)
{
    const struct json *manifest;
    struct str text;
    char sha256[65];
    uint64_t bytes;

    if (!file_read(arena, path_join(arena, path, "MANIFEST"), MANIFEST_BYTES_MAX, &text, err))
        return err_prefix(err, "not a backup");
    manifest = json_parse(arena, text, NULL, err);
    if (!manifest)
        return false;
    if (json_integer_or(json_get(manifest, "format"), 0) != BACKUP_FORMAT ||
        !json_is(json_get(manifest, "kind"), "backup"))
        return err_set(err, ERR_INPUT, "%s: MANIFEST is not that of a backup of format %d", path, BACKUP_FORMAT);
    if (!file_sha256(path_join(arena, path, "attune.db"), &bytes, sha256, NULL, NULL, err))
        return false;
    return json_is(json_get(manifest, "database_sha256"), sha256) ||
           err_set(err, ERR_INPUT, "%s: the database is not the one that was copied (has a server been started on it?)",
                   path);
}

bool backup_verify(const char *path, bool with_hashes, struct err *err)
{
    struct arena arena = {0};
    struct findings findings;
    bool ok = database_is(&arena, path, err) && doctor_examine(path, with_hashes, &arena, &findings, err);

    for (size_t i = 0; ok && i < findings.count; i++) {
        bool is_extra = strncmp(findings.at[i].what, "bytes belong", 12) ==
                        0; /* deleted while it was made: the server collects it */

        ok = is_extra || err_set(err, ERR_INPUT, "%s: %s", findings.at[i].what, findings.at[i].id);
    }
    arena_deinit(&arena);
    return ok;
}
