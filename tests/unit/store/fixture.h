/* tests/unit/store/fixture.h - a store in a folder of its own, two tenants, and rows to put into it. */
#pragma once

#include "test.h"

#include "os/file.h"
#include "store/projects.h"
#include "store/queue.h"

#include <string.h>

struct fixture {
    char dir[64];
    struct arena arena;
    struct store *store;
    struct tenant ours, theirs;
};

static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err err = {0};

    strcpy(f->dir, "/tmp/attune-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->store = store_open(f->dir, &err);
    assert_ok(f->store, err);
    f->ours = tenant_default();
    f->theirs = (struct tenant){"org-other", "proj-other"};
    assert_ok(store_project_create(f->store, &f->theirs, "Other", "Other project", "openai", NULL, &err), err);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->store);
    arena_deinit(&f->arena);
    dir_remove(f->dir, NULL);
    free(f);
    return 0;
}

static inline struct store_file make_file(struct fixture *f, const char *name)
{
    char *id = arena_alloc(&f->arena, STORE_ID_BYTES);

    store_id_file(id);
    return (struct store_file){
        .id = id, .filename = name, .purpose = "fine-tune", .bytes = 7, .status = "processed", .created_ms = 1000};
}

static inline struct store_job make_job(struct fixture *f, const struct tenant *tenant)
{
    char *id = arena_alloc(&f->arena, STORE_ID_BYTES);

    store_id_job(id);
    return (struct store_job){.id = id,
                              .organization_id = tenant->organization_id,
                              .project_id = tenant->project_id,
                              .model = "org/base",
                              .model_path = "/models/org/base",
                              .output_name = arena_printf(&f->arena, "ft:org/base:local::%s", id + 6),
                              .training_file = "file-1",
                              .hyperparameters_json = "{\"lora\":true}",
                              .created_ms = 1000};
}

static inline const char *add_job(struct fixture *f, const struct tenant *tenant)
{
    struct store_job job = make_job(f, tenant);
    struct err err = {0};

    assert_ok(store_queue_insert(f->store, &job, &err), err);
    return job.id;
}

static inline struct store_job get_job(struct fixture *f, const char *id)
{
    struct store_job job = {0};
    struct err err = {0};

    assert_ok(store_queue_get(f->store, id, &f->arena, &job, &err), err);
    return job;
}

/* Claimed and running as its next attempt. */
static inline void run_job(struct fixture *f, const char *id)
{
    struct store_process process = {.pid = 42, .start_time = 4242, .boot_id = "boot"};
    struct store_job job;
    struct err err = {0};
    bool found;

    assert_ok(store_queue_claim(f->store, id, "cpu", &f->arena, &job, &found, &err), err);
    assert_true(found);
    assert_ok(store_queue_running(f->store, id, job.attempt, &process, &err), err);
}
