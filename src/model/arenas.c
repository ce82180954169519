/* The optimizer's and the checkpoint's view of a model's arenas. */
#include "model/memory.h"

#include "compute/eight_bit.h"
#include "compute/stochastic.h"

#include <stdlib.h>
#include <string.h>

static void *element(const struct model *m, enum region_id region, uint64_t at)
{
    char *base = region == REGION_GRADS ? model_grads_base(m) : m->region[region];

    return base && m->region_bytes[region] ? base + params_arena_bytes(&m->params, at) : NULL;
}

static void *moment(const struct model *m, enum region_id region, uint64_t at)
{
    return m->region[region] && m->region_bytes[region] ? m->region[region] + params_moment_bytes(&m->params, at)
                                                        : NULL;
}

/* Behind the codes: of the block of an element. */
static float *moment_scale(const struct model *m, enum region_id region, uint64_t at)
{
    char *scales = moment(m, region, m->params.arena_count);

    return scales && params_moment_type(&m->params, at) == DTYPE_U8
               ? (float *)(void *)scales + (at - m->params.short_from) / EIGHT_BIT_BLOCK
               : NULL;
}

static struct model_range range_of(const struct model *m, uint64_t begin, uint64_t end, bool has_decay)
{
    const struct params *params = &m->params;
    struct model_range range = {
        .master = element(m, REGION_MASTERS, begin),
        .grad = element(m, REGION_GRADS, begin),
        .m = moment(m, REGION_MOMENT_M, begin),
        .v = moment(m, REGION_MOMENT_V, begin),
        .m_scale = moment_scale(m, REGION_MOMENT_M, begin),
        .v_scale = moment_scale(m, REGION_MOMENT_V, begin),
        .moment_type = params_moment_type(params, begin),
        .type = params_arena_type(params, begin),
        .copy_type = params->compute_type,
        .count = end - begin,
        .first = begin < params->short_from ? 0 : begin - params->short_from,
        .has_decay = has_decay,
    };

    ASSERT(range.first % STOCHASTIC_STRETCH == 0);
    if (params->has_copy && begin >= params->copy_from)
        range.copy = m->region[REGION_COPY] + (begin - params->copy_from) * dtype_bytes(params->compute_type);
    return range;
}

struct range_list {
    struct model_range *range;
    int count, max;
};

static void add_range(struct range_list *list, const struct model *m, uint64_t begin, uint64_t end, bool has_decay)
{
    if (end == begin)
        return;
    ASSERT(list->count < list->max);
    list->range[list->count++] = range_of(m, begin, end, has_decay);
}

/* Of elements of one type. */
static void add_ranges(struct range_list *list, const struct model *m, uint64_t begin, uint64_t end)
{
    const struct params *params = &m->params;
    uint64_t first = begin;
    bool has_decay = false;

    for (int i = 0; i < params->stored_count; i++) {
        const struct stored *stored = &params->stored[i];
        if (stored->residence != IN_ARENA || stored->at < first || stored->at >= end)
            continue;
        if (stored->has_decay != has_decay || (params->has_copy && stored->at == params->copy_from)) {
            add_range(list, m, begin, stored->at, has_decay);
            begin = stored->at;
        }
        has_decay = stored->has_decay;
    }
    add_range(list, m, begin, end, has_decay);
}

int model_ranges(struct model *m, struct model_range *ranges, int max)
{
    const struct params *params = &m->params;
    struct range_list list = {ranges, 0, max};

    ASSERT(params->master_type == DTYPE_F32);
    add_ranges(&list, m, 0, params->short_from);
    add_ranges(&list, m, params->short_from, params->arena_count);
    return list.count;
}

void model_update(struct model *m, const struct model_range *ranges, int count, const struct op_adamw *rule)
{
    for (int i = 0; i < count; i++) {
        const struct model_range *range = &ranges[i];
        struct op_adamw op = *rule;

        op.master = range->master, op.m = range->m, op.v = range->v, op.grad = range->grad;
        op.m_scale = range->m_scale, op.v_scale = range->v_scale;
        op.master_type = op.grad_type = range->type;
        op.moment_type = range->moment_type;
        op.copy = range->copy, op.copy_type = range->copy_type;
        op.count = range->count, op.first = range->first;
        op.decay = range->has_decay ? rule->decay : 0;
        m->backend->adamw(&m->queue, &op);
    }
}

float *model_grads(struct model *m, uint64_t *count, double **partial)
{
    ASSERT(m->params.short_from == m->params.arena_count);
    *count = m->params.arena_count;
    *partial = m->partial;
    return element(m, REGION_GRADS, 0);
}

const double *model_queue_grad_sumsq(struct model *m)
{
    uint64_t wide = m->params.short_from, count = m->params.arena_count;
    struct op_sumsq op = {.x = element(m, REGION_GRADS, 0), .count = wide, .partial = m->partial, .sum = m->sumsq};

    m->backend->sumsq(&m->queue, &op);
    if (count > wide) {
        op = (struct op_sumsq){element(m, REGION_GRADS, wide), DTYPE_BF16, true, count - wide, m->partial, m->sumsq};
        m->backend->sumsq(&m->queue, &op);
    }
    if (m->memory)
        memory_read_later(m, m->host_sumsq, m->sumsq, sizeof *m->host_sumsq);
    return m->sumsq;
}

double model_sumsq_value(const struct model *m)
{
    return m->memory ? *m->host_sumsq : *m->sumsq;
}

const double *model_grad_sumsq(struct model *m, double *value)
{
    const double *at = model_queue_grad_sumsq(m);

    if (m->memory)
        m->memory->wait(&m->queue);
    *value = model_sumsq_value(m);
    return at;
}

void model_grads_read(struct model *m, float *grads)
{
    ASSERT(m->params.short_from == m->params.arena_count);
    for (int i = 0; i < m->params.count; i++) {
        struct param_view view = model_param_view(m, i);
        void *copy;
        struct mat from;
        if (!m->params.param[i].is_trained)
            continue;
        from = memory_view(m, (struct mat){view.grad, view.rows, view.cols, view.ld, DTYPE_F32}, &copy);
        for (int32_t r = 0; r < view.rows; r++, grads += view.cols)
            memcpy(grads, (const float *)from.at + (size_t)r * (size_t)from.ld, (size_t)view.cols * sizeof *grads);
        free(copy);
    }
}

void model_zero_grads(struct model *m)
{
    m->has_gradients = false;
    if (m->region[REGION_GRADS] && !m->grads_lie_over)
        memory_zero(m, m->region[REGION_GRADS], params_arena_bytes(&m->params, m->params.arena_count));
}

/* Whether a gradient is written whole by the first product of the pass that has it. */
static bool is_written(const struct params *params, const struct stored *stored, bool has_head_rows)
{
    bool has_head = params_stored(params, SLOT_HEAD, -1, PART_W) >= 0;

    if (stored->part != PART_W)
        return false;
    switch (stored->slot) {
    case SLOT_QKV:
    case SLOT_O:
    case SLOT_GATE_UP:
    case SLOT_DOWN:
        return true;
    case SLOT_HEAD:
        return has_head_rows;
    case SLOT_EMBED:
        return has_head_rows && !has_head;
    default:
        return false;
    }
}

void grads_begin(struct model *m, int32_t layer, bool has_head_rows)
{
    const struct params *params = &m->params;

    for (int i = 0; i < params->stored_count; i++) {
        const struct stored *stored = &params->stored[i];
        uint64_t written =
            is_written(params, stored, has_head_rows) ? (uint64_t)stored->rows * (uint64_t)stored->cols : 0;
        uint64_t begin = params_arena_bytes(params, stored->at + written);
        uint64_t end = params_arena_bytes(params, stored->end);
        if (stored->residence == IN_ARENA && stored->layer == layer && begin < end)
            memory_zero(m, model_grads_base(m) + begin, end - begin);
    }
}

struct param_view model_param_view(struct model *m, int index)
{
    const struct param *param = &m->params.param[index];
    const struct stored *stored = &m->params.stored[param->stored];
    uint64_t at = stored->at + (uint64_t)param->row_at * (uint64_t)stored->cols + (uint64_t)param->col_at;

    if (stored->residence != IN_ARENA)
        return (struct param_view){.rows = param->rows, .cols = param->cols, .ld = stored->ld};
    return (struct param_view){.master = element(m, REGION_MASTERS, at),
                               .grad = element(m, REGION_GRADS, at),
                               .m = moment(m, REGION_MOMENT_M, at),
                               .v = moment(m, REGION_MOMENT_V, at),
                               .rows = param->rows,
                               .cols = param->cols,
                               .ld = stored->ld,
                               .type = params_arena_type(&m->params, at),
                               .moment_type = params_moment_type(&m->params, at)};
}

float *model_moment_scales(struct model *m, bool is_v)
{
    return moment_scale(m, is_v ? REGION_MOMENT_V : REGION_MOMENT_M, m->params.short_from);
}

double model_param_grad_sumsq(struct model *m, int index)
{
    struct param_view view = model_param_view(m, index);
    void *copy;
    struct mat grads = memory_view(m, (struct mat){view.grad, view.rows, view.cols, view.ld, view.type}, &copy);
    float *row = mem_alloc((size_t)view.cols * sizeof *row);
    double sum = 0;

    ASSERT(grads.at && m->params.master_type == DTYPE_F32);
    for (int32_t r = 0; r < view.rows; r++) {
        convert(row, DTYPE_F32, mat_below(grads, r, 1).at, view.type, (size_t)view.cols);
        for (int32_t c = 0; c < view.cols; c++)
            sum += (double)row[c] * row[c];
    }
    free(row);
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
