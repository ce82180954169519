/* compute/cpu/lanes.h - vectors as wide as the instruction set that this file is compiled for.
 *
 * The files of compute/cpu that include this header are compiled once per path (plain, AVX2, AVX-512, AVX-512 with
 * bf16 products, AMX) and written in GCC's vector extensions, so that one text serves all. Rows of any real type are
 * read and written as f32 lanes; a row's tail is read as zeros and written only as far as it goes. Nothing is
 * reassociated: a sum over a row runs lane by lane and ends in one fixed tree. Multiply-adds are fused where the set
 * has them. */
#pragma once

#include "compute/backend.h"
#include "compute/convert.h"

#include <math.h>

#if defined(__AMX_BF16__) || defined(__AMXBF16__)
enum { HAS_TILES = 1 }; /* bf16 products of tile registers: tiles.c */
#else
enum { HAS_TILES = 0 };
#endif

#if defined(__AVX512F__)
enum { LANES = 16, PANEL_VECTORS = HAS_TILES ? 2 : 4 };
#elif defined(__AVX2__)
enum { LANES = 8, PANEL_VECTORS = 2 };
#else
enum { LANES = 4, PANEL_VECTORS = 2 };
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512BF16__)
enum { HAS_BF16_PRODUCTS = 1 };
#else
enum { HAS_BF16_PRODUCTS = 0 };
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

#define CPU_PASTE_(name, path) cpu_##name##_##path
#define CPU_PASTE(name, path)  CPU_PASTE_(name, path)
#define CPU(name)              CPU_PASTE(name, CPU_PATH) /* cpu_norm_avx2 */

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t lanes_u __attribute__((vector_size(4 * LANES)));
typedef int32_t lanes_i __attribute__((vector_size(4 * LANES)));
typedef uint16_t lanes_h __attribute__((vector_size(2 * LANES)));

/* f(d, 0), f(d, 1), … for every lane: indices of a shuffle. */
#define LIST4(f, d, i)  f(d, i), f(d, i + 1), f(d, i + 2), f(d, i + 3)
#if defined(__AVX512F__)
#define LIST(f, d) LIST4(f, d, 0), LIST4(f, d, 4), LIST4(f, d, 8), LIST4(f, d, 12)
#elif defined(__AVX2__)
#define LIST(f, d) LIST4(f, d, 0), LIST4(f, d, 4)
#else
#define LIST(f, d) LIST4(f, d, 0)
#endif

INLINE lanes lanes_all(float value)
{
    return value - (lanes){0};
}

/* Lanes of a where the mask (from a comparison) is set, else of b. */
INLINE lanes lanes_select(lanes_i mask, lanes a, lanes b)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), (__m512)b, (__m512)a);
#else
    return (lanes)(((lanes_i)a & mask) | ((lanes_i)b & ~mask));
#endif
}

/* b where they do not compare; gcc 12 makes three instructions of the select. */
INLINE lanes lanes_max(lanes a, lanes b)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return lanes_select(a > b, a, b);
#endif
}

INLINE lanes lanes_min(lanes a, lanes b)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return lanes_select(a < b, a, b);
#endif
}

/* Zero where a < b. */
INLINE lanes lanes_zero_below(lanes a, lanes b, lanes value)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLT_UQ), (__m512)value);
#else
    return lanes_select(a < b, (lanes){0}, value);
#endif
}

INLINE bool lanes_any_above(lanes a, lanes b)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#else
    lanes_i above = a > b;
    int32_t any = 0;

    UNROLL for (int i = 0; i < LANES; i++)
        any |= above[i];
    return any != 0;
#endif
}

/* Each half in the low part of a word; gcc 12 takes the generic conversion through memory. */
INLINE lanes_u halves_to_words(lanes_h halves)
{
#if defined(__AVX512F__)
    return (lanes_u)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
    return (lanes_u)_mm256_cvtepu16_epi32((__m128i)halves);
#else
    return __builtin_convertvector(halves, lanes_u);
#endif
}

INLINE lanes_h words_to_halves(lanes_u words)
{
#if defined(__AVX512F__)
    return (lanes_h)_mm512_cvtepi32_epi16((__m512i)words);
#elif defined(__AVX2__)
    __m128i low = _mm256_castsi256_si128((__m256i)words), high = _mm256_extracti128_si256((__m256i)words, 1);
    return (lanes_h)_mm_packus_epi32(low, high); /* words below 65,536 */
#else
    return __builtin_convertvector(words, lanes_h);
#endif
}

INLINE lanes lanes_widen(lanes_h halves)
{
    return (lanes)(halves_to_words(halves) << 16);
}

/* f32 to bf16, to nearest even. */
INLINE lanes_h lanes_narrow(lanes value)
{
#if defined(__AVX512BF16__)
    return (lanes_h)_mm512_cvtneps_pbh((__m512)value);
#else
    lanes_u bits = (lanes_u)value, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    lanes_u is_nan = (lanes_u)((bits & 0x7fffffff) > 0x7f800000);

    return words_to_halves((rounded & ~is_nan) | ((bits >> 16 | 0x40) & is_nan));
#endif
}

INLINE lanes lanes_load(const float *from)
{
    lanes value;

    memcpy(&value, from, sizeof value);
    return value;
}

INLINE void lanes_store(float *to, lanes value)
{
    memcpy(to, &value, sizeof value);
}

/* One row of a matrix; element j is read as f32 whatever its type (F32 or BF16). */
struct row {
    void *at;
    enum dtype type;
};

INLINE struct row row_of(const struct mat *m, int32_t row, int32_t col)
{
    size_t index = (size_t)row * (size_t)m->ld + (size_t)col;

    return (struct row){(char *)m->at + index * (m->type == DTYPE_BF16 ? 2 : 4), m->type};
}

/* Asks for a row that comes soon; behind the last nothing is read. */
INLINE void row_fetch(const struct mat *m, int32_t row)
{
    size_t size = m->type == DTYPE_BF16 ? 2 : 4;
    uintptr_t at = (uintptr_t)m->at + (size_t)row * (size_t)m->ld * size;

    for (uintptr_t end = at + (size_t)m->cols * size; at < end; at += 64)
        __builtin_prefetch((const void *)at);
}

/* A stretch of a flat arena, from an element on. */
INLINE struct row row_at(void *at, enum dtype type, uint64_t first)
{
    return (struct row){(char *)at + first * (type == DTYPE_BF16 ? 2 : 4), type};
}

INLINE struct row row_from(struct row row, int32_t col)
{
    return (struct row){(char *)row.at + (ptrdiff_t)col * (row.type == DTYPE_BF16 ? 2 : 4), row.type};
}

/* The last elements of a row, j to end: fewer than LANES, or none. */
#if defined(__AVX512F__)
INLINE __mmask16 tail_mask(int32_t j, int32_t end)
{
    return (__mmask16)((1u << (end > j ? end - j : 0)) - 1);
}

INLINE lanes tail_load(struct row row, int32_t j, int32_t end)
{
    if (row.type == DTYPE_F32)
        return (lanes)_mm512_maskz_loadu_ps(tail_mask(j, end), (const float *)row.at + j);
    return lanes_widen((lanes_h)_mm256_maskz_loadu_epi16(tail_mask(j, end), (const uint16_t *)row.at + j));
}

INLINE void tail_store(struct row row, int32_t j, int32_t end, lanes value)
{
    if (row.type == DTYPE_F32)
        _mm512_mask_storeu_ps((float *)row.at + j, tail_mask(j, end), (__m512)value);
    else
        _mm256_mask_storeu_epi16((uint16_t *)row.at + j, tail_mask(j, end), (__m256i)lanes_narrow(value));
}
#else
INLINE lanes tail_load(struct row row, int32_t j, int32_t end)
{
    float some[LANES] = {0};

    for (int32_t i = j; i < end; i++)
        some[i - j] = row.type == DTYPE_F32 ? ((const float *)row.at)[i] : f32_from_bf16(((const uint16_t *)row.at)[i]);
    return lanes_load(some);
}

INLINE void tail_store(struct row row, int32_t j, int32_t end, lanes value)
{
    for (int32_t i = j; i < end; i++)
        if (row.type == DTYPE_F32)
            ((float *)row.at)[i] = value[i - j];
        else
            ((uint16_t *)row.at)[i] = bf16_from_f32(value[i - j]);
}
#endif

/* Elements j .. j + LANES of a row with `end` elements; zeros behind the end. */
INLINE lanes row_load(struct row row, int32_t j, int32_t end)
{
    lanes_h halves;

    if (__builtin_expect(j + LANES > end, 0))
        return tail_load(row, j, end);
    if (row.type == DTYPE_F32)
        return lanes_load((const float *)row.at + j);
    memcpy(&halves, (const uint16_t *)row.at + j, sizeof halves);
    return lanes_widen(halves);
}

INLINE void row_store(struct row row, int32_t j, int32_t end, lanes value)
{
    lanes_h halves;

    if (__builtin_expect(j + LANES > end, 0)) {
        tail_store(row, j, end, value);
    } else if (row.type == DTYPE_F32) {
        lanes_store((float *)row.at + j, value);
    } else {
        halves = lanes_narrow(value);
        memcpy((uint16_t *)row.at + j, &halves, sizeof halves);
    }
}

/* Folds the lanes in halves: lane i takes what `fold` makes of it and lane i + d. */
#define LANE_ABOVE(d, i)         (((i) + (d)) % LANES)
#define LANES_FOLD(value, d, fold) fold(value, __builtin_shufflevector(value, value, LIST(LANE_ABOVE, d)))

INLINE lanes lanes_add(lanes a, lanes b)
{
    return a + b;
}

INLINE float lanes_sum(lanes value)
{
#if defined(__AVX512F__)
    value = LANES_FOLD(value, 8, lanes_add);
#endif
#if defined(__AVX2__)
    value = LANES_FOLD(value, 4, lanes_add);
#endif
    value = LANES_FOLD(value, 2, lanes_add);
    return LANES_FOLD(value, 1, lanes_add)[0];
}

INLINE float lanes_largest(lanes value)
{
#if defined(__AVX512F__)
    value = LANES_FOLD(value, 8, lanes_max);
#endif
#if defined(__AVX2__)
    value = LANES_FOLD(value, 4, lanes_max);
#endif
    value = LANES_FOLD(value, 2, lanes_max);
    return LANES_FOLD(value, 1, lanes_max)[0];
}

/* eˣ as 2ⁿ·eʳ, |r| <= ½ ln 2, eʳ by Cephes' polynomial of degree 7. Relative error at most 2e-7 in [-87.33, 88.37]; 0
 * below, infinity above, NaN stays NaN. */
INLINE lanes lanes_exp(lanes x)
{
    const float round = 0x1.8p23f;
    lanes bounded = lanes_max(lanes_all(-87.33f), lanes_min(lanes_all(88.5f), x));
    lanes shifted = bounded * 1.44269504f + round, n = shifted - round;
    lanes r = bounded - n * 0.693359375f - n * -2.12194440e-4f, p;
    lanes scale = (lanes)(((lanes_u)shifted + 127) << 23);

    p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1;
    return lanes_zero_below(x, lanes_all(-87.33f), p * scale);
}

INLINE lanes lanes_sigmoid(lanes x)
{
    return 1 / (1 + lanes_exp(-x));
}

/* Cephes' polynomial below 5/8, by exp above it. Relative error at most 4e-7. */
INLINE lanes lanes_tanh(lanes x)
{
    lanes z = x * x, p = z * -5.70498872745e-3f + 2.06390887954e-2f;

    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return lanes_select(z < 0.390625f, p * z * x + x, 1 - 2 / (lanes_exp(2 * x) + 1));
}
