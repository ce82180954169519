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
