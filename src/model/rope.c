#include "model/config.h"

#include <math.h>

/* transformers: 1 / base^(float(2i)/dim), the power in f32. */
static float base_power(double theta, int32_t pair, int32_t dim)
{
    float exponent = (float)(2 * pair) / (float)dim;

    return (float)pow((double)(float)theta, (double)exponent);
}

/* Long wavelengths are stretched by the factor, short ones kept, those between mixed linearly in 1/λ. */
static float llama3_frequency(const struct rope_config *rope, float frequency)
{
    double wavelength = 2 * M_PI / (double)frequency, original = rope->original_positions;
    double low = original / rope->low_freq_factor, high = original / rope->high_freq_factor, smooth;

    if (wavelength > low)
        return frequency / (float)rope->factor;
    if (wavelength < high)
        return frequency;
    smooth = (original / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (float)((1 - smooth) * (double)frequency / rope->factor + smooth * (double)frequency);
}

/* The pair that makes `turns` full turns within the original length. */
static double yarn_pair(const struct rope_config *rope, double turns)
{
    return rope->dim * log(rope->original_positions / (turns * 2 * M_PI)) / (2 * log(rope->theta));
}

/* Pairs that turn often are kept, those that turn less than once are stretched, a ramp lies between. */
static float yarn_frequency(const struct rope_config *rope, int32_t pair)
{
    double low = yarn_pair(rope, rope->beta_fast), high = yarn_pair(rope, rope->beta_slow);
    float power = base_power(rope->theta, pair, rope->dim), kept, ramp;

    low = fmax(rope->is_truncated ? floor(low) : low, 0);
    high = fmin(rope->is_truncated ? ceil(high) : high, rope->dim - 1);
    if (low == high)
        high += 0.001;
    ramp = ((float)pair - (float)low) / (float)(high - low);
    kept = 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
    return 1.0f / ((float)rope->factor * power) * (1 - kept) + 1.0f / power * kept;
}

void rope_inverse_frequencies(const struct rope_config *rope, bool is_long, float *inv_freq)
{
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        float power = base_power(rope->theta, i, rope->dim);
        switch (rope->kind) {
        case ROPE_DEFAULT:
        case ROPE_DYNAMIC: /* differs beyond max_position_embeddings alone, where no document reaches */
            inv_freq[i] = 1.0f / power;
            break;
        case ROPE_LINEAR:
            inv_freq[i] = 1.0f / power / (float)rope->factor;
            break;
        case ROPE_LLAMA3:
            inv_freq[i] = llama3_frequency(rope, 1.0f / power);
            break;
        case ROPE_YARN:
            inv_freq[i] = yarn_frequency(rope, i);
            break;
        case ROPE_LONGROPE:
            inv_freq[i] = 1.0f / ((is_long ? rope->long_factor : rope->short_factor)[i] * power);
            break;
        }
    }
}

static bool has_long_half(const struct rope_config *rope, int32_t positions)
{
    return rope->kind == ROPE_LONGROPE && positions > rope->original_positions;
}

int32_t rope_table_rows(const struct rope_config *rope, int32_t positions)
{
    return has_long_half(rope, positions) ? 2 * positions : positions;
}

static void fill_table(const struct rope_config *rope, bool is_long, int32_t positions, float *cos_sin)
{
    int32_t half = rope->dim / 2;
    float inv_freq[256];

    ASSERT(half <= 256);
    rope_inverse_frequencies(rope, is_long, inv_freq);
    for (int32_t p = 0; p < positions; p++)
        for (int32_t i = 0; i < half; i++) {
            double angle = (double)((float)p * inv_freq[i]);
            float *row = cos_sin + (size_t)p * (size_t)rope->dim;
            row[i] = (float)cos(angle) * rope->attention_scaling;
            row[half + i] = (float)sin(angle) * rope->attention_scaling;
        }
}

void rope_table(const struct model_config *config, int rope, int32_t positions, float *cos_sin)
{
    const struct rope_config *kind = &config->rope[rope];

    fill_table(kind, false, positions, cos_sin);
    if (has_long_half(kind, positions))
        fill_table(kind, true, positions, cos_sin + (size_t)positions * (size_t)kind->dim);
}

int32_t rope_short_most(const struct model_config *config, int32_t positions)
{
    for (int i = 0; i < config->rope_count; i++)
        if (has_long_half(&config->rope[i], positions))
            return config->rope[i].original_positions;
    return INT32_MAX;
}

void rope_rows(const struct rope_config *rope, const struct batch *batch, int32_t positions, int32_t *row)
{
    bool has_long = has_long_half(rope, positions);

    for (int32_t doc = 0; doc < batch->doc_count; doc++) {
        int32_t from = batch->cu_seqlens[doc], to = batch->cu_seqlens[doc + 1];
        int32_t length = batch->doc_length ? batch->doc_length[doc] : to > from ? batch->pos[to - 1] + 1 : 0;
        bool is_long = has_long && length > rope->original_positions;
        for (int32_t t = from; t < to; t++)
            row[t] = batch->pos[t] + (is_long ? positions : 0);
    }
}
