/* compute/cpu/tiles.h - bf16 products in tile registers (AMX): what the brick is on processors that have them.
 *
 * A tile holds 16 rows of 64 bytes. One instruction adds to 16 x 16 sums the products of 16 rows and 16 columns over 32
 * elements along k, here a block: 16 steps of the brick's words. B's panels are tiles as they lie, 16 steps by 16 of
 * their columns; rows of A as they lie are too. Element (i, j) is one chain over blocks in order, each of them two
 * chains of multiply-adds (of even and of odd elements) that are added: the same bits whatever surrounds it, so long as
 * every product of the path begins its blocks at the same k. Denormals count as zeros. */
#pragma once

#include "compute/cpu/brick.h"

/* Sums of up to BRICK_ROWS rows. */
void CPU(tiles_run)(const struct brick *brick, int count);
double CPU(tiles_peak)(int64_t repeats); /* of 4 · 16 · 16 · 32 multiply-adds */

/* Words of TILE_STEPS steps from a row on for 32 columns that are all there: of columns 8·n to 8·n + 3 in `low`, of the
 * four behind them in `high`. */
INLINE void load_turned(const char *from, size_t row_bytes, lanes_u low[LANES], lanes_u high[LANES])
{
#if defined(__AVX512BW__)
    UNROLL for (int n = 0; n < LANES; n++, from += 2 * row_bytes) {
        __m512i even = _mm512_loadu_si512(from), odd = _mm512_loadu_si512(from + row_bytes);
        low[n] = (lanes_u)_mm512_unpacklo_epi16(even, odd);
        high[n] = (lanes_u)_mm512_unpackhi_epi16(even, odd);
    }
#endif
}

/* Two tiles of what load_turned gave. */
INLINE void store_turned(lanes_u low[LANES], lanes_u high[LANES], uint32_t *left, uint32_t *right)
{
    transpose(low);
    transpose(high);
    UNROLL for (int n = 0; n < LANES; n++) {
        uint32_t *to = (n < LANES / 2 ? left : right) + (n / 4 % 2 * 8 + n % 4) * LANES;
        memcpy(to, &low[n], sizeof low[n]);
        memcpy(to + 4 * LANES, &high[n], sizeof high[n]);
    }
}

/* Words of up to 16 columns in their order, zeros where there are none. */
static inline void load_turned_some(const struct side *side, struct part part, lanes_u block[LANES])
{
    for (int n = 0; n < LANES; n++) {
        block[n] = (lanes_u){0};
        if (2 * n < part.k_count)
            block[n] = load_elements(side, true, part.k + 2 * n, part.i, part.count);
        if (2 * n + 1 < part.k_count)
            block[n] |= load_elements(side, true, part.k + 2 * n + 1, part.i, part.count) << 16;
    }
}

/* A whose k runs down the rows, for tiles: each 1 KB, 16 elements by 16 steps, zeros where there are none; all blocks
 * along k of 16 elements, then those of the next. */
static inline void pack_tiles(const struct side *side, struct part part, uint32_t *to)
{
    enum { TILE_WORDS = TILE_ROWS * TILE_STEPS };
    int32_t blocks = (step_count(part.k_count, true) + TILE_STEPS - 1) / TILE_STEPS;

    for (int32_t block = 0, k = 0; block < blocks; block++, k += 2 * TILE_STEPS, to += TILE_WORDS) {
        int32_t i = 0;
        for (; side->rate <= 0 && k + 2 * TILE_STEPS <= part.k_count && i + 2 * TILE_ROWS <= part.count;
             i += 2 * TILE_ROWS) {
            uint32_t *tile = to + i / TILE_ROWS * blocks * TILE_WORDS;
            lanes_u low[LANES], high[LANES];
            load_turned(row_of(&side->m, part.k + k, part.i + i).at, (size_t)side->m.ld * 2, low, high);
            store_turned(low, high, tile, tile + blocks * TILE_WORDS);
        }
        for (; i < part.count; i += TILE_ROWS) {
            lanes_u turned[LANES];
            load_turned_some(side, (struct part){part.i + i, part.count - i, part.k + k, part.k_count - k}, turned);
            transpose(turned);
            memcpy(to + i / TILE_ROWS * blocks * TILE_WORDS, turned, sizeof turned);
        }
    }
}

/* How a brick finds what pack_tiles wrote. */
INLINE void brick_take_tiles(struct brick *brick, const uint32_t *tiles, int32_t steps)
{
    size_t blocks = (size_t)((steps + TILE_STEPS - 1) / TILE_STEPS);

    brick->a = (const char *)tiles;
    brick->a_row = 4 * TILE_STEPS;
    brick->a_block = TILE_ROWS * brick->a_row;
    brick->a_tile = blocks * brick->a_block;
}

/* A from a row and a step on; of whole tiles where pack_tiles wrote it. */
INLINE const char *brick_a(const struct brick *brick, int32_t row, int32_t step)
{
    if (brick->a_tile)
        return brick->a + (size_t)(row / TILE_ROWS) * brick->a_tile + (size_t)(step / TILE_STEPS) * brick->a_block;
    return brick->a + (size_t)row * brick->a_row + (size_t)step * brick->a_step;
}
