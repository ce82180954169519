/* What an ended job leaves and nobody needs: recovery points, files that were not finished. They may be large, so they
 * go in the background. */
#include "job/manager_int.h"

#include "os/background.h"

#include <stdlib.h>

struct cleaning {
    struct background_task task;
    struct job_manager *manager;
    struct arena arena;
    const char *job_id, *run_dir;
    struct store_texts kept;
    struct err err;
};

static void run(void *context)
{
    struct cleaning *cleaning = context;

    rundir_clean(cleaning->run_dir, &cleaning->kept, &cleaning->err);
}

static void cleaning_free(struct cleaning *cleaning)
{
    arena_deinit(&cleaning->arena);
    free(cleaning);
}

static void done(void *context)
{
    struct cleaning *cleaning = context;

    if (!cleaning->err.code)
        store_queue_cleaned(cleaning->manager->config.store, cleaning->job_id, &cleaning->err);
    if (cleaning->err.code)
        manager_complain(cleaning->job_id, "cleaning its run directory", &cleaning->err);
    cleaning_free(cleaning);
}

void manager_clean(struct job_manager *manager, const char *job_id)
{
    struct cleaning *cleaning = mem_alloc_zero(1, sizeof *cleaning);
    struct err err = {0};

    cleaning->task = (struct background_task){run, done, cleaning, NULL};
    cleaning->manager = manager;
    cleaning->job_id = arena_printf(&cleaning->arena, "%s", job_id);
    cleaning->run_dir = rundir_path(&cleaning->arena, manager->data_dir, job_id);
    if (store_queue_checkpoint_paths(manager->config.store, job_id, &cleaning->arena, &cleaning->kept, &err)) {
        background_add(manager->config.background, &cleaning->task);
        return;
    }
    manager_complain(job_id, "cleaning its run directory", &err);
    cleaning_free(cleaning);
}
