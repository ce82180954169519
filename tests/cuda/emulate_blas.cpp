/* cuBLASLt as blas.cu calls it, for the emulated device: matrices are column-major, sums are in float from the first to
 * the last. As the real library does it refuses what is not aligned well enough; here that is whatever does not begin
 * and go on at multiples of four bytes, so that the products of odd shapes take our own kernel. */
#include "emulate.h"

#include <stdlib.h>

struct layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
};
struct desc {
    int turned[2];
    const float *scale[2];
};
struct preference {
    uint32_t alignment[4];
};
struct result {
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};
enum { TYPE_E4M3 = 28, TYPE_E5M2 = 29, DESC_A_SCALE = 17 };
enum { TYPE_BF16 = 14, NOT_SUPPORTED = 15, CANDIDATES = 3, DESC_TRANSA = 3, PREF_ALIGNMENT_A = 5 };

extern void emulate_memory_open(bool is_open);

static int create(void **handle)
{
    *handle = malloc(1);
    return 0;
}

static int destroy(void *at)
{
    free(at);
    return 0;
}

static int desc_create(void **desc, int compute, int scale_type)
{
    *desc = calloc(1, sizeof(struct desc));
    return compute == 68 && scale_type == 0 ? 0 : NOT_SUPPORTED;
}

static int desc_set(void *desc, int attribute, const void *at, size_t bytes)
{
    if ((attribute == DESC_A_SCALE || attribute == DESC_A_SCALE + 1) && bytes == sizeof(float *)) {
        memcpy(&((struct desc *)desc)->scale[attribute - DESC_A_SCALE], at, bytes);
        return 0;
    }
    if ((attribute != DESC_TRANSA && attribute != DESC_TRANSA + 1) || bytes != sizeof(int))
        return NOT_SUPPORTED;
    memcpy(&((struct desc *)desc)->turned[attribute - DESC_TRANSA], at, bytes);
    return 0;
}

static int layout_create(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    struct layout *made = (struct layout *)calloc(1, sizeof *made);

    *made = {type, rows, cols, ld};
    *layout = made;
    return ld >= (int64_t)rows ? 0 : NOT_SUPPORTED;
}

static int preference_create(void **preference)
{
    *preference = calloc(1, sizeof(struct preference));
    return 0;
}

static int preference_set(void *preference, int attribute, const void *at, size_t bytes)
{
    if (attribute >= PREF_ALIGNMENT_A && attribute < PREF_ALIGNMENT_A + 4)
        memcpy(&((struct preference *)preference)->alignment[attribute - PREF_ALIGNMENT_A], at, bytes);
    return 0;
}

/* Rows of both sides along the depth, as sm_89 and sm_90 take them. */
static bool is_of_eight(const struct desc *desc, const struct layout *b)
{
    return desc->turned[0] && !desc->turned[1] && (b->type == TYPE_E4M3 || b->type == TYPE_E5M2);
}

/* After the definition of the formats. */
static float eight_value(int type, int code)
{
    int bits = type == TYPE_E4M3 ? 3 : 2, bias = type == TYPE_E4M3 ? 7 : 15;
    int exponent = (code & 0x7f) >> bits, fraction = code & ((1 << bits) - 1);
    float magnitude = exponent ? ldexpf((float)((1 << bits) + fraction), exponent - bias - bits)
                               : ldexpf((float)fraction, 1 - bias - bits);

    if (type == TYPE_E4M3 ? (code & 0x7f) == 0x7f : exponent == 31)
        magnitude = type == TYPE_E5M2 && !fraction ? INFINITY : NAN;
    return code & 0x80 ? -magnitude : magnitude;
}

static int heuristic(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference, int wanted,
                     struct result *results, int *count)
{
    const struct layout *la = (struct layout *)a, *ld = (struct layout *)d;
    bool is_eight = la->type == TYPE_E4M3 || la->type == TYPE_E5M2;

    *count = 0;
    for (int i = 0; i < 4; i++)
        if (((struct preference *)preference)->alignment[i] < (is_eight ? 16 : 4))
            return NOT_SUPPORTED;
    if (is_eight && (la->rows % 16 || ld->rows % 16 || !is_of_eight((struct desc *)desc, (struct layout *)b)))
        return NOT_SUPPORTED;
    *count = wanted < CANDIDATES ? wanted : CANDIDATES;
    for (int i = 0; i < *count; i++) {
        results[i] = {};
        results[i].algorithm[0] = (uint64_t)i;
    }
    return 0;
}

static float element(const void *at, const struct layout *layout, bool is_turned, uint64_t row, uint64_t col)
{
    uint64_t index = is_turned ? row * (uint64_t)layout->ld + col : col * (uint64_t)layout->ld + row;

    if (layout->type == TYPE_E4M3 || layout->type == TYPE_E5M2)
        return eight_value(layout->type, ((const unsigned char *)at)[index]);
    return layout->type == TYPE_BF16 ? wide_of(((const unsigned short *)at)[index]) : ((const float *)at)[index];
}

/* d = alpha · op(a)·op(b) + beta · c */
struct matrix {
    void *at;
    struct layout layout;
};
struct multiply {
    struct matrix a, b, c, d;
    bool is_a_turned, is_b_turned;
    uint64_t depth;
    float alpha, beta;
    const float *scale[2]; /* of a and b in eight bits, read when it runs; else NULL */
};

static void run_multiply(const struct multiply &op)
{
    const struct layout &shape = op.d.layout;
    float by = op.alpha;

    emulate_memory_open(true);
    for (int side = 0; op.scale[0] && side < 2; side++)
        by *= *op.scale[side];
    for (uint64_t j = 0; j < shape.cols; j++)
        for (uint64_t i = 0; i < shape.rows; i++) {
            uint64_t index = j * (uint64_t)shape.ld + i;
            float sum = 0;
            for (uint64_t k = 0; k < op.depth; k++)
                sum += element(op.a.at, &op.a.layout, op.is_a_turned, i, k) *
                       element(op.b.at, &op.b.layout, op.is_b_turned, k, j);
            sum = by * sum + (op.beta != 0 ? op.beta * element(op.c.at, &op.c.layout, false, i, j) : 0);
            if (shape.type == TYPE_BF16)
                ((unsigned short *)op.d.at)[index] = half_of(sum);
            else
                ((float *)op.d.at)[index] = sum;
        }
    emulate_memory_open(false);
}

static struct matrix matrix_of(const void *at, void *layout)
{
    return {(void *)at, *(struct layout *)layout};
}

static int matmul(void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
                  void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                  const uint64_t *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const int *turned = ((struct desc *)desc)->turned;
    struct multiply op = {matrix_of(a, a_layout),
                          matrix_of(b, b_layout),
                          matrix_of(c, c_layout),
                          matrix_of(d, d_layout),
                          turned[0] != 0,
                          turned[1] != 0,
                          0,
                          *(const float *)alpha,
                          *(const float *)beta,
                          {((struct desc *)desc)->scale[0], ((struct desc *)desc)->scale[1]}};
    const struct layout &la = op.a.layout, &lb = op.b.layout, &lc = op.c.layout, &ld = op.d.layout;

    op.depth = turned[0] ? la.rows : la.cols;
    if (lc.type != ld.type || lc.rows != ld.rows || lc.cols != ld.cols ||
        op.depth != (turned[1] ? lb.cols : lb.rows) || (turned[0] ? la.cols : la.rows) != ld.rows ||
        (turned[1] ? lb.rows : lb.cols) != ld.cols)
        return NOT_SUPPORTED;
    emulate_queue(stream, [=] { run_multiply(op); });
    return 0;
}

static const struct {
    const char *name;
    void *call;
} calls[] = {
    {"cublasLtCreate", (void *)create},
    {"cublasLtDestroy", (void *)destroy},
    {"cublasLtMatmulDescCreate", (void *)desc_create},
    {"cublasLtMatmulDescDestroy", (void *)destroy},
    {"cublasLtMatmulDescSetAttribute", (void *)desc_set},
    {"cublasLtMatrixLayoutCreate", (void *)layout_create},
    {"cublasLtMatrixLayoutDestroy", (void *)destroy},
    {"cublasLtMatmulPreferenceCreate", (void *)preference_create},
    {"cublasLtMatmulPreferenceDestroy", (void *)destroy},
    {"cublasLtMatmulPreferenceSetAttribute", (void *)preference_set},
    {"cublasLtMatmulAlgoGetHeuristic", (void *)heuristic},
    {"cublasLtMatmul", (void *)matmul},
};

void *emulate_dlopen(const char *name, int flags)
{
    return strcmp(name, "libcublasLt.so.12") == 0 ? (void *)calls : NULL;
}

void *emulate_dlsym(void *library, const char *name)
{
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strcmp(calls[i].name, name) == 0)
            return calls[i].call;
    return NULL;
}
