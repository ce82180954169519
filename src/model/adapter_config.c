/* adapter_config.json as PEFT writes and reads it. */
#include "model/checkpoint_int.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ADAPTER_CONFIG_BYTES_MAX = 1 << 20 };

/* Members that are read, and those that change nothing of what an adapter computes: where it came from, and how values
 * were drawn that its file now holds. Whatever else is not blank is another kind of adapter. */
static const char *const known[] = {"alpha_pattern",
                                    "auto_mapping",
                                    "base_model_name_or_path",
                                    "bias",
                                    "corda_config",
                                    "ensure_weight_tying",
                                    "eva_config",
                                    "exclude_modules",
                                    "inference_mode",
                                    "init_lora_weights",
                                    "layers_pattern",
                                    "layers_to_transform",
                                    "loftq_config",
                                    "lora_alpha",
                                    "lora_dropout",
                                    "lora_ga_config",
                                    "megatron_core",
                                    "modules_to_save",
                                    "peft_type",
                                    "peft_version",
                                    "qalora_group_size",
                                    "r",
                                    "rank_pattern",
                                    "revision",
                                    "runtime_config",
                                    "target_modules",
                                    "task_type",
                                    "use_dora",
                                    "use_rslora"};

static bool is_blank(const struct json *value)
{
    return json_is_null(value) || (value->type == JSON_BOOL && !value->boolean) ||
           ((value->type == JSON_OBJECT || value->type == JSON_ARRAY) && value->count == 0);
}

static bool is_known(struct str key)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_is(key, known[i]))
            return true;
    return false;
}

static bool refuse_unless(const struct json *root, const char *key, const char *const *values, int count,
                          struct err *err)
{
    const struct json *value = json_get(root, key);

    if (json_is_null(value) || (value->type == JSON_BOOL && count > 1))
        return true;
    for (int i = 0; i < count; i++)
        if (value->type == JSON_STRING && str_is(value->string, values[i]))
            return true;
    return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: %s %.*s is not supported; \"%s\" is", key,
                   STR_ARG(value->type == JSON_STRING ? str_slice(value->string, 0, 64) : STR("of another type")),
                   values[0]);
}

/* Ways to draw first values that leave the base as it is: PiSSA, OLoRA, CorDA, LoftQ and the like change it. */
static bool check_kind(const struct json *root, struct err *err)
{
    static const char *const kinds[] = {"LORA"}, *const biases[] = {"none"}, *const tasks[] = {"CAUSAL_LM"};
    static const char *const inits[] = {"gaussian", "eva", "orthogonal"}, *const patterns[] = {"layers"};
    const struct json *pattern = json_get(root, "layers_pattern");

    if (!refuse_unless(root, "peft_type", kinds, 1, err) || !refuse_unless(root, "bias", biases, 1, err) ||
        !refuse_unless(root, "task_type", tasks, 1, err) || !refuse_unless(root, "init_lora_weights", inits, 3, err))
        return false;
    if (json_has_type(pattern, JSON_ARRAY) && pattern->count == 1)
        pattern = pattern->first;
    if (!is_blank(pattern) && !json_is(pattern, patterns[0]))
        return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: layers_pattern is not supported but as \"layers\"");
    if (json_bool_or(json_get(root, "ensure_weight_tying"), false))
        return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: ensure_weight_tying is not supported");
    json_each(member, root)
        if (!is_known(member->key) && !is_blank(member))
            return err_set(err, ERR_UNSUPPORTED, "adapter_config.json: %.*s is not supported",
                           STR_ARG(str_slice(member->key, 0, 64)));
    return true;
}

static bool read_values(struct arena *arena, const struct json *root, struct lora_config *lora, struct err *err)
{
    const struct json *targets = json_get(root, "target_modules");
    int64_t rank = json_integer_or(json_get(root, "r"), 0);

    lora->alpha = json_number_or(json_get(root, "lora_alpha"), 0);
    lora->dropout = json_number_or(json_get(root, "lora_dropout"), 0);
    if (rank < 1 || rank > LORA_RANK_MAX || !(lora->alpha > 0) || !(lora->dropout >= 0 && lora->dropout < 1))
        return err_set(err, ERR_INPUT, "r must be from 1 to %d, lora_alpha above 0, lora_dropout from 0 to below 1",
                       LORA_RANK_MAX);
    lora->rank = (int32_t)rank;
    if (json_is_null(targets) || (targets->type == JSON_ARRAY && targets->count == 0))
        return err_set(err, ERR_UNSUPPORTED, "target_modules must name modules or be \"all-linear\"");
    return lora_json_read(arena, root, "target_modules", lora, err);
}

bool adapter_config_read(struct arena *arena, const char *folder, struct lora_config *lora, struct err *err)
{
    const struct json *root;
    struct str text;

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
    return read_values(arena, root, lora, err) || err_prefix(err, "adapter_config.json");
}

/* Inside a larger model a short name could mean other parts too: every module is named in full. */
static void write_full_targets(struct json_writer *json, const struct params *params)
{
    struct str before = STR("base_model.model.");

    for (int i = 0; i < params->count; i++) {
        struct str name = str_of(params->param[i].name);
        if (params->stored[params->param[i].stored].part == PART_A)
            json_write_string(json, str_slice(name, before.len, (size_t)str_find(name, STR(".lora_"), 0)));
    }
}

/* A default is spelled out: other readers have other ones. */
static void write_targets(struct json_writer *json, const struct model *m)
{
    struct arena arena = {0};
    struct linear_names all = linear_names(&arena, &m->config, true);
    struct lora_names targets = m->lora.targets;

    if (!targets.name && !targets.regex)
        targets = (struct lora_names){.name = all.name, .count = all.count};
    json_write_key(json, "target_modules");
    if (strcmp(m->config.tensor_prefix, "model.")) {
        json_write_begin_array(json);
        write_full_targets(json, &m->params);
        json_write_end_array(json);
    } else {
        lora_json_write_names(json, &targets);
    }
    arena_deinit(&arena);
}

/* Sorted keys, two spaces: as PEFT's own file. An alpha that is whole is written as an integer. */
void adapter_config_write(struct strbuf *out, const struct model *m, const char *base_name)
{
    struct json_writer json = {.buf = out, .indent = 2};
    const struct lora_config *lora = &m->lora;

    json_write_begin_object(&json);
    json_write_key(&json, "alpha_pattern");
    lora_json_write_patterns(&json, &lora->alpha_pattern);
    json_put_null(&json, "auto_mapping");
    json_put_text(&json, "base_model_name_or_path", base_name);
    json_put_text(&json, "bias", "none");
    if (lora->excluded.name || lora->excluded.regex) { /* younger than the other members */
        json_write_key(&json, "exclude_modules");
        lora_json_write_names(&json, &lora->excluded);
    }
    json_put_bool(&json, "fan_in_fan_out", false);
    json_put_bool(&json, "inference_mode", true);
    json_put_bool(&json, "init_lora_weights", true);
    json_put_null(&json, "layers_pattern");
    json_write_key(&json, "layers_to_transform");
    lora_json_write_layers(&json, lora);
    json_put_number(&json, "lora_alpha", lora->alpha);
    json_put_number(&json, "lora_dropout", lora->dropout);
    json_write_key(&json, "modules_to_save");
    lora_json_write_names(&json, &lora->saved);
    json_put_text(&json, "peft_type", "LORA");
    json_put_integer(&json, "r", lora->rank);
    json_write_key(&json, "rank_pattern");
    lora_json_write_patterns(&json, &lora->rank_pattern);
    json_put_null(&json, "revision");
    write_targets(&json, m);
    json_put_text(&json, "task_type", "CAUSAL_LM");
    json_put_bool(&json, "use_dora", lora->is_dora);
    json_put_bool(&json, "use_rslora", lora->is_rslora);
    json_write_end_object(&json);
    strbuf_add_char(out, '\n');
}
