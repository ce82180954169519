/* attune bench - how fast this machine is at what training needs, as a share of what it could be.
 *
 * Absolute figures move with neighbours and clocks; so each product alternates with a loop of nothing but its
 * multiply-add on the same threads, and the best of both are compared. */
#include "base/arena.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "compute/cpu/cpu.h"
#include "compute/nf4.h"
#include "os/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Products of a 135M model (576 wide, 30 layers) and one of a 1B. */
static const struct shape {
    const char *name;
    int32_t T, N, K; /* T 0: as many tokens as asked for */
    int in_step; /* how often a training step of the 135M model has it */
} shapes[] = {
    {"q, k, v", 0, 960, 576, 30},
    {"attention out", 0, 576, 576, 30},
    {"gate, up", 0, 3072, 576, 30},
    {"down", 0, 576, 1536, 30},
    {"head", 0, 49152, 576, 1},
    {"square", 0, 2048, 2048, 0},
    {"one token, gate, up", 1, 3072, 576, 0},
    {"one token, head", 1, 49152, 576, 0},
};

enum { RUNS_MIN = 5 };

struct bench {
    struct queue queue;
    enum cpu_path path;
    enum dtype type;
    bool is_nf4;                            /* frozen weights as codes of four bits */
    int32_t tokens;
    double seconds;                         /* per measurement */
    double step_seconds, step_peak_seconds; /* all products of a 135M step: as measured, and at the loop's speed */
    struct arena arena;                     /* one shape's operands */
};

static struct mat make(struct bench *bench, int32_t rows, int32_t cols, enum dtype type)
{
    struct mat m = {NULL, rows, cols, cols + 32, type};
    size_t count = (size_t)rows * (size_t)m.ld;
    uint32_t random = 1;

    m.at = arena_alloc(&bench->arena, count * dtype_bytes(type) + 64);
    m.at = (char *)m.at + (64 - (uintptr_t)m.at % 64);
    for (size_t i = 0; i < count; i++) { /* values of 0.5 to 2, either sign */
        random = random * 1664525 + 1013904223;
        if (type == DTYPE_F32)
            ((uint32_t *)m.at)[i] = 0x3f000000 + (random >> 9) * 2 + (random & 0x80000000);
        else
            ((uint16_t *)m.at)[i] = (uint16_t)((0x3f000000 + (random >> 9) * 2 + (random & 0x80000000)) >> 16);
    }
    return m;
}

/* Any bytes are codes; all blocks have the absmax 1. */
static struct weight make_weight(struct bench *bench, const struct shape *shape)
{
    struct weight weight = {.w = make(bench, shape->N, shape->K, bench->type)};
    int64_t count = (int64_t)shape->N * shape->K, blocks = nf4_blocks(count, NF4_BLOCK);
    struct nf4 *tensor = arena_new(&bench->arena, struct nf4);
    int32_t *row_end = arena_new(&bench->arena, int32_t);
    float *absmax;

    if (!bench->is_nf4)
        return weight;
    absmax = arena_new_array(&bench->arena, float, (size_t)blocks);
    for (int64_t i = 0; i < blocks; i++)
        absmax[i] = 1;
    *row_end = shape->N;
    *tensor = (struct nf4){.codes = weight.w.at, .absmax = absmax, .count = count};
    weight.quant = (struct quant){tensor, row_end, 1};
    weight.w.at = NULL;
    return weight;
}

static void run_op(struct bench *bench, enum op op, const void *args)
{
    const struct backend *backend = cpu_path(bench->path);

    if (op == OP_linear)
        backend->linear(&bench->queue, args);
    else if (op == OP_linear_grad_in)
        backend->linear_grad_in(&bench->queue, args);
    else
        backend->linear_grad_w(&bench->queue, args);
}

/* FLOP per second of an op on all threads, and of the loop in turn with it: the best of each. */
static double measure(struct bench *bench, enum op op, const void *args, double flops, double *loop)
{
    double begin = clock_monotonic(), best = 0;

    bench->queue.scratch_bytes = cpu_path(bench->path)->scratch_bytes(op, args, pool_thread_count(bench->queue.pool));
    bench->queue.scratch = aligned_alloc(64, (bench->queue.scratch_bytes + 63) / 64 * 64);
    if (!bench->queue.scratch)
        die("out of memory for %zu bytes of scratch", bench->queue.scratch_bytes);
    run_op(bench, op, args);
    *loop = 0;
    for (int run = 0; run < RUNS_MIN || clock_monotonic() - begin < bench->seconds; run++) {
        double start, rate, peak = cpu_peak_flops(bench->path, bench->type, bench->queue.pool);
        start = clock_monotonic();
        run_op(bench, op, args);
        rate = flops / (clock_monotonic() - start);
        best = rate > best ? rate : best;
        *loop = peak > *loop ? peak : *loop;
    }
    free(bench->queue.scratch);
    return best;
}

static void measure_shape(struct bench *bench, const struct shape *shape)
{
    int32_t T = shape->T ? shape->T : bench->tokens;
    double flops = 2.0 * T * shape->N * shape->K, loop[3], rate[3];
    struct weight weight = make_weight(bench, shape);
    struct mat x = make(bench, T, shape->K, bench->type), y = make(bench, T, shape->N, bench->type);
    struct mat dw = make(bench, shape->N, shape->K, DTYPE_F32);
    struct op_linear forward = {.x = x, .y = y, .w = &weight};
    struct op_linear_grad_in backward = {.dy = y, .dx = x, .w = &weight};
    struct weight trained = {.w = dw};
    struct op_linear_grad_w gradient = {.x = x, .dy = y, .w = &trained, .dw = dw};

    rate[0] = measure(bench, OP_linear, &forward, flops, &loop[0]);
    rate[1] = measure(bench, OP_linear_grad_in, &backward, flops, &loop[1]);
    rate[2] = measure(bench, OP_linear_grad_w, &gradient, flops, &loop[2]);
    printf("%-20s %5d x %5d x %4d  %7.1f %3.0f%%  %7.1f %3.0f%%  %7.1f %3.0f%%  %7.1f\n", shape->name, T,
           shape->N, shape->K, rate[0] * 1e-9, 100 * rate[0] / loop[0], rate[1] * 1e-9, 100 * rate[1] / loop[1],
           rate[2] * 1e-9, 100 * rate[2] / loop[2], loop[0] * 1e-9);
    fflush(stdout);
    for (int i = 0; i < 3; i++) {
        bench->step_seconds += shape->in_step * flops / rate[i];
        bench->step_peak_seconds += shape->in_step * flops / loop[i];
    }
    arena_reset(&bench->arena);
}

static int bench_products(struct bench *bench)
{
    printf("%s products%s, path %s, %d threads; GFLOP per second of all threads and share of the loop\n",
           dtype_name(bench->type), bench->is_nf4 ? " with weights in NF4" : "", cpu_path_name(bench->path),
           pool_thread_count(bench->queue.pool));
    printf("%-20s %-20s  %-12s  %-12s  %-12s  %s\n", "", "tokens x out x in", "forward", "gradient in", "gradient w",
           "loop");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        measure_shape(bench, &shapes[i]);
    printf("all products of a full step of the 135M model: %.0f%% of the loop\n",
           100 * bench->step_peak_seconds / bench->step_seconds);
    return 0;
}

static int products(int argc, char **argv)
{
    int64_t threads = 2, tokens = 1024;
    double seconds = 1;
    bool is_f32 = false, is_nf4 = false;
    const char *what = NULL;
    int count = 0;
    struct bench bench = {.path = cpu_path_best(), .type = DTYPE_BF16};
    struct err err = {0};
    const struct option list[] = {
        {"threads", OPTION_INT, &threads, "N", "threads to share the work (0: one per core)", NULL},
        {"tokens", OPTION_INT, &tokens, "N", "rows of the products", NULL},
        {"seconds", OPTION_FLOAT, &seconds, "S", "time for each figure", NULL},
        {"f32", OPTION_FLAG, &is_f32, NULL, "products of f32 instead of bf16", NULL},
        {"nf4", OPTION_FLAG, &is_nf4, NULL, "frozen weights as codes of four bits", NULL},
    };
    const struct options options = {
        .usage = "attune bench products [options]",
        .about = "Measures products of matrices against the processor's peak.",
        .list = list,
        .count = sizeof list / sizeof *list,
        .positional_min = 1,
        .positional_max = 1,
    };

    if (!options_parse(&options, argc, argv, &what, &count, &err)) {
        fprintf(stderr, "attune bench: %s\n", err.text);
        return 2;
    }
    if (is_f32 || bench.path < CPU_PATH_AVX512BF16)
        bench.type = DTYPE_F32;
    bench.is_nf4 = is_nf4;
    bench.seconds = seconds;
    bench.tokens = (int32_t)(tokens < 1 ? 1 : tokens < 1 << 20 ? tokens : 1 << 20);
    bench.queue.pool = pool_new((int)threads);
    bench_products(&bench);
    pool_free(bench.queue.pool);
    arena_deinit(&bench.arena);
    return 0;
}

int cli_bench(int argc, char **argv)
{
    static const struct {
        const char *name, *summary;
        int (*run)(int argc, char **argv);
    } benches[] = {{"products", "products of matrices against the processor's peak", products},
                   {"step", "where the time of a training step goes", bench_step},
                   {"decode", "replies against the memory's speed, prompts against the processor's peak", bench_decode},
                   {"tokenize", "texts to tokens, on one thread", bench_tokenize},
                   {"prepare", "a training file to packed rows: template, tokens, mask", bench_prepare}};
    const bool is_help = argc > 1 && strcmp(argv[1], "--help") == 0;
    FILE *out = is_help ? stdout : stderr;

    for (size_t i = 0; argc > 1 && i < sizeof benches / sizeof *benches; i++)
        if (strcmp(argv[1], benches[i].name) == 0)
            return benches[i].run(argc, argv);
    fprintf(out, "usage: attune bench NAME [options]\n\n");
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
        fprintf(out, "  %-10s %s\n", benches[i].name, benches[i].summary);
    fprintf(out, "\n'attune bench NAME --help' tells a bench's options.\n");
    return is_help ? 0 : 2;
}
