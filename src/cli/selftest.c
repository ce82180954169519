/* attune selftest - does this machine compute what the reference computes?
 *
 * Every operation of every path that the processor has, on random operands, then one step of a small model: loss and
 * gradient of the fast backend beside the plain C one. */
#include "base/arena.h"
#include "cli/cli.h"
#include "cli/devices.h"
#include "cli/options.h"
#include "compute/cpu/cpu.h"
#include "compute/device.h"
#include "compute/graphs.h"
#include "compute/selftest/selftest.h"
#include "model/decoder.h"
#include "os/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 12, TOKENS = 96, THREADS = 2, RUN_STEPS = 30, GRAPH_STEPS = 8 };

/* Nothing is a multiple of a vector; random weights need no more than this. */
static const char tiny_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":60,\"intermediate_size\":100,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":6,\"num_key_value_heads\":2,\"head_dim\":10,\"vocab_size\":301,"
    "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\",\"initializer_range\":0.1}";

struct selftest {
    const char *backend_name, *model_folder, *only;
    int64_t seed, rounds;
    const struct backend *candidate;
    int device;
    int passed_count, failed_count;
};

static const char steps_name[] = "steps", graphs_name[] = "graphs"; /* the parts that are not of one operation */

static bool wants(const struct selftest *test, const char *part)
{
    return !test->only || strcmp(test->only, part) == 0;
}

static bool wants_models(const struct selftest *test)
{
    return wants(test, steps_name) || wants(test, graphs_name);
}

static bool wants_ops(const struct selftest *test)
{
    return !test->only || !wants_models(test);
}

static void count_check(struct selftest *test, bool is_ok)
{
    test->passed_count += is_ok;
    test->failed_count += !is_ok;
}

static void print_op(void *context, const struct selftest_result *result)
{
    bool is_ok = result->failure_count == 0;

    printf("  %-16s %4d compared, worst %6.2f%% of its bound  %s\n", op_name(result->op), result->comparison_count,
           100 * result->worst, is_ok ? "ok" : "FAIL");
    if (!is_ok)
        printf("    %d checks failed, first: %s\n", result->failure_count, result->failure);
    count_check(context, is_ok);
}

static bool check_ops(struct selftest *test, const char *name, const struct backend *backend, struct err *err)
{
    const struct selftest_options options = {(uint64_t)test->seed, (int)test->rounds, test->device, test->only};

    printf("%s\n", name);
    return selftest_run(backend, &options, print_op, test, err) >= 0;
}

static void check_paths(struct selftest *test)
{
    printf("paths of this processor:");
    for (enum cpu_path path = 0; path < CPU_PATH_COUNT; path++)
        if (cpu_path(path))
            printf(" %s", cpu_path_name(path));
    printf("; training takes %s\n", cpu_path_name(cpu_path_best()));
    for (enum cpu_path path = 0; path < CPU_PATH_COUNT; path++)
        if (cpu_path(path))
            check_ops(test, cpu_path_name(path), cpu_path(path), NULL);
}

/* Figures of one step, in an arena of the caller. */
struct step {
    double loss;
    float *gradient;
    uint64_t count;
};

/* Two documents of made-up tokens, others for another `data`; every token but the first of each is a label. */
static void run_step(struct model *model, int data, struct arena *arena, struct step *step)
{
    static const int32_t cu_seqlens[] = {0, TOKENS / 3, TOKENS};
    struct model_step place = {.seed = 1, .step = 1};
    struct model_result result = {0};
    struct batch batch;
    int32_t tokens[TOKENS];
    float weights[TOKENS];

    for (int32_t t = 0; t < TOKENS; t++) {
        tokens[t] = (t * t + data) % model_config(model)->vocab;
        weights[t] = 1;
    }
    batch_make(arena, &batch, tokens, cu_seqlens, 2, NULL, weights, 1.0f / (TOKENS - 2));
    model_zero_grads(model);
    model_forward_backward(model, &batch, true, &place, &result);
    step->count = model_params(model)->trained_count;
    step->loss = result.loss;
    step->gradient = arena_new_array(arena, float, step->count);
    model_grads_read(model, step->gradient);
}

static double train_step(struct model *model, int64_t k, int data)
{
    struct model_range range[MODEL_RANGES_MAX];
    int count = model_ranges(model, range, MODEL_RANGES_MAX);
    struct arena arena = {0};
    struct op_adamw rule;
    struct step step;
    double sumsq;
    const double *at;

    run_step(model, data, &arena, &step);
    at = model_grad_sumsq(model, &sumsq);
    rule = (struct op_adamw){
        .sumsq = at, .max_norm = 1, .lr = 3e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = k};
    model_update(model, range, count, &rule);
    arena_deinit(&arena);
    return step.loss;
}

static bool step_of(const struct selftest *test, const char *folder, const struct backend *backend,
                    enum model_profile profile, struct arena *arena, struct step *step, struct err *err)
{
    struct pool *pool = pool_new(THREADS);
    struct model_options options = {.profile = profile,
                                    .is_trained = true,
                                    .is_random = !test->model_folder,
                                    .seed = (uint64_t)test->seed,
                                    .backend = backend,
                                    .device = test->device,
                                    .pool = pool,
                                    .row_tokens = TOKENS,
                                    .tokens_wanted = TOKENS};
    struct model *model = NULL;
    bool ok = model_open(&model, folder, &options, err);

    if (ok)
        run_step(model, 0, arena, step);
    model_close(model);
    pool_free(pool);
    return ok;
}

/* |got - want| / |want|, in the norm of all parameters. */
static double gradient_error(const struct step *got, const struct step *want)
{
    double difference = 0, norm = 0;

    for (uint64_t i = 0; i < want->count; i++) {
        double a = got->gradient[i], b = want->gradient[i];
        difference += (a - b) * (a - b);
        norm += b * b;
    }
    return sqrt(difference / norm);
}

static bool check_step(struct selftest *test, const char *folder, enum model_profile profile, struct err *err)
{
    double bound = profile == PROFILE_F32 ? 1e-5 : 2e-2, loss, gradient;
    struct arena arena = {0};
    struct step got = {0}, want = {0};
    bool is_ok, ok = step_of(test, folder, test->candidate, profile, &arena, &got, err) &&
                     step_of(test, folder, &backend_ref, profile, &arena, &want, err);

    if (ok) {
        loss = fabs(got.loss / want.loss - 1);
        gradient = gradient_error(&got, &want);
        is_ok = loss <= bound && gradient <= bound;
        printf("  %-9s loss %.6f, reference %.6f, off by %.1e; gradient off by %.1e; both at most %.0e  %s\n",
               model_profile_name(profile), got.loss, want.loss, loss, gradient, bound, is_ok ? "ok" : "FAIL");
        count_check(test, is_ok);
    }
    arena_deinit(&arena);
    return ok;
}

/* Steps with AdamW on one batch, or on another one each, launched one by one or as graphs. */
enum run_kind { RUN_ONE_BATCH, RUN_CHANGES, RUN_GRAPHS };

struct run {
    double loss[RUN_STEPS]; /* GRAPH_STEPS where batches change */
    struct graph_counts graphs;
};

static bool run_of(const struct selftest *test, const char *folder, const struct backend *backend,
                   enum model_profile profile, enum run_kind kind, struct run *run, struct err *err)
{
    struct pool *pool = pool_new(THREADS);
    struct model_options options = {.profile = profile,
                                    .is_trained = true,
                                    .is_random = !test->model_folder,
                                    .seed = (uint64_t)test->seed,
                                    .backend = backend,
                                    .device = test->device,
                                    .has_graphs = kind == RUN_GRAPHS,
                                    .pool = pool,
                                    .row_tokens = TOKENS,
                                    .tokens_wanted = TOKENS};
    struct model *model = NULL;
    bool ok = model_open(&model, folder, &options, err);

    for (int k = 0; ok && k < (kind == RUN_ONE_BATCH ? RUN_STEPS : GRAPH_STEPS); k++)
        run->loss[k] = train_step(model, k + 1, kind == RUN_ONE_BATCH ? 0 : k);
    if (ok && kind == RUN_GRAPHS)
        run->graphs = device_graphs(backend)->counts(model_queue(model));
    model_close(model);
    pool_free(pool);
    return ok;
}

/* A whole small run: the device's losses beside the processor's in f32. */
static bool check_run(struct selftest *test, const char *folder, enum model_profile profile, struct err *err)
{
    struct run got, want;
    double worst = 0, bound = profile == PROFILE_F32 ? 1e-3 : 5e-2;
    bool is_ok;

    if (!run_of(test, folder, test->candidate, profile, RUN_ONE_BATCH, &got, err) ||
        !run_of(test, folder, &backend_cpu, PROFILE_F32, RUN_ONE_BATCH, &want, err))
        return false;
    for (int k = 0; k < RUN_STEPS; k++)
        worst = fmax(worst, fabs(got.loss[k] / want.loss[k] - 1));
    is_ok = worst <= bound && want.loss[RUN_STEPS - 1] < want.loss[0];
    printf("  %-9s %d steps: loss %.4f to %.4f, the processor's to %.4f, off by at most %.1e, allowed %.0e  %s\n",
           model_profile_name(profile), RUN_STEPS, got.loss[0], got.loss[RUN_STEPS - 1], want.loss[RUN_STEPS - 1],
           worst, bound, is_ok ? "ok" : "FAIL");
    count_check(test, is_ok);
    return true;
}

/* A small run whose passes are launched as graphs has the bits of one without. */
static bool check_graphs(struct selftest *test, const char *folder, enum model_profile profile, struct err *err)
{
    struct run with, without;
    int differ = 0;
    bool is_ok;

    if (!run_of(test, folder, test->candidate, profile, RUN_GRAPHS, &with, err) ||
        !run_of(test, folder, test->candidate, profile, RUN_CHANGES, &without, err))
        return false;
    for (int k = 0; k < GRAPH_STEPS; k++)
        differ += with.loss[k] != without.loss[k];
    is_ok = !differ && with.graphs.replayed > GRAPH_STEPS;
    printf("  %-9s %d steps with graphs: %lld halves of passes one by one, %lld recorded, %lld replayed; %d losses "
           "with other bits than without  %s\n",
           model_profile_name(profile), GRAPH_STEPS, (long long)with.graphs.plain, (long long)with.graphs.recorded,
           (long long)with.graphs.replayed, differ, is_ok ? "ok" : "FAIL");
    count_check(test, is_ok);
    return true;
}

/* A folder of our own that holds config.json; the caller removes it. */
static bool make_tiny_model(struct arena *arena, char **folder, struct err *err)
{
    const char *parent = getenv("TMPDIR");
    char *name = arena_printf(arena, "%s/attune-selftest-XXXXXX", parent && *parent ? parent : "/tmp");

    if (!mkdtemp(name))
        return err_set(err, ERR_IO,
                       "cannot make the folder %s for a small model: set TMPDIR to one that can be written", name);
    *folder = name;
    return file_replace(path_join(arena, name, "config.json"), str_of(tiny_config), err);
}

static bool run_steps(struct selftest *test, const char *folder, struct err *err)
{
    return check_step(test, folder, PROFILE_F32, err) && check_step(test, folder, PROFILE_BF16, err) &&
           (!test->candidate->memory ||
            (check_run(test, folder, PROFILE_F32, err) && check_run(test, folder, PROFILE_BF16, err)));
}

static bool run_graphs(struct selftest *test, const char *folder, struct err *err)
{
    return !device_graphs(test->candidate) ||
           (check_graphs(test, folder, PROFILE_F32, err) && check_graphs(test, folder, PROFILE_BF16, err));
}

static bool check_steps(struct selftest *test, struct err *err)
{
    struct arena arena = {0};
    char *made = NULL;
    const char *folder = test->model_folder;
    bool ok = false;

    if (!folder && !make_tiny_model(&arena, &made, err))
        goto out;
    folder = made ? made : folder;
    printf("one step of %s\n", made ? "a small random model" : folder);
    ok = (!wants(test, steps_name) || run_steps(test, folder, err)) &&
         (!wants(test, graphs_name) || run_graphs(test, folder, err));
out:
    if (made)
        dir_remove(made, NULL);
    arena_deinit(&arena);
    return ok;
}

static bool check_device(struct selftest *test, struct err *err)
{
    test->candidate = device_find(test->backend_name, &test->device, err);
    if (!test->candidate)
        return false;
    print_gpu(test->device);
    return (!wants_ops(test) || check_ops(test, test->backend_name, test->candidate, err)) &&
           (!wants_models(test) || check_steps(test, err));
}

static bool run(struct selftest *test, struct err *err)
{
    if (strcmp(test->backend_name, "ref") == 0)
        return check_ops(test, "ref", &backend_ref, err);
    if (strcmp(test->backend_name, "cpu") != 0)
        return check_device(test, err);
    print_gpus();
    test->candidate = &backend_cpu;
    if (wants_ops(test))
        check_paths(test);
    return !wants_models(test) || check_steps(test, err);
}

/* An operation's trial, or the steps of a small model, or its graphs. */
static bool is_part(const char *name)
{
    for (int i = 0; selftest_trial(i); i++)
        if (strcmp(name, selftest_trial(i)) == 0)
            return true;
    return strcmp(name, steps_name) == 0 || strcmp(name, graphs_name) == 0;
}

static const char *part_names(struct arena *arena)
{
    const char *names = arena_printf(arena, "%s, %s", steps_name, graphs_name);

    for (int i = 0; selftest_trial(i); i++)
        names = arena_printf(arena, "%s, %s", names, selftest_trial(i));
    return names;
}

int cli_selftest(int argc, char **argv)
{
    struct selftest test = {.backend_name = "cpu", .seed = 20261122, .rounds = ROUNDS};
    struct err err = {0};
    const struct option list[] = {
        {"backend", OPTION_TEXT, &test.backend_name, "NAME",
         "cpu (default), cuda or cuda:N, or ref: its f32 and bf16 beside its own f64", NULL},
        {"model", OPTION_TEXT, &test.model_folder, "DIR", "the step runs on this model instead of a small random one",
         NULL},
        {"seed", OPTION_INT, &test.seed, "N", "of the random operands and weights", NULL},
        {"rounds", OPTION_INT, &test.rounds, "N", "how often every operation gets new operands (1 to 10000)", NULL},
        {"only", OPTION_TEXT, &test.only, "PART",
         "one operation's trial; `steps`: a step and a run of the model; or `graphs`: a run launched as graphs",
         NULL},
    };
    const struct options options = {
        .usage = "attune selftest [options]",
        .about = "Holds a backend against the plain C reference on this machine.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    int positional_count = 0;
    struct arena arena = {0};
    bool ok = options_parse(&options, argc, argv, NULL, &positional_count, &err);

    setvbuf(stdout, NULL, _IOLBF, 0); /* a run that is cut off has said what it knew */
    if (ok && strcmp(test.backend_name, "ref") != 0 && !device_name_is_valid(test.backend_name))
        ok = err_set(&err, ERR_INPUT, "there is no backend '%s', only cpu, cuda, cuda:N and ref", test.backend_name);
    if (ok && (test.rounds < 1 || test.rounds > 10000))
        ok = err_set(&err, ERR_INPUT, "--rounds is 1 to 10000, not %lld", (long long)test.rounds);
    if (ok && test.only && !is_part(test.only))
        ok = err_set(&err, ERR_INPUT, "--only is one of %s; not '%s'", part_names(&arena), test.only);
    arena_deinit(&arena);
    if (!ok) {
        fprintf(stderr, "attune selftest: %s\n", err.text);
        return 2;
    }
    if (!run(&test, &err)) {
        fprintf(stderr, "attune selftest: %s\n", err.text);
        return 1;
    }
    printf("selftest: %d passed, %d failed\n", test.passed_count, test.failed_count);
    return test.failed_count > 0;
}
