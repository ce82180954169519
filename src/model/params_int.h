/* model/params_int.h - what builds the table of a model's tensors: params.c lists them and chooses their adapters,
 * params_files.c finds each in the files, params_layout.c gives each its place. */
#pragma once

#include "model/decoder_int.h"

struct builder {
    struct arena *arena;
    const struct model_config *config;
    enum model_profile profile;
    const struct lora_config *lora;
    const struct safetensors_set *set;
    bool is_trained;
    struct params *out;
    int32_t *stored_at;
    /* What the adapter does: [layers, LAYER_MODULES_MAX] by the module's place in its layer, and outside of layers. */
    struct lora_choice *choice, embed_choice, head_choice;
    bool *is_saved, embed_is_saved, norm_is_saved, head_is_saved;
};

static inline size_t stored_key(enum slot slot, int32_t layer, enum part part)
{
    return (((size_t)(layer + 1) * SLOT_COUNT) + (size_t)slot) * PART_COUNT + (size_t)part;
}

/* What trains lies in bf16 alone. */
static inline bool has_short_state(const struct builder *b)
{
    return b->is_trained && (b->profile == PROFILE_BF16_STATE || b->profile == PROFILE_BYTE_MOMENTS);
}

/* A tied head shares the embedding, unless one of them trains beside an adapter. */
static inline bool has_own_head(const struct builder *b)
{
    return !b->config->is_tied || b->embed_is_saved || b->head_is_saved;
}

/* The head's weight in files: lm_head.weight, with what the family sets before it. */
const char *params_head_name(const struct builder *b);

/* Finds every param of the base in the set, if there is one. ERR_INPUT for one that is missing or has another shape;
 * ERR_UNSUPPORTED for types that are not read and for tensors that nothing would read. */
bool params_bind(struct builder *b, struct err *err);

/* Which frozen weights stay where the file is mapped, or are codes. */
void params_settle(struct builder *b);

/* Places in the arenas, and counts. */
void params_lay_out(struct builder *b);
