#include "api/integrations.h"

#include "hub/name.h"

#include <string.h>

enum {
    URI_BYTES_MAX = 2048,
    EXPERIMENT_NAME_MAX = 500,
    RUN_NAME_MAX = 250,
    TAGS_MAX = 64,
    TAG_NAME_MAX = 250,
    TAG_VALUE_MAX = 4000
};
enum { WANDB_NAME_MAX = 128, WANDB_TAGS_MAX = 50, WANDB_TAG_MAX = 64 };

struct reader {
    struct arena *arena;
    const struct integration_places *places;
    struct problems *problems;
    const char *place; /* "0.mlflow" */
};

static void wrong(struct reader *r, const char *type, const char *name, const char *what)
{
    problems_add(r->problems, type, "integrations", r->place, name, "integrations.%s%s%s: %s", r->place,
                 name ? "." : "", name ? name : "", what);
}

static bool is_text(const struct json *value, size_t characters_max)
{
    return value->type == JSON_STRING && value->string.len && utf8_length(value->string) <= characters_max &&
           !memchr(value->string.at, 0, value->string.len);
}

static void read_uri(struct reader *r, const struct json *value)
{
    struct outgoing_url url;
    struct err err = {0};

    if (json_is_null(value))
        wrong(r, "missing", "tracking_uri", "is required");
    else if (value->type != JSON_STRING)
        wrong(r, "string_type", "tracking_uri", "must be a string");
    else if (value->string.len > URI_BYTES_MAX)
        wrong(r, "string_too_long", "tracking_uri", "must be at most 2048 bytes");
    else if (!outgoing_url_parse(r->arena, value->string, &url, &err) ||
             !outgoing_find_rule(r->places->origins, &url, &err))
        wrong(r, "value_error", "tracking_uri", err.text);
    else if (strchr(url.rest, '?'))
        wrong(r, "value_error", "tracking_uri", "takes no query");
}

static void read_tags(struct reader *r, const struct json *tags)
{
    bool ok = tags->type == JSON_OBJECT && tags->count <= TAGS_MAX && !json_duplicate(tags).at;

    for
        json_each(tag, ok ? tags : NULL) ok = ok && tag->type == JSON_STRING && tag->key.len &&
                                              tag->key.len <= TAG_NAME_MAX && tag->string.len <= TAG_VALUE_MAX &&
                                              !memchr(tag->key.at, 0, tag->key.len);
    if (!ok)
        wrong(r, "value_error", "tags", "must be an object of at most 64 texts");
}

static void read_mlflow_member(struct reader *r, const struct json *member)
{
    /* Emptied at the door; here for their names alone. */
    static const char *const secrets[] = {"username", "password", "token", "certificate_file"};

    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        if (str_is(member->key, secrets[i]))
            return;
    if (member->type == JSON_NULL || str_is(member->key, "tracking_uri"))
        return;
    if (str_is(member->key, "tags"))
        read_tags(r, member);
    else if (str_is(member->key, "experiment_name") && !is_text(member, EXPERIMENT_NAME_MAX))
        wrong(r, "value_error", "experiment_name", "must be a text of 1 to 500 characters");
    else if (str_is(member->key, "run_name") && !is_text(member, RUN_NAME_MAX))
        wrong(r, "value_error", "run_name", "must be a text of 1 to 250 characters");
    else if (!str_is(member->key, "experiment_name") && !str_is(member->key, "run_name"))
        wrong(r, "extra_forbidden", str_copy(r->arena, str_clip(member->key, 64)), "is not known");
}

static const char *mlflow_config(struct reader *r, const struct json *mlflow)
{
    static const char *const echoed[] = {"tracking_uri", "experiment_name", "run_name"};
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *config;

    json_write_begin_object(&w);
    for (size_t i = 0; i < sizeof echoed / sizeof *echoed; i++)
        json_put_value(&w, echoed[i], json_get(mlflow, echoed[i]));
    json_write_key(&w, "tags");
    if (json_is_null(json_get(mlflow, "tags")))
        json_write_raw(&w, STR("{}"));
    else
        json_write_value(&w, json_get(mlflow, "tags"));
    json_write_end_object(&w);
    config = str_copy(r->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return config;
}

static void read_mlflow(struct reader *r, const struct json *mlflow, struct store_delivery *delivery)
{
    const int before = r->problems->count;
    struct str twice = json_duplicate(mlflow);

    if (json_is_null(mlflow) || mlflow->type != JSON_OBJECT) {
        wrong(r, "missing", NULL, "must be an object with tracking_uri");
        return;
    }
    if (twice.at)
        wrong(r, "value_error", str_copy(r->arena, str_clip(twice, 64)), "occurs twice");
    read_uri(r, json_get(mlflow, "tracking_uri"));
    for
        json_each(member, mlflow) read_mlflow_member(r, member);
    if (r->problems->count == before)
        delivery->config_json = mlflow_config(r, mlflow);
}

/* --- Weights & Biases --- */

static bool has_secret(const struct reader *r, const char *name, const char *project_name)
{
    const char *whole = arena_printf(r->arena, "integrations.%s.%s", r->place, name);

    for (size_t i = 0; i < r->places->secret_count; i++)
        if (strcmp(r->places->secrets[i].name, whole) == 0)
            return true;
    for (size_t i = 0; i < r->places->project_secrets->count; i++)
        if (strcmp(r->places->project_secrets->at[i].name, project_name) == 0)
            return true;
    return false;
}

/* What W&B takes for the name of a project; it becomes a part of a path. */
static bool is_wandb_name(const struct json *value)
{
    if (!is_text(value, WANDB_NAME_MAX) || str_is(value->string, ".") || str_is(value->string, ".."))
        return false;
    for (size_t i = 0; i < value->string.len; i++)
        if ((unsigned char)value->string.at[i] < ' ' || strchr("/\\#?%:", value->string.at[i]))
            return false;
    return true;
}

static bool are_wandb_tags(const struct json *tags)
{
    if (tags->type != JSON_ARRAY || tags->count > WANDB_TAGS_MAX)
        return false;
    for
        json_each(tag, tags) if (!is_text(tag, WANDB_TAG_MAX)) return false;
    return true;
}

static void read_wandb_member(struct reader *r, const struct json *member)
{
    if (member->type == JSON_NULL || str_is(member->key, "api_key"))
        return;
    if (str_is(member->key, "project") || str_is(member->key, "entity")) {
        if (!is_wandb_name(member))
            wrong(r, "value_error", str_copy(r->arena, member->key),
                  "must be a text of 1 to 128 characters without any of / \\ # ? % :");
    } else if (str_is(member->key, "name")) {
        if (!is_text(member, RUN_NAME_MAX))
            wrong(r, "value_error", "name", "must be a text of 1 to 250 characters");
    } else if (str_is(member->key, "tags")) {
        if (!are_wandb_tags(member))
            wrong(r, "value_error", "tags", "must be a list of at most 50 texts of 1 to 64 characters");
    } else {
        wrong(r, "extra_forbidden", str_copy(r->arena, str_clip(member->key, 64)), "is not known");
    }
}

static const char *wandb_config(struct reader *r, const struct json *wandb)
{
    static const char *const echoed[] = {"project", "name", "entity"};
    const struct json *tags = json_get(wandb, "tags");
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *config;

    json_write_begin_object(&w);
    for (size_t i = 0; i < sizeof echoed / sizeof *echoed; i++)
        json_put_value(&w, echoed[i], json_get(wandb, echoed[i]));
    json_write_key(&w, "tags");
    if (json_is_null(tags))
        json_write_raw(&w, STR("[]"));
    else
        json_write_value(&w, tags);
    json_write_end_object(&w);
    config = str_copy(r->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return config;
}

static void read_wandb(struct reader *r, const struct json *wandb, struct store_delivery *delivery)
{
    const int before = r->problems->count;
    struct outgoing_url url;
    struct err err = {0};

    if (json_is_null(wandb) || wandb->type != JSON_OBJECT) {
        wrong(r, "missing", NULL, "must be an object with project");
        return;
    }
    if (json_duplicate(wandb).at)
        wrong(r, "value_error", str_copy(r->arena, str_clip(json_duplicate(wandb), 64)), "occurs twice");
    if (json_is_null(json_get(wandb, "project")))
        wrong(r, "missing", "project", "is required");
    if (!has_secret(r, "api_key", "WANDB_API_KEY"))
        wrong(r, "missing", "api_key", "is required, here or as the project's secret WANDB_API_KEY");
    if (!outgoing_url_parse(r->arena, str_of(r->places->wandb_url), &url, &err) ||
        !outgoing_find_rule(r->places->origins, &url, &err))
        wrong(r, "value_error", NULL, err.text);
    for
        json_each(member, wandb) read_wandb_member(r, member);
    if (r->problems->count == before)
        delivery->config_json = wandb_config(r, wandb);
}

/* --- the Hub --- */

static void check_hub(struct reader *r, const struct json *hub)
{
    const struct json *name = json_get(hub, "output_repo_name");
    struct outgoing_url url;
    struct err err = {0};

    if (json_is_null(name))
        wrong(r, "missing", "output_repo_name", "is required");
    else if (name->type != JSON_STRING || !hub_name_is_repo(name->string))
        wrong(r, "value_error", "output_repo_name", "must be name or owner/name, of letters, digits and .-_");
    if (!has_secret(r, "api_token", "HF_TOKEN"))
        wrong(r, "missing", "api_token", "is required, here or as the project's secret HF_TOKEN");
    if (!outgoing_url_parse(r->arena, str_of(r->places->hub_url), &url, &err) ||
        !outgoing_find_rule(r->places->origins, &url, &err))
        wrong(r, "value_error", NULL, err.text);
    for
        json_each(member, hub) if (!str_is(member->key, "api_token") && !str_is(member->key, "output_repo_name"))
            wrong(r, "extra_forbidden", str_copy(r->arena, str_clip(member->key, 64)), "is not known");
}

static void read_hub(struct reader *r, const struct json *hub, struct store_delivery *delivery)
{
    const int before = r->problems->count;

    if (json_is_null(hub) || hub->type != JSON_OBJECT) {
        wrong(r, "missing", NULL, "must be an object with output_repo_name");
        return;
    }
    if (json_duplicate(hub).at)
        wrong(r, "value_error", str_copy(r->arena, str_clip(json_duplicate(hub), 64)), "occurs twice");
    check_hub(r, hub);
    if (r->problems->count == before)
        delivery->config_json = arena_printf(r->arena, "{\"output_repo_name\":\"%.*s\"}",
                                             STR_ARG(json_get(hub, "output_repo_name")->string));
}

/* --- all of them --- */

static const struct kind {
    const char *name;
    void (*read)(struct reader *r, const struct json *config, struct store_delivery *delivery);
} kinds[] = {{"hf", read_hub}, {"mlflow", read_mlflow}, {"wandb", read_wandb}};

static const struct kind *find_kind(struct str type)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (str_is(type, kinds[i].name))
            return &kinds[i];
    return NULL;
}

/* The type may be left out where the object of its name is there: Nebius' has a default. */
static struct str type_of(const struct json *entry)
{
    struct str type = json_string_or(json_get(entry, "type"), STR_NONE);

    for
        json_each(member, type.len ? NULL : entry) if (member->type == JSON_OBJECT) type = member->key;
    return type;
}

static void read_entry(struct reader *r, const struct json *entry, struct store_delivery *delivery)
{
    struct str type = type_of(entry);
    const struct kind *kind = find_kind(type);

    if (entry->type != JSON_OBJECT || !type.len) {
        wrong(r, "value_error", NULL, "must be an object with a type and an object of that name");
        return;
    }
    if (!kind) {
        wrong(r, "unsupported", NULL,
              arena_printf(r->arena, "%.*s is not there yet: hf, mlflow and wandb are", STR_ARG(str_clip(type, 64))));
        return;
    }
    for
        json_each(member, entry) if (!str_is(member->key, "type") && !str_is(member->key, kind->name))
            wrong(r, "extra_forbidden", str_copy(r->arena, str_clip(member->key, 64)), "is not known");
    r->place = arena_printf(r->arena, "%s.%s", r->place, kind->name);
    delivery->kind = kind->name;
    kind->read(r, json_get(entry, kind->name), delivery);
}

static const char *echo(struct arena *arena, const struct integrations *integrations)
{
    struct strbuf text = {0};
    const char *copy;

    for (size_t i = 0; i < integrations->count; i++)
        strbuf_printf(&text, "%s{\"type\":\"%s\",\"%s\":%s}", i ? "," : "[", integrations->at[i].kind,
                      integrations->at[i].kind, integrations->at[i].config_json);
    strbuf_add_char(&text, ']');
    copy = str_copy(arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return copy;
}

void integrations_read(struct arena *arena, const struct json *value, const struct integration_places *places,
                       struct integrations *integrations, struct problems *problems)
{
    const int before = problems->count;

    *integrations = (struct integrations){0};
    if (json_is_null(value) || (value->type == JSON_ARRAY && value->count == 0))
        return;
    if (value->type != JSON_ARRAY || value->count > INTEGRATIONS_MAX) {
        problems_add(problems, "list_type", "integrations", NULL, NULL, "integrations must be a list of at most %d",
                     INTEGRATIONS_MAX);
        return;
    }
    for
        json_each(entry, value)
        {
            const size_t position = integrations->count++;
            struct reader r = {arena, places, problems, arena_printf(arena, "%zu", position)};

            integrations->at[position].position = (int64_t)position;
            read_entry(&r, entry, &integrations->at[position]);
        }
    if (problems->count == before)
        integrations->echo_json = echo(arena, integrations);
}
