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

/* Values pass through the base's type where products run in bf16 over a base of short floats. */
static void round_to_base(const struct model *m, float *values, size_t count)
{
    uint16_t *rounded;

    if (m->params.compute_type != DTYPE_BF16 || m->config.dtype == DTYPE_F32)
        return;
    rounded = mem_alloc(count * sizeof *rounded);
    convert(rounded, m->config.dtype, values, DTYPE_F32, count);
    convert(values, DTYPE_F32, rounded, m->config.dtype, count);
    free(rounded);
}

static void draw_a(struct model *m, int index, struct mt19937 *mt)
{
    const struct param *a = &m->params.param[index], *b = a + 1;
    size_t count = (size_t)a->rows * (size_t)a->cols;
    float *values = mem_alloc(count * sizeof *values), bound = kaiming_bound(a->cols);

    discard(mt, count + (size_t)b->rows * (size_t)b->cols);
    for (size_t j = 0; j < count; j++)
        values[j] = mt19937_uniform(mt, -bound, bound);
    round_to_base(m, values, count);
    param_place(m, index, values, DTYPE_F32);
    free(values);
}

/* On the embedding PEFT draws normal values for A and for B, throws both away, fills A with zeros and draws B again. */
static void draw_embed(struct model *m, int index, struct mt19937 *mt)
{
    const struct param *a = &m->params.param[index], *b = a + 1;
    size_t a_count = (size_t)a->rows * (size_t)a->cols, b_count = (size_t)b->rows * (size_t)b->cols;
    float *values = mem_alloc((a_count > b_count ? a_count : b_count) * sizeof *values);

    mt19937_normal(mt, values, a_count, 1);
    mt19937_normal(mt, values, b_count, 1);
    mt19937_normal(mt, values, b_count, 1);
    round_to_base(m, values, b_count);
    param_place(m, index + 1, values, DTYPE_F32);
    free(values);
}

/* As B is zero the magnitudes begin as the norms of the base's rows. */
static void measure_magnitude(struct model *m, int index)
{
    const struct param *magnitude = &m->params.param[index];
    const struct stored *stored = &m->params.stored[magnitude->stored];
    const struct param *base = param_at_row(&m->params, stored->slot, stored->layer, magnitude->col_at);
    void *copy;
    struct mat from = param_base(m, base, &copy);
    float *norms = mem_alloc((size_t)base->rows * sizeof *norms), *row = mem_alloc((size_t)base->cols * sizeof *row);

    for (int32_t n = 0; n < base->rows; n++) {
        double squares = 0;
        convert(row, DTYPE_F32, mat_below(from, n, 1).at, from.type, (size_t)base->cols);
        for (int32_t k = 0; k < base->cols; k++)
            squares += (double)row[k] * (double)row[k];
        norms[n] = (float)sqrt(squares);
    }
    round_to_base(m, norms, (size_t)base->rows);
    param_place(m, index, norms, DTYPE_F32);
    free(copy);
    free(norms);
    free(row);
}

void init_adapter(struct model *m, uint64_t seed)
{
    struct mt19937 mt;

    mt19937_seed(&mt, seed);
    for (int i = 0; i < m->params.count; i++) {
        const struct stored *stored = &m->params.stored[m->params.param[i].stored];
        if (stored->part == PART_M)
            measure_magnitude(m, i);
        if (stored->part != PART_A)
            continue;
        if (stored->slot == SLOT_EMBED)
            draw_embed(m, i, &mt);
        else
            draw_a(m, i, &mt);
    }
}
