/* model/params.h - the table of a model's tensors: what each is called in files, where it lives, whether it trains.
 *
 * A *stored weight* is what one operation reads: q‖k‖v and gate‖up are one each, and so are their biases. A *param* is
 * a tensor as files have it: a rectangle of a stored weight, one of three in q‖k‖v or, in files that fuse it, the
 * whole. The table follows from the config (model/modules.h); it drives loading, saving, the optimizer, adapters,
 * recovery points and merging.
 *
 * Trained weights live in flat arenas of equal layout: masters, gradients, moments m and v and, for adapters and on
 * devices, a compute copy where products run in another type; elsewhere products round the masters as they read them.
 * With PROFILE_BF16_STATE there is no copy: vectors come first, in f32, and from `short_from` on every arena holds
 * bf16, which products read, or moments in bytes, whose scales lie behind them; a stored weight then begins at a
 * multiple of 256. A stored weight begins at a multiple of 64 elements and is contiguous, its params follow each other
 * without gap; the params of a layer are contiguous and layers follow in order: embedding, layers, final norm, head.
 * The gaps hold zeros and stay zero under AdamW.
 *
 * LoRA: A of q‖k‖v is stored as rows [A_q; A_k; A_v], B as one block-diagonal rectangle, zeros between; a part without
 * an adapter has no rows of A. On the embedding A is stored as a table to look up, [V, r]. Modules that train whole
 * beside an adapter lie in the arenas; a tied head gets a weight of its own when it or the embedding does. The rest of
 * the base is frozen then: frozen weights lie in an arena of their
 * own in the compute type, or stay where the file is mapped when type and layout are already right. */
#pragma once

#include "model/config.h"
#include "model/lora.h"
#include "model/safetensors.h"

/* F32: everything f32. BF16: products in bf16; masters, residual stream, norms and sums f32. F64: everything f64, for
 * finite differences on the reference backend. BF16_STATE: as BF16, but what trains is in bf16 alone, weights,
 * gradients and both moments, 8 bytes a parameter; only norms, biases and sinks keep f32. Of whole models, not of
 * adapters. BYTE_MOMENTS: the same with moments in bytes (compute/eight_bit.h), 6 bytes a parameter. */
enum model_profile { PROFILE_F32, PROFILE_BF16, PROFILE_F64, PROFILE_BF16_STATE, PROFILE_BYTE_MOMENTS };
/* "float32", "bfloat16", "float64", "bfloat16 with its state", … */
const char *model_profile_name(enum model_profile profile);
/* BF16 where the processor multiplies bf16, else F32. */
enum model_profile model_profile_best(void);
/* Of "auto" (the best), "float32" or "bfloat16". */
bool model_profile_choose(const char *name, enum model_profile *profile, struct err *err);

/* Which stored weight: of the model, and of a layer in the order of the arenas, vectors first. */
enum slot {
    SLOT_EMBED,
    SLOT_NORM1, /* what attention reads is normed */
    SLOT_POST1, /* what attention adds to the residual is normed */
    SLOT_NORM2, /* the same of the MLP */
    SLOT_POST2,
    SLOT_Q_NORM,
    SLOT_K_NORM,
    SLOT_SINKS,
    SLOT_QKV_BIAS,
    SLOT_O_BIAS,
    SLOT_GATE_UP_BIAS,
    SLOT_DOWN_BIAS,
    SLOT_ROUTER_BIAS,
    SLOT_EXPERTS_IN_BIAS, /* of all experts of a layer, one behind the other, like their weights */
    SLOT_EXPERTS_OUT_BIAS,
    SLOT_QKV,
    SLOT_O,
    SLOT_GATE_UP,
    SLOT_DOWN,
    SLOT_ROUTER,
    SLOT_EXPERTS_IN, /* gate‖up */
    SLOT_EXPERTS_OUT,
    SLOT_FINAL_NORM,
    SLOT_HEAD,
    SLOT_COUNT,
    SLOT_LAYER_FIRST = SLOT_NORM1,
    SLOT_LAYER_LAST = SLOT_EXPERTS_OUT
};
enum part { PART_W, PART_A, PART_B, PART_M, PART_COUNT }; /* of the stored weight: itself, or its adapter's matrices and
                                                           * DoRA's magnitudes, [1, outputs] */

enum residence {
    IN_ARENA,  /* trained: masters, gradients, moments */
    IN_FROZEN, /* a copy in the compute type (norms and sinks: the master type) */
    IN_FILE,   /* the mapped file itself */
    IN_CODES,  /* four bits a weight: in the file, or quantized into the frozen arena; see model/codes.h */
};

struct stored { /* a stored matrix */
    enum slot slot;
    enum part part;
    int32_t layer; /* -1: not of a layer */
    int32_t rows, cols, ld;
    int32_t joined; /* columns behind each row and rows below: room for the adapter beside a frozen weight; 0: none */
    enum residence residence;
    bool has_decay;  /* weight decay applies: everything but norms and biases */
    uint64_t at;     /* IN_ARENA: elements from the start; IN_FROZEN: bytes */
    uint64_t end;    /* IN_ARENA: elements up to the next one, padding included */
    enum dtype type; /* that the ops read: of the copy when there is one */
    bool is_saved;   /* of the base, but the adapter has its own: modules_to_save */
    struct nf4 *codes;    /* IN_CODES: [code_count], one for each param; set when the model is loaded */
    int32_t *code_row_end; /* [code_count] as in struct quant */
    int code_count;
    const int32_t *part_cols; /* of B, for a weight of several parts: as in struct weight */
    const float *part_scale;
};

struct param {
    const char *name; /* as in the file: model.layers.0.self_attn.q_proj.weight, or the adapter's
                       * base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight */
    int32_t stored;   /* index of its stored matrix */
    int32_t row_at, col_at, rows, cols;
    bool is_vector; /* one row; shape [cols] in the file */
    bool is_trained;
    int32_t experts;      /* above 0: all experts of a layer in one tensor, each transposed; see model/experts_file.h */
    bool is_interleaved;  /* and its gates and ups take turns */
    enum dtype file_type;          /* of the base's file; F32 for adapters */
    const struct safetensor *file; /* where the base's numbers are; NULL without a set and for adapters */
    const char *saved_name; /* what the adapter's file calls it when that has its own: modules_to_save */
    bool is_transposed; /* the file has [cols, rows]: an adapter's embedding is looked up by rows */
    struct nf4 *codes;           /* IN_CODES: its own among those of its stored weight */
    uint64_t codes_at;           /* bytes in the frozen region */
    const struct packed *packed; /* what lies beside codes in a file; NULL: quantized while loading */
    const struct safetensor *file_scales; /* file holds MXFP4's codes and this their scales; NULL: plain numbers */
};

struct params {
    struct param *param; /* order of transformers' named_parameters, adapters after the base */
    int count;
    const struct safetensor **copied; /* of the set: tensors that a checkpoint takes over unread */
    int copied_count;
    struct stored *stored; /* in arena order */
    int stored_count;
    const int32_t *stored_at; /* 1 + index by (layer + 1, slot, part); see params_stored */
    uint64_t arena_count;    /* elements of each trained arena, padding included */
    uint64_t short_from;     /* elements from here on are BF16 in all of them; arena_count: none is */
    uint64_t copy_from;      /* the compute copy, if there is one, covers [copy_from, arena_count) */
    uint64_t frozen_bytes;   /* of the frozen arena */
    uint64_t file_code_bytes; /* of codes that are used in the file */
    uint64_t trained_count;  /* trainable parameters, no padding or zero blocks */
    uint64_t total_count;    /* parameters of base and adapter */
    enum dtype compute_type; /* of products: F32, BF16, F64 */
    enum dtype master_type;  /* F32, or F64 in PROFILE_F64 */
    bool has_byte_moments;   /* from short_from on moments are U8 */
    bool has_copy;           /* compute_type is not master_type and something is trained */
    int32_t lora_rank;
    float lora_dropout;
    bool has_dora;
    bool is_copied; /* nothing is used where a file is mapped */
};

/* Pure: from the config alone when set is NULL (then the files are taken to have config->dtype and to be usable in
 * place). is_trained false: everything is frozen (inference). is_random: there is no file, nothing is used in place.
 * is_copied: operations have a memory of their own, and nothing is used in place either.
 * ERR_INPUT when a target names no layer (with the names there are). */
bool params_make(struct arena *arena, const struct model_config *config, enum model_profile profile,
                 const struct lora_config *lora, bool is_trained, bool is_random, bool is_copied,
                 const struct safetensors_set *set, struct params *params, struct err *err);
/* Of a trained arena: the bytes before an element, and the type of what begins there. */
uint64_t params_arena_bytes(const struct params *params, uint64_t at);
enum dtype params_arena_type(const struct params *params, uint64_t at);
/* The same of the arenas of moments; and of one whole, its scales included. */
uint64_t params_moment_bytes(const struct params *params, uint64_t at);
enum dtype params_moment_type(const struct params *params, uint64_t at);
uint64_t params_moments_whole(const struct params *params);
uint64_t params_scale_count(const struct params *params); /* of moments in bytes */
/* The shape of its tensor in files; the rank. */
int param_shape(const struct param *param, uint64_t shape[3]);
const struct param *params_find(const struct params *params, const char *name);
/* Index in params->stored, or -1. */
int params_stored(const struct params *params, enum slot slot, int32_t layer, enum part part);

/* The base's param whose rows begin at `row` of a layer's stored weight; that of the embedding for a tied head. */
const struct param *param_at_row(const struct params *params, enum slot slot, int32_t layer, int32_t row);

/* Names of the modules that a target may mean, "q_proj" and so on, each once and in the model's order; is_default: of
 * those that have adapters when no target is given. In the arena. */
struct linear_names {
    const char **name;
    int count;
};
struct linear_names linear_names(struct arena *arena, const struct model_config *config, bool is_default);
