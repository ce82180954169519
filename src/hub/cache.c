#include "hub/cache.h"

#include "base/json.h"
#include "hub/name.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MAX = 64 << 20, REF_BYTES_MAX = 256 };

const char *hub_cache_default(struct arena *arena)
{
    static const struct {
        const char *variable, *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HUGGINGFACE_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);

        if (value && *value)
            return arena_printf(arena, "%s%s", value, places[i].below);
    }
    return NULL;
}

char *hub_cache_of_project(struct arena *arena, const char *data_dir, const char *project_id)
{
    return arena_printf(arena, "%s/" HUB_CACHES_OF_PROJECTS "/%s", data_dir, project_id);
}

static char *repo_path(struct arena *arena, const char *cache, const char *repo, const char *below)
{
    return arena_printf(arena, "%s/%s/%s", cache, hub_name_folder(arena, repo), below);
}

const char *hub_cache_commit(struct arena *arena, const char *cache, const char *repo, const char *revision)
{
    const char *path = repo_path(arena, cache, repo, arena_printf(arena, "refs/%s", revision));
    struct str text;

    if (hub_name_is_commit(str_of(revision)))
        return revision;
    if (!file_read(arena, path, REF_BYTES_MAX, &text, NULL) || !hub_name_is_commit(str_trim(text)))
        return NULL;
    return str_copy(arena, str_trim(text));
}

char *hub_cache_snapshot(struct arena *arena, const char *cache, const char *repo, const char *commit)
{
    return repo_path(arena, cache, repo, arena_printf(arena, "snapshots/%s", commit));
}

char *hub_cache_blob(struct arena *arena, const char *cache, const char *repo, const char *blob)
{
    return repo_path(arena, cache, repo, arena_printf(arena, "blobs/%s", blob));
}

char *hub_cache_lock(struct arena *arena, const char *cache, const char *repo, const char *blob)
{
    return arena_printf(arena, "%s/.locks/%s/%s.lock", cache, hub_name_folder(arena, repo), blob);
}

/* --- what is there --- */

static bool has(struct arena *arena, const char *folder, const char *name)
{
    return file_exists(path_join(arena, folder, name));
}

/* Every file that the index names. */
static bool has_shards(struct arena *arena, const char *folder)
{
    const char *path = path_join(arena, folder, "model.safetensors.index.json");
    const struct json *map = NULL;
    struct str text, last = STR_NONE;
    bool ok = true;

    if (file_read(arena, path, INDEX_BYTES_MAX, &text, NULL))
        map = json_get(json_parse(arena, text, NULL, NULL), "weight_map");
    json_each(shard, map) {
        if (!ok || (shard->type == JSON_STRING && last.at && str_equal(shard->string, last)))
            continue;
        last = json_string_or(shard, STR(""));
        ok = hub_name_is_path(last) && has(arena, folder, str_copy(arena, last));
    }
    return ok && map && map->count > 0;
}

bool hub_cache_is_model(struct arena *arena, const char *folder)
{
    return has(arena, folder, "config.json") && (has(arena, folder, "model.safetensors") || has_shards(arena, folder));
}

bool hub_cache_is_adapter(struct arena *arena, const char *folder)
{
    return has(arena, folder, "adapter_config.json") && has(arena, folder, "adapter_model.safetensors");
}

static bool is_whole(struct arena *arena, const char *folder)
{
    return hub_cache_is_model(arena, folder) || hub_cache_is_adapter(arena, folder);
}

const char *hub_cache_find(struct arena *arena, const char *cache, const char *repo, const char *revision)
{
    const char *commit = hub_cache_commit(arena, cache, repo, revision ? revision : "main"), *folder;
    char **names;
    size_t count;

    if (commit && is_whole(arena, folder = hub_cache_snapshot(arena, cache, repo, commit)))
        return folder;
    if (revision || !dir_list(arena, repo_path(arena, cache, repo, "snapshots"), &names, &count, NULL))
        return NULL;
    while (count-- > 0)
        if (hub_name_is_commit(str_of(names[count])) &&
            is_whole(arena, folder = hub_cache_snapshot(arena, cache, repo, names[count])))
            return folder;
    return NULL;
}

void hub_cache_repos(struct arena *arena, const char *cache,
                     bool (*on_repo)(void *context, const char *repo, const char *folder), void *context)
{
    bool go_on = true;
    char **names;
    size_t count = 0;

    if (!dir_list(arena, cache, &names, &count, NULL))
        return;
    for (size_t i = 0; go_on && i < count; i++) {
        struct str name = str_of(names[i]);
        const char *repo;
        ptrdiff_t split;

        if (!str_starts(name, STR("models--")))
            continue;
        name = str_slice(name, 8, name.len);
        split = str_find(name, STR("--"), 0);
        repo = split < 0 ? str_copy(arena, name)
                         : arena_printf(arena, "%.*s/%s", (int)split, name.at, name.at + split + 2);
        if (hub_name_is_repo(str_of(repo)))
            go_on = on_repo(context, repo, path_join(arena, cache, names[i]));
    }
}

struct lister {
    struct arena *arena;
    const char *cache;
    bool (*on_model)(void *context, const char *repo, const char *folder);
    void *context;
};

static bool list_repo(void *context, const char *repo, const char *folder)
{
    const struct lister *lister = context;
    const char *snapshot = hub_cache_find(lister->arena, lister->cache, repo, NULL);

    (void)folder;
    return !snapshot || !hub_cache_is_model(lister->arena, snapshot) ||
           lister->on_model(lister->context, repo, snapshot);
}

void hub_cache_list(struct arena *arena, const char *cache,
                    bool (*on_model)(void *context, const char *repo, const char *folder), void *context)
{
    hub_cache_repos(arena, cache, list_repo, &(struct lister){arena, cache, on_model, context});
}

/* In one rename, so that nobody finds half of it. */
bool hub_cache_evict(struct arena *arena, const char *cache, const char *repo, struct err *err)
{
    const char *name = hub_name_folder(arena, repo), *folder = path_join(arena, cache, name);
    const char *leaving = arena_printf(arena, "%s/.evicted.%s", cache, name);

    if (!dir_exists(folder))
        return err_set(err, ERR_NOT_FOUND, "%s is not in %s", repo, cache);
    return dir_remove(leaving, err) && file_rename(folder, leaving, err) && dir_remove(leaving, err) &&
           dir_remove(arena_printf(arena, "%s/.locks/%s", cache, name), err);
}

/* --- what comes --- */

static bool make_parent(struct arena *arena, const char *path, struct err *err)
{
    return dir_make(arena_printf(arena, "%.*s", (int)(strrchr(path, '/') - path), path), err);
}

bool hub_cache_link(struct arena *arena, const char *cache, const char *repo, const char *commit, const char *path,
                    const char *blob, struct err *err)
{
    const char *link = path_join(arena, hub_cache_snapshot(arena, cache, repo, commit), path);
    struct strbuf target = {0};
    bool ok;

    strbuf_add_text(&target, "../../");
    for (const char *c = path; *c; c++)
        if (*c == '/')
            strbuf_add_text(&target, "../");
    strbuf_printf(&target, "blobs/%s", blob);
    ok = make_parent(arena, link, err) && file_symlink(target.at, link, err);
    strbuf_deinit(&target);
    return ok;
}

bool hub_cache_set(struct arena *arena, const char *cache, const char *repo, const char *revision, const char *commit,
                   struct err *err)
{
    const char *path = repo_path(arena, cache, repo, arena_printf(arena, "refs/%s", revision));

    if (hub_name_is_commit(str_of(revision)))
        return true;
    return make_parent(arena, path, err) && file_replace(path, str_of(commit), err);
}
