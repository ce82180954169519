#include "compute/nf4.h"

#include "compute/convert.h"

#include <math.h>

const float nf4_code[NF4_CODES] = {
    -1,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1,
};

int64_t nf4_code_bytes(int64_t count)
{
    return (count + 1) / 2;
}

int64_t nf4_blocks(int64_t count, int64_t block)
{
    return (count + block - 1) / block;
}

/* Point k of `count` from 0.1 to 1 as torch.linspace has it: from the nearer end, with one rounding. */
static float linspace(int k, int count)
{
    float step = (1 - 0.1f) / (float)(count - 1);

    return k < count / 2 ? fmaf(step, (float)k, 0.1f) : fmaf(-step, (float)(count - 1 - k), 1);
}

/* For i = 0 .. 6 the middles of 2^i pieces of [0.1, 1], times 10^(i-6), in both signs; 0 and 1. */
void nf4_make_map(float map[NF4_MAP])
{
    static const float powers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1};
    float *up = map + NF4_MAP / 2, *down = map + NF4_MAP / 2 - 2;

    map[NF4_MAP / 2 - 1] = 0;
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 1 << i; k++) {
            float middle = powers[i] * ((linspace(k, (1 << i) + 1) + linspace(k + 1, (1 << i) + 1)) / 2);
            *up++ = middle;
            *down-- = -middle;
        }
    *up = 1;
}

static float clamped(float value)
{
    return value < -1 ? -1 : value > 1 ? 1 : value;
}

static float largest(const float *values, int64_t count)
{
    float most = 0;

    for (int64_t i = 0; i < count; i++)
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    return most;
}

/* The number of middles between neighbouring codes that lie below. */
static uint8_t nearest_code(float value)
{
    uint8_t code = 0;

    for (int i = 0; i + 1 < NF4_CODES; i++)
        code += value > (nf4_code[i] + nf4_code[i + 1]) / 2;
    return code;
}

/* One block; returns its absmax. A code behind an odd count is that of 0. */
static float quantize_block(const float *values, int64_t count, uint8_t *codes)
{
    const float least = 1e-38f;
    float absmax = largest(values, count), divisor = absmax < least ? least : absmax, factor = 1 / divisor;
    uint8_t code[NF4_BLOCK + 1];
    bool is_short = count < NF4_BLOCK;

    for (int64_t i = 0; i < count; i++)
        code[i] = nearest_code(clamped(is_short ? values[i] / divisor : values[i] * factor));
    code[count] = nearest_code(0);
    for (int64_t i = 0; i < count; i += 2)
        codes[i / 2] = (uint8_t)(code[i] << 4 | code[i + 1]);
    return is_short ? divisor : absmax;
}

void nf4_quantize(const float *values, int64_t count, uint8_t *codes, float *absmax)
{
    for (int64_t i = 0; i < count; i += NF4_BLOCK)
        absmax[i / NF4_BLOCK] =
            quantize_block(values + i, count - i < NF4_BLOCK ? count - i : NF4_BLOCK, codes + i / 2);
}

/* torch's sum of contiguous f32 on one thread: vectors of eight lanes go round four rows; each row is summed in a
 * cascade of four levels, a level passing its sum on after 2^power additions. */
enum { SUM_LANES = 8, SUM_ROWS = 4, SUM_LEVELS = 4, SUM_WIDTH = SUM_LANES * SUM_ROWS };

static int cascade_power(int64_t size)
{
    int log2 = 0;

    while ((int64_t)1 << log2 < size)
        log2++;
    return log2 / SUM_LEVELS > 4 ? log2 / SUM_LEVELS : 4;
}

static void add_row(float *to, const float *from, int count)
{
    for (int i = 0; i < count; i++)
        to[i] += from[i];
}

/* total[w] = Σ over `size` rows of SUM_WIDTH numbers. */
static void cascade_sum(const float *values, int64_t size, float total[SUM_WIDTH])
{
    float level[SUM_LEVELS][SUM_WIDTH] = {{0}};
    int power = cascade_power(size);
    int64_t step = (int64_t)1 << power, i = 0;

    while (i + step <= size) {
        for (int64_t end = i + step; i < end; i++)
            add_row(level[0], values + i * SUM_WIDTH, SUM_WIDTH);
        for (int j = 1; j < SUM_LEVELS; j++) {
            add_row(level[j], level[j - 1], SUM_WIDTH);
            memset(level[j - 1], 0, sizeof level[j - 1]);
            if (i & (step - 1) << (j * power))
                break;
        }
    }
    for (; i < size; i++)
        add_row(level[0], values + i * SUM_WIDTH, SUM_WIDTH);
    for (int j = 1; j < SUM_LEVELS; j++)
        add_row(level[0], level[j], SUM_WIDTH);
    memcpy(total, level[0], sizeof level[0]);
}

static float torch_mean(const float *values, int64_t count)
{
    int64_t vectors = count / SUM_LANES, rows = vectors / SUM_ROWS;
    float lanes[SUM_WIDTH], sum = 0;

    cascade_sum(values, rows, lanes);
    for (int64_t i = rows * SUM_ROWS; i < vectors; i++)
        add_row(lanes, values + i * SUM_LANES, SUM_LANES);
    for (int row = 1; row < SUM_ROWS; row++)
        add_row(lanes, lanes + row * SUM_LANES, SUM_LANES);
    for (int64_t i = vectors * SUM_LANES; i < count; i++)
        sum += values[i];
    for (int i = 0; i < SUM_LANES; i++)
        sum += lanes[i];
    return sum / (float)count;
}

/* The index of the map for a value in [-1, 1], which is first put on a grid of 65,536 points. */
static uint8_t nearest_in_map(const float map[NF4_MAP], float value)
{
    int point = (int)fmaf((clamped(value) + 1) * 0.5f, 65535, 0.5f), low = 0, high = NF4_MAP - 1;
    float on_grid = -1 + 2 * (float)point / 65535;

    while (low < high) {
        int middle = (low + high) / 2;
        if (0.5f * (map[middle] + map[middle + 1]) < on_grid)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint8_t)low;
}

void nf4_nest(float *absmax, int64_t blocks, const float map[NF4_MAP], uint8_t *nested, float *nested_absmax,
              float *offset)
{
    *offset = torch_mean(absmax, blocks);
    for (int64_t i = 0; i < blocks; i++)
        absmax[i] -= *offset;
    for (int64_t first = 0; first < blocks; first += NF4_NESTED_BLOCK) {
        int64_t end = first + NF4_NESTED_BLOCK < blocks ? first + NF4_NESTED_BLOCK : blocks;
        float most = largest(absmax + first, end - first), factor = most > 0 ? 1 / most : 0;
        nested_absmax[first / NF4_NESTED_BLOCK] = most;
        for (int64_t i = first; i < end; i++)
            nested[i] = most > 0 ? nearest_in_map(map, absmax[i] * factor) : 0;
    }
}

/* The product and the sum round apart: this file is compiled without fused multiply-adds, unlike
 * the backends that call it. */
void nf4_scales(const struct nf4 *tensor, int64_t first, int64_t count, float *scales)
{
    for (int64_t i = 0; i < count; i++)
        if (tensor->nested)
            scales[i] = tensor->map[tensor->nested[first + i]] * tensor->absmax[(first + i) / NF4_NESTED_BLOCK] +
                        tensor->offset;
        else
            scales[i] = tensor->absmax[first + i];
}

static void put(void *to, enum dtype type, int64_t at, float value)
{
    switch (type) {
    case DTYPE_BF16:
        ((uint16_t *)to)[at] = bf16_from_f32(value);
        break;
    case DTYPE_F16:
        ((uint16_t *)to)[at] = f16_from_f32(value);
        break;
    case DTYPE_F64:
        ((double *)to)[at] = value;
        break;
    default:
        ((float *)to)[at] = value;
    }
}

void nf4_dequantize(const struct nf4 *tensor, int64_t first, int64_t count, enum dtype type, void *to)
{
    float scale = 0;

    for (int64_t i = first; i < first + count; i++) {
        if (i == first || i % NF4_BLOCK == 0)
            nf4_scales(tensor, i / NF4_BLOCK, 1, &scale);
        put(to, type, i - first, nf4_code[tensor->codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale);
    }
}
