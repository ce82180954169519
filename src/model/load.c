#include "model/codes.h"
#include "model/decoder_int.h"
#include "model/experts_file.h"

#include <string.h>

/* First element of a param in memory, with the row distance and the type found there. */
static char *param_address(const struct model *m, const struct param *param, int32_t *ld, enum dtype *type)
{
    const struct stored *stored = &m->params.stored[param->stored];
    uint64_t offset = (uint64_t)param->row_at * (uint64_t)stored->cols + (uint64_t)param->col_at;

    *ld = stored->cols;
    *type = stored->residence == IN_ARENA ? m->params.master_type : stored->type;
    if (stored->residence == IN_FILE)
        return NULL;
    if (stored->residence == IN_ARENA)
        return m->region[REGION_MASTERS] + (stored->at + offset) * dtype_bytes(*type);
    return m->region[REGION_FROZEN] + stored->at + offset * dtype_bytes(*type);
}

void param_place(struct model *m, int index, const void *values, enum dtype type)
{
    const struct param *param = &m->params.param[index];
    enum dtype to_type;
    int32_t ld;
    char *to = param_address(m, param, &ld, &to_type);
    size_t cols = (size_t)param->cols;

    ASSERT(to);
    if (param->experts) {
        experts_place(param, values, type, param->file_scales ? param->file_scales->data : NULL, to, ld, to_type);
        return;
    }
    for (size_t i = 0; i < (size_t)param->rows; i++)
        convert(to + i * (size_t)ld * dtype_bytes(to_type), to_type,
                (const char *)values + i * cols * dtype_bytes(type), type, cols);
}

struct load {
    struct model *model;
    const int *params;
};

static void load_task(void *context, int task, int thread)
{
    struct load *load = context;
    struct model *m = load->model;
    const struct param *param = &m->params.param[load->params[task]];

    if (m->params.stored[param->stored].residence == IN_CODES)
        codes_load(param, &m->config.quantization, m->region[REGION_FROZEN] + param->codes_at);
    else
        param_place(m, load->params[task], param->file->data, param->file_type);
}

void load_base(struct model *m)
{
    int *wanted = arena_new_array(&m->arena, int, (size_t)m->params.count), count = 0;

    for (int i = 0; i < m->params.count; i++)
        if (m->params.param[i].file && m->params.stored[m->params.param[i].stored].residence != IN_FILE)
            wanted[count++] = i;
    pool_run(m->queue.pool, count, load_task, &(struct load){m, wanted});
}

static bool check_adapter_tensor(const struct param *param, const struct safetensor *tensor, struct err *err)
{
    if (!tensor)
        return err_set(err, ERR_INPUT, "the adapter lacks the tensor %s", param->name);
    if (tensor->rank != 2 || tensor->shape[0] != (uint64_t)param->rows || tensor->shape[1] != (uint64_t)param->cols)
        return err_set(err, ERR_INPUT, "adapter tensor %s must be %d x %d for this base and rank", param->name,
                       param->rows, param->cols);
    if (tensor->type != DTYPE_F32 && tensor->type != DTYPE_BF16 && tensor->type != DTYPE_F16)
        return err_set(err, ERR_UNSUPPORTED, "adapter tensor %s is %.*s; F32, BF16 and F16 are read", param->name,
                       STR_ARG(tensor->type_name));
    return true;
}

bool load_adapter(struct model *m, const char *folder, struct err *err)
{
    struct safetensors_set set = {0};
    struct arena arena = {0};
    int used = 0;
    bool ok = false;

    if (!safetensors_set_open_file(&set, &arena, path_join(&arena, folder, "adapter_model.safetensors"), err))
        goto out;
    for (int i = 0; i < m->params.count; i++) {
        const struct param *param = &m->params.param[i];
        const struct safetensor *tensor;
        if (m->params.stored[param->stored].part == PART_W)
            continue;
        tensor = safetensors_set_find(&set, param->name);
        if (!check_adapter_tensor(param, tensor, err))
            goto out;
        param_place(m, i, tensor->data, tensor->type);
        used++;
    }
    if (used != set.count) {
        err_set(err, ERR_UNSUPPORTED,
                "the adapter holds %d tensors, of which its target_modules name %d; only LoRA on the linear "
                "layers of attention and MLP is supported",
                set.count, used);
        goto out;
    }
    ok = true;
out:
    safetensors_set_close(&set);
    arena_deinit(&arena);
    return ok;
}
