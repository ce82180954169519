/* The MLP of a layer of experts, both ways.
 *
 *   logits = y2·router (+ bias)        route: top experts of each token, their weights, rows sorted by expert
 *   experts_x = y2 of each row's token  gate_up = experts_x·W[e]        experts_h = act(gate)∘up
 *   down = experts_h·W[e]               out = mid + Σ weight·down of the token's rows
 *
 * Backward every gradient of out goes to its rows, scaled by their weights, and through the experts to rows of y2,
 * which are added up per token; the weights' own gradient goes through the router. */
#include "model/memory.h"

#include <stdlib.h>

static struct mat mat_cols(struct mat mat, int32_t cols)
{
    mat.cols = mat.ld = cols;
    return mat;
}

/* The routing of T tokens. */
struct chosen {
    struct routing at;
    int32_t T, rows;
};

static struct chosen chosen_of(const struct model *m, int32_t l, const struct pass *pass)
{
    struct chosen c = {m->layer[l].routing, pass->batch->T, pass->batch->T * m->config.moe.top};

    c.at.logits = mat_rows(c.at.logits, c.T);
    c.at.weight = mat_rows(c.at.weight, c.T);
    c.at.row_weight = mat_cols(c.at.row_weight, c.rows);
    return c;
}

static void run_router(struct model *m, int32_t l, const struct chosen *c)
{
    struct layer *layer = &m->layer[l];

    m->backend->linear(&m->queue, &(struct op_linear){.x = mat_rows(layer->y2, c->T),
                                                      .y = c->at.logits,
                                                      .w = &layer->router.weight,
                                                      .bias = layer->vector[SLOT_ROUTER_BIAS].w});
    m->backend->route(&m->queue, &(struct op_route){.logits = c->at.logits,
                                                    .weight = c->at.weight,
                                                    .row_weight = c->at.row_weight,
                                                    .load = m->is_trained ? m->load : (struct mat){0},
                                                    .row = c->at.row,
                                                    .token = c->at.token,
                                                    .row_end = c->at.row_end,
                                                    .is_normalized = m->config.moe.is_normalized});
}

/* y2 of the token of each row. */
static void gather(struct model *m, int32_t l, const struct chosen *c)
{
    m->backend->rows(&m->queue, &(struct op_rows){.x = mat_rows(m->layer[l].y2, c->T),
                                                  .y = mat_rows(m->experts_x, c->rows),
                                                  .index = c->at.token,
                                                  .count = c->rows});
}

static void run_experts(struct model *m, const struct linear_state *state, const struct vector_state *bias,
                        struct mat x, struct mat y, const struct chosen *c)
{
    m->backend->linear(&m->queue, &(struct op_linear){.x = mat_rows(x, c->rows),
                                                      .y = mat_rows(y, c->rows),
                                                      .w = &state->weight,
                                                      .row_end = c->at.row_end,
                                                      .bias = bias->w});
}

static void run_in(struct model *m, int32_t l, const struct chosen *c)
{
    struct layer *layer = &m->layer[l];

    run_experts(m, &layer->experts_in, &layer->vector[SLOT_EXPERTS_IN_BIAS], m->experts_x, layer->gate_up, c);
}

static void run_out(struct model *m, int32_t l, const struct chosen *c)
{
    struct layer *layer = &m->layer[l];

    m->backend->glu(&m->queue, &(struct op_glu){.gate_up = mat_rows(layer->gate_up, c->rows),
                                                .h = mat_rows(m->experts_h, c->rows),
                                                .act = m->config.act,
                                                .act_limit = m->config.act_limit});
    run_experts(m, &layer->experts_out, &layer->vector[SLOT_EXPERTS_OUT_BIAS], m->experts_h, layer->down, c);
}

void experts_forward(struct model *m, int32_t l, struct mat mid, struct mat out, const struct pass *pass)
{
    struct chosen c = chosen_of(m, l, pass);

    run_router(m, l, &c);
    gather(m, l, &c);
    run_in(m, l, &c);
    run_out(m, l, &c);
    m->backend->rows(&m->queue, &(struct op_rows){.x = mat_rows(m->layer[l].down, c.rows),
                                                  .y = mat_rows(out, c.T),
                                                  .scale = {c.at.weight.at, 1, c.rows, c.rows, c.at.weight.type},
                                                  .add = mat_rows(mid, c.T),
                                                  .index = c.at.row,
                                                  .count = c.T,
                                                  .fan = m->config.moe.top});
}

void experts_restore(struct model *m, int32_t l, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    struct chosen c = chosen_of(m, l, pass);

    gather(m, l, &c);
    if (!(layer->keep & KEEP_GATE_UP))
        run_in(m, l, &c);
    if (!(layer->keep & KEEP_MLP))
        run_out(m, l, &c);
}

static void experts_grad_in(struct model *m, const struct linear_state *state, struct mat dy, struct mat dx,
                            const struct chosen *c)
{
    m->backend->linear_grad_in(&m->queue, &(struct op_linear_grad_in){.dy = mat_rows(dy, c->rows),
                                                                      .dx = mat_rows(dx, c->rows),
                                                                      .w = &state->weight,
                                                                      .row_end = c->at.row_end});
}

static void experts_grad_w(struct model *m, const struct linear_state *state, const struct vector_state *bias,
                           struct mat x, struct mat dy, const struct chosen *c)
{
    if (state->dw.at || bias->dw.at)
        m->backend->linear_grad_w(&m->queue, &(struct op_linear_grad_w){.x = mat_rows(x, c->rows),
                                                                        .dy = mat_rows(dy, c->rows),
                                                                        .w = &state->weight,
                                                                        .row_end = c->at.row_end,
                                                                        .dw = state->dw,
                                                                        .dbias = bias->dw});
}

/* dnorm = the rows' gradients of y2, added per token, and the router's. */
static void input_grads(struct model *m, int32_t l, const struct chosen *c)
{
    struct layer *layer = &m->layer[l];
    struct mat dlogits = mat_rows(m->dlogits_router, c->T);
    struct vector_state *bias = &layer->vector[SLOT_ROUTER_BIAS];

    m->backend->rows(&m->queue, &(struct op_rows){.x = mat_rows(m->dexperts_x, c->rows),
                                                  .y = mat_rows(m->dnorm, c->T),
                                                  .index = c->at.row,
                                                  .count = c->T,
                                                  .fan = m->config.moe.top});
    m->backend->linear_grad_in(
        &m->queue, &(struct op_linear_grad_in){
                       .dy = dlogits, .dx = mat_rows(m->dnorm, c->T), .w = &layer->router.weight, .is_added = true});
    if (layer->router.dw.at || bias->dw.at)
        m->backend->linear_grad_w(&m->queue, &(struct op_linear_grad_w){.x = mat_rows(layer->y2, c->T),
                                                                        .dy = dlogits,
                                                                        .w = &layer->router.weight,
                                                                        .dw = layer->router.dw,
                                                                        .dbias = bias->dw});
}

void experts_grad(struct model *m, int32_t l, struct mat dy, const struct pass *pass)
{
    struct layer *layer = &m->layer[l];
    struct chosen c = chosen_of(m, l, pass);

    m->backend->route_grad(&m->queue, &(struct op_route_grad){.logits = c.at.logits,
                                                              .dlogits = mat_rows(m->dlogits_router, c.T),
                                                              .weight = c.at.weight,
                                                              .y = mat_rows(layer->down, c.rows),
                                                              .dout = mat_rows(dy, c.T),
                                                              .aux = m->daux,
                                                              .row = c.at.row,
                                                              .is_normalized = m->config.moe.is_normalized});
    m->backend->rows(&m->queue, &(struct op_rows){.x = mat_rows(dy, c.T),
                                                  .y = mat_rows(m->dexperts_x, c.rows),
                                                  .scale = c.at.row_weight,
                                                  .index = c.at.token,
                                                  .count = c.rows});
    experts_grad_in(m, &layer->experts_out, m->dexperts_x, m->dexperts_h, &c);
    m->backend->glu_grad(&m->queue, &(struct op_glu_grad){.gate_up = mat_rows(layer->gate_up, c.rows),
                                                          .dh = mat_rows(m->dexperts_h, c.rows),
                                                          .h = mat_rows(m->experts_h, c.rows),
                                                          .act = m->config.act,
                                                          .act_limit = m->config.act_limit});
    experts_grad_w(m, &layer->experts_out, &layer->vector[SLOT_EXPERTS_OUT_BIAS], m->experts_h, m->dexperts_x, &c);
    experts_grad_in(m, &layer->experts_in, layer->gate_up, m->dexperts_x, &c);
    experts_grad_w(m, &layer->experts_in, &layer->vector[SLOT_EXPERTS_IN_BIAS], m->experts_x, layer->gate_up, &c);
    input_grads(m, l, &c);
}

static double element(const struct mat *mat, int32_t row, int32_t e)
{
    size_t at = (size_t)row * (size_t)mat->ld + (size_t)e;

    return mat->type == DTYPE_F64 ? ((const double *)mat->at)[at] : (double)((const float *)mat->at)[at];
}

/* E · Σ f[e]·P[e]: f the choices of e per token, P its mean probability, over the tokens of all layers at once. */
double experts_balance(struct model *m, int32_t T, double coefficient)
{
    int32_t E = m->config.moe.experts;
    double tokens = 0, sum = 0;
    void *copy;
    struct mat load = memory_view(m, m->load, &copy), daux = m->daux;
    char *slopes = mem_alloc((size_t)E * sizeof(double));

    daux.at = slopes;
    for (int32_t l = 0; l < m->config.layers; l++)
        tokens += m->config.layer[l].is_moe ? T : 0;
    for (int32_t e = 0; e < E; e++) {
        double share = element(&load, 0, e) / tokens, slope = coefficient * E * share / tokens;
        sum += share * element(&load, 1, e) / tokens;
        if (daux.type == DTYPE_F64)
            ((double *)daux.at)[e] = slope;
        else
            ((float *)daux.at)[e] = (float)slope;
    }
    memory_write(m, m->daux.at, slopes, (size_t)E * dtype_bytes(daux.type));
    free(copy);
    free(slopes);
    return coefficient * E * sum;
}
