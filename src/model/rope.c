#include "model/config.h"

#include <math.h>

/* transformers: 1 / base^(float(2i)/dim), the power in f32. */
static float base_frequency(double theta, int32_t pair, int32_t dim)
{
    float exponent = (float)(2 * pair) / (float)dim;

    return 1.0f / (float)pow((double)(float)theta, (double)exponent);
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

void rope_inverse_frequencies(const struct model_config *config, float *inv_freq)
{
    const struct rope_config *rope = &config->rope;

    for (int32_t i = 0; i < config->head_dim / 2; i++) {
        inv_freq[i] = base_frequency(rope->theta, i, config->head_dim);
        if (rope->kind == ROPE_LINEAR)
            inv_freq[i] /= (float)rope->factor;
        if (rope->kind == ROPE_LLAMA3)
            inv_freq[i] = llama3_frequency(rope, inv_freq[i]);
    }
}

void rope_table(const struct model_config *config, int32_t positions, float *cos_sin)
{
    int32_t half = config->head_dim / 2;
    float inv_freq[256];

    ASSERT(half <= 256);
    rope_inverse_frequencies(config, inv_freq);
    for (int32_t p = 0; p < positions; p++)
        for (int32_t i = 0; i < half; i++) {
            double angle = (double)((float)p * inv_freq[i]);
            cos_sin[(size_t)p * (size_t)config->head_dim + (size_t)i] = (float)cos(angle);
            cos_sin[(size_t)p * (size_t)config->head_dim + (size_t)(half + i)] = (float)sin(angle);
        }
}
