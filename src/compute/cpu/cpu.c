#include "compute/cpu/cpu.h"

#include "compute/cpu/path.h"
#include "os/clock.h"

#if defined(__x86_64__)
static bool has_path(enum cpu_path path)
{
    switch (path) {
    case CPU_PATH_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CPU_PATH_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
    case CPU_PATH_AVX512BF16:
        return has_path(CPU_PATH_AVX512) && __builtin_cpu_supports("avx512bf16");
    default:
        return true;
    }
}

static const struct cpu_path_info *const paths[CPU_PATH_COUNT] = {
    [CPU_PATH_PLAIN] = &cpu_path_plain,
    [CPU_PATH_AVX2] = &cpu_path_avx2,
    [CPU_PATH_AVX512] = &cpu_path_avx512,
    [CPU_PATH_AVX512BF16] = &cpu_path_avx512bf16,
};
#else
static bool has_path(enum cpu_path path)
{
    return path == CPU_PATH_PLAIN;
}

static const struct cpu_path_info *const paths[CPU_PATH_COUNT] = {[CPU_PATH_PLAIN] = &cpu_path_plain};
#endif

const struct backend *cpu_path(enum cpu_path path)
{
    return has_path(path) ? &paths[path]->backend : NULL;
}

enum cpu_path cpu_path_best(void)
{
    enum cpu_path path = CPU_PATH_COUNT - 1;

    while (!has_path(path))
        path--;
    return path;
}

double cpu_peak_flops(enum cpu_path path, enum dtype type, double seconds)
{
    const struct cpu_path_info *info = paths[path];
    enum { REPEATS = 20000 };
    double best = 0, block_flops = info->peak_block_flops[type == DTYPE_BF16] * REPEATS;
    double begin = clock_monotonic(), now = begin;

    while (block_flops > 0 && now - begin < seconds) {
        double start = now;
        volatile double kept = info->peak_block(type == DTYPE_BF16, REPEATS);
        (void)kept;
        now = clock_monotonic();
        if (block_flops > best * (now - start))
            best = block_flops / (now - start);
    }
    return best;
}

#define CPU_FORWARD(op)                                                                                                \
    static void run_##op(struct queue *queue, const struct op_##op *args)                                              \
    {                                                                                                                  \
        paths[cpu_path_best()]->backend.op(queue, args);                                                               \
    }
OPS(CPU_FORWARD)
#undef CPU_FORWARD

static bool can(enum op op, const void *args, struct err *err)
{
    return paths[cpu_path_best()]->backend.can(op, args, err);
}

static size_t scratch_bytes(enum op op, const void *args, int thread_count)
{
    return paths[cpu_path_best()]->backend.scratch_bytes(op, args, thread_count);
}

const struct backend backend_cpu = {
    .name = "cpu",
#define CPU_FIELD(op) .op = run_##op,
    OPS(CPU_FIELD)
#undef CPU_FIELD
    .can = can,
    .scratch_bytes = scratch_bytes,
};
