#include "infer/sample.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>

static int32_t largest(const float *logits, int32_t vocab)
{
    int32_t best = 0;

    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
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

int32_t sample_token(const float *logits, int32_t vocab, const struct sample_options *options, uint32_t position,
                     int32_t *order)
{
    int32_t best = largest(logits, vocab), kept = 0;
    double sum = 0, reached = 0, target;

    if (options->temperature <= 0)
        return best;
    for (int32_t i = 0; i < vocab; i++) {
        order[i] = i;
        sum += exp((logits[i] - logits[best]) / options->temperature);
    }
    if (options->top_p < 1) {
        qsort_r(order, (size_t)vocab, sizeof *order, compare_descending, (void *)(uintptr_t)logits);
        while (kept < vocab && (kept == 0 || reached < options->top_p * sum))
            reached += exp((logits[order[kept++]] - logits[best]) / options->temperature);
    } else {
        kept = vocab;
        reached = sum;
    }
    target = draw(options, position) * reached;
    for (int32_t i = 0; i < kept; i++) {
        target -= exp((logits[order[i]] - logits[best]) / options->temperature);
        if (target < 0)
            return order[i];
    }
    return order[kept - 1];
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
    float best = logits[largest(logits, vocab)];
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
