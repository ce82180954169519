#include "model/memory.h"

#include "compute/parts.h"

#include <stdlib.h>

struct mat mat_rows(struct mat mat, int32_t rows)
{
    ASSERT(rows <= mat.rows);
    mat.rows = rows;
    return mat;
}

struct mat mat_below(struct mat mat, int32_t first, int32_t count)
{
    mat.at = (char *)mat.at + (size_t)first * (size_t)mat.ld * dtype_bytes(mat.type);
    mat.rows = count;
    return mat;
}

struct mat mat_tail(struct mat x, const struct weight *weight)
{
    x.at = (char *)x.at + (size_t)x.cols * dtype_bytes(x.type);
    x.cols = weight->a.rows;
    return x;
}

struct weight pass_weight(const struct linear_state *state, const struct pass *pass)
{
    struct weight weight = state->weight;

    if (!pass->step)
        weight.lora_dropout = 0;
    return weight;
}

struct dropout pass_dropout(const struct pass *pass, int32_t layer, enum linear linear)
{
    if (!pass->step)
        return (struct dropout){0};
    return (struct dropout){pass->step->seed, pass->step->step, (uint32_t)(layer * LINEAR_KINDS + (int32_t)linear),
                            pass->step->row_offset};
}

struct mat mat_columns(struct mat mat, int32_t first, int32_t count)
{
    mat.at = (char *)mat.at + (size_t)first * dtype_bytes(mat.type);
    mat.cols = count;
    return mat;
}

void forward_first_gains(struct model *m)
{
    for (int32_t l = 0; m->params.has_dora && l < m->config.layers; l++)
        for (int i = 0; i < LINEAR_KINDS; i++) {
            struct mat gain = m->layer[l].linear[i].gain;
            if (gain.cols == 0)
                continue;
            char *ones = mem_alloc((size_t)gain.cols * sizeof(double) + 1);
            for (int32_t n = 0; n < gain.cols; n++)
                if (gain.type == DTYPE_F64)
                    ((double *)(void *)ones)[n] = 1;
                else
                    ((float *)(void *)ones)[n] = 1;
            memory_write(m, gain.at, ones, (size_t)gain.cols * dtype_bytes(gain.type));
            free(ones);
        }
}

void forward_gains(struct model *m)
{
    for (int32_t l = 0; m->params.has_dora && l < m->config.layers; l++)
        for (int i = 0; i < LINEAR_KINDS; i++) {
            const struct linear_state *state = &m->layer[l].linear[i];
            const struct weight *w = &state->weight;
            for (int32_t k = 0; state->gain.at && k < weight_part_count(w); k++) {
                struct weight_part part = weight_part(w, k);
                struct op_dora op = {.w = mat_below(w->w, part.row, part.rows),
                                     .a = mat_below(w->a, part.col, part.cols),
                                     .b = mat_columns(mat_below(w->b, part.row, part.rows), part.col, part.cols),
                                     .magnitude = mat_columns(state->magnitude, part.row, part.rows),
                                     .inverse = mat_columns(state->inverse, part.row, part.rows),
                                     .gain = mat_columns(state->gain, part.row, part.rows),
                                     .scale = part.scale};
                if (part.cols)
                    m->backend->dora(&m->queue, &op);
            }
        }
}

/* Adapters to their places beside the weights. */
static void forward_adapters(struct model *m)
{
    for (int32_t l = 0; l < m->config.layers; l++)
        for (int i = 0; i < LINEAR_KINDS; i++) {
            const struct linear_state *state = &m->layer[l].linear[i];
            if (!state->own_a.at)
                continue;
            m->backend->copy(&m->queue, &(struct op_copy){.x = state->own_a, .y = state->weight.a});
            m->backend->copy(&m->queue, &(struct op_copy){.x = state->own_b, .y = state->weight.b});
        }
}

/* The product goes through z, then times its gain to where it belongs. */
static void run_dora(struct model *m, const struct linear_state *state, const struct op_linear *op)
{
    struct op_linear plain = {
        .x = op->x, .y = mat_columns(mat_rows(m->z, op->x.rows), 0, op->y.cols), .w = op->w, .dropout = op->dropout};

    m->backend->linear(&m->queue, &plain);
    m->backend->gain(
        &m->queue,
        &(struct op_gain){.x = plain.y, .y = op->y, .gain = state->gain, .bias = op->bias, .add = op->add});
}

/* Which adapters the rows of a product meet. */
static void list_adapters(const struct pass *pass, int32_t l, enum linear linear,
                          struct adapter_rows list[ADAPTER_RANGES_MAX])
{
    for (int32_t i = 0; i < pass->range_count; i++)
        list[i] = (struct adapter_rows){adapter_weight(pass->ranges[i].adapter, l, linear), pass->ranges[i].row_end};
}

/* What the product behind this one reads; NULL at the end, and where experts are not known yet. */
static const struct weight *next_weight(const struct model *m, int32_t l, enum linear linear)
{
    const struct layer *layer = &m->layer[l];

    if (linear == LINEAR_DOWN)
        return l + 1 < m->config.layers ? &layer[1].linear[LINEAR_QKV].weight : NULL;
    if (linear == LINEAR_O && m->config.layer[l].is_moe)
        return NULL;
    return &layer->linear[linear + 1].weight;
}

/* y = x·Wᵀ + bias, and y += for a residual `add`. */
static void run_linear(struct model *m, int32_t l, enum linear linear, struct mat x, struct mat y, struct mat add,
                       const struct pass *pass)
{
    struct weight weight = pass_weight(&m->layer[l].linear[linear], pass);
    int32_t T = pass->batch->T;
    struct op_linear op = {.x = mat_rows(x, T),
                           .y = mat_rows(y, T),
                           .w = &weight,
                           .bias = m->layer[l].vector[linear_bias(linear)].w,
                           .add = add.at ? mat_rows(add, T) : add,
                           .dropout = pass_dropout(pass, l, linear),
                           .next = next_weight(m, l, linear)};
    struct adapter_rows adapters[ADAPTER_RANGES_MAX];

    if (pass->ranges) {
        list_adapters(pass, l, linear, adapters);
        op.adapters = adapters;
        op.adapter_count = pass->range_count;
    }
    if (m->layer[l].linear[linear].gain.at)
        run_dora(m, &m->layer[l].linear[linear], &op);
    else
        m->backend->linear(&m->queue, &op);
    if (pass->probe)
        probe_product(m, pass->probe, linear_slot(linear), l, &op);
}

/* y = norm(x)·w, and y += for a residual `add`. */
static void run_norm(struct model *m, struct mat x, struct mat w, struct mat y, struct mat add, void *rstd,
                     int32_t rows)
{
    m->backend->norm(&m->queue, &(struct op_norm){.a = mat_rows(x, rows),
                                                  .y = mat_rows(y, rows),
                                                  .w = w,
                                                  .add = add.at ? mat_rows(add, rows) : add,
                                                  .rstd = rstd,
                                                  .eps = m->config.norm_eps,
                                                  .kind = m->config.norm});
}

/* What a branch reads of the residual: its norm, or itself in the type of products. */
static void run_input(struct model *m, const struct vector_state *norm, struct mat x, struct mat y, void *rstd,
                      int32_t rows)
{
    if (norm->w.at)
        run_norm(m, x, norm->w, y, (struct mat){0}, rstd, rows);
    else
        m->backend->copy(&m->queue, &(struct op_copy){.x = mat_rows(x, rows), .y = mat_rows(y, rows)});
}

/* What a branch does to the residual: y = x + its last product, which is normed first where `norm` is there. */
static void run_output(struct model *m, int32_t l, enum linear linear, struct mat in, struct mat x, struct mat y,
                       const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    const struct vector_state *norm = &layer->vector[linear == LINEAR_O ? SLOT_POST1 : SLOT_POST2];
    struct mat branch = linear == LINEAR_O ? layer->o : layer->down;

    if (!norm->w.at) {
        run_linear(m, l, linear, in, y, x, pass);
        return;
    }
    run_linear(m, l, linear, in, branch, (struct mat){0}, pass);
    run_norm(m, branch, norm->w, y, x, linear == LINEAR_O ? layer->post_rstd1 : layer->post_rstd2, pass->batch->T);
}

struct batch pass_rope(const struct model *m, int32_t l, const struct pass *pass, const float **cos_sin)
{
    struct batch batch = *pass->batch;
    int rope = m->config.layer[l].rope;

    *cos_sin = rope < 0 ? NULL : m->cos_sin[rope];
    if (rope >= 0)
        batch.pos = m->rope_row[rope];
    return batch;
}

static void run_qkv(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    const struct model_config *c = &m->config;
    const float *cos_sin;
    struct batch batch = pass_rope(m, l, pass, &cos_sin);
    int32_t T = batch.T;

    run_linear(m, l, LINEAR_QKV, layer->y1, layer->qkv, (struct mat){0}, pass);
    if (!cos_sin && c->qk_norm == QK_NORM_NONE)
        return;
    m->backend->qk_rope(&m->queue, &(struct op_qk_rope){.qkv = mat_rows(layer->qkv, T),
                                                        .raw = layer->raw.at ? mat_rows(layer->raw, T) : layer->raw,
                                                        .q_norm = layer->vector[SLOT_Q_NORM].w,
                                                        .k_norm = layer->vector[SLOT_K_NORM].w,
                                                        .qk_norm = c->qk_norm,
                                                        .kind = c->norm,
                                                        .eps = c->norm_eps,
                                                        .batch = &batch,
                                                        .cos_sin = cos_sin,
                                                        .heads = c->heads,
                                                        .kv_heads = c->kv_heads,
                                                        .head_dim = c->head_dim,
                                                        .rot = layer_rot(c, l)});
}

static void run_attend(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    const struct model_config *c = &m->config;
    const struct batch *batch = pass->batch;
    struct kv_cache *cache = pass->cache ? pass->cache + (size_t)l * (size_t)batch->doc_count : NULL;

    m->backend->attend(&m->queue, &(struct op_attend){.qkv = mat_rows(layer->qkv, batch->T),
                                                      .out = mat_rows(layer->att, batch->T),
                                                      .sinks = layer->vector[SLOT_SINKS].w,
                                                      .lse = layer->lse,
                                                      .batch = batch,
                                                      .cache = cache,
                                                      .heads = c->heads,
                                                      .kv_heads = c->kv_heads,
                                                      .head_dim = c->head_dim,
                                                      .window = c->layer[l].window,
                                                      .scale = c->attention_scale,
                                                      .softcap = c->attention_softcap});
}

static void run_glu(struct model *m, int32_t l, int32_t T)
{
    m->backend->glu(&m->queue, &(struct op_glu){.gate_up = mat_rows(m->layer[l].gate_up, T),
                                                .h = mat_rows(m->h, T),
                                                .act = m->config.act,
                                                .act_limit = m->config.act_limit});
}

static struct mat layer_output(const struct model *m, int32_t l)
{
    return l + 1 < m->config.layers ? m->layer[l + 1].x : m->x_last;
}

/* Where the input of a product with an adapter lies. */
static struct mat linear_input(const struct model *m, int32_t l, enum linear linear)
{
    const struct layer *layer = &m->layer[l];
    const struct mat inputs[] = {layer->y1, layer->att, layer->y2, m->h};

    return inputs[linear];
}

void forward_adapter_columns(struct model *m, int32_t l, enum linear linear, bool is_restored, int32_t T)
{
    struct mat slot = m->layer[l].t[linear], tail;

    if (!slot.at)
        return;
    slot = mat_rows(slot, T);
    tail = mat_rows(mat_tail(linear_input(m, l, linear), &m->layer[l].linear[linear].weight), T);
    m->backend->copy(&m->queue, &(struct op_copy){.x = is_restored ? slot : tail, .y = is_restored ? tail : slot});
}

static void forward_layer(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    struct mat mid = m->is_trained ? layer->mid : layer->x; /* inference adds in place */
    int32_t T = pass->batch->T;

    run_input(m, &layer->vector[SLOT_NORM1], layer->x, layer->y1, layer->rstd1, T);
    run_qkv(m, l, pass);
    run_attend(m, l, pass);
    run_output(m, l, LINEAR_O, layer->att, layer->x, mid, pass);
    run_input(m, &layer->vector[SLOT_NORM2], mid, layer->y2, layer->rstd2, T);
    if (m->config.layer[l].is_moe) {
        experts_forward(m, l, mid, layer_output(m, l), pass);
    } else {
        run_linear(m, l, LINEAR_GATE_UP, layer->y2, layer->gate_up, (struct mat){0}, pass);
        run_glu(m, l, T);
        run_output(m, l, LINEAR_DOWN, m->h, mid, layer_output(m, l), pass);
    }
    for (int i = 0; m->is_trained && i < LINEAR_KINDS; i++)
        forward_adapter_columns(m, l, i, false, T);
}

static void run_embed(struct model *m, const struct pass *pass)
{
    const struct embed_state *adapter = &m->embed_adapter;
    struct mat x = mat_rows(m->layer[0].x, pass->batch->T), u;

    m->backend->embed(&m->queue, &(struct op_embed){
                                     .x = x, .table = m->embed, .batch = pass->batch, .scale = m->config.embed_scale});
    if (!adapter->a.at)
        return;
    u = mat_rows(adapter->u, pass->batch->T);
    m->backend->embed(
        &m->queue, &(struct op_embed){.x = u, .table = adapter->a, .batch = pass->batch, .scale = adapter->scale});
    m->backend->linear(&m->queue, &(struct op_linear){.x = u, .y = x, .w = &adapter->b, .add = x});
}

void forward_layers(struct model *m, const struct pass *pass)
{
    if (m->is_trained) { /* masters may have moved since */
        forward_adapters(m);
        forward_gains(m);
    }
    run_embed(m, pass);
    for (int32_t l = 0; l < m->config.layers; l++)
        forward_layer(m, l, pass);
}

static void restore_mlp(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];

    if (!(layer->keep & KEEP_GATE_UP))
        run_linear(m, l, LINEAR_GATE_UP, layer->y2, layer->gate_up, (struct mat){0}, pass);
    if (layer->down.at && !(layer->keep & KEEP_MLP)) {
        run_glu(m, l, pass->batch->T);
        run_linear(m, l, LINEAR_DOWN, m->h, layer->down, (struct mat){0}, pass);
    }
}

void forward_restore(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    int32_t T = pass->batch->T;

    if (!(layer->keep & KEEP_NORM1))
        run_input(m, &layer->vector[SLOT_NORM1], layer->x, layer->y1, layer->rstd1, T);
    if (!(layer->keep & KEEP_QKV))
        run_qkv(m, l, pass);
    if (!(layer->keep & KEEP_ATTENTION))
        run_attend(m, l, pass);
    if (!(layer->keep & KEEP_MIDDLE))
        run_output(m, l, LINEAR_O, layer->att, layer->x, layer->mid, pass);
    if (!(layer->keep & KEEP_NORM2))
        run_input(m, &layer->vector[SLOT_NORM2], layer->mid, layer->y2, layer->rstd2, T);
    if (m->config.layer[l].is_moe)
        experts_restore(m, l, pass);
    else
        restore_mlp(m, l, pass);
    for (int i = 0; i < LINEAR_DOWN; i++)
        forward_adapter_columns(m, l, i, true, T);
}

struct dropout head_dropout(const struct model *m, const struct pass *pass, int32_t at)
{
    struct dropout dropout = pass_dropout(pass, m->config.layers, 0);

    dropout.row_offset += (uint64_t)at;
    return dropout;
}

void forward_head(struct model *m, const int32_t *rows, int32_t count, struct mat logits, const struct pass *pass,
                  int32_t at)
{
    struct mat x = mat_rows(m->head_x, count), y = mat_rows(m->head_y, count);
    struct weight weight = pass_weight(&m->head, pass);
    struct op_linear op = {.x = y, .y = logits, .w = &weight, .softcap = m->config.logit_softcap};

    op.dropout = head_dropout(m, pass, at);
    m->backend->rows(&m->queue, &(struct op_rows){.x = m->x_last, .y = x, .index = rows, .count = count});
    run_norm(m, x, m->final_norm, y, (struct mat){0}, m->head_rstd, count);
    m->backend->linear(&m->queue, &op);
    if (pass->probe)
        probe_product(m, pass->probe, SLOT_HEAD, -1, &op);
}
