#include "model/decoder_int.h"

/* What a product's gradient begins with: dy, or dy times DoRA's gain, which stays until grad_w has read it. */
static struct mat product_grad(struct model *m, int32_t l, enum linear linear, struct mat dy, int32_t T)
{
    const struct linear_state *state = &m->layer[l].linear[linear];

    return state->gain.at ? mat_columns(mat_rows(m->dz, T), 0, dy.cols) : mat_rows(dy, T);
}

/* dx = dy·W with the adapter's share; leaves dt behind dy. */
static void grad_in(struct model *m, int32_t l, enum linear linear, struct mat dy, struct mat dx,
                    const struct pass *pass)
{
    const struct linear_state *state = &m->layer[l].linear[linear];
    struct weight weight = pass_weight(state, pass);
    int32_t T = pass->batch->T;
    struct mat dz = product_grad(m, l, linear, dy, T);

    if (state->gain.at)
        m->backend->gain(&m->queue, &(struct op_gain){.x = mat_rows(dy, T), .y = dz, .gain = state->gain});
    m->backend->linear_grad_in(&m->queue, &(struct op_linear_grad_in){.dy = dz,
                                                                      .dx = mat_rows(dx, T),
                                                                      .w = &weight,
                                                                      .dropout = pass_dropout(pass, l, linear)});
}

/* The magnitudes' gradient takes the product before its gain, which is computed again. */
static void magnitude_grad(struct model *m, const struct linear_state *state, const struct weight *weight,
                           struct mat x, struct mat dy)
{
    struct mat z = mat_columns(mat_rows(m->z, x.rows), 0, dy.cols);

    m->backend->linear(&m->queue, &(struct op_linear){.x = x, .y = z, .w = weight});
    m->backend->gain_grad(&m->queue, &(struct op_gain_grad){.dy = dy,
                                                            .x = z,
                                                            .inverse = state->inverse,
                                                            .dmagnitude = state->dmagnitude});
}

/* Gradients of what trains in a product; after grad_in, whose dt it reads. */
static void grad_w(struct model *m, int32_t l, enum linear linear, struct mat x, struct mat dy, const struct pass *pass)
{
    const struct linear_state *state = &m->layer[l].linear[linear];
    struct mat dbias = m->layer[l].vector[linear_bias(linear)].dw;
    struct weight weight = pass_weight(state, pass);
    int32_t T = pass->batch->T;

    if (state->dmagnitude.at)
        magnitude_grad(m, state, &weight, mat_rows(x, T), mat_rows(dy, T));
    if (state->dw.at || state->da.at || dbias.at)
        m->backend->linear_grad_w(&m->queue,
                                  &(struct op_linear_grad_w){.x = mat_rows(x, T),
                                                             .dy = product_grad(m, l, linear, dy, T),
                                                             .w = &weight,
                                                             .dw = state->dw,
                                                             .dbias = dbias,
                                                             .da = state->da,
                                                             .db = state->db,
                                                             .dropout = pass_dropout(pass, l, linear),
                                                             .is_fresh = pass->begins_grads});
}

static void norm_grad(struct model *m, const struct op_norm_grad *at, const struct vector_state *norm, int32_t T)
{
    struct op_norm_grad op = *at;

    op.dy = mat_rows(op.dy, T);
    op.r = mat_rows(op.r, T);
    op.dr = mat_rows(op.dr, T);
    op.w = norm->w;
    op.dw = norm->dw;
    op.eps = m->config.norm_eps;
    op.kind = m->config.norm;
    m->backend->norm_grad(&m->queue, &op);
}

/* dr += the gradient of what a branch read, dnorm, through the norm that read the residual r. */
static void input_grad(struct model *m, const struct vector_state *norm, struct mat r, const void *rstd, int32_t T)
{
    if (norm->w.at)
        norm_grad(m, &(struct op_norm_grad){.dy = m->dnorm, .r = r, .dr = m->dr, .rstd = rstd}, norm, T);
    else
        m->backend->copy(&m->queue,
                         &(struct op_copy){.x = mat_rows(m->dnorm, T), .y = mat_rows(m->dr, T), .is_added = true});
}

/* The gradient of a branch's last product in the type of products: the residual's, through the norm behind it. */
static struct mat output_grad(struct model *m, const struct vector_state *norm, struct mat branch, const void *rstd,
                              int32_t T)
{
    if (norm->w.at)
        norm_grad(m, &(struct op_norm_grad){.dy = m->dr, .r = branch, .dr = m->dy, .rstd = rstd, .is_fresh = true},
                  norm, T);
    else if (m->dy.at != m->dr.at)
        m->backend->copy(&m->queue, &(struct op_copy){.x = mat_rows(m->dr, T), .y = mat_rows(m->dy, T)});
    return m->dy;
}

static void dense_grad(struct model *m, int32_t l, struct mat dy, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    int32_t T = pass->batch->T;

    grad_in(m, l, LINEAR_DOWN, dy, m->dh, pass);
    m->backend->glu_grad(&m->queue, &(struct op_glu_grad){.gate_up = mat_rows(layer->gate_up, T),
                                                          .dh = mat_rows(m->dh, T),
                                                          .h = mat_rows(m->h, T),
                                                          .act = m->config.act,
                                                          .act_limit = m->config.act_limit});
    forward_adapter_columns(m, l, LINEAR_DOWN, true, T);
    grad_w(m, l, LINEAR_DOWN, m->h, dy, pass);
    grad_in(m, l, LINEAR_GATE_UP, layer->gate_up, m->dnorm, pass);
    grad_w(m, l, LINEAR_GATE_UP, layer->y2, layer->gate_up, pass);
}

static void mlp_grad(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    int32_t T = pass->batch->T;
    struct mat dy = output_grad(m, &layer->vector[SLOT_POST2], layer->down, layer->post_rstd2, T);

    if (m->config.layer[l].is_moe)
        experts_grad(m, l, dy, pass);
    else
        dense_grad(m, l, dy, pass);
    input_grad(m, &layer->vector[SLOT_NORM2], layer->mid, layer->rstd2, T);
}

static void attend_grad(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    const struct model_config *c = &m->config;
    int32_t T = pass->batch->T;

    m->backend->attend_grad(&m->queue, &(struct op_attend_grad){.qkv = mat_rows(layer->qkv, T),
                                                                .out = mat_rows(layer->att, T),
                                                                .dout = mat_rows(m->datt, T),
                                                                .dqkv = mat_rows(m->dqkv, T),
                                                                .sinks = layer->vector[SLOT_SINKS].w,
                                                                .dsinks = layer->vector[SLOT_SINKS].dw,
                                                                .lse = layer->lse,
                                                                .batch = pass->batch,
                                                                .heads = c->heads,
                                                                .kv_heads = c->kv_heads,
                                                                .head_dim = c->head_dim,
                                                                .window = c->layer[l].window,
                                                                .scale = c->attention_scale,
                                                                .softcap = c->attention_softcap});
}

static void qk_rope_grad(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    const struct model_config *c = &m->config;
    const float *cos_sin;
    struct batch batch = pass_rope(m, l, pass, &cos_sin);
    int32_t T = batch.T;

    if (!cos_sin && c->qk_norm == QK_NORM_NONE)
        return;
    m->backend->qk_rope_grad(&m->queue,
                             &(struct op_qk_rope_grad){.dqkv = mat_rows(m->dqkv, T),
                                                       .raw = layer->raw.at ? mat_rows(layer->raw, T) : layer->raw,
                                                       .q_norm = layer->vector[SLOT_Q_NORM].w,
                                                       .k_norm = layer->vector[SLOT_K_NORM].w,
                                                       .dq_norm = layer->vector[SLOT_Q_NORM].dw,
                                                       .dk_norm = layer->vector[SLOT_K_NORM].dw,
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

/* Below the first layer's attention little trains when the base is frozen. */
static bool trains_below(const struct model *m)
{
    return m->dembed.at || m->embed_adapter.da.at || m->layer[0].vector[SLOT_NORM1].dw.at;
}

static void attention_grad(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    int32_t T = pass->batch->T;
    struct mat dy = output_grad(m, &layer->vector[SLOT_POST1], layer->o, layer->post_rstd1, T);

    grad_in(m, l, LINEAR_O, dy, m->datt, pass);
    grad_w(m, l, LINEAR_O, layer->att, dy, pass);
    attend_grad(m, l, pass);
    qk_rope_grad(m, l, pass);
    grad_in(m, l, LINEAR_QKV, m->dqkv, m->dnorm, pass);
    grad_w(m, l, LINEAR_QKV, layer->y1, m->dqkv, pass);
    if (l > 0 || trains_below(m))
        input_grad(m, &layer->vector[SLOT_NORM1], layer->x, layer->rstd1, T);
}

/* dr holds the gradient of what the embedding gave. */
static void embed_grad(struct model *m, const struct pass *pass)
{
    const struct embed_state *adapter = &m->embed_adapter;
    int32_t T = pass->batch->T;
    struct mat dy = m->dy, u, du;

    if (m->dembed.at)
        m->backend->embed_grad(&m->queue, &(struct op_embed_grad){.dx = mat_rows(m->dr, T),
                                                                  .dtable = m->dembed,
                                                                  .batch = pass->batch,
                                                                  .scale = m->config.embed_scale,
                                                                  .has_padding = m->config.pad_id >= 0,
                                                                  .padding = m->config.pad_id});
    if (!adapter->da.at)
        return;
    if (m->dy.at != m->dr.at)
        m->backend->copy(&m->queue, &(struct op_copy){.x = mat_rows(m->dr, T), .y = mat_rows(m->dy, T)});
    dy = mat_rows(dy, T);
    u = mat_rows(adapter->u, T);
    du = mat_rows(adapter->du, T);
    m->backend->linear_grad_in(&m->queue, &(struct op_linear_grad_in){.dy = dy, .dx = du, .w = &adapter->b});
    m->backend->linear_grad_w(&m->queue,
                              &(struct op_linear_grad_w){.x = u, .dy = dy, .w = &adapter->b, .dw = adapter->db});
    m->backend->embed_grad(&m->queue, &(struct op_embed_grad){.dx = du,
                                                              .dtable = adapter->da,
                                                              .batch = pass->batch,
                                                              .scale = adapter->scale,
                                                              .has_padding = m->config.pad_id >= 0,
                                                              .padding = m->config.pad_id});
}

void backward_layers(struct model *m, const struct pass *pass)
{
    for (int32_t l = m->config.layers - 1; l >= 0; l--) {
        forward_restore(m, l, pass);
        if (pass->begins_grads)
            grads_begin(m, l, false);
        mlp_grad(m, l, pass);
        attention_grad(m, l, pass);
    }
    embed_grad(m, pass);
}

/* Logits are kept in the type of sums: at 17, bf16 would round them by 0.06. They hold their own gradient now: through
 * the head and the final norm into the rows of dr they came from. */
static void head_grad(struct model *m, const int32_t *rows, int32_t n, const struct pass *pass, int32_t at)
{
    struct weight weight = pass_weight(&m->head, pass);
    struct dropout dropout = head_dropout(m, pass, at);
    struct mat dlogits = mat_rows(m->dlogits, n), dy = mat_rows(m->head_dy, n), dx = mat_rows(m->head_dx, n);

    if (m->memory && m->dlogits.at != m->logits.at)
        m->backend->copy(&m->queue, &(struct op_copy){.x = mat_rows(m->logits, n), .y = dlogits});
    m->backend->linear_grad_in(
        &m->queue, &(struct op_linear_grad_in){.dy = dlogits, .dx = dy, .w = &weight, .dropout = dropout});
    if (m->head.dw.at || m->head.da.at)
        m->backend->linear_grad_w(&m->queue, &(struct op_linear_grad_w){.x = mat_rows(m->head_y, n),
                                                                        .dy = dlogits,
                                                                        .w = &weight,
                                                                        .dw = m->head.dw,
                                                                        .da = m->head.da,
                                                                        .db = m->head.db,
                                                                        .dropout = dropout,
                                                                        .is_fresh = pass->begins_grads && at == 0});
    m->backend->norm_grad(&m->queue, &(struct op_norm_grad){.dy = dy,
                                                            .r = mat_rows(m->head_x, n),
                                                            .dr = dx,
                                                            .w = m->final_norm,
                                                            .dw = m->dfinal_norm,
                                                            .rstd = m->head_rstd,
                                                            .eps = m->config.norm_eps,
                                                            .kind = m->config.norm,
                                                            .is_fresh = true});
    m->backend->rows(&m->queue, &(struct op_rows){.x = dx, .y = m->dr, .index = rows, .count = n, .is_scatter = true});
}

/* Rows of the next chunk: as many as in every other, so that none is left with few. */
static int32_t chunk_rows(int32_t left, int32_t rows_max)
{
    int32_t chunks = (left + rows_max - 1) / rows_max;

    return (left + chunks - 1) / chunks;
}

void head_pass(struct model *m, const struct pass *pass, bool has_grads)
{
    const struct batch *batch = pass->batch;
    size_t nll_bytes = dtype_bytes(m->params.master_type);
    struct mat no_mat = {0};

    for (int32_t at = 0, n; at < batch->head_row_count; at += n) {
        n = chunk_rows(batch->head_row_count - at, m->plan.head_rows);
        struct mat logits = mat_rows(m->logits, n);
        forward_head(m, batch->head_rows + at, n, logits, pass, at);
        struct op_loss op = {.logits = logits, .label = batch->label + at, .hit = m->hit + at,
                             .grad = has_grads && !m->memory ? mat_rows(m->dlogits, n) : no_mat,
                             .coef = has_grads ? batch->row_weight + at : NULL,
                             .nll = (float *)((char *)m->nll + (size_t)at * nll_bytes),
                             .softcap = m->config.logit_softcap};
        m->backend->loss(&m->queue, &op);
        if (has_grads)
            head_grad(m, batch->head_rows + at, n, pass, at);
    }
}
