/* compute/cpu/brick.h - the one product kernel, and the packers that lay out its operands.
 *
 * A brick is up to BRICK_ROWS by up to PANEL columns of a result, held in registers while k runs. Work along k goes in
 * steps of 32 bits: one f32, or two neighbouring bf16 (k, k + 1) that one instruction multiplies and sums. So one
 * layout of 32-bit words serves both types:
 *
 *   A  word (i, step) at a + i·a_row + step·a_step: row-major activations as they lie, or packed
 *   B  a panel [steps][width], width a multiple of LANES up to PANEL
 *   C  f32, in cache: the caller converts it and adds to it
 *
 * Element (i, j) is one chain of multiply-adds over k in order: the same bits whatever rows and columns surround it.
 * On AVX-512 24 of 32 registers accumulate; AVX2 and SSE2 hold 6 x 16 and 6 x 8. Where there are tile registers bf16
 * goes to tiles.c, in bricks of up to 32 rows. */
#pragma once

#include "compute/cpu/lanes.h"
#include "compute/dropout.h"

enum {
    VECTOR_ROWS = HAS_TILES ? 12 : 6,
    TILE_ROWS = 16,
    TILE_STEPS = 16,
    BRICK_ROWS = HAS_TILES ? 2 * TILE_ROWS : VECTOR_ROWS,
    PANEL = PANEL_VECTORS * LANES
};

/* Where finished sums go: y = scale · sum + bias + add (+ y), each with all columns of the
 * brick; rows in bytes apart. */
struct brick_end {
    struct row y, bias, add; /* .at NULL: no bias, nothing to add */
    size_t y_row, add_row;
    float scale;
    bool is_added;
    bool is_streamed; /* y is whole lines of 64 bytes, and goes past the caches */
};

struct brick {
    const char *a;
    size_t a_row, a_step;   /* in bytes */
    size_t a_tile, a_block; /* of pack_tiles: from 16 rows, and from 16 steps, to the next; 0: rows as they lie */
    const uint32_t *b;
    int32_t steps, b_width;
    float *c;
    size_t c_ld;
    bool is_added; /* c += instead of c = */
    const struct brick_end *end; /* of all BRICK_ROWS rows, instead of c, where tiles still pass by; NULL: c */
};

/* count: rows of the brick, 1 to BRICK_ROWS. brick_bf16 exists where HAS_BF16_PRODUCTS. */
void CPU(brick_f32)(const struct brick *brick, int count);
void CPU(brick_bf16)(const struct brick *brick, int count);

double CPU(peak_block)(bool is_bf16, int64_t repeats);

INLINE void brick_run(const struct brick *brick, int count, bool is_bf16)
{
    if (HAS_BF16_PRODUCTS && is_bf16)
        CPU(brick_bf16)(brick, count);
    else
        CPU(brick_f32)(brick, count);
}

/* The width that a panel for `cols` columns gets. */
INLINE int32_t panel_width(int32_t cols)
{
    return cols < PANEL ? (cols + LANES - 1) / LANES * LANES : PANEL;
}

INLINE int32_t step_count(int32_t k, bool is_bf16)
{
    return is_bf16 ? (k + 1) / 2 : k;
}

/* One operand of a product: element (i, k) is m[i][k], or m[k][i] where k runs down the rows. With a rate, elements
 * that the dropout drops are read as zeros; they are counted by their place in m. */
struct side {
    struct mat m;
    const struct quant *quant; /* NULL: m is plain. Else a panel's packer reads codes, through CPU(pack_codes) */
    const uint32_t *panels;    /* NULL: none. Else B packed already, by CPU(lay_out) */
    bool is_k_down;
    bool is_rounded;           /* f32 that a panel's packer rounds to bf16, through CPU(pack_rounded) */
    float rate;
    struct dropout dropout;
};

INLINE bool side_keeps(const struct side *side, int32_t row, int32_t col)
{
    return side->rate <= 0 || dropout_keeps(&side->dropout, side->rate, row, col, side->m.cols);
}

/* LANES words from (row, col) on along a row: f32 values, or for a bf16 product pairs of bf16;
 * `count` elements are there. */
INLINE lanes_u load_words(const struct side *side, bool is_bf16, int32_t row, int32_t col, int32_t count)
{
    struct row from = row_of(&side->m, row, col), words_from = is_bf16 ? (struct row){from.at, DTYPE_F32} : from;
    int32_t word_count = is_bf16 ? count / 2 : count;
    lanes_u words;

    if (side->rate <= 0 && (word_count >= LANES || !is_bf16 || count % 2 == 0))
        return (lanes_u)row_load(words_from, 0, word_count);
    union {
        float full[LANES];
        uint16_t half[2 * LANES];
    } some = {{0}};
    for (int i = 0; i < count && i < LANES * (is_bf16 ? 2 : 1); i++)
        if (!side_keeps(side, row, col + i))
            continue;
        else if (is_bf16)
            some.half[i] = ((const uint16_t *)from.at)[i];
        else
            some.full[i] =
                from.type == DTYPE_F32 ? ((const float *)from.at)[i] : f32_from_bf16(((const uint16_t *)from.at)[i]);
    memcpy(&words, &some, sizeof words);
    return words;
}

/* LANES single elements of a row: f32 bits, or bf16 in the low half of each word. */
INLINE lanes_u load_elements(const struct side *side, bool is_bf16, int32_t row, int32_t col, int32_t count)
{
    struct row from = row_of(&side->m, row, col);
    lanes_h halves;

    if (!is_bf16)
        return load_words(side, false, row, col, count);
    if (count >= LANES && side->rate <= 0) {
        memcpy(&halves, from.at, sizeof halves);
    } else {
        halves = (lanes_h){0};
        for (int i = 0; i < count && i < LANES; i++)
            halves[i] = side_keeps(side, row, col + i) ? ((const uint16_t *)from.at)[i] : 0;
    }
    return halves_to_words(halves);
}

/* Word indices of the two halves of a transpose's stage: blocks of d change places. */
#define SWAP_LOW(d, i)  (((i) & (d)) ? LANES + (i) - (d) : (i))
#define SWAP_HIGH(d, i) (((i) & (d)) ? LANES + (i) : (i) + (d))
#define TRANSPOSE_STAGE(block, d)                                                                                      \
    UNROLL for (int i = 0; i < LANES; i++)                                                                             \
        if (!(i & (d)) && (d) < LANES) {                                                                               \
            lanes_u low = block[i], high = block[i | (d)];                                                             \
            block[i] = __builtin_shufflevector(low, high, LIST(SWAP_LOW, d));                                          \
            block[i | (d)] = __builtin_shufflevector(low, high, LIST(SWAP_HIGH, d));                                   \
        }

INLINE void transpose(lanes_u block[LANES])
{
#if defined(__AVX512F__)
    TRANSPOSE_STAGE(block, 8)
#endif
#if defined(__AVX2__)
    TRANSPOSE_STAGE(block, 4)
#endif
    TRANSPOSE_STAGE(block, 2)
    TRANSPOSE_STAGE(block, 1)
}

/* Rows far apart are beyond what the hardware foresees: the packers ask for what they read a few steps later. The
 * address may lie behind the matrix; nothing is read there. */
enum { AHEAD_ROWS = 32, AHEAD_BYTES = 256 };

/* Both packers write words [steps][width] for elements i .. i + count and k .. k + k_count of a
 * side, zeros where there are none. */
struct part {
    int32_t i, count, k, k_count;
};

/* LANES words of each of LANES rows that are all there and need no conversion, and the request for what comes 256 bytes
 * later: in the same rows, or at the beginning of the next LANES rows. */
INLINE void load_block(const char *from, size_t row_bytes, size_t at, size_t used_bytes, lanes_u block[LANES])
{
    size_t later =
        at + AHEAD_BYTES < used_bytes ? at + AHEAD_BYTES : LANES * row_bytes + (at + AHEAD_BYTES - used_bytes);

    UNROLL for (int n = 0; n < LANES; n++) {
        memcpy(&block[n], from + (size_t)n * row_bytes + at, sizeof block[n]);
        __builtin_prefetch((const void *)((uintptr_t)from + (size_t)n * row_bytes + later));
    }
}

static inline void pack_across(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width)
{
    int32_t per_step = is_bf16 ? 2 : 1, steps = step_count(part.k_count, is_bf16);
    size_t size = is_bf16 ? 2 : 4, row_bytes = (size_t)side->m.ld * size;
    bool is_plain = side->rate <= 0 && (is_bf16 || side->m.type == DTYPE_F32);

    for (int32_t i = 0; i < width; i += LANES)
        for (int32_t step = 0; step < steps; step += LANES) {
            lanes_u block[LANES];
            if (is_plain && i + LANES <= part.count && (step + LANES) * per_step <= part.k_count)
                load_block(row_of(&side->m, part.i + i, part.k).at, row_bytes, 4 * (size_t)step,
                           (size_t)part.k_count * size, block);
            else
                for (int32_t n = 0; n < LANES; n++)
                    block[n] = i + n < part.count ? load_words(side, is_bf16, part.i + i + n, part.k + step * per_step,
                                                               part.k_count - step * per_step)
                                                  : (lanes_u){0};
            transpose(block);
            for (int32_t n = 0; n < LANES && step + n < steps; n++)
                memcpy(to + (size_t)(step + n) * (size_t)width + i, &block[n], sizeof block[n]);
        }
}

/* The common case without conversion, tails or dropout: `width` elements of each row from (part.k, part.i) on are
 * there, and k_count is even for bf16. */
INLINE void pack_down_whole(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width)
{
    size_t row_bytes = (size_t)side->m.ld * (is_bf16 ? 2 : 4);
    const char *from = row_of(&side->m, part.k, part.i).at;

    for (int32_t step = step_count(part.k_count, is_bf16); step > 0; step--) {
        for (int32_t i = 0; i < width; i += LANES) {
            lanes_u words;
            if (is_bf16) {
                lanes_h even, odd;
                memcpy(&even, from + 2 * i, sizeof even);
                memcpy(&odd, from + row_bytes + 2 * i, sizeof odd);
                words = halves_to_words(even) | halves_to_words(odd) << 16;
                __builtin_prefetch((const void *)((uintptr_t)from + (AHEAD_ROWS + 1) * row_bytes + 2 * (size_t)i));
            } else {
                memcpy(&words, from + 4 * i, sizeof words);
            }
            memcpy(to + i, &words, sizeof words);
            __builtin_prefetch(
                (const void *)((uintptr_t)from + AHEAD_ROWS * row_bytes + (is_bf16 ? 2 : 4) * (size_t)i));
        }
        from += is_bf16 ? 2 * row_bytes : row_bytes;
        to += width;
    }
}

static inline void pack_down(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width)
{
    int32_t per_step = is_bf16 ? 2 : 1, steps = step_count(part.k_count, is_bf16);
    bool is_whole = part.count >= width && side->rate <= 0 && part.k_count % per_step == 0;

    if (is_whole && is_bf16) {
        pack_down_whole(side, true, part, to, width);
        return;
    }
    if (is_whole && side->m.type == DTYPE_F32) {
        pack_down_whole(side, false, part, to, width);
        return;
    }
    for (int32_t step = 0; step < steps; step++)
        for (int32_t i = 0; i < width; i += LANES) {
            int32_t k = step * per_step;
            lanes_u words = load_elements(side, is_bf16, part.k + k, part.i + i, part.count - i);
            if (is_bf16 && k + 1 < part.k_count)
                words |= load_elements(side, true, part.k + k + 1, part.i + i, part.count - i) << 16;
            memcpy(to + (size_t)step * (size_t)width + i, &words, sizeof words);
        }
}

/* A panel of B. */
static inline void pack_panel(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width)
{
    if (side->is_k_down)
        pack_down(side, is_bf16, part, to, width);
    else
        pack_across(side, is_bf16, part, to, width);
}

/* A panel of a quantized weight, with the bits that the weight would have given dequantized. */
void CPU(pack_codes)(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width);

/* A panel of an f32 weight beside bf16, with the bits that the weight would have given rounded. */
void CPU(pack_rounded)(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width);

/* Rows of A, converted, one behind the other: [count][steps], zeros where k_count ends before. */
static inline void pack_rows(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t steps)
{
    int32_t per_step = is_bf16 ? 2 : 1;

    for (int32_t i = 0; i < part.count; i++)
        for (int32_t step = 0; step < steps; step += LANES) {
            lanes_u words =
                load_words(side, is_bf16, part.i + i, part.k + step * per_step, part.k_count - step * per_step);
            row_store((struct row){to + (size_t)i * (size_t)steps, DTYPE_F32}, step, steps, (lanes)words);
        }
}
