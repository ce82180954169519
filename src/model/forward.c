#include "model/decoder_int.h"

struct mat mat_rows(struct mat mat, int32_t rows)
{
    ASSERT(rows <= mat.rows);
    mat.rows = rows;
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

/* y = x·Wᵀ, and y += for a residual `add`. */
static void run_linear(struct model *m, int32_t l, enum linear linear, struct mat x, struct mat y, struct mat add,
                       const struct pass *pass)
{
    struct weight weight = pass_weight(&m->layer[l].linear[linear], pass);
    int32_t T = pass->batch->T;

    m->backend->linear(&m->queue, &(struct op_linear){.x = mat_rows(x, T),
                                                      .y = mat_rows(y, T),
                                                      .w = &weight,
                                                      .add = add.at ? mat_rows(add, T) : add,
                                                      .dropout = pass_dropout(pass, l, linear)});
}

static void run_norm(struct model *m, struct mat x, struct mat w, struct mat y, void *rstd, int32_t rows)
{
    m->backend->norm(&m->queue, &(struct op_norm){.a = mat_rows(x, rows),
                                                  .y = mat_rows(y, rows),
                                                  .w = w,
                                                  .rstd = rstd,
                                                  .eps = m->config.norm_eps,
                                                  .kind = m->config.norm});
}

static void run_qkv(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];

    run_linear(m, l, LINEAR_QKV, layer->y1, layer->qkv, (struct mat){0}, pass);
    m->backend->qk_rope(&m->queue, &(struct op_qk_rope){.qkv = mat_rows(layer->qkv, pass->batch->T),
                                                        .batch = pass->batch,
                                                        .cos_sin = m->cos_sin,
                                                        .heads = m->config.heads,
                                                        .kv_heads = m->config.kv_heads,
                                                        .head_dim = m->config.head_dim,
                                                        .rot = m->config.head_dim});
}

static void run_attend(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    const struct batch *batch = pass->batch;
    struct kv_cache *cache = pass->cache ? pass->cache + (size_t)l * (size_t)batch->doc_count : NULL;

    m->backend->attend(&m->queue, &(struct op_attend){.qkv = mat_rows(layer->qkv, batch->T),
                                                      .out = mat_rows(layer->att, batch->T),
                                                      .lse = layer->lse,
                                                      .batch = batch,
                                                      .cache = cache,
                                                      .heads = m->config.heads,
                                                      .kv_heads = m->config.kv_heads,
                                                      .head_dim = m->config.head_dim,
                                                      .scale = m->config.attention_scale});
    for (int32_t d = 0; cache && d < batch->doc_count; d++)
        cache[d].length += batch->cu_seqlens[d + 1] - batch->cu_seqlens[d];
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

    run_norm(m, layer->x, layer->vector[SLOT_NORM1].w, layer->y1, layer->rstd1, T);
    run_qkv(m, l, pass);
    run_attend(m, l, pass);
    run_linear(m, l, LINEAR_O, layer->att, mid, layer->x, pass);
    run_norm(m, mid, layer->vector[SLOT_NORM2].w, layer->y2, layer->rstd2, T);
    run_linear(m, l, LINEAR_GATE_UP, layer->y2, layer->gate_up, (struct mat){0}, pass);
    m->backend->glu(
        &m->queue,
        &(struct op_glu){.gate_up = mat_rows(layer->gate_up, T), .h = mat_rows(m->h, T), .act = m->config.act});
    run_linear(m, l, LINEAR_DOWN, m->h, layer_output(m, l), mid, pass);
    for (int i = 0; m->is_trained && i < LINEAR_KINDS; i++)
        forward_adapter_columns(m, l, i, false, T);
}

void forward_layers(struct model *m, const struct pass *pass)
{
    m->backend->embed(&m->queue, &(struct op_embed){.x = mat_rows(m->layer[0].x, pass->batch->T),
                                                    .table = m->embed,
                                                    .batch = pass->batch,
                                                    .scale = 1});
    for (int32_t l = 0; l < m->config.layers; l++)
        forward_layer(m, l, pass);
}

void forward_restore(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    int32_t T = pass->batch->T;

    if (!(layer->keep & KEEP_NORM1))
        run_norm(m, layer->x, layer->vector[SLOT_NORM1].w, layer->y1, layer->rstd1, T);
    if (!(layer->keep & KEEP_QKV))
        run_qkv(m, l, pass);
    if (!(layer->keep & KEEP_ATTENTION))
        run_attend(m, l, pass);
    if (!(layer->keep & KEEP_MIDDLE))
        run_linear(m, l, LINEAR_O, layer->att, layer->mid, layer->x, pass);
    if (!(layer->keep & KEEP_NORM2))
        run_norm(m, layer->mid, layer->vector[SLOT_NORM2].w, layer->y2, layer->rstd2, T);
    if (!(layer->keep & KEEP_GATE_UP))
        run_linear(m, l, LINEAR_GATE_UP, layer->y2, layer->gate_up, (struct mat){0}, pass);
    for (int i = 0; i < LINEAR_DOWN; i++)
        forward_adapter_columns(m, l, i, true, T);
}

void forward_head(struct model *m, const int32_t *rows, int32_t count, struct mat logits)
{
    struct mat x = mat_rows(m->head_x, count), y = mat_rows(m->head_y, count);

    m->backend->rows(&m->queue, &(struct op_rows){.x = m->x_last, .y = x, .index = rows, .count = count});
    run_norm(m, x, m->final_norm, y, m->head_rstd, count);
    m->backend->linear(&m->queue, &(struct op_linear){.x = y, .y = logits, .w = &m->head.weight});
}
