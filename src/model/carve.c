#include "model/decoder_int.h"

#include <stdio.h>
#include <string.h>

enum { CARVE_ALIGN = 64, SUMSQ_BLOCK = 65536 };

static void *take(struct model *m, enum region_id region, uint64_t bytes)
{
    char *at = m->region[region] + m->region_bytes[region];

    m->region_bytes[region] += (bytes + CARVE_ALIGN - 1) / CARVE_ALIGN * CARVE_ALIGN;
    return at;
}

/* `spare` columns behind each row are for an adapter; rows with them begin at whole cache lines. */
static struct mat take_mat(struct model *m, enum region_id region, int32_t rows, int32_t cols, int32_t spare,
                           enum dtype type)
{
    int32_t ld = spare ? (cols + spare + 31) / 32 * 32 : cols;

    return (struct mat){take(m, region, (uint64_t)rows * (uint64_t)ld * dtype_bytes(type)), rows, cols, ld, type};
}

enum slot linear_slot(enum linear linear)
{
    static const enum slot slots[] = {SLOT_QKV, SLOT_O, SLOT_GATE_UP, SLOT_DOWN};

    return slots[linear];
}

enum slot linear_bias(enum linear linear)
{
    static const enum slot slots[] = {SLOT_QKV_BIAS, SLOT_O_BIAS, SLOT_GATE_UP_BIAS, SLOT_DOWN_BIAS};

    return slots[linear];
}

/* The matrix that products read, or the master of one that lives in the arenas. */
static struct mat stored_mat(const struct model *m, const struct stored *stored, bool is_master)
{
    struct mat mat = {NULL, stored->rows, stored->cols, stored->ld, stored->type};
    const struct params *params = &m->params;

    if (stored->residence == IN_CODES) {
        mat.at = NULL;
    } else if (stored->residence == IN_FROZEN) {
        mat.at = m->region[REGION_FROZEN] + stored->at;
    } else if (stored->residence == IN_FILE) {
        mat.at = (void *)(uintptr_t)CARVE_ALIGN; /* known once files are bound */
        for (int i = 0; i < params->count; i++)
            if (params->param[i].file && &params->stored[params->param[i].stored] == stored)
                mat.at = (void *)(uintptr_t)params->param[i].file->data;
    } else if (params->has_copy && !is_master && stored->type == params->compute_type) {
        mat.at = m->region[REGION_COPY] + (stored->at - params->copy_from) * dtype_bytes(stored->type);
    } else {
        mat.type = params_arena_type(params, stored->at);
        mat.at = m->region[REGION_MASTERS] + params_arena_bytes(params, stored->at);
    }
    return mat;
}

char *model_grads_base(const struct model *m)
{
    return m->grads_lie_over ? m->region[REGION_KEPT] + m->grads_at : m->region[REGION_GRADS];
}

static struct mat grad_mat(const struct model *m, const struct stored *stored)
{
    if (stored->residence != IN_ARENA)
        return (struct mat){0};
    return (struct mat){model_grads_base(m) + params_arena_bytes(&m->params, stored->at), stored->rows, stored->cols,
                        stored->cols, params_arena_type(&m->params, stored->at)};
}

/* A scale that all adapted parts share is the weight's: they then take one product. */
static void place_scales(struct weight *weight, const struct stored *b, int count)
{
    bool is_shared = true;

    weight->part_cols = b->part_cols;
    weight->lora_scale = 0;
    for (int i = 0; i < count; i++) {
        if (b->part_cols[i] == b->part_cols[i + 1])
            continue;
        is_shared &= weight->lora_scale == 0 || weight->lora_scale == b->part_scale[i];
        weight->lora_scale = b->part_scale[i];
    }
    weight->part_scale = is_shared ? NULL : b->part_scale;
}

/* A frozen weight that products alone read is laid out in its own place where that suffices. */
static const void *place_panels(struct model *m, const struct stored *stored, const struct mat *mat)
{
    uint64_t bytes = m->panel_backend && m->panel_backend->panel_bytes ? m->panel_backend->panel_bytes(mat) : 0;
    bool is_own = stored->residence == IN_FROZEN && stored->slot != SLOT_EMBED && stored->part == PART_W;

    if (!bytes || stored->residence == IN_CODES)
        return NULL;
    if (is_own && bytes == (uint64_t)mat->rows * (uint64_t)mat->cols * dtype_bytes(mat->type))
        return mat->at;
    return take(m, REGION_PANELS, bytes);
}

static void place_linear(struct model *m, struct linear_state *linear, const struct stored *stored)
{
    struct mat mat = stored_mat(m, stored, false), grad = grad_mat(m, stored);

    if (stored->part == PART_A) {
        linear->weight.a = mat;
        linear->weight.a_panels = place_panels(m, stored, &mat);
        linear->da = grad;
    } else if (stored->part == PART_B) {
        linear->weight.b = mat;
        linear->weight.b_panels = place_panels(m, stored, &mat);
        linear->db = grad;
        place_scales(&linear->weight, stored, slot_part_count(&m->config, stored->slot));
    } else if (stored->part == PART_M) {
        linear->magnitude = mat;
        linear->dmagnitude = grad;
    } else {
        linear->weight.w = mat;
        if (!slot_is_of_experts(stored->slot) && stored->slot != SLOT_ROUTER)
            linear->weight.panels = place_panels(m, stored, &mat);
        if (stored->codes)
            linear->weight.quant = (struct quant){stored->codes, stored->code_row_end, stored->code_count};
        linear->dw = grad;
        linear->weight.lora_dropout = m->params.lora_dropout;
    }
}

/* The adapter's place beside a frozen weight; see make_room in params.c. */
static void join_adapters(struct model *m)
{
    for (int32_t l = 0; l < m->config.layers; l++)
        for (int i = 0; i < LINEAR_KINDS; i++) {
            struct linear_state *linear = &m->layer[l].linear[i];
            struct weight *weight = &linear->weight;
            if (!weight->a.rows || weight->w.ld < weight->w.cols + weight->a.rows)
                continue;
            linear->own_a = weight->a;
            linear->own_b = weight->b;
            weight->a.at =
                (char *)weight->w.at + (size_t)weight->w.rows * (size_t)weight->w.ld * dtype_bytes(weight->w.type);
            weight->b.at = (char *)weight->w.at + (size_t)weight->w.cols * dtype_bytes(weight->w.type);
            weight->a.ld = weight->b.ld = weight->w.ld;
        }
}

/* [1, E·N] as [E, N] */
static struct mat per_expert(const struct model *m, struct mat biases)
{
    biases.rows = m->config.moe.experts;
    biases.cols = biases.ld = biases.cols / biases.rows;
    return biases;
}

/* Lookups read masters, products the compute copy. */
static void place_embed(struct model *m, const struct stored *stored)
{
    struct embed_state *adapter = &m->embed_adapter;

    if (stored->part == PART_A) {
        adapter->a = stored_mat(m, stored, true);
        adapter->da = grad_mat(m, stored);
    } else if (stored->part == PART_B) {
        adapter->b.w = stored_mat(m, stored, false);
        adapter->db = grad_mat(m, stored);
        adapter->scale = *stored->part_scale * m->config.embed_scale;
    } else {
        m->embed = stored_mat(m, stored, true);
        m->dembed = grad_mat(m, stored);
        if (params_stored(&m->params, SLOT_HEAD, -1, PART_W) < 0)
            place_linear(m, &m->head, stored);
    }
}

static void place_stored(struct model *m, const struct stored *stored)
{
    struct layer *layer = stored->layer >= 0 ? &m->layer[stored->layer] : NULL;

    switch (stored->slot) {
    case SLOT_EMBED:
        place_embed(m, stored);
        break;
    case SLOT_HEAD:
        place_linear(m, &m->head, stored);
        break;
    case SLOT_FINAL_NORM:
        m->final_norm = stored_mat(m, stored, true);
        m->dfinal_norm = grad_mat(m, stored);
        break;
    case SLOT_ROUTER:
        place_linear(m, &layer->router, stored);
        break;
    case SLOT_EXPERTS_IN:
        place_linear(m, &layer->experts_in, stored);
        break;
    case SLOT_EXPERTS_OUT:
        place_linear(m, &layer->experts_out, stored);
        break;
    case SLOT_EXPERTS_IN_BIAS:
    case SLOT_EXPERTS_OUT_BIAS:
        layer->vector[stored->slot] = (struct vector_state){per_expert(m, stored_mat(m, stored, false)),
                                                            per_expert(m, grad_mat(m, stored))};
        break;
    default:
        if (slot_is_vector(stored->slot))
            layer->vector[stored->slot] = (struct vector_state){stored_mat(m, stored, false), grad_mat(m, stored)};
        for (int i = 0; i < LINEAR_KINDS; i++)
            if (linear_slot(i) == stored->slot)
                place_linear(m, &layer->linear[i], stored);
    }
}

/* The borders of the parts of fused weights, shared by all layers; in eight bits each part is a tensor. */
static void place_parts(struct model *m)
{
    for (int i = 0; i < LINEAR_KINDS; i++) {
        int count = slot_part_count(&m->config, linear_slot(i));
        int32_t *rows = arena_new_array(&m->arena, int32_t, (size_t)count + 1);

        for (int part = 0; part <= count; part++)
            rows[part] = slot_part_at(&m->config, linear_slot(i), part);
        for (int32_t l = 0; l < m->config.layers; l++) {
            struct weight *weight = &m->layer[l].linear[i].weight;
            weight->part_rows = count > 1 ? rows : NULL;
            weight->part_count = count > 1 ? count : 0;
            if (m->is_fp8)
                weight->quant = (struct quant){NULL, rows + 1, count};
        }
    }
}

static void take_arenas(struct model *m)
{
    const struct params *params = &m->params;
    uint64_t bytes = params_arena_bytes(params, params->arena_count);

    take(m, REGION_MASTERS, bytes);
    take(m, REGION_GRADS, bytes);
    if (params->master_type == DTYPE_F32) {
        take(m, REGION_MOMENT_M, params_moments_whole(params));
        take(m, REGION_MOMENT_V, params_moments_whole(params));
    }
    if (params->has_copy)
        take(m, REGION_COPY, (params->arena_count - params->copy_from) * dtype_bytes(params->compute_type));
    take(m, REGION_FROZEN, params->frozen_bytes);
    take(m, REGION_MAPPED, params->file_code_bytes);
    for (int i = 0; i < params->stored_count; i++) {
        const struct stored *stored = &params->stored[i];
        if (stored->residence == IN_FILE)
            take(m, REGION_MAPPED, (uint64_t)stored->rows * (uint64_t)stored->cols * dtype_bytes(stored->type));
    }
}

/* Of the model's own adapter, or of any that may be opened beside it. */
static int32_t adapter_columns(const struct model *m, enum linear linear)
{
    int32_t most = m->slot_rank * slot_part_count(&m->config, linear_slot(linear));

    for (int32_t l = 0; l < m->config.layers; l++)
        if (most < m->layer[l].linear[linear].weight.a.rows)
            most = m->layer[l].linear[linear].weight.a.rows;
    return most;
}

struct widths {
    int32_t T, D, F, Q, K, N; /* Q: all query heads, K: all key heads, N: query, key and value heads */
    int32_t spare[LINEAR_KINDS];
    enum dtype type, residual; /* of activations, of the residual stream and statistics */
    bool has_post, has_qk_norm;
    int32_t experts, expert_F, rows; /* of a layer of experts: its rows are T·top */
};

static struct widths model_widths(const struct model *m)
{
    const struct model_config *c = &m->config;
    struct widths w = {.T = m->plan.tokens, .D = c->hidden, .Q = c->heads * c->head_dim};

    w.K = c->kv_heads * c->head_dim;
    w.N = w.Q + 2 * w.K;
    for (int32_t l = 0; l < c->layers; l++)
        w.F = c->layer[l].is_moe ? w.F : c->mlp_width;
    w.experts = c->moe.experts;
    w.expert_F = c->moe.width;
    w.rows = w.T * c->moe.top;
    w.type = m->params.compute_type;
    w.residual = m->params.master_type;
    w.has_post = c->norm_places != NORMS_PRE;
    w.has_qk_norm = c->qk_norm != QK_NORM_NONE;
    for (int i = 0; i < LINEAR_KINDS; i++)
        w.spare[i] = adapter_columns(m, i);
    return w;
}

/* A matrix of struct layer, and which choice of the plan it falls under. */
struct activation {
    size_t offset;
    enum keep keep;
    bool is_used;
    int32_t cols, spare;
    enum dtype type;
    enum layers { ALL_LAYERS, DENSE_LAYERS, EXPERT_LAYERS } layers;
};
enum { ACTIVATION_COUNT = 11 };

static void list_activations(const struct model *m, const struct widths *w, struct activation list[ACTIVATION_COUNT])
{
    const struct activation all[ACTIVATION_COUNT] = {
        {offsetof(struct layer, y1), KEEP_NORM1, true, w->D, w->spare[LINEAR_QKV], w->type, ALL_LAYERS},
        {offsetof(struct layer, qkv), KEEP_QKV, true, w->N, 0, w->type, ALL_LAYERS},
        {offsetof(struct layer, raw), KEEP_QKV, w->has_qk_norm && m->is_trained, w->Q + w->K, 0, w->type, ALL_LAYERS},
        {offsetof(struct layer, att), KEEP_ATTENTION, true, w->Q, w->spare[LINEAR_O], w->type, ALL_LAYERS},
        {offsetof(struct layer, o), KEEP_MIDDLE, w->has_post, w->D, 0, w->type, ALL_LAYERS},
        {offsetof(struct layer, mid), KEEP_MIDDLE, m->is_trained, w->D, 0, w->residual, ALL_LAYERS},
        {offsetof(struct layer, y2), KEEP_NORM2, true, w->D, w->spare[LINEAR_GATE_UP], w->type, ALL_LAYERS},
        /* its gradient takes its place, so it has room for dt */
        {offsetof(struct layer, gate_up), KEEP_GATE_UP, true, 2 * w->F, w->spare[LINEAR_GATE_UP], w->type,
         DENSE_LAYERS},
        {offsetof(struct layer, down), KEEP_MLP, w->has_post, w->D, 0, w->type, DENSE_LAYERS},
        {offsetof(struct layer, gate_up), KEEP_GATE_UP, w->experts > 0, 2 * w->expert_F, 0, w->type, EXPERT_LAYERS},
        {offsetof(struct layer, down), KEEP_MLP, w->experts > 0, w->D, 0, w->type, EXPERT_LAYERS},
    };

    memcpy(list, all, sizeof all);
}

static struct mat *layer_mat(struct layer *layer, const struct activation *activation)
{
    return (struct mat *)((char *)layer + activation->offset);
}

static bool has_activation(const struct model *m, const struct activation *a, int32_t l)
{
    return a->layers == ALL_LAYERS || m->config.layer[l].is_moe == (a->layers == EXPERT_LAYERS);
}

/* What layers that do not keep their own take in turn, in the working set. */
struct shared {
    struct mat activation[ACTIVATION_COUNT];
    struct routing routing;
    void *lse;
};

static void take_activations(struct model *m, const struct widths *w, int32_t l, struct shared *shared)
{
    struct activation list[ACTIVATION_COUNT];
    struct layer *layer = &m->layer[l];

    list_activations(m, w, list);
    for (int i = 0; i < ACTIVATION_COUNT; i++) {
        const struct activation *a = &list[i];
        int32_t rows = a->layers == EXPERT_LAYERS ? w->rows : w->T;
        bool is_kept = layer->keep & a->keep;
        struct mat *mat = layer_mat(layer, a);
        if (!a->is_used || !has_activation(m, a, l))
            continue;
        if (!is_kept && !shared->activation[i].at)
            shared->activation[i] = take_mat(m, REGION_WORKING, rows, a->cols, a->spare, a->type);
        *mat = is_kept ? take_mat(m, REGION_KEPT, rows, a->cols, a->spare, a->type) : shared->activation[i];
    }
}

static struct routing take_routing(struct model *m, const struct widths *w, enum region_id region)
{
    int32_t top = m->config.moe.top;
    uint64_t bytes = (uint64_t)w->rows * sizeof(int32_t);

    return (struct routing){.logits = take_mat(m, region, w->T, w->experts, 0, w->residual),
                            .weight = take_mat(m, region, w->T, top, 0, w->residual),
                            .row_weight = take_mat(m, region, 1, w->rows, 0, w->residual),
                            .row = take(m, region, bytes),
                            .token = take(m, region, bytes),
                            .row_end = take(m, region, (uint64_t)w->experts * sizeof(int32_t))};
}

/* Who computed what is small and always kept. */
static void take_layer_routing(struct model *m, const struct widths *w, int32_t l, struct shared *shared)
{
    if (!m->config.layer[l].is_moe)
        return;
    if (!m->is_trained && !shared->routing.row)
        shared->routing = take_routing(m, w, REGION_WORKING);
    m->layer[l].routing = m->is_trained ? take_routing(m, w, REGION_KEPT) : shared->routing;
}

static void take_statistics(struct model *m, const struct widths *w, int32_t l, struct shared *shared)
{
    uint64_t row_bytes = (uint64_t)w->T * dtype_bytes(w->residual), heads = (uint64_t)m->config.heads;
    struct layer *layer = &m->layer[l];

    if (m->is_trained && !shared->lse)
        shared->lse = take(m, REGION_WORKING, heads * row_bytes);
    layer->lse = layer->keep & KEEP_ATTENTION ? take(m, REGION_KEPT, heads * row_bytes) : shared->lse;
    layer->rstd1 = m->is_trained ? take(m, REGION_KEPT, row_bytes) : NULL;
    layer->rstd2 = m->is_trained ? take(m, REGION_KEPT, row_bytes) : NULL;
    layer->post_rstd1 = m->is_trained && w->has_post ? take(m, REGION_KEPT, row_bytes) : NULL;
    layer->post_rstd2 = m->is_trained && w->has_post ? take(m, REGION_KEPT, row_bytes) : NULL;
}

/* The adapter's columns of an input must outlive it where the input is not kept and its product is not run again. The
 * input of down is never kept, and without a norm behind it the product is never run again. */
static void take_adapter_columns(struct model *m, const struct widths *w, int32_t l)
{
    static const int inputs[] = {KEEP_NORM1, KEEP_ATTENTION, KEEP_NORM2, 0};
    static const int outputs[] = {KEEP_QKV, KEEP_MIDDLE, KEEP_GATE_UP, KEEP_MLP};
    struct layer *layer = &m->layer[l];

    for (int i = 0; m->is_trained && i < LINEAR_KINDS; i++) {
        int32_t R = layer->linear[i].weight.a.rows;
        bool is_run_once = (layer->keep & outputs[i]) || (i == LINEAR_DOWN && !w->has_post);
        bool is_lost = !(layer->keep & inputs[i]) && is_run_once;
        layer->t[i] = R && is_lost ? take_mat(m, REGION_KEPT, w->T, R, 0, w->type) : (struct mat){0};
    }
}

/* Layer behind layer, so that what one keeps is free at once when its backward pass is over. Inference has one residual
 * stream in place; training keeps the input of every layer. */
static void take_layers(struct model *m, const struct widths *w)
{
    struct shared shared = {0};

    for (int32_t l = 0; l < m->config.layers; l++) {
        m->layer[l].x = m->is_trained || l == 0 ? take_mat(m, REGION_KEPT, w->T, w->D, 0, w->residual) : m->layer[0].x;
        take_activations(m, w, l, &shared);
        take_layer_routing(m, w, l, &shared);
        take_statistics(m, w, l, &shared);
        take_adapter_columns(m, w, l);
        m->layer[l].kept_end = m->region_bytes[REGION_KEPT];
    }
    m->x_last = m->is_trained ? take_mat(m, REGION_KEPT, w->T, w->D, 0, w->residual) : m->layer[0].x;
}

static void take_experts(struct model *m, const struct widths *w)
{
    if (!w->experts)
        return;
    m->experts_x = take_mat(m, REGION_WORKING, w->rows, w->D, 0, w->type);
    m->experts_h = take_mat(m, REGION_WORKING, w->rows, w->expert_F, 0, w->type);
    m->load = take_mat(m, REGION_TABLES, 2, w->experts, 0, w->residual);
    m->daux = take_mat(m, REGION_TABLES, 1, w->experts, 0, w->residual);
    if (!m->is_trained)
        return;
    m->dexperts_x = take_mat(m, REGION_WORKING, w->rows, w->D, 0, w->type);
    m->dexperts_h = take_mat(m, REGION_WORKING, w->rows, w->expert_F, 0, w->type);
    m->dlogits_router = take_mat(m, REGION_WORKING, w->T, w->experts, 0, w->type);
}

static void take_gradients(struct model *m, const struct widths *w)
{
    int32_t spare = w->spare[LINEAR_O] > w->spare[LINEAR_DOWN] ? w->spare[LINEAR_O] : w->spare[LINEAR_DOWN];

    if (!m->is_trained)
        return;
    m->dr = take_mat(m, REGION_WORKING, w->T, w->D, spare, w->residual);
    if (w->type == w->residual && !w->has_post)
        m->dy = m->dr;
    else
        m->dy = take_mat(m, REGION_WORKING, w->T, w->D, spare, w->type);
    m->dh = take_mat(m, REGION_WORKING, w->T, w->F, 0, w->type);
    m->dqkv = take_mat(m, REGION_WORKING, w->T, w->N, w->spare[LINEAR_QKV], w->type);
    m->datt = take_mat(m, REGION_WORKING, w->T, w->Q, 0, w->type);
    m->dnorm = take_mat(m, REGION_WORKING, w->T, w->D, 0, w->type);
}

/* One product at a time is before its gain; norms and gains of all stay. */
static void take_dora(struct model *m, const struct widths *w)
{
    int32_t most = 0, spare = 0;

    for (int32_t l = 0; l < m->config.layers; l++)
        for (int i = 0; i < LINEAR_KINDS; i++) {
            struct linear_state *linear = &m->layer[l].linear[i];
            int32_t N = linear->magnitude.cols;
            if (!N)
                continue;
            linear->inverse = take_mat(m, REGION_TABLES, 1, N, 0, w->residual);
            linear->gain = take_mat(m, REGION_TABLES, 1, N, 0, w->residual);
            most = most > N ? most : N;
            spare = spare > w->spare[i] ? spare : w->spare[i];
        }
    if (!most)
        return;
    m->z = take_mat(m, REGION_WORKING, w->T, most, 0, w->type);
    if (m->is_trained)
        m->dz = take_mat(m, REGION_WORKING, w->T, most, spare, w->type);
}

static void take_embed_adapter(struct model *m, const struct widths *w)
{
    struct embed_state *adapter = &m->embed_adapter;

    if (!adapter->a.rows)
        return;
    adapter->u = take_mat(m, REGION_WORKING, w->T, adapter->a.cols, 0, w->type);
    if (m->is_trained)
        adapter->du = take_mat(m, REGION_WORKING, w->T, adapter->a.cols, 0, w->type);
}

/* Behind a row of logits, for `adapter` columns and so that on a processor a row is an odd number of KB long: a piece
 * of many rows would share few sets of a cache otherwise, for vocabularies are multiples of large powers of two. */
static int32_t logits_spare(const struct model *m, const struct widths *w, int32_t adapter)
{
    int32_t kb = 1024 / (int32_t)dtype_bytes(w->residual), count = (m->config.vocab + adapter + kb - 1) / kb;

    return m->memory ? adapter : (count | 1) * kb - m->config.vocab;
}

static void take_head(struct model *m, const struct widths *w)
{
    int32_t n = m->plan.head_rows, spare = logits_spare(m, w, m->head.weight.a.rows);

    m->head_x = take_mat(m, REGION_HEAD, n, w->D, 0, w->residual);
    m->head_y = take_mat(m, REGION_HEAD, n, w->D, m->head.weight.a.rows, w->type);
    m->logits = take_mat(m, REGION_HEAD, n, m->config.vocab, spare, w->residual);
    m->head_rstd = take(m, REGION_HEAD, (uint64_t)n * dtype_bytes(w->residual));
    if (!m->is_trained)
        return;
    m->dlogits = m->logits;
    if (w->type != w->residual && m->memory) {
        m->dlogits = take_mat(m, REGION_HEAD, n, m->config.vocab, m->head.weight.a.rows, w->type);
    } else if (w->type != w->residual) {
        m->dlogits.type = w->type; /* at the front of each row */
        m->dlogits.ld *= (int32_t)(dtype_bytes(w->residual) / dtype_bytes(w->type));
    }
    m->head_dy = take_mat(m, REGION_HEAD, n, w->D, 0, w->type);
    m->head_dx = take_mat(m, REGION_HEAD, n, w->D, 0, w->residual);
}

static void take_tables(struct model *m, const struct widths *w)
{
    for (int i = 0; i < m->config.rope_count; i++) {
        uint64_t rows = (uint64_t)rope_table_rows(&m->config.rope[i], m->plan.positions);
        m->cos_sin[i] = take(m, REGION_TABLES, rows * (uint64_t)m->config.rope[i].dim * sizeof(float));
        m->rope_row[i] = take(m, REGION_TABLES, (uint64_t)w->T * sizeof(int32_t));
    }
    m->nll = take(m, REGION_TABLES, (uint64_t)w->T * dtype_bytes(w->residual));
    m->hit = take(m, REGION_TABLES, (uint64_t)w->T);
    m->partial = take(m, REGION_TABLES, (m->params.arena_count / SUMSQ_BLOCK + 2) * sizeof(double));
    m->sumsq = m->partial + m->params.arena_count / SUMSQ_BLOCK + 1;
    if (m->memory)
        m->device_batch = take(m, REGION_TABLES, ((uint64_t)w->T * 7 + 1) * sizeof(int32_t));
}

/* Where one micro-batch is a whole step, a gradient begins to be when its layer's backward pass does: it may lie over
 * what later layers kept. The gradients then reach from somewhere in the kept activations to behind them, and need
 * memory of their own for that end alone; both regions are one piece. The addresses are those of the next carving. */
static void lay_over(struct model *m)
{
    const struct params *params = &m->params;
    uint64_t kept = m->region_bytes[REGION_KEPT], at = 0;

    m->grads_lie_over =
        m->is_trained && !params->lora_rank && !m->memory && m->plan.tokens >= m->step_tokens && m->step_tokens > 0;
    if (!m->grads_lie_over)
        return;
    for (int i = 0; i < params->stored_count; i++) {
        const struct stored *stored = &params->stored[i];
        uint64_t begin = params_arena_bytes(params, stored->at);
        uint64_t end = stored->layer >= 0 ? m->layer[stored->layer].kept_end : kept;
        if (stored->residence == IN_ARENA && end > begin + at)
            at = end - begin;
    }
    at = at < kept ? at : kept;
    m->grads_at = at;
    m->region_bytes[REGION_GRADS] -= kept - at;
}

void adapter_carve(struct model *m)
{
    memset(m->region_bytes, 0, sizeof m->region_bytes);
    if (!m->layer) {
        m->layer = arena_new_array(&m->arena, struct layer, (size_t)m->config.layers);
        place_parts(m);
    }
    for (int i = 0; i < m->params.stored_count; i++) {
        struct stored *stored = &m->params.stored[i];
        if (stored->part == PART_W)
            continue;
        stored->at = m->region_bytes[REGION_FROZEN];
        take(m, REGION_FROZEN, (uint64_t)stored->rows * (uint64_t)stored->cols * dtype_bytes(stored->type));
        place_stored(m, stored);
    }
}

void model_carve(struct model *m)
{
    struct widths w;

    memset(m->region_bytes, 0, sizeof m->region_bytes);
    if (!m->layer) {
        m->layer = arena_new_array(&m->arena, struct layer, (size_t)m->config.layers);
        place_parts(m);
    }
    for (int i = 0; i < m->params.stored_count; i++)
        place_stored(m, &m->params.stored[i]);
    join_adapters(m);
    for (int32_t l = 0; l < m->config.layers; l++)
        m->layer[l].keep = m->is_trained ? m->plan.keep[l] : 0;
    take_arenas(m);
    w = model_widths(m);
    take_layers(m, &w);
    take_experts(m, &w);
    m->h = take_mat(m, REGION_WORKING, w.T, w.F, w.spare[LINEAR_DOWN], w.type);
    take_gradients(m, &w);
    take_embed_adapter(m, &w);
    take_dora(m, &w);
    take_head(m, &w);
    take_tables(m, &w);
    lay_over(m);
}
