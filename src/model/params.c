#include "model/modules.h"
#include "model/params_int.h"

#include <string.h>

enum {
    PARTS_MAX = 3, /* of a stored weight */
    STORED_LAYER_MAX = (SLOT_LAYER_LAST - SLOT_LAYER_FIRST + 1) * PART_COUNT,
    PARAM_LAYER_MAX = LAYER_MODULES_MAX * PART_COUNT,
};

static const char head_module[] = "lm_head"; /* as transformers names it */

const char *model_profile_name(enum model_profile profile)
{
    static const char *const names[] = {"float32", "bfloat16", "float64", "bfloat16 with its state",
                                        "bfloat16 with moments in bytes"};

    return names[profile];
}

/* model.layers.3.self_attn.q_proj.weight */
static const char *tensor_name(const struct builder *b, int32_t layer, const struct module *module, int expert)
{
    const char *star = strchr(module->tensor, '*');

    if (star)
        return arena_printf(b->arena, "%slayers.%d.%.*s%d%s", b->config->tensor_prefix, layer,
                            (int)(star - module->tensor), module->tensor, expert, star + 1);
    return arena_printf(b->arena, "%slayers.%d.%s", b->config->tensor_prefix, layer, module->tensor);
}

/* Of a dense model every linear layer, of a mixture of experts those of attention. */
static bool is_default_target(const struct model_config *config, const struct module *module)
{
    return module_is_linear(module) && (!config->moe.experts || module->slot == SLOT_QKV || module->slot == SLOT_O);
}

/* model.layers.3.self_attn.q_proj */
static const char *module_name(const struct builder *b, int32_t layer, const struct module *module)
{
    return arena_printf(b->arena, "%slayers.%d.%.*s", b->config->adapter_prefix, layer, STR_ARG(module_path(module)));
}

static bool is_listed(const struct linear_names *names, struct str name)
{
    for (int i = 0; i < names->count; i++)
        if (str_is(name, names->name[i]))
            return true;
    return false;
}

struct linear_names linear_names(struct arena *arena, const struct model_config *config, bool is_default)
{
    struct linear_names names = {.name = arena_new_array(arena, const char *, LAYER_MODULES_MAX)};
    const struct module *modules[LAYER_MODULES_MAX];

    for (int32_t layer = 0; layer < config->layers; layer++) {
        int count = layer_modules(config, layer, modules);
        for (int i = 0; i < count; i++) {
            struct str path = module_path(modules[i]);
            struct str name = str_slice(path, (size_t)(strchr(path.at, '.') + 1 - path.at), path.len);
            bool is_wanted = is_default ? is_default_target(config, modules[i]) : module_is_linear(modules[i]);
            if (is_wanted && !is_listed(&names, name))
                names.name[names.count++] = str_copy(arena, name);
        }
    }
    return names;
}

/* "q_proj, k_proj and v_proj", for messages. */
static const char *list_names(const struct builder *b)
{
    struct linear_names names = linear_names(b->arena, b->config, false);
    const char *list = "";

    for (int i = 0; i < names.count; i++)
        list = arena_printf(b->arena, "%s%s%s", list,
                            i == 0                ? ""
                            : i + 1 < names.count ? ", "
                                                  : " and ",
                            names.name[i]);
    return list;
}

/* The head stands beside the model in files: "model." gives "lm_head.weight". */
const char *params_head_name(const struct builder *b)
{
    struct str prefix = str_of(b->config->tensor_prefix);

    ASSERT(str_ends(prefix, STR("model.")));
    return arena_printf(b->arena, "%.*s%s.weight", (int)(prefix.len - strlen("model.")), prefix.at, head_module);
}

static bool choose_in_layer(struct builder *b, struct lora_rules *rules, int32_t layer, struct err *err)
{
    const struct module *modules[LAYER_MODULES_MAX];
    int count = layer_modules(b->config, layer, modules);

    for (int i = 0; i < count; i++) {
        const char *name = module_name(b, layer, modules[i]);
        size_t at = (size_t)layer * LAYER_MODULES_MAX + (size_t)i;
        b->is_saved[at] = lora_rules_save(rules, name);
        if (b->is_saved[at] && !slot_is_norm(modules[i]->slot))
            return err_set(err, ERR_UNSUPPORTED,
                           "modules_to_save: %s is not saved whole; the embeddings, the head and norms are", name);
        if (module_is_linear(modules[i]) &&
            !lora_rules_choose(rules, name, layer, is_default_target(b->config, modules[i]), &b->choice[at], err))
            return false;
    }
    return true;
}

static bool choose_outside(struct builder *b, struct lora_rules *rules, struct err *err)
{
    const char *embed = arena_printf(b->arena, "%sembed_tokens", b->config->adapter_prefix);

    b->embed_is_saved = lora_rules_save(rules, embed);
    b->norm_is_saved = lora_rules_save(rules, arena_printf(b->arena, "%snorm", b->config->adapter_prefix));
    b->head_is_saved = lora_rules_save(rules, head_module);
    if (!lora_rules_choose(rules, embed, -1, false, &b->embed_choice, err) ||
        !lora_rules_choose(rules, head_module, -1, false, &b->head_choice, err))
        return false;
    return !b->lora->is_dora || (!b->embed_choice.rank && !b->head_choice.rank) ||
           err_set(err, ERR_UNSUPPORTED, "use_dora is not supported on the embedding and the head");
}

/* What the rules say about each module. */
static bool choose_adapters(struct builder *b, struct err *err)
{
    struct lora_rules *rules = lora_rules_new(b->lora, err);
    bool ok = rules && choose_outside(b, rules, err);

    for (int32_t layer = 0; ok && layer < b->config->layers; layer++)
        ok = choose_in_layer(b, rules, layer, err);
    ok = ok && lora_rules_check_used(rules, list_names(b), err);
    lora_rules_free(rules);
    return ok;
}

static bool check_quantization(const struct builder *b, bool is_random, struct err *err)
{
    const struct quantization *quantization = &b->config->quantization;

    if (quantization->is_nf4 && b->is_trained && !(b->lora && b->lora->rank))
        return err_set(err, ERR_INPUT,
                       quantization->is_in_file
                           ? "the model's weights are codes of four bits, which do not train: choose lora"
                           : "quantization nf4 goes with lora: weights of four bits do not train");
    if (has_short_state(b) && b->lora && b->lora->rank)
        return err_set(err, ERR_INPUT,
                       "an adapter's weights and moments are few and stay in f32: bf16 state is for full fine-tuning");
    if (quantization->is_nf4 && b->lora && b->lora->is_dora)
        return err_set(err, ERR_UNSUPPORTED, "use_dora is not supported over quantized weights");
    if (quantization->is_nf4 && is_random)
        return err_set(err, ERR_INPUT, "random weights are not quantized: give a model with weights");
    return true;
}

static enum dtype compute_type(enum model_profile profile)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F64, DTYPE_BF16, DTYPE_BF16};

    return types[profile];
}

/* Norms and sinks are read in the type of sums, biases in that of products, where these have no f32 of their own. */
static enum dtype stored_type(const struct builder *b, enum slot slot)
{
    const struct params *params = b->out;
    bool is_of_sums = slot_is_vector(slot) && (!slot_is_bias(slot) || has_short_state(b));

    return is_of_sums ? params->master_type : params->compute_type;
}

int params_stored(const struct params *params, enum slot slot, int32_t layer, enum part part)
{
    return params->stored_at[stored_key(slot, layer, part)] - 1;
}

static struct stored *add_matrix(struct builder *b, enum slot slot, enum part part, int32_t layer, int32_t rows,
                                 int32_t cols, bool is_trained)
{
    struct params *out = b->out;
    struct stored *stored = &out->stored[out->stored_count++];

    *stored = (struct stored){.slot = slot, .part = part, .layer = layer, .rows = rows, .cols = cols, .ld = cols,
                              .has_decay = slot_has_decay(slot), .type = stored_type(b, slot)};
    stored->residence = b->is_trained && is_trained ? IN_ARENA : IN_FROZEN;
    b->stored_at[stored_key(slot, layer, part)] = out->stored_count;
    return stored;
}

static void add_weight(struct builder *b, enum slot slot, int32_t layer, bool is_saved)
{
    int32_t outputs = slot_part_at(b->config, slot, slot_part_count(b->config, slot));
    bool is_vector = slot_is_vector(slot);
    int32_t rows = is_vector ? 1 : outputs, cols = is_vector ? outputs : slot_inputs(b->config, slot);
    struct stored *stored = add_matrix(b, slot, PART_W, layer, rows, cols, is_saved || b->out->lora_rank == 0);

    stored->is_saved = is_saved;
    if (slot == SLOT_EMBED && is_saved) /* looked up as it is trained */
        stored->type = b->out->master_type;
}

/* A and B of all parts of a weight; parts [part count] has rank 0 where a part has no adapter. */
static void add_stored_adapter(struct builder *b, enum slot slot, int32_t layer, const struct lora_choice *parts)
{
    int count = slot_part_count(b->config, slot);
    int32_t *cols = arena_new_array(b->arena, int32_t, (size_t)count + 1);
    float *scale = arena_new_array(b->arena, float, (size_t)count);
    struct stored *stored;

    for (int i = 0; i < count; i++) {
        cols[i + 1] = cols[i] + parts[i].rank;
        scale[i] = parts[i].scale;
    }
    add_matrix(b, slot, PART_A, layer, cols[count], slot_inputs(b->config, slot), true);
    stored = add_matrix(b, slot, PART_B, layer, slot_part_at(b->config, slot, count), cols[count], true);
    stored->part_cols = cols;
    stored->part_scale = scale;
    if (b->out->has_dora)
        add_matrix(b, slot, PART_M, layer, 1, slot_part_at(b->config, slot, count), true)->type = b->out->master_type;
}

/* In the order of slots, which is another than that of modules: vectors lie together. */
static void add_layer_stored(struct builder *b, int32_t layer)
{
    const struct module *modules[LAYER_MODULES_MAX];
    struct lora_choice adapter[SLOT_COUNT][PARTS_MAX] = {0};
    bool is_there[SLOT_COUNT] = {false}, is_saved[SLOT_COUNT] = {false}, has_adapter[SLOT_COUNT] = {false};
    int count = layer_modules(b->config, layer, modules);

    for (int i = 0; i < count; i++) {
        is_there[modules[i]->slot] = true;
        is_saved[modules[i]->slot] |= b->is_saved[layer * LAYER_MODULES_MAX + i];
        adapter[modules[i]->slot][modules[i]->part] = b->choice[layer * LAYER_MODULES_MAX + i];
        has_adapter[modules[i]->slot] |= b->choice[layer * LAYER_MODULES_MAX + i].rank > 0;
    }
    for (enum slot slot = SLOT_LAYER_FIRST; slot <= SLOT_LAYER_LAST; slot++) {
        if (is_there[slot])
            add_weight(b, slot, layer, is_saved[slot]);
        if (has_adapter[slot])
            add_stored_adapter(b, slot, layer, adapter[slot]);
    }
}

/* Looked up, so A lies the other way round: a row for each token. */
static void add_embed_adapter(struct builder *b)
{
    float *scale = arena_new(b->arena, float);

    if (!b->embed_choice.rank)
        return;
    *scale = b->embed_choice.scale;
    add_matrix(b, SLOT_EMBED, PART_A, -1, b->config->vocab, b->embed_choice.rank, true)->type = b->out->master_type;
    add_matrix(b, SLOT_EMBED, PART_B, -1, b->config->hidden, b->embed_choice.rank, true)->part_scale = scale;
}

static void add_embed_stored(struct builder *b)
{
    add_weight(b, SLOT_EMBED, -1, b->embed_is_saved);
    add_embed_adapter(b);
}

/* The compute copy begins behind the embedding. Where there is none, what belongs to no layer comes
 * last: see lay_over in carve.c. */
static void add_all_stored(struct builder *b)
{
    if (b->out->has_copy)
        add_embed_stored(b);
    for (int32_t layer = 0; layer < b->config->layers; layer++)
        add_layer_stored(b, layer);
    if (!b->out->has_copy)
        add_embed_stored(b);
    add_weight(b, SLOT_FINAL_NORM, -1, b->norm_is_saved);
    if (has_own_head(b))
        add_weight(b, SLOT_HEAD, -1, b->head_is_saved);
    if (b->head_choice.rank)
        add_stored_adapter(b, SLOT_HEAD, -1, &b->head_choice);
}

static struct param *add_param(struct builder *b, const char *name, enum slot slot, int32_t layer, enum part part)
{
    struct param *param = &b->out->param[b->out->count++];

    *param = (struct param){.name = name, .stored = params_stored(b->out, slot, layer, part)};
    param->is_trained = b->out->stored[param->stored].residence == IN_ARENA;
    param->file_type = part == PART_W ? b->config->dtype : DTYPE_F32;
    param->is_vector = slot_is_vector(slot);
    return param;
}

/* What PEFT calls a tensor of the base that it saves whole. */
static const char *saved_name(const struct builder *b, const char *name, enum slot slot)
{
    if (slot == SLOT_HEAD)
        return arena_printf(b->arena, "base_model.model.%s.weight", head_module);
    return arena_printf(b->arena, "base_model.model.%s%s", b->config->adapter_prefix,
                        name + strlen(b->config->tensor_prefix));
}

static void add_base_param(struct builder *b, const char *name, enum slot slot, int part, int32_t layer)
{
    struct param *param = add_param(b, name, slot, layer, PART_W);
    int32_t at = slot_part_at(b->config, slot, part), end = slot_part_at(b->config, slot, part + 1);

    if (b->config->moe.names == MOE_NAMES_OSS && slot_is_of_experts(slot)) {
        param->experts = b->config->moe.experts;
        param->is_interleaved = slot == SLOT_EXPERTS_IN || slot == SLOT_EXPERTS_IN_BIAS;
    }
    if (b->out->stored[param->stored].is_saved)
        param->saved_name = saved_name(b, name, slot);
    if (param->is_vector) {
        param->col_at = at;
        param->rows = 1;
        param->cols = end - at;
    } else {
        param->row_at = at;
        param->rows = end - at;
        param->cols = slot_inputs(b->config, slot);
    }
}

static void add_magnitude_param(struct builder *b, const char *module, enum slot slot, int32_t layer,
                                const struct param *of)
{
    const char *name = arena_printf(b->arena, "base_model.model.%s.lora_magnitude_vector", module);
    struct param *magnitude = add_param(b, name, slot, layer, PART_M);

    magnitude->is_vector = true;
    magnitude->rows = 1;
    magnitude->col_at = of->row_at;
    magnitude->cols = of->rows;
}

/* module: "model.layers.0.self_attn.q_proj". */
static void add_adapter_params(struct builder *b, const char *module, enum slot slot, int part, int32_t layer)
{
    const char *format = "base_model.model.%s.lora_%c.weight";
    struct param *a = add_param(b, arena_printf(b->arena, format, module, 'A'), slot, layer, PART_A);
    struct param *m = add_param(b, arena_printf(b->arena, format, module, 'B'), slot, layer, PART_B);
    const int32_t *cols = b->out->stored[m->stored].part_cols;

    a->row_at = m->col_at = cols[part];
    a->rows = m->cols = cols[part + 1] - cols[part];
    a->cols = slot_inputs(b->config, slot);
    m->row_at = slot_part_at(b->config, slot, part);
    m->rows = slot_part_at(b->config, slot, part + 1) - m->row_at;
    if (b->out->has_dora)
        add_magnitude_param(b, module, slot, layer, m);
}

static void add_embed_adapter_params(struct builder *b)
{
    const char *format = "base_model.model.%sembed_tokens.lora_embedding_%c", *prefix = b->config->adapter_prefix;
    struct param *a = add_param(b, arena_printf(b->arena, format, prefix, 'A'), SLOT_EMBED, -1, PART_A);
    struct param *m = add_param(b, arena_printf(b->arena, format, prefix, 'B'), SLOT_EMBED, -1, PART_B);

    a->rows = b->config->vocab;
    m->rows = b->config->hidden;
    a->cols = m->cols = b->embed_choice.rank;
    a->is_transposed = true;
}

static void add_layer_params(struct builder *b, int32_t layer, bool is_adapter)
{
    const struct module *modules[LAYER_MODULES_MAX];
    int count = layer_modules(b->config, layer, modules);

    for (int i = 0; i < count; i++)
        if (!is_adapter && module_is_per_expert(modules[i]))
            for (int e = 0; e < b->config->moe.experts; e++)
                add_base_param(b, tensor_name(b, layer, modules[i], e), modules[i]->slot,
                               module_expert_part(modules[i], e), layer);
        else if (!is_adapter)
            add_base_param(b, tensor_name(b, layer, modules[i], 0), modules[i]->slot, modules[i]->part, layer);
        else if (b->choice[layer * LAYER_MODULES_MAX + i].rank)
            add_adapter_params(b, module_name(b, layer, modules[i]), modules[i]->slot, modules[i]->part, layer);
}

/* Adapters in the order of modules, which is that of PEFT's draws. */
static void add_all_params(struct builder *b)
{
    const char *prefix = b->config->tensor_prefix;

    add_base_param(b, arena_printf(b->arena, "%sembed_tokens.weight", prefix), SLOT_EMBED, 0, -1);
    for (int32_t layer = 0; layer < b->config->layers; layer++)
        add_layer_params(b, layer, false);
    add_base_param(b, arena_printf(b->arena, "%snorm.weight", prefix), SLOT_FINAL_NORM, 0, -1);
    if (has_own_head(b))
        add_base_param(b, params_head_name(b), SLOT_HEAD, 0, -1);
    if (b->embed_choice.rank)
        add_embed_adapter_params(b);
    for (int32_t layer = 0; layer < b->config->layers; layer++)
        add_layer_params(b, layer, true);
    if (b->head_choice.rank)
        add_adapter_params(b, head_module, SLOT_HEAD, 0, -1);
}

int param_shape(const struct param *param, uint64_t shape[3])
{
    uint64_t rows = (uint64_t)(param->is_transposed ? param->cols : param->rows);
    uint64_t cols = (uint64_t)(param->is_transposed ? param->rows : param->cols), experts = (uint64_t)param->experts;
    uint64_t shapes[2][2][3] = {{{rows, cols, 0}, {cols, 0, 0}},
                                {{experts, cols, experts ? rows / experts : 0},
                                 {experts, experts ? cols / experts : 0, 0}}};

    memcpy(shape, shapes[experts > 0][param->is_vector], sizeof shapes[0][0]);
    return 1 + !param->is_vector + (experts > 0);
}

bool params_make(struct arena *arena, const struct model_config *config, enum model_profile profile,
                 const struct lora_config *lora, bool is_trained, bool is_random, bool is_copied,
                 const struct safetensors_set *set, struct params *params, struct err *err)
{
    struct builder b = {.arena = arena, .config = config, .profile = profile, .lora = lora, .set = set,
                        .is_trained = is_trained, .out = params};
    size_t layers = (size_t)config->layers;

    *params = (struct params){.compute_type = compute_type(profile), .is_copied = is_copied};
    if (!check_quantization(&b, is_random, err))
        return false;
    params->master_type = profile == PROFILE_F64 ? DTYPE_F64 : DTYPE_F32;
    params->has_byte_moments = is_trained && profile == PROFILE_BYTE_MOMENTS;
    params->has_copy = is_trained && params->compute_type != params->master_type && !has_short_state(&b) &&
                       (is_copied || (lora && lora->rank));
    if (lora && lora->rank) {
        params->lora_rank = lora->rank;
        params->lora_dropout = (float)lora->dropout;
        params->has_dora = lora->is_dora;
    }
    b.choice = arena_new_array(arena, struct lora_choice, layers * LAYER_MODULES_MAX);
    b.is_saved = arena_new_array(arena, bool, layers * LAYER_MODULES_MAX);
    if (params->lora_rank && !choose_adapters(&b, err))
        return false;
    params->stored_at = b.stored_at = arena_new_array(arena, int32_t, stored_key(0, config->layers, 0));
    params->stored = arena_new_array(arena, struct stored, layers * STORED_LAYER_MAX + 3 * PART_COUNT);
    params->param = arena_new_array(arena, struct param,
                                    layers * (PARAM_LAYER_MAX + 3 * (size_t)config->moe.experts) + 3 * PART_COUNT);
    add_all_stored(&b);
    add_all_params(&b);
    if (!params_bind(&b, err))
        return false;
    if (!is_random)
        params_settle(&b);
    params_lay_out(&b);
    return true;
}

const struct param *params_find(const struct params *params, const char *name)
{
    for (int i = 0; i < params->count; i++)
        if (!strcmp(params->param[i].name, name))
            return &params->param[i];
    return NULL;
}

const struct param *param_at_row(const struct params *params, enum slot slot, int32_t layer, int32_t row)
{
    int w = params_stored(params, slot, layer, PART_W);

    if (w < 0)
        w = params_stored(params, SLOT_EMBED, -1, PART_W);
    for (int i = 0; i < params->count; i++)
        if (params->param[i].stored == w && params->param[i].row_at == row)
            return &params->param[i];
    return NULL;
}
