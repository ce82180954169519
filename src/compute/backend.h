/* compute/backend.h - the operations that a model is written in, and who carries them out.
 *
 * Model code is written once against this table. A backend is a `struct backend`: one function per operation, all
 * with the same shape `op(queue, arguments)`. An operation only queues work; on the CPU it is done when the call
 * returns. Operations never allocate, never fail and never block: what a backend cannot do, it says when the plan
 * asks `can`, and the memory it needs beside its operands, it names in `scratch_bytes`.
 *
 * Three rules keep the table small. A type, stride or shape variant is data, not a name. An operation enters only if
 * it removes a pass over [T, D]-sized memory or is another algorithm. A fused form is a field (`add`, `bias`).
 *
 * Letters: T tokens of a micro-batch, D hidden size, F width of the MLP, H query heads, Hkv key/value heads, d head
 * size, V vocabulary, R adapter columns; a stored weight is [N, K] = [out, in].
 *
 * Every matrix is row-major with a leading dimension, in elements, that may exceed its columns: producers leave room
 * behind each row for the adapter's columns (see op_linear).
 *
 * Numbers. Products sum in f32 (in f64 in the reference) and round once to the type of the result. Statistics
 * (rstd, lse, nll) are f32; with f64 activations (reference only, for finite differences) they are f64 too: their
 * pointers then are to double. Every sum has one order which depends on shapes alone, never on threads or timing.
 *
 * Backends: compute/ref is plain C with sums in double, the oracle that every other one is tested against, for ever;
 * compute/cpu is the fast one; compute/count computes nothing and adds up FLOPs, bytes and scratch for the plan. */
#pragma once

#include "base/err.h"
#include "base/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64, DTYPE_I32, DTYPE_I64, DTYPE_U8, DTYPE_COUNT };
size_t dtype_bytes(enum dtype type);
const char *dtype_name(enum dtype type); /* "F32", "BF16": safetensors' spelling */

struct mat {
    void *at;
    int32_t rows, cols, ld; /* ld in elements, >= cols */
    enum dtype type;
};

struct nf4;
/* Rows from tensors that are quantized each by itself: frozen codes (compute/nf4.h), or in products (compute/fp8.h). */
struct quant {
    const struct nf4 *part;  /* [part_count]; NULL: the numbers are in w, and products take them in eight bits */
    const int32_t *row_end;  /* [part_count] part i is rows row_end[i-1] .. row_end[i] */
    int32_t part_count;      /* 0: the weight is plain */
};

enum { WEIGHT_PARTS_MAX = 7 };

/* One stored product such as q‖k‖v, with its adapter. */
struct weight {
    struct mat w;        /* [N, K], F32, BF16 (or F64); beside BF16 the host reads F32 rounded to BF16 */
    struct quant quant;  /* with codes, w.at is NULL and products read what they stand for, rounded to w.type */
    const void *panels;  /* frozen weights: w as the backend's lay_out wrote it, which `linear` then reads instead;
                          * x, w, a and b have one type then. NULL: none */
    const void *a_panels, *b_panels; /* the same of a and b */
    struct mat a, b;     /* adapter in the compute type: a [R, K], b [N, R]; rows 0: none. For a fused weight b is
                          * block-diagonal: one block per part, zeros between (linear_grad_w keeps them zero). */
    const int32_t *part_rows; /* NULL: one part. Else parts of N, in order, [part_count + 1]: part i owns rows
                               * part_rows[i] .. part_rows[i+1] of w and b, */
    const int32_t *part_cols; /* with them: and rows part_cols[i] .. part_cols[i+1] of a, which are columns of b; none:
                               * the part has no adapter */
    const float *part_scale;  /* [part_count], its lora_scale; NULL: all have that of the weight */
    int32_t part_count;
    float lora_scale;    /* alpha / r */
    float lora_dropout;  /* on the input of a; 0 in evaluation */
};

/* The micro-batch: a flat stream of documents, no padding. All host arrays, built before the step. */
struct batch {
    int32_t T;                  /* tokens */
    int32_t doc_count;
    const int32_t *cu_seqlens;  /* [doc_count + 1], from 0 to T */
    const int32_t *tok;         /* [T] */
    const int32_t *pos;         /* [T], from 0 in each document */
    const int32_t *doc_length;  /* [doc_count] tokens of the whole documents where these are pieces; NULL: of these */
    const int32_t *by_token;    /* [T] rows sorted by (token, row): embed_grad sums in this order */
    int32_t head_row_count;     /* supervised rows */
    const int32_t *head_rows;   /* [head_row_count] rows whose next token is a label, ascending */
    const int32_t *label;       /* [head_row_count] that next token */
    const float *row_weight;    /* [head_row_count] supervision weight times 1/divisor of the optimizer step */
};

enum norm_kind {
    NORM_LLAMA /* rounded to the type of x, then times w */,
    NORM_F32 /* times w in f32 */,
    NORM_ONE_PLUS /* times 1+w in f32 */
};
enum act { ACT_SILU, ACT_GELU_TANH, ACT_OSS };
enum qk_norm {
    QK_NORM_NONE,
    QK_NORM_HEAD /* over the d of each head */,
    QK_NORM_WHOLE /* over all columns of q, all of k */
};

/* x[t] = scale · table[tok[t]] */
struct op_embed {
    struct mat x;       /* [T, D] */
    struct mat table;   /* [V, D] */
    const struct batch *batch;
    float scale;
};
/* dtable[v] += scale · Σ dx[t] over the rows t with tok[t] = v, in the order of by_token. dtable F32 or BF16 (or F64).
 * With has_padding the row of one token gets nothing: nn.Embedding's padding_idx. */
struct op_embed_grad {
    struct mat dx, dtable;
    const struct batch *batch;
    float scale;
    bool has_padding;
    int32_t padding;
};

/* r = a + b (b optional; r may be a); y = norm(r)·w + add; rstd[t] = (mean(r²) + eps)^-½. */
struct op_norm {
    struct mat a, b, r, y; /* [T, D]; b.at NULL: r is not written and a is normed */
    struct mat w;          /* [1, D] */
    struct mat add;        /* [T, D], optional, may be y: the residual of a block that norms its branch's output, a */
    void *rstd;            /* [T] f32, NULL: not kept */
    float eps;
    enum norm_kind kind;
};
/* dr += rstd·(dy∘w) - r·rstd³·mean(dy∘w∘r): dr comes in holding the residual's gradient and leaves with the sum. dy, r
 * and dr may each be F32 or BF16: behind a norm with `add`, dy is the residual's gradient and dr that of the branch's
 * output. dw[j] += Σ_t dy·r·rstd, partial sums over blocks of 256 rows added in order; dw.at NULL: w is frozen. */
struct op_norm_grad {
    struct mat dy, r, dr;
    struct mat w, dw;
    const void *rstd;
    float eps;
    enum norm_kind kind;
    bool is_fresh;         /* dr is written, not added to */
};

/* Norms q and k, if asked, and rotates them, in place in qkv [T, (H+2Hkv)·d]: (a·cos - b·sin, b·cos + a·sin) for the
 * halves a, b of the first `rot` dims of each head, angles from cos_sin[pos[t]]; the dims behind are normed alone. */
struct op_qk_rope {
    struct mat qkv;
    struct mat raw;            /* [T, (H+Hkv)·d], optional, the type of qkv: receives q and k as they came in */
    struct mat q_norm, k_norm; /* [1, d] for QK_NORM_HEAD, [1, H·d] and [1, Hkv·d] for QK_NORM_WHOLE */
    enum qk_norm qk_norm;
    enum norm_kind kind;
    float eps;
    const struct batch *batch;
    const float *cos_sin;      /* [positions, rot]: rot/2 cosines, then rot/2 sines; f32. NULL: no rotation */
    int32_t heads, kv_heads, head_dim, rot;
};
/* dqkv comes in holding the gradients of the finished q and k and leaves with those of raw; its part for v is not
 * touched. dq_norm, dk_norm += their sums over rows (and heads), by partial sums of 32 rows in order;
 * .at NULL: frozen. */
struct op_qk_rope_grad {
    struct mat dqkv;
    struct mat raw;            /* as the operation left it; not read without a norm */
    struct mat q_norm, k_norm, dq_norm, dk_norm;
    enum qk_norm qk_norm;
    enum norm_kind kind;
    float eps;
    const struct batch *batch;
    const float *cos_sin;
    int32_t heads, kv_heads, head_dim, rot;
};

/* Keys and values of earlier tokens of one document (inference). Position p lies in row p mod capacity of [capacity,
 * Hkv·d], or where the backend's own order of such rows has it (cache_bytes). A multiple of KV_ROWS: at least as many
 * as the document has positions, or with a window window - 1 and the rows that one attend appends. */
enum { KV_ROWS = 64 };
struct kv_cache {
    void *k, *v;           /* zeros, or finite numbers that an attend wrote */
    int32_t length;        /* positions already there; attend appends its own behind them (the caller moves length) */
    int32_t capacity;
    enum dtype type;       /* qkv's */
};
/* Causal attention within each document: out[t] = Σ_s softmax_s(scale · q[t]·k[s]) v[s], s <= t in the same document,
 * and s > t - window if window > 0. Query head h reads key head h / (H/Hkv). No T×T memory. */
struct op_attend {
    struct mat qkv;        /* [T, (H+2Hkv)·d], q heads, then k heads, then v heads */
    struct mat out;        /* [T, H·d] */
    struct mat sinks;      /* [1, H] F32, optional: one more score of each softmax of the head, which has no value */
    void *lse;             /* [H, T] f32: log Σ exp of the scores, the sink's among them, natural; NULL: not kept */
    const struct batch *batch;
    struct kv_cache *cache; /* [doc_count], NULL in training */
    int32_t heads, kv_heads, head_dim, window;
    float scale;
    float softcap;         /* above 0: a scaled score s becomes softcap·tanh(s / softcap) */
};
/* dqkv is written whole (q, k and v parts) from dout, with out and lse of the forward pass.
 * dsinks[h] -= Σ_t exp(sinks[h] - lse[h, t])·(dout·out), by partial sums of 256 rows in order. */
struct op_attend_grad {
    struct mat qkv, out, dout, dqkv;
    struct mat sinks, dsinks; /* [1, H] F32; dsinks.at NULL: frozen */
    const void *lse;
    const struct batch *batch;
    int32_t heads, kv_heads, head_dim, window;
    float scale, softcap;
};

/* y = cap(x·Wᵀ + t·Bᵀ + bias + add),  t = lora_scale · drop(x)·Aᵀ,  cap(y) = softcap·tanh(y / softcap).
 *
 * Experts: with row_end [E] (see op_route) the weight holds E weights one behind the other, w [E·N, K], a [E·R, K],
 * b [E·N, R], bias [E, N], gradients alike, and the rows of an expert meet its own; part_rows are of one expert.
 *
 * t [T, R] lies in spare columns behind x (x.ld >= K + R) so that one product over K + R serves both: y = [x|t]·[W|B]ᵀ.
 * The op writes it there; linear_grad_w reads it. Without an adapter nothing behind x is touched. */
struct dropout {
    uint64_t seed;
    uint32_t step, layer; /* layer: a number that is unique per weight; counter = row · K + column, row counted over the
                           * optimizer step: row_offset + row */
    uint64_t row_offset;
};
/* Several adapters on one weight: rows row_end of the one before .. row_end meet the a, b, parts and scales of
 * `weight`, whose w nobody reads; NULL: rows without an adapter. */
struct adapter_rows {
    const struct weight *weight;
    int32_t row_end;
};
struct op_linear {
    struct mat x, y;
    const struct weight *w;
    const int32_t *row_end; /* NULL: one product. Else experts, see below */
    const struct adapter_rows *adapters; /* [adapter_count], NULL: all rows meet w's own. Inference, without row_end */
    int32_t adapter_count;
    struct mat bias;       /* [1, N], optional */
    struct mat add;        /* [T, N], optional: the residual; may be y */
    float softcap;         /* 0: none. Of logits: op_loss takes it into the gradient */
    struct dropout dropout; /* used when w->lora_dropout > 0 */
    const struct weight *next; /* optional: what the next product will read, so that who waits can begin */
};
/* dt = lora_scale · dy·B, written behind dy (dy.ld >= N + R);  dx (+)= dy·W + drop'(dt·A). */
struct op_linear_grad_in {
    struct mat dy, dx;
    const struct weight *w;
    const int32_t *row_end;
    struct dropout dropout;
    bool is_added;         /* dx += instead of dx = */
};
/* dW += dyᵀ·x, dbias += Σ_t dy (by partial sums of 256 rows in order), dA += dtᵀ·drop(x), dB += dyᵀ·t, each where its
 * .at is not NULL; with x and t, dy and dt as the two ops above left them. dW is F32 or BF16, the other gradients F32
 * (or all F64). A dB of parts stays zero outside its blocks. dB is stored unscaled: t already carries lora_scale. dt
 * too. */
struct op_linear_grad_w {
    struct mat x, dy;
    const struct weight *w;
    const int32_t *row_end;
    struct mat dw, dbias, da, db;
    struct dropout dropout;
    bool is_fresh;         /* dW is written, not added to; not of experts */
};

/* h = act(gate) ∘ up, gate_up [T, 2F] = gate ‖ up. ACT_OSS: h = gate·σ(1.702·gate) ∘ (up + 1) of a gate at most
 * act_limit and an up within ±act_limit; the gradient of what was cut off is 0. */
struct op_glu {
    struct mat gate_up, h;
    enum act act;
    float act_limit;       /* above 0 for ACT_OSS; the others have none */
};
/* gate_up is overwritten by its gradient; h (optional) is written again for the weight gradient of what reads it. */
struct op_glu_grad {
    struct mat gate_up, dh, h;
    enum act act;
    float act_limit;
};

/* Gather: y[i] = add[i] + Σ_f scale[i·fan + f]·x[index[i·fan + f]], f in order. Scatter (is_scatter): y[index[i]] +=
 * x[i], indices distinct. */
struct op_rows {
    struct mat x, y;
    struct mat scale;      /* [1, count·fan] F32, optional; gather only, as all of what follows but is_scatter */
    struct mat add;        /* [count, D], optional, may be y */
    const int32_t *index;  /* [count·fan] */
    int32_t count;
    int32_t fan;           /* rows that one is made of; 0 is 1 */
    bool is_scatter;
};

enum { ROUTE_EXPERTS_MAX = 1024 };

/* Mixture of experts: who computes which token. The experts of token t are those of its `top` largest logits, best
 * first, the first of equals. weight[t, j] is softmax(logits[t]) of its j-th; is_normalized: divided by the sum of the
 * chosen, which is the softmax over the chosen alone.
 *
 * The experts' products run on T·top rows, sorted by expert and then by token: expert e owns rows row_end[e - 1] ..
 * row_end[e], row[t·top + j] is the row of a choice, token[i] the token of a row and row_weight[i] its weight.
 * load[0, e] += choices of e, load[1, e] += Σ_t softmax(logits[t])[e], by partial sums of 256 tokens in order. */
struct op_route {
    struct mat logits;     /* [T, E], E at most ROUTE_EXPERTS_MAX */
    struct mat weight;     /* [T, top] F32 */
    struct mat row_weight; /* [1, T·top] F32 */
    struct mat load;       /* [2, E] F32, optional */
    int32_t *row, *token;  /* [T·top] */
    int32_t *row_end;      /* [E] */
    bool is_normalized;
};
/* dlogits is written from dout, the gradient of Σ_j weight[t, j]·y[row[t·top + j]], and from aux, that of every
 * softmax(logits[t]). */
struct op_route_grad {
    struct mat logits;     /* [T, E] */
    struct mat dlogits;    /* [T, E] */
    struct mat weight;     /* [T, top], as route left it, like row */
    struct mat y;          /* [T·top, D], what the experts made */
    struct mat dout;       /* [T, D] */
    struct mat aux;        /* [1, E] F32, optional */
    const int32_t *row;
    bool is_normalized;
};

/* Per row: nll = log Σ exp(logits) - logits[label], hit = (argmax is label, first on ties). With coef, logits become
 * coef[i]·(softmax - onehot)·(1 - (logit / softcap)²): the gradient of what was there before op_linear capped it. n
 * rows of V; logits BF16 or F32 (or F64). With `grad` the gradient goes there instead, rounded to its type; its rows
 * may begin where those of logits do: that of a shorter type then takes the front of each. */
struct op_loss {
    struct mat logits;
    struct mat grad;       /* [n, V], optional */
    const int32_t *label;  /* [n] */
    const float *coef;     /* [n] or NULL: forward only */
    float *nll;            /* [n] */
    uint8_t *hit;          /* [n] */
    float softcap;         /* that the logits were capped with; 0: none */
};

/* y = x converted to y's type (is_added: y += x). */
struct op_copy {
    struct mat x, y;
    bool is_added;
};

/* DoRA: inverse[n] = 1 / ‖W_n + scale · B_n·A‖, a constant to the gradient; gain[n] = magnitude[n] · inverse[n]. Sums
 * of squares are in double. */
struct op_dora {
    struct mat w;             /* [N, K] */
    struct mat a, b;          /* [R, K], [N, R] */
    struct mat magnitude;     /* [1, N] */
    struct mat inverse, gain; /* [1, N], F32 (or F64): written */
    float scale;
};
/* y = x ∘ gain + bias + add, gain for each column */
struct op_gain {
    struct mat x, y;      /* [T, N] */
    struct mat gain;      /* [1, N] */
    struct mat bias, add; /* [1, N], [T, N], optional; add may be y */
};
/* dmagnitude[n] += inverse[n] · Σ_t dy·x, with x as op_gain read it; partial sums over blocks of 256 rows, in order. */
struct op_gain_grad {
    struct mat dy, x;       /* [T, N] */
    struct mat inverse;     /* [1, N] */
    struct mat dmagnitude;  /* [1, N], F32 (or F64) */
};

/* partial[i] = Σ x² over block i of 65,536 elements; *sum = Σ of the partials in order, is_added: added to what it
 * holds. */
struct op_sumsq {
    const void *x;
    enum dtype type;       /* F32 or BF16 */
    bool is_added;
    uint64_t count;
    double *partial;       /* [ceil(count / 65536)] */
    double *sum;
};

/* AdamW as torch's (training-semantics 7.2), on `count` elements of flat arenas; gradients are multiplied by the clip
 * factor min(1, max_norm / (norm + 1e-6)) with norm = sqrt(*sumsq); max_norm 0: factor 1. When *sumsq is not finite
 * nothing changes. `copy` (optional) receives the new value in copy_type.
 *
 * Weights and moments are F32 or BF16, read into f32; the step is computed in f32 from the moments before they are
 * rounded, as torchao's _AdamW(bf16_stochastic_round=True) does. What is BF16 is rounded stochastically, with the bits
 * that compute/stochastic.h has for (seed, step, which of the three, first + index). Moments of type U8 are codes of
 * compute/eight_bit.h with a scale for each 256 elements; the step is that of bitsandbytes' AdamW8bit. */
struct op_adamw {
    void *master, *m, *v;  /* of master_type, moment_type, moment_type */
    const void *grad;
    void *copy;            /* of an F32 master only */
    enum dtype master_type, moment_type, grad_type, copy_type; /* each F32 or BF16; moments also U8, */
    float *m_scale, *v_scale; /* with these, [ceil(count / 256)], zeros at first */
    uint64_t count;
    const double *sumsq;
    float max_norm, lr, beta1, beta2, eps, decay;
    int64_t step;          /* from 1: bias correction */
    uint64_t seed, first;  /* first: a multiple of 128 */
};

#define OPS(X)                                                                                                         \
    X(embed) X(embed_grad) X(norm) X(norm_grad) X(qk_rope) X(qk_rope_grad) X(attend) X(attend_grad) X(linear)          \
    X(linear_grad_in) X(linear_grad_w) X(glu) X(glu_grad) X(rows) X(route) X(route_grad) X(loss) X(copy) X(dora)       \
    X(gain) X(gain_grad) X(sumsq) X(adamw)

enum op {
#define OP_ENUM(name) OP_##name,
    OPS(OP_ENUM)
#undef OP_ENUM
    OP_COUNT
};

/* Where work is queued: on the CPU a thread pool and the scratch memory that the plan set aside. */
struct queue {
    struct pool *pool;
    void *scratch;         /* aligned to 64 */
    size_t scratch_bytes;
    int device;            /* which one, of a backend that has several */
    void *state;           /* the backend's own */
};

/* `rows` stretches of row_bytes, each ld bytes behind the one before. */
struct stretches {
    void *at;
    size_t ld;
};

/* Memory of a device. What operations read and write lies there: matrices, a batch's arrays, indices, statistics, codes
 * of quantized weights. On the host stay the structs themselves and what their shapes are told with: borders of parts
 * (part_rows, part_cols, part_scale, row_end of struct quant) and struct nf4. Transfers and operations of a queue run
 * in the order of the calls. */
struct memory {
    bool (*open)(struct queue *queue, struct err *err); /* makes queue->state for queue->device */
    void (*close)(struct queue *queue);                 /* waits; a queue that was not opened is fine */
    void *(*take)(struct queue *queue, size_t bytes);   /* zeros, aligned to 256; NULL: there is no room */
    void *(*take_shared)(struct queue *queue, size_t bytes); /* that the host may touch whenever the queue is idle */
    void (*give)(struct queue *queue, void *at);             /* of either kind; NULL is fine */
    void (*zero)(struct queue *queue, void *at, size_t bytes);
    /* The host's memory may change as soon as `put` returns, and holds what was asked for as soon as `get` does. */
    void (*put)(struct queue *queue, struct stretches to, struct stretches from, size_t row_bytes, size_t rows);
    void (*get)(struct queue *queue, struct stretches to, struct stretches from, size_t row_bytes, size_t rows);
    /* Does not wait: `to`, in memory of take_host, holds what was asked for behind the next wait. */
    void (*get_later)(struct queue *queue, void *to, const void *from, size_t bytes);
    void *(*take_host)(struct queue *queue,
                       size_t bytes); /* of the host, which the device reaches; NULL: there is no room */
    void (*give_host)(struct queue *queue, void *at);      /* NULL is fine */
    void (*wait)(struct queue *queue);
    size_t (*free_bytes)(struct queue *queue);
};

struct backend {
    const char *name;
    const struct memory
        *memory; /* NULL: operands lie in the process's memory, and operations are done when they return */
#define OP_FIELD(name) void (*name)(struct queue *, const struct op_##name *);
    OPS(OP_FIELD)
#undef OP_FIELD
    /* Whether the op can run with these shapes and types (args as the op takes them, pointers not followed). */
    bool (*can)(enum op op, const void *args, struct err *err);
    /* Bytes of queue scratch that the op needs with these shapes, for that many threads. */
    size_t (*scratch_bytes)(enum op op, const void *args, int thread_count);
    /* The right operand of a product in the order that `linear` reads it, once for many products with few rows. Bytes
     * that w takes so, 0: its rows are as good. lay_out writes them; `to` may be w's own memory where that has the room
     * and no gaps. NULL: the backend knows no such order. */
    size_t (*panel_bytes)(const struct mat *w);
    void (*lay_out)(struct queue *, const struct mat *w, void *to);
    /* Bytes of a cache's k, and of its v, in the backend's own order; NULL: they are rows. Multiples of 64. */
    size_t (*cache_bytes)(const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim);
};

/* What the backend says, or rows take. */
size_t kv_cache_bytes(const struct backend *backend, const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim);
/* The capacity for a document of up to `positions`, appended at most `rows` at a time, in a layer with this window (0:
 * none). */
int32_t kv_cache_capacity(int32_t positions, int32_t window, int32_t rows);
/* Whether `rows` more find room without taking that of what their window still sees. */
bool kv_cache_takes(const struct kv_cache *cache, int32_t rows, int32_t window);

extern const struct backend backend_ref; /* compute/ref */
extern const struct backend backend_cpu; /* compute/cpu; picks its kernels by the processor's features */

const char *op_name(enum op op);
