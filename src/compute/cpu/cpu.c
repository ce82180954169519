#include "compute/cpu/cpu.h"

#include "compute/cpu/path.h"
#include "os/clock.h"
#include "os/tiles.h"

#if defined(__x86_64__)
static bool has_path(enum cpu_path path)
{
    switch (path) {
    case CPU_PATH_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CPU_PATH_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("fma");
    case CPU_PATH_AVX512BF16:
        return has_path(CPU_PATH_AVX512) && __builtin_cpu_supports("avx512bf16");
    case CPU_PATH_AMX:
        return has_path(CPU_PATH_AVX512BF16) && tiles_allow();
    default:
        return true;
    }
}

static const struct cpu_path_info *const paths[CPU_PATH_COUNT] = {
    [CPU_PATH_PLAIN] = &cpu_path_plain,
    [CPU_PATH_AVX2] = &cpu_path_avx2,
    [CPU_PATH_AVX512] = &cpu_path_avx512,
    [CPU_PATH_AVX512BF16] = &cpu_path_avx512bf16,
    [CPU_PATH_AMX] = &cpu_path_amx,
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

const char *cpu_path_name(enum cpu_path path)
{
    static const char *const names[CPU_PATH_COUNT] = {"plain", "avx2", "avx512", "avx512bf16", "amx"};

    return names[path];
}

enum { PEAK_TASKS = 32, PEAK_REPEATS = 10000 };

struct peak {
    const struct cpu_path_info *info;
    bool is_bf16;
    double results[PEAK_TASKS];
};

static void peak_task(void *context, int task, int thread)
{
    struct peak *peak = context;

    peak->results[task] = peak->info->peak_block(peak->is_bf16, PEAK_REPEATS);
}

double cpu_peak_flops(enum cpu_path path, enum dtype type, struct pool *pool)
{
    struct peak peak = {.info = paths[path], .is_bf16 = type == DTYPE_BF16};
    double begin = clock_monotonic();

    pool_run(pool, PEAK_TASKS, peak_task, &peak);
    return peak.info->peak_block_flops[peak.is_bf16] * PEAK_REPEATS * PEAK_TASKS / (clock_monotonic() - begin);
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

static size_t panel_bytes(const struct mat *w)
{
    return paths[cpu_path_best()]->backend.panel_bytes(w);
}

static void lay_out(struct queue *queue, const struct mat *w, void *to)
{
    paths[cpu_path_best()]->backend.lay_out(queue, w, to);
}

static size_t cache_bytes(const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim)
{
    return paths[cpu_path_best()]->backend.cache_bytes(cache, kv_heads, head_dim);
}

const struct backend backend_cpu = {
    .name = "cpu",
#define CPU_FIELD(op) .op = run_##op,
    OPS(CPU_FIELD)
#undef CPU_FIELD
    .can = can,
    .scratch_bytes = scratch_bytes,
    .panel_bytes = panel_bytes,
    .lay_out = lay_out,
    .cache_bytes = cache_bytes,
};
