#include "model/decoder_int.h"

static void lay_out(struct model *m, const struct mat *mat, const void *panels)
{
    if (panels)
        m->panel_backend->lay_out(&m->queue, mat, (void *)(uintptr_t)panels);
}

static void lay_out_weight(struct model *m, const struct weight *weight)
{
    lay_out(m, &weight->w, weight->panels);
    lay_out(m, &weight->a, weight->a_panels);
    lay_out(m, &weight->b, weight->b_panels);
}

void lay_out_panels(struct model *m)
{
    for (int32_t l = 0; l < m->config.layers; l++)
        for (int i = 0; i < LINEAR_KINDS; i++)
            lay_out_weight(m, &m->layer[l].linear[i].weight);
    lay_out_weight(m, &m->head.weight);
}
