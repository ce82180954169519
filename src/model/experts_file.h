/* model/experts_file.h - how gpt-oss' files hold the experts of a layer.
 *
 * One tensor for all: weights [E, in, out], transposed, biases [E, out]. In the first product's the outputs are a gate
 * and an up in turns. In memory they are as everywhere: [E·out, in], an expert's gates before its ups.
 *
 * Released files hold weights as MXFP4: NAME_blocks [E, out, in / 32, 16], two codes a byte, the lower first, and
 * NAME_scales [E, out, in / 32], exponents: a value is table[code]·2^(scale - 127). */
#pragma once

#include "model/params.h"

enum { MXFP4_VALUES = 32 }; /* that share a scale */

/* Puts a whole tensor (or its codes, with scales) into rows of `ld` elements, converted. */
void experts_place(const struct param *param, const void *values, enum dtype type, const uint8_t *scales, void *to,
                   int32_t ld, enum dtype to_type);
/* The way back, of one expert: expert `e` of the tensor as files have it, [in, out] or [out], F32 and dense. */
void experts_fetch(const struct param *param, const void *from, enum dtype type, int32_t ld, int32_t e, float *values);
/* Elements of one expert. */
size_t experts_elements(const struct param *param);

/* count values, a multiple of MXFP4_VALUES. */
void mxfp4_widen(const uint8_t *codes, const uint8_t *scales, size_t count, float *values);
