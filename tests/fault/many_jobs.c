/* many_jobs DIR COUNT: a data folder with that many jobs, each with its run directory, events, two checkpoints and
 * their files, made by the service's own code, which for once does not wait for the disk. Most have succeeded; of a
 * hundred, five have failed, four were cancelled and one is paused. For bench/startup.sh. */
#include "fault.h"
#include "job/rundir.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/queue.h"

#include <stdio.h>
#include <stdlib.h>

enum { STEPS = 20, CHECKPOINT_EVERY = 10, CHECKPOINTS = STEPS / CHECKPOINT_EVERY, FILES = 3 };

struct maker {
    const char *data_dir;
    struct store *store;
    struct blobs *blobs;
    struct tenant tenant;
    struct store_file training;
    struct err err;
};

/* Every call here must succeed. */
static void must(struct maker *m, bool ok)
{
    if (!ok)
        die("many_jobs: %s", m->err.text);
}

static void make_training_file(struct maker *m, struct arena *arena)
{
    struct blob_put *put = blob_put_begin(m->blobs, &m->err);
    char *id = arena_alloc(arena, STORE_ID_BYTES), *sha256 = arena_alloc(arena, 65);

    store_id_file(id);
    must(m, put && blob_put_add(put, "{}\n", 3, &m->err) && blob_put_commit(put, id, sha256, &m->err));
    m->training = (struct store_file){
        .id = id, .filename = "a.jsonl", .purpose = "fine-tune", .bytes = 3, .sha256 = sha256, .status = "processed"};
    must(m, store_file_create(m->store, &m->tenant, &m->training, &m->err));
}

static const char *queue_job(struct maker *m, struct arena *arena)
{
    char *id = arena_alloc(arena, STORE_ID_BYTES);
    struct rundir_job run = {.id = id, .model = "org/base", .model_path = "/models/org/base", .output_name = id,
                             .method = "supervised", .hyperparameters_json = "{}", .options_json = "{}",
                             .cache_dir = "/cache", .training_file = &m->training};
    struct store_job row = {.id = id,
                            .organization_id = m->tenant.organization_id,
                            .project_id = m->tenant.project_id,
                            .model = "org/base",
                            .model_path = "/models/org/base",
                            .output_name = id,
                            .training_file = m->training.id,
                            .hyperparameters_json = "{}",
                            .created_ms = clock_unix_ms()};

    store_id_job(id);
    must(m, rundir_create(rundir_path(arena, m->data_dir, id), &run, m->blobs, &m->err));
    must(m, store_queue_insert(m->store, &row, &m->err));
    return id;
}

static void start_job(struct maker *m, struct arena *arena, const char *id)
{
    struct store_process process = {.pid = 1, .start_time = 1, .boot_id = "another"};
    struct store_job job;
    bool found;

    must(m, store_queue_claim(m->store, id, "cpu", arena, &job, &found, &m->err));
    must(m, rundir_begin_attempt(rundir_path(arena, m->data_dir, id), 1, &m->err));
    must(m, store_queue_running(m->store, id, 1, &process, &m->err));
}

static void add_checkpoint(struct maker *m, struct arena *arena, const char *job_id, int64_t step,
                           struct store_checkpoint_commit *commit)
{
    const char *dir = arena_printf(arena, "%s/attempts/0001/checkpoints/step-%08lld",
                                   rundir_path(arena, m->data_dir, job_id), (long long)step);
    char *id = arena_alloc(arena, STORE_ID_BYTES);

    store_id_checkpoint(id);
    must(m, dir_make(dir, &m->err));
    *commit = (struct store_checkpoint_commit){
        .checkpoint = {.id = id, .job_id = job_id, .step = step, .model_name = id, .path = dir, .metrics_json = "{}",
                       .result_files_json = "[]"},
        .files = arena_new_array(arena, struct store_file, FILES),
        .file_count = FILES,
        .model = {.name = id, .job_id = job_id, .checkpoint_id = id, .kind = "full", .base_model = "org/base",
                  .base_path = "/models/org/base", .path = dir},
    };
    for (int i = 0; i < FILES; i++) {
        const char *path = arena_printf(arena, "%s/file-%d", dir, i);
        char *file_id = arena_alloc(arena, STORE_ID_BYTES);
        int fd = file_create(path, &m->err);

        store_id_file(file_id);
        must(m, fd >= 0 && fd_write_all(fd, "{}\n", 3, path, &m->err));
        fd_close(&fd);
        must(m, blob_link_from_path(m->blobs, file_id, path, &m->err));
        commit->files[i] = (struct store_file){.id = file_id,
                                               .filename = path_name(path),
                                               .purpose = "fine-tune-results",
                                               .bytes = 3,
                                               .status = "processed",
                                               .checkpoint_id = id};
    }
}

static void run_job(struct maker *m, struct arena *arena, const char *id)
{
    struct store_event events[STEPS];
    struct store_checkpoint_commit checkpoints[CHECKPOINTS];
    struct store_advance advance = {.id = id,
                                    .attempt = 1,
                                    .to_offset = 1,
                                    .events = events,
                                    .event_count = STEPS,
                                    .checkpoints = checkpoints,
                                    .checkpoint_count = CHECKPOINTS,
                                    .trained_steps = STEPS};

    for (int i = 0; i < STEPS; i++)
        events[i] = (struct store_event){.kind = "step", .code = "", .step = i + 1, .attempt = 1, .level = "info",
                                         .message = "Step 1/20: training loss=1.00", .type = "metrics",
                                         .data_json = "{\"step\":1,\"train_loss\":1.0}"};
    for (int i = 0; i < CHECKPOINTS; i++)
        add_checkpoint(m, arena, id, CHECKPOINT_EVERY * (i + 1), &checkpoints[i]);
    must(m, store_queue_advance(m->store, &advance, &m->err));
}

static void end_job(struct maker *m, const char *id, int64_t attempt, enum job_state to)
{
    struct store_move move = {.id = id, .attempt = attempt, .to = to, .level = "info", .code = job_state_name(to),
                              .message = "Job has ended"};

    must(m, store_queue_move(m->store, &move, &m->err) && store_queue_cleaned(m->store, id, &m->err));
}

static void make_job(struct maker *m, long number)
{
    struct arena arena = {0};
    const char *id = queue_job(m, &arena);
    long kind = number % 100;

    if (kind == 0) {
        must(m, store_queue_want(m->store, id, JOB_WANT_pause, "paused", "Job is paused", &m->err));
    } else if (kind < 5) {
        end_job(m, id, 0, JOB_STATE_cancelled);
    } else {
        start_job(m, &arena, id);
        run_job(m, &arena, id);
        end_job(m, id, 1, kind < 10 ? JOB_STATE_failed : JOB_STATE_succeeded);
    }
    arena_deinit(&arena);
}

int main(int argc, char **argv)
{
    struct maker m = {.tenant = tenant_default()};
    struct arena arena = {0};

    if (argc != 3)
        die("usage: many_jobs DIR COUNT");
    fault_set("call=fsync,fdatasync nth=1+ do=skip");
    m.store = store_open(argv[1], &m.err);
    must(&m, m.store);
    m.blobs = blobs_open(argv[1], &m.err);
    must(&m, m.blobs);
    m.data_dir = path_absolute(&arena, argv[1], &m.err);
    must(&m, m.data_dir && dir_make(path_join(&arena, m.data_dir, "runs"), &m.err));
    make_training_file(&m, &arena);
    for (long i = 0; i < atol(argv[2]); i++)
        make_job(&m, i);
    blobs_close(m.blobs);
    store_close(m.store);
    arena_deinit(&arena);
    return 0;
}
