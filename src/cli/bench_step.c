/* attune bench step - where the time of a training step goes, op by op.
 *
 * A model of the given shape with random weights trains on random documents, each optimizer step exactly as
 * the trainer's; its operations run between two looks at the clock. Of several steps the fastest is told: calls,
 * milliseconds, GFLOP and GB per second (of what the counting backend says must be done and moved at least), share of
 * the step, and share of a loop of nothing but multiply-adds that runs between the steps. */
#include "base/arena.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "compute/cpu/cpu.h"
#include "compute/mark/mark.h"
#include "model/decoder.h"
#include "os/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct request {
    const char *model, *profile;
    int64_t tokens, document, steps, lora_r;
    double supervised, dropout;
    bool is_processor_time;
};

struct bench {
    struct request request;
    enum model_profile profile;
    struct model *model;
    struct model_range range[MODEL_RANGES_MAX];
    int range_count;
    struct batch batch;
    struct arena arena;
    struct marks marks, best;      /* of this step; of the fastest */
    double seconds, best_seconds, peak;
    struct model_result result;
    double grad_norm;
};

/* Shared by the threads: what they would have taken of the wall clock without neighbours and without waiting for each
 * other. */
static double clock_processor_share(void)
{
    return clock_processor() / pool_cores();
}

/* Documents of one length, the last one shorter; the last part of each is supervised. */
static void make_batch(struct bench *bench, int32_t vocab)
{
    int32_t T = (int32_t)bench->request.tokens, length = (int32_t)bench->request.document,
            docs = (T + length - 1) / length;
    int32_t *tok = arena_new_array(&bench->arena, int32_t, (size_t)T), supervised = 0;
    int32_t *cu_seqlens = arena_new_array(&bench->arena, int32_t, (size_t)docs + 1);
    float *weight = arena_new_array(&bench->arena, float, (size_t)T);
    uint32_t random = 1;

    for (int32_t t = 0; t < T; t++) {
        random = random * 1664525 + 1013904223;
        tok[t] = (int32_t)((random >> 8) % (uint32_t)vocab);
        cu_seqlens[t / length + 1] = t + 1;
        weight[t] = t % length > 0 && t % length >= (1 - bench->request.supervised) * length;
        supervised += weight[t] > 0;
    }
    batch_make(&bench->arena, &bench->batch, tok, cu_seqlens, docs, NULL, weight,
               1.0f / (float)(supervised ? supervised : 1));
}

static bool open_model(struct bench *bench, struct pool *pool, struct err *err)
{
    const struct request *request = &bench->request;
    struct model_options options = {
        .profile = bench->profile,
        .is_trained = true,
        .is_random = true,
        .seed = 1,
        .backend = &backend_mark,
        .pool = pool,
        .row_tokens = (int32_t)(request->document < request->tokens ? request->document : request->tokens),
        .tokens_wanted = (int32_t)request->tokens,
        .step_tokens = (int32_t)request->tokens};

    if (request->lora_r)
        options.lora = (struct lora_config){
            .rank = (int32_t)request->lora_r, .alpha = 2.0 * (double)request->lora_r, .dropout = request->dropout};
    if (!model_open(&bench->model, request->model, &options, err))
        return false;
    model_queue(bench->model)->state = &bench->marks;
    bench->range_count = model_ranges(bench->model, bench->range, MODEL_RANGES_MAX);
    make_batch(bench, model_config(bench->model)->vocab);
    return true;
}

static void update(struct bench *bench, const double *sumsq, int64_t step)
{
    struct op_adamw rule = {.sumsq = sumsq,
                            .max_norm = 1,
                            .lr = 1e-4f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .decay = 0.01f,
                            .step = step};

    model_update(bench->model, bench->range, bench->range_count, &rule);
}

static void run_step(struct bench *bench, int64_t step)
{
    struct model_step place = {.seed = 1, .step = (uint32_t)step, .tokens = bench->batch.T};
    double started = bench->marks.clock(), sumsq = 0;
    const double *at;

    bench->marks.count = 0;
    bench->result = (struct model_result){0};
    model_zero_grads(bench->model);
    model_forward_backward(bench->model, &bench->batch, true, &place, &bench->result);
    at = model_grad_sumsq(bench->model, &sumsq);
    update(bench, at, step + 1);
    bench->seconds = bench->marks.clock() - started;
    bench->grad_norm = sqrt(sumsq);
}

/* The peak loop runs before and after each step, so that both meet the same neighbours and clocks. */
static void run_steps(struct bench *bench, struct pool *pool)
{
    enum dtype type = bench->profile == PROFILE_BF16 ? DTYPE_BF16 : DTYPE_F32;

    for (int64_t step = 0; step < bench->request.steps; step++) {
        for (int i = 0; i < 3; i++) {
            double peak = cpu_peak_flops(cpu_path_best(), type, pool);
            bench->peak = peak > bench->peak ? peak : bench->peak;
        }
        run_step(bench, step);
        if (bench->best_seconds == 0 || bench->seconds < bench->best_seconds) {
            bench->best = bench->marks;
            bench->best_seconds = bench->seconds;
        }
    }
}

static int slower(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;

    return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : 0;
}

static bool is_product(enum op op)
{
    return op == OP_linear || op == OP_linear_grad_in || op == OP_linear_grad_w;
}

static void print_mark(const struct bench *bench, const struct mark *mark)
{
    char shape[32] = "";

    if (mark->rows)
        snprintf(shape, sizeof shape, "%d x %d", mark->rows, mark->cols);
    printf("%-16s %-14s %6lld %9.2f %9.1f %8.1f %6.1f%% %6.1f%%\n", op_name(mark->op), shape, (long long)mark->calls,
           mark->seconds * 1e3, mark->flops / mark->seconds * 1e-9, mark->bytes / mark->seconds * 1e-9,
           100 * mark->seconds / bench->best_seconds, 100 * mark->flops / mark->seconds / bench->peak);
}

/* FLOPs of a step as people count them: 6 for each parameter that multiplies and token, 4 where the base is frozen, and
 * attention. */
static double model_flops(const struct bench *bench)
{
    const struct model_config *c = model_config(bench->model);
    const struct params *params = model_params(bench->model);
    double trained = (double)params->trained_count, parameters = (double)params->total_count, attention = 0, frozen;

    for (int i = 0; i < bench->best.count; i++)
        if (bench->best.mark[i].op == OP_attend)
            attention += 3 * bench->best.mark[i].flops;
    frozen = parameters - trained;
    if (!c->is_tied) /* looked up, not multiplied */
        *(frozen > 0 ? &frozen : &trained) -= (double)c->vocab * c->hidden;
    return (6 * trained + 4 * frozen) * bench->batch.T + attention;
}

static void print_step(struct bench *bench)
{
    double marked = 0, products = 0, product_flops = 0, flops = 0;

    qsort(bench->best.mark, (size_t)bench->best.count, sizeof *bench->best.mark, slower);
    printf("%-16s %-14s %6s %9s %9s %8s %7s %7s\n", "op", "weight", "calls", "ms", "GFLOP/s", "GB/s", "step", "peak");
    for (int i = 0; i < bench->best.count; i++) {
        const struct mark *mark = &bench->best.mark[i];
        print_mark(bench, mark);
        marked += mark->seconds;
        flops += mark->flops;
        if (is_product(mark->op)) {
            products += mark->seconds;
            product_flops += mark->flops;
        }
    }
    printf(
        "products %.1f%% of the step at %.1f%% of the peak loop; all ops %.2f%% of the step, the rest is the host's\n",
        100 * products / bench->best_seconds, 100 * product_flops / products / bench->peak,
        100 * marked / bench->best_seconds);
    printf("step %.2f ms, %d tokens (%d supervised): %.1f tokens/s, %.1f supervised/s; loss %.4f, gradient norm %.4f\n",
           bench->best_seconds * 1e3, bench->batch.T, bench->batch.head_row_count, bench->batch.T / bench->best_seconds,
           bench->batch.head_row_count / bench->best_seconds, bench->result.loss, bench->grad_norm);
    printf("peak loop %.1f GFLOP/s: done %.1f%% of it, as 6N + attention %.1f%%\n", bench->peak * 1e-9,
           100 * flops / bench->best_seconds / bench->peak,
           100 * model_flops(bench) / bench->best_seconds / bench->peak);
}

static bool check(const struct request *r, struct err *err)
{
    if (!r->model)
        return err_set(err, ERR_INPUT, "--model names a folder with a config.json");
    if (r->tokens < 2 || r->tokens > 1 << 20 || r->document < 2 || r->steps < 1)
        return err_set(err, ERR_INPUT, "--tokens takes 2 to 1048576, --document at least 2, --steps at least 1");
    return true;
}

int bench_step(int argc, char **argv)
{
    struct bench *bench = mem_alloc_zero(1, sizeof *bench);
    struct request *r = &bench->request;
    struct pool *pool = NULL;
    const char *what = NULL;
    int count = 0, status = 1;
    struct err err = {0};

    *r = (struct request){.profile = "auto", .tokens = 2048, .document = 1024, .steps = 4, .supervised = 1};
    const struct option list[] = {
        {"model", OPTION_TEXT, &r->model, "DIR", "whose config.json has the shape", NULL},
        {"lora-r", OPTION_INT, &r->lora_r, "R", "train an adapter of this rank (0: everything)", NULL},
        {"lora-dropout", OPTION_FLOAT, &r->dropout, "P", "its dropout", NULL},
        {"tokens", OPTION_INT, &r->tokens, "N", "of a step", NULL},
        {"document", OPTION_INT, &r->document, "N", "tokens of a document", NULL},
        {"supervised", OPTION_FLOAT, &r->supervised, "SHARE", "of each document", NULL},
        {"steps", OPTION_INT, &r->steps, "N", "of which the fastest is told", NULL},
        {"dtype", OPTION_TEXT, &r->profile, "TYPE", "auto, float32 or bfloat16", NULL},
        {"processor-time", OPTION_FLAG, &r->is_processor_time, NULL,
         "of all cores instead of the wall clock: blind to neighbours, and to threads that wait", NULL},
    };
    const struct options options = {
        .usage = "attune bench step --model DIR [options]",
        .about = "Shows where the time of a training step goes.",
        .list = list,
        .count = sizeof list / sizeof *list,
        .positional_min = 1,
        .positional_max = 1,
    };

    if (!options_parse(&options, argc, argv, &what, &count, &err) || !check(r, &err) ||
        !model_profile_choose(r->profile, &bench->profile, &err)) {
        status = 2;
        goto out;
    }
    bench->marks.clock = r->is_processor_time ? clock_processor_share : clock_monotonic;
    pool = pool_new(0);
    if (!open_model(bench, pool, &err))
        goto out;
    run_steps(bench, pool);
    print_step(bench);
    status = 0;
out:
    if (status)
        fprintf(stderr, "attune bench: %s\n", err.text);
    model_close(bench->model);
    pool_free(pool);
    arena_deinit(&bench->arena);
    free(bench);
    return status;
}
