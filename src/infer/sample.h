/* infer/sample.h - the next token from a row of logits.
 *
 * Temperature 0 takes the largest logit, the first on ties. Otherwise probabilities are softmax(logits /
 * temperature), cut to the smallest set of most likely tokens whose sum reaches top_p, and one draw decides. The draw
 * comes from Philox under (seed, sequence, position): the same request gives the same tokens alone and in company.
 * Log-probabilities that are reported are those of the model itself, at temperature 1 and uncut. */
#pragma once

#include <stdint.h>

struct sample_options {
    double temperature; /* 0 .. 2 */
    double top_p;       /* 0 .. 1 */
    uint64_t seed;
    uint32_t sequence;  /* which of the request's choices */
};

enum { SAMPLE_TOP_MAX = 20 };

struct sample_alternative {
    int32_t id;
    double logprob;
};

/* room: of 2 · vocab words. */
int32_t sample_token(const float *logits, int32_t vocab, const struct sample_options *options, uint32_t position,
                     uint64_t *room);

/* To 2e-7: log-probability of `id`, and of the `top_count` most likely tokens in descending order. */
double sample_logprobs(const float *logits, int32_t vocab, int32_t id, int top_count, struct sample_alternative *top);
