/* Recovery state: masters and moments of every trained param in one file. */
#include "model/checkpoint_int.h"
#include "model/memory.h"

#include <stdlib.h>
#include <string.h>

static const char kinds[] = "pmv";

static void *view_part(const struct param_view *view, char kind)
{
    return kind == 'p' ? view->master : kind == 'm' ? view->m : view->v;
}

static int make_entries(const struct model *m, struct arena *arena, struct safetensors_entry **entries)
{
    int count = 0;

    *entries = arena_new_array(arena, struct safetensors_entry, 3 * (size_t)m->params.count);
    for (int i = 0; i < m->params.count; i++) {
        const struct param *param = &m->params.param[i];
        for (int k = 0; param->is_trained && k < 3; k++) {
            struct safetensors_entry *entry = &(*entries)[count++];
            entry->name = arena_printf(arena, "%c.%s", kinds[k], param->name);
            entry->type = params_arena_type(&m->params, m->params.stored[param->stored].at);
            entry->rank = param->is_vector ? 1 : 2;
            entry->shape[0] = (uint64_t)(param->is_vector ? param->cols : param->rows);
            entry->shape[1] = (uint64_t)param->cols;
            entry->context = (void *)(uintptr_t)param;
        }
    }
    return count;
}

static struct param_view entry_view(struct model *m, const struct safetensors_entry *entry)
{
    return model_param_view(m, (int)((const struct param *)entry->context - m->params.param));
}

uint64_t checkpoint_state_bytes(const struct model *m)
{
    struct safetensors_entry *entries;
    struct arena arena = {0};
    int count = make_entries(m, &arena, &entries);
    uint64_t bytes = safetensors_file_bytes(entries, count);

    arena_deinit(&arena);
    return bytes;
}

bool checkpoint_write_state(struct model *m, const char *path, uint64_t *bytes, char sha256[65], struct err *err)
{
    struct safetensors_writer writer = {0};
    struct safetensors_entry *entries;
    struct arena arena = {0};
    int count = make_entries(m, &arena, &entries);
    bool ok = false;

    ASSERT(m->is_trained && m->params.master_type == DTYPE_F32);
    if (!safetensors_write_begin(&writer, path, entries, count, err))
        goto out;
    for (int i = 0; i < count; i++) {
        struct param_view view = entry_view(m, &entries[i]);
        struct mat mat = {view_part(&view, entries[i].name[0]), view.rows, view.cols, view.ld, view.type};
        void *copy;
        bool is_written;
        mat = memory_view(m, mat, &copy);
        is_written = write_rows(&writer, mat.at, view.type, view.type, mat.rows, mat.cols, mat.ld, err);
        free(copy);
        if (!is_written)
            goto out;
    }
    ok = safetensors_write_end(&writer, bytes, sha256, err);
out:
    safetensors_write_abort(&writer);
    arena_deinit(&arena);
    return ok;
}

static bool check_state(const struct safetensors_set *set, const struct safetensors_entry *entries, int count,
                        struct err *err)
{
    for (int i = 0; i < count; i++) {
        const struct safetensor *tensor = safetensors_set_find(set, entries[i].name);
        if (!tensor)
            return err_set(err, ERR_INPUT, "the recovery state lacks %s", entries[i].name);
        if (tensor->type != entries[i].type || tensor->rank != entries[i].rank ||
            memcmp(tensor->shape, entries[i].shape, (size_t)tensor->rank * sizeof *tensor->shape))
            return err_set(err, ERR_INPUT, "%s in the recovery state has another type or shape than the model's",
                           entries[i].name);
    }
    if (set->count != count)
        return err_set(err, ERR_INPUT, "the recovery state holds %d tensors, the model has %d", set->count, count);
    return true;
}

bool checkpoint_read_state(struct model *m, const char *path, struct err *err)
{
    struct safetensors_set set = {0};
    struct safetensors_entry *entries;
    struct arena arena = {0};
    int count = make_entries(m, &arena, &entries);
    bool ok = false;

    ASSERT(m->is_trained && m->params.master_type == DTYPE_F32);
    if (!safetensors_set_open_file(&set, &arena, path, err) || !check_state(&set, entries, count, err))
        goto out;
    for (int i = 0; i < count; i++) {
        const char *from = safetensors_set_find(&set, entries[i].name)->data;
        struct param_view view = entry_view(m, &entries[i]);
        memory_write_rows(m, view_part(&view, entries[i].name[0]), from, dtype_bytes(view.type), view.rows, view.cols, view.ld);
    }
    model_masters_changed(m);
    ok = true;
out:
    safetensors_set_close(&set);
    arena_deinit(&arena);
    return ok;
}
