#include "train/train_int.h"

#include <stdlib.h>

enum { SAMPLE_EXAMPLES_MAX = 64, CHUNK_EXAMPLES = 64 };

static bool eval_examples(struct session *s, const uint32_t *example, uint32_t count, struct eval_result *result,
                          struct err *err)
{
    uint32_t tokens_max = (uint32_t)model_plan_used(s->model)->tokens;
    struct model_result sum = {0};

    for (uint32_t first = 0; first < count; first += CHUNK_EXAMPLES) {
        uint32_t part = count - first < CHUNK_EXAMPLES ? count - first : CHUNK_EXAMPLES;
        struct feed_step step;

        arena_reset(&s->step_arena);
        feed_examples_make(&s->valid, &s->step_arena, example + first, part, tokens_max, 0, &step);
        for (int i = 0; i < step.micro_count; i++)
            model_forward_backward(s->model, &step.micro[i].batch, false, &(struct model_step){0}, &sum);
        if (!run_beat(&s->run, err))
            return false;
    }
    *result = (struct eval_result){.has_value = sum.row_count > 0};
    if (sum.row_count > 0) {
        result->loss = sum.nll_sum / (double)sum.row_count;
        result->accuracy = (double)sum.hit_count / (double)sum.row_count;
    }
    return true;
}

/* Examples spread evenly over the file: index i of n is i · count / n. */
static bool eval_spread(struct session *s, uint32_t count, struct eval_result *result, struct err *err)
{
    uint32_t *example = mem_alloc((size_t)count * sizeof *example);
    bool ok;

    for (uint32_t i = 0; i < count; i++)
        example[i] = (uint32_t)((uint64_t)i * s->valid.count / count);
    ok = eval_examples(s, example, count, result, err);
    free(example);
    return ok;
}

bool eval_sample(struct session *s, struct eval_result *result, struct err *err)
{
    *result = (struct eval_result){0};
    if (!s->has_valid)
        return true;
    return eval_spread(s, s->valid.count < SAMPLE_EXAMPLES_MAX ? s->valid.count : SAMPLE_EXAMPLES_MAX, result, err);
}

bool eval_full(struct session *s, struct eval_result *result, struct err *err)
{
    *result = (struct eval_result){0};
    return !s->has_valid || eval_spread(s, s->valid.count, result, err);
}
