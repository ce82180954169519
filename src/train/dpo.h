/* train/dpo.h - Direct Preference Optimization: the loss of a pair and what flows back from it.
 *
 * A pair is a prompt with a chosen and a rejected completion. With π the log-probability of a completion's tokens under
 * the model that trains, added up, and ref the same under the model as the run began (train/reference.c):
 *
 *   rewards          β (π_chosen - ref_chosen), β (π_rejected - ref_rejected)
 *   margin x         the first minus the second
 *   loss             -ln σ(x), the mean over the pairs of the optimizer step (Rafailov et al. 2023; TRL's "sigmoid")
 *
 * So ∂loss/∂π_chosen = -β σ(-x) / pairs and ∂loss/∂π_rejected is the same with the other sign: each of a completion's
 * rows gets one weight. A micro-batch holds whole pairs, the chosen document in front of the rejected one, so the
 * weights are known between its forward and its backward pass. */
#pragma once

#include "model/decoder.h"
#include "train/feed.h"

/* Over pairs. */
struct dpo_sums {
    int64_t pairs, wins; /* wins: the chosen completion has the higher reward */
    double loss;
    double rewards_chosen, rewards_rejected;
    double logps_chosen, logps_rejected; /* π */
    int64_t chosen_rows, chosen_hits;    /* tokens of chosen completions; those that are the argmax */
};

struct dpo_batch {
    const struct model *model;
    const struct micro_batch *micro;
    const double *reference; /* ref of every sequence of the data set */
    double beta;
    int64_t step_pairs;  /* of the whole optimizer step: the loss's divisor */
    struct arena *arena; /* of the step */
    struct dpo_sums *sums;
};

/* Adds the pairs of the batch that the model has seen last to sums, and tells the weights of its rows. The `weigh` of a
 * model_step, with a struct dpo_batch as its context. */
const float *dpo_weigh(void *context, const struct batch *batch);

/* The sums as a model's result: loss is the mean over the pairs, nll_sum their losses' sum, rows those of the chosen
 * completions. */
struct model_result dpo_result(const struct dpo_sums *sums);

/* Means over the pairs, under the names of our events and of TRL's logs; there are pairs. */
enum { DPO_MEANS = 6 };
struct dpo_mean {
    const char *name, *trl_name;
    double value;
};
void dpo_means(const struct dpo_sums *sums, struct dpo_mean means[DPO_MEANS]);

/* π of each document of the batch that the model has seen last. */
void dpo_logps(const struct model *model, const struct batch *batch, double *logps);
