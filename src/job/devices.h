/* job/devices.h - which GPUs there are for jobs and chats.
 *
 * The server opens no driver: it asks a child, "PROGRAM devices --json", at its start and when somebody wants to know
 * (`attune devices`, src/cli/devices.c). How many there are is settled at the start; what else is known may be asked
 * again. */
#pragma once

#include "base/err.h"
#include "base/json.h"

enum { DEVICES_MAX = 64, DEVICE_NAME_BYTES = 16 };

struct job_device {
    char name[DEVICE_NAME_BYTES]; /* "cuda:0" */
    char title[128];              /* as its maker calls it */
    char capability[16];          /* "9.0" */
    int64_t memory_bytes, free_bytes;
};

struct job_devices {
    int count;
    struct job_device gpu[DEVICES_MAX];
    char driver[64];        /* its version; "": not known */
    char why_none[512]; /* "": there are some */
};

/* "cpu", "cuda" or "cuda:N". */
bool device_name_is_text(struct str name);
/* Runs the child and waits up to ten seconds. A child that fails is a machine without GPUs, and why_none says so. */
void devices_probe(const char *program, struct job_devices *devices);
/* Leaves what an operator's list names ("cpu,cuda:1"; "cuda" is every GPU; NULL: all). *has_cpu: jobs may run on the
 * processor. ERR_INPUT for anything else in the list, ERR_NOT_FOUND for a GPU that is named and not there. */
bool devices_choose(struct job_devices *devices, const char *list, bool *has_cpu, struct err *err);
/* NULL: there is none of that name. */
struct job_device *devices_find(struct job_devices *devices, const char *name);
