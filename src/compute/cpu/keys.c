/* Keys and values behind a cache, packed when they come: what attention reads for each new token it never packs again.
 *
 * A key head has tiles of 64 positions one behind the other, each as the brick takes it (tile.h): keys as panels of the
 * tile's positions, [d_steps][TILE], values as panels of the head's columns, [steps][d_wide]. Both take as many words
 * as the larger. */
#include "compute/cpu/tile.h"

static bool is_bf16(enum dtype type)
{
    return HAS_BF16_PRODUCTS && type == DTYPE_BF16;
}

static size_t tile_words(enum dtype type, int32_t head_dim)
{
    struct tile_shape shape = tile_shape(head_dim, is_bf16(type));
    int32_t keys = shape.d_steps * TILE, values = step_count(TILE, is_bf16(type)) * shape.d_wide;

    return (size_t)(keys > values ? keys : values);
}

size_t CPU(cache_bytes)(const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim)
{
    return 4 * (size_t)kv_heads * (size_t)(cache->capacity / TILE) * tile_words(cache->type, head_dim);
}

const uint32_t *CPU(cache_tile)(const struct kv_cache *cache, bool is_value, int32_t head_dim, int32_t kv_head,
                                int32_t position)
{
    size_t tiles = (size_t)(cache->capacity / TILE), tile = (size_t)(position % cache->capacity / TILE);

    return (const uint32_t *)(is_value ? cache->v : cache->k) +
           ((size_t)kv_head * tiles + tile) * tile_words(cache->type, head_dim);
}

/* The key in a row of `side` becomes column `at` of the tile's panels. */
static void put_key(const struct side *side, const struct tile_shape *shape, int32_t row, int32_t at, uint32_t *tile)
{
    int32_t panel = at / PANEL * PANEL, width = tile_panel(TILE, panel), per_step = shape->is_bf16 ? 2 : 1;
    uint32_t *to = tile + (size_t)panel * (size_t)shape->d_steps + (at - panel);

    for (int32_t step = 0; step < shape->d_steps; step += LANES) {
        lanes_u words = load_words(side, shape->is_bf16, row, step * per_step, shape->d - step * per_step);
        for (int32_t i = 0; i < LANES && step + i < shape->d_steps; i++)
            to[(step + i) * width] = words[i];
    }
}

/* The value becomes a step of the tile's panels, in bf16 half of one: the other half may belong to
 * a position that is still seen. */
static void put_value(const struct side *side, const struct tile_shape *shape, int32_t row, int32_t at, uint32_t *tile)
{
    int32_t steps = step_count(TILE, shape->is_bf16), step = shape->is_bf16 ? at / 2 : at;

    for (int32_t col = 0; col < shape->d_wide; col += LANES) {
        int32_t panel = col / PANEL * PANEL;
        uint32_t *to = tile + (size_t)panel * (size_t)steps + (size_t)step * (size_t)tile_panel(shape->d_wide, panel) +
                       (col - panel);
        lanes_u words = load_elements(side, shape->is_bf16, row, col, shape->d - col), there;
        if (shape->is_bf16) {
            memcpy(&there, to, sizeof there);
            words = at % 2 ? (there & 0xffff) | words << 16 : (there & 0xffff0000) | words;
        }
        memcpy(to, &words, sizeof words);
    }
}

void CPU(cache_append)(const struct op_attend *op, int32_t document, int32_t kv_head)
{
    const struct kv_cache *cache = &op->cache[document];
    struct tile_shape shape = tile_shape(op->head_dim, is_bf16(cache->type));
    int32_t first = op->batch->cu_seqlens[document], count = document_rows(op->batch, document), d = op->head_dim;
    struct side key = {.m = tile_mat(&op->qkv, first, (op->heads + kv_head) * d, count, d)};
    struct side value = {.m = tile_mat(&op->qkv, first, (op->heads + op->kv_heads + kv_head) * d, count, d)};

    for (int32_t i = 0; i < count; i++) {
        int32_t position = cache->length + i;
        put_key(&key, &shape, i, position % TILE, (uint32_t *)CPU(cache_tile)(cache, false, d, kv_head, position));
        put_value(&value, &shape, i, position % TILE, (uint32_t *)CPU(cache_tile)(cache, true, d, kv_head, position));
    }
}
