/* infer/worker.h - answers requests for one base model and the adapters on it: the other end of "The
 * inference worker" in docs/formats.md.
 *
 * Lines in, lines out, nothing else: no network, no files but the model's. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct worker_options {
    const char *model, *adapter;  /* folders; adapter NULL: none of its own, then requests may name adapters */
    int64_t adapter_bytes;        /* of all adapters that requests name together; 0: 256 MiB */
    int64_t prefix_bytes;         /* of keys and values of requests that have ended (infer/kept.h); 0: none are kept */
    const char *device;           /* compute/device.h; or "ref": the reference on the processor */
    const char *dtype;            /* "auto", "float32", "bfloat16" */
    int threads;                  /* 0: one per core */
    int64_t context_length;       /* 0: the model's, at most 8192 */
    int64_t now;                  /* the clock of templates */
};

/* Runs until `in` ends and everything is answered. False with err when the model cannot be opened or `out` breaks. */
bool worker_run(const struct worker_options *options, int in, int out, struct err *err);
