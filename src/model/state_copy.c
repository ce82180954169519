#include "model/state_copy.h"

#include "compute/aside.h"
#include "model/checkpoint_int.h"
#include "model/memory.h"

#include "os/process.h"

#include <stdlib.h>

static const enum region_id copied[] = {REGION_MASTERS, REGION_MOMENT_M, REGION_MOMENT_V};
enum { COPIED = sizeof copied / sizeof copied[0], HOST_SHARE = 4 };

struct state_copy {
    struct model *model;
    const struct aside *aside;
    struct arena arena; /* of the entries */
    struct safetensors_entry *entry;
    int count, next;
    bool has_come; /* the copies are over */
    struct safetensors_writer writer;
    char *block, *at[COPIED];
};

static uint64_t bytes_of(const struct model *m)
{
    uint64_t bytes = 0;

    for (int i = 0; i < COPIED; i++)
        bytes += m->region_bytes[copied[i]];
    return bytes;
}

uint64_t state_copy_bytes(const struct plan *plan)
{
    return !plan->moments_on_host && host_has_room(plan->state_bytes, HOST_SHARE) ? plan->state_bytes : 0;
}

struct state_copy *state_copy_new(struct model *m)
{
    const struct aside *aside = device_aside(m->backend);
    struct state_copy *copy;
    char *block, *at;

    if (!aside || m->plan.moments_on_host || !host_has_room(bytes_of(m), HOST_SHARE))
        return NULL;
    at = block = m->memory->take_host(&m->queue, bytes_of(m));
    if (!block)
        return NULL;
    copy = mem_alloc_zero(1, sizeof *copy);
    copy->model = m;
    copy->aside = aside;
    copy->block = block;
    copy->count = state_entries(m, &copy->arena, &copy->entry);
    for (int i = 0; i < COPIED; i++) {
        copy->at[i] = at;
        at += m->region_bytes[copied[i]];
    }
    return copy;
}

bool state_copy_begin(struct state_copy *copy, const char *path, struct err *err)
{
    struct model *m = copy->model;

    copy->next = 0;
    copy->has_come = false;
    for (int i = 0; i < COPIED; i++)
        copy->aside->get(&m->queue, copy->at[i], m->region[copied[i]], m->region_bytes[copied[i]]);
    return safetensors_write_begin(&copy->writer, path, copy->entry, copy->count, err);
}

/* The matrix where it was copied to. */
static struct mat mat_of(const struct state_copy *copy, const struct safetensors_entry *entry)
{
    struct model *m = copy->model;
    struct mat mat = state_mat(m, entry);

    for (int i = 0; i < COPIED; i++) {
        const char *begin = m->region[copied[i]], *byte = mat.at;
        if (byte >= begin && byte < begin + m->region_bytes[copied[i]]) {
            mat.at = copy->at[i] + (byte - begin);
            return mat;
        }
    }
    return mat;
}

bool state_copy_write(struct state_copy *copy, struct err *err)
{
    struct model *m = copy->model;
    struct mat mat;

    ASSERT(copy->next < copy->count);
    if (!copy->has_come)
        copy->aside->wait(&m->queue);
    copy->has_come = true;
    mat = mat_of(copy, &copy->entry[copy->next++]);
    return write_rows(&copy->writer, mat.at, mat.type, mat.type, mat.rows, mat.cols, mat.ld, err);
}

void state_copy_hold(struct state_copy *copy)
{
    if (copy)
        copy->aside->hold(&copy->model->queue);
}

bool state_copy_is_device_busy(const struct state_copy *copy)
{
    return !copy->aside->is_idle(&copy->model->queue);
}

int state_copy_left(const struct state_copy *copy)
{
    return copy->count - copy->next;
}

bool state_copy_end(struct state_copy *copy, uint64_t *bytes, char sha256[65], struct err *err)
{
    return safetensors_write_end(&copy->writer, bytes, sha256, err);
}

void state_copy_abort(struct state_copy *copy)
{
    safetensors_write_abort(&copy->writer);
}

void state_copy_free(struct state_copy *copy)
{
    if (!copy)
        return;
    state_copy_abort(copy);
    copy->aside->wait(&copy->model->queue);
    copy->model->memory->give_host(&copy->model->queue, copy->block);
    arena_deinit(&copy->arena);
    free(copy);
}
