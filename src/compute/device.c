#include "compute/device.h"
#include "compute/layout.h"

#include "os/process.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEVICES_MAX = 64, PATH_BYTES = 4096 };

static const char library_name[] = "libattune_cuda.so";

/* Beside the program, else by the system's rules. */
static void *open_library(void)
{
    char path[PATH_BYTES];
    void *library = NULL;
    char *slash;

    if (process_self_path(path, sizeof path - sizeof library_name, NULL) && (slash = strrchr(path, '/'))) {
        strcpy(slash + 1, library_name);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return library ? library : dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
}

bool device_module_check(const struct cuda_module *module, struct err *err)
{
    if (module && module->module_bytes == sizeof *module && strcmp(module->layout, ATTUNE_LAYOUT) == 0 &&
        strcmp(module->version, ATTUNE_VERSION) == 0)
        return true;
    return err_set(err, ERR_CONFLICT, "%s belongs to another build of attune: build it again with make cuda",
                   library_name);
}

static const struct cuda_module *open_module(struct err *err)
{
    const struct cuda_module *(*find)(void) = NULL, *module;
    void *library = open_library();

    if (!library) {
        err_set(err, ERR_NOT_FOUND, "there is no %s beside the program: make cuda builds it (%s)", library_name,
                dlerror());
        return NULL;
    }
    *(void **)(void *)&find = dlsym(library, CUDA_MODULE_SYMBOL);
    module = find ? find() : NULL;
    return device_module_check(module, err) ? module : NULL;
}

/* The number behind "cuda:", 0 behind "cuda", -1 for other names. */
static int cuda_index(const char *name)
{
    char *end = NULL;
    long index;

    if (strcmp(name, "cuda") == 0)
        return 0;
    if (strncmp(name, "cuda:", 5) != 0 || name[5] < '0' || name[5] > '9')
        return -1;
    index = strtol(name + 5, &end, 10);
    return *end || index >= DEVICES_MAX ? -1 : (int)index;
}

bool device_name_is_valid(const char *name)
{
    return strcmp(name, "cpu") == 0 || cuda_index(name) >= 0;
}

/* NULL for the processor, which has no library, and for names that are none: *index is then -1. */
static const struct cuda_module *module_of(const char *name, int *index, bool *is_cpu, struct err *err)
{
    *is_cpu = strcmp(name, "cpu") == 0;
    *index = *is_cpu ? 0 : cuda_index(name);
    if (*is_cpu)
        return NULL;
    if (*index < 0) {
        err_set(err, ERR_INPUT, "device '%s' is not cpu, cuda or cuda:N", name);
        return NULL;
    }
    return open_module(err);
}

const struct backend *device_backend(const char *name, int *index, struct err *err)
{
    bool is_cpu;
    const struct cuda_module *module = module_of(name, index, &is_cpu, err);

    return is_cpu ? &backend_cpu : module ? module->backend : NULL;
}

const struct backend *device_find(const char *name, int *index, struct err *err)
{
    bool is_cpu;
    const struct cuda_module *module = module_of(name, index, &is_cpu, err);
    int count;

    if (is_cpu)
        return &backend_cpu;
    if (*index < 0)
        return NULL;
    count = module ? module->device_count(err) : 0;
    if (!count) {
        err_prefix(err, "device %s", name);
        return NULL;
    }
    if (*index >= count) {
        err_set(err, ERR_NOT_FOUND, "device %s: there are %d GPUs, cuda:0 to cuda:%d", name, count, count - 1);
        return NULL;
    }
    return module->backend;
}

const struct aside *device_aside(const struct backend *backend)
{
    const struct cuda_module *module = backend->memory ? open_module(NULL) : NULL;

    return module && module->backend == backend ? module->aside : NULL;
}

const struct graphs *device_graphs(const struct backend *backend)
{
    const struct cuda_module *module = backend->memory ? open_module(NULL) : NULL;

    return module && module->backend == backend ? module->graphs : NULL;
}

bool device_wants_graphs(void)
{
    const char *wish = getenv("ATTUNE_CUDA_GRAPHS");

    return wish && strcmp(wish, "0") != 0;
}

int device_count(struct err *err)
{
    const struct cuda_module *module = open_module(err);

    return module ? module->device_count(err) : 0;
}

bool device_describe(int index, struct device_info *info, struct err *err)
{
    const struct cuda_module *module = open_module(err);

    return module && module->device_info(index, info, err);
}
