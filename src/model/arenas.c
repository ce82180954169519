/* The optimizer's and the checkpoint's view of a model's arenas. */
#include "model/memory.h"

#include <stdlib.h>

static void *element(const struct model *m, enum region_id region, uint64_t at)
{
    return m->region[region] && m->region_bytes[region] ? m->region[region] + at * dtype_bytes(m->params.master_type)
                                                        : NULL;
}

static struct model_range range_of(const struct model *m, uint64_t begin, uint64_t end, bool has_decay)
{
    const struct params *params = &m->params;
    struct model_range range = {
        .master = element(m, REGION_MASTERS, begin),
        .grad = element(m, REGION_GRADS, begin),
        .m = element(m, REGION_MOMENT_M, begin),
        .v = element(m, REGION_MOMENT_V, begin),
        .copy_type = params->compute_type,
        .count = end - begin,
        .has_decay = has_decay,
    };

    if (params->has_copy && begin >= params->copy_from)
        range.copy = m->region[REGION_COPY] + (begin - params->copy_from) * dtype_bytes(params->compute_type);
    return range;
}

int model_ranges(struct model *m, struct model_range *ranges, int max)
{
    const struct params *params = &m->params;
    uint64_t begin = 0;
    bool has_decay = false;
    int count = 0;

    ASSERT(params->master_type == DTYPE_F32);
    for (int i = 0; i < params->stored_count; i++) {
        const struct stored *stored = &params->stored[i];
        if (stored->residence != IN_ARENA)
            continue;
        if (stored->at > begin &&
            (stored->has_decay != has_decay || (params->has_copy && stored->at == params->copy_from))) {
            ASSERT(count < max);
            ranges[count++] = range_of(m, begin, stored->at, has_decay);
            begin = stored->at;
        }
        has_decay = stored->has_decay;
    }
    if (params->arena_count > begin) {
        ASSERT(count < max);
        ranges[count++] = range_of(m, begin, params->arena_count, has_decay);
    }
    return count;
}

float *model_grads(struct model *m, uint64_t *count, double **partial)
{
    *count = m->params.arena_count;
    *partial = m->partial;
    return element(m, REGION_GRADS, 0);
}

const double *model_grad_sumsq(struct model *m, double *value)
{
    struct op_sumsq op = {.x = element(m, REGION_GRADS, 0), .count = m->params.arena_count, .partial = m->partial, .sum = m->sumsq};

    m->backend->sumsq(&m->queue, &op);
    memory_read(m, value, m->sumsq, sizeof *value);
    return m->sumsq;
}

void model_grads_read(struct model *m, float *grads)
{
    memory_read(m, grads, element(m, REGION_GRADS, 0), m->params.arena_count * sizeof *grads);
}

void model_zero_grads(struct model *m)
{
    if (m->region[REGION_GRADS])
        memory_zero(m, m->region[REGION_GRADS], m->params.arena_count * dtype_bytes(m->params.master_type));
}

struct param_view model_param_view(struct model *m, int index)
{
    const struct param *param = &m->params.param[index];
    const struct stored *stored = &m->params.stored[param->stored];
    uint64_t at = stored->at + (uint64_t)param->row_at * (uint64_t)stored->cols + (uint64_t)param->col_at;

    if (stored->residence != IN_ARENA)
        return (struct param_view){.rows = param->rows, .cols = param->cols, .ld = stored->ld};
    return (struct param_view){element(m, REGION_MASTERS, at),
                               element(m, REGION_GRADS, at),
                               element(m, REGION_MOMENT_M, at),
                               element(m, REGION_MOMENT_V, at),
                               param->rows,
                               param->cols,
                               stored->cols};
}

double model_param_grad_sumsq(struct model *m, int index)
{
    struct param_view view = model_param_view(m, index);
    void *copy;
    struct mat grads = memory_view(m, (struct mat){view.grad, view.rows, view.cols, view.ld, DTYPE_F32}, &copy);
    const float *grad = grads.at;
    double sum = 0;

    ASSERT(grad && m->params.master_type == DTYPE_F32);
    for (int32_t r = 0; r < view.rows; r++) {
        for (int32_t c = 0; c < view.cols; c++)
            sum += (double)grad[c] * grad[c];
        grad += grads.ld;
    }
    free(copy);
    return sum;
}

void model_masters_changed(struct model *m)
{
    const struct params *params = &m->params;
    int32_t rows = (int32_t)((params->arena_count - params->copy_from) / 64);
    struct mat from, to;

    if (!params->has_copy || !rows) {
        forward_gains(m);
        return;
    }
    from = (struct mat){element(m, REGION_MASTERS, params->copy_from), rows, 64, 64, params->master_type};
    to = (struct mat){m->region[REGION_COPY], rows, 64, 64, params->compute_type};
    m->backend->copy(&m->queue, &(struct op_copy){.x = from, .y = to});
    forward_gains(m);
}
