#include "track/result.h"

#include "hub/name.h"
#include "job/rundir.h"
#include "os/file.h"

#include <stdio.h>

enum { MANIFEST_BYTES_MAX = 4 << 20 };

static void put_raw(struct json_writer *w, const char *key, const char *json)
{
    json_write_key(w, key);
    json_write_raw(w, str_of(json ? json : "null"));
}

/* The result's name may have been deleted meanwhile; then the job's own base is the best that is known. */
static const char *find_base(const struct result_place *place, struct arena *arena)
{
    const struct store_job *job = place->job;
    struct store_model model;

    if (job->fine_tuned_model &&
        store_model_get(place->store, place->tenant, job->fine_tuned_model, arena, &model, NULL))
        return model.base_model;
    return job->model;
}

bool result_write(struct json_writer *w, const struct result_place *place, struct arena *arena, struct err *err)
{
    const struct store_job *job = place->job;
    const struct store_page newest = {.limit = 1};
    struct store_checkpoint_list list = {0};

    if (job->state == JOB_STATE_succeeded &&
        !store_checkpoint_list(place->store, place->tenant, job->id, &newest, arena, &list, err))
        return false;
    if (list.count == 0) {
        json_write_null(w);
        return true;
    }
    json_write_begin_object(w);
    json_put_text(w, "folder", rundir_place(arena, place->data_dir, job->id, list.at[0].path));
    json_put_text(w, "run_dir", rundir_path(arena, place->data_dir, job->id));
    json_put_text(w, "base_model", find_base(place, arena));
    json_put_text(w, "base_path", job->model_path);
    put_raw(w, "metrics", list.at[0].metrics_json);
    json_write_end_object(w);
    return true;
}

/* --- for the sender --- */

static bool take_file(struct arena *arena, const char *folder, const struct json *entry, struct result_files *files,
                      struct err *err)
{
    struct str name = json_string_or(json_get(entry, "name"), STR_NONE),
               sha256 = json_string_or(json_get(entry, "sha256"), STR_NONE);
    struct result_file *file = &files->at[files->count];
    uint64_t bytes;

    if (files->count == RESULT_FILES_MAX || !hub_name_is_path(name) || !hub_name_is_sha256(sha256))
        return err_set(err, ERR_INPUT, "the checkpoint's MANIFEST is not one");
    *file = (struct result_file){.path = str_copy(arena, name)};
    file->place = path_join(arena, folder, file->path);
    file->bytes = (uint64_t)json_integer_or(json_get(entry, "bytes"), 0);
    snprintf(file->sha256, sizeof file->sha256, "%.*s", STR_ARG(sha256));
    if (!file_size(file->place, &bytes, NULL) || bytes != file->bytes)
        return err_set(err, ERR_NOT_FOUND, "%s of the checkpoint is not there as it was written", file->path);
    files->count++;
    return true;
}

bool result_list(struct arena *arena, const char *folder, struct result_files *files, struct err *err)
{
    const struct json *manifest;
    struct str text;
    bool ok = true;

    if (!file_read(arena, path_join(arena, folder, "MANIFEST"), MANIFEST_BYTES_MAX, &text, NULL) ||
        !(manifest = json_parse(arena, text, NULL, NULL)))
        return err_set(err, ERR_NOT_FOUND, "the checkpoint is not there any more");
    *files = (struct result_files){.at = arena_new_array(arena, struct result_file, RESULT_FILES_MAX)};
    files->is_adapter = json_is(json_get(manifest, "kind"), "lora");
    json_each(entry, json_get(manifest, "files"))
        ok = ok && take_file(arena, folder, entry, files, err);
    return ok;
}
