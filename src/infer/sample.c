#include "infer/sample.h"
#include "base/random.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Logits are worked on in vectors of the same width everywhere: a processor with narrower ones takes several steps, and sums
 * have the same order. */
enum { BLOCK = 1024, WIDE = 16 };

typedef float wide __attribute__((vector_size(4 * WIDE)));
typedef int32_t wide_i __attribute__((vector_size(4 * WIDE)));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* `rest` stands where there are fewer. */
ALWAYS_INLINE wide load(const float *at, int32_t count, float rest)
{
    wide value = rest - (wide){0};

    if (count >= WIDE)
        memcpy(&value, at, sizeof value);
    else
        memcpy(&value, at, (size_t)count * sizeof *at);
    return value;
}

ALWAYS_INLINE float largest_in(const float *logits, int32_t vocab)
{
    wide most = load(logits, vocab, logits[0]);

    for (int32_t i = WIDE; i < vocab; i += WIDE) {
        wide value = load(logits + i, vocab - i, logits[0]);
        wide_i is_more = value > most;
        most = (wide)(((wide_i)value & is_more) | ((wide_i)most & ~is_more));
    }
    for (int j = 1; j < WIDE; j++)
        most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0];
}

/* e^x for x <= 0 by Cephes' polynomial after splitting off a power of two; 0 below -87. Relative error at most 2e-7. */
ALWAYS_INLINE wide exp_of_negative(wide x)
{
    const float round = 0x1.8p23f;
    wide_i is_small = x < -87;
    wide bounded = (wide)(((wide_i)(-87 - (wide){0}) & is_small) | ((wide_i)x & ~is_small));
    wide shifted = bounded * 1.44269504f + round, n = shifted - round;
    wide r = bounded - n * 0.693359375f + n * 2.12194440e-4f, p;

    p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r + 1) * (wide)(((wide_i)shifted + 127) << 23);
    return (wide)((wide_i)p & ~is_small);
}

/* softmax(logits / temperature) without its divisor. */
struct weights {
    const float *logits;
    int32_t vocab;
    float best, inverse_temperature;
};

/* Of up to WIDE tokens from i on; those behind the last weigh nothing. */
ALWAYS_INLINE wide weights_of(const struct weights *w, const float *logits, int32_t count)
{
    return exp_of_negative((load(logits, count, -INFINITY) - w->best) * w->inverse_temperature);
}

static float weight_of(const struct weights *w, int32_t i)
{
    return weights_of(w, w->logits + i, 1)[0];
}

/* Weights from + 0 .. from + count - 1, at most BLOCK; their sum. */
ALWAYS_INLINE double weigh(const struct weights *w, int32_t from, int32_t count, float weight[BLOCK])
{
    wide sum = {0};
    double total = 0;

    for (int32_t j = 0; j < count; j += WIDE) {
        wide value = weights_of(w, w->logits + from + j, count - j);
        memcpy(weight + j, &value, sizeof value);
        sum += value;
    }
    for (int j = 0; j < WIDE; j++)
        total += (double)sum[j];
    return total;
}

#if defined(__x86_64__)
#define FOR_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl")))

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

FOR_AVX512 static double weigh_avx512(const struct weights *w, int32_t from, int32_t count, float weight[BLOCK])
{
    return weigh(w, from, count, weight);
}

FOR_AVX512 static float largest_avx512(const float *logits, int32_t vocab)
{
    return largest_in(logits, vocab);
}
#endif

/* The same bits in vectors of any width: sums have their order, and nothing is contracted. */
static double weigh_block(const struct weights *w, int32_t from, int32_t count, float weight[BLOCK])
{
#if defined(__x86_64__)
    if (has_avx512())
        return weigh_avx512(w, from, count, weight);
#endif
    return weigh(w, from, count, weight);
}

static float largest_value(const float *logits, int32_t vocab)
{
#if defined(__x86_64__)
    if (has_avx512())
        return largest_avx512(logits, vocab);
#endif
    return largest_in(logits, vocab);
}

static int32_t largest(const float *logits, int32_t vocab)
{
    float value = largest_value(logits, vocab);
    int32_t i = 0;

    while (i < vocab - 1 && logits[i] != value)
        i++;
    return i;
}

static int32_t block_count(const struct weights *w, int32_t from)
{
    return w->vocab - from < BLOCK ? w->vocab - from : BLOCK;
}

static double weigh_all(const struct weights *w)
{
    float weight[BLOCK];
    double sum = 0;

    for (int32_t from = 0; from < w->vocab; from += BLOCK)
        sum += weigh_block(w, from, block_count(w, from), weight);
    return sum;
}

static int compare_descending(const void *a, const void *b, void *context)
{
    const float *logits = context;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;

    if (logits[i] != logits[j])
        return logits[i] > logits[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* Uniform on [0, 1) with 53 bits. */
static double draw(const struct sample_options *options, uint32_t position)
{
    uint32_t counter[4] = {position, options->sequence, 0, 0},
             key[2] = {(uint32_t)options->seed, (uint32_t)(options->seed >> 32)}, out[4];

    philox4x32(counter, key, out);
    return (double)(((uint64_t)out[0] << 21) ^ (out[1] >> 11)) * 0x1p-53;
}

/* The token that `target` of the sum of all weights falls on. */
static int32_t pick(const struct weights *w, double target)
{
    float weight[BLOCK];
    int32_t last = w->vocab - 1;

    for (int32_t from = 0; from < w->vocab; from += BLOCK) {
        int32_t count = block_count(w, from);
        double sum = weigh_block(w, from, count, weight);
        if (target >= sum && from + count < w->vocab) {
            target -= sum;
            continue;
        }
        for (int32_t j = 0; j < count; j++) {
            target -= (double)weight[j];
            last = weight[j] > 0 ? from + j : last;
            if (target < 0)
                return from + j;
        }
    }
    return last;
}

/* The same among the likeliest tokens whose weights reach top_p of `sum`. Tokens below an even share of what may be left out
 * sum to less than that: they are not among them and need no sorting. */
static int32_t pick_likely(const struct weights *w, double sum, double top_p, double uniform, int32_t *order)
{
    float weight[BLOCK], least = (float)((1 - top_p) * sum / w->vocab);
    int32_t candidates = 0, kept = 0;
    double reached = 0, target;

    for (int32_t from = 0; from < w->vocab; from += BLOCK) {
        int32_t count = block_count(w, from);
        weigh_block(w, from, count, weight);
        for (int32_t j = 0; j < count; j++)
            if (weight[j] >= least)
                order[candidates++] = from + j;
    }
    qsort_r(order, (size_t)candidates, sizeof *order, compare_descending, (void *)(uintptr_t)w->logits);
    while (kept < candidates && (kept == 0 || reached < top_p * sum))
        reached += (double)weight_of(w, order[kept++]);
    target = uniform * reached;
    for (int32_t i = 0; i < kept; i++) {
        target -= (double)weight_of(w, order[i]);
        if (target < 0)
            return order[i];
    }
    return kept ? order[kept - 1] : 0; /* none: the logits are no numbers */
}

int32_t sample_token(const float *logits, int32_t vocab, const struct sample_options *options, uint32_t position,
                     int32_t *order)
{
    struct weights w = {logits, vocab, 0, (float)(1 / options->temperature)};
    double sum;

    if (options->temperature <= 0 || !isfinite(w.inverse_temperature))
        return largest(logits, vocab);
    w.best = largest_value(logits, vocab);
    sum = weigh_all(&w);
    if (options->top_p < 1)
        return pick_likely(&w, sum, options->top_p, draw(options, position), order);
    return pick(&w, draw(options, position) * sum);
}

/* Keeps the list descending; equal values in order of the id. */
static void insert(struct sample_alternative *top, int *count, int max, int32_t id, double logprob)
{
    int at = *count < max ? (*count)++ : max - 1;

    while (at > 0 && top[at - 1].logprob < logprob) {
        top[at] = top[at - 1];
        at--;
    }
    top[at] = (struct sample_alternative){id, logprob};
}

double sample_logprobs(const float *logits, int32_t vocab, int32_t id, int top_count, struct sample_alternative *top)
{
    float best = largest_value(logits, vocab);
    double sum = 0, log_sum;
    int count = 0;

    for (int32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - best);
    log_sum = best + log(sum);
    for (int32_t i = 0; i < vocab && top_count > 0; i++)
        if (count < top_count || logits[i] - log_sum > top[top_count - 1].logprob)
            insert(top, &count, top_count, i, logits[i] - log_sum);
    return logits[id] - log_sum;
}
