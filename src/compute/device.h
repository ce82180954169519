/* compute/device.h - which devices there are to compute on.
 *
 * The processor is always there. GPUs come with libattune_cuda.so, which is looked for beside the program, then where
 * the system looks for libraries. It is opened when somebody asks; a program without it runs on the processor alone. */
#pragma once

#include "compute/cuda/module.h"

/* The backend of "cpu", "cuda" (the first GPU) or "cuda:N", and which of its devices. NULL: there is none by that name,
 * and err says why. */
const struct backend *device_find(const char *name, int *index, struct err *err);
/* The same to plan with: whether such a device is there is not asked, and no driver is opened. */
const struct backend *device_backend(const char *name, int *index, struct err *err);
/* Whether a name is one of these, without looking for the device. */
bool device_name_is_valid(const char *name);

/* Whether a library that shows this (NULL: it shows nothing) was built from the same structs as the program. */
bool device_module_check(const struct cuda_module *module, struct err *err);

/* GPUs; 0 with the reason in err. */
int device_count(struct err *err);
bool device_describe(int index, struct device_info *info, struct err *err);
