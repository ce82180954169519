/* compute/cpu/path.h - how the paths, each compiled for its own instruction set, reach cpu.c. */
#pragma once

#include "compute/backend.h"

struct cpu_path_info {
    struct backend backend;
    double (*peak_block)(bool is_bf16, int64_t repeats); /* returns a number so that the loop stays */
    double peak_block_flops[2]; /* of one repeat: f32; bf16, 0 where there is no such product */
};

extern const struct cpu_path_info cpu_path_plain, cpu_path_avx2, cpu_path_avx512, cpu_path_avx512bf16, cpu_path_amx;
