/* Values of weights that no file gives.
 *
 * Random weights: transformers' rule, normal with initializer_range for every matrix (the embedding too, but for the
 * row of the padding token, which is zero) and for sinks; ones for norms, or zeros where 1 + w multiplies; zeros for
 * biases. They are drawn by torch's generator from the seed, tensor by tensor in the order of the param table. The
 * draws equal torch's, their order is ours: a given version of transformers draws more in between.
 *
 * Adapters: PEFT's rule and draws. Module by module in model order a Linear is constructed for A and for B, which draws
 * r·in and out·r values that are thrown away, then A is drawn again: kaiming uniform with a = √5, U(-1/√in, 1/√in). B
 * is zero, as fresh memory is. Where products run in bf16 over a base of short floats A passes through the base's type,
 * as PEFT's does. A reference that seeds torch right before it wraps the model gets the same bits. */
#include "model/decoder_int.h"

#include "base/random.h"

#include <stdlib.h>

static void fill(float *values, size_t count, float value)
{
    for (size_t i = 0; i < count; i++)
        values[i] = value;
}

static void draw_base(const struct model_config *config, const struct param *param, enum slot slot, struct mt19937 *mt,
                      float *values)
{
    size_t count = (size_t)param->rows * (size_t)param->cols;

    if (!param->is_vector || slot == SLOT_SINKS)
        mt19937_normal(mt, values, count, config->initializer_range);
    else
        fill(values, count, slot_is_bias(slot) || config->norm == NORM_ONE_PLUS ? 0 : 1);
    if (slot == SLOT_EMBED && config->pad_id >= 0 && config->pad_id < param->rows)
        fill(values + (size_t)config->pad_id * (size_t)param->cols, (size_t)param->cols, 0);
}

void init_random(struct model *m, uint64_t seed)
{
    struct mt19937 mt;

    mt19937_seed(&mt, seed);
    for (int i = 0; i < m->params.count; i++) {
        const struct param *param = &m->params.param[i];
        const struct stored *stored = &m->params.stored[param->stored];
        float *values;
        if (stored->part != PART_W)
            continue;
        values = mem_alloc((size_t)param->rows * (size_t)param->cols * sizeof *values);
        draw_base(&m->config, param, stored->slot, &mt, values);
        param_place(m, i, values, DTYPE_F32);
        free(values);
    }
}

static void discard(struct mt19937 *mt, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mt19937_next(mt);
}

/* The bound as Python computes it, in double, then rounded. */
static float kaiming_bound(int32_t fan_in)
{
    double slope = sqrt(5.0), gain = sqrt(2.0 / (1 + slope * slope));

    return (float)(sqrt(3.0) * (gain / sqrt((double)fan_in)));
}

static void draw_a(struct model *m, int index, struct mt19937 *mt)
{
    const struct param *a = &m->params.param[index], *b = a + 1;
    size_t count = (size_t)a->rows * (size_t)a->cols;
    float *values = mem_alloc(count * sizeof *values), bound = kaiming_bound(a->cols);

    discard(mt, count + (size_t)b->rows * (size_t)b->cols);
    for (size_t j = 0; j < count; j++)
        values[j] = mt19937_uniform(mt, -bound, bound);
    if (m->params.compute_type == DTYPE_BF16 && m->config.dtype != DTYPE_F32) {
        uint16_t *rounded = mem_alloc(count * sizeof *rounded);
        convert(rounded, m->config.dtype, values, DTYPE_F32, count);
        convert(values, DTYPE_F32, rounded, m->config.dtype, count);
        free(rounded);
    }
    param_place(m, index, values, DTYPE_F32);
    free(values);
}

void init_adapter(struct model *m, uint64_t seed)
{
    struct mt19937 mt;

    mt19937_seed(&mt, seed);
    for (int i = 0; i < m->params.count; i++)
        if (m->params.stored[m->params.param[i].stored].part == PART_A)
            draw_a(m, i, &mt);
}
