/* Checkpoints on their way out: they were marked, and their models and files taken from everybody's sight, in the
 * transaction that stored a newer one, or when somebody deleted them. What is left is to remove bytes, then the row; a
 * crash in between repeats it at the next start. The bytes go in the background, one part of all such checkpoints at a
 * time. */
#include "job/manager_int.h"

#include "base/json.h"
#include "os/background.h"
#include "os/file.h"

#include <stdlib.h>

static bool remove_blobs(struct job_manager *manager, struct arena *arena, const char *ids_json, struct err *err)
{
    const struct json *ids = json_parse(arena, str_of(ids_json), NULL, err);
    bool ok = ids != NULL;

    json_each(id, ids)
        ok = ok && blob_remove(manager->config.blobs, str_copy(arena, json_string_or(id, STR(""))), err);
    return ok;
}

struct retiring {
    struct background_task task;
    struct job_manager *manager;
    struct arena arena;
    struct store_leaving_list list;
    size_t removed; /* the first so many are gone from the disk */
    struct err err;
};

static bool remove_one(struct retiring *retiring, const struct store_leaving *checkpoint)
{
    struct job_manager *manager = retiring->manager;

    return remove_blobs(manager, &retiring->arena, checkpoint->result_files_json, &retiring->err) &&
           dir_remove(rundir_place(&retiring->arena, manager->data_dir, checkpoint->job_id, checkpoint->path),
                      &retiring->err);
}

static void run(void *context)
{
    struct retiring *retiring = context;

    while (retiring->removed < retiring->list.count && remove_one(retiring, &retiring->list.at[retiring->removed]))
        retiring->removed++;
}

static void retiring_free(struct retiring *retiring)
{
    arena_deinit(&retiring->arena);
    free(retiring);
}

static void done(void *context)
{
    struct retiring *retiring = context;
    struct job_manager *manager = retiring->manager;
    struct err *err = &retiring->err;
    bool is_wanted = manager->is_retire_wanted;

    for (size_t i = 0; i < retiring->removed; i++)
        if (!store_queue_left(manager->config.store, retiring->list.at[i].id, err))
            break;
    if (err->code)
        manager_complain("all", "removing a checkpoint that is not kept", err);
    manager->is_retiring = manager->is_retire_wanted = false;
    if (is_wanted || (!err->code && retiring->list.count > 0))
        manager_retire(manager, NULL);
    retiring_free(retiring);
}

void manager_retire(struct job_manager *manager, const char *job_id)
{
    struct retiring *retiring;

    if (manager->is_retiring) {
        manager->is_retire_wanted = true;
        return;
    }
    retiring = mem_alloc_zero(1, sizeof *retiring);
    retiring->task = (struct background_task){run, done, retiring, NULL};
    retiring->manager = manager;
    if (!store_queue_leaving(manager->config.store, job_id, &retiring->arena, &retiring->list, &retiring->err))
        manager_complain(job_id ? job_id : "all", "removing a checkpoint that is not kept", &retiring->err);
    if (retiring->list.count > 0) {
        manager->is_retiring = true;
        background_add(manager->config.background, &retiring->task);
    } else {
        retiring_free(retiring);
    }
}

bool job_discard_checkpoint(struct job_manager *manager, const struct tenant *tenant, const char *id,
                            const char *checkpoint_id, struct err *err)
{
    if (!store_queue_discard(manager->config.store, tenant, id, checkpoint_id, err))
        return false;
    manager_retire(manager, NULL);
    return true;
}
