#include "model/experts_file.h"

#include "model/decoder_int.h"

#include <stdlib.h>
#include <string.h>

/* Inputs and outputs of one expert; a bias has no inputs. */
struct shape {
    int32_t in, out;
};

static struct shape expert_shape(const struct param *param)
{
    if (param->is_vector)
        return (struct shape){1, param->cols / param->experts};
    return (struct shape){param->cols, param->rows / param->experts};
}

size_t experts_elements(const struct param *param)
{
    struct shape shape = expert_shape(param);

    return (size_t)shape.in * (size_t)shape.out;
}

/* Where an output of the file lies in memory. */
static int32_t output_at(const struct param *param, int32_t out, int32_t o)
{
    return param->is_interleaved ? o / 2 + (o % 2 ? out / 2 : 0) : o;
}

/* Element (e, o, c) of the weight [E·out, in], or of the bias, [1, E·out]. */
static size_t element_at(const struct param *param, int32_t ld, int32_t e, int32_t o, int32_t c)
{
    struct shape shape = expert_shape(param);
    size_t row = (size_t)e * (size_t)shape.out + (size_t)output_at(param, shape.out, o);

    return param->is_vector ? row : row * (size_t)ld + (size_t)c;
}

void mxfp4_widen(const uint8_t *codes, const uint8_t *scales, size_t count, float *values)
{
    static const float table[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

    for (size_t i = 0; i < count; i++) {
        uint8_t pair = codes[i / 2];
        values[i] = ldexpf(table[i % 2 ? pair >> 4 : pair & 15], scales[i / MXFP4_VALUES] - 127);
    }
}

static void place_codes(const struct param *param, const uint8_t *codes, const uint8_t *scales, char *to, int32_t ld,
                        enum dtype to_type)
{
    struct shape shape = expert_shape(param);
    size_t in = (size_t)shape.in;
    float *values = mem_alloc(in * sizeof *values);

    for (int32_t e = 0; e < param->experts; e++)
        for (int32_t o = 0; o < shape.out; o++) {
            size_t row = (size_t)e * (size_t)shape.out + (size_t)o;
            mxfp4_widen(codes + row * in / 2, scales + row * in / MXFP4_VALUES, in, values);
            convert(to + element_at(param, ld, e, o, 0) * dtype_bytes(to_type), to_type, values, DTYPE_F32, in);
        }
    free(values);
}

void experts_place(const struct param *param, const void *values, enum dtype type, const uint8_t *scales, void *to,
                   int32_t ld, enum dtype to_type)
{
    struct shape shape = expert_shape(param);
    size_t out = (size_t)shape.out, size = dtype_bytes(to_type);
    char *row;

    if (scales) {
        place_codes(param, values, scales, to, ld, to_type);
        return;
    }
    row = mem_alloc(out * size);
    for (int32_t e = 0; e < param->experts; e++)
        for (int32_t c = 0; c < shape.in; c++) {
            size_t at = ((size_t)e * (size_t)shape.in + (size_t)c) * out;
            convert(row, to_type, (const char *)values + at * dtype_bytes(type), type, out);
            for (int32_t o = 0; o < shape.out; o++)
                memcpy((char *)to + element_at(param, ld, e, o, c) * size, row + (size_t)o * size, size);
        }
    free(row);
}

void experts_fetch(const struct param *param, const void *from, enum dtype type, int32_t ld, int32_t e, float *values)
{
    struct shape shape = expert_shape(param);

    for (int32_t c = 0; c < shape.in; c++)
        for (int32_t o = 0; o < shape.out; o++)
            convert(&values[(size_t)c * (size_t)shape.out + (size_t)o], DTYPE_F32,
                    (const char *)from + element_at(param, ld, e, o, c) * dtype_bytes(type), type, 1);
}
