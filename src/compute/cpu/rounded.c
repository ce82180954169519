/* Panels of an f32 weight for products with bf16: each number is rounded as it is read, so that a weight in training
 * needs no copy in bf16 beside it. The words are those that a copy would have given. */
#include "compute/cpu/brick.h"

/* Elements j to j + LANES, zeros behind the end. */
INLINE lanes_h load_halves(const float *from, int32_t j, int32_t end)
{
    return lanes_narrow(row_load((struct row){(float *)(uintptr_t)from, DTYPE_F32}, j, end));
}

/* Pairs of neighbours as words: element 2·i of the LANES·2 from j on in the low half of word i. */
INLINE lanes_u load_pairs(const float *from)
{
#if defined(__AVX512BF16__)
    return (lanes_u)_mm512_cvtne2ps_pbh((__m512)lanes_load(from + LANES), (__m512)lanes_load(from));
#else
    lanes_h pair[2] = {lanes_narrow(lanes_load(from)), lanes_narrow(lanes_load(from + LANES))};
    lanes_u words;

    memcpy(&words, pair, sizeof words);
    return words;
#endif
}

INLINE lanes_u load_last_pairs(const float *from, int32_t j, int32_t end)
{
    lanes_h pair[2] = {load_halves(from, j, end), load_halves(from, j + LANES, end)};
    lanes_u words;

    memcpy(&words, pair, sizeof words);
    return words;
}

/* k runs down the rows: each word has two of them. */
static void pack_down_rounded(const struct side *side, struct part part, uint32_t *to, int32_t width)
{
    size_t ld = (size_t)side->m.ld;
    const float *even = row_of(&side->m, part.k, part.i).at;
    bool is_whole = part.count >= width && part.k_count % 2 == 0;

    for (int32_t k = 0; k < part.k_count; k += 2, to += width, even += 2 * ld)
        for (int32_t i = 0; i < width; i += LANES) {
            lanes_u words;
            if (is_whole) {
                words = halves_to_words(lanes_narrow(lanes_load(even + i))) |
                        halves_to_words(lanes_narrow(lanes_load(even + ld + i))) << 16;
                __builtin_prefetch((const void *)((uintptr_t)even + 4 * (AHEAD_ROWS * ld + (size_t)i)));
                __builtin_prefetch((const void *)((uintptr_t)even + 4 * ((AHEAD_ROWS + 1) * ld + (size_t)i)));
            } else {
                words = halves_to_words(load_halves(even, i, part.count));
                if (k + 1 < part.k_count)
                    words |= halves_to_words(load_halves(even + ld, i, part.count)) << 16;
            }
            memcpy(to + i, &words, sizeof words);
        }
}

/* LANES words of each of LANES rows, and the request for what comes 256 bytes later. */
INLINE void load_rounded(const float *from, size_t ld, int32_t at, int32_t end, lanes_u block[LANES])
{
    size_t later =
        at + AHEAD_BYTES / 4 < end ? (size_t)at + AHEAD_BYTES / 4 : LANES * ld + (size_t)(at + AHEAD_BYTES / 4 - end);

    UNROLL for (int n = 0; n < LANES; n++) {
        const float *row = from + (size_t)n * ld;
        block[n] = load_pairs(row + at);
        __builtin_prefetch((const void *)((uintptr_t)row + 4 * later));
        __builtin_prefetch((const void *)((uintptr_t)row + 4 * later + 64));
    }
}

static void pack_across_rounded(const struct side *side, struct part part, uint32_t *to, int32_t width)
{
    int32_t steps = step_count(part.k_count, true);
    size_t ld = (size_t)side->m.ld;

    for (int32_t i = 0; i < width; i += LANES)
        for (int32_t step = 0; step < steps; step += LANES) {
            const float *from = row_of(&side->m, part.i + i, part.k).at;
            lanes_u block[LANES];
            if (i + LANES <= part.count && 2 * (step + LANES) <= part.k_count)
                load_rounded(from, ld, 2 * step, part.k_count, block);
            else
                for (int32_t n = 0; n < LANES; n++)
                    block[n] = i + n < part.count ? load_last_pairs(from + (size_t)n * ld, 2 * step, part.k_count)
                                                  : (lanes_u){0};
            transpose(block);
            for (int32_t n = 0; n < LANES && step + n < steps; n++)
                memcpy(to + (size_t)(step + n) * (size_t)width + i, &block[n], sizeof block[n]);
        }
}

void CPU(pack_rounded)(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width)
{
    if (is_bf16 && side->is_k_down) {
        pack_down_rounded(side, part, to, width);
        return;
    }
    if (is_bf16) {
        pack_across_rounded(side, part, to, width);
        return;
    }
    pack_panel(side, false, part, to, width);
    for (int32_t at = 0; at < part.k_count * width; at += LANES) {
        lanes value = lanes_load((const float *)to + at);
        lanes_store((float *)to + at, lanes_widen(lanes_narrow(value)));
    }
}
