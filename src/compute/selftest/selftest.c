#include "compute/selftest/trial.h"

#include <stdio.h>

enum { SCRATCH_BYTES = 64 << 20 };

static const int pool_sizes[TRIAL_POOLS] = {1, 2, 3, 7};

void trial_fail(struct trial *t, const char *format, ...)
{
    struct selftest_result *result = &t->result[t->op];
    va_list args;

    if (result->failure_count++ > 0)
        return;
    va_start(args, format);
    vsnprintf(result->failure, sizeof result->failure, format, args);
    va_end(args);
}

static void run_op(const struct backend *backend, enum op op, struct queue *queue, const void *args)
{
    switch (op) {
#define RUN_CASE(name)                                                                                                 \
    case OP_##name:                                                                                                    \
        backend->name(queue, args);                                                                                    \
        break;
        OPS(RUN_CASE)
#undef RUN_CASE
    case OP_COUNT:
        break;
    }
}

void trial_run(struct trial *t, enum op op, const void *args)
{
    struct operands *o = &t->operands;
    char *before = arena_copy(&o->wide, o->block, o->used_bytes), *first = arena_alloc(&o->wide, o->used_bytes + 1);
    struct err err = {0};

    t->op = op;
    if (!t->candidate->can(op, args, &err)) {
        trial_fail(t, "refused: %s", err.text);
        return;
    }
    for (int i = 0; i < TRIAL_POOLS; i++) {
        struct queue queue = t->queue;
        queue.pool = t->pools[i];
        queue.scratch = t->scratch;
        queue.scratch_bytes = t->candidate->scratch_bytes(op, args, pool_sizes[i]);
        if (queue.scratch_bytes > SCRATCH_BYTES) {
            trial_fail(t, "%d threads want %zu bytes of scratch", pool_sizes[i], queue.scratch_bytes);
            return;
        }
        memset(t->scratch, 0xff, queue.scratch_bytes);
        memcpy(o->block, before, o->used_bytes);
        run_op(t->candidate, op, &queue, args);
        if (t->candidate->memory)
            t->candidate->memory->wait(&queue);
        if (i == 0)
            memcpy(first, o->block, o->used_bytes);
        else if (memcmp(first, o->block, o->used_bytes) != 0)
            trial_fail(t, "%d threads and 1 thread give different bits", pool_sizes[i]);
    }
}

void trial_oracle(enum op op, const void *args)
{
    struct queue queue = {0};

    run_op(&backend_ref, op, &queue, args);
}

double trial_rounding(enum dtype type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-23;
}

/* The share of what is allowed that a difference takes: a NaN takes more than any. */
static double share(double got, double want, double allowed)
{
    double difference = fabs(got - want);

    if (difference == 0)
        return 0;
    return difference <= allowed || difference > allowed ? difference / allowed : INFINITY;
}

static bool is_within(struct trial *t, double got, double want, double allowed)
{
    double part = share(got, want, allowed);

    if (part > t->result[t->op].worst)
        t->result[t->op].worst = part;
    return part <= 1;
}

void trial_close(struct trial *t, const char *what, const struct mat *got, const struct mat *want,
                 const struct mat *sizes, double bound)
{
    for (int32_t i = 0; got->at && i < got->rows; i++)
        for (int32_t j = 0; j < got->cols; j++) {
            double a = get(got, i, j), b = get(want, i, j), size = sizes ? get(sizes, i, j) : 1;
            if (!is_within(t, a, b, bound * size + trial_rounding(got->type) * fabs(b) + 1e-37))
                trial_fail(t, "%s [%d, %d] of [%d, %d] %s: %.9g, reference %.9g, difference %.3g", what, i, j,
                           got->rows, got->cols, dtype_name(got->type), a, b, a - b);
        }
    t->result[t->op].comparison_count += got->at != NULL;
}

void trial_close_value(struct trial *t, const char *what, int32_t index, double got, double want, double allowed)
{
    if (!is_within(t, got, want, allowed))
        trial_fail(t, "%s[%d]: %.9g, reference %.9g, difference %.3g", what, index, got, want, got - want);
}

void trial_same_rows(struct trial *t, const char *what, const struct mat *got, const struct mat *want)
{
    for (int32_t i = 0; i < want->rows; i++)
        if (memcmp(mat_row(got, i), mat_row(want, i), (size_t)want->cols * dtype_bytes(want->type)) != 0)
            trial_fail(t, "%s: row %d of %d has other bits", what, i, want->rows);
    t->result[t->op].comparison_count++;
}

void trial_same_product(struct trial *t, const char *what, const struct mat *got, const struct mat *want, int32_t depth)
{
    struct mat rows = *got;

    rows.rows = want->rows;
    if (t->candidate->memory)
        trial_close(t, what, &rows, want, NULL, (2 * trial_rounding(want->type) + 1e-6) * depth);
    else
        trial_same_rows(t, what, got, want);
}

void trial_gaps_whole(struct trial *t, const char *what, const struct mat *m)
{
    size_t size = dtype_bytes(m->type);

    for (int32_t i = 0; m->at && i + 1 < m->rows; i++)
        for (size_t byte = (size_t)m->cols * size; byte < (size_t)m->ld * size; byte++)
            if (((unsigned char *)mat_row(m, i))[byte] != OPERANDS_GAP) {
                trial_fail(t, "%s: the gap behind row %d was written", what, i);
                break;
            }
}

static const struct {
    const char *name;
    void (*run)(struct trial *t);
} cases[] = {
#define CASE_ROW(name) {#name, trial_##name},
    TRIAL_CASES(CASE_ROW)
#undef CASE_ROW
};
enum { CASE_COUNT = sizeof cases / sizeof cases[0] };

const char *selftest_trial(int index)
{
    return index < CASE_COUNT ? cases[index].name : NULL;
}

static char *take(struct trial *t, size_t bytes)
{
    return t->candidate->memory ? t->candidate->memory->take_shared(&t->queue, bytes) : mem_alloc_pages(bytes);
}

static void give(struct trial *t, char *at, size_t bytes)
{
    if (t->candidate->memory)
        t->candidate->memory->give(&t->queue, at);
    else
        mem_free_pages(at, bytes);
}

static bool trial_begin(struct trial *t, const struct backend *candidate, const struct selftest_options *options,
                        struct err *err)
{
    *t = (struct trial){.candidate = candidate, .queue = {.device = options->device}};
    if (candidate->memory && !candidate->memory->open(&t->queue, err))
        return false;
    t->block = take(t, OPERANDS_BYTES);
    t->scratch = take(t, SCRATCH_BYTES);
    if (!t->block || !t->scratch) {
        give(t, t->block, OPERANDS_BYTES);
        give(t, t->scratch, SCRATCH_BYTES);
        if (candidate->memory)
            candidate->memory->close(&t->queue);
        return err_set(err, ERR_NO_SPACE, "the device has no memory that it shares with the host");
    }
    operands_open(&t->operands, t->block, options->seed);
    for (int i = 0; i < TRIAL_POOLS; i++)
        t->pools[i] = pool_new(pool_sizes[i]);
    for (int op = 0; op < OP_COUNT; op++)
        t->result[op].op = (enum op)op;
    return true;
}

static void trial_end(struct trial *t)
{
    for (int i = 0; i < TRIAL_POOLS; i++)
        pool_free(t->pools[i]);
    operands_close(&t->operands);
    give(t, t->block, OPERANDS_BYTES);
    give(t, t->scratch, SCRATCH_BYTES);
    if (t->candidate->memory)
        t->candidate->memory->close(&t->queue);
}

int selftest_run(const struct backend *candidate, const struct selftest_options *options,
                 void (*report)(void *context, const struct selftest_result *result), void *context, struct err *err)
{
    struct trial trial;
    int failed_count = 0;

    if (!trial_begin(&trial, candidate, options, err))
        return -1;
    for (int round = 0; round < options->rounds; round++)
        for (int i = 0; i < CASE_COUNT; i++) {
            if (options->only && strcmp(options->only, cases[i].name) != 0)
                continue;
            operands_reset(&trial.operands);
            cases[i].run(&trial);
        }
    for (int op = 0; op < OP_COUNT; op++) {
        if (options->only && !trial.result[op].comparison_count && !trial.result[op].failure_count)
            continue;
        failed_count += trial.result[op].failure_count > 0;
        report(context, &trial.result[op]);
    }
    trial_end(&trial);
    return failed_count;
}
