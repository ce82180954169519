#include "model/memory.h"

#include <stdlib.h>

enum { CACHE_LINE = 64 };

enum dtype model_cache_type(const struct model *model)
{
    return model->params.compute_type;
}

/* A layer's cache without its memory, and the bytes of its k and of its v. */
static struct kv_cache layer_cache(const struct model *m, int32_t l, int32_t positions, size_t *bytes)
{
    struct kv_cache cache = {.capacity = kv_cache_capacity(positions, m->config.layer[l].window, m->plan.tokens),
                             .type = model_cache_type(m)};

    *bytes = kv_cache_bytes(m->backend, &cache, m->config.kv_heads, m->config.head_dim);
    return cache;
}

uint64_t model_cache_bytes(const struct model *m, int32_t positions)
{
    uint64_t total = 0;
    size_t bytes;

    for (int32_t l = 0; l < m->config.layers; l++) {
        layer_cache(m, l, positions, &bytes);
        total += 2 * bytes;
    }
    return total;
}

struct model_cache *model_cache_new(struct model *m, int32_t positions)
{
    size_t bytes = model_cache_bytes(m, positions), layers = (size_t)m->config.layers;
    void *memory = memory_take(m, bytes + CACHE_LINE);
    struct model_cache *cache;
    char *at;

    if (!memory)
        return NULL;
    cache = mem_alloc_zero(1, sizeof *cache + layers * sizeof *cache->layer);
    cache->memory = memory;
    at = (char *)memory + (CACHE_LINE - (uintptr_t)memory % CACHE_LINE) % CACHE_LINE;
    for (size_t l = 0; l < layers; l++) {
        cache->layer[l] = layer_cache(m, (int32_t)l, positions, &bytes);
        cache->layer[l].k = at;
        cache->layer[l].v = at + bytes;
        at += 2 * bytes;
    }
    return cache;
}

void model_cache_free(struct model *m, struct model_cache *cache)
{
    if (cache)
        memory_give(m, cache->memory);
    free(cache);
}

/* A ring that went round is copied whole, to one as long, while it still has what the
 * window of the next position sees. */
static bool can_copy(const struct model *m, int32_t l, const struct kv_cache *to, const struct kv_cache *from,
                     int32_t length)
{
    if (from->length <= from->capacity)
        return true;
    return to->capacity == from->capacity && length - m->config.layer[l].window + 1 >= from->length - from->capacity;
}

/* Of k or v. Rows lie by position; in a backend's own order each key head has equal blocks of KV_ROWS
 * positions, one behind the other. */
static void copy_blocks(struct model *m, const struct kv_cache *cache_to, const struct kv_cache *cache_from,
                        bool is_value, int32_t length)
{
    int32_t groups = m->backend->cache_bytes ? m->config.kv_heads : 1, blocks = cache_from->capacity / KV_ROWS;
    size_t bytes = kv_cache_bytes(m->backend, cache_from, m->config.kv_heads, m->config.head_dim) / (size_t)groups /
                   (size_t)blocks;
    int32_t wanted = (length + KV_ROWS - 1) / KV_ROWS, count = wanted < blocks ? wanted : blocks;
    size_t to_ld = bytes * (size_t)(cache_to->capacity / KV_ROWS), from_ld = bytes * (size_t)blocks;
    void *to = is_value ? cache_to->v : cache_to->k;
    const void *from = is_value ? cache_from->v : cache_from->k;

    ASSERT(count * KV_ROWS <= cache_to->capacity);
    if (groups == 1) /* a block is a row then: one row of all would be longer than a device takes */
        memory_copy_rows(m, to, bytes, from, bytes, bytes, count);
    else
        memory_copy_rows(m, to, to_ld, from, from_ld, bytes * (size_t)count, groups);
}

bool model_cache_copy(struct model *m, struct model_cache *to, const struct model_cache *from, int32_t length)
{
    for (int32_t l = 0; l < m->config.layers; l++) {
        ASSERT(length <= from->layer[l].length);
        if (!can_copy(m, l, &to->layer[l], &from->layer[l], length))
            return false;
    }
    for (int32_t l = 0; l < m->config.layers; l++) {
        int32_t there = from->layer[l].length <= from->layer[l].capacity ? length : from->layer[l].capacity;
        copy_blocks(m, &to->layer[l], &from->layer[l], false, there);
        copy_blocks(m, &to->layer[l], &from->layer[l], true, there);
        to->layer[l].length = length;
    }
    return true;
}
