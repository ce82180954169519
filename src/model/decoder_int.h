/* model/decoder_int.h - what the files of the decoder share: the carved model and its steps. */
#pragma once

#include "model/decoder.h"
#include "model/modules.h"

#include <math.h>

enum linear { LINEAR_QKV, LINEAR_O, LINEAR_GATE_UP, LINEAR_DOWN, LINEAR_KINDS };
enum slot linear_slot(enum linear linear);
enum slot linear_bias(enum linear linear);

/* Everything a model allocates, one block each; mapped weights are not allocated but counted: their pages are read in
 * every step. */
#define REGIONS(X)                                                                                                     \
    X(MASTERS, "masters", WEIGHTS)                                                                                     \
    X(GRADS, "gradients", GRADIENTS)                                                                                   \
    X(MOMENT_M, "moment m", OPTIMIZER)                                                                                 \
    X(MOMENT_V, "moment v", OPTIMIZER)                                                                                 \
    X(COPY, "compute copy", WEIGHTS)                                                                                   \
    X(FROZEN, "frozen weights", WEIGHTS)                                                                               \
    X(MAPPED, "mapped weights", WEIGHTS)                                                                               \
    X(PANELS, "panels of weights", WEIGHTS)                                                                            \
    X(KEPT, "kept activations", ACTIVATIONS)                                                                           \
    X(WORKING, "working set", ACTIVATIONS)                                                                             \
    X(HEAD, "head chunk", ACTIVATIONS)                                                                                 \
    X(TABLES, "tables", ACTIVATIONS)                                                                                   \
    X(SCRATCH, "op scratch", ACTIVATIONS)

enum region_id {
#define REGION_ENUM(id, name, part) REGION_##id,
    REGIONS(REGION_ENUM)
#undef REGION_ENUM
        REGION_COUNT
};

/* A product with its adapter, and where its gradients go (at NULL: nowhere). */
struct linear_state {
    struct weight weight;
    struct mat dw, da, db;
    struct mat own_a, own_b; /* where the adapter trains, if products read a copy beside the weight; at NULL: no copy */
    struct mat magnitude, dmagnitude, inverse, gain; /* DoRA's; at NULL: none */
};

/* The embedding's adapter: x += B·u, u = scale · A[tok], with A as a table of rows. */
struct embed_state {
    struct mat a, da, db, u, du; /* a.at NULL: none */
    struct weight b;
    float scale;
};

/* Who computes which token in a layer of experts; see op_route. */
struct routing {
    struct mat logits, weight, row_weight; /* [T, E], [T, top], [1, T·top] */
    int32_t *row, *token, *row_end;        /* [T·top], [T·top], [E] */
};

/* A norm, a bias or sinks. */
struct vector_state {
    struct mat w, dw;
};

/* Activations of one layer: slots that are kept, or the working set shared by all layers. A matrix that this model has
 * no use for has at NULL. t holds the adapter's columns of an input that is not kept although its product is not run
 * again.
 *
 *   y1 = norm1(x)            qkv = y1·W + bias, raw its q and k, then normed and rotated in place
 *   att = attention(qkv)     o = att·W + bias              mid = x + post1(o)
 *   y2 = norm2(mid)          gate_up = y2·W + bias         down = act(gate)∘up·W + bias        next x = mid +
 * post2(down)
 *
 * In a layer of experts gate_up and down have a row for each choice of a token, sorted by expert (model/experts.c), and
 * the next x = mid + Σ weight·down of the token's rows.
 *
 * Without a norm before, y1 is x in the type of products; without one behind, o and down are added where they arise. */
struct layer {
    struct vector_state vector[SLOT_COUNT]; /* by slot; w.at NULL: this model has none */
    struct linear_state linear[LINEAR_KINDS], router, experts_in, experts_out;
    struct routing routing;
    struct mat x, y1, qkv, raw, att, o, mid, y2, gate_up, down;
    struct mat t[LINEAR_KINDS];
    void *lse, *rstd1, *post_rstd1, *rstd2, *post_rstd2;
    uint8_t keep;
    uint64_t kept_end; /* bytes of kept activations up to this layer's */
};

/* Passes that a device may have before it: the host's word that it is alive comes with each of them. */
enum { PENDING_MAX = 16 };

struct model {
    struct arena arena;
    const char *folder;
    struct model_config config;
    struct params params;
    struct lora_config lora;
    struct plan plan;
    bool is_trained;
    bool is_fp8; /* products of layers are in eight bits */
    int32_t step_tokens; /* most of an optimizer step; 0: not known */
    int32_t slot_rank; /* of adapters that may be opened beside each other; 0: none may */
    const struct backend *backend;
    const struct backend *panel_backend; /* in whose order weights lie; NULL: row by row */
    const struct memory *memory; /* the backend's */
    struct queue queue;
    struct safetensors_set set;

    char *region[REGION_COUNT];
    uint64_t region_bytes[REGION_COUNT];
    bool grads_lie_over; /* the kept activations, from grads_at on: see lay_over in carve.c */
    uint64_t grads_at;
    bool has_gradients;  /* a pass has added to the gradients since model_zero_grads */

    /* Carved from the regions by model_carve. */
    struct layer *layer;
    struct mat embed, dembed, final_norm, dfinal_norm;
    struct linear_state head;
    struct embed_state embed_adapter;
    struct mat z, dz; /* DoRA: a product before its gain, the gradient behind it */
    struct mat x_last; /* output of the last layer */
    struct mat h, dr, dy, dh, dqkv, datt, dnorm;
    struct mat experts_x, experts_h, dexperts_h, dexperts_x, dlogits_router; /* shared by the layers of experts */
    struct mat load, daux; /* [2, E] choices and probabilities of a pass, all layers; [1, E] the balance's gradient */
    struct mat head_x, head_y, logits, dlogits, head_dy, head_dx;
    void *head_rstd, *nll;
    uint8_t *hit;
    float *cos_sin[ROPE_MAX];    /* a table for each kind of layer */
    int32_t *rope_row[ROPE_MAX]; /* [T] which of its rows each token takes */
    double *partial, *sumsq;
    /* With a memory of its own: where a batch is put, and what the host sees of it and of the last pass's losses. */
    int32_t *device_batch, *host_batch;
    /* Of its transfers: pending.row_nll and row_hit of all, and the sum of squares; NULL: the host had none to pin. */
    void *host_rows;
    double *host_sumsq;
    struct pending {
        const float *row_weight;
        int32_t count;
        struct model_result *result;
        float *row_nll;
        uint8_t *row_hit;
    } pending[PENDING_MAX]; /* passes whose losses are on their way */
    int pending_count;
    const struct graphs *graphs; /* NULL: a pass is launched one by one */
    int32_t *padded;             /* with them: a batch whose T is one of few, on the host */
};

/* Whether the plan put it into memory of the host that the device reaches. */
bool region_is_on_host(const struct model *m, enum region_id id);

struct probe; /* probe.c */

/* One pass over a micro-batch. */
struct pass {
    const struct batch *batch;
    struct kv_cache *cache;        /* NULL in training */
    const struct adapter_range {
        const struct adapter *adapter; /* NULL: none */
        int32_t row_end;
    } *ranges;                     /* of rows that meet adapters opened beside the model; NULL: all meet its own */
    int32_t range_count;
    const struct model_step *step; /* NULL: no dropout */
    bool begins_grads;             /* gradients become zeros before each layer's, not before the pass; those of products
                                    * are written */
    struct probe *probe;           /* NULL but in model_probe_merge */
};

/* The rotation of a layer: its table (NULL: none), and the batch with the table's rows for positions. */
struct batch pass_rope(const struct model *model, int32_t layer, const struct pass *pass, const float **cos_sin);
static inline int32_t layer_rot(const struct model_config *config, int32_t layer)
{
    int rope = config->layer[layer].rope;

    return rope < 0 ? 0 : config->rope[rope].dim;
}

/* carve.c: sets every matrix of the model from model->region (which may be made up: nothing is touched) and the bytes
 * that each region needs. Needs config, params, plan (tokens, head_rows, positions, keep) and is_trained. Memory for
 * the structs comes from the model's arena, once. */
void model_carve(struct model *model);
/* The same of a model of which only an adapter is there: its matrices and their panels, nothing of the base. */
void adapter_carve(struct model *model);
/* Where the gradients' arena begins. */
char *model_grads_base(const struct model *model);

/* adapter.c: of a layer's product; NULL: it has none there. */
const struct weight *adapter_weight(const struct adapter *adapter, int32_t layer, enum linear linear);
/* Queues the products of a pass with the largest adapters that may be opened, and those of the
 * largest odd rank: what plans count. */
void adapter_probe(struct model *model, const struct pass *pass);

/* arenas.c: zeros for the gradients of a layer, -1: of what belongs to none. Those of dense products stay as they are,
 * their first linear_grad_w of the pass is_fresh; so is the head's where rows meet it. */
void grads_begin(struct model *model, int32_t layer, bool has_head_rows);

/* panels.c: has the backend lay out what model_carve gave panels, once a model that is not trained is filled. The rows
 * of what was laid out in place are gone. */
void lay_out_panels(struct model *model);

/* forward.c */
void forward_layers(struct model *model, const struct pass *pass);
/* Queues again what the layer did not keep, with the same bits. */
void forward_restore(struct model *model, int32_t layer, const struct pass *pass);
/* Copies the adapter's columns of an input that will be lost into their slot, or back. */
void forward_adapter_columns(struct model *model, int32_t layer, enum linear linear, bool is_restored, int32_t T);
void forward_head(struct model *model, const int32_t *rows, int32_t count, struct mat logits, const struct pass *pass,
                  int32_t at); /* row `at` of the head's rows is the first */
/* Gains of rows without an adapter, once; then all others from the masters as they are. */
void forward_first_gains(struct model *model);
void forward_gains(struct model *model);
struct mat mat_rows(struct mat mat, int32_t rows);              /* the first rows */
struct mat mat_below(struct mat mat, int32_t first, int32_t count); /* rows from `first` on */
struct mat mat_columns(struct mat mat, int32_t first, int32_t count);  /* columns from `first` on */
struct mat mat_tail(struct mat x, const struct weight *weight); /* the adapter's columns behind x */
/* The weight as this pass sees it, and dropout's place in the counter space: none without a step. */
struct weight pass_weight(const struct linear_state *state, const struct pass *pass);
struct dropout pass_dropout(const struct pass *pass, int32_t layer, enum linear linear);
struct dropout head_dropout(const struct model *model, const struct pass *pass, int32_t at);

/* experts.c: the MLP of a layer of experts. forward: out = mid + what the experts make of y2; restore: what was not
 * kept; grad: from dy to dnorm, the gradient of y2. */
void experts_forward(struct model *model, int32_t layer, struct mat mid, struct mat out, const struct pass *pass);
void experts_restore(struct model *model, int32_t layer, const struct pass *pass);
void experts_grad(struct model *model, int32_t layer, struct mat dy, const struct pass *pass);
/* coefficient times the load-balance loss of the pass that forward_layers ran; its gradient goes to daux. */
double experts_balance(struct model *model, int32_t T, double coefficient);

/* backward.c: head_pass runs all supervised rows through the head in chunks, forward and (has_grads) backward into dr.
 */
void head_pass(struct model *model, const struct pass *pass, bool has_grads);
void backward_layers(struct model *model, const struct pass *pass);

/* graphs.c: graphs from now on, where the device has them; forward_layers and backward_layers by way of them.
 * graphs_batch: the batch as passes take it then, good until the next one. */
void graphs_open(struct model *model);
struct batch graphs_batch(struct model *model, const struct batch *batch);
void graphs_forward(struct model *model, const struct pass *pass);
void graphs_backward(struct model *model, const struct pass *pass);

/* probe.c: after a product of a layer that may have an adapter. */
void probe_product(struct model *model, struct probe *probe, enum slot slot, int32_t layer, const struct op_linear *op);

/* load.c, init.c */
void load_base(struct model *model);
bool load_adapter(struct model *model, const char *folder, struct err *err);
/* What an adapter's file calls a param that it holds. */
const char *adapter_tensor_name(const struct param *param);
/* First element of a param in memory, with the row distance and the type found there; NULL: only in its file. */
char *param_address(const struct model *model, const struct param *param, int32_t *ld, enum dtype *type);
/* The base's numbers of a param as the host can read them, in its file or in memory; *copy is to be freed. */
struct mat param_base(struct model *model, const struct param *param, void **copy);
/* Puts a whole tensor [rows, cols] where its param lives, master or frozen copy, converted. */
void param_place(struct model *model, int param, const void *values, enum dtype type);
void init_random(struct model *model, uint64_t seed);
void init_adapter(struct model *model, uint64_t seed);

/* convert.c: count elements between F32, BF16, F16 and F64, rounding to nearest even. Any alignment. */
void convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, size_t count);
/* Two matrices of these short or single types whose numbers are the same. */
bool tensor_has_values(const struct safetensor *a, const struct safetensor *b);

/* plan.c: regions and total of a plan whose choices are made. */
bool plan_settle(const struct plan_request *request, struct plan *plan, struct err *err);
