/* compute/count/count.h - the backend that computes nothing and adds up what a run would cost.
 *
 * Model code queued on backend_count, with shapes but no memory behind them, yields the floating point operations, the
 * bytes that must move at least, and the scratch that the backend it stands for needs. The first operation that that
 * backend cannot do stays in `err`: so the plan asks everything before the first step. Operands marked optional count
 * when their address is not NULL; a batch's arrays may be absent, then attention counts one document of T tokens. */
#pragma once

#include "compute/backend.h"

struct count {
    const struct backend *of;        /* whose scratch and `can` are asked; set by the caller */
    int thread_count;                /* set by the caller */
    uint64_t calls[OP_COUNT];
    double flops[OP_COUNT];
    double bytes[OP_COUNT];          /* every operand once */
    size_t scratch_bytes;            /* the largest of any op */
    bool is_refused;
    struct err err;                  /* why, of the first refused op */
};

extern const struct backend backend_count; /* queue->state is the struct count; pool and scratch are not used */

double count_flops(const struct count *count); /* of all ops */

/* What one operation costs at least. */
struct op_cost {
    double flops, bytes;
};
struct op_cost count_op_cost(enum op op, const void *args);
