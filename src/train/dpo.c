#include "train/dpo.h"

#include <math.h>
#include <string.h>

/* The document that a row belongs to, at or behind `doc`. */
static int32_t document_of(const struct batch *batch, int32_t row, int32_t doc)
{
    while (batch->cu_seqlens[doc + 1] <= row)
        doc++;
    return doc;
}

void dpo_logps(const struct model *model, const struct batch *batch, double *logps)
{
    const float *nll = model_row_nll(model);

    memset(logps, 0, (size_t)batch->doc_count * sizeof *logps);
    for (int32_t i = 0, doc = 0; i < batch->head_row_count; i++) {
        doc = document_of(batch, batch->head_rows[i], doc);
        logps[doc] -= (double)nll[i];
    }
}

/* -ln σ(x), without overflow on either side. */
static double loss_of(double x)
{
    return x > 0 ? log1p(exp(-x)) : log1p(exp(x)) - x;
}

/* The pair of documents `doc` and `doc + 1`: counts it and returns how its loss falls with π_chosen. */
static double take_pair(const struct dpo_batch *b, int32_t doc, const double *logps)
{
    const uint32_t *example = b->micro->example + doc;
    double chosen = b->beta * (logps[doc] - b->reference[example[0]]);
    double rejected = b->beta * (logps[doc + 1] - b->reference[example[1]]);
    struct dpo_sums *sums = b->sums;

    sums->pairs++;
    sums->wins += chosen > rejected;
    sums->loss += loss_of(chosen - rejected);
    sums->rewards_chosen += chosen;
    sums->rewards_rejected += rejected;
    sums->logps_chosen += logps[doc];
    sums->logps_rejected += logps[doc + 1];
    return b->beta / (1 + exp(chosen - rejected));
}

static void count_hits(const struct dpo_batch *b, const struct batch *batch)
{
    const uint8_t *hits = model_row_hits(b->model);

    for (int32_t i = 0, doc = 0; i < batch->head_row_count; i++) {
        doc = document_of(batch, batch->head_rows[i], doc);
        if (doc % 2)
            continue;
        b->sums->chosen_rows++;
        b->sums->chosen_hits += hits[i];
    }
}

const float *dpo_weigh(void *context, const struct batch *batch)
{
    const struct dpo_batch *b = context;
    double *logps = arena_new_array(b->arena, double, (size_t)batch->doc_count);
    double *slope = arena_new_array(b->arena, double, (size_t)batch->doc_count);
    float *weight = arena_new_array(b->arena, float, (size_t)batch->head_row_count);

    dpo_logps(b->model, batch, logps);
    for (int32_t doc = 0; doc < batch->doc_count; doc += 2) {
        slope[doc] = take_pair(b, doc, logps) / (double)b->step_pairs;
        slope[doc + 1] = -slope[doc];
    }
    for (int32_t i = 0, doc = 0; i < batch->head_row_count; i++) {
        doc = document_of(batch, batch->head_rows[i], doc);
        weight[i] = (float)slope[doc];
    }
    count_hits(b, batch);
    return weight;
}

struct model_result dpo_result(const struct dpo_sums *sums)
{
    return (struct model_result){
        .loss = sums->loss / (double)sums->pairs,
        .nll_sum = sums->loss,
        .row_count = sums->chosen_rows,
        .hit_count = sums->chosen_hits,
    };
}

void dpo_means(const struct dpo_sums *sums, struct dpo_mean means[DPO_MEANS])
{
    const struct dpo_mean totals[DPO_MEANS] = {
        {"rewards_chosen", "rewards/chosen", sums->rewards_chosen},
        {"rewards_rejected", "rewards/rejected", sums->rewards_rejected},
        {"reward_accuracy", "rewards/accuracies", (double)sums->wins},
        {"reward_margin", "rewards/margins", sums->rewards_chosen - sums->rewards_rejected},
        {"logps_chosen", "logps/chosen", sums->logps_chosen},
        {"logps_rejected", "logps/rejected", sums->logps_rejected},
    };

    for (int i = 0; i < DPO_MEANS; i++) {
        means[i] = totals[i];
        means[i].value /= (double)sums->pairs;
    }
}
