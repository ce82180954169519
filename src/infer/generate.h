/* infer/generate.h - many replies at once on one model.
 *
 * A generator holds sequences. Each step takes the token drawn last of every sequence whose prompt is through, and some
 * tokens of prompts, so few that replies hardly wait; it runs them through the model as one flat stream and draws the
 * next tokens. Prompts come one after the other: that whose tokens would be through first if all were taken from in
 * turn, so a short one does not wait for the whole of a long one and none waits for ever. A reply has the same bits
 * alone and in company, because a row of a product does not depend on the other rows. Sequences may have adapters of
 * their own: those with the same one lie side by side.
 *
 * A sequence that has a scope does not run what another of its scope has run from the beginning on, whether that goes
 * on or has ended (infer/kept.h): it takes a copy of the keys and values, and its reply has the same bits.
 *
 * A sequence's keys and values take model_cache_bytes of its prompt and max_tokens from its start until it ends, in the
 * memory of operations. */
#pragma once

#include "infer/sample.h"
#include "model/decoder.h"

struct generator;
struct sequence;

enum { SEQUENCES_MAX = 32 };

/* tokens: most of one step, as the model was opened with. prompt_tokens: how many of prompts a step takes; a quarter
 * more where that ends one, because a step with few tokens takes as long as one with many. kept_bytes: of keys and
 * values of sequences that have ended. */
struct generator *generator_new(struct model *model, int32_t tokens, int32_t prompt_tokens, uint64_t kept_bytes);
void generator_free(struct generator *generator); /* ends all sequences */

struct sequence_request {
    const int32_t *prompt;      /* copied; at least one token */
    int32_t prompt_count;
    int32_t max_tokens;         /* at least 1; prompt_count + max_tokens <= the model's positions */
    struct sample_options sampling;
    int logprobs;               /* -1: none, else alternatives */
    const struct adapter *adapter; /* of a model with slots (model/adapter.h); NULL: none. Must outlive the sequence */
    const char *scope;          /* copied; NULL: nothing is shared. Equal scopes have the same adapter for ever */
};

struct sequence_token {
    int32_t id;
    double logprob;             /* with logprobs >= 0 */
    struct sample_alternative top[SAMPLE_TOP_MAX];
    int top_count;
};

/* on_token is called once per drawn token; it returns false to end the sequence there. is_last: max_tokens is
 * reached. */
typedef bool sequence_fn(void *context, const struct sequence_token *token, bool is_last);

/* NULL when SEQUENCES_MAX are running, or when a device has no room for the keys and values now. */
struct sequence *generator_add(struct generator *generator, const struct sequence_request *request,
                               sequence_fn *on_token, void *context);
/* Without another call; not from on_token. */
void generator_remove(struct generator *generator, struct sequence *sequence);
/* Tokens of its prompt that it has not run but taken from others; from its first token on that is for good. */
int32_t sequence_shared(const struct sequence *sequence);
int generator_count(const struct generator *generator);
/* One step; false when there was nothing to do. */
bool generator_step(struct generator *generator);
