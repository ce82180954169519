/* The optimizer's two operations on flat arenas. */
#include "compute/cpu/cpu_int.h"
#include "compute/stochastic.h"

enum { SUMSQ_BLOCK = 65536, ADAMW_BLOCK = 16384 };
_Static_assert(ADAMW_BLOCK % STOCHASTIC_STRETCH == 0 && STOCHASTIC_CALLS % LANES == 0, "a task has whole stretches, a stretch whole vectors");

typedef double lanes_d __attribute__((vector_size(8 * LANES)));
typedef uint64_t lanes_q __attribute__((vector_size(8 * LANES)));

static void sumsq_task(void *context, int task, int thread)
{
    const struct op_sumsq *op = context;
    uint64_t first = (uint64_t)task * SUMSQ_BLOCK, left = op->count - first;
    int32_t count = left < SUMSQ_BLOCK ? (int32_t)left : SUMSQ_BLOCK;
    struct row x = row_at((void *)(uintptr_t)op->x, op->type, first);
    lanes_d sum = {0};
    double total = 0;

    for (int32_t j = 0; j < count; j += LANES) {
        lanes_d value = __builtin_convertvector(row_load(x, j, count), lanes_d);
        sum += value * value;
    }
    for (int i = 0; i < LANES; i++)
        total += sum[i];
    op->partial[task] = total;
}

void CPU(sumsq)(struct queue *queue, const struct op_sumsq *op)
{
    int blocks = (int)((op->count + SUMSQ_BLOCK - 1) / SUMSQ_BLOCK);
    double sum = op->is_added ? *op->sum : 0;

    pool_run(queue->pool, blocks, sumsq_task, (void *)op);
    for (int i = 0; i < blocks; i++)
        sum += op->partial[i];
    *op->sum = sum;
}

/* What all elements of a step share. */
struct step {
    const struct op_adamw *op;
    float clip, keep, rate, root_correction;
};

/* A task's part of the arenas. */
struct state {
    struct row master, m, v, grad, copy;
    int32_t count;
};

INLINE lanes lanes_sqrt(lanes value)
{
    UNROLL for (int i = 0; i < LANES; i++)
        value[i] = sqrtf(value[i]);
    return value;
}

/* a·b of 32 bits each: the high halves into *high, the low ones returned. */
INLINE lanes_u multiply_wide(lanes_u a, uint32_t b, lanes_u *high)
{
#if defined(__AVX512F__)
    __m512i even = _mm512_mul_epu32((__m512i)a, _mm512_set1_epi32((int)b));
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), _mm512_set1_epi32((int)b));

    *high = (lanes_u)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    return (lanes_u)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#else
    lanes_q product = __builtin_convertvector(a, lanes_q) * b;

    *high = __builtin_convertvector(product >> 32, lanes_u);
    return __builtin_convertvector(product, lanes_u);
#endif
}

/* philox4x32 of base/random.h for counters that differ in their first word alone. */
INLINE void philox_lanes(lanes_u counter, const uint32_t rest[3], uint64_t key, lanes_u words[4])
{
    lanes_u c0 = counter, c1 = (lanes_u){0} + rest[0], c2 = (lanes_u){0} + rest[1], c3 = (lanes_u){0} + rest[2];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    for (int round = 0; round < 10; round++) {
        lanes_u high0, high2, low0 = multiply_wide(c0, 0xd2511f53u, &high0), low2 = multiply_wide(c2, 0xcd9e8d57u, &high2);
        c0 = high2 ^ c1 ^ k0;
        c1 = low2;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

/* The random words of calls [call, call + LANES) of the stretch that begins at `element`. */
INLINE void draw(const struct op_adamw *op, enum stochastic_kind kind, uint64_t element, int call, lanes_u words[4])
{
    uint64_t first = element / STOCHASTIC_STRETCH * STOCHASTIC_CALLS + (uint64_t)call;
    const uint32_t rest[3] = {(uint32_t)(first >> 32), stochastic_purpose(kind), (uint32_t)op->step};
    lanes_u counter = {0};

    UNROLL for (int i = 0; i < LANES; i++)
        counter[i] = (uint32_t)first + (uint32_t)i;
    philox_lanes(counter, rest, op->seed, words);
}

/* Rounded to what bf16 holds: bf16_from_f32_stochastic, as f32. */
INLINE lanes round_stochastic(lanes value, const lanes_u words[4], int half)
{
    lanes_u noise = words[half / 2] >> 16 * (half % 2) & 0xffff, is_nan = (lanes_u)(value != value);

    return (lanes)(((((lanes_u)value + noise) & ~is_nan) | ((lanes_u)value & is_nan)) & 0xffff0000u);
}

/* The three that are kept, of LANES elements. */
struct updated {
    lanes master, m, v;
};

INLINE struct updated adamw_lanes(const struct step *step, const struct state *at, int32_t j)
{
    const struct op_adamw *op = step->op;
    lanes g = row_load(at->grad, j, at->count) * step->clip, p = row_load(at->master, j, at->count) * step->keep;
    lanes m = row_load(at->m, j, at->count) * op->beta1 + g * (1 - op->beta1);
    lanes v = row_load(at->v, j, at->count) * op->beta2 + g * g * (1 - op->beta2);

    p -= step->rate * (m / (lanes_sqrt(v) / step->root_correction + op->eps));
    return (struct updated){p, m, v};
}

INLINE void keep(const struct state *at, int32_t j, struct updated new)
{
    row_store(at->m, j, at->count, new.m);
    row_store(at->v, j, at->count, new.v);
    row_store(at->master, j, at->count, new.master);
    if (at->copy.at)
        row_store(at->copy, j, at->count, new.master);
}

/* A stretch whose weights or moments are rounded by chance. */
static void adamw_stretch(const struct step *step, const struct state *at, int32_t j, uint64_t element)
{
    const struct op_adamw *op = step->op;
    lanes_u words[STOCHASTIC_KINDS][4];

    for (int call = 0; call < STOCHASTIC_CALLS; call += LANES) {
        UNROLL for (int kind = 0; kind < STOCHASTIC_KINDS; kind++)
            draw(op, (enum stochastic_kind)kind, element, call, words[kind]);
        UNROLL for (int half = 0; half < STOCHASTIC_STRETCH / STOCHASTIC_CALLS; half++) {
            int32_t k = j + half * STOCHASTIC_CALLS + call;
            struct updated new = adamw_lanes(step, at, k);
            if (op->master_type == DTYPE_BF16)
                new.master = round_stochastic(new.master, words[STOCHASTIC_WEIGHT], half);
            if (op->moment_type == DTYPE_BF16) {
                new.m = round_stochastic(new.m, words[STOCHASTIC_M], half);
                new.v = round_stochastic(new.v, words[STOCHASTIC_V], half);
            }
            keep(at, k, new);
        }
    }
}

static void adamw_task(void *context, int task, int thread)
{
    const struct step *step = context;
    const struct op_adamw *op = step->op;
    uint64_t first = (uint64_t)task * ADAMW_BLOCK, left = op->count - first;
    struct state at = {.master = row_at(op->master, op->master_type, first),
                       .m = row_at(op->m, op->moment_type, first),
                       .v = row_at(op->v, op->moment_type, first),
                       .grad = row_at((void *)(uintptr_t)op->grad, op->grad_type, first),
                       .count = left < ADAMW_BLOCK ? (int32_t)left : ADAMW_BLOCK};

    if (op->copy)
        at.copy = row_at(op->copy, op->copy_type, first);
    if (op->master_type == DTYPE_BF16 || op->moment_type == DTYPE_BF16)
        for (int32_t j = 0; j < at.count; j += STOCHASTIC_STRETCH)
            adamw_stretch(step, &at, j, op->first + first + (uint64_t)j);
    else
        for (int32_t j = 0; j < at.count; j += LANES)
            keep(&at, j, adamw_lanes(step, &at, j));
}

void CPU(adamw)(struct queue *queue, const struct op_adamw *op)
{
    double correction1 = 1 - pow(op->beta1, (double)op->step), correction2 = 1 - pow(op->beta2, (double)op->step), clip = 1;
    struct step step = {.op = op, .keep = 1 - op->lr * op->decay, .root_correction = (float)sqrt(correction2)};

    if (!isfinite(*op->sumsq))
        return;
    if (op->max_norm > 0)
        clip = fmin(1, op->max_norm / (sqrt(*op->sumsq) + 1e-6));
    step.clip = (float)clip;
    step.rate = (float)(op->lr / correction1);
    pool_run(queue->pool, (int)((op->count + ADAMW_BLOCK - 1) / ADAMW_BLOCK), adamw_task, &step);
}
