/* Checkpoints on their way out: they were marked, and their models and files taken from everybody's sight, in the transaction
 * that stored a newer one. What is left is to remove bytes, then the row; a crash in between repeats it at the next start. */
#include "job/manager_int.h"

#include "base/json.h"
#include "os/file.h"

static bool remove_blobs(struct job_manager *manager, struct arena *arena, const char *ids_json, struct err *err)
{
    const struct json *ids = json_parse(arena, str_of(ids_json), NULL, err);
    bool ok = ids != NULL;

    for json_each (id, ids)
        ok = ok && blob_remove(manager->config.blobs, str_copy(arena, json_string_or(id, STR(""))), err);
    return ok;
}

static bool remove_one(struct job_manager *manager, struct arena *arena, const struct store_leaving *checkpoint,
                       struct err *err)
{
    return remove_blobs(manager, arena, checkpoint->result_files_json, err) &&
           dir_remove(rundir_place(arena, manager->data_dir, checkpoint->job_id, checkpoint->path), err) &&
           store_queue_left(manager->config.store, checkpoint->id, err);
}

void manager_retire(struct job_manager *manager, const char *job_id)
{
    struct store_leaving_list list = {.count = 1};
    struct arena arena = {0};
    struct err err = {0};
    bool ok = true;

    while (ok && list.count > 0) {
        ok = store_queue_leaving(manager->config.store, job_id, &arena, &list, &err);
        for (size_t i = 0; ok && i < list.count; i++)
            ok = remove_one(manager, &arena, &list.at[i], &err);
    }
    if (!ok)
        manager_complain(job_id ? job_id : "all", "removing a checkpoint that is not kept", &err);
    arena_deinit(&arena);
}
