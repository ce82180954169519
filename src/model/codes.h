/* model/codes.h - linear layers whose frozen weights are codes of four bits (compute/nf4.h).
 *
 * Either the files hold them, as bitsandbytes writes them, or they are quantized while the model is loaded: every
 * tensor of the files by itself, so that blocks are those of bitsandbytes. Attention and MLP of every layer are
 * quantized; embeddings, head, norms, biases, routers and experts are not.
 *
 * In files a tensor [N, K] named `weight` is U8 [(N·K + 1) / 2, 1]; beside it lie `weight.absmax` (U8 when double
 * quantized, else F32), `weight.quant_map`, with double quantization `weight.nested_absmax` and
 * `weight.nested_quant_map`, and `weight.quant_state.bitsandbytes__nf4`: JSON in bytes with the type, the shape, block
 * sizes and the offset. Codes are used where the file is mapped; the rest is small and copied.
 *
 * A param's share of the frozen region is what codes_bytes says: its codes unless they are in a file, then scales. */
#pragma once

#include "model/params.h"

enum beside { BESIDE_ABSMAX, BESIDE_MAP, BESIDE_STATE, BESIDE_NESTED_ABSMAX, BESIDE_NESTED_MAP, BESIDE_COUNT };

/* What lies in the files beside codes. */
struct packed {
    const struct safetensor *beside[BESIDE_COUNT]; /* the last two NULL without double quantization */
    float offset;
};

/* The names' ends, ".absmax" and so on. */
const char *codes_beside_name(enum beside beside);

/* Whether the stored weight is one that codes can stand for. */
bool codes_can_hold(const struct stored *stored);
/* Finds and checks what must lie beside param->file, a tensor of codes. */
bool codes_bind(struct arena *arena, const struct safetensors_set *set, bool is_nested, struct param *param,
                struct err *err);
/* The JSON of a quant state for a tensor [rows, cols]. *is_nested and, then, *offset are set. */
bool codes_state_parse(struct arena *arena, struct str text, int32_t rows, int32_t cols, bool *is_nested,
                       float *offset, struct err *err);

/* Bytes of the frozen region for one param. is_copied: those that are in a file too. */
uint64_t codes_bytes(const struct param *param, const struct quantization *quantization, bool is_copied);
/* Makes param->codes from its file: `at` is its share of the frozen region, `share` that or
 * what will be copied there. */
void codes_load(const struct param *param, const struct quantization *quantization, bool is_copied, char *share,
                char *at);
/* codes and absmax of `count` numbers of a type, at any alignment. */
void codes_quantize(const void *values, enum dtype type, int64_t count, uint8_t *codes, float *absmax);
