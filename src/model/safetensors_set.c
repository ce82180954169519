#include "model/safetensors.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MAX = 64 << 20, SHARDS_MAX = 1024 };

static const char index_name[] = "model.safetensors.index.json";

static int name_compare(const void *a, const void *b)
{
    return str_compare(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

static bool add_file(struct safetensors_set *set, struct arena *arena, const char *path, struct safetensors *parsed,
                     struct err *err)
{
    struct mapped_file *file = &set->file[set->file_count];

    if (!file_map(file, path, err))
        return false;
    set->file_name[set->file_count++] = path_name(path);
    if (!safetensors_parse(arena, (struct str){file->data, file->bytes}, path_name(path), parsed, err))
        return false;
    for (int i = 0; i < parsed->count; i++)
        parsed->tensor[i].file = set->file_count - 1;
    return true;
}

/* One sorted list over all files; a name may stand in one of them only. */
static bool join(struct safetensors_set *set, struct arena *arena, const struct safetensors *parts, int part_count,
                 struct err *err)
{
    int count = 0;

    for (int i = 0; i < part_count; i++)
        count += parts[i].count;
    set->tensor = arena_new_array(arena, struct safetensor, (size_t)count);
    for (int i = 0; i < part_count; i++) {
        if (parts[i].count)
            memcpy(set->tensor + set->count, parts[i].tensor, (size_t)parts[i].count * sizeof *set->tensor);
        set->count += parts[i].count;
    }
    if (count)
        qsort(set->tensor, (size_t)count, sizeof *set->tensor, name_compare);
    for (int i = 1; i < count; i++)
        if (str_equal(set->tensor[i - 1].name, set->tensor[i].name))
            return err_set(err, ERR_INPUT, "%s: tensor \"%.*s\" is in two shards", index_name,
                           STR_ARG(str_slice(set->tensor[i].name, 0, 128)));
    return true;
}

static bool check_shard_name(struct str name, struct err *err)
{
    bool is_plain = name.len > 0 && name.len <= 255 && name.at[0] != '.' && str_ends(name, STR(".safetensors"));

    for (size_t i = 0; i < name.len; i++)
        is_plain &= name.at[i] != '/' && name.at[i] != '\\' && name.at[i] != '\0';
    if (!is_plain)
        return err_set(err, ERR_INPUT, "%s: \"%.*s\" is not the name of a shard beside it", index_name,
                       STR_ARG(str_slice(name, 0, 128)));
    return true;
}

/* Index of the shard in names, added when new; -1 with err set. */
static int shard_index(struct str *names, int *count, struct str name, struct err *err)
{
    for (int i = *count - 1; i >= 0; i--)
        if (str_equal(names[i], name))
            return i;
    if (!check_shard_name(name, err))
        return -1;
    if (*count == SHARDS_MAX) {
        err_set(err, ERR_LIMIT, "%s lists more than %d shards", index_name, SHARDS_MAX);
        return -1;
    }
    names[*count] = name;
    return (*count)++;
}

static const struct json *read_index(struct arena *arena, const char *path, struct err *err)
{
    struct json_limits limits = {.depth = 8, .members = SAFETENSORS_COUNT_MAX};
    const struct json *root, *map;
    struct str text;

    if (!file_read(arena, path, INDEX_BYTES_MAX, &text, err))
        return NULL;
    root = json_parse(arena, text, &limits, err);
    map = json_get(root, "weight_map");
    if (!root)
        err_prefix(err, "%s", index_name);
    else if (!json_has_type(map, JSON_OBJECT) || !map->count)
        err_set(err, ERR_INPUT, "%s has no weight_map", index_name);
    return json_has_type(map, JSON_OBJECT) && map->count ? map : NULL;
}

static bool open_shards(struct safetensors_set *set, struct arena *arena, const char *folder, const struct json *map,
                        struct err *err)
{
    struct str *names = arena_new_array(arena, struct str, SHARDS_MAX);
    struct safetensors *parts;
    int name_count = 0;

    json_each(item, map)
        if (shard_index(names, &name_count, json_string_or(item, STR_NONE), err) < 0)
            return false;
    parts = arena_new_array(arena, struct safetensors, (size_t)name_count);
    set->file = arena_new_array(arena, struct mapped_file, (size_t)name_count);
    set->file_name = arena_new_array(arena, const char *, (size_t)name_count);
    for (int i = 0; i < name_count; i++)
        if (!add_file(set, arena, path_join(arena, folder, str_copy(arena, names[i])), &parts[i], err))
            return false;
    json_each(item, map)
        if (!safetensors_find(&parts[shard_index(names, &name_count, item->string, err)], item->key))
            return err_set(err, ERR_INPUT, "%s: tensor \"%.*s\" is not in %.*s", index_name,
                           STR_ARG(str_slice(item->key, 0, 128)), STR_ARG(item->string));
    return join(set, arena, parts, name_count, err);
}

bool safetensors_set_open_file(struct safetensors_set *set, struct arena *arena, const char *path, struct err *err)
{
    struct safetensors part;

    *set = (struct safetensors_set){.file = arena_new(arena, struct mapped_file),
                                    .file_name = arena_new(arena, const char *)};
    if (!add_file(set, arena, arena_copy(arena, path, strlen(path)), &part, err)) {
        safetensors_set_close(set);
        return false;
    }
    set->tensor = part.tensor;
    set->count = part.count;
    return true;
}

bool safetensors_set_open(struct safetensors_set *set, struct arena *arena, const char *folder, struct err *err)
{
    const char *single = path_join(arena, folder, "model.safetensors");
    const char *index = path_join(arena, folder, index_name);
    const struct json *map;

    *set = (struct safetensors_set){0};
    if (file_exists(single))
        return safetensors_set_open_file(set, arena, single, err);
    if (!file_exists(index))
        return err_set(err, ERR_NOT_FOUND,
                       "the model folder has neither model.safetensors nor %s; weights in other formats"
                       " (.bin, .pt, .gguf) are not read",
                       index_name);
    map = read_index(arena, index, err);
    if (!map || !open_shards(set, arena, folder, map, err)) {
        safetensors_set_close(set);
        return false;
    }
    return true;
}

void safetensors_set_close(struct safetensors_set *set)
{
    for (int i = 0; i < set->file_count; i++)
        file_unmap(&set->file[i]);
    *set = (struct safetensors_set){0};
}
