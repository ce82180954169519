/* model/config.h - what config.json says about a model, in the one form that the engine uses.
 *
 * Both dialects are read: transformers v4 (rope_theta, rope_scaling, torch_dtype) and v5 (rope_parameters, dtype). The
 * text of the file stays with the struct, so that a checkpoint is written in the dialect it came in. Only known keys
 * are read; code (`auto_map`) is refused. An architecture is a row of a table that describes its block; a `model_type`
 * that is not in the table, or a known one with a feature that the block does not have, is ERR_UNSUPPORTED and says so.
 */
#pragma once

#include "compute/backend.h"
#include "base/str.h"

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct rope_config {
    enum rope_kind kind;
    double theta;
    double factor;                            /* linear, llama3 */
    double low_freq_factor, high_freq_factor; /* llama3 */
    int32_t original_positions;               /* llama3 */
};

enum { EOS_IDS_MAX = 16 };

struct model_config {
    char model_type[32]; /* "llama" */
    int32_t hidden, mlp_width, layers, heads, kv_heads, head_dim, vocab, positions_max;
    float norm_eps;
    enum norm_kind norm;
    enum act act;
    bool is_tied; /* the head is the embedding */
    struct rope_config rope;
    float initializer_range;
    enum dtype dtype; /* of the weights: F32, BF16 or F16; F32 when the file does not say */
    bool has_dtype;
    int32_t bos_id, pad_id; /* -1: none */
    int32_t eos_ids[EOS_IDS_MAX], eos_count;
    struct str text; /* config.json as it was read; in the arena given */
};

/* Limits: 1 MiB of text, layers <= 512, hidden and mlp_width <= 1 Mi, vocab <= 4 Mi, heads <= 1,024, head_dim <= 512
 * and even, positions <= 16 Mi. The struct refers to the arena. Errors name the key. */
bool config_parse(struct arena *arena, struct str text, struct model_config *config, struct err *err);
/* folder/config.json */
bool config_read(struct arena *arena, const char *folder, struct model_config *config, struct err *err);

/* The text of config.json for a checkpoint whose weights have this type: the input's text as it was when its dtype says
 * the same, otherwise with `dtype` or `torch_dtype` (whichever it has) set. In the arena. */
struct str config_write(struct arena *arena, const struct model_config *config, enum dtype weights_type);

/* Names of the supported model types, comma separated. */
const char *config_supported(void);

/* inv_freq[i] for the head_dim/2 pairs, by kind (transformers' f32 arithmetic). */
void rope_inverse_frequencies(const struct model_config *config, float *inv_freq);
/* [positions, head_dim] for op_qk_rope: head_dim/2 cosines, then as many sines, of the f32 angle position · inv_freq.
 */
void rope_table(const struct model_config *config, int32_t positions, float *cos_sin);
