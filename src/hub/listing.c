#include "hub/listing.h"

#include "base/json.h"
#include "hub/name.h"

#include <string.h>

static const struct json_limits limits = {.depth = 32};

const char *hub_listing_commit(struct arena *arena, struct str json, struct err *err)
{
    const struct json *info = json_parse(arena, json, &limits, err);
    struct str commit = json_string_or(json_get(info, "sha"), STR_NONE);

    if (!info)
        return NULL;
    if (hub_name_is_commit(commit))
        return str_copy(arena, commit);
    err_set(err, ERR_INPUT, "no commit is in what it says about the revision");
    return NULL;
}

/* --- files --- */

static void *grow(struct arena *arena, const void *at, size_t count, size_t *cap, size_t size)
{
    void *more;

    if (count < *cap)
        return (void *)(uintptr_t)at;
    *cap = *cap ? 2 * *cap : 64;
    more = arena_alloc_array(arena, *cap, size);
    if (count)
        memcpy(more, at, count * size);
    return more;
}

static bool add_file(struct arena *arena, const struct json *entry, struct hub_listing *listing, struct err *err)
{
    struct str path = json_string_or(json_get(entry, "path"), STR_NONE);
    const struct json *large = json_get(entry, "lfs");
    const bool is_large = json_has_type(large, JSON_OBJECT);
    const struct json *from = is_large ? large : entry;
    struct str blob = json_string_or(json_get(from, "oid"), STR_NONE);
    int64_t bytes = json_integer_or(json_get(from, "size"), -1);

    if (!json_is(json_get(entry, "type"), "file") || !hub_name_is_path(path))
        return true;
    if (!(is_large ? hub_name_is_sha256(blob) : hub_name_is_commit(blob)) || bytes < 0)
        return err_set(err, ERR_INPUT, "a file of its list has no size or no hash");
    if (listing->count == HUB_FILES_MAX)
        return err_set(err, ERR_LIMIT, "it has more than %d files", HUB_FILES_MAX);
    listing->at = grow(arena, listing->at, listing->count, &listing->cap, sizeof *listing->at);
    listing->at[listing->count++] =
        (struct hub_file){str_copy(arena, path), str_copy(arena, blob), (uint64_t)bytes, is_large};
    return true;
}

bool hub_listing_add(struct arena *arena, struct str json, struct hub_listing *listing, struct err *err)
{
    const struct json *page = json_parse(arena, json, &limits, err);

    if (page && page->type != JSON_ARRAY)
        return err_set(err, ERR_INPUT, "its list of files is no list");
    json_each(entry, page)
        if (!add_file(arena, entry, listing, err))
            return false;
    return page != NULL;
}

/* <URL>; rel="next", <URL>; rel="last" */
const char *hub_listing_next(struct arena *arena, struct str link)
{
    while (link.len) {
        ptrdiff_t open = str_find(link, STR("<"), 0), close = str_find(link, STR(">"), 0), end;

        if (open < 0 || close < open)
            return NULL;
        end = str_find(link, STR("<"), (size_t)close);
        if (str_find(str_slice(link, (size_t)close, end < 0 ? link.len : (size_t)end), STR("rel=\"next\""), 0) >= 0)
            return str_copy(arena, str_slice(link, (size_t)open + 1, (size_t)close));
        link = end < 0 ? STR_NONE : str_slice(link, (size_t)end, link.len);
    }
    return NULL;
}

const struct hub_file *hub_listing_find(const struct hub_listing *listing, const char *path)
{
    for (size_t i = 0; i < listing->count; i++)
        if (strcmp(listing->at[i].path, path) == 0)
            return &listing->at[i];
    return NULL;
}

/* --- which of them --- */

static void choose(struct arena *arena, const struct hub_file *file, struct hub_choice *choice)
{
    for (size_t i = 0; file && i < choice->count; i++)
        if (choice->at[i] == file)
            return;
    if (!file)
        return;
    choice->at = grow(arena, choice->at, choice->count, &choice->cap, sizeof *choice->at);
    choice->at[choice->count++] = file;
}

/* README.md says what the licence is. */
static void choose_texts(struct arena *arena, const struct hub_listing *listing, struct hub_choice *choice)
{
    static const char *const names[] = {
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "chat_template.json",
        "README.md",
        "LICENSE",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        choose(arena, hub_listing_find(listing, names[i]), choice);
    for (size_t i = 0; i < listing->count; i++) {
        struct str path = str_of(listing->at[i].path);

        if (str_starts(path, STR("additional_chat_templates/")) && str_ends(path, STR(".jinja")))
            choose(arena, &listing->at[i], choice);
    }
}

static bool refuse(const struct hub_listing *listing, struct err *err)
{
    static const struct {
        const char *end, *name;
    } others[] = {{".safetensors", "safetensors of another name"},
                  {".gguf", "GGUF"},
                  {".bin", "PyTorch's .bin"},
                  {".pth", "PyTorch's .pth"},
                  {".h5", "TensorFlow's .h5"}};

    for (size_t k = 0; k < sizeof others / sizeof *others; k++)
        for (size_t i = 0; i < listing->count; i++)
            if (str_ends(str_of(listing->at[i].path), str_of(others[k].end)))
                return err_set(
                    err, ERR_NOT_FOUND,
                    "it has its weights as %s alone: a model is config.json with model.safetensors or its shards",
                    others[k].name);
    return err_set(err, ERR_NOT_FOUND,
                   "it has no weights: a model is config.json with model.safetensors or its shards, "
                   "an adapter adapter_config.json with adapter_model.safetensors");
}

bool hub_choice_make(struct arena *arena, const struct hub_listing *listing, struct hub_choice *choice, struct err *err)
{
    const struct hub_file *config = hub_listing_find(listing, "config.json"),
                          *whole = hub_listing_find(listing, "model.safetensors"),
                          *index = hub_listing_find(listing, "model.safetensors.index.json"),
                          *adapter_config = hub_listing_find(listing, "adapter_config.json"),
                          *adapter = hub_listing_find(listing, "adapter_model.safetensors");

    *choice = (struct hub_choice){0};
    if (config && (whole || index)) {
        choose(arena, config, choice);
        choose(arena, whole ? whole : index, choice);
        choice->index = whole ? NULL : index;
    } else if (adapter_config && adapter) {
        choice->is_adapter = true;
        choose(arena, adapter_config, choice);
        choose(arena, adapter, choice);
    } else {
        return refuse(listing, err);
    }
    choose_texts(arena, listing, choice);
    if (choice->index && choice->index->bytes > HUB_JSON_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "its index of the weights is longer than %d MiB", HUB_JSON_BYTES_MAX >> 20);
    return true;
}

bool hub_choice_add_shards(struct arena *arena, const struct hub_listing *listing, struct str index,
                           struct hub_choice *choice, struct err *err)
{
    const struct json *root = json_parse(arena, index, &limits, err), *map = json_get(root, "weight_map");
    struct str last = STR_NONE;

    if (!root)
        return err_prefix(err, "model.safetensors.index.json");
    if (!json_has_type(map, JSON_OBJECT) || map->count == 0)
        return err_set(err, ERR_INPUT, "model.safetensors.index.json has no weight_map");
    json_each(shard, map) {
        const struct hub_file *file;

        if (shard->type == JSON_STRING && last.at && str_equal(shard->string, last))
            continue;
        last = json_string_or(shard, STR_NONE);
        file = hub_name_is_path(last) ? hub_listing_find(listing, str_copy(arena, last)) : NULL;
        if (!file || !str_ends(last, STR(".safetensors")))
            return err_set(err, ERR_NOT_FOUND, "model.safetensors.index.json names a file that it does not have: %.*s",
                           STR_ARG(str_clip(last, 100)));
        choose(arena, file, choice);
        if (choice->count > HUB_SHARDS_MAX)
            return err_set(err, ERR_LIMIT, "its weights are in more than %d files", HUB_SHARDS_MAX);
    }
    return true;
}
