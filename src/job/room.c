/* Room on the disk for jobs: promised before a start and held while they run (store/disk.h). A job that has to wait for
 * it is passed by others: unlike memory, disk does not come back when a job ends, so it could wait for ever. */
#include "job/manager_int.h"

#include "os/file.h"

#include <string.h>

enum { ROOM_RETRY_MS = 2000, ROOM_LOOK_MS = 10000 };

/* A plan is an upper bound, but what lies there meanwhile (a checkpoint under its temporary name, logs) is not all in
 * it. */
static int64_t with_margin(int64_t bytes)
{
    return bytes + bytes / 10;
}

static int64_t written_bytes(struct job_manager *manager, const char *job_id)
{
    static const char *const folders[] = {"attempts", "data", "reference"};
    struct arena arena = {0};
    const char *run_dir = rundir_path(&arena, manager->data_dir, job_id);
    int64_t sum = 0;

    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        uint64_t bytes;

        if (dir_bytes(path_join(&arena, run_dir, folders[i]), &bytes, NULL))
            sum += (int64_t)bytes;
    }
    arena_deinit(&arena);
    return sum;
}

bool room_can_ever_be(struct job_manager *manager, int64_t disk_bytes, struct err *err)
{
    const struct disk *disk = manager->config.disk;

    if (!disk || with_margin(disk_bytes) <= disk_capacity(disk))
        return true;
    return err_set(err, ERR_NO_SPACE,
                   "The job needs %lld MiB on disk for its checkpoints and recovery points, this server's disk gives "
                   "at most %lld MiB. Ask for fewer checkpoints (keep_checkpoints), or train an adapter (lora).",
                   (long long)(with_margin(disk_bytes) >> 20), (long long)(disk_capacity(disk) >> 20));
}

static void tell(struct job_manager *manager, const struct store_job *job, const char *code, const char *what,
                 const struct err *why)
{
    struct arena arena = {0};
    struct tenant tenant = {0};
    struct err err = {0};

    strncpy(tenant.organization_id, job->organization_id, sizeof tenant.organization_id - 1);
    strncpy(tenant.project_id, job->project_id, sizeof tenant.project_id - 1);
    if (!store_event_add(manager->config.store, &tenant, job->id, "warn", code,
                         arena_printf(&arena, "%s %s", what, why->text), NULL, &err))
        manager_complain(job->id, "telling that it waits for room", &err);
    else
        manager_changed(manager, &tenant, job->id);
    arena_deinit(&arena);
}

static bool promise(struct job_manager *manager, const struct store_job *job, struct err *err)
{
    return !manager->config.disk || job->disk_bytes == 0 ||
           disk_promise(manager->config.disk, job->id, with_margin(job->disk_bytes), written_bytes(manager, job->id),
                        err);
}

void room_hold(struct job_manager *manager, const struct store_job *job)
{
    struct err why = {0};

    if (!promise(manager, job, &why))
        tell(manager, job, "disk_is_short", "Job may have to wait for room on the disk before it has ended.", &why);
}

bool room_promise(struct job_manager *manager, const struct store_job *job)
{
    struct err why = {0};

    if (promise(manager, job, &why))
        return true;
    tell(manager, job, "waiting_for_disk", "Job waits for room on the disk.", &why);
    strbuf_printf(&manager->passed_over, "%s\"%s\"", manager->passed_over.len ? "," : "[", job->id);
    manager->room_retry_ms = manager_now_ms(manager) + ROOM_RETRY_MS;
    return false;
}

const char *room_passed_over(struct job_manager *manager, struct arena *arena)
{
    return manager->passed_over.len ? arena_printf(arena, "%s]", manager->passed_over.at) : NULL;
}

void room_look_again(struct job_manager *manager)
{
    strbuf_clear(&manager->passed_over);
    manager->room_retry_ms = 0;
}

void room_note(struct attempt *attempt, int64_t now_ms)
{
    struct job_manager *manager = attempt->manager;

    if (!manager->config.disk || now_ms < attempt->next_room_ms)
        return;
    attempt->next_room_ms = now_ms + ROOM_LOOK_MS;
    disk_note_written(manager->config.disk, attempt->job.id, written_bytes(manager, attempt->job.id));
}

void room_release(struct job_manager *manager, const char *job_id)
{
    if (manager->config.disk)
        disk_release(manager->config.disk, job_id);
}
