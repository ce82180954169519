/* compute/nf4.h - weights of four bits, in the layout and with the bits of bitsandbytes.
 *
 * A tensor of a file is read as one flat row of numbers and cut into blocks (of 64, the last may be shorter). A block
 * keeps its largest magnitude, `absmax`; each number divided by it becomes the nearest of sixteen codes, quantiles of a
 * normal distribution scaled to [-1, 1]. What it stands for afterwards is code · absmax, in f32, rounded once to the
 * type that the product works in.
 *
 * Double quantization ("nesting") stores the absmax of each block in one byte: their mean is taken off, and in blocks
 * of 256 they become indices into a map of 256 numbers with a dynamic exponent. A weight then takes 4.127 bits.
 *
 * Quantizing gives what bitsandbytes' CPU backend gives (0.50), its ways included: full blocks multiply by 1/absmax, a
 * short one divides; a number in the middle between two codes takes the lower; the mean is torch's sum of one thread in
 * eight lanes (from 32,768 blocks on torch's own result depends on its threads); nesting looks the normed absmax up in
 * 65,536 steps. Its GPU code differs in the last two: the codes of weights are the same there, absmax may differ by a
 * step of the map. */
#pragma once

#include "compute/backend.h"

enum { NF4_BLOCK = 64, NF4_NESTED_BLOCK = 256, NF4_MAP = 256, NF4_CODES = 16 };

struct nf4 { /* the memory belongs to the caller */
    const uint8_t *codes;   /* [(count + 1) / 2], the first of two numbers in the high half */
    const float *absmax;    /* [blocks]; nested: [blocks of 256 of them] */
    const uint8_t *nested;  /* [blocks], indices into map; NULL: not nested */
    const float *map;       /* [256], when nested */
    float offset;           /* added to a nested absmax */
    int64_t count;
};

int64_t nf4_code_bytes(int64_t count);
int64_t nf4_blocks(int64_t count, int64_t block); /* ceil(count / block) */

/* What the codes stand for, times 1. */
extern const float nf4_code[NF4_CODES];
/* The dynamic map of bitsandbytes, ascending. */
void nf4_make_map(float map[NF4_MAP]);

/* codes [nf4_code_bytes(count)] and absmax [nf4_blocks(count, NF4_BLOCK)] of count numbers. Pieces of one tensor, each
 * but the last a multiple of 64 long, give what the whole gives. */
void nf4_quantize(const float *values, int64_t count, uint8_t *codes, float *absmax);
/* Double quantization of `blocks` absmax (which lose their mean on the way): indices [blocks], one absmax for 256 of
 * them, and the mean. */
void nf4_nest(float *absmax, int64_t blocks, const float map[NF4_MAP], uint8_t *nested, float *nested_absmax,
              float *offset);

/* absmax of blocks [first, first + count). */
void nf4_scales(const struct nf4 *tensor, int64_t first, int64_t count, float *scales);
/* Numbers [first, first + count) in F32, BF16, F16 or F64 (the f32 number). */
void nf4_dequantize(const struct nf4 *tensor, int64_t first, int64_t count, enum dtype type, void *to);
