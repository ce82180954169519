/* adapter_config.json as PEFT writes and reads it. */
#include "model/checkpoint_int.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ADAPTER_CONFIG_BYTES_MAX = 1 << 20, TARGETS_MAX = 4096 };

/* Members that change what the adapter computes; anything but absent, null, false, "none" or empty is another kind of
 * adapter. */
static const char *const refused[] = {
    "use_dora",          "lora_bias",           "fan_in_fan_out", "modules_to_save", "rank_pattern",
    "alpha_pattern",     "layers_to_transform", "layers_pattern", "exclude_modules", "trainable_token_indices",
    "target_parameters", "layer_replication",   "megatron_config"};

static bool is_blank(const struct json *value)
{
    return json_is_null(value) || (value->type == JSON_BOOL && !value->boolean) ||
           ((value->type == JSON_OBJECT || value->type == JSON_ARRAY) && value->count == 0);
}

static bool check_kind(const struct json *root, struct err *err)
{
    struct str kind = json_string_or(json_get(root, "peft_type"), STR("LORA"));
    struct str bias = json_string_or(json_get(root, "bias"), STR("none"));

    if (!str_is(kind, "LORA"))
        return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: peft_type %.*s is not supported; LORA is",
                       STR_ARG(str_slice(kind, 0, 64)));
    if (!str_is(bias, "none"))
        return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: bias other than \"none\" is not supported");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!is_blank(json_get(root, refused[i])))
            return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: %s is not supported", refused[i]);
    return true;
}

static bool read_targets(struct arena *arena, const struct json *root, struct lora_config *lora, struct err *err)
{
    const struct json *list = json_get(root, "target_modules");
    const char **targets;

    if (list && list->type == JSON_STRING && list->string.len == 10 && !strncasecmp(list->string.at, "all-linear", 10))
        return true; /* targets NULL: all */
    if (!list || list->type != JSON_ARRAY || !list->count || list->count > TARGETS_MAX)
        return err_set(err, ERR_UNSUPPORTED,
                       "adapter_config.json: target_modules must be a list of module names or \"all-linear\"");
    targets = arena_new_array(arena, const char *, list->count);
    for
        json_each(item, list)
        {
            if (item->type != JSON_STRING || !item->string.len || item->string.len > 256)
                return err_set(err, ERR_INPUT, "adapter_config.json: target_modules must hold names");
            targets[lora->target_count++] = str_copy(arena, item->string);
        }
    lora->targets = targets;
    return true;
}

bool adapter_config_read(struct arena *arena, const char *folder, struct lora_config *lora, struct err *err)
{
    const struct json *root;
    struct str text;
    int64_t rank;

    *lora = (struct lora_config){0};
    if (!file_read(arena, path_join(arena, folder, "adapter_config.json"), ADAPTER_CONFIG_BYTES_MAX, &text, err))
        return false;
    root = json_parse(arena, text, NULL, err);
    if (!root)
        return err_prefix(err, "adapter_config.json");
    if (root->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "adapter_config.json must be an object");
    if (!check_kind(root, err))
        return false;
    rank = json_integer_or(json_get(root, "r"), 0);
    lora->alpha = json_number_or(json_get(root, "lora_alpha"), 0);
    lora->dropout = json_number_or(json_get(root, "lora_dropout"), 0);
    lora->is_rslora = json_bool_or(json_get(root, "use_rslora"), false);
    if (rank < 1 || rank > 512 || !(lora->alpha > 0) || !(lora->dropout >= 0 && lora->dropout < 1))
        return err_set(
            err, ERR_INPUT,
            "adapter_config.json: r must be from 1 to 512, lora_alpha above 0, lora_dropout from 0 to below 1");
    lora->rank = (int32_t)rank;
    return read_targets(arena, root, lora, err);
}

/* Inside a larger model a short name could mean other parts too: every module is named in full. */
static void write_full_targets(struct json_writer *json, const struct params *params)
{
    struct str before = STR("base_model.model."), behind = STR(".lora_A.weight");

    for (int i = 0; i < params->count; i++) {
        struct str name = str_of(params->param[i].name);
        if (params->stored[params->param[i].stored].part == PART_A)
            json_write_string(json, str_slice(name, before.len, name.len - behind.len));
    }
}

static void write_targets(struct json_writer *json, const struct model *m)
{
    struct arena arena = {0};
    struct linear_names all = linear_names(&arena, &m->config, true);
    const char *const *targets = m->lora.targets ? m->lora.targets : all.name;
    int count = m->lora.targets ? m->lora.target_count : all.count;

    json_write_key(json, "target_modules");
    json_write_begin_array(json);
    if (strcmp(m->config.tensor_prefix, "model."))
        write_full_targets(json, &m->params);
    else
        for (int i = 0; i < count; i++)
            json_write_text(json, targets[i]);
    json_write_end_array(json);
    arena_deinit(&arena);
}

/* Sorted keys, two spaces: as PEFT's own file. An alpha that is whole is written as an integer. */
void adapter_config_write(struct strbuf *out, const struct model *m, const char *base_name)
{
    struct json_writer json = {.buf = out, .indent = 2};
    const struct lora_config *lora = &m->lora;

    json_write_begin_object(&json);
    json_write_key(&json, "alpha_pattern");
    json_write_raw(&json, STR("{}"));
    json_put_null(&json, "auto_mapping");
    json_put_text(&json, "base_model_name_or_path", base_name);
    json_put_text(&json, "bias", "none");
    json_put_bool(&json, "fan_in_fan_out", false);
    json_put_bool(&json, "inference_mode", true);
    json_put_bool(&json, "init_lora_weights", true);
    json_put_null(&json, "layers_pattern");
    json_put_null(&json, "layers_to_transform");
    json_put_number(&json, "lora_alpha", lora->alpha);
    json_put_number(&json, "lora_dropout", lora->dropout);
    json_put_null(&json, "modules_to_save");
    json_put_text(&json, "peft_type", "LORA");
    json_put_integer(&json, "r", lora->rank);
    json_write_key(&json, "rank_pattern");
    json_write_raw(&json, STR("{}"));
    json_put_null(&json, "revision");
    write_targets(&json, m);
    json_put_text(&json, "task_type", "CAUSAL_LM");
    json_put_bool(&json, "use_dora", false);
    json_put_bool(&json, "use_rslora", lora->is_rslora);
    json_write_end_object(&json);
    strbuf_add_char(out, '\n');
}
