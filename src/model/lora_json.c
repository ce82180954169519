#include "model/lora.h"

#include <math.h>
#include <string.h>
#include <strings.h>

enum { LIST_MAX = 4096, NAME_BYTES_MAX = 512 };

/* Names are C strings from here on. */
static bool is_name(struct str text)
{
    return text.len > 0 && text.len <= NAME_BYTES_MAX && !memchr(text.at, 0, text.len);
}

static bool copy_name(struct arena *arena, const struct json *value, const char *key, const char **name,
                      struct err *err)
{
    if (value->type != JSON_STRING || !is_name(value->string))
        return err_set(err, ERR_INPUT, "%s must hold names of 1 to %d bytes", key, NAME_BYTES_MAX);
    *name = str_copy(arena, value->string);
    return true;
}

/* A list of names, or one text that is an expression. "all-linear" as text is what absence means. */
static bool read_names(struct arena *arena, const struct json *value, const char *key, bool is_regex_allowed,
                       struct lora_names *names, struct err *err)
{
    const char **list;

    if (json_is_null(value))
        return true;
    if (is_regex_allowed && value->type == JSON_STRING) {
        *names = (struct lora_names){0};
        return (value->string.len == 10 && !strncasecmp(value->string.at, "all-linear", 10)) ||
               copy_name(arena, value, key, &names->regex, err);
    }
    if (value->type != JSON_ARRAY || value->count > LIST_MAX)
        return err_set(err, ERR_INPUT, "%s must be a list of at most %d names%s", key, LIST_MAX,
                       is_regex_allowed ? " or one regular expression" : "");
    list = arena_new_array(arena, const char *, (size_t)value->count + 1);
    *names = (struct lora_names){.name = list};
    json_each(item, value)
        if (!copy_name(arena, item, key, &list[names->count++], err))
            return false;
    return true;
}

static bool add_layer(struct lora_config *config, int32_t *layers, const struct json *value, struct err *err)
{
    if (value->type != JSON_NUMBER || !value->is_integer || value->integer < 0 || value->integer > INT32_MAX)
        return err_set(err, ERR_INPUT, "layers_to_transform must be the number of a layer or a list of such numbers");
    layers[config->layer_count++] = (int32_t)value->integer;
    return true;
}

static bool read_layers(struct arena *arena, const struct json *value, struct lora_config *config, struct err *err)
{
    int32_t *layers;

    if (json_is_null(value) || (value->type == JSON_ARRAY && value->count == 0))
        return true;
    if (value->type == JSON_ARRAY && value->count > LIST_MAX)
        return err_set(err, ERR_INPUT, "layers_to_transform must be a list of at most %d layers", LIST_MAX);
    layers = arena_new_array(arena, int32_t, value->type == JSON_ARRAY ? value->count : 1);
    config->layers = layers;
    if (value->type != JSON_ARRAY)
        return add_layer(config, layers, value, err);
    json_each(item, value)
        if (!add_layer(config, layers, item, err))
            return false;
    return true;
}

static bool read_patterns(struct arena *arena, const struct json *value, const char *key,
                          struct lora_patterns *patterns, struct err *err)
{
    struct lora_pattern *list;

    if (json_is_null(value))
        return true;
    if (value->type != JSON_OBJECT || value->count > LIST_MAX)
        return err_set(err, ERR_INPUT, "%s must be an object of numbers by names", key);
    list = arena_new_array(arena, struct lora_pattern, (size_t)value->count + 1);
    *patterns = (struct lora_patterns){.at = list};
    json_each(item, value) {
        if (item->type != JSON_NUMBER || !isfinite(json_number(item)) || !is_name(item->key))
            return err_set(err, ERR_INPUT, "%s must be an object of numbers by names", key);
        list[patterns->count++] = (struct lora_pattern){str_copy(arena, item->key), json_number(item)};
    }
    return true;
}

static bool read_bool(const struct json *object, const char *key, bool *value, struct err *err)
{
    const struct json *member = json_get(object, key);

    if (!json_is_null(member) && member->type != JSON_BOOL)
        return err_set(err, ERR_INPUT, "%s must be true or false", key);
    *value = json_bool_or(member, *value);
    return true;
}

static bool read_targets(struct arena *arena, const struct json *object, const char *key, struct lora_config *config,
                         struct err *err)
{
    if (!read_names(arena, json_get(object, key), key, true, &config->targets, err))
        return false;
    return !config->targets.name || config->targets.count || err_set(err, ERR_INPUT, "%s must name modules", key);
}

bool lora_json_read(struct arena *arena, const struct json *object, const char *targets, struct lora_config *config,
                    struct err *err)
{
    return read_targets(arena, object, targets, config, err) &&
           read_names(arena, json_get(object, "exclude_modules"), "exclude_modules", true, &config->excluded, err) &&
           read_names(arena, json_get(object, "modules_to_save"), "modules_to_save", false, &config->saved, err) &&
           read_layers(arena, json_get(object, "layers_to_transform"), config, err) &&
           read_patterns(arena, json_get(object, "rank_pattern"), "rank_pattern", &config->rank_pattern, err) &&
           read_patterns(arena, json_get(object, "alpha_pattern"), "alpha_pattern", &config->alpha_pattern, err) &&
           read_bool(object, "use_rslora", &config->is_rslora, err) &&
           read_bool(object, "use_dora", &config->is_dora, err);
}

void lora_json_write_names(struct json_writer *writer, const struct lora_names *names)
{
    if (names->regex || !names->name) {
        json_write_text(writer, names->regex);
        return;
    }
    json_write_begin_array(writer);
    for (int i = 0; i < names->count; i++)
        json_write_text(writer, names->name[i]);
    json_write_end_array(writer);
}

void lora_json_write_layers(struct json_writer *writer, const struct lora_config *config)
{
    if (!config->layers) {
        json_write_null(writer);
        return;
    }
    json_write_begin_array(writer);
    for (int i = 0; i < config->layer_count; i++)
        json_write_integer(writer, config->layers[i]);
    json_write_end_array(writer);
}

void lora_json_write_patterns(struct json_writer *writer, const struct lora_patterns *patterns)
{
    if (patterns->count == 0) {
        json_write_raw(writer, STR("{}"));
        return;
    }
    json_write_begin_object(writer);
    for (int i = 0; i < patterns->count; i++)
        json_put_number(writer, patterns->at[i].regex, patterns->at[i].value);
    json_write_end_object(writer);
}
