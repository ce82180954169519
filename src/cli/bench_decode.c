/* attune bench decode - how fast replies come, as a share of what memory and processor allow.
 *
 * A token drawn alone reads every weight once, so its measure is a loop that only reads; a prompt is products, so its
 * measure is the loop of multiply-adds. Each alternates with its measure, on the same threads: neighbours disturb both
 * alike. The share of a step in the reading right before it has a median of its own; so a machine whose memory is
 * faster at one time than at another does not move it. */
#include "base/arena.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "compute/cpu/cpu.h"
#include "compute/nf4.h"
#include "infer/generate.h"
#include "model/decoder.h"
#include "os/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_BYTES = 256 << 20, READ_TASKS = 512, SAMPLES_MAX = 4096, STEP_TOKENS = 512 };

/* Medians of what was timed, in units of work per second. */
struct samples {
    double at[SAMPLES_MAX];
    int count;
};

struct bench {
    struct model *model;
    struct pool *pool;
    struct generator *generator;
    char *memory; /* READ_BYTES */
    int32_t prompt_tokens, reply_tokens;
    uint64_t weight_bytes; /* that a step reads */
    double weight_count;
    struct samples prefill, peak, step, read, share;
};

static void keep(struct samples *samples, double rate)
{
    if (samples->count < SAMPLES_MAX)
        samples->at[samples->count++] = rate;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(struct samples *samples)
{
    qsort(samples->at, (size_t)samples->count, sizeof *samples->at, compare);
    return samples->count ? samples->at[samples->count / 2] : 0;
}

typedef uint64_t wide __attribute__((vector_size(64)));

struct reading {
    const char *memory;
    _Atomic uint64_t sum; /* so that the loop stays */
};

static void read_task(void *context, int task, int thread)
{
    struct reading *reading = context;
    size_t bytes = READ_BYTES / READ_TASKS;
    const wide *at = (const wide *)(reading->memory + (size_t)task * bytes), *end = at + bytes / sizeof *at;
    wide a = {0}, b = {0}, c = {0}, d = {0};

    for (; at < end; at += 4) {
        a |= at[0];
        b |= at[1];
        c |= at[2];
        d |= at[3];
    }
    a |= b | c | d;
    reading->sum += a[0] | a[1] | a[2] | a[3] | a[4] | a[5] | a[6] | a[7];
}

static double read_rate(const struct bench *bench)
{
    struct reading reading = {.memory = bench->memory};
    double begin = clock_monotonic();

    pool_run(bench->pool, READ_TASKS, read_task, &reading);
    return READ_BYTES / (clock_monotonic() - begin);
}

static bool on_token(void *context, const struct sequence_token *token, bool is_last)
{
    return true;
}

static void add_sequences(struct bench *bench, int count)
{
    int32_t *prompt = mem_alloc((size_t)bench->prompt_tokens * sizeof *prompt),
            vocab = model_config(bench->model)->vocab;

    for (int i = 0; i < count; i++) {
        struct sequence_request request = {.prompt = prompt,
                                           .prompt_count = bench->prompt_tokens,
                                           .max_tokens = bench->reply_tokens,
                                           .sampling = {.temperature = 1, .top_p = 1, .sequence = (uint32_t)i},
                                           .logprobs = -1};
        for (int32_t t = 0; t < bench->prompt_tokens; t++)
            prompt[t] = (t * 7919 + i * 104729) % vocab;
        generator_add(bench->generator, &request, on_token, NULL);
    }
    free(prompt);
}

/* Prompts until every sequence has its first token: whole steps of nothing else. */
static void run_prompts(struct bench *bench, int count)
{
    int64_t left = (int64_t)bench->prompt_tokens * count;

    while (left > 0) {
        int64_t here = left < STEP_TOKENS ? left : STEP_TOKENS;
        double begin;
        keep(&bench->peak, cpu_peak_flops(cpu_path_best(), model_cache_type(bench->model), bench->pool));
        begin = clock_monotonic();
        generator_step(bench->generator);
        if (here == STEP_TOKENS || left == (int64_t)bench->prompt_tokens * count)
            keep(&bench->prefill, (double)here / (clock_monotonic() - begin));
        left -= here;
    }
}

static void run_replies(struct bench *bench, int count)
{
    while (generator_count(bench->generator) > 0) {
        double read = read_rate(bench), begin = clock_monotonic(), seconds;
        generator_step(bench->generator);
        seconds = clock_monotonic() - begin;
        keep(&bench->read, read);
        keep(&bench->step, count / seconds);
        keep(&bench->share, (double)bench->weight_bytes / seconds / read);
    }
}

static void measure(struct bench *bench, int count, double seconds)
{
    double begin = clock_monotonic(), tokens, read, step_bytes;

    bench->prefill.count = bench->peak.count = bench->step.count = bench->read.count = bench->share.count = 0;
    do {
        add_sequences(bench, count);
        run_prompts(bench, count);
        run_replies(bench, count);
    } while (clock_monotonic() - begin < seconds);
    tokens = median(&bench->step);
    read = median(&bench->read);
    step_bytes = tokens / count * (double)bench->weight_bytes;
    printf("%9d  %9.1f  %9.2f %9.2f %5.0f%%  %9.1f %5.0f%%\n", count, tokens, step_bytes * 1e-9, read * 1e-9,
           100 * median(&bench->share), median(&bench->prefill),
           100 * median(&bench->prefill) * 2 * bench->weight_count / median(&bench->peak));
    fflush(stdout);
}

/* Codes, and a scale for each block. */
static uint64_t nf4_bytes(uint64_t count)
{
    return (uint64_t)nf4_code_bytes((int64_t)count) + sizeof(float) * (uint64_t)nf4_blocks((int64_t)count, NF4_BLOCK);
}

/* Weights that products read; a token's row of a table is nothing beside them. */
static void count_weights(struct bench *bench)
{
    const struct params *params = model_params(bench->model);
    bool has_own_head = params_stored(params, SLOT_HEAD, -1, PART_W) >= 0;

    for (int i = 0; i < params->stored_count; i++) {
        const struct stored *stored = &params->stored[i];
        uint64_t count = (uint64_t)stored->rows * (uint64_t)stored->cols;
        if (stored->rows == 1 || (stored->slot == SLOT_EMBED && has_own_head))
            continue;
        bench->weight_bytes += stored->residence == IN_CODES ? nf4_bytes(count) : count * dtype_bytes(stored->type);
        bench->weight_count += stored->slot == SLOT_EMBED || stored->slot == SLOT_HEAD ? 0 : (double)count;
    }
}

static bool open_model(struct bench *bench, const char *folder, const char *dtype, bool is_nf4, struct err *err)
{
    struct model_options open = {.backend = &backend_cpu,
                                 .pool = bench->pool,
                                 .is_random = !is_nf4,
                                 .is_nf4 = is_nf4,
                                 .row_tokens = STEP_TOKENS,
                                 .tokens_wanted = STEP_TOKENS,
                                 .positions = bench->prompt_tokens + bench->reply_tokens,
                                 .head_rows = SEQUENCES_MAX};

    if (open.positions < open.row_tokens)
        open.positions = open.row_tokens;
    return model_profile_choose(dtype, &open.profile, err) && model_open(&bench->model, folder, &open, err);
}

static bool run(struct bench *bench, const char *folder, const char *dtype, bool is_nf4, int64_t sequences,
                double seconds, struct err *err)
{
    static const int counts[] = {1, 2, 8, 32};

    bench->memory = mem_alloc_pages(READ_BYTES);
    memset(bench->memory, 1, READ_BYTES);
    if (!open_model(bench, folder, dtype, is_nf4, err))
        return false;
    bench->generator = generator_new(bench->model, STEP_TOKENS, STEP_TOKENS, 0);
    count_weights(bench);
    printf("%s%s, %.0f MB of weights a step, path %s, %d threads; prompts of %d tokens, replies of %d\n",
           model_profile_name(model_cache_type(bench->model) == DTYPE_BF16 ? PROFILE_BF16 : PROFILE_F32),
           is_nf4 ? ", linear layers in NF4" : "", (double)bench->weight_bytes * 1e-6, cpu_path_name(cpu_path_best()),
           pool_thread_count(bench->pool), bench->prompt_tokens, bench->reply_tokens);
    printf("%9s  %9s  %9s %9s %6s  %9s %6s\n", "sequences", "tokens/s", "GB/s", "read loop", "", "prompt/s", "peak");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (!sequences)
            measure(bench, counts[i], seconds);
    if (sequences)
        measure(bench, (int)sequences, seconds);
    return true;
}

int bench_decode(int argc, char **argv)
{
    int64_t threads = 0, prompt = 128, reply = 64, sequences = 0;
    double seconds = 3;
    const char *folder = NULL, *dtype = "auto";
    bool is_nf4 = false;
    struct bench bench = {0};
    struct err err = {0};
    const struct option list[] = {
        {"model", OPTION_TEXT, &folder, "DIR", "folder with the config.json of its shape; weights are random", NULL},
        {"dtype", OPTION_TEXT, &dtype, "TYPE", "auto, float32 or bfloat16 (default auto)", NULL},
        {"nf4", OPTION_FLAG, &is_nf4, NULL, "linear layers as codes of four bits, made of the folder's weights", NULL},
        {"prompt", OPTION_INT, &prompt, "N", "tokens of a prompt (default 128)", NULL},
        {"reply", OPTION_INT, &reply, "N", "tokens of a reply (default 64)", NULL},
        {"sequences", OPTION_INT, &sequences, "N", "at once, at most 32 (default: 1, 2, 8 and 32 after each other)",
         NULL},
        {"threads", OPTION_INT, &threads, "N", "threads to share the work (0: one per core)", NULL},
        {"seconds", OPTION_FLOAT, &seconds, "S", "time for each figure", NULL},
    };
    const struct options options = {
        .usage = "attune bench decode --model DIR [options]",
        .about = "Measures replies against memory's speed and prompts against the processor's peak.",
        .list = list,
        .count = sizeof list / sizeof *list};
    bool ok = options_parse(&options, argc - 1, argv + 1, NULL, NULL, &err);

    if (ok && (!folder || prompt < 1 || reply < 2 || sequences < 0 || sequences > SEQUENCES_MAX))
        ok = err_set(
            &err, ERR_INPUT,
            "--model is required, a prompt of at least 1, a reply of at least 2 tokens and at most 32 sequences");
    if (!ok) {
        fprintf(stderr, "attune bench decode: %s\n", err.text);
        return 2;
    }
    bench.prompt_tokens = (int32_t)prompt;
    bench.reply_tokens = (int32_t)reply;
    bench.pool = pool_new((int)threads);
    ok = run(&bench, folder, dtype, is_nf4, sequences, seconds, &err);
    generator_free(bench.generator);
    model_close(bench.model);
    pool_free(bench.pool);
    mem_free_pages(bench.memory, READ_BYTES);
    if (!ok)
        fprintf(stderr, "attune bench decode: %s\n", err.text);
    return ok ? 0 : 1;
}
