/* compute/selftest/selftest.h - a backend against the reference, op by op, on random operands.
 *
 * Each round draws shapes, types, gaps, adapters and documents for every operation, runs the candidate on them and
 * compares what it wrote with the reference on F64 copies of the same values. A result is held to a bound that follows
 * from its sums and roundings; the share of the bound that the worst element used says how close it came. Beside the
 * numbers, each run must leave the same bytes with 1, 2, 3 and 7 threads, write all of its output (which starts as
 * NaN) and nothing between the rows; a product and attention must not depend on how many rows come at once.
 *
 * A candidate with a memory of its own gets operands in memory that it shares with the host. The same seed draws the
 * same operands in every run of a build. */
#pragma once

#include "compute/backend.h"

struct selftest_options {
    uint64_t seed;
    int rounds;              /* each has every operation once or more; at least 1 */
    int device;              /* of a backend with several */
    const char *only;        /* one of selftest_trial; NULL: all of them */
};

/* Names of the trials, in order, each of one operation or a few; NULL behind the last. */
const char *selftest_trial(int index);

struct selftest_result {
    enum op op;
    int comparison_count;    /* of whole results: matrices, mostly */
    int failure_count;       /* checks that did not hold */
    double worst;            /* largest |difference| / bound of an element: above 1 is a failure; infinite for a NaN */
    char failure[256];       /* the first one, with both values; "" for none */
};

/* Calls `report` once for every operation (with `only` for those that were tried), in the order of the table,
 * when all rounds are done; then returns how many operations failed; -1 with err (which may be NULL) when the
 * candidate's device cannot be opened. */
int selftest_run(const struct backend *candidate, const struct selftest_options *options,
                 void (*report)(void *context, const struct selftest_result *result), void *context, struct err *err);
