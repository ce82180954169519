/* compute/cuda/module.h - what libattune_cuda.so shows to the program that opens it. */
#pragma once

#include "compute/aside.h"
#include "compute/graphs.h"

struct device_info {
    char name[128];
    uint64_t bytes, free_bytes;
    int major, minor; /* compute capability */
};

/* The size says whether the rest can be read at all. `layout` stands for the text of the headers that both
 * sides take their structs from (tools/layout.sh): a library that was built before one of them changed is
 * refused, whatever the version says. */
struct cuda_module {
    size_t module_bytes;
    const char *layout;  /* ATTUNE_LAYOUT */
    const char *version; /* of attune */
    const struct backend *backend;
    const struct aside *aside;
    const struct graphs *graphs;
    int (*device_count)(struct err *err); /* 0: none, or no driver; the reason in err */
    bool (*device_info)(int device, struct device_info *info, struct err *err);
};

/* The one symbol: const struct cuda_module *attune_cuda_module(void). */
#define CUDA_MODULE_SYMBOL "attune_cuda_module"
