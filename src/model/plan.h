/* model/plan.h - memory, before anything is allocated.
 *
 * Shapes give bytes. plan_make is pure: from the parameter table, the wanted micro-batch and a limit it chooses how
 * many tokens a micro-batch holds, how many rows a head chunk has and which activations each layer keeps, and lists
 * every region with its bytes; a model allocates exactly these. Missing activations are computed again in the backward
 * pass with the same bits, so the plan never changes a number except through the grouping of f32 sums by micro-batch
 * and head chunk; in eight bits also through the scales of activations and gradients, which are a micro-batch's own.
 *
 * To meet a limit it gives up, in this order and only as far as needed: kept norms, tokens down to TOKENS_ENOUGH, head
 * rows down to 64, gate‖up, q‖k‖v, whole blocks, tokens down to the longest row. If that does not suffice on a device,
 * the optimizer's moments go to the host's memory and it begins anew; then it refuses and says what to change. */
#pragma once

#include "model/params.h"
#include "base/json.h"

enum { PLAN_REGIONS_MAX = 24, PLAN_LAYERS_MAX = 512, TOKENS_ENOUGH = 512 };

/* Which activations of a layer outlive its forward pass. */
enum keep {
    KEEP_NORM1 = 1,
    KEEP_QKV = 2, /* and q and k as they were before a norm on them */
    KEEP_ATTENTION = 4,
    KEEP_MIDDLE = 8, /* and what a norm behind attention reads */
    KEEP_NORM2 = 16,
    KEEP_GATE_UP = 32,
    KEEP_MLP = 64, /* what a norm behind the MLP reads */
    KEEP_ALL = 127
};

#define PLAN_PARTS(X)                                                                                                  \
    X(WEIGHTS, "weights") X(GRADIENTS, "gradients") X(OPTIMIZER, "optimizer") X(ACTIVATIONS, "activations")
enum plan_part {
#define PLAN_PART_ENUM(id, name) PLAN_##id,
    PLAN_PARTS(PLAN_PART_ENUM)
#undef PLAN_PART_ENUM
    PLAN_PART_COUNT
};
const char *plan_part_name(enum plan_part part);

struct plan_region {
    const char *name;
    enum plan_part part;
    char formula[96];
    uint64_t bytes;
    bool is_on_host;
};

struct plan {
    int32_t tokens;                /* most of a micro-batch */
    int32_t head_rows;             /* of one head chunk */
    int32_t positions;             /* of the rope table */
    uint8_t keep[PLAN_LAYERS_MAX]; /* per layer */
    struct plan_region region[PLAN_REGIONS_MAX];
    int region_count;
    bool moments_on_host;          /* beside a device: pinned memory of the host, where the optimizer works in place */
    uint64_t total_bytes;          /* without those of the host, */
    uint64_t host_bytes;           /* which are these */
    uint64_t limit_bytes;
    /* On disk, of a checkpoint and of a recovery point's state, as checkpoint_bytes tells; set by model_open and
     * model_plan; 0 for a model that is not trained. */
    uint64_t checkpoint_bytes, state_bytes;
};

struct plan_request {
    const struct model_config *config;
    const struct params *params;
    bool is_trained;       /* gradients and moments are needed */
    bool is_fp8;           /* as in struct model_options */
    int32_t row_tokens;    /* longest row: the least that a micro-batch must hold (context_length) */
    int32_t tokens_wanted; /* most that is useful: batch_size · context_length; at least row_tokens */
    int32_t step_tokens;   /* most of an optimizer step; where a micro-batch holds them all gradients lie over
                            * activations. 0: not known */
    int32_t positions;     /* positions run below this; 0: row_tokens */
    int32_t head_rows;     /* inference: rows of logits at once; 0: the plan chooses */
    int32_t slot_rank;     /* of adapters that may be opened beside the model, as in struct model_options */
    uint64_t limit_bytes;  /* 0: none */
    int fixed_keep;        /* tests: this keep mask in every layer; -1: chosen */
    const struct backend *backend;
    int thread_count;
};
bool plan_make(const struct plan_request *request, struct plan *plan, struct err *err);

uint64_t plan_part_bytes(const struct plan *plan, enum plan_part part); /* without what lies with the host */

/* What a pass over a batch costs, forward and backward, under a plan whose choices are made; with the parameters that
 * there are. Nothing is allocated or computed: the counting backend runs the pass. */
struct plan_cost {
    double forward_flops, head_flops; /* of the layers; of the head, without its gradient */
    double flops;                     /* of everything, what the plan computes again included */
    uint64_t parameters, trained_parameters;
};
bool plan_cost(const struct plan_request *request, const struct plan *plan, const struct batch *batch,
               struct plan_cost *cost, struct err *err);

/* What is computed again, for people: "norms in 4 of 16 layers", "nothing". */
void plan_recomputed(const struct plan *plan, int32_t layers, struct strbuf *out);
/* Region lines, the choice and the total, for people. */
void plan_print(const struct plan *plan, const struct model_config *config, struct strbuf *out);
/* plan.json, {"format":1,"tokens":…,"head_rows":…,"positions":…,"keep":[…],"regions":[…],"total_bytes":…}; plan_read
 * takes the choices back and leaves regions empty (model_open works them out again). */
void plan_write(const struct plan *plan, const struct model_config *config, struct json_writer *writer);
bool plan_read(const struct json *json, const struct model_config *config, struct plan *plan, struct err *err);
