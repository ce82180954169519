/* model/config.h - what config.json says about a model, in the one form that the engine uses.
 *
 * Both dialects are read: transformers v4 (rope_theta, rope_scaling, torch_dtype) and v5 (rope_parameters, dtype). The
 * text of the file stays with the struct, so that a checkpoint is written in the dialect it came in. Only known keys
 * are read; keys that are absent have the defaults of the type's config class in transformers 5, and code (`auto_map`)
 * is never looked at. An architecture is a row of a table that describes its block (config_block.c); a `model_type`
 * that is not in the table, or a known one with a feature that the block does not have, is ERR_UNSUPPORTED and says so.
 *
 * Of a gemma3 folder (text and images) the text model is read: `text_config`, with the file's own dtype and ids.
 */
#pragma once

#include "compute/backend.h"
#include "base/str.h"

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE };

/* How positions turn a head's queries and keys. training-semantics 1.3 has the formulas. */
struct rope_config {
    enum rope_kind kind;
    int32_t dim; /* rotated dims of a head, from its first; even */
    double theta;
    double factor;                            /* all but default */
    float attention_scaling;                  /* on cosines and sines: 1 but for yarn and longrope */
    int32_t original_positions;               /* llama3, yarn, longrope */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    bool is_truncated;                        /* yarn: the ramp's ends are whole numbers */
    const float *short_factor, *long_factor;  /* longrope: [dim / 2] */
};

enum norm_places {
    NORMS_PRE,      /* input_layernorm before attention, post_attention_layernorm before the MLP */
    NORMS_SANDWICH, /* Gemma 2 and 3: input_ and post_attention_layernorm around attention, pre_ and
                     * post_feedforward_layernorm around the MLP */
    NORMS_POST,     /* OLMo 2 and 3: post_attention_layernorm and post_feedforward_layernorm on the outputs */
};
enum tensor_names {
    NAMES_LLAMA, /* q_proj k_proj v_proj, gate_proj up_proj */
    NAMES_FUSED, /* Phi-3: qkv_proj, gate_up_proj */
};
enum moe_names {
    MOE_NAMES_QWEN,    /* mlp.gate, mlp.experts.E.{gate,up,down}_proj */
    MOE_NAMES_MIXTRAL, /* block_sparse_moe.gate, block_sparse_moe.experts.E.{w1,w3,w2} */
    MOE_NAMES_OSS, /* mlp.router, mlp.experts.{gate_up,down}_proj of all experts, transposed, gate and up in turns */
};

struct moe_config {
    int32_t experts;        /* 0: a dense model */
    int32_t top;            /* experts of a token */
    int32_t width;          /* of one expert's MLP */
    bool is_normalized;     /* the chosen experts' weights sum to 1 */
    bool has_bias;          /* of router and experts */
    double aux_coefficient; /* of the load-balance loss */
    enum moe_names names;
};

struct layer_config {
    int32_t window; /* 0: full attention; else a token sees itself and window - 1 before it */
    int8_t rope;    /* index into config->rope; -1: no positions */
    bool is_moe;
};

/* Frozen linear layers as codes of four bits. */
struct quantization {
    bool is_nf4;
    bool is_in_file; /* the folder's weights are codes, as bitsandbytes writes them */
    bool is_nested;  /* double quantization */
};

enum { EOS_IDS_MAX = 16, ROPE_MAX = 2 };

struct model_config {
    char model_type[32]; /* "llama" */
    int32_t hidden, mlp_width, layers, heads, kv_heads, head_dim, vocab, positions_max;
    float norm_eps;
    enum norm_kind norm;
    enum norm_places norm_places;
    enum qk_norm qk_norm;
    enum tensor_names names;
    const char *tensor_prefix;  /* "model."; "language_model.model." in a gemma3 folder */
    const char *adapter_prefix; /* the same in the names that PEFT gives: "model."; "model.language_model." */
    bool has_qkv_bias, has_o_bias, has_mlp_bias;
    bool has_sinks; /* a learned score per head that takes part in every softmax */
    enum act act;
    float act_limit;         /* ACT_OSS: where gate and up are clamped */
    float attention_scale;   /* on q·k */
    float attention_softcap; /* 0: none */
    float logit_softcap;     /* 0: none */
    float embed_scale; /* on the embedding's rows: 1, or Gemma's √hidden, in f32 (no profile holds them in bf16) */
    bool is_tied;      /* the head is the embedding */
    struct rope_config rope[ROPE_MAX]; /* two kinds: [0] of the full layers, [1] of those with a window */
    int rope_count;
    struct layer_config *layer; /* [layers] */
    struct moe_config moe;
    struct quantization quantization;
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

/* inv_freq[i] for the dim/2 pairs, by kind (transformers' f32 arithmetic). is_long: longrope's long factors. */
void rope_inverse_frequencies(const struct rope_config *rope, bool is_long, float *inv_freq);

/* The table for op_qk_rope: [rope_table_rows(), dim] f32, dim/2 cosines, then as many sines, of the f32 angle
 * position · inv_freq, times attention_scaling. It has a row for every position; where longrope's factors change within
 * `positions`, a second half for the long factors.
 *
 * transformers takes the long factors for a whole batch as soon as one document in it is longer than the original
 * length. Here each document decides for itself, by its own last position: the result does not depend on what shares a
 * batch with it, and is transformers' for every document alone. */
int32_t rope_table_rows(const struct rope_config *rope, int32_t positions);
void rope_table(const struct model_config *config, int rope, int32_t positions, float *cos_sin);
/* Tokens of the longest document that turns by the short factors; INT32_MAX: length changes nothing. */
int32_t rope_short_most(const struct model_config *config, int32_t positions);
/* row[t] of the table for the batch's tokens. */
void rope_rows(const struct rope_config *rope, const struct batch *batch, int32_t positions, int32_t *row);
