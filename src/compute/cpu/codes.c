/* Panels of weights that are codes. A tile of 64 by up to 64 numbers is looked up into the first-level cache, in the
 * type that the brick multiplies, and packed from there like any matrix.
 *
 * All numbers of a block are one of sixteen: code · absmax, rounded to the weight's type once for the block.
 *
 * Where a byte is what a step takes of a column, whole panels need no tile: sixteen rows of bytes are turned into
 * columns, and each lane looks up its own (pack_bytes). The same numbers, more than twice as fast. */
#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"
#include "compute/nf4.h"

enum { TILE = 64 };

struct tile {
    union {
        float full[TILE][TILE];
        uint16_t half[TILE][TILE];
    };
};

/* The sixteen numbers of a block, in registers. */
struct lookup {
    lanes full[NF4_CODES / LANES];
    lanes_h half[NF4_CODES / LANES];
};

INLINE struct lookup lookup_make(float scale, enum dtype type)
{
    struct lookup lookup;

    UNROLL for (int i = 0; i < NF4_CODES / LANES; i++) {
        lookup.full[i] = lanes_load(nf4_code + i * LANES) * scale;
        lookup.half[i] = lanes_narrow(lookup.full[i]);
        if (type == DTYPE_BF16)
            lookup.full[i] = lanes_widen(lookup.half[i]);
    }
    return lookup;
}

/* Both look up as many of `count` numbers as whole vectors take, and return how many. A byte goes into a word of two
 * elements, shifted so that each element has its code in the lowest bits, which are all that a permutation reads. */
INLINE int32_t expand_half(const uint8_t *codes, int32_t count, struct lookup lookup, uint16_t *to)
{
    int32_t i = 0;
#if defined(__AVX512BW__)
    __m512i table = _mm512_broadcast_i64x4((__m256i)lookup.half[0]);

    for (; i + 32 <= count; i += 32) {
        __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + i / 2)));
        __m512i index = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
        _mm512_storeu_si512(to + i, _mm512_permutexvar_epi16(index, table));
    }
#endif
    return i;
}

INLINE int32_t expand_full(const uint8_t *codes, int32_t count, struct lookup lookup, float *to)
{
    int32_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= count; i += 16) {
        __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(codes + i / 2)));
        __m512i index = _mm512_or_si512(_mm512_srli_epi64(bytes, 4), _mm512_slli_epi64(bytes, 32));
        _mm512_storeu_ps(to + i, _mm512_permutexvar_ps(index, (__m512)lookup.full[0]));
    }
#elif defined(__AVX2__)
    for (; i + 8 <= count; i += 8) {
        int32_t four;
        memcpy(&four, codes + i / 2, sizeof four);
        __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
        __m256i index = _mm256_or_si256(_mm256_srli_epi64(bytes, 4), _mm256_slli_epi64(bytes, 32));
        __m256 low = _mm256_permutevar8x32_ps((__m256)lookup.full[0], index);
        __m256 high = _mm256_permutevar8x32_ps((__m256)lookup.full[1], index);
        _mm256_storeu_ps(to + i, _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
    }
#endif
    return i;
}

/* One by one, for what vectors leave. */
static void expand_rest(const struct nf4 *tensor, int64_t first, int32_t count, const struct lookup *lookup,
                        bool is_bf16, void *to)
{
    float full[NF4_CODES];
    uint16_t half[NF4_CODES];

    memcpy(full, lookup->full, sizeof full);
    memcpy(half, lookup->half, sizeof half);
    for (int32_t i = 0; i < count; i++) {
        int code = tensor->codes[(first + i) / 2] >> ((first + i) % 2 ? 0 : 4) & 15;
        if (is_bf16)
            ((uint16_t *)to)[i] = half[code];
        else
            ((float *)to)[i] = full[code];
    }
}

/* Numbers [first, first + count) of a tensor, all in one block. */
INLINE void expand(const struct nf4 *tensor, int64_t first, int32_t count, struct lookup lookup, bool is_bf16, void *to)
{
    const uint8_t *codes = tensor->codes + first / 2;
    int32_t i = 0;

    if (first % 2 == 0)
        i = is_bf16 ? expand_half(codes, count, lookup, to) : expand_full(codes, count, lookup, to);
    if (i < count)
        expand_rest(tensor, first + i, count - i, &lookup, is_bf16, (char *)to + (size_t)i * (is_bf16 ? 2 : 4));
}

static void expand_row(const struct side *side, int32_t row, int32_t col, int32_t count, bool is_bf16, void *to)
{
    const struct quant *quant = side->quant;
    int part = 0;

    while (row >= quant->row_end[part])
        part++;
    row -= part > 0 ? quant->row_end[part - 1] : 0;
    const struct nf4 *tensor = &quant->part[part];
    int64_t first = (int64_t)row * side->m.cols + col, end = first + count;
    while (first < end) {
        int64_t block = first / NF4_BLOCK, next = (block + 1) * NF4_BLOCK;
        int32_t here = (int32_t)((next < end ? next : end) - first);
        float scale;
        nf4_scales(tensor, block, 1, &scale);
        expand(tensor, first, here, lookup_make(scale, side->m.type), is_bf16, to);
        to = (char *)to + (size_t)here * (is_bf16 ? 2 : 4);
        first += here;
    }
}

#if defined(__AVX512BF16__)
enum { GROUP = 16, BLOCKS_MAX = 64 };

/* The rows of a part, if one tensor has them all. */
static const struct nf4 *tensor_of(const struct quant *quant, int32_t row, int32_t count, int32_t *tensor_row)
{
    int part = 0;

    while (row >= quant->row_end[part])
        part++;
    *tensor_row = row - (part > 0 ? quant->row_end[part - 1] : 0);
    return row + count <= quant->row_end[part] ? &quant->part[part] : NULL;
}

/* Rows of a block, 32 bytes each, become columns: those of the first 16 in the low halves, the rest in the high ones.
 * Four times rows i and i + 8 are interleaved. */
INLINE void turn_bytes(const uint8_t *codes, size_t row_bytes, __m256i out[GROUP])
{
    __m256i other[GROUP];

    UNROLL for (int i = 0; i < GROUP; i++)
        out[i] = _mm256_loadu_si256((const __m256i *)(codes + (size_t)i * row_bytes));
    UNROLL for (int round = 0; round < 4; round++) {
        UNROLL for (int i = 0; i < GROUP / 2; i++) {
            other[2 * i] = _mm256_unpacklo_epi8(out[i], out[i + GROUP / 2]);
            other[2 * i + 1] = _mm256_unpackhi_epi8(out[i], out[i + GROUP / 2]);
        }
        UNROLL for (int i = 0; i < GROUP; i++)
            out[i] = other[i];
    }
}

/* One step of sixteen columns: the high half of a byte is the first number of the pair. */
INLINE __m512i look_up(__m128i bytes, __m512 code, __m512 scale)
{
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i second = _mm512_cvtepu8_epi32(bytes), first = _mm512_srli_epi32(second, 4);
    __m512bh halves = _mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_permutexvar_ps(second, code), scale),
                                          _mm512_mul_ps(_mm512_permutexvar_ps(first, code), scale));

    return _mm512_permutexvar_epi16(pairs, (__m512i)halves);
}

INLINE void pack_block(const uint8_t *codes, size_t row_bytes, const float scales[GROUP], uint32_t *to, size_t width)
{
    const __m512 code = _mm512_loadu_ps(nf4_code), scale = _mm512_loadu_ps(scales);
    __m256i column[GROUP];

    turn_bytes(codes, row_bytes, column);
    UNROLL for (int i = 0; i < GROUP; i++) {
        _mm512_storeu_si512(to + (size_t)i * width, look_up(_mm256_castsi256_si128(column[i]), code, scale));
        _mm512_storeu_si512(to + (size_t)(i + GROUP) * width,
                            look_up(_mm256_extracti128_si256(column[i], 1), code, scale));
    }
}

/* Sixteen columns of the panel, from k on, up to BLOCKS_MAX blocks. */
static void pack_group(const struct nf4 *tensor, int32_t row, int32_t cols, int32_t k, int32_t blocks, uint32_t *to,
                       size_t width)
{
    float scales[BLOCKS_MAX][GROUP], of_row[BLOCKS_MAX];
    int64_t first = (int64_t)row * cols + k;

    for (int32_t i = 0; i < GROUP; i++) {
        nf4_scales(tensor, (first + (int64_t)i * cols) / NF4_BLOCK, blocks, of_row);
        for (int32_t block = 0; block < blocks; block++)
            scales[block][i] = of_row[block];
    }
    for (int32_t block = 0; block < blocks; block++)
        pack_block(tensor->codes + (first + block * NF4_BLOCK) / 2, (size_t)cols / 2, scales[block],
                   to + (size_t)block * (NF4_BLOCK / 2) * width, width);
}

/* False where rows do not consist of whole blocks, or groups of columns not of rows of one tensor. */
static bool pack_bytes(const struct side *side, struct part part, uint32_t *to, int32_t width)
{
    const struct nf4 *tensor[PANEL / GROUP];
    int32_t row[PANEL / GROUP], groups = part.count / GROUP, blocks = part.k_count / NF4_BLOCK;

    if (side->is_k_down || side->m.cols % NF4_BLOCK || part.k % NF4_BLOCK || part.k_count % NF4_BLOCK ||
        part.count != width || part.count % GROUP)
        return false;
    for (int32_t i = 0; i < groups; i++)
        if (!(tensor[i] = tensor_of(side->quant, part.i + i * GROUP, GROUP, &row[i])))
            return false;
    for (int32_t i = 0; i < groups; i++)
        for (int32_t block = 0; block < blocks; block += BLOCKS_MAX)
            pack_group(tensor[i], row[i], side->m.cols, part.k + block * NF4_BLOCK, smaller(BLOCKS_MAX, blocks - block),
                       to + (size_t)block * (NF4_BLOCK / 2) * (size_t)width + i * GROUP, (size_t)width);
    return true;
}
#else
static bool pack_bytes(const struct side *side, struct part part, uint32_t *to, int32_t width)
{
    return false;
}
#endif

void CPU(pack_codes)(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t width)
{
    struct tile tile;
    struct side plain = {.m = {&tile, TILE, TILE, TILE, is_bf16 ? DTYPE_BF16 : DTYPE_F32},
                         .is_k_down = side->is_k_down};

    if (is_bf16 && pack_bytes(side, part, to, width))
        return;
    for (int32_t k = 0; k < part.k_count; k += TILE) {
        int32_t k_count = smaller(TILE, part.k_count - k);
        int32_t rows = side->is_k_down ? k_count : part.count, cols = side->is_k_down ? part.count : k_count;
        int32_t row = side->is_k_down ? part.k + k : part.i, col = side->is_k_down ? part.i : part.k + k;

        for (int32_t i = 0; i < rows; i++)
            expand_row(side, row + i, col, cols, is_bf16, is_bf16 ? (void *)tile.half[i] : (void *)tile.full[i]);
        pack_panel(&plain, is_bf16, (struct part){0, part.count, 0, k_count},
                   to + (size_t)step_count(k, is_bf16) * (size_t)width, width);
    }
}
