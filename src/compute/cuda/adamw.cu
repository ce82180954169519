/* The gradient's norm and the optimizer, over flat arenas whose numbers are F32 or BF16; see compute/stochastic.h for
 * the rounding of the latter. The clip is worked out on the device, from the sum of squares that lies there. */
#include "compute/cuda/cuda_int.h"

extern "C" {
#include "compute/eight_bit.h"
#include "compute/stochastic.h"
}

static __device__ __forceinline__ float state_get(const void *at, enum dtype type, uint64_t i)
{
    return type == DTYPE_F32 ? ((const float *)at)[i] : wide_of(((const unsigned short *)at)[i]);
}

enum { SUMSQ_BLOCK = 65536 };

static __global__ void sumsq_kernel(struct op_sumsq op)
{
    uint64_t first = (uint64_t)blockIdx.x * SUMSQ_BLOCK;
    uint64_t end = first + SUMSQ_BLOCK < op.count ? first + SUMSQ_BLOCK : op.count;
    double sum = 0;

    for (uint64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
        double x = state_get(op.x, op.type, i);
        sum += x * x;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        op.partial[blockIdx.x] = sum;
}

static __global__ void sumsq_finish_kernel(struct op_sumsq op, int32_t blocks)
{
    double sum = 0;

    for (int32_t i = threadIdx.x; i < blocks; i += blockDim.x)
        sum += op.partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *op.sum = op.is_added ? *op.sum + sum : sum;
}

static void cuda_sumsq(struct queue *queue, const struct op_sumsq *op)
{
    int32_t blocks = blocks_of((int64_t)op->count, SUMSQ_BLOCK);

    if (blocks)
        LAUNCH(queue, sumsq_kernel, dim3(blocks), THREADS * 2, *op);
    LAUNCH(queue, sumsq_finish_kernel, dim3(1), THREADS * 2, *op, blocks);
}

/* What is the same for all elements. */
struct adamw_factors {
    float keep, step, root; /* 1 - lr·decay, lr / correction1, 1 / √correction2 */
};

/* The bits of a thread's eight elements, one call of the generator for each kind of state. */
struct noise {
    uint32_t word[4];
};

static __device__ struct noise noise_of(const struct op_adamw &op, enum stochastic_kind kind, uint64_t call)
{
    struct noise noise = {{(uint32_t)call, (uint32_t)(call >> 32), 0x80000000u + (uint32_t)kind, (uint32_t)op.step}};

    philox(noise.word, op.seed);
    return noise;
}

static __device__ __forceinline__ void state_set(void *at, enum dtype type, uint64_t i, float value,
                                                 const struct noise &noise, int half)
{
    uint32_t bits = bits_of(value);

    if (type == DTYPE_F32)
        ((float *)at)[i] = value;
    else if ((bits & 0x7fffffff) > 0x7f800000)
        ((unsigned short *)at)[i] = half_of(value);
    else
        ((unsigned short *)at)[i] = (unsigned short)((bits + (noise.word[half / 2] >> 16 * (half % 2) & 0xffff)) >> 16);
}

static __device__ float clip_of(double sumsq, float max_norm)
{
    return max_norm > 0 ? (float)fmin(1., max_norm / (sqrt(sumsq) + 1e-6)) : 1;
}

/* A thread has eight elements of a stretch, 16 apart. */
enum { ADAMW_EIGHT = STOCHASTIC_STRETCH / STOCHASTIC_CALLS };

static __device__ __forceinline__ uint64_t first_of(uint64_t thread)
{
    return thread / STOCHASTIC_CALLS * STOCHASTIC_STRETCH + thread % STOCHASTIC_CALLS;
}

static __device__ __forceinline__ uint64_t call_of(const struct op_adamw &op, uint64_t thread)
{
    return op.first / STOCHASTIC_STRETCH * STOCHASTIC_CALLS + thread;
}

/* m and v come in as they were and leave as they are; the weight is kept. */
static __device__ __forceinline__ void adamw_element(const struct op_adamw &op, const struct adamw_factors &f,
                                                     float clip, uint64_t i, const struct noise &for_weight, int half,
                                                     float &m, float &v)
{
    float grad = clip * state_get(op.grad, op.grad_type, i), p;
    struct mat copy = {op.copy, 1, 0, 0, op.copy_type};

    m = op.beta1 * m + (1 - op.beta1) * grad;
    v = op.beta2 * v + (1 - op.beta2) * grad * grad;
    p = state_get(op.master, op.master_type, i) * f.keep - f.step * m / (sqrtf(v) * f.root + op.eps);
    state_set(op.master, op.master_type, i, p, for_weight, half);
    if (op.copy)
        at_set(copy, (int64_t)i, p);
}

static __global__ void adamw_kernel(struct op_adamw op, struct adamw_factors f)
{
    uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, call = call_of(op, thread);
    uint64_t begin = first_of(thread);
    double sumsq = *op.sumsq;
    float clip = clip_of(sumsq, op.max_norm);
    struct noise for_weight = {}, for_m = {}, for_v = {};

    if (begin >= op.count || !isfinite(sumsq))
        return;
    if (op.master_type == DTYPE_BF16)
        for_weight = noise_of(op, STOCHASTIC_WEIGHT, call);
    if (op.moment_type == DTYPE_BF16) {
        for_m = noise_of(op, STOCHASTIC_M, call);
        for_v = noise_of(op, STOCHASTIC_V, call);
    }
    UNROLL
    for (int half = 0; half < ADAMW_EIGHT; half++) {
        uint64_t i = begin + (uint64_t)half * STOCHASTIC_CALLS;
        float m, v;
        if (i >= op.count)
            break;
        m = state_get(op.m, op.moment_type, i);
        v = state_get(op.v, op.moment_type, i);
        adamw_element(op, f, clip, i, for_weight, half, m, v);
        state_set(op.m, op.moment_type, i, m, for_m, half);
        state_set(op.v, op.moment_type, i, v, for_v, half);
    }
}

/* The maps of m and v in bytes, as the launch brings them, and with the edges as a block has them: all by place. */
struct code_values {
    float at[2][EIGHT_BIT_CODES];
};
enum { M_ZERO = EIGHT_BIT_CODES / 2 - 1, V_ZERO = 0 }; /* eight_bit_zero's */
struct code_maps {
    float value[2][EIGHT_BIT_CODES], edge[2][EIGHT_BIT_CODES];
};

static __device__ void fill_maps(const struct code_values &values, struct code_maps &maps)
{
    for (int i = threadIdx.x; i < 2 * EIGHT_BIT_CODES; i += blockDim.x) {
        int which = i / EIGHT_BIT_CODES, code = i % EIGHT_BIT_CODES;
        bool is_last = code == EIGHT_BIT_CODES - 1;
        maps.value[which][code] = values.at[which][code];
        maps.edge[which][code] = is_last ? 1 : (values.at[which][code] + values.at[which][code + 1]) / 2;
    }
    __syncthreads();
}

static __device__ int place_of(const float edge[EIGHT_BIT_CODES], float x)
{
    int place = 0;

    UNROLL
    for (int half = EIGHT_BIT_CODES / 2; half; half /= 2)
        place += x > edge[place + half - 1] ? half : 0;
    return place;
}

/* A warp's 256 new moments, eight a thread; its lanes come together to their largest. */
static __device__ void keep_codes(const float edge[EIGHT_BIT_CODES], int zero, const float fresh[ADAMW_EIGHT],
                                  void *codes, float *scales, uint64_t begin, uint64_t count)
{
    float largest = 0;

    UNROLL
    for (int half = 0; half < ADAMW_EIGHT; half++)
        largest = fmaxf(largest, fabsf(fresh[half]));
    largest = warp_max(largest);
    if (threadIdx.x % WARP == 0 && begin < count)
        scales[begin / EIGHT_BIT_BLOCK] = largest;
    UNROLL
    for (int half = 0; half < ADAMW_EIGHT; half++) {
        uint64_t i = begin + (uint64_t)half * STOCHASTIC_CALLS;
        if (i < count)
            ((unsigned char *)codes)[i] =
                (unsigned char)(place_of(edge, largest > 0 ? fresh[half] / largest : 0) - zero);
    }
}

/* The same with moments in bytes. A warp has two stretches: the elements of one scale. */
static __global__ void adamw_codes_kernel(struct op_adamw op, struct adamw_factors f, struct code_values values)
{
    __shared__ struct code_maps maps;
    uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, begin = first_of(thread), block = thread / WARP;
    double sumsq = *op.sumsq;
    float clip = clip_of(sumsq, op.max_norm), m[ADAMW_EIGHT] = {}, v[ADAMW_EIGHT] = {}, m_scale = 0, v_scale = 0;
    struct noise for_weight = {};

    if (!isfinite(sumsq))
        return;
    fill_maps(values, maps);
    if (op.master_type == DTYPE_BF16)
        for_weight = noise_of(op, STOCHASTIC_WEIGHT, call_of(op, thread));
    if (block * EIGHT_BIT_BLOCK < op.count) {
        m_scale = op.m_scale[block];
        v_scale = op.v_scale[block];
    }
    UNROLL
    for (int half = 0; half < ADAMW_EIGHT; half++) {
        uint64_t i = begin + (uint64_t)half * STOCHASTIC_CALLS;
        if (i >= op.count)
            continue;
        m[half] = maps.value[0][(unsigned char)(((const unsigned char *)op.m)[i] + M_ZERO)] * m_scale;
        v[half] = maps.value[1][(unsigned char)(((const unsigned char *)op.v)[i] + V_ZERO)] * v_scale;
        adamw_element(op, f, clip, i, for_weight, half, m[half], v[half]);
    }
    __syncthreads(); /* the scales have been read */
    keep_codes(maps.edge[0], M_ZERO, m, op.m, op.m_scale, begin, op.count);
    keep_codes(maps.edge[1], V_ZERO, v, op.v, op.v_scale, begin, op.count);
}

static void cuda_adamw(struct queue *queue, const struct op_adamw *op)
{
    struct adamw_factors factors = {
        (float)(1 - (double)op->lr * op->decay),
        (float)(op->lr / (1 - pow(op->beta1, (double)op->step))),
        (float)(1 / sqrt(1 - pow(op->beta2, (double)op->step))),
    };
    int64_t stretches = ((int64_t)op->count + STOCHASTIC_STRETCH - 1) / STOCHASTIC_STRETCH;
    dim3 grid(blocks_of(stretches * STOCHASTIC_CALLS, THREADS * 2));
    struct code_values values;

    if (!op->count)
        return;
    if (op->moment_type != DTYPE_U8) {
        LAUNCH(queue, adamw_kernel, grid, THREADS * 2, *op, factors);
        return;
    }
    eight_bit_map(true, values.at[0]);
    eight_bit_map(false, values.at[1]);
    LAUNCH(queue, adamw_codes_kernel, grid, THREADS * 2, *op, factors, values);
}
