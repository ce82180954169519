/* compute/selftest/trial.h - the checks that the cases of a self-test are written in.
 *
 * A case makes operands, runs the oracle and the candidate, and compares. Whatever does not hold is noted under the
 * operation that trial_run ran last, and the case goes on: a wrong backend ends in a report. */
#pragma once

#include "compute/selftest/operands.h"
#include "compute/selftest/selftest.h"

enum { TRIAL_POOLS = 4 };

struct trial {
    struct operands operands;
    const struct backend *candidate;
    struct pool *pools[TRIAL_POOLS];
    struct queue queue; /* with the candidate's state; block and scratch lie in memory that it shares with the host */
    char *block, *scratch;
    struct selftest_result result[OP_COUNT];
    enum op op; /* that ran last */
};

#define TRIAL_CASES(X)                                                                                                 \
    X(embed) X(norm) X(norm_grad) X(rope) X(attend) X(cache) X(linear) X(fewer_rows) X(panels) X(adapters)             \
    X(quantized) X(rounded) X(eight) X(eight_grad) X(linear_grad_in) X(linear_grad_w) X(glu) X(gain) X(rows)           \
    X(route) X(gather) X(experts) X(loss) X(adamw)

#define TRIAL_DECLARE(name) void trial_##name(struct trial *t);
TRIAL_CASES(TRIAL_DECLARE)
#undef TRIAL_DECLARE

/* Runs an op of the candidate with every pool from the same bytes; all must leave the same bytes behind. */
void trial_run(struct trial *t, enum op op, const void *args);
/* The same op of the reference, once. */
void trial_oracle(enum op op, const void *args);

/* One roundoff of the type, relative. */
double trial_rounding(enum dtype type);
/* |got - want| <= bound·size + one rounding of the type of got, size from `sizes` or 1. One comparison, none if there
 * is no matrix. */
void trial_close(struct trial *t, const char *what, const struct mat *got, const struct mat *want,
                 const struct mat *sizes, double bound);
/* |got - want| <= allowed, for statistics beside the matrices: no comparison of its own. */
void trial_close_value(struct trial *t, const char *what, int32_t index, double got, double want, double allowed);
/* The first want->rows rows of both have the same bits: one comparison. */
void trial_same_rows(struct trial *t, const char *what, const struct mat *got, const struct mat *want);
/* The same of products. A device's library chooses by the shape of the whole: there sums of `depth`
 * terms agree to rounding. */
void trial_same_product(struct trial *t, const char *what, const struct mat *got, const struct mat *want,
                        int32_t depth);
/* Nothing behind the columns of the rows was written. */
void trial_gaps_whole(struct trial *t, const char *what, const struct mat *m);
/* Of a weight's gradient: F32, or BF16 where the candidate takes it. */
enum dtype trial_gradient_type(struct trial *t);
void trial_fail(struct trial *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
