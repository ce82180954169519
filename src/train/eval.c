#include "train/train_int.h"

#include <stdlib.h>

enum { SAMPLE_EXAMPLES_MAX = 64, CHUNK_EXAMPLES = 64 };

/* `together` neighbours are one example. */
static bool eval_examples(struct session *s, const uint32_t *example, uint32_t count, uint32_t together,
                          struct eval_result *result, struct err *err)
{
    uint32_t tokens_max = (uint32_t)model_plan_used(s->model)->tokens;
    struct model_result sum = {0};

    *result = (struct eval_result){0};
    for (uint32_t first = 0; first < count; first += CHUNK_EXAMPLES) {
        uint32_t part = count - first < CHUNK_EXAMPLES ? count - first : CHUNK_EXAMPLES;
        struct feed_step step;

        arena_reset(&s->step_arena);
        feed_examples_make(&s->valid, &s->step_arena, example + first, part, together, tokens_max, 0, &step);
        for (int i = 0; i < step.micro_count; i++) {
            struct dpo_batch pairs = session_pairs(s, &step.micro[i], s->reference_valid, 1, &result->dpo);
            if (s->config.method == METHOD_DPO)
                model_forward_backward(s->model, &step.micro[i].batch, false, &(struct model_step){0}, &sum);
            else
                model_queue_pass(s->model, &step.micro[i].batch, false, &(struct model_step){0}, &sum);
            if (s->config.method == METHOD_DPO)
                dpo_weigh(&pairs, &step.micro[i].batch);
        }
        model_finish(s->model);
        if (!run_beat(&s->run, err))
            return false;
    }
    if (s->config.method == METHOD_DPO)
        sum = dpo_result(&result->dpo);
    result->has_value = sum.row_count > 0;
    if (sum.row_count > 0) {
        result->loss = s->config.method == METHOD_DPO ? sum.loss : sum.nll_sum / (double)sum.row_count;
        result->accuracy = (double)sum.hit_count / (double)sum.row_count;
    }
    return true;
}

/* Examples spread evenly over the file: index i of n is i · examples / n. */
static bool eval_spread(struct session *s, uint32_t count, struct eval_result *result, struct err *err)
{
    uint32_t together = (uint32_t)example_kind_sequences(s->valid.summary.kind);
    uint32_t *example = mem_alloc((size_t)count * together * sizeof *example);
    bool ok;

    for (uint32_t i = 0; i < count * together; i++)
        example[i] = (uint32_t)((uint64_t)(i / together) * s->valid.summary.examples / count) * together + i % together;
    ok = eval_examples(s, example, count * together, together, result, err);
    free(example);
    return ok;
}

bool eval_sample(struct session *s, struct eval_result *result, struct err *err)
{
    uint64_t examples = s->valid.summary.examples;

    *result = (struct eval_result){0};
    return !s->has_valid ||
           eval_spread(s, examples < SAMPLE_EXAMPLES_MAX ? (uint32_t)examples : SAMPLE_EXAMPLES_MAX, result, err);
}

bool eval_full(struct session *s, struct eval_result *result, struct err *err)
{
    *result = (struct eval_result){0};
    return !s->has_valid || eval_spread(s, (uint32_t)s->valid.summary.examples, result, err);
}
