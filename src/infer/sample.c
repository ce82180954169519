#include "infer/sample.h"
#include "base/random.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Logits are worked on in vectors of the same width everywhere: a processor with narrower ones takes several steps, and
 * sums have the same order. */
enum { BLOCK = 1024, WIDE = 16, DIGIT = 11 };

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
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
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

/* A candidate is a key in the high half of a word and the token's id in the low one. Keys ascend where logits
 * descend; both zeros are one. */
static uint64_t candidate_of(float logit, int32_t id)
{
    float value = logit + 0.0f;
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    bits = bits >> 31 ? bits : ~bits & 0x7fffffff;
    return (uint64_t)bits << 32 | (uint32_t)id;
}

static float logit_of(uint64_t candidate)
{
    uint32_t bits = (uint32_t)(candidate >> 32);
    float logit;

    bits = bits >> 31 ? bits : ~bits & 0x7fffffff;
    memcpy(&logit, &bits, sizeof logit);
    return logit;
}

/* One pass of a stable sort: by DIGIT bits from `shift` on. */
static void sort_by_digit(const uint64_t *from, int32_t count, int shift, uint64_t *to)
{
    int32_t start[1 << DIGIT] = {0}, at = 0;

    for (int32_t i = 0; i < count; i++)
        start[from[i] >> shift & ((1 << DIGIT) - 1)]++;
    for (int32_t d = 0; d < 1 << DIGIT; d++) {
        int32_t here = start[d];
        start[d] = at;
        at += here;
    }
    for (int32_t i = 0; i < count; i++)
        to[start[from[i] >> shift & ((1 << DIGIT) - 1)]++] = from[i];
}

/* Descending by logit, equals in order of their ids, as they came; the result lies behind them, in room of as many. */
static uint64_t *sort_candidates(uint64_t *candidates, int32_t count)
{
    uint64_t *other = candidates + count;

    sort_by_digit(candidates, count, 32, other);
    sort_by_digit(other, count, 32 + DIGIT, candidates);
    sort_by_digit(candidates, count, 32 + 2 * DIGIT, other);
    return other;
}

/* Tokens below an even share of what may be left out sum to less than that: they are not among the
 * likeliest and need no sorting. */
static int32_t list_candidates(const struct weights *w, double sum, double top_p, uint64_t *candidates)
{
    float weight[BLOCK], least = (float)((1 - top_p) * sum / w->vocab);
    int32_t count = 0;

    for (int32_t from = 0; from < w->vocab; from += BLOCK) {
        int32_t block = block_count(w, from);
        weigh_block(w, from, block, weight);
        for (int32_t j = 0; j < block; j++)
            if (weight[j] >= least)
                candidates[count++] = candidate_of(w->logits[from + j], from + j);
    }
    return count;
}

/* Weights of sorted candidates, a block of up to BLOCK. */
static void weigh_candidates(const struct weights *w, const uint64_t *sorted, int32_t count, float weight[BLOCK])
{
    float logit[BLOCK];
    struct weights block = *w;

    for (int32_t i = 0; i < count; i++)
        logit[i] = logit_of(sorted[i]);
    block.logits = logit;
    weigh_block(&block, 0, count, weight);
}

/* The token that falls on `target` of the sum of the first `kept` candidates. */
static int32_t pick_candidate(const struct weights *w, const uint64_t *sorted, int32_t kept, double target)
{
    float weight[BLOCK];

    for (int32_t i = 0; i < kept; i++) {
        if (i % BLOCK == 0)
            weigh_candidates(w, sorted + i, kept - i < BLOCK ? kept - i : BLOCK, weight);
        target -= (double)weight[i % BLOCK];
        if (target < 0)
            return (int32_t)(uint32_t)sorted[i];
    }
    return kept ? (int32_t)(uint32_t)sorted[kept - 1] : 0; /* none: the logits are no numbers */
}

/* pick among the likeliest tokens whose weights reach top_p of `sum`. */
static int32_t pick_likely(const struct weights *w, double sum, double top_p, double uniform, uint64_t *room)
{
    float weight[BLOCK];
    int32_t count = list_candidates(w, sum, top_p, room), kept = 0;
    const uint64_t *sorted = sort_candidates(room, count);
    double reached = 0;

    for (; kept < count && (kept == 0 || reached < top_p * sum); kept++) {
        if (kept % BLOCK == 0)
            weigh_candidates(w, sorted + kept, count - kept < BLOCK ? count - kept : BLOCK, weight);
        reached += (double)weight[kept % BLOCK];
    }
    return pick_candidate(w, sorted, kept, uniform * reached);
}

int32_t sample_token(const float *logits, int32_t vocab, const struct sample_options *options, uint32_t position,
                     uint64_t *room)
{
    struct weights w = {logits, vocab, 0, (float)(1 / options->temperature)};
    double sum;

    if (options->temperature <= 0 || !isfinite(w.inverse_temperature))
        return largest(logits, vocab);
    w.best = largest_value(logits, vocab);
    sum = weigh_all(&w);
    if (options->top_p < 1)
        return pick_likely(&w, sum, options->top_p, draw(options, position), room);
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
    struct weights w = {logits, vocab, largest_value(logits, vocab), 1};
    double log_sum = w.best + log(weigh_all(&w));
    int count = 0;

    for (int32_t i = 0; i < vocab && top_count > 0; i++)
        if (count < top_count || logits[i] - log_sum > top[top_count - 1].logprob)
            insert(top, &count, top_count, i, logits[i] - log_sum);
    return logits[id] - log_sum;
}
