/* Binds the table to the files: which tensor of a set each param is. */
#include "model/codes.h"
#include "model/experts_file.h"
#include "model/params_int.h"

#include <string.h>

/* Experts as codes of four bits, widened when they are loaded. */
static bool bind_mxfp4(const struct builder *b, struct param *param, struct err *err)
{
    const struct safetensor *codes =
        safetensors_set_find(b->set, arena_printf(b->arena, "%s_blocks", param->name));
    const struct safetensor *scales =
        safetensors_set_find(b->set, arena_printf(b->arena, "%s_scales", param->name));
    uint64_t experts = (uint64_t)param->experts, out = (uint64_t)param->rows / experts, in = (uint64_t)param->cols;
    uint64_t shape[4] = {experts, out, in / MXFP4_VALUES, MXFP4_VALUES / 2};

    if (!codes || !scales)
        return err_set(err, ERR_INPUT, "the model's weights lack the tensor %s", param->name);
    if (codes->type != DTYPE_U8 || scales->type != DTYPE_U8 || codes->rank != 4 || scales->rank != 3 ||
        in % MXFP4_VALUES || memcmp(codes->shape, shape, sizeof shape) ||
        memcmp(scales->shape, shape, 3 * sizeof *shape))
        return err_set(err, ERR_INPUT, "the MXFP4 tensors of %s have another type or shape than config.json says",
                       param->name);
    param->file = codes;
    param->file_scales = scales;
    param->file_type = DTYPE_BF16;
    return true;
}

static bool bind_file(const struct builder *b, struct param *param, const char *name, struct err *err)
{
    const struct safetensor *file = safetensors_set_find(b->set, name);
    uint64_t shape[3];
    int rank = param_shape(param, shape);

    if (!file && param->experts && !param->is_vector)
        return bind_mxfp4(b, param, err);
    if (!file)
        return err_set(err, ERR_INPUT, "the model's weights lack the tensor %s", param->name);
    param->file = file;
    if (b->config->quantization.is_in_file && codes_can_hold(&b->out->stored[param->stored]))
        return codes_bind(b->arena, b->set, b->config->quantization.is_nested, param, err);
    if (file->rank != rank || memcmp(file->shape, shape, (size_t)rank * sizeof *shape))
        return err_set(err, ERR_INPUT, "tensor %s has another shape than config.json says: expected %d x %d",
                       param->name, param->rows, param->cols);
    if (file->type != DTYPE_F32 && file->type != DTYPE_BF16 && file->type != DTYPE_F16)
        return err_set(err, ERR_UNSUPPORTED, "tensor %s is %.*s; F32, BF16 and F16 weights are read", param->name,
                       STR_ARG(file->type_name));
    param->file_type = file->type;
    return true;
}

/* Tensors of the parts around a text model are not read, but a checkpoint takes them over. */
static bool is_of_another_part(const struct builder *b, struct str name)
{
    struct str prefix = str_of(b->config->tensor_prefix);

    return !str_is(prefix, "model.") && !str_starts(name, str_slice(prefix, 0, prefix.len - strlen("model.")));
}

static bool add_copied(struct builder *b, const struct safetensor *tensor, struct err *err)
{
    if (tensor->type == DTYPE_COUNT)
        return err_set(err, ERR_UNSUPPORTED, "tensor %.*s is %.*s, which attune cannot write again",
                       STR_ARG(str_slice(tensor->name, 0, 128)), STR_ARG(tensor->type_name));
    b->out->copied[b->out->copied_count++] = tensor;
    return true;
}

/* A tensor that nothing would read means that this is another architecture than it says. */
static bool check_no_extra(struct builder *b, struct err *err)
{
    bool *is_used = arena_new_array(b->arena, bool, (size_t)b->set->count + 1);
    const char *head = params_head_name(b);

    b->out->copied = arena_new_array(b->arena, const struct safetensor *, (size_t)b->set->count + 1);
    for (int i = 0; i < b->out->count; i++) {
        const struct param *param = &b->out->param[i];
        if (param->file)
            is_used[param->file - b->set->tensor] = true;
        if (param->file_scales)
            is_used[param->file_scales - b->set->tensor] = true;
        for (int j = 0; param->packed && j < BESIDE_COUNT; j++)
            if (param->packed->beside[j])
                is_used[param->packed->beside[j] - b->set->tensor] = true;
    }
    for (int i = 0; i < b->set->count; i++) {
        struct str name = b->set->tensor[i].name;
        if (is_used[i] || str_ends(name, STR("rotary_emb.inv_freq")) || (b->config->is_tied && str_is(name, head)))
            continue;
        if (is_of_another_part(b, name) && !add_copied(b, &b->set->tensor[i], err))
            return false;
        if (!is_of_another_part(b, name))
            return err_set(err, ERR_UNSUPPORTED, "the weights hold %.*s, which a %s model does not have",
                           STR_ARG(str_slice(name, 0, 128)), b->config->model_type);
    }
    return true;
}

bool params_bind(struct builder *b, struct err *err)
{
    struct params *out = b->out;

    if (!b->set)
        return true;
    for (int i = 0; i < out->count; i++) {
        const struct stored *stored = &out->stored[out->param[i].stored];
        /* a tied head that became one of its own begins as the embedding, which is the first of the table */
        const char *name = stored->slot == SLOT_HEAD && b->config->is_tied ? out->param[0].name : out->param[i].name;
        if (stored->part == PART_W && !bind_file(b, &out->param[i], name, err))
            return false;
    }
    return check_no_extra(b, err);
}
