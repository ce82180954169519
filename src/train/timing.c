/* How long a run would take.
 *
 * A micro-batch of the run's own data goes forward and backward through a model of the same shapes whose weights are
 * zero, and its optimizer makes a step. Where that model or that batch would take too much memory or time, it is a
 * slice: the first tokens of the batch, and one in 2, 4, 8 … of the layers and of the vocabulary, so that every kind of
 * work keeps its share. What was measured is then scaled by the floating point operations of the whole, which the
 * counting backend tells. */
#include "os/clock.h"
#include "train/train_int.h"

#include <math.h>
#include <stdlib.h>

enum { TOKENS_LEAST = 256, SAMPLE_EXAMPLES = 64 };
static const double PASS_FLOPS_MAX = 2e10;

struct probe {
    struct session session; /* the slice as session_update takes it: config, model and ranges alone */
    struct arena arena;
    struct model_options options;
    struct plan plan;
    struct plan_cost cost;
    struct batch batch;
    int32_t tokens;
};

/* The first tokens of a batch, for a vocabulary of `vocab`; at least one is a label. */
static struct batch cut_batch(struct arena *arena, const struct batch *whole, int32_t tokens, int32_t vocab)
{
    int32_t *tok = arena_new_array(arena, int32_t, (size_t)tokens), docs = 0;
    int32_t *cu_seqlens = arena_new_array(arena, int32_t, (size_t)whole->doc_count + 1);
    float *weight = arena_new_array(arena, float, (size_t)tokens);
    struct batch cut;

    for (int32_t t = 0; t < tokens; t++)
        tok[t] = whole->tok[t] % vocab;
    while (cu_seqlens[docs] < tokens) {
        cu_seqlens[docs + 1] = whole->cu_seqlens[docs + 1] < tokens ? whole->cu_seqlens[docs + 1] : tokens;
        docs++;
    }
    for (int32_t i = 0; i < whole->head_row_count && whole->head_rows[i] < tokens - 1; i++)
        weight[whole->head_rows[i] + 1] = 1;
    weight[tokens - 1] = 1;
    batch_make(arena, &cut, tok, cu_seqlens, docs, NULL, weight, 1.0f / (float)tokens);
    return cut;
}

/* Describes the slice; false when there is none of this size. *fits: within memory and time. */
static bool weigh(struct probe *p, const struct session *s, const struct batch *whole, uint64_t memory_bytes,
                  bool *fits)
{
    struct err err;

    p->options.tokens_wanted = p->options.step_tokens = p->tokens;
    if (p->options.row_tokens > p->tokens)
        p->options.row_tokens = p->tokens;
    p->options.plan = NULL;
    if (!model_plan(s->config.model_path, &p->options, &p->plan, &err))
        return false;
    p->options.plan = &p->plan;
    p->batch = cut_batch(&p->arena, whole, p->tokens, INT32_MAX);
    *fits = memory_bytes == 0 || p->plan.total_bytes <= memory_bytes;
    return model_cost(s->config.model_path, &p->options, &p->batch, &p->cost, &err);
}

/* Halves the batch first, then the model. A slice that takes long is better than none. */
static bool choose(struct probe *p, const struct session *s, const struct batch *whole, uint64_t memory_bytes)
{
    bool fits = false;

    p->options = session_model_options(s, session_row_tokens(s));
    p->options.limit_bytes = 0;
    p->options.slice = 1;
    p->tokens = whole->T;
    for (;;) {
        if (!weigh(p, s, whole, memory_bytes, &fits))
            return false;
        if (fits && p->cost.flops <= PASS_FLOPS_MAX)
            return true;
        if (p->tokens > TOKENS_LEAST)
            p->tokens = p->tokens / 2 > TOKENS_LEAST ? p->tokens / 2 : TOKENS_LEAST;
        else if (p->options.slice < s->model_config.layers)
            p->options.slice *= 2;
        else
            return fits;
    }
}

static bool open_model(struct probe *p, const struct session *s, const struct batch *whole)
{
    struct session *slice = &p->session;
    struct err err;

    if (!model_open(&slice->model, s->config.model_path, &p->options, &err))
        return false;
    slice->config = s->config;
    slice->range = arena_new_array(&p->arena, struct model_range, MODEL_RANGES_MAX);
    slice->range_count = model_ranges(slice->model, slice->range, MODEL_RANGES_MAX);
    p->batch = cut_batch(&p->arena, whole, p->tokens, model_config(slice->model)->vocab);
    return true;
}

static double time_pass(struct probe *p)
{
    struct model_step step = {.seed = 1, .tokens = p->batch.T};
    struct model_result result = {0};
    double started = clock_monotonic();

    model_forward_backward(p->session.model, &p->batch, true, &step, &result);
    return clock_monotonic() - started;
}

/* What comes once a step: gradients to zero, their norm, the optimizer. */
static double time_update(struct probe *p)
{
    struct model *model = p->session.model;
    double started = clock_monotonic(), sumsq;

    model_zero_grads(model);
    session_update(&p->session, model_grad_sumsq(model, &sumsq), 0, 1);
    if (model_backend(model)->memory)
        model_backend(model)->memory->wait(model_queue(model));
    return clock_monotonic() - started;
}

/* Tokens that evaluations read: a sample now and then, all at every checkpoint. */
static double evaluated_tokens(const struct session *s, const struct plan *plan)
{
    double checkpoints = (double)disk_needs(s, plan).checkpoints, tokens = (double)s->valid.summary.tokens;
    double samples = (double)(s->total_steps / s->eval_every) + checkpoints;

    if (!s->has_valid)
        return 0;
    return tokens * (checkpoints + samples * fmin(1, SAMPLE_EXAMPLES / (double)s->valid.summary.examples));
}

/* Operations of the whole run but for the optimizer's. */
static double run_flops(const struct session *s, const struct plan *plan, const struct plan_cost *cost, int32_t tokens)
{
    double seen = (double)s->train.summary.tokens, forward = cost->forward_flops + cost->head_flops;
    double flops = seen * (double)s->config.hp.n_epochs * cost->flops + evaluated_tokens(s, plan) * forward;

    if (s->config.method == METHOD_DPO) /* logits before the loss is known, and the reference */
        flops += seen * (double)s->config.hp.n_epochs * cost->head_flops +
                 (seen + (s->has_valid ? (double)s->valid.summary.tokens : 0)) * forward;
    return flops / tokens;
}

struct timing timing_measure(struct session *s, const struct plan *plan, const struct plan_cost *cost,
                             const struct batch *batch, uint64_t memory_bytes)
{
    struct probe *p = mem_alloc_zero(1, sizeof *p);
    struct timing timing = {0};
    double started = clock_monotonic(), pass, update;

    if (!choose(p, s, batch, memory_bytes) || !open_model(p, s, batch))
        goto out;
    time_pass(p); /* touches the memory for the first time */
    time_update(p);
    pass = time_pass(p);
    update = time_update(p) * (double)cost->trained_parameters / (double)p->cost.trained_parameters;
    timing.has_value = true;
    timing.seconds =
        run_flops(s, plan, cost, batch->T) * pass / p->cost.flops + update * (double)s->total_steps;
    timing.share = fmin(1, p->cost.flops / cost->flops);
    timing.probe_seconds = clock_monotonic() - started;
out:
    model_close(p->session.model);
    arena_deinit(&p->arena);
    free(p);
    return timing;
}
