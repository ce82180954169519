#include "model/modules.h"

#include <string.h>

/* What a row of the table may need. */
enum {
    SPLIT = 1, /* q, k, v and gate, up are tensors of their own */
    FUSED = 2, /* they are not */
    QKV_BIAS = 4,
    O_BIAS = 8,
    MLP_BIAS = 16,
    QK_NORM = 32,
    SINKS = 64,
    DENSE = 128,    /* one MLP, not experts */
    NORM_IN = 256,  /* before attention and before the MLP */
    NORM_OUT = 512, /* behind each */
    NORM_ONLY_IN = 1024,
    QWEN_EXPERTS = 2048,
    MIXTRAL_EXPERTS = 4096,
    OSS_EXPERTS = 8192,
};

static const struct module table[] = {
    {"self_attn.sinks", SLOT_SINKS, 0, SINKS},
    {"self_attn.q_proj.weight", SLOT_QKV, 0, SPLIT},
    {"self_attn.q_proj.bias", SLOT_QKV_BIAS, 0, SPLIT | QKV_BIAS},
    {"self_attn.k_proj.weight", SLOT_QKV, 1, SPLIT},
    {"self_attn.k_proj.bias", SLOT_QKV_BIAS, 1, SPLIT | QKV_BIAS},
    {"self_attn.v_proj.weight", SLOT_QKV, 2, SPLIT},
    {"self_attn.v_proj.bias", SLOT_QKV_BIAS, 2, SPLIT | QKV_BIAS},
    {"self_attn.o_proj.weight", SLOT_O, 0, 0},
    {"self_attn.o_proj.bias", SLOT_O_BIAS, 0, O_BIAS},
    {"self_attn.qkv_proj.weight", SLOT_QKV, 0, FUSED},
    {"self_attn.qkv_proj.bias", SLOT_QKV_BIAS, 0, FUSED | QKV_BIAS},
    {"self_attn.q_norm.weight", SLOT_Q_NORM, 0, QK_NORM},
    {"self_attn.k_norm.weight", SLOT_K_NORM, 0, QK_NORM},
    {"mlp.gate_proj.weight", SLOT_GATE_UP, 0, SPLIT | DENSE},
    {"mlp.gate_proj.bias", SLOT_GATE_UP_BIAS, 0, SPLIT | DENSE | MLP_BIAS},
    {"mlp.up_proj.weight", SLOT_GATE_UP, 1, SPLIT | DENSE},
    {"mlp.up_proj.bias", SLOT_GATE_UP_BIAS, 1, SPLIT | DENSE | MLP_BIAS},
    {"mlp.gate_up_proj.weight", SLOT_GATE_UP, 0, FUSED | DENSE},
    {"mlp.gate_up_proj.bias", SLOT_GATE_UP_BIAS, 0, FUSED | DENSE | MLP_BIAS},
    {"mlp.down_proj.weight", SLOT_DOWN, 0, DENSE},
    {"mlp.down_proj.bias", SLOT_DOWN_BIAS, 0, DENSE | MLP_BIAS},
    {"mlp.gate.weight", SLOT_ROUTER, 0, QWEN_EXPERTS},
    {"mlp.experts.*.gate_proj.weight", SLOT_EXPERTS_IN, 0, QWEN_EXPERTS},
    {"mlp.experts.*.up_proj.weight", SLOT_EXPERTS_IN, 1, QWEN_EXPERTS},
    {"mlp.experts.*.down_proj.weight", SLOT_EXPERTS_OUT, 0, QWEN_EXPERTS},
    {"block_sparse_moe.gate.weight", SLOT_ROUTER, 0, MIXTRAL_EXPERTS},
    {"block_sparse_moe.experts.*.w1.weight", SLOT_EXPERTS_IN, 0, MIXTRAL_EXPERTS},
    {"block_sparse_moe.experts.*.w3.weight", SLOT_EXPERTS_IN, 1, MIXTRAL_EXPERTS},
    {"block_sparse_moe.experts.*.w2.weight", SLOT_EXPERTS_OUT, 0, MIXTRAL_EXPERTS},
    {"mlp.router.weight", SLOT_ROUTER, 0, OSS_EXPERTS},
    {"mlp.router.bias", SLOT_ROUTER_BIAS, 0, OSS_EXPERTS},
    {"mlp.experts.gate_up_proj", SLOT_EXPERTS_IN, 0, OSS_EXPERTS},
    {"mlp.experts.gate_up_proj_bias", SLOT_EXPERTS_IN_BIAS, 0, OSS_EXPERTS},
    {"mlp.experts.down_proj", SLOT_EXPERTS_OUT, 0, OSS_EXPERTS},
    {"mlp.experts.down_proj_bias", SLOT_EXPERTS_OUT_BIAS, 0, OSS_EXPERTS},
    {"input_layernorm.weight", SLOT_NORM1, 0, NORM_IN},
    {"post_attention_layernorm.weight", SLOT_NORM2, 0, NORM_ONLY_IN},
    {"post_attention_layernorm.weight", SLOT_POST1, 0, NORM_OUT},
    {"pre_feedforward_layernorm.weight", SLOT_NORM2, 0, NORM_IN | NORM_OUT},
    {"post_feedforward_layernorm.weight", SLOT_POST2, 0, NORM_OUT},
};
enum { TABLE_COUNT = sizeof table / sizeof *table };
_Static_assert((int)TABLE_COUNT <= (int)LAYER_MODULES_MAX, "a layer's modules must fit");

static uint32_t layer_features(const struct model_config *config, int32_t layer)
{
    static const uint32_t norms[] = {
        [NORMS_PRE] = NORM_IN | NORM_ONLY_IN, [NORMS_SANDWICH] = NORM_IN | NORM_OUT, [NORMS_POST] = NORM_OUT};
    static const uint32_t experts[] = {[MOE_NAMES_QWEN] = QWEN_EXPERTS,
                                       [MOE_NAMES_MIXTRAL] = MIXTRAL_EXPERTS,
                                       [MOE_NAMES_OSS] = OSS_EXPERTS};
    uint32_t features = norms[config->norm_places];

    features |= config->names == NAMES_FUSED ? FUSED : SPLIT;
    features |= config->layer[layer].is_moe ? experts[config->moe.names] : DENSE;
    features |= config->has_qkv_bias ? QKV_BIAS : 0;
    features |= config->has_o_bias ? O_BIAS : 0;
    features |= config->has_mlp_bias ? MLP_BIAS : 0;
    features |= config->qk_norm != QK_NORM_NONE ? QK_NORM : 0;
    features |= config->has_sinks ? SINKS : 0;
    return features;
}

int layer_modules(const struct model_config *config, int32_t layer, const struct module *modules[LAYER_MODULES_MAX])
{
    uint32_t features = layer_features(config, layer);
    int count = 0;

    for (int i = 0; i < TABLE_COUNT; i++)
        if ((table[i].needs & features) == table[i].needs)
            modules[count++] = &table[i];
    return count;
}

bool module_is_linear(const struct module *module)
{
    return !slot_is_vector(module->slot) && module->slot < SLOT_ROUTER;
}

bool module_is_per_expert(const struct module *module)
{
    return strchr(module->tensor, '*') != NULL;
}

int module_expert_part(const struct module *module, int expert)
{
    return module->slot == SLOT_EXPERTS_IN ? 2 * expert + module->part : expert;
}

struct str module_path(const struct module *module)
{
    const char *end = strrchr(module->tensor, '.');

    return (struct str){module->tensor, (size_t)(end - module->tensor)};
}

bool slot_is_vector(enum slot slot)
{
    switch (slot) {
    case SLOT_EMBED:
    case SLOT_QKV:
    case SLOT_O:
    case SLOT_GATE_UP:
    case SLOT_DOWN:
    case SLOT_ROUTER:
    case SLOT_EXPERTS_IN:
    case SLOT_EXPERTS_OUT:
    case SLOT_HEAD:
        return false;
    default:
        return true;
    }
}

bool slot_is_bias(enum slot slot)
{
    return slot == SLOT_QKV_BIAS || slot == SLOT_O_BIAS || slot == SLOT_GATE_UP_BIAS || slot == SLOT_DOWN_BIAS ||
           slot == SLOT_ROUTER_BIAS || slot == SLOT_EXPERTS_IN_BIAS || slot == SLOT_EXPERTS_OUT_BIAS;
}

bool slot_is_of_experts(enum slot slot)
{
    return slot == SLOT_EXPERTS_IN || slot == SLOT_EXPERTS_OUT || slot == SLOT_EXPERTS_IN_BIAS ||
           slot == SLOT_EXPERTS_OUT_BIAS;
}

bool slot_is_norm(enum slot slot)
{
    switch (slot) {
    case SLOT_NORM1:
    case SLOT_POST1:
    case SLOT_NORM2:
    case SLOT_POST2:
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
    case SLOT_FINAL_NORM:
        return true;
    default:
        return false;
    }
}

/* The reference's rule goes by names: norms and biases do not decay, sinks do. */
bool slot_has_decay(enum slot slot)
{
    return !slot_is_vector(slot) || slot == SLOT_SINKS;
}

int slot_part_count(const struct model_config *config, enum slot slot)
{
    bool has_all = config->moe.names == MOE_NAMES_OSS; /* experts share a tensor */

    if (config->names == NAMES_FUSED)
        return 1;
    switch (slot) {
    case SLOT_EXPERTS_IN:
        return has_all ? 1 : 2 * config->moe.experts;
    case SLOT_EXPERTS_OUT:
        return has_all ? 1 : config->moe.experts;
    case SLOT_QKV:
    case SLOT_QKV_BIAS:
        return 3;
    case SLOT_GATE_UP:
    case SLOT_GATE_UP_BIAS:
        return 2;
    default:
        return 1;
    }
}

static int32_t qkv_part_at(const struct model_config *config, int part)
{
    int32_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;

    if (config->names == NAMES_FUSED)
        return part * (q + 2 * kv);
    return part == 0 ? 0 : q + (part - 1) * kv;
}

int32_t slot_part_at(const struct model_config *config, enum slot slot, int part)
{
    bool is_whole = config->qk_norm == QK_NORM_WHOLE;
    const struct moe_config *moe = &config->moe;
    int32_t together = moe->names == MOE_NAMES_OSS ? moe->experts : 1; /* experts of a part */

    switch (slot) {
    case SLOT_EMBED:
    case SLOT_HEAD:
        return part * config->vocab;
    case SLOT_QKV:
    case SLOT_QKV_BIAS:
        return qkv_part_at(config, part);
    case SLOT_GATE_UP:
    case SLOT_GATE_UP_BIAS:
        return part * config->mlp_width * (config->names == NAMES_FUSED ? 2 : 1);
    case SLOT_Q_NORM:
        return part * config->head_dim * (is_whole ? config->heads : 1);
    case SLOT_K_NORM:
        return part * config->head_dim * (is_whole ? config->kv_heads : 1);
    case SLOT_SINKS:
        return part * config->heads;
    case SLOT_ROUTER:
    case SLOT_ROUTER_BIAS:
        return part * moe->experts;
    case SLOT_EXPERTS_IN:
        return part * moe->width * (moe->names == MOE_NAMES_OSS ? 2 * together : 1);
    case SLOT_EXPERTS_OUT:
        return part * config->hidden * together;
    case SLOT_EXPERTS_IN_BIAS:
        return part * 2 * moe->width * moe->experts;
    case SLOT_EXPERTS_OUT_BIAS:
        return part * config->hidden * moe->experts;
    default:
        return part * config->hidden;
    }
}

int32_t slot_inputs(const struct model_config *config, enum slot slot)
{
    switch (slot) {
    case SLOT_O:
        return config->heads * config->head_dim;
    case SLOT_DOWN:
        return config->mlp_width;
    case SLOT_EXPERTS_OUT:
        return config->moe.width;
    default:
        return config->hidden;
    }
}
