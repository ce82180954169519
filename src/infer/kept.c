#include "infer/kept.h"
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    char *scope;
    int32_t *tokens;
    int32_t count;
    struct model_cache *cache;
    uint64_t bytes, used_at; /* used_at: on the clock */
};

struct kept {
    struct model *model;
    uint64_t bytes_max, bytes, clock;
    struct entry entry[KEPT_MAX];
    int count;
};

struct kept *kept_new(struct model *model, uint64_t bytes_max)
{
    struct kept *kept = mem_alloc_zero(1, sizeof *kept);

    kept->model = model;
    kept->bytes_max = bytes_max;
    return kept;
}

static void drop(struct kept *kept, int index)
{
    struct entry *entry = &kept->entry[index];

    kept->bytes -= entry->bytes;
    model_cache_free(kept->model, entry->cache);
    free(entry->scope);
    free(entry->tokens);
    *entry = kept->entry[--kept->count];
}

bool kept_clear(struct kept *kept)
{
    bool had_some = kept->count > 0;

    while (kept->count > 0)
        drop(kept, 0);
    return had_some;
}

void kept_free(struct kept *kept)
{
    if (!kept)
        return;
    kept_clear(kept);
    free(kept);
}

int32_t kept_common(const int32_t *a, const int32_t *b, int32_t count)
{
    int32_t same = 0;

    while (same < count && a[same] == b[same])
        same++;
    return same;
}

static int32_t common(const struct entry *entry, const char *scope, const int32_t *tokens, int32_t count)
{
    if (strcmp(entry->scope, scope) != 0)
        return 0;
    return kept_common(entry->tokens, tokens, entry->count < count ? entry->count : count);
}

static void make_room(struct kept *kept, uint64_t bytes)
{
    while (kept->count > 0 && (kept->count == KEPT_MAX || kept->bytes + bytes > kept->bytes_max)) {
        int oldest = 0;
        for (int i = 1; i < kept->count; i++)
            if (kept->entry[i].used_at < kept->entry[oldest].used_at)
                oldest = i;
        drop(kept, oldest);
    }
}

/* What the new one begins with is dropped. True: another begins with all of it. */
static bool is_known(struct kept *kept, const char *scope, const int32_t *tokens, int32_t count)
{
    for (int i = kept->count - 1; i >= 0; i--) {
        int32_t same = common(&kept->entry[i], scope, tokens, count);
        if (same == count) {
            kept->entry[i].used_at = ++kept->clock;
            return true;
        }
        if (same == kept->entry[i].count)
            drop(kept, i);
    }
    return false;
}

void kept_add(struct kept *kept, const char *scope, const int32_t *tokens, int32_t count,
              const struct model_cache *cache)
{
    uint64_t bytes = model_cache_bytes(kept->model, count);
    struct model_cache *copy;

    if (count < KEPT_TOKENS_MIN || bytes > kept->bytes_max || is_known(kept, scope, tokens, count))
        return;
    make_room(kept, bytes);
    copy = model_cache_new(kept->model, count);
    if (!copy)
        return;
    if (!model_cache_copy(kept->model, copy, cache, count)) {
        model_cache_free(kept->model, copy);
        return;
    }
    kept->entry[kept->count] = (struct entry){mem_copy_text(scope), mem_alloc((size_t)count * sizeof *tokens), count,
                                              copy, bytes, ++kept->clock};
    memcpy(kept->entry[kept->count++].tokens, tokens, (size_t)count * sizeof *tokens);
    kept->bytes += bytes;
}

const struct model_cache *kept_find(struct kept *kept, const char *scope, const int32_t *tokens, int32_t count_max,
                                    int32_t *count)
{
    struct entry *best = NULL;

    *count = 0;
    for (int i = 0; i < kept->count; i++) {
        int32_t same = common(&kept->entry[i], scope, tokens, count_max);
        if (same > *count) {
            *count = same;
            best = &kept->entry[i];
        }
    }
    if (!best)
        return NULL;
    best->used_at = ++kept->clock;
    return best->cache;
}
