/* compute/mark/mark.h - the backend that looks at the clock before and after every operation.
 *
 * Model code queued on backend_mark runs on backend_cpu, and its seconds add up by operation and by the shape of the
 * weight, if it has one, beside what the counting backend says that it costs. What a step takes beyond the sum of its
 * marks is the host's. */
#pragma once

#include "compute/backend.h"

enum { MARKS_MAX = 128 };

struct mark {
    enum op op;
    int32_t rows, cols;   /* of the weight of a product; 0: no product */
    int64_t calls;
    double seconds, flops, bytes;
};

struct marks {
    double (*clock)(void);       /* in seconds; set by the caller */
    struct mark mark[MARKS_MAX]; /* in the order in which they first came */
    int count;
};

extern const struct backend backend_mark; /* queue->state is the struct marks; NULL: nothing is kept */
