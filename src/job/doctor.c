#include "job/doctor.h"

#include "base/json.h"
#include "job/rundir.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/inspect.h"

#include <stdlib.h>
#include <string.h>

enum { MANIFEST_BYTES_MAX = 4 << 20, SECOND_LOOK_MS = 1500 };

struct exam {
    const char *data_dir;
    bool with_hashes;
    struct arena *arena;
    struct findings *findings;
};

static void tell(void *context, const char *what, const char *id)
{
    struct exam *exam = context;
    struct findings *findings = exam->findings;

    if (findings->count == findings->cap) {
        struct finding *more = arena_new_array(exam->arena, struct finding, findings->cap * 2 + 16);

        if (findings->count)
            memcpy(more, findings->at, findings->count * sizeof *more);
        findings->at = more;
        findings->cap = findings->cap * 2 + 16;
    }
    findings->at[findings->count++] =
        (struct finding){arena_printf(exam->arena, "%s", what), arena_printf(exam->arena, "%s", id ? id : "")};
}

/* False: not there, or not what was said of it. sha256 NULL: not known. */
static bool file_is(struct exam *exam, const char *path, int64_t bytes, const char *sha256)
{
    uint64_t found;
    char hex[65];

    if (!file_size(path, &found, NULL) || (int64_t)found != bytes)
        return false;
    return !exam->with_hashes || !sha256 ||
           (file_sha256(path, &found, hex, NULL, NULL, NULL) && strcmp(hex, sha256) == 0);
}

static void check_checkpoint(struct exam *exam, const struct stored *stored)
{
    struct arena arena = {0};
    const char *folder = rundir_place(&arena, exam->data_dir, stored->job_id, stored->path);
    const struct json *manifest = NULL, *files;
    struct str text;

    if (file_read(&arena, path_join(&arena, folder, "MANIFEST"), MANIFEST_BYTES_MAX, &text, NULL))
        manifest = json_parse(&arena, text, NULL, NULL);
    files = json_get(manifest, "files");
    if (!json_has_type(files, JSON_ARRAY) || files->count == 0)
        tell(exam, "a checkpoint has no folder with a MANIFEST", stored->id);
    json_each(file, files) {
        const char *name = str_copy(&arena, json_string_or(json_get(file, "name"), STR("")));

        if (!file_is(exam, path_join(&arena, folder, name), json_integer_or(json_get(file, "bytes"), -1),
                     str_copy(&arena, json_string_or(json_get(file, "sha256"), STR("")))))
            tell(exam, "a file of a checkpoint is not what its MANIFEST says",
                 arena_printf(&arena, "%s %s", stored->id, name));
    }
    arena_deinit(&arena);
}

static void check_job(struct exam *exam, const struct stored *stored)
{
    struct arena arena = {0};
    const char *run_dir = arena_printf(&arena, "%s/runs/%s", exam->data_dir, stored->id);
    const char *attempts = path_join(&arena, run_dir, "attempts");
    char **names;
    size_t count = 0;

    if (!file_exists(path_join(&arena, run_dir, "job.json")))
        tell(exam, "a job has no run directory", stored->id);
    if (stored->is_clean && !dir_list(&arena, attempts, &names, &count, NULL))
        count = 0;
    for (size_t i = 0; i < count; i++)
        if (dir_exists(arena_printf(&arena, "%s/%s/recovery", attempts, names[i])))
            tell(exam, "an ended job has recovery points", stored->id);
    arena_deinit(&arena);
}

static void check_stored(struct exam *exam, const struct stored *stored)
{
    const char *path = arena_printf(exam->arena, "%s/files/%s", exam->data_dir, stored->id);

    switch (stored->kind) {
    case STORED_FILE:
    case STORED_PART:
        if (!file_is(exam, path, stored->bytes, stored->sha256))
            tell(exam, "a file's bytes are not there or not what its row says", stored->id);
        break;
    case STORED_JOB:
        check_job(exam, stored);
        break;
    case STORED_CHECKPOINT:
        check_checkpoint(exam, stored);
        break;
    }
}

static int by_id(const void *a, const void *b)
{
    return strcmp((*(const struct stored *const *)a)->id, (*(const struct stored *const *)b)->id);
}

/* Every name in the folder must be some row's id. */
static bool check_folder(struct exam *exam, const char *folder, const char *what, const struct stored **sorted,
                         size_t count, struct err *err)
{
    const char *path = path_join(exam->arena, exam->data_dir, folder);
    size_t name_count;
    char **names;

    if (!dir_exists(path))
        return true;
    if (!dir_list(exam->arena, path, &names, &name_count, err))
        return false;
    for (size_t i = 0; i < name_count; i++) {
        const struct stored wanted = {.id = names[i]}, *key = &wanted;

        if (!bsearch(&key, sorted, count, sizeof *sorted, by_id))
            tell(exam, what, names[i]);
    }
    return true;
}

static bool look(struct exam *exam, struct err *err)
{
    struct store *store = store_open_to_read(exam->data_dir, err);
    const struct stored **sorted;
    struct stored_list list;
    bool ok = store && store_check_rows(store, tell, exam, err) && store_list_stored(store, exam->arena, &list, err);

    store_close(store);
    if (!ok)
        return false;
    sorted = arena_new_array(exam->arena, const struct stored *, list.count + 1);
    for (size_t i = 0; i < list.count; i++) {
        sorted[i] = &list.at[i];
        check_stored(exam, &list.at[i]);
    }
    qsort(sorted, list.count, sizeof *sorted, by_id);
    return check_folder(exam, "files", "bytes belong to no file", sorted, list.count, err) &&
           check_folder(exam, "runs", "a run directory belongs to no job", sorted, list.count, err);
}

static bool holds(const struct findings *findings, const struct finding *wanted)
{
    for (size_t i = 0; i < findings->count; i++)
        if (strcmp(findings->at[i].what, wanted->what) == 0 && strcmp(findings->at[i].id, wanted->id) == 0)
            return true;
    return false;
}

/* What only one of two looks found was on its way. */
static void keep_confirmed(struct findings *findings, const struct findings *second)
{
    size_t kept = 0;

    for (size_t i = 0; i < findings->count; i++)
        if (holds(second, &findings->at[i]))
            findings->at[kept++] = findings->at[i];
    findings->count = kept;
}

bool doctor_examine(const char *data_dir, bool with_hashes, struct arena *arena, struct findings *findings,
                    struct err *err)
{
    struct findings again = {0};
    struct exam first = {data_dir, with_hashes, arena, findings}, second = {data_dir, with_hashes, arena, &again};

    *findings = (struct findings){0};
    if (!look(&first, err))
        return false;
    if (findings->count == 0)
        return true;
    clock_sleep_ms(SECOND_LOOK_MS);
    if (!look(&second, err))
        return false;
    keep_confirmed(findings, &again);
    return true;
}
