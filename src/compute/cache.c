#include "compute/backend.h"

size_t kv_cache_bytes(const struct backend *backend, const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim)
{
    if (backend->cache_bytes)
        return backend->cache_bytes(cache, kv_heads, head_dim);
    return (size_t)cache->capacity * (size_t)kv_heads * (size_t)head_dim * dtype_bytes(cache->type);
}

int32_t kv_cache_capacity(int32_t positions, int32_t window, int32_t rows)
{
    int64_t seen = (int64_t)window - 1 + rows, count = window > 0 && seen < positions ? seen : positions;

    return (int32_t)((count + KV_ROWS - 1) / KV_ROWS * KV_ROWS);
}

bool kv_cache_takes(const struct kv_cache *cache, int32_t rows, int32_t window)
{
    return rows <= cache->capacity - cache->length || (window > 0 && rows <= cache->capacity - window + 1);
}
