#include "model/decoder_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { STORED_ALIGN = 64 };

/* The tensors of one layer in transformers' order, and where each lies. */
static const struct module {
    const char *name;
    enum slot slot;
    int part; /* of the stored weight */
} modules[] = {
    {"self_attn.q_proj", SLOT_QKV, 0}, {"self_attn.k_proj", SLOT_QKV, 1},  {"self_attn.v_proj", SLOT_QKV, 2},
    {"self_attn.o_proj", SLOT_O, 0},   {"mlp.gate_proj", SLOT_GATE_UP, 0}, {"mlp.up_proj", SLOT_GATE_UP, 1},
    {"mlp.down_proj", SLOT_DOWN, 0},   {"input_layernorm", SLOT_NORM1, 0}, {"post_attention_layernorm", SLOT_NORM2, 0},
};
enum { MODULE_COUNT = sizeof modules / sizeof *modules, LINEAR_COUNT = 7 };

static const enum slot layer_slots[] = {SLOT_NORM1, SLOT_QKV, SLOT_O, SLOT_NORM2, SLOT_GATE_UP, SLOT_DOWN};

struct builder {
    struct arena *arena;
    const struct model_config *config;
    enum model_profile profile;
    const struct lora_config *lora;
    const struct safetensors_set *set;
    bool is_trained;
    struct params *out;
};

const char *model_profile_name(enum model_profile profile)
{
    static const char *const names[] = {"float32", "bfloat16", "float64"};

    return names[profile];
}

float lora_scale(const struct lora_config *lora)
{
    return (float)(lora->alpha / (lora->is_rslora ? sqrt(lora->rank) : lora->rank));
}

static bool is_norm(enum slot slot)
{
    return slot == SLOT_NORM1 || slot == SLOT_NORM2 || slot == SLOT_FINAL_NORM;
}

int slot_part_count(enum slot slot)
{
    return slot == SLOT_QKV ? 3 : slot == SLOT_GATE_UP ? 2 : 1;
}

/* Rows of the stored weight before part `part`; with part = part count, all rows. */
int32_t slot_part_row(const struct model_config *config, enum slot slot, int part)
{
    int32_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;

    switch (slot) {
    case SLOT_EMBED:
    case SLOT_HEAD:
        return part * config->vocab;
    case SLOT_QKV:
        return part == 0 ? 0 : q + (part - 1) * kv;
    case SLOT_O:
    case SLOT_DOWN:
        return part * config->hidden;
    case SLOT_GATE_UP:
        return part * config->mlp_width;
    default:
        return part;
    }
}

int32_t slot_cols(const struct model_config *config, enum slot slot)
{
    return slot == SLOT_O ? config->heads * config->head_dim : slot == SLOT_DOWN ? config->mlp_width : config->hidden;
}

static const char *base_name(struct arena *arena, int32_t layer, const struct module *module)
{
    return arena_printf(arena, "model.layers.%d.%s.weight", layer, module->name);
}

/* PEFT's rule for a list: the full module name, or a suffix of it that begins after a dot. */
static bool target_matches(const char *target, int32_t layer, const struct module *module)
{
    char name[128];
    size_t name_len = (size_t)snprintf(name, sizeof name, "model.layers.%d.%s", layer, module->name);
    size_t len = strlen(target);

    if (!strcasecmp(target, "all-linear"))
        return true;
    return len <= name_len && !strcmp(name + name_len - len, target) &&
           (len == name_len || name[name_len - len - 1] == '.');
}

static bool is_adapted(const struct builder *b, int32_t layer, const struct module *module)
{
    if (!b->lora || !b->lora->rank || module - modules >= LINEAR_COUNT)
        return false;
    if (!b->lora->targets)
        return true;
    for (int i = 0; i < b->lora->target_count; i++)
        if (target_matches(b->lora->targets[i], layer, module))
            return true;
    return false;
}

static bool slot_is_adapted(const struct builder *b, int32_t layer, enum slot slot)
{
    for (int i = 0; i < LINEAR_COUNT; i++)
        if (modules[i].slot == slot && is_adapted(b, layer, &modules[i]))
            return true;
    return false;
}

static bool check_lora(const struct builder *b, struct err *err)
{
    const struct lora_config *lora = b->lora;

    if (!lora || !lora->rank)
        return true;
    if (lora->rank < 1 || lora->rank > 512)
        return err_set(err, ERR_INPUT, "lora_r is %d; it must be from 1 to 512", lora->rank);
    if (!(lora->alpha > 0) || !(lora->dropout >= 0 && lora->dropout < 1))
        return err_set(err, ERR_INPUT, "lora_alpha must be above 0 and lora_dropout from 0 to below 1");
    for (int t = 0; lora->targets && t < lora->target_count; t++) {
        bool matches = false;
        for (int32_t layer = 0; layer < b->config->layers && !matches; layer++)
            for (int i = 0; i < LINEAR_COUNT && !matches; i++)
                matches = target_matches(lora->targets[t], layer, &modules[i]);
        if (!matches)
            return err_set(err, ERR_INPUT,
                           "the LoRA target \"%.64s\" names no linear layer of this model; there are q_proj, "
                           "k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj",
                           lora->targets[t]);
    }
    if (lora->targets && !lora->target_count)
        return err_set(err, ERR_INPUT, "the list of LoRA targets is empty");
    return true;
}

static enum dtype compute_type(enum model_profile profile)
{
    return profile == PROFILE_BF16 ? DTYPE_BF16 : profile == PROFILE_F64 ? DTYPE_F64 : DTYPE_F32;
}

static struct stored *add_stored(struct builder *b, enum slot slot, enum part part, int32_t layer)
{
    struct params *out = b->out;
    struct stored *stored = &out->stored[out->stored_count++];
    int32_t rank = part == PART_W ? 0 : b->lora->rank * slot_part_count(slot);

    *stored = (struct stored){.slot = slot, .part = part, .layer = layer, .has_decay = !is_norm(slot)};
    stored->rows = part == PART_A ? rank : slot_part_row(b->config, slot, slot_part_count(slot));
    stored->cols = part == PART_B ? rank : slot_cols(b->config, slot);
    stored->type = is_norm(slot) ? out->master_type : out->compute_type;
    stored->residence = IN_FROZEN;
    if (b->is_trained && ((part == PART_W) == (out->lora_rank == 0)))
        stored->residence = IN_ARENA;
    return stored;
}

static void add_all_stored(struct builder *b)
{
    add_stored(b, SLOT_EMBED, PART_W, -1);
    for (int32_t layer = 0; layer < b->config->layers; layer++)
        for (size_t i = 0; i < sizeof layer_slots / sizeof *layer_slots; i++) {
            add_stored(b, layer_slots[i], PART_W, layer);
            if (slot_is_adapted(b, layer, layer_slots[i])) {
                add_stored(b, layer_slots[i], PART_A, layer);
                add_stored(b, layer_slots[i], PART_B, layer);
            }
        }
    add_stored(b, SLOT_FINAL_NORM, PART_W, -1);
    if (!b->config->is_tied)
        add_stored(b, SLOT_HEAD, PART_W, -1);
}

int params_stored(const struct params *params, enum slot slot, int32_t layer, enum part part)
{
    for (int i = 0; i < params->stored_count; i++)
        if (params->stored[i].slot == slot && params->stored[i].layer == layer && params->stored[i].part == part)
            return i;
    return -1;
}

static struct param *add_param(struct builder *b, const char *name, enum slot slot, int32_t layer, enum part part)
{
    struct param *param = &b->out->param[b->out->count++];

    *param = (struct param){.name = name, .stored = params_stored(b->out, slot, layer, part)};
    param->is_trained = b->out->stored[param->stored].residence == IN_ARENA;
    param->file_type = part == PART_W ? b->config->dtype : DTYPE_F32;
    param->is_vector = is_norm(slot);
    return param;
}

static void add_base_param(struct builder *b, const char *name, enum slot slot, int part, int32_t layer)
{
    struct param *param = add_param(b, name, slot, layer, PART_W);

    param->row_at = slot_part_row(b->config, slot, part);
    param->rows = slot_part_row(b->config, slot, part + 1) - param->row_at;
    param->cols = slot_cols(b->config, slot);
}

static void add_adapter_params(struct builder *b, int32_t layer, const struct module *module)
{
    int32_t r = b->lora->rank;
    const char *format = "base_model.model.model.layers.%d.%s.lora_%c.weight";
    struct param *a =
        add_param(b, arena_printf(b->arena, format, layer, module->name, 'A'), module->slot, layer, PART_A);
    struct param *m =
        add_param(b, arena_printf(b->arena, format, layer, module->name, 'B'), module->slot, layer, PART_B);

    a->row_at = module->part * r;
    a->rows = r;
    a->cols = slot_cols(b->config, module->slot);
    m->row_at = slot_part_row(b->config, module->slot, module->part);
    m->rows = slot_part_row(b->config, module->slot, module->part + 1) - m->row_at;
    m->col_at = module->part * r;
    m->cols = r;
}

static void add_all_params(struct builder *b)
{
    add_base_param(b, "model.embed_tokens.weight", SLOT_EMBED, 0, -1);
    for (int32_t layer = 0; layer < b->config->layers; layer++)
        for (int i = 0; i < MODULE_COUNT; i++)
            add_base_param(b, base_name(b->arena, layer, &modules[i]), modules[i].slot, modules[i].part, layer);
    add_base_param(b, "model.norm.weight", SLOT_FINAL_NORM, 0, -1);
    if (!b->config->is_tied)
        add_base_param(b, "lm_head.weight", SLOT_HEAD, 0, -1);
    for (int32_t layer = 0; layer < b->config->layers; layer++)
        for (int i = 0; i < LINEAR_COUNT; i++)
            if (is_adapted(b, layer, &modules[i]))
                add_adapter_params(b, layer, &modules[i]);
}

static bool bind_file(struct param *param, const struct safetensors_set *set, struct err *err)
{
    const struct safetensor *file = safetensors_set_find(set, param->name);
    uint64_t rows = (uint64_t)param->rows, cols = (uint64_t)param->cols;

    if (!file)
        return err_set(err, ERR_INPUT, "the model's weights lack the tensor %s", param->name);
    if (param->is_vector ? file->rank != 1 || file->shape[0] != cols
                         : file->rank != 2 || file->shape[0] != rows || file->shape[1] != cols)
        return err_set(err, ERR_INPUT, "tensor %s has another shape than config.json says: expected %d x %d",
                       param->name, param->rows, param->cols);
    if (file->type != DTYPE_F32 && file->type != DTYPE_BF16 && file->type != DTYPE_F16)
        return err_set(err, ERR_UNSUPPORTED, "tensor %s is %.*s; F32, BF16 and F16 weights are read", param->name,
                       STR_ARG(file->type_name));
    param->file = file;
    param->file_type = file->type;
    return true;
}

/* A tensor that nothing would read means that this is another architecture than it says. */
static bool check_no_extra(const struct builder *b, struct err *err)
{
    struct str ignored = STR("rotary_emb.inv_freq");
    int used = 0, known = 0;

    for (int i = 0; i < b->out->count; i++)
        used += b->out->param[i].file != NULL;
    for (int i = 0; i < b->set->count; i++) {
        struct str name = b->set->tensor[i].name;
        if (str_ends(name, ignored) || (b->config->is_tied && str_is(name, "lm_head.weight")))
            continue;
        known++;
        if (known > used || !params_find(b->out, str_copy(b->arena, name)))
            return err_set(err, ERR_UNSUPPORTED, "the weights hold %.*s, which a %s model does not have",
                           STR_ARG(str_slice(name, 0, 128)), b->config->model_type);
    }
    return true;
}

static bool bind_files(struct builder *b, struct err *err)
{
    if (!b->set)
        return true;
    for (int i = 0; i < b->out->count; i++)
        if (b->out->stored[b->out->param[i].stored].part == PART_W && !bind_file(&b->out->param[i], b->set, err))
            return false;
    return check_no_extra(b, err);
}

/* Frozen and whole in one file tensor of a type that the ops read: used where it is mapped. */
static bool is_usable_in_file(const struct builder *b, const struct param *param, const struct stored *stored)
{
    bool is_lookup = stored->slot == SLOT_EMBED && !b->config->is_tied && param->file_type != DTYPE_F16;

    if (stored->part != PART_W || slot_part_count(stored->slot) != 1 || b->profile == PROFILE_F64)
        return false;
    if (param->file && (uintptr_t)param->file->data % dtype_bytes(param->file_type))
        return false;
    return param->file_type == stored->type || is_lookup;
}

static uint64_t align_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static void settle_residence(struct builder *b)
{
    for (int i = 0; i < b->out->count; i++) {
        const struct param *param = &b->out->param[i];
        struct stored *stored = &b->out->stored[param->stored];
        if (stored->residence == IN_FROZEN && is_usable_in_file(b, param, stored)) {
            stored->residence = IN_FILE;
            stored->type = param->file_type;
        }
    }
}

static void lay_out(struct builder *b)
{
    struct params *out = b->out;

    for (int i = 0; i < out->stored_count; i++) {
        struct stored *stored = &out->stored[i];
        uint64_t count = (uint64_t)stored->rows * (uint64_t)stored->cols;
        if (stored->residence == IN_ARENA) {
            stored->at = out->arena_count;
            out->arena_count = align_up(out->arena_count + count, STORED_ALIGN);
            if (stored->slot == SLOT_EMBED && !b->config->is_tied)
                out->copy_from = out->arena_count;
        } else if (stored->residence == IN_FROZEN) {
            stored->at = out->frozen_bytes;
            out->frozen_bytes = align_up(out->frozen_bytes + count * dtype_bytes(stored->type), STORED_ALIGN);
        }
    }
    for (int i = 0; i < out->count; i++) {
        uint64_t count = (uint64_t)out->param[i].rows * (uint64_t)out->param[i].cols;
        out->total_count += count;
        out->trained_count += out->param[i].is_trained ? count : 0;
    }
}

bool params_make(struct arena *arena, const struct model_config *config, enum model_profile profile,
                 const struct lora_config *lora, bool is_trained, bool is_random, const struct safetensors_set *set,
                 struct params *params, struct err *err)
{
    struct builder b = {arena, config, profile, lora, set, is_trained, params};
    size_t per_layer = MODULE_COUNT + 2 * LINEAR_COUNT;

    *params = (struct params){.compute_type = compute_type(profile)};
    if (!check_lora(&b, err))
        return false;
    params->master_type = profile == PROFILE_F64 ? DTYPE_F64 : DTYPE_F32;
    params->has_copy = is_trained && params->compute_type != params->master_type;
    if (lora && lora->rank) {
        params->lora_rank = lora->rank;
        params->lora_scale = lora_scale(lora);
        params->lora_dropout = (float)lora->dropout;
    }
    params->stored = arena_new_array(arena, struct stored, (size_t)config->layers * 14 + 3);
    params->param = arena_new_array(arena, struct param, (size_t)config->layers * per_layer + 3);
    add_all_stored(&b);
    add_all_params(&b);
    if (!bind_files(&b, err))
        return false;
    if (!is_random)
        settle_residence(&b);
    lay_out(&b);
    return true;
}

const struct param *params_find(const struct params *params, const char *name)
{
    for (int i = 0; i < params->count; i++)
        if (!strcmp(params->param[i].name, name))
            return &params->param[i];
    return NULL;
}
