#include "api/api_int.h"
#include "hub/cache.h"
#include "hub/name.h"
#include "os/file.h"

#include <string.h>

enum { DEPTH_MAX = 3, MODELS_MAX = 10000 };

/* --- base models on disk --- */

/* A name becomes a path: only these, and no segment that begins with a dot. */
static bool is_safe_name(struct str name)
{
    bool at_start = true;

    if (name.len == 0 || name.len > 512)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.at[i];
        if (at_start && (c == '.' || c == '/'))
            return false;
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-_./", c))))
            return false;
        at_start = c == '/';
    }
    return !at_start;
}

static bool is_model_folder(struct arena *arena, const char *path)
{
    return file_exists(path_join(arena, path, "config.json"));
}

struct base_list {
    struct arena *arena;
    struct model_place *at;
    size_t count, cap;
};

static void add_base(struct base_list *list, const char *id, const char *path)
{
    if (list->count == MODELS_MAX)
        return;
    if (list->count == list->cap) {
        struct model_place *more = arena_new_array(list->arena, struct model_place, list->cap ? list->cap * 2 : 16);
        if (list->count)
            memcpy(more, list->at, list->count * sizeof *more);
        list->cap = list->cap ? list->cap * 2 : 16;
        list->at = more;
    }
    list->at[list->count++] =
        (struct model_place){.id = id, .base_id = id, .path = path, .created = file_changed_at(path)};
}

/* Folders with a config.json, at most DEPTH_MAX below models_dir. */
static void scan_models(struct base_list *list, const char *folder, const char *prefix, int depth)
{
    char **names;
    size_t count;

    if (!dir_list(list->arena, folder, &names, &count, NULL))
        return;
    for (size_t i = 0; i < count; i++) {
        const char *path = path_join(list->arena, folder, names[i]);
        const char *id = arena_printf(list->arena, "%s%s", prefix, names[i]);
        if (!is_safe_name(str_of(names[i])) || !dir_exists(path))
            continue;
        if (is_model_folder(list->arena, path))
            add_base(list, id, path);
        else if (depth < DEPTH_MAX)
            scan_models(list, path, arena_printf(list->arena, "%s/", id), depth + 1);
    }
}

static bool on_hub_model(void *context, const char *repo, const char *folder)
{
    add_base(context, repo, folder);
    return true;
}

/* What a token of the project has opened. */
static const char *own_cache(struct call *call)
{
    return hub_cache_of_project(call->arena, call->api->config.data_dir, call->tenant.project_id);
}

static struct base_list list_bases(struct call *call)
{
    struct base_list list = {.arena = call->arena};

    if (call->api->config.models_dir)
        scan_models(&list, call->api->config.models_dir, "", 1);
    if (call->api->config.hub_cache)
        hub_cache_list(call->arena, call->api->config.hub_cache, on_hub_model, &list);
    hub_cache_list(call->arena, own_cache(call), on_hub_model, &list);
    return list;
}

/* --- finding --- */

/* A whole model in a cache of the Hub: the one of all, then the project's own. */
static const char *find_in_caches(struct call *call, const char *id)
{
    const char *cache = call->api->config.hub_cache, *folder = NULL;

    if (!hub_name_is_repo(str_of(id)))
        return NULL;
    if (cache)
        folder = hub_cache_find(call->arena, cache, id, NULL);
    if (!folder)
        folder = hub_cache_find(call->arena, own_cache(call), id, NULL);
    return folder && hub_cache_is_model(call->arena, folder) ? folder : NULL;
}

static bool find_base(struct call *call, struct str id, struct model_place *place)
{
    const struct api_config *config = &call->api->config;
    const char *text = str_copy(call->arena, id), *path;

    if (!is_safe_name(id))
        return false;
    *place = (struct model_place){.id = text, .base_id = text};
    path = config->models_dir ? path_join(call->arena, config->models_dir, text) : NULL;
    place->path = path && is_model_folder(call->arena, path) ? path : find_in_caches(call, text);
    place->created = place->path ? file_changed_at(place->path) : 0;
    return place->path != NULL;
}

static struct model_place place_of(const struct store_model *model)
{
    bool is_adapter = strcmp(model->kind, "lora") == 0;

    return (struct model_place){.id = model->name,
                                .base_id = model->base_model,
                                .path = is_adapter ? model->base_path : model->path,
                                .adapter_path = is_adapter ? model->path : NULL,
                                .created = model->created_ms / 1000,
                                .is_result = true};
}

bool model_find(struct call *call, struct str id, struct model_place *place, struct err *err)
{
    struct store_model model;
    struct strbuf names = {0};
    struct base_list bases;

    if (find_base(call, id, place))
        return true;
    if (store_model_get(call->api->config.store, &call->tenant, str_copy(call->arena, id), call->arena, &model, err)) {
        *place = place_of(&model);
        return true;
    }
    if (err->code != ERR_NOT_FOUND)
        return false;
    bases = list_bases(call);
    for (size_t i = 0; i < bases.count && i < 20; i++)
        strbuf_printf(&names, "%s%s", i ? ", " : "", bases.at[i].id);
    err_set(err, ERR_NOT_FOUND, "The model '%.*s' does not exist. Base models here: %s%s.", STR_ARG(id),
            names.len ? names.at : "none", bases.count > 20 ? ", …" : "");
    strbuf_deinit(&names);
    return false;
}

/* --- routes --- */

static void view_model(struct json_writer *w, const struct model_place *place, const char *owner)
{
    json_write_begin_object(w);
    json_put_text(w, "id", place->id);
    json_put_text(w, "object", "model");
    json_put_integer(w, "created", place->created);
    json_put_text(w, "owned_by", place->is_result ? owner : "attune");
    json_write_end_object(w);
}

void models_list(struct call *call)
{
    struct base_list bases = list_bases(call);
    struct store_model_list results = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};

    if (!store_model_list(call->api->config.store, &call->tenant,
                          &(struct store_page){.limit = MODELS_MAX, .ascending = true}, call->arena, &results, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    json_write_begin_object(&w);
    json_put_text(&w, "object", "list");
    json_write_key(&w, "data");
    json_write_begin_array(&w);
    for (size_t i = 0; i < bases.count; i++)
        view_model(&w, &bases.at[i], NULL);
    for (size_t i = 0; i < results.count; i++) {
        struct model_place place = place_of(&results.at[i]);
        view_model(&w, &place, call->tenant.organization_id);
    }
    json_write_end_array(&w);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void models_get(struct call *call)
{
    struct model_place place;
    struct strbuf body = {0};
    struct err err = {0};

    if (!model_find(call, call->parameter[0], &place, &err)) {
        if (err.code == ERR_NOT_FOUND)
            answer_error(call, 404, "model_not_found", "model", "%s", err.text);
        else
            answer_err(call, &err, "model");
        return;
    }
    view_model(&(struct json_writer){.buf = &body}, &place, call->tenant.organization_id);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* Whoever may use a model sees it; it is its owner's to delete. */
static void answer_not_deleted(struct call *call, const char *name, const struct err *err)
{
    struct store_model model;

    if (err->code != ERR_NOT_FOUND)
        answer_err(call, err, "model");
    else if (store_model_get(call->api->config.store, &call->tenant, name, call->arena, &model, NULL))
        answer_error(call, 403, "not_the_owner", "model", "%s belongs to another project, which lets this one use it.",
                     name);
    else
        answer_error(call, 404, "model_not_found", "model", "The model '%s' does not exist.", name);
}

/* Base models are folders of the machine's owner: no key takes them away. */
void models_delete(struct call *call)
{
    const char *name = str_copy(call->arena, call->parameter[0]);
    struct model_place place;
    struct err err = {0};

    if (find_base(call, call->parameter[0], &place)) {
        answer_error(call, 403, "base_model", "model",
                     "%s is a base model: only results of fine-tuning can be deleted. Remove its folder on the server.",
                     place.id);
        return;
    }
    if (!store_model_delete(call->api->config.store, &call->tenant, name, &err)) {
        answer_not_deleted(call, name, &err);
        return;
    }
    answer_deleted(call, "id", name, "model");
}
