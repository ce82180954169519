#include "compute/cuda/blas.h"

#ifndef ATTUNE_EMULATED
#include <dlfcn.h>
#endif
#include <stdlib.h>
#include <string.h>

/* The little of cublasLt.h that is used. */
typedef int blas_status; /* 0: success */
struct blas_result {     /* cublasLtMatmulHeuristicResult_t */
    uint64_t algorithm[8];
    size_t workspace_bytes;
    blas_status state;
    float waves;
    int reserved[4];
};
enum {
    TYPE_R_32F = 0,
    TYPE_R_16BF = 14,
    TYPE_R_8F_E4M3 = 28,
    TYPE_R_8F_E5M2 = 29,
    COMPUTE_32F = 68,
    OP_PLAIN = 0,
    OP_TURNED = 1
};
enum { DESC_TRANSA = 3, DESC_TRANSB = 4, DESC_A_SCALE = 17, DESC_B_SCALE = 18 };
enum { PREF_WORKSPACE_BYTES = 1, PREF_REDUCTION_MASK = 3, PREF_ALIGNMENT_A = 5, REDUCTION_COMPUTE_TYPE = 2 };

#define BLAS_CALLS(X)                                                                                                  \
    X(cublasLtCreate, (void **handle))                                                                                 \
    X(cublasLtDestroy, (void *handle))                                                                                 \
    X(cublasLtMatmulDescCreate, (void **desc, int compute, int scale_type))                                            \
    X(cublasLtMatmulDescDestroy, (void *desc))                                                                         \
    X(cublasLtMatmulDescSetAttribute, (void *desc, int attribute, const void *at, size_t bytes))                       \
    X(cublasLtMatrixLayoutCreate, (void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld))                 \
    X(cublasLtMatrixLayoutDestroy, (void *layout))                                                                     \
    X(cublasLtMatmulPreferenceCreate, (void **preference))                                                             \
    X(cublasLtMatmulPreferenceDestroy, (void *preference))                                                             \
    X(cublasLtMatmulPreferenceSetAttribute, (void *preference, int attribute, const void *at, size_t bytes))           \
    X(cublasLtMatmulAlgoGetHeuristic, (void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference, \
                                       int wanted, struct blas_result *results, int *count))                           \
    X(cublasLtMatmul, (void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,      \
                       void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,       \
                       const uint64_t *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream))

enum { PLANS_MAX = 1024, PLANS_FULL = PLANS_MAX / 4 * 3, CANDIDATES_MAX = 8, TUNE_RUNS = 3 };

/* What decides about a product: the key of what is kept. */
struct blas_shape {
    int32_t m, n, k, lda, ldb, ldc, ldd, a_type, b_type, c_type, is_a_turned, is_b_turned, align[4];
};

struct blas_plan {
    struct blas_shape shape;
    bool is_used, is_supported;
    void *desc, *a, *b, *c, *d; /* the library's D is our C, its C our D */
    struct blas_result result;
    struct blas_result candidate[CANDIDATES_MAX]; /* what the heuristic ranks behind it, if products are timed */
    int candidate_count;
};

struct blas {
    void *handle, *workspace;
    bool is_tuned; /* ATTUNE_CUDA_TUNE is set */
#define BLAS_FIELD(name, arguments) blas_status(*name) arguments;
    BLAS_CALLS(BLAS_FIELD)
#undef BLAS_FIELD
    struct blas_plan plan[PLANS_MAX];
    int plan_count;
};

/* The runtime's major version, or the one before. */
static void *open_library(void)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    void *library = NULL;

    for (int i = 0; i < 2 && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

static bool find_calls(struct blas *blas, void *library)
{
    bool ok = true;

#define BLAS_FIND(name, arguments)                                                                                     \
    *(void **)&blas->name = dlsym(library, #name);                                                                     \
    ok = ok && blas->name;
    BLAS_CALLS(BLAS_FIND)
#undef BLAS_FIND
    return ok;
}

struct blas *blas_open(void *workspace)
{
    const char *wish = getenv("ATTUNE_CUDA_BLAS");
    void *library = wish && strcmp(wish, "0") == 0 ? NULL : open_library();
    struct blas *blas;

    if (!library)
        return NULL;
    blas = (struct blas *)calloc(1, sizeof *blas);
    if (!blas)
        die("there is no memory");
    blas->workspace = workspace;
    blas->is_tuned = getenv("ATTUNE_CUDA_TUNE") != NULL;
    if (!find_calls(blas, library) || blas->cublasLtCreate(&blas->handle) != 0) {
        free(blas);
        return NULL;
    }
    return blas;
}

/* A plan follows from its shape, so that one made again is the same. */
static void forget_plans(struct blas *blas)
{
    for (int i = 0; i < PLANS_MAX; i++) {
        struct blas_plan *plan = &blas->plan[i];
        void *layouts[] = {plan->a, plan->b, plan->c, plan->d};
        for (int k = 0; k < 4; k++)
            if (layouts[k])
                blas->cublasLtMatrixLayoutDestroy(layouts[k]);
        if (plan->desc)
            blas->cublasLtMatmulDescDestroy(plan->desc);
        *plan = {};
    }
    blas->plan_count = 0;
}

void blas_close(struct blas *blas)
{
    if (!blas)
        return;
    forget_plans(blas);
    blas->cublasLtDestroy(blas->handle);
    free(blas);
}

static int blas_type(enum dtype type, enum fp8 format)
{
    if (type == DTYPE_U8)
        return format == FP8_E4M3 ? TYPE_R_8F_E4M3 : TYPE_R_8F_E5M2;
    return type == DTYPE_F32 ? TYPE_R_32F : TYPE_R_16BF;
}

/* The largest power of two up to 256 that divides an address and its rows' distance. */
static int32_t alignment_of(const struct mat &m)
{
    uintptr_t bits = (uintptr_t)m.at | ((uintptr_t)m.ld * dtype_bytes(m.type)) | 256;

    return (int32_t)(bits & ~(bits - 1));
}

/* What is added; C itself where nothing is. */
static struct mat added_of(const struct product *p)
{
    return p->d.at ? p->d : p->c;
}

/* Where eight bits have their scales. The library reads them when the product runs, and wants to know of them when it
 * chooses an algorithm; its A is our B. */
static bool set_scales(struct blas *blas, const struct blas_plan *plan, const struct product *p)
{
    return p->a.type != DTYPE_U8 ||
           (blas->cublasLtMatmulDescSetAttribute(plan->desc, DESC_A_SCALE, &p->b_inverse, sizeof p->b_inverse) == 0 &&
            blas->cublasLtMatmulDescSetAttribute(plan->desc, DESC_B_SCALE, &p->a_inverse, sizeof p->a_inverse) == 0);
}

/* The library's matrices are column-major: it is asked for Cᵀ = op(B)ᵀ·op(A)ᵀ, so B comes first. */
static void make_plan(struct blas *blas, struct blas_plan *plan, const struct product *p)
{
    int turn_first = p->is_b_turned ? OP_TURNED : OP_PLAIN, turn_second = p->is_a_turned ? OP_TURNED : OP_PLAIN;
    int count = 0;
    uint64_t workspace = BLAS_WORKSPACE;
    uint32_t reduction = REDUCTION_COMPUTE_TYPE;
    struct mat added = added_of(p);
    const struct mat *operands[] = {&p->b, &p->a, &added, &p->c};
    void *preference = NULL;
    bool ok =
        blas->cublasLtMatmulDescCreate(&plan->desc, COMPUTE_32F, TYPE_R_32F) == 0 &&
        blas->cublasLtMatmulDescSetAttribute(plan->desc, DESC_TRANSA, &turn_first, sizeof turn_first) == 0 &&
        blas->cublasLtMatmulDescSetAttribute(plan->desc, DESC_TRANSB, &turn_second, sizeof turn_second) == 0 &&
        blas->cublasLtMatrixLayoutCreate(&plan->b, blas_type(p->b.type, p->b_format),
                                         (uint64_t)(p->is_b_turned ? p->k : p->n),
                                         (uint64_t)(p->is_b_turned ? p->n : p->k), p->b.ld) == 0 &&
        blas->cublasLtMatrixLayoutCreate(&plan->a, blas_type(p->a.type, p->a_format),
                                         (uint64_t)(p->is_a_turned ? p->m : p->k),
                                         (uint64_t)(p->is_a_turned ? p->k : p->m), p->a.ld) == 0 &&
        blas->cublasLtMatrixLayoutCreate(&plan->c, blas_type(p->c.type, p->a_format), (uint64_t)p->n, (uint64_t)p->m,
                                         p->c.ld) == 0 &&
        blas->cublasLtMatrixLayoutCreate(&plan->d, blas_type(p->c.type, p->a_format), (uint64_t)p->n, (uint64_t)p->m,
                                         added.ld) == 0 &&
        blas->cublasLtMatmulPreferenceCreate(&preference) == 0 &&
        blas->cublasLtMatmulPreferenceSetAttribute(preference, PREF_WORKSPACE_BYTES, &workspace, sizeof workspace) ==
            0 &&
        blas->cublasLtMatmulPreferenceSetAttribute(preference, PREF_REDUCTION_MASK, &reduction, sizeof reduction) == 0;

    for (int i = 0; ok && i < 4; i++) {
        uint32_t alignment = (uint32_t)alignment_of(*operands[i]);
        ok = blas->cublasLtMatmulPreferenceSetAttribute(preference, PREF_ALIGNMENT_A + i, &alignment,
                                                        sizeof alignment) == 0;
    }
    plan->is_supported =
        ok && set_scales(blas, plan, p) &&
        blas->cublasLtMatmulAlgoGetHeuristic(blas->handle, plan->desc, plan->b, plan->a, plan->d, plan->c, preference,
                                             blas->is_tuned ? CANDIDATES_MAX : 1, plan->candidate, &count) == 0 &&
        count > 0 && plan->candidate[0].state == 0;
    plan->result = plan->candidate[0];
    plan->candidate_count = plan->is_supported ? count : 0;
    if (preference)
        blas->cublasLtMatmulPreferenceDestroy(preference);
}

static uint32_t hash_of(const struct blas_shape *shape)
{
    const unsigned char *bytes = (const unsigned char *)shape;
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < sizeof *shape; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

static struct blas_plan *plan_of(struct blas *blas, const struct product *p)
{
    struct mat added = added_of(p);
    struct blas_shape shape = {p->m, p->n, p->k, p->a.ld, p->b.ld, p->c.ld, added.ld, blas_type(p->a.type, p->a_format),
                               blas_type(p->b.type, p->b_format), (int32_t)p->c.type, p->is_a_turned, p->is_b_turned,
                               {alignment_of(p->a), alignment_of(p->b), alignment_of(p->c), alignment_of(added)}};
    uint32_t at = hash_of(&shape) % PLANS_MAX;
    struct blas_plan *plan;

    for (; blas->plan[at].is_used; at = (at + 1) % PLANS_MAX)
        if (memcmp(&blas->plan[at].shape, &shape, sizeof shape) == 0)
            return &blas->plan[at];
    if (blas->plan_count == PLANS_FULL) {
        forget_plans(blas);
        at = hash_of(&shape) % PLANS_MAX;
    }
    plan = &blas->plan[at];
    blas->plan_count++;
    plan->is_used = true;
    plan->shape = shape;
    make_plan(blas, plan, p);
    return plan;
}

/* The product by one algorithm, with its results at `to`. */
static blas_status run_plan(struct blas *blas, const struct blas_plan *plan, const struct product *p,
                            const struct blas_result *result, void *to, cudaStream_t stream)
{
    struct mat added = added_of(p);
    float beta = p->d.at ? 1 : 0;

    set_scales(blas, plan, p);
    return blas->cublasLtMatmul(blas->handle, plan->desc, &p->alpha, p->b.at, plan->b, p->a.at, plan->a, &beta,
                                added.at, plan->d, to, plan->c, result->algorithm, blas->workspace,
                                result->workspace_bytes, stream);
}

/* Milliseconds of TUNE_RUNS runs behind one that warms up; infinite if it cannot run. */
static float time_of(struct blas *blas, const struct blas_plan *plan, const struct product *p,
                     const struct blas_result *result, void *to, cudaStream_t stream, cudaEvent_t marks[2])
{
    float ms = INFINITY;

    if (result->state != 0 || result->workspace_bytes > BLAS_WORKSPACE ||
        run_plan(blas, plan, p, result, to, stream) != 0)
        return INFINITY;
    cuda_check(cudaEventRecord(marks[0], stream), "timing products");
    for (int i = 0; i < TUNE_RUNS; i++)
        run_plan(blas, plan, p, result, to, stream);
    cuda_check(cudaEventRecord(marks[1], stream), "timing products");
    cuda_check(cudaEventSynchronize(marks[1]), "timing products");
    cuda_check(cudaEventElapsedTime(&ms, marks[0], marks[1]), "timing products");
    return ms;
}

/* Once for a shape: what the heuristic offers is timed on the operands themselves and the fastest kept. Results go to
 * memory of their own, as a product may add to what it writes; without room for it the heuristic's first stays. */
static void tune(struct blas *blas, struct blas_plan *plan, const struct product *p, cudaStream_t stream)
{
    cudaEvent_t marks[2];
    float best = INFINITY;
    void *to = NULL;

    if (cudaMalloc(&to, (size_t)p->m * (size_t)p->c.ld * dtype_bytes(p->c.type)) != cudaSuccess) {
        cudaGetLastError();
        return;
    }
    for (int i = 0; i < 2; i++)
        cuda_check(cudaEventCreate(&marks[i]), "timing products");
    for (int i = 0; i < plan->candidate_count; i++) {
        float ms = time_of(blas, plan, p, &plan->candidate[i], to, stream, marks);
        if (ms < best) {
            best = ms;
            plan->result = plan->candidate[i];
        }
    }
    for (int i = 0; i < 2; i++)
        cuda_check(cudaEventDestroy(marks[i]), "timing products");
    cuda_check(cudaFree(to), "timing products");
}

static bool has_types(const struct cuda_state *state, const struct product *p)
{
    if (p->a.type != p->b.type || (p->a.type == DTYPE_F32 && p->c.type != DTYPE_F32))
        return false;
    return p->a.type == DTYPE_U8 ? state->has_eight : !p->a_inverse;
}

bool blas_takes(struct queue *queue, const struct product *p)
{
    struct cuda_state *state = cuda_state_of(queue);

    return state->blas && has_types(state, p) && plan_of(state->blas, p)->is_supported;
}

bool blas_run(struct queue *queue, const struct product *p)
{
    struct cuda_state *state = cuda_state_of(queue);
    struct blas *blas = state->blas;
    struct blas_plan *plan;
    blas_status status;

    if (!blas || !has_types(state, p))
        return false;
    plan = plan_of(blas, p);
    if (!plan->is_supported)
        return false;
    if (plan->candidate_count > 1) {
        graphs_break(state);
        tune(blas, plan, p, state->stream);
    }
    plan->candidate_count = 0;
    status = run_plan(blas, plan, p, &plan->result, p->c.at, state->stream);
    state->is_spoilt |= status != 0;
    if (status != 0 && !state->is_recording)
        die("cuda: cuBLASLt refused a product of %d x %d x %d with status %d", p->m, p->n, p->k, status);
    return true;
}
