/* compute/cpu/cpu.h - the paths of the fast backend, for tests and benches; everybody else uses backend_cpu.
 *
 * The same operations are compiled for several instruction sets. backend_cpu takes the last one in this list that the
 * processor has; cpu_path names each by itself. */
#pragma once

#include "compute/backend.h"

enum cpu_path {
    CPU_PATH_PLAIN,
    CPU_PATH_AVX2,
    CPU_PATH_AVX512,
    CPU_PATH_AVX512BF16,
    CPU_PATH_AMX, /* AVX512BF16 with products in tile registers */
    CPU_PATH_COUNT
};

/* NULL where the processor, or this build, does not have the path. */
const struct backend *cpu_path(enum cpu_path path);
enum cpu_path cpu_path_best(void);
const char *cpu_path_name(enum cpu_path path); /* "plain", "avx2", … */

/* FLOP per second of processor time, of a burst of nothing but the path's multiply-add on all threads of the pool: what
 * products are measured against. BF16 is 0 where the path has no such instruction. */
double cpu_peak_flops(enum cpu_path path, enum dtype type, struct pool *pool);
