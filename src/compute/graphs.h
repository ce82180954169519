/* compute/graphs.h - work that a device is asked for again and again, launched at once.
 *
 * A step of a small model is thousands of short kernels, and launching them one by one can take the host longer than
 * the device takes to run them. A device with graphs records what a piece of work launches when it comes for the second
 * time, and from then on launches the record: the same kernels with the same arguments in the same order, so the same
 * bits. The first time everything is launched one by one, which loads the kernels and settles how products are made.
 * Work that never comes again is never recorded. A queue keeps GRAPHS_MAX records; the one that was not asked for
 * longest goes.
 *
 * The caller promises that all that decides about the launches is in the key: shapes, addresses, flags. What changes
 * from one time to the next lies where the kernels read it. Only operations and `zero` are recorded: work that does
 * anything else with its queue (a transfer, a wait, memory) is launched up to there and goes on one by one, that time
 * and ever after. */
#pragma once

#include "compute/backend.h"

enum { GRAPHS_MAX = 16 };

struct graph_key {
    int32_t number[4]; /* what they mean is the caller's */
};

struct graph_counts {
    int64_t plain;    /* pieces of work that were launched one by one, */
    int64_t recorded; /* launched as the record that was just made, */
    int64_t replayed; /* launched as one that was there */
    int64_t broken;   /* whose record ended before they did */
    int kept;         /* records there are */
};

struct graphs {
    /* Queues what `work` queues, which may be called twice, or not at all. */
    void (*run)(struct queue *queue, const struct graph_key *key, void (*work)(void *context), void *context);
    struct graph_counts (*counts)(const struct queue *queue);
};

/* Of a device's backend; NULL: it has none, as the processor's. */
const struct graphs *device_graphs(const struct backend *backend);
/* Whether people ask for them: ATTUNE_CUDA_GRAPHS is set, and not 0. */
bool device_wants_graphs(void);
