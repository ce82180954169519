/* model/decoder.h - a model in memory: forward, backward, and the arenas that an optimizer works on.
 *
 * Open one with everything that decides its memory (profile, adapter, training or not, the micro-batch); from then on
 * nothing is allocated. The pass is written once against the op table of compute/backend.h, by hand, both ways; it
 * takes a flat stream of documents (model/batch.h). One thread drives a model; the pool works inside the ops.
 *
 * Training, per optimizer step: model_zero_grads; model_forward_backward for each micro-batch (gradients add up); then
 * model_grad_sumsq and model_update, which writes what the next forward pass reads. */
#pragma once

#include "model/plan.h"
#include "model/batch.h"

struct model;
struct adapter;

struct model_options {
    enum model_profile profile;
    bool is_trained;            /* false: no gradients, no moments: inference and evaluation */
    bool is_random;             /* weights drawn as transformers does, only config.json is read; see model/init.c */
    uint64_t seed;              /* of random weights and of a new adapter's A */
    bool is_nf4;                /* linear layers are quantized while loading, if the files do not hold codes already */
    bool is_fp8; /* trained: products of the layers' attention and MLP are in eight bits, compute/fp8.h */
    struct lora_config lora;    /* rank 0: none. With adapter_folder: taken from its adapter_config.json */
    const char *adapter_folder; /* a PEFT adapter to continue or to serve; NULL: none */
    int32_t slot_rank;          /* inference without an adapter: largest rank that model/adapter.h may open; 0: none */
    const struct backend *backend;
    int device;                 /* of a backend with several */
    bool has_graphs;            /* passes that come again are launched as graphs, by a device that has them */
    struct pool *pool;                                       /* borrowed */
    int thread_count; /* of a plan without a pool; 0: 1 */
    int32_t row_tokens, tokens_wanted, step_tokens, positions, head_rows; /* as in struct plan_request */
    uint64_t limit_bytes;                                    /* 0: none */
    /* Above 0: for timing. Weights are zero and of plain numbers, nothing but config.json is read, and only one in
     * `slice` of the layers and of the rows of the vocabulary is there. */
    int32_t slice;
    const struct plan *plan;                                 /* obeyed when given (plan.json of an earlier attempt) */
    int fixed_keep_plus_one; /* tests: keep mask + 1 for every layer; 0: the plan chooses */
};

bool model_open(struct model **model, const char *folder, const struct model_options *options, struct err *err);
void model_close(struct model *model); /* NULL is fine */
/* What model_open would allocate, from config.json (and the adapter's config) alone: the dry run. */
bool model_plan(const char *folder, const struct model_options *options, struct plan *plan, struct err *err);

/* The same of plan_cost; options->plan is given. */
bool model_cost(const char *folder, const struct model_options *options, const struct batch *batch,
                struct plan_cost *cost, struct err *err);

const struct model_config *model_config(const struct model *model);
const struct params *model_params(const struct model *model);
const struct plan *model_plan_used(const struct model *model);
const struct lora_config *model_lora(const struct model *model); /* rank 0: none */
const char *model_folder(const struct model *model);             /* as given to model_open */
const struct backend *model_backend(const struct model *model);
struct queue *model_queue(struct model *model);

struct model_result {
    double loss;                  /* Σ row_weight · nll: this micro-batch's share of the step's loss */
    double nll_sum;               /* Σ nll over the supervised rows */
    int64_t row_count, hit_count; /* supervised rows; those whose label is the argmax */
};
/* Dropout's place in the counter space: (seed, optimizer step, rows of this step before this micro-batch). Ignored with
 * has_grads false: evaluation drops nothing. */
struct model_step {
    uint64_t seed;
    uint32_t step;
    uint64_t row_offset;
    int64_t tokens; /* of the whole step: the load balance of experts counts a micro-batch by its share */
    /* For losses that are no plain sum over rows: called between the passes, when model_row_nll and model_row_hits hold
     * this batch's; what it returns, [head_row_count], takes the place of row_weight. NULL: not called. */
    const float *(*weigh)(void *context, const struct batch *batch);
    void *context;
};
/* T <= plan tokens, tokens in [0, vocab), positions < plan positions (asserted: callers check data where it enters).
 * Gradients are added to the arena when has_grads (needs is_trained); where a whole step fits a micro-batch
 * (step_tokens) they may lie over activations: they are there from one pass with has_grads, of which a step
 * then has one, to the next pass of any kind. The result adds to what it holds: zero it first. step may be
 * NULL: nothing is dropped. */
void model_forward_backward(struct model *model, const struct batch *batch, bool has_grads,
                            const struct model_step *step, struct model_result *result);
/* The same, but a device's work is only queued: the result is added, and the batch free again, behind model_finish,
 * which waits. Never so with `weigh`. */
void model_queue_pass(struct model *model, const struct batch *batch, bool has_grads, const struct model_step *step,
                      struct model_result *result);
void model_finish(struct model *model);
/* nll[i], f32, of each supervised row of the last model_forward_backward; valid until the next call. */
const float *model_row_nll(const struct model *model);
/* Of the same rows: 1 where the label is the argmax. */
const uint8_t *model_row_hits(const struct model *model);

/* Keys and values of one document of up to `positions`; layers with a window keep those of the window and of one step.
 * NULL: the device has no room. */
struct model_cache {
    void *memory;
    struct kv_cache layer[];
};
struct model_cache *model_cache_new(struct model *model, int32_t positions);
void model_cache_free(struct model *model, struct model_cache *cache); /* NULL is fine */
/* `to` becomes a cache of the first `length` positions of `from`, which both have room for, with the same bits. False:
 * a window has moved past them, and nothing is copied. */
bool model_cache_copy(struct model *model, struct model_cache *to, const struct model_cache *from, int32_t length);
uint64_t model_cache_bytes(const struct model *model, int32_t positions);
enum dtype model_cache_type(const struct model *model);

/* Logits of the given rows, f32 [row_count, vocab] in memory of the caller. cache: NULL, or [layers · doc_count] with
 * layer l's caches at l·doc_count; the tokens' keys and values are appended and each length is moved.
 * adapters: NULL, or one for each document, NULL for none, of a model opened with slot_rank; neighbours with
 * the same one share its products. */
void model_forward(struct model *model, const struct batch *batch, struct kv_cache *cache,
                   const struct adapter *const *adapters, const int32_t *rows, int32_t row_count, float *logits);
enum { ADAPTER_RANGES_MAX = 64 }; /* documents of a batch with adapters */

/* What merging the adapter would change, told by a batch: differences over the largest value beside them. */
struct merge_probe {
    int product_count;         /* adapted products */
    double product_difference; /* largest of all, each with the input that it has in the model */
    const char *product;       /* its weight's name */
    double logit_difference;   /* of up to eight supervised rows, with every product merged */
};
/* Of a model that trains an adapter in f32 or bf16; the batch has supervised rows. Takes memory for a block of rows. */
void model_probe_merge(struct model *model, const struct batch *batch, struct merge_probe *out);

/* Optimizer's view: consecutive stretches of the arenas with the same type, decay and copy rule. */
struct model_range {
    void *master, *grad, *m, *v;
    void *copy; /* NULL: none is read */
    float *m_scale, *v_scale; /* of moments in bytes */
    enum dtype type, moment_type, copy_type;
    uint64_t count, first; /* first: the number of the first element, for stochastic rounding */
    bool has_decay;
};
/* How many there are; MODEL_RANGES_MAX always suffice: norms part the layers into a handful each. */
enum { MODEL_RANGES_MAX = 4096 };
int model_ranges(struct model *model, struct model_range *ranges, int max);
/* AdamW over the ranges, queued: of `rule` are taken sumsq, max_norm, lr, beta1, beta2, eps, decay, step and seed. */
void model_update(struct model *model, const struct model_range *ranges, int count, const struct op_adamw *rule);
/* The gradient arena whole, where all of it is f32: float[count], zeros in the gaps, where operations read
 * it; partial has room for op_sumsq. */
float *model_grads(struct model *model, uint64_t *count, double **partial);
/* Sum of squares of the whole gradient, in the memory of operations (which take it for clipping) and as a number. */
const double *model_grad_sumsq(struct model *model, double *value);
/* The same without waiting: model_sumsq_value is the number behind model_finish, of a step that had a pass. */
const double *model_queue_grad_sumsq(struct model *model);
double model_sumsq_value(const struct model *model);
/* The gradients of all trained params, one behind the other in their order, whatever that of the arena is, where all of
 * them are f32: float[trained_count] of the caller. */
void model_grads_read(struct model *model, float *grads);
void model_zero_grads(struct model *model);

/* Where a param's numbers are, in the memory of operations, one row after the other with ld elements between rows. For
 * PROFILE_F64 the pointers are to double. */
struct param_view {
    void *master, *grad, *m, *v; /* NULL where there is none */
    int32_t rows, cols, ld;
    enum dtype type, moment_type;
};
struct param_view model_param_view(struct model *model, int param);
/* Scales of all moments in bytes, params_scale_count of them in the order of the arenas; NULL: there are none. */
float *model_moment_scales(struct model *model, bool is_v);
/* Sum of squares of a trained param's gradient (not of PROFILE_F64), row by row in f64. */
double model_param_grad_sumsq(struct model *model, int param);
/* After masters were changed from outside (recovery, finite differences): writes the compute copy again. */
void model_masters_changed(struct model *model);
