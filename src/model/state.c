/* Recovery state: masters and moments of every trained param in one file. */
#include "model/checkpoint_int.h"
#include "model/memory.h"

#include <stdlib.h>
#include <string.h>

static const char kinds[] = "pmv";
enum { SCALE_TENSORS = 2 };

static struct mat view_part(const struct param_view *view, char kind)
{
    void *at = kind == 'p' ? view->master : kind == 'm' ? view->m : view->v;

    return (struct mat){at, view->rows, view->cols, view->ld, kind == 'p' ? view->type : view->moment_type};
}

static void add_scales(const struct model *m, struct safetensors_entry entries[], int *count)
{
    static const char *const names[SCALE_TENSORS] = {"m_scale", "v_scale"};
    uint64_t blocks = params_scale_count(&m->params);

    for (int i = 0; i < SCALE_TENSORS && blocks; i++)
        entries[(*count)++] =
            (struct safetensors_entry){.name = names[i], .type = DTYPE_F32, .rank = 1, .shape = {blocks}};
}

int state_entries(const struct model *m, struct arena *arena, struct safetensors_entry **entries)
{
    int count = 0;

    *entries = arena_new_array(arena, struct safetensors_entry, 3 * (size_t)m->params.count + SCALE_TENSORS);
    for (int i = 0; i < m->params.count; i++) {
        const struct param *param = &m->params.param[i];
        for (int k = 0; param->is_trained && k < 3; k++) {
            struct safetensors_entry *entry = &(*entries)[count++];
            entry->name = arena_printf(arena, "%c.%s", kinds[k], param->name);
            entry->type = (k ? params_moment_type : params_arena_type)(&m->params, m->params.stored[param->stored].at);
            entry->rank = param->is_vector ? 1 : 2;
            entry->shape[0] = (uint64_t)(param->is_vector ? param->cols : param->rows);
            entry->shape[1] = (uint64_t)param->cols;
            entry->context = (void *)(uintptr_t)param;
        }
    }
    add_scales(m, *entries, &count);
    return count;
}

struct mat state_mat(struct model *m, const struct safetensors_entry *entry)
{
    const struct param *param = entry->context;
    int32_t blocks = (int32_t)params_scale_count(&m->params);
    struct param_view view;

    if (!param)
        return (struct mat){model_moment_scales(m, entry->name[0] == 'v'), 1, blocks, blocks, DTYPE_F32};
    view = model_param_view(m, (int)(param - m->params.param));
    return view_part(&view, entry->name[0]);
}

uint64_t checkpoint_state_bytes(const struct model *m)
{
    struct safetensors_entry *entries;
    struct arena arena = {0};
    int count = state_entries(m, &arena, &entries);
    uint64_t bytes = safetensors_file_bytes(entries, count);

    arena_deinit(&arena);
    return bytes;
}

bool checkpoint_write_state(struct model *m, const char *path, uint64_t *bytes, char sha256[65], struct err *err)
{
    struct safetensors_writer writer = {0};
    struct safetensors_entry *entries;
    struct arena arena = {0};
    int count = state_entries(m, &arena, &entries);
    bool ok = false;

    ASSERT(m->is_trained && m->params.master_type == DTYPE_F32);
    if (!safetensors_write_begin(&writer, path, entries, count, err))
        goto out;
    for (int i = 0; i < count; i++) {
        void *copy;
        struct mat mat = memory_view(m, state_mat(m, &entries[i]), &copy);
        bool is_written = write_rows(&writer, mat.at, mat.type, mat.type, mat.rows, mat.cols, mat.ld, err);
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
    int count = state_entries(m, &arena, &entries);
    bool ok = false;

    ASSERT(m->is_trained && m->params.master_type == DTYPE_F32);
    if (!safetensors_set_open_file(&set, &arena, path, err) || !check_state(&set, entries, count, err))
        goto out;
    for (int i = 0; i < count; i++) {
        const char *from = safetensors_set_find(&set, entries[i].name)->data;
        struct mat to = state_mat(m, &entries[i]);
        memory_write_rows(m, to.at, from, dtype_bytes(to.type), to.rows, to.cols, to.ld);
    }
    model_masters_changed(m);
    ok = true;
out:
    safetensors_set_close(&set);
    arena_deinit(&arena);
    return ok;
}
