#include "model/decoder_int.h"

#include "compute/convert.h"

#include <string.h>

enum { BLOCK = 256 };

static void read_block(double *out, const char *from, enum dtype type, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        float single;
        if (type == DTYPE_F64) {
            memcpy(&out[i], from + 8 * i, 8);
        } else if (type == DTYPE_F32) {
            memcpy(&single, from + 4 * i, 4);
            out[i] = (double)single;
        } else {
            memcpy(&half, from + 2 * i, 2);
            out[i] = (double)(type == DTYPE_BF16 ? f32_from_bf16(half) : f32_from_f16(half));
        }
    }
}

static void write_block(char *to, enum dtype type, const double *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float single = (float)in[i];
        uint16_t half;
        if (type == DTYPE_F64) {
            memcpy(to + 8 * i, &in[i], 8);
        } else if (type == DTYPE_F32) {
            memcpy(to + 4 * i, &single, 4);
        } else {
            half = type == DTYPE_BF16 ? bf16_from_f32(single) : f16_from_f32(single);
            memcpy(to + 2 * i, &half, 2);
        }
    }
}

/* Every value passes through double, which holds all four types exactly; f64 to a short float would round twice and
 * does not occur. */
void convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, size_t count)
{
    double block[BLOCK];

    if (to_type == from_type) {
        memcpy(to, from, count * dtype_bytes(to_type));
        return;
    }
    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        read_block(block, (const char *)from + at * dtype_bytes(from_type), from_type, n);
        write_block((char *)to + at * dtype_bytes(to_type), to_type, block, n);
    }
}

static bool is_float(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16;
}

bool tensor_has_values(const struct safetensor *a, const struct safetensor *b)
{
    size_t count = a->rank == 2 && b->rank == 2 ? a->shape[0] * a->shape[1] : 0;
    float x[BLOCK], y[BLOCK];

    if (count == 0 || a->shape[0] != b->shape[0] || a->shape[1] != b->shape[1] || !is_float(a->type) ||
        !is_float(b->type))
        return false;
    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        convert(x, DTYPE_F32, (const char *)a->data + at * dtype_bytes(a->type), a->type, n);
        convert(y, DTYPE_F32, (const char *)b->data + at * dtype_bytes(b->type), b->type, n);
        if (memcmp(x, y, n * sizeof *x) != 0)
            return false;
    }
    return true;
}
