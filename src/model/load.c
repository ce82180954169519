#include "model/codes.h"
#include "model/decoder_int.h"
#include "model/experts_file.h"
#include "model/memory.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

char *param_address(const struct model *m, const struct param *param, int32_t *ld, enum dtype *type)
{
    const struct stored *stored = &m->params.stored[param->stored];
    uint64_t offset = (uint64_t)param->row_at * (uint64_t)stored->ld + (uint64_t)param->col_at;

    *ld = stored->ld;
    *type = stored->residence == IN_ARENA ? params_arena_type(&m->params, stored->at) : stored->type;
    if (stored->residence == IN_FILE)
        return NULL;
    if (stored->residence == IN_ARENA)
        return m->region[REGION_MASTERS] + params_arena_bytes(&m->params, stored->at + offset);
    return m->region[REGION_FROZEN] + stored->at + offset * dtype_bytes(*type);
}

struct mat param_base(struct model *m, const struct param *param, void **copy)
{
    struct mat mat = {NULL, param->rows, param->cols, param->cols, param->file_type};

    *copy = NULL;
    if (param->file) {
        mat.at = (void *)(uintptr_t)param->file->data;
        return mat;
    }
    mat.at = param_address(m, param, &mat.ld, &mat.type);
    return memory_view(m, mat, copy);
}

/* Rows of `ld` elements at `to`, in the host's memory. */
static void place(const struct param *param, const void *values, enum dtype type, char *to, int32_t ld,
                  enum dtype to_type)
{
    size_t cols = (size_t)param->cols;

    if (param->experts) {
        experts_place(param, values, type, param->file_scales ? param->file_scales->data : NULL, to, ld, to_type);
        return;
    }
    for (size_t i = 0; i < (size_t)param->rows; i++)
        convert(to + i * (size_t)ld * dtype_bytes(to_type), to_type,
                (const char *)values + i * cols * dtype_bytes(type), type, cols);
}

void param_place(struct model *m, int index, const void *values, enum dtype type)
{
    const struct param *param = &m->params.param[index];
    enum dtype to_type;
    int32_t ld;
    char *to = param_address(m, param, &ld, &to_type), *rows;

    ASSERT(to);
    if (!m->memory) {
        place(param, values, type, to, ld, to_type);
        return;
    }
    rows = mem_alloc((size_t)param->rows * (size_t)param->cols * dtype_bytes(to_type));
    place(param, values, type, rows, param->cols, to_type);
    memory_write_rows(m, to, rows, dtype_bytes(to_type), param->rows, param->cols, ld);
    free(rows);
}

static void place_codes(struct model *m, const struct param *param)
{
    const struct quantization *quantization = &m->config.quantization;
    char *at = m->region[REGION_FROZEN] + param->codes_at, *share;
    size_t bytes = codes_bytes(param, quantization, m->params.is_copied);

    if (!m->memory) {
        codes_load(param, quantization, false, at, at);
        return;
    }
    share = mem_alloc(bytes);
    codes_load(param, quantization, true, share, at);
    memory_write(m, at, share, bytes);
    free(share);
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

    if (m->params.stored[param->stored].residence == IN_CODES) {
        place_codes(m, param);
        return;
    }
    param_place(m, load->params[task], param->file->data, param->file_type);
    file_let_go(param->file->data, param->file->bytes);
}

void load_base(struct model *m)
{
    int *wanted = arena_new_array(&m->arena, int, (size_t)m->params.count), count = 0;

    for (int i = 0; i < m->params.count; i++)
        if (m->params.param[i].file && m->params.stored[m->params.param[i].stored].residence != IN_FILE)
            wanted[count++] = i;
    pool_run(m->queue.pool, count, load_task, &(struct load){m, wanted});
}

static bool is_float(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16;
}

const char *adapter_tensor_name(const struct param *param)
{
    return param->saved_name ? param->saved_name : param->name;
}

static bool check_adapter_tensor(const struct param *param, const struct safetensor *tensor, struct err *err)
{
    const char *name = adapter_tensor_name(param);
    int32_t rows = param->is_transposed ? param->cols : param->rows;
    int32_t cols = param->is_transposed ? param->rows : param->cols;

    if (!tensor)
        return err_set(err, ERR_INPUT, "the adapter lacks the tensor %s", name);
    if (param->is_vector && (tensor->rank != 1 || tensor->shape[0] != (uint64_t)cols))
        return err_set(err, ERR_INPUT, "adapter tensor %s must have %d values for this base", name, cols);
    if (!param->is_vector &&
        (tensor->rank != 2 || tensor->shape[0] != (uint64_t)rows || tensor->shape[1] != (uint64_t)cols))
        return err_set(err, ERR_INPUT, "adapter tensor %s must be %d x %d for this base and rank", name, rows, cols);
    if (!is_float(tensor->type))
        return err_set(err, ERR_UNSUPPORTED, "adapter tensor %s is %.*s; F32, BF16 and F16 are read", name,
                       STR_ARG(tensor->type_name));
    return true;
}

static void place_transposed(struct model *m, int index, const struct safetensor *tensor)
{
    size_t rows = tensor->shape[0], cols = tensor->shape[1];
    float *values = mem_alloc(rows * cols * sizeof *values), *row = mem_alloc(cols * sizeof *row);

    for (size_t i = 0; i < rows; i++) {
        convert(row, DTYPE_F32, (const char *)tensor->data + i * cols * dtype_bytes(tensor->type), tensor->type, cols);
        for (size_t j = 0; j < cols; j++)
            values[j * rows + i] = row[j];
    }
    param_place(m, index, values, DTYPE_F32);
    free(values);
    free(row);
}

/* The base's embedding, or its head where that has a weight of its own. */
static const struct safetensor *base_file(const struct model *m, bool is_head)
{
    for (int i = 0; is_head && i < m->params.count; i++) {
        const struct stored *stored = &m->params.stored[m->params.param[i].stored];
        if (stored->slot == SLOT_HEAD && stored->part == PART_W)
            return m->params.param[i].file;
    }
    return m->params.param[0].file;
}

/* Beside adapters on embedding and head PEFT writes those weights of the base too: they must be this base's. */
static bool check_base_copies(struct model *m, const struct safetensors_set *set, int *used, struct err *err)
{
    static const struct str suffix = {".base_layer.weight", 18};

    for (int i = 0; i < set->count; i++) {
        const struct safetensor *tensor = &set->tensor[i], *base;
        struct str module = tensor->name;
        if (!str_ends(module, suffix))
            continue;
        module.len -= suffix.len;
        base = base_file(m, str_ends(module, STR("lm_head")));
        if (!base || !tensor_has_values(base, tensor))
            return err_set(err, ERR_UNSUPPORTED, "the adapter's %.*s is not this base's: it was trained on another one",
                           STR_ARG(tensor->name));
        ++*used;
    }
    return true;
}

static bool is_of_adapter(const struct model *m, const struct param *param)
{
    return m->params.stored[param->stored].part != PART_W || param->saved_name;
}

static bool load_tensors(struct model *m, const struct safetensors_set *set, struct err *err)
{
    int used = 0;

    for (int i = 0; i < m->params.count; i++) {
        const struct param *param = &m->params.param[i];
        const struct safetensor *tensor;
        if (!is_of_adapter(m, param))
            continue;
        tensor = safetensors_set_find(set, adapter_tensor_name(param));
        if (!check_adapter_tensor(param, tensor, err))
            return false;
        if (param->is_transposed)
            place_transposed(m, i, tensor);
        else
            param_place(m, i, tensor->data, tensor->type);
        used++;
    }
    if (!check_base_copies(m, set, &used, err))
        return false;
    return used == set->count ||
           err_set(err, ERR_UNSUPPORTED, "the adapter holds %d tensors, of which its adapter_config.json asks for %d",
                   set->count, used);
}

bool load_adapter(struct model *m, const char *folder, struct err *err)
{
    struct safetensors_set set = {0};
    struct arena arena = {0};
    bool ok = safetensors_set_open_file(&set, &arena, path_join(&arena, folder, "adapter_model.safetensors"), err) &&
              load_tensors(m, &set, err);

    safetensors_set_close(&set);
    arena_deinit(&arena);
    return ok;
}
