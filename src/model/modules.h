/* model/modules.h - which tensors a layer has, what files call them, and where each lies in the stored weights.
 *
 * One table serves every family: a row stands in a layer when the features that it needs are those of the config. Its
 * order is that of transformers' modules, which is the order of PEFT's draws and of the tensors in files. */
#pragma once

#include "model/params.h"

struct module {
    const char *tensor; /* behind the layer's prefix: "self_attn.q_proj.weight"; with a * for an expert's number */
    enum slot slot;
    int part;       /* of the stored weight */
    uint32_t needs; /* features, all of them */
};

enum { LAYER_MODULES_MAX = 48 };

/* The rows of the table that a layer has, and how many. */
int layer_modules(const struct model_config *config, int32_t layer, const struct module *modules[LAYER_MODULES_MAX]);
/* Whether a row is the weight of a product that an adapter can stand on: not a router, not experts. */
bool module_is_linear(const struct module *module);
/* Whether there is one such tensor for each expert, and which part of its slot an expert's is. */
bool module_is_per_expert(const struct module *module);
int module_expert_part(const struct module *module, int expert);
/* "self_attn.q_proj": the tensor's name without its last part, as a view. */
struct str module_path(const struct module *module);

/* Geometry of stored weights. A slot's outputs are the rows of a matrix and the columns of a vector. */
bool slot_is_vector(enum slot slot);
bool slot_is_bias(enum slot slot);
bool slot_is_of_experts(enum slot slot); /* weights and biases of experts */
bool slot_is_norm(enum slot slot);
bool slot_has_decay(enum slot slot);
/* How many params share it: 3 for q‖k‖v in files that hold them apart. */
int slot_part_count(const struct model_config *config, enum slot slot);
/* Outputs before part `part`; with part = part count, all of them. */
int32_t slot_part_at(const struct model_config *config, enum slot slot, int part);
/* Columns of a matrix. */
int32_t slot_inputs(const struct model_config *config, enum slot slot);
