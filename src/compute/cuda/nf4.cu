/* Weights as codes of four bits, written out as what they stand for. */
#include "compute/cuda/cuda_int.h"

struct nf4_table {
    float code[NF4_CODES];
};

enum { CODES = 16 }; /* of a thread: all of one block of numbers, eight bytes that lie together */

static __device__ float code_scale(const struct nf4 &tensor, int64_t block)
{
    float absmax = tensor.absmax[tensor.nested ? block / NF4_NESTED_BLOCK : block];

    return tensor.nested ? multiply_then_add(tensor.map[tensor.nested[block]], absmax, tensor.offset) : absmax;
}

/* Numbers i .. i + CODES of the tensor to rows of w from `row` on, which begin at whole 16 bytes and have a
 * multiple of CODES columns. */
static __device__ void dequantize_whole(const struct nf4 &tensor, const float *code, const struct mat &w, int32_t row,
                                        int64_t i)
{
    uint64_t codes = ((const uint64_t *)tensor.codes)[i / CODES];
    float scale = code_scale(tensor, i / NF4_BLOCK);
    unsigned short *to = (unsigned short *)w.at + (row + i / w.cols) * (int64_t)w.ld + i % w.cols;
    uint32_t pairs[CODES / 2];

    UNROLL
    for (int k = 0; k < CODES / 2; k++) {
        uint32_t byte = (uint32_t)(codes >> 8 * k) & 255;
        pairs[k] = (uint32_t)half_of(code[byte >> 4] * scale) | (uint32_t)half_of(code[byte & 15] * scale) << 16;
    }
    ((uint4 *)to)[0] = {pairs[0], pairs[1], pairs[2], pairs[3]};
    ((uint4 *)to)[1] = {pairs[4], pairs[5], pairs[6], pairs[7]};
}

/* What the codes stand for, in the type of w. */
static __global__ void dequantize_kernel(struct nf4 tensor, struct nf4_table table, struct mat w, int32_t row,
                                         bool is_whole)
{
    __shared__ float code[NF4_CODES];
    int64_t first = CODES * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x);

    if (threadIdx.x < NF4_CODES)
        code[threadIdx.x] = table.code[threadIdx.x];
    __syncthreads();
    if (is_whole && first < tensor.count) {
        dequantize_whole(tensor, code, w, row, first);
        return;
    }
    for (int64_t i = first; i < first + CODES && i < tensor.count; i++) {
        uint8_t codes = tensor.codes[i / 2];
        at_set(w, (row + i / w.cols) * w.ld + i % w.cols,
               code[i % 2 ? codes & 15 : codes >> 4] * code_scale(tensor, i / NF4_BLOCK));
    }
}

static void dequantize(struct queue *queue, const struct quant *quant, struct mat w)
{
    bool is_whole = w.type == DTYPE_BF16 && w.cols % CODES == 0 && w.ld % 8 == 0;
    struct nf4_table table;

    for (int i = 0; i < NF4_CODES; i++)
        table.code[i] = nf4_code[i];
    for (int32_t i = 0; i < quant->part_count; i++) {
        const struct nf4 *part = &quant->part[i];
        bool is_aligned = is_whole && (uintptr_t)part->codes % 8 == 0 && part->count % CODES == 0;
        LAUNCH(queue, dequantize_kernel, dim3(blocks_of(part->count, THREADS * 2 * CODES)), THREADS * 2, *part, table,
               w, i ? quant->row_end[i - 1] : 0, is_aligned);
    }
}
