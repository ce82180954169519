#include "api/integrations.h"

#include "hub/name.h"

#include <string.h>

enum { URI_BYTES_MAX = 2048, TAGS_MAX = 64, TAG_NAME_MAX = 250, TAG_VALUE_MAX = 4000 };
enum { WANDB_TAGS_MAX = 50, WANDB_TAG_MAX = 64 };

struct reader {
    struct arena *arena;
    const struct integration_places *places;
    struct problems *problems;
    const char *place; /* "0.mlflow" */
};

/* A member of an integration's object. Without a reader it is a secret, which has left the request before. */
struct member {
    const char *name;
    void (*read)(struct reader *r, const struct member *member, const struct json *value);
    int characters_max; /* of a text */
    bool is_required;
    const char *absent; /* what is echoed then; NULL: null */
};

static void wrong(struct reader *r, const char *type, const char *name, const char *what)
{
    problems_add(r->problems, type, "integrations", r->place, name, "integrations.%s%s%s: %s", r->place,
                 name ? "." : "", name ? name : "", what);
}

static void not_known(struct reader *r, struct str name)
{
    wrong(r, "extra_forbidden", str_copy(r->arena, str_clip(name, 64)), "is not known");
}

/* --- values --- */

static bool is_text(const struct json *value, int characters_max)
{
    return value->type == JSON_STRING && value->string.len && utf8_length(value->string) <= (size_t)characters_max &&
           !memchr(value->string.at, 0, value->string.len);
}

static void read_text(struct reader *r, const struct member *member, const struct json *value)
{
    if (!is_text(value, member->characters_max))
        wrong(r, "value_error", member->name,
              arena_printf(r->arena, "must be a text of 1 to %d characters", member->characters_max));
}

/* What becomes a part of a path at W&B. */
static void read_name(struct reader *r, const struct member *member, const struct json *value)
{
    bool ok = is_text(value, member->characters_max) && !str_is(value->string, ".") && !str_is(value->string, "..");

    for (size_t i = 0; ok && i < value->string.len; i++)
        ok = (unsigned char)value->string.at[i] >= ' ' && !strchr("/\\#?%:", value->string.at[i]);
    if (!ok)
        wrong(r, "value_error", member->name,
              arena_printf(r->arena, "must be a text of 1 to %d characters without any of / \\ # ? %% :",
                           member->characters_max));
}

static void read_bool(struct reader *r, const struct member *member, const struct json *value)
{
    if (value->type != JSON_BOOL)
        wrong(r, "bool_type", member->name, "must be true or false");
}

static void read_repo(struct reader *r, const struct member *member, const struct json *value)
{
    if (value->type != JSON_STRING || !hub_name_is_repo(value->string))
        wrong(r, "value_error", member->name, "must be name or owner/name, of letters, digits and .-_");
}

static void read_uri(struct reader *r, const struct member *member, const struct json *value)
{
    struct outgoing_url url;
    struct err err = {0};

    if (value->type != JSON_STRING)
        wrong(r, "string_type", member->name, "must be a string");
    else if (value->string.len > URI_BYTES_MAX)
        wrong(r, "string_too_long", member->name, "must be at most 2048 bytes");
    else if (!outgoing_url_parse(r->arena, value->string, &url, &err) ||
             !outgoing_find_rule(r->places->origins, &url, &err))
        wrong(r, "value_error", member->name, err.text);
    else if (strchr(url.rest, '?'))
        wrong(r, "value_error", member->name, "takes no query");
}

static void read_tag_map(struct reader *r, const struct member *member, const struct json *tags)
{
    bool ok = tags->type == JSON_OBJECT && tags->count <= TAGS_MAX && !json_duplicate(tags).at;

    json_each(tag, ok ? tags : NULL)
        ok = ok && tag->type == JSON_STRING && tag->key.len && tag->key.len <= TAG_NAME_MAX &&
             tag->string.len <= TAG_VALUE_MAX && !memchr(tag->key.at, 0, tag->key.len);
    if (!ok)
        wrong(r, "value_error", member->name, "must be an object of at most 64 texts");
}

static void read_tag_list(struct reader *r, const struct member *member, const struct json *tags)
{
    bool ok = tags->type == JSON_ARRAY && tags->count <= WANDB_TAGS_MAX;

    json_each(tag, ok ? tags : NULL)
        ok = ok && is_text(tag, WANDB_TAG_MAX);
    if (!ok)
        wrong(r, "value_error", member->name, "must be a list of at most 50 texts of 1 to 64 characters");
}

/* --- kinds --- */

static const struct member hub_members[] = {
    {"output_repo_name", read_repo, .is_required = true},
    {.name = "api_token"},
    {0},
};
static const struct member mlflow_members[] = {
    {"tracking_uri", read_uri, .is_required = true},
    {"experiment_name", read_text, .characters_max = 500},
    {"run_name", read_text, .characters_max = 250},
    {"tags", read_tag_map, .absent = "{}"},
    {"log_artifacts", read_bool, .absent = "false"},
    {.name = "username"},
    {.name = "password"},
    {.name = "token"},
    {.name = "certificate_file"},
    {0},
};
static const struct member wandb_members[] = {
    {"project", read_name, .characters_max = 128, .is_required = true},
    {"name", read_text, .characters_max = 250},
    {"entity", read_name, .characters_max = 128},
    {"tags", read_tag_list, .absent = "[]"},
    {.name = "api_key"},
    {0},
};

static const char *hub_url(const struct integration_places *places)
{
    return places->hub_url;
}

static const char *wandb_url(const struct integration_places *places)
{
    return places->wandb_url;
}

static const struct kind {
    const char *name;
    const struct member *members;                                /* in the order in which they are echoed */
    const char *(*url)(const struct integration_places *places); /* NULL: a member names it */
} kinds[] = {{"hf", hub_members, hub_url}, {"mlflow", mlflow_members, NULL}, {"wandb", wandb_members, wandb_url}};

static const struct kind *find_kind(struct str name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (str_is(name, kinds[i].name))
            return &kinds[i];
    return NULL;
}

static const struct member *find_member(const struct kind *kind, struct str name)
{
    for (const struct member *member = kind->members; member->name; member++)
        if (str_is(name, member->name))
            return member;
    return NULL;
}

static bool has_project_secret(const struct reader *r, struct str name)
{
    for (size_t i = 0; i < r->places->project_secrets->count; i++)
        if (str_is(name, r->places->project_secrets->at[i].name))
            return true;
    return false;
}

/* "<secret>_secret": the project's secret of that name stands for one of the kind's. */
static bool is_reference(const struct kind *kind, struct str name)
{
    const struct member *member;

    if (!str_ends(name, STR("_secret")))
        return false;
    member = find_member(kind, str_slice(name, 0, name.len - strlen("_secret")));
    return member && !member->read;
}

/* Whoever names the service, too, could have the secret sent where they read it. */
static void read_reference(struct reader *r, const struct kind *kind, const struct json *value)
{
    const char *name = str_copy(r->arena, value->key);

    if (!kind->url && !r->places->may_name_secrets)
        wrong(r, "value_error", name, "is for keys that administer, for the request names the service, too");
    else if (value->type != JSON_STRING || !has_project_secret(r, value->string))
        wrong(r, "value_error", name, "must be the name of a secret of the project");
}

static bool has_secret(const struct reader *r, const struct json *config, const char *name, const char *project_name)
{
    if (!json_is_null(json_get(config, arena_printf(r->arena, "%s_secret", name))))
        return true;
    for (size_t i = 0; i < r->places->secret_count; i++)
        if (strcmp(r->places->secrets[i].name, arena_printf(r->arena, "integrations.%s.%s", r->place, name)) == 0)
            return true;
    return has_project_secret(r, str_of(project_name));
}

static void check_service(struct reader *r, const struct kind *kind, const struct json *config)
{
    const char *secret, *project_secret = store_delivery_project_secret(kind->name, &secret);
    struct outgoing_url url;
    struct err err = {0};

    if (project_secret && !has_secret(r, config, secret, project_secret))
        wrong(r, "missing", secret,
              arena_printf(r->arena, "is required, here or as the project's secret %s", project_secret));
    if (kind->url && (!outgoing_url_parse(r->arena, str_of(kind->url(r->places)), &url, &err) ||
                      !outgoing_find_rule(r->places->origins, &url, &err)))
        wrong(r, "value_error", NULL, err.text);
}

static const char *config_text(struct reader *r, const struct kind *kind, const struct json *config)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *copy;

    json_write_begin_object(&w);
    for (const struct member *member = kind->members; member->name; member++) {
        const struct json *value = json_get(config, member->name);

        if (!member->read)
            continue;
        json_write_key(&w, member->name);
        if (json_is_null(value))
            json_write_raw(&w, str_of(member->absent ? member->absent : "null"));
        else
            json_write_value(&w, value);
    }
    json_each(value, config)
        if (value->type != JSON_NULL && is_reference(kind, value->key)) {
            json_write_key_str(&w, value->key);
            json_write_value(&w, value);
        }
    json_write_end_object(&w);
    copy = str_copy(r->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return copy;
}

static void read_members(struct reader *r, const struct kind *kind, const struct json *config)
{
    struct str twice = json_duplicate(config);

    if (twice.at)
        wrong(r, "value_error", str_copy(r->arena, str_clip(twice, 64)), "occurs twice");
    for (const struct member *member = kind->members; member->name; member++)
        if (member->is_required && json_is_null(json_get(config, member->name)))
            wrong(r, "missing", member->name, "is required");
    json_each(value, config) {
        const struct member *member = find_member(kind, value->key);

        if (!member && value->type != JSON_NULL && is_reference(kind, value->key))
            read_reference(r, kind, value);
        else if (!member && value->type != JSON_NULL)
            not_known(r, value->key);
        else if (member && member->read && value->type != JSON_NULL)
            member->read(r, member, value);
    }
}

static void read_config(struct reader *r, const struct kind *kind, const struct json *config,
                        struct store_delivery *delivery)
{
    const int before = r->problems->count;

    if (json_is_null(config) || config->type != JSON_OBJECT) {
        wrong(r, "missing", NULL, arena_printf(r->arena, "must be an object with %s", kind->members->name));
        return;
    }
    read_members(r, kind, config);
    check_service(r, kind, config);
    if (r->problems->count == before)
        delivery->config_json = config_text(r, kind, config);
}

/* --- entries --- */

/* The type may be left out where the object of its name is there: Nebius' has a default. */
static struct str type_of(const struct json *entry)
{
    struct str type = json_string_or(json_get(entry, "type"), STR_NONE);

    json_each(member, type.len ? NULL : entry)
        if (member->type == JSON_OBJECT)
            type = member->key;
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
    json_each(member, entry)
        if (!str_is(member->key, "type") && !str_is(member->key, kind->name))
            not_known(r, member->key);
    r->place = arena_printf(r->arena, "%s.%s", r->place, kind->name);
    delivery->kind = kind->name;
    read_config(r, kind, json_get(entry, kind->name), delivery);
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
    json_each(entry, value) {
        const size_t position = integrations->count++;
        struct reader r = {arena, places, problems, arena_printf(arena, "%zu", position)};

        integrations->at[position].position = (int64_t)position;
        read_entry(&r, entry, &integrations->at[position]);
    }
    if (problems->count == before)
        integrations->echo_json = echo(arena, integrations);
}
