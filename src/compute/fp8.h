/* compute/fp8.h - numbers of eight bits for products: e4m3 of weights and activations, e5m2 of gradients.
 *
 * A tensor is quantized whole, with one scale (torchao's tensorwise dynamic scaling, its arithmetic included): the
 * scale is max / amax in f64, rounded to f32, amax at least 1e-12; the code of a number is that of number · scale in
 * f32, cut to ±max and rounded to nearest, ties to even. What a code stands for is its value times 1 / scale in f32; a
 * product of two tensors sums values and multiplies the sum by both inverses.
 *
 * Of the operations linear and linear_grad_in take a weight so whose `quant` has parts without codes: q(x)·q(W)ᵀ in
 * place of x·Wᵀ, with x one tensor in E4M3 and each part of W another; Σ over the parts of q(dy)·q(W) in place of dy·W,
 * with the columns of dy that meet a part one tensor in E5M2. The adapter's terms, bias and residual are in the same
 * f32 sum before its one rounding. Not of experts, of rows with adapters of their own, or capped; linear_grad_w is as
 * ever.
 *
 *   E4M3: sign, 4 bits of exponent (bias 7), 3 of fraction; ±448 at most, no infinities, NaN is 0x7f
 *   E5M2: sign, 5 bits of exponent (bias 15), 2 of fraction; ±57,344 at most, ∞ is 0x7c, NaN 0x7d to 0x7f
 *
 * Every value is a bf16 number too. NaN stays NaN; an infinite number makes the scale 0, its inverse infinite and so
 * every sum NaN: a step that has one is not taken. */
#pragma once

#include "compute/convert.h"

enum fp8 { FP8_E4M3, FP8_E5M2 };

static inline float fp8_max(enum fp8 format)
{
    return format == FP8_E4M3 ? 448.0f : 57344.0f;
}

/* What quantizing multiplies by. */
static inline float fp8_scale(enum fp8 format, float amax)
{
    double least = 1e-12;

    return (float)((double)fp8_max(format) / (amax > least ? (double)amax : least));
}

/* Below the smallest normal number the sum with 2^(22 - its last bit's place) has that place last; above it rounding is
 * a carry into the bits that stay. */
static inline uint8_t fp8_from_f32(enum fp8 format, float value)
{
    int cut = format == FP8_E4M3 ? 20 : 21, bias = format == FP8_E4M3 ? 7 : 15;
    uint32_t bits = f32_bits(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;

    if (magnitude > 0x7f800000)
        return (uint8_t)(sign | 0x7f);
    if (magnitude > f32_bits(fp8_max(format)))
        magnitude = f32_bits(fp8_max(format));
    if (magnitude < (uint32_t)(128 - bias) << 23) {
        float place = f32_from_bits((uint32_t)(128 - bias + cut) << 23);
        return (uint8_t)(sign | (f32_bits(f32_from_bits(magnitude) + place) - f32_bits(place)));
    }
    magnitude += (1u << (cut - 1)) - 1 + (magnitude >> cut & 1) - ((uint32_t)(127 - bias) << 23);
    return (uint8_t)(sign | magnitude >> cut);
}

/* The code's bits are those of a float that is 2^(127 - bias) too small. */
static inline float fp8_to_f32(enum fp8 format, uint8_t code)
{
    int cut = format == FP8_E4M3 ? 20 : 21;
    uint32_t sign = (uint32_t)(code & 0x80) << 24, magnitude = code & 0x7f;

    if (format == FP8_E4M3 ? magnitude == 0x7f : magnitude >= 0x7c)
        return f32_from_bits(sign | 0x7f800000 | (magnitude & 3) << 21);
    return f32_from_bits(sign | magnitude << cut) * (format == FP8_E4M3 ? 0x1p120f : 0x1p112f);
}
