/* The optimizer's two operations on flat arenas. */
#include "compute/cpu/cpu_int.h"
#include "compute/eight_bit.h"
#include "compute/stochastic.h"

enum { SUMSQ_BLOCK = 65536, ADAMW_BLOCK = 16384 };
_Static_assert(ADAMW_BLOCK % STOCHASTIC_STRETCH == 0 && ADAMW_BLOCK % EIGHT_BIT_BLOCK == 0 &&
                   STOCHASTIC_CALLS % LANES == 0,
               "a task has whole stretches, a stretch whole vectors");

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

/* The map of a moment in bytes. */
struct map {
    float value[EIGHT_BIT_CODES], edge[EIGHT_BIT_CODES]; /* values by code, edges by place */
    int zero;
};

/* What all elements of a step share. */
struct step {
    const struct op_adamw *op;
    float clip, keep, rate, root_correction;
    struct map m, v;
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
        lanes_u high0, high2;
        lanes_u low0 = multiply_wide(c0, 0xd2511f53u, &high0), low2 = multiply_wide(c2, 0xcd9e8d57u, &high2);
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

static void update(const struct step *step, const struct state *at, uint64_t element)
{
    const struct op_adamw *op = step->op;

    if (op->master_type == DTYPE_BF16 || op->moment_type == DTYPE_BF16)
        for (int32_t j = 0; j < at->count; j += STOCHASTIC_STRETCH)
            adamw_stretch(step, at, j, element + (uint64_t)j);
    else
        for (int32_t j = 0; j < at->count; j += LANES)
            keep(at, j, adamw_lanes(step, at, j));
}

/* Behind the count zeros, as a stretch is computed whole. */
static void decode(const struct map *map, const uint8_t *code, float scale, int32_t count, float out[EIGHT_BIT_BLOCK])
{
    for (int32_t k = 0; k < count; k++)
        out[k] = map->value[code[k]] * scale;
    for (int32_t k = count; k < EIGHT_BIT_BLOCK; k++)
        out[k] = 0;
}

/* A search by halves of all elements at once. The scale is returned. */
static float encode(const struct map *map, const float x[EIGHT_BIT_BLOCK], int32_t count, uint8_t *code)
{
    int32_t at[EIGHT_BIT_BLOCK] = {0};
    float scaled[EIGHT_BIT_BLOCK] = {0}, scale = 0;

    for (int32_t k = 0; k < count; k++)
        scale = fmaxf(scale, fabsf(x[k]));
    for (int32_t k = 0; scale > 0 && k < count; k++)
        scaled[k] = x[k] / scale;
    for (int32_t half = EIGHT_BIT_CODES / 2; half; half /= 2)
        for (int32_t k = 0; k < EIGHT_BIT_BLOCK; k++)
            at[k] += scaled[k] > map->edge[at[k] + half - 1] ? half : 0;
    for (int32_t k = 0; k < count; k++)
        code[k] = (uint8_t)(at[k] - map->zero);
    return scale;
}

/* A block whose moments are bytes: between decoding and encoding they are as if in F32. */
static void update_codes(const struct step *step, const struct state *at, uint64_t first)
{
    const struct op_adamw *op = step->op;
    uint8_t *m_code = (uint8_t *)op->m + first, *v_code = (uint8_t *)op->v + first;
    float m[EIGHT_BIT_BLOCK], v[EIGHT_BIT_BLOCK], *m_scale = op->m_scale + first / EIGHT_BIT_BLOCK;
    float *v_scale = op->v_scale + first / EIGHT_BIT_BLOCK;
    struct state here = *at;

    decode(&step->m, m_code, *m_scale, at->count, m);
    decode(&step->v, v_code, *v_scale, at->count, v);
    here.m = row_at(m, DTYPE_F32, 0);
    here.v = row_at(v, DTYPE_F32, 0);
    update(step, &here, op->first + first);
    *m_scale = encode(&step->m, m, at->count, m_code);
    *v_scale = encode(&step->v, v, at->count, v_code);
}

static struct state state_at(const struct op_adamw *op, uint64_t first, int32_t most)
{
    uint64_t left = op->count - first;
    struct state at = {.master = row_at(op->master, op->master_type, first),
                       .grad = row_at((void *)(uintptr_t)op->grad, op->grad_type, first),
                       .count = left < (uint64_t)most ? (int32_t)left : most};

    if (op->moment_type != DTYPE_U8) {
        at.m = row_at(op->m, op->moment_type, first);
        at.v = row_at(op->v, op->moment_type, first);
    }
    if (op->copy)
        at.copy = row_at(op->copy, op->copy_type, first);
    return at;
}

static void adamw_task(void *context, int task, int thread)
{
    const struct step *step = context;
    const struct op_adamw *op = step->op;
    uint64_t first = (uint64_t)task * ADAMW_BLOCK;
    uint64_t end = first + ADAMW_BLOCK < op->count ? first + ADAMW_BLOCK : op->count;
    struct state at;

    if (op->moment_type != DTYPE_U8) {
        at = state_at(op, first, ADAMW_BLOCK);
        update(step, &at, op->first + first);
        return;
    }
    for (; first < end; first += EIGHT_BIT_BLOCK) {
        at = state_at(op, first, EIGHT_BIT_BLOCK);
        update_codes(step, &at, first);
    }
}

static void make_map(bool is_signed, struct map *map)
{
    float value[EIGHT_BIT_CODES];

    eight_bit_map(is_signed, value);
    eight_bit_edges(value, map->edge);
    map->zero = eight_bit_zero(is_signed);
    for (int i = 0; i < EIGHT_BIT_CODES; i++)
        map->value[(uint8_t)(i - map->zero)] = value[i];
}

void CPU(adamw)(struct queue *queue, const struct op_adamw *op)
{
    double correction1 = 1 - pow(op->beta1, (double)op->step), correction2 = 1 - pow(op->beta2, (double)op->step);
    double clip = 1;
    struct step step = {.op = op, .keep = 1 - op->lr * op->decay, .root_correction = (float)sqrt(correction2)};

    if (!isfinite(*op->sumsq))
        return;
    if (op->max_norm > 0)
        clip = fmin(1, op->max_norm / (sqrt(*op->sumsq) + 1e-6));
    step.clip = (float)clip;
    step.rate = (float)(op->lr / correction1);
    make_map(true, &step.m);
    make_map(false, &step.v);
    pool_run(queue->pool, (int)((op->count + ADAMW_BLOCK - 1) / ADAMW_BLOCK), adamw_task, &step);
}
