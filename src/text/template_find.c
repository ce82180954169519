#include "os/file.h"
#include "text/template.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define TOKENIZER_CONFIG_BYTES_MAX ((size_t)16 << 20)

static bool read_template(const char *path, struct arena *arena, struct str *source, struct err *err)
{
    return file_read(arena, path, TEMPLATE_SOURCE_BYTES_MAX, source, err);
}

static struct json *read_config(const char *folder, struct arena *arena, struct err *err)
{
    const char *path = path_join(arena, folder, "tokenizer_config.json");
    struct str text;
    struct json *config;

    if (!file_exists(path)) {
        err_set(err, ERR_NOT_FOUND,
                "the model has no chat template: neither chat_template.jinja nor tokenizer_config.json is there");
        return NULL;
    }
    if (!file_read(arena, path, TOKENIZER_CONFIG_BYTES_MAX, &text, err))
        return NULL;
    if (!(config = json_parse(arena, text, NULL, err)))
        err_prefix(err, "tokenizer_config.json");
    return config;
}

/* The string under `name` in a list of {name, template}. */
static const struct json *named_template(const struct json *list, const char *name)
{
    json_each(entry, list) {
        const struct json *template = json_get(entry, "template");
        if (json_is(json_get(entry, "name"), name) && template &&
            template->type == JSON_STRING)
            return template;
    }
    return NULL;
}

static bool template_of_config(const struct json *config, bool has_tools, struct str *source, struct err *err)
{
    const struct json *template = json_get(config, "chat_template"), *chosen = template;

    if (json_has_type(template, JSON_ARRAY)) {
        chosen = has_tools ? named_template(template, "tool_use") : NULL;
        chosen = chosen ? chosen : named_template(template, "default");
    }
    if (!json_has_type(chosen, JSON_STRING))
        return err_set(err, ERR_NOT_FOUND,
                       "the model has no chat template: tokenizer_config.json holds no chat_template%s",
                       json_has_type(template, JSON_ARRAY) ? " named 'default'" : "");
    *source = chosen->string;
    return true;
}

bool template_find(const char *folder, bool has_tools, struct arena *arena, struct str *source, struct err *err)
{
    const char *plain = path_join(arena, folder, "chat_template.jinja");
    const char *additional = path_join(arena, folder, "additional_chat_templates");
    const char *tool_use = path_join(arena, additional, "tool_use.jinja");
    const char *named_default = path_join(arena, additional, "default.jinja");
    struct json *config;

    if (has_tools && file_exists(tool_use))
        return read_template(tool_use, arena, source, err);
    if (file_exists(plain))
        return read_template(plain, arena, source, err);
    if (file_exists(named_default))
        return read_template(named_default, arena, source, err);
    return (config = read_config(folder, arena, err)) && template_of_config(config, has_tools, source, err);
}

bool template_time_parse(struct str text, int64_t *now)
{
    char copy[32];
    struct tm when = {0};
    int used = 0, used_time = 0;
    char separator;

    if (text.len >= sizeof copy || text.len == 0)
        return false;
    memcpy(copy, text.at, text.len);
    copy[text.len] = 0;
    if (sscanf(copy, "%4d-%2d-%2d%n", &when.tm_year, &when.tm_mon, &when.tm_mday, &used) != 3)
        return false;
    if (copy[used] &&
        sscanf(copy + used, "%c%2d:%2d:%2d%n", &separator, &when.tm_hour, &when.tm_min, &when.tm_sec, &used_time) != 4)
        return false;
    if (copy[used] && separator != 'T' && separator != ' ')
        return false;
    used += used_time;
    used += copy[used] == 'Z';
    if (copy[used] || when.tm_year < 1 || when.tm_mon < 1 || when.tm_mon > 12 || when.tm_mday < 1 ||
        when.tm_mday > 31 || when.tm_hour < 0 || when.tm_hour > 23 || when.tm_min < 0 || when.tm_min > 59 ||
        when.tm_sec < 0 || when.tm_sec > 59)
        return false;
    when.tm_year -= 1900;
    when.tm_mon--;
    *now = (int64_t)timegm(&when);
    return true;
}
