#include "compute/check.h"
#include "compute/adapter_rows.h"
#include "compute/parts.h"
#include "compute/stochastic.h"

enum { F32 = 1u << DTYPE_F32, BF16 = 1u << DTYPE_BF16, F64 = 1u << DTYPE_F64, REAL = F32 | BF16 };

struct check {
    enum op op;
    bool is_f64; /* the op's leading operand is F64: then every operand must be */
    bool is_ok;
    struct err *err;
};

static void check_that(struct check *check, bool condition, const char *what)
{
    if (check->is_ok && !condition)
        check->is_ok = err_set(check->err, ERR_UNSUPPORTED, "%s: %s", op_name(check->op), what);
}

/* rows or cols below 0: any. */
static void check_mat(struct check *check, const char *name, const struct mat *m, int32_t rows, int32_t cols,
                      unsigned types)
{
    if (!check->is_ok)
        return;
    if (check->is_f64)
        types = F64;
    if (m->type >= DTYPE_COUNT || !(types >> m->type & 1))
        check->is_ok = err_set(check->err, ERR_UNSUPPORTED, "%s: %s is %s, it must be %s", op_name(check->op), name,
                               m->type < DTYPE_COUNT ? dtype_name(m->type) : "of no known type",
                               types == F64 ? "F64 like the first operand" : types == F32 ? "F32" : "F32 or BF16");
    else if ((rows >= 0 && m->rows != rows) || (cols >= 0 && m->cols != cols) || m->ld < m->cols || m->rows < 0 ||
             m->cols < 0)
        check->is_ok = err_set(check->err, ERR_UNSUPPORTED,
                               "%s: %s is [%d, %d] with %d elements a row, it must be [%d, %d]", op_name(check->op),
                               name, m->rows, m->cols, m->ld, rows < 0 ? m->rows : rows, cols < 0 ? m->cols : cols);
}

static void check_optional(struct check *check, const char *name, const struct mat *m, int32_t rows, int32_t cols,
                           unsigned types)
{
    if (m->at)
        check_mat(check, name, m, rows, cols, types);
}

static void check_embed(struct check *check, const struct op_embed *op)
{
    check_mat(check, "x", &op->x, -1, -1, REAL);
    check_mat(check, "table", &op->table, -1, op->x.cols, REAL);
}

static void check_embed_grad(struct check *check, const struct op_embed_grad *op)
{
    check_mat(check, "dx", &op->dx, -1, -1, REAL);
    check_mat(check, "dtable", &op->dtable, -1, op->dx.cols, REAL);
}

static void check_norm(struct check *check, const struct op_norm *op)
{
    int32_t T = op->a.rows, D = op->a.cols;

    check_mat(check, "a", &op->a, T, D, REAL);
    check_optional(check, "b", &op->b, T, D, REAL);
    if (op->b.at)
        check_mat(check, "r", &op->r, T, D, REAL);
    check_mat(check, "y", &op->y, T, D, REAL);
    check_mat(check, "w", &op->w, 1, D, REAL);
    check_optional(check, "add", &op->add, T, D, REAL);
}

static void check_norm_grad(struct check *check, const struct op_norm_grad *op)
{
    int32_t T = op->dy.rows, D = op->dy.cols;

    check_mat(check, "dy", &op->dy, T, D, REAL);
    check_mat(check, "r", &op->r, T, D, REAL);
    check_mat(check, "dr", &op->dr, T, D, REAL);
    check_mat(check, "w", &op->w, 1, D, REAL);
    check_optional(check, "dw", &op->dw, 1, D, F32);
}

static void check_heads(struct check *check, int32_t heads, int32_t kv_heads, int32_t head_dim)
{
    check_that(check, heads > 0 && kv_heads > 0 && heads % kv_heads == 0,
               "the number of query heads must be a multiple of the number of key heads");
    check_that(check, head_dim > 0 && head_dim <= 512, "the head size must be 1 to 512");
}

static void check_rot(struct check *check, int32_t rot, int32_t head_dim)
{
    check_that(check, rot >= 0 && rot % 2 == 0 && rot <= head_dim, "rot must be even and within the head size");
}

/* How many columns the norm of q, or of k, has weights for. */
static int32_t norm_cols(enum qk_norm qk_norm, int32_t heads, int32_t head_dim)
{
    return qk_norm == QK_NORM_WHOLE ? heads * head_dim : head_dim;
}

static void check_qk_rope(struct check *check, const struct op_qk_rope *op)
{
    int32_t d = op->head_dim;

    check_heads(check, op->heads, op->kv_heads, d);
    check_rot(check, op->rot, d);
    check_mat(check, "qkv", &op->qkv, -1, (op->heads + 2 * op->kv_heads) * d, REAL);
    check_optional(check, "raw", &op->raw, op->qkv.rows, (op->heads + op->kv_heads) * d, REAL);
    check_that(check, !op->raw.at || op->raw.type == op->qkv.type, "raw must have the type of qkv");
    if (op->qk_norm == QK_NORM_NONE)
        return;
    check_mat(check, "q_norm", &op->q_norm, 1, norm_cols(op->qk_norm, op->heads, d), REAL);
    check_mat(check, "k_norm", &op->k_norm, 1, norm_cols(op->qk_norm, op->kv_heads, d), REAL);
}

static void check_qk_rope_grad(struct check *check, const struct op_qk_rope_grad *op)
{
    int32_t d = op->head_dim, q_cols = norm_cols(op->qk_norm, op->heads, d);
    int32_t k_cols = norm_cols(op->qk_norm, op->kv_heads, d);

    check_heads(check, op->heads, op->kv_heads, d);
    check_rot(check, op->rot, d);
    check_mat(check, "dqkv", &op->dqkv, -1, (op->heads + 2 * op->kv_heads) * d, REAL);
    if (op->qk_norm == QK_NORM_NONE)
        return;
    check_mat(check, "raw", &op->raw, op->dqkv.rows, (op->heads + op->kv_heads) * d, REAL);
    check_mat(check, "q_norm", &op->q_norm, 1, q_cols, REAL);
    check_mat(check, "k_norm", &op->k_norm, 1, k_cols, REAL);
    check_optional(check, "dq_norm", &op->dq_norm, 1, q_cols, F32);
    check_optional(check, "dk_norm", &op->dk_norm, 1, k_cols, F32);
}

static void check_cap(struct check *check, float softcap)
{
    check_that(check, softcap >= 0, "a cap must be above 0, or 0 for none");
}

static void check_attend(struct check *check, const struct op_attend *op)
{
    check_heads(check, op->heads, op->kv_heads, op->head_dim);
    check_mat(check, "qkv", &op->qkv, -1, (op->heads + 2 * op->kv_heads) * op->head_dim, REAL);
    check_mat(check, "out", &op->out, op->qkv.rows, op->heads * op->head_dim, REAL);
    check_optional(check, "sinks", &op->sinks, 1, op->heads, F32);
    check_cap(check, op->softcap);
}

static void check_attend_grad(struct check *check, const struct op_attend_grad *op)
{
    int32_t T = op->qkv.rows, D = op->heads * op->head_dim;

    check_heads(check, op->heads, op->kv_heads, op->head_dim);
    check_mat(check, "qkv", &op->qkv, T, D + 2 * op->kv_heads * op->head_dim, REAL);
    check_mat(check, "dqkv", &op->dqkv, T, op->qkv.cols, REAL);
    check_mat(check, "out", &op->out, T, D, REAL);
    check_mat(check, "dout", &op->dout, T, D, REAL);
    check_optional(check, "sinks", &op->sinks, 1, op->heads, F32);
    check_optional(check, "dsinks", &op->dsinks, 1, op->heads, F32);
    check_that(check, !op->dsinks.at || op->sinks.at, "there are no sinks to have a gradient");
    check_cap(check, op->softcap);
}

/* Of one expert with N outputs and R columns. */
static bool are_parts(const struct weight *weight, int32_t N, int32_t R)
{
    int32_t row = 0, col = 0;

    if (!weight->part_cols || weight->part_count < 1 || weight->part_count > WEIGHT_PARTS_MAX)
        return false;
    for (int32_t i = 0; i < weight->part_count; i++) {
        struct weight_part part = weight_part(weight, i);
        if (part.row != row || part.col != col || part.rows < 0 || part.cols < 0)
            return false;
        row += part.rows;
        col += part.cols;
    }
    return row == N && col == R;
}

/* How many experts the weight holds when products have N outputs. */
static int32_t expert_count(struct check *check, const struct weight *weight, const int32_t *row_end, int32_t N)
{
    if (!row_end)
        return 1;
    check_that(check, N > 0 && weight->w.rows % N == 0, "the weight's rows do not divide among the experts");
    check_that(check, weight->lora_dropout == 0 || weight->a.rows == 0, "experts have no dropout");
    return N > 0 ? weight->w.rows / N : 1;
}

/* `wide` is the operand that carries t or dt in the columns behind its own; N outputs of each of E experts. */
static void check_weight(struct check *check, const struct weight *weight, int32_t E, int32_t N, int32_t K,
                         const struct mat *wide)
{
    int32_t R = weight->a.rows / (E > 0 ? E : 1);

    check_mat(check, "w", &weight->w, E * N, K, REAL);
    check_that(check, !weight->quant.part_count || (E == 1 && weight->quant.row_end[weight->quant.part_count - 1] == N),
               "the quantized parts of w do not make up its rows");
    check_that(check, !weight_is_eight(weight) || !weight->panels, "a weight in panels is not in eight bits");
    check_that(check, weight->lora_dropout >= 0 && weight->lora_dropout < 1, "dropout must be at least 0 and below 1");
    if (R == 0)
        return;
    check_mat(check, "a", &weight->a, E * R, K, REAL);
    check_mat(check, "b", &weight->b, E * N, R, REAL);
    check_that(check, wide->ld >= wide->cols + R, "no room behind the rows for the adapter's columns");
    check_that(check, !weight->part_rows || are_parts(weight, N, R),
               "the parts do not share out the adapter's columns");
}

static void check_adapters(struct check *check, const struct op_linear *op)
{
    int32_t from = 0;

    check_that(check, !op->adapters || (!op->row_end && op->w->a.rows == 0),
               "rows meet adapters of their own or the weight's");
    for (int32_t i = 0; op->adapters && i < op->adapter_count; from = op->adapters[i++].row_end) {
        struct weight w = adapter_rows_weight(op, i);
        check_that(check, op->adapters[i].row_end >= from, "the rows of adapters must follow each other");
        check_that(check, w.lora_dropout <= 0, "rows that meet adapters of their own drop nothing");
        check_weight(check, &w, 1, op->y.cols, op->x.cols, &op->x);
    }
    check_that(check, !op->adapters || from == op->x.rows, "the rows of adapters must be all");
}

static void check_linear(struct check *check, const struct op_linear *op)
{
    int32_t T = op->x.rows, N = op->y.cols, E = expert_count(check, op->w, op->row_end, N);

    check_mat(check, "x", &op->x, -1, -1, REAL);
    check_mat(check, "y", &op->y, T, -1, REAL);
    check_weight(check, op->w, E, N, op->x.cols, &op->x);
    check_that(check,
               !op->w->panels || (op->x.type == op->w->w.type && (!op->w->a.rows || op->x.type == op->w->b.type)),
               "a weight in panels needs one type");
    check_that(check, !weight_is_eight(op->w) || (!op->softcap && !op->adapters && !op->row_end),
               "a product in eight bits has no cap, no experts and no adapters of rows");
    check_optional(check, "bias", &op->bias, E, N, REAL);
    check_optional(check, "add", &op->add, T, N, REAL);
    check_cap(check, op->softcap);
    check_adapters(check, op);
}

static void check_linear_grad_in(struct check *check, const struct op_linear_grad_in *op)
{
    int32_t N = op->dy.cols, E = expert_count(check, op->w, op->row_end, N);

    check_mat(check, "dy", &op->dy, -1, -1, REAL);
    check_mat(check, "dx", &op->dx, op->dy.rows, -1, REAL);
    check_weight(check, op->w, E, N, op->dx.cols, &op->dy);
}

static void check_linear_grad_w(struct check *check, const struct op_linear_grad_w *op)
{
    int32_t T = op->x.rows, K = op->x.cols, N = op->dy.cols, E = expert_count(check, op->w, op->row_end, N);
    int32_t R = op->w->a.rows / (E > 0 ? E : 1);

    check_mat(check, "x", &op->x, T, K, REAL);
    check_mat(check, "dy", &op->dy, T, N, REAL);
    check_optional(check, "dw", &op->dw, E * N, K, REAL);
    check_that(check, !op->dw.at || !op->w->quant.part, "a quantized weight is frozen");
    check_that(check, !op->is_fresh || !op->row_end, "gradients of experts are added to");
    check_optional(check, "dbias", &op->dbias, E, N, F32);
    check_optional(check, "da", &op->da, E * R, K, F32);
    check_optional(check, "db", &op->db, E * N, R, F32);
    check_that(check, !op->da.at || op->dy.ld >= N + R, "no room behind dy for dt");
    check_that(check, !op->db.at || op->x.ld >= K + R, "no room behind x for t");
}

static void check_act(struct check *check, enum act act, float limit)
{
    check_that(check, act != ACT_OSS || limit > 0, "the activation needs a limit above 0");
}

static void check_glu(struct check *check, const struct op_glu *op)
{
    check_mat(check, "gate_up", &op->gate_up, -1, -1, REAL);
    check_mat(check, "h", &op->h, op->gate_up.rows, op->gate_up.cols / 2, REAL);
    check_that(check, op->gate_up.cols % 2 == 0, "gate and up must be equally wide");
    check_act(check, op->act, op->act_limit);
}

static void check_glu_grad(struct check *check, const struct op_glu_grad *op)
{
    check_mat(check, "gate_up", &op->gate_up, -1, -1, REAL);
    check_mat(check, "dh", &op->dh, op->gate_up.rows, op->gate_up.cols / 2, REAL);
    check_optional(check, "h", &op->h, op->gate_up.rows, op->gate_up.cols / 2, REAL);
    check_that(check, op->gate_up.cols % 2 == 0, "gate and up must be equally wide");
    check_act(check, op->act, op->act_limit);
}

static void check_rows(struct check *check, const struct op_rows *op)
{
    int32_t fan = op->fan > 1 ? op->fan : 1;

    check_mat(check, "x", &op->x, -1, -1, REAL);
    check_mat(check, "y", &op->y, -1, op->x.cols, REAL);
    check_optional(check, "scale", &op->scale, 1, op->count * fan, F32);
    check_optional(check, "add", &op->add, -1, op->x.cols, REAL);
    check_that(check, op->count <= (op->is_scatter ? op->x.rows : op->y.rows), "there are more indices than rows");
    check_that(check, !op->is_scatter || (fan == 1 && !op->scale.at && !op->add.at),
               "what is scattered is neither scaled nor gathered");
}

static void check_top(struct check *check, int32_t top, int32_t E)
{
    check_that(check, E <= ROUTE_EXPERTS_MAX, "there are more than 1,024 experts");
    check_that(check, top > 0 && top <= E, "a token needs at least one expert, and at most all");
}

static void check_route(struct check *check, const struct op_route *op)
{
    int32_t T = op->logits.rows, E = op->logits.cols, top = op->weight.cols;

    check_top(check, top, E);
    check_mat(check, "logits", &op->logits, T, E, REAL);
    check_mat(check, "weight", &op->weight, T, top, F32);
    check_mat(check, "row_weight", &op->row_weight, 1, T * top, F32);
    check_optional(check, "load", &op->load, 2, E, F32);
}

static void check_route_grad(struct check *check, const struct op_route_grad *op)
{
    int32_t T = op->logits.rows, E = op->logits.cols, top = op->weight.cols;

    check_top(check, top, E);
    check_mat(check, "logits", &op->logits, T, E, REAL);
    check_mat(check, "dlogits", &op->dlogits, T, E, REAL);
    check_mat(check, "weight", &op->weight, T, top, F32);
    check_mat(check, "y", &op->y, T * top, -1, REAL);
    check_mat(check, "dout", &op->dout, T, op->y.cols, REAL);
    check_optional(check, "aux", &op->aux, 1, E, F32);
}

static void check_loss(struct check *check, const struct op_loss *op)
{
    check_mat(check, "logits", &op->logits, -1, -1, REAL);
    check_that(check, op->logits.cols > 0, "there are no logits");
    check_optional(check, "grad", &op->grad, op->logits.rows, op->logits.cols, REAL);
    check_cap(check, op->softcap);
}

static void check_copy(struct check *check, const struct op_copy *op)
{
    bool is_half = op->x.type == DTYPE_F16 || op->y.type == DTYPE_F16;

    check_that(check, !is_half, "F16 is a type of files only");
    check->is_f64 = false;
    check_mat(check, "x", &op->x, -1, -1, REAL | F64);
    check_mat(check, "y", &op->y, op->x.rows, op->x.cols, REAL | F64);
}

static void check_dora(struct check *check, const struct op_dora *op)
{
    int32_t N = op->w.rows;

    check_mat(check, "w", &op->w, N, op->w.cols, REAL);
    check_mat(check, "a", &op->a, -1, op->w.cols, REAL);
    check_mat(check, "b", &op->b, N, op->a.rows, REAL);
    check_mat(check, "magnitude", &op->magnitude, 1, N, F32);
    check_mat(check, "inverse", &op->inverse, 1, N, F32);
    check_mat(check, "gain", &op->gain, 1, N, F32);
}

static void check_gain(struct check *check, const struct op_gain *op)
{
    int32_t T = op->x.rows, N = op->x.cols;

    check_mat(check, "x", &op->x, T, N, REAL);
    check_mat(check, "y", &op->y, T, N, REAL);
    check_mat(check, "gain", &op->gain, 1, N, F32);
    check_optional(check, "bias", &op->bias, 1, N, REAL);
    check_optional(check, "add", &op->add, T, N, REAL);
}

static void check_gain_grad(struct check *check, const struct op_gain_grad *op)
{
    check_mat(check, "dy", &op->dy, -1, -1, REAL);
    check_mat(check, "x", &op->x, op->dy.rows, op->dy.cols, REAL);
    check_mat(check, "inverse", &op->inverse, 1, op->dy.cols, F32);
    check_mat(check, "dmagnitude", &op->dmagnitude, 1, op->dy.cols, F32);
}

static bool is_real(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_BF16;
}

static void check_sumsq(struct check *check, const struct op_sumsq *op)
{
    check_that(check, is_real(op->type), "x must be F32 or BF16");
}

static void check_adamw(struct check *check, const struct op_adamw *op)
{
    check_that(check, is_real(op->master_type) && is_real(op->grad_type), "weights and gradients must be F32 or BF16");
    check_that(check, is_real(op->moment_type) || op->moment_type == DTYPE_U8, "moments must be F32, BF16 or U8");
    check_that(check, op->moment_type != DTYPE_U8 || !op->count || (op->m_scale && op->v_scale),
               "moments of U8 need scales");
    check_that(check, !op->copy || is_real(op->copy_type), "the copy must be F32 or BF16");
    check_that(check, !op->copy || op->master_type == DTYPE_F32, "weights of BF16 have no copy");
    check_that(check, op->first % STOCHASTIC_STRETCH == 0, "the first element's number must be a multiple of 128");
    check_that(check, op->step >= 1, "steps count from 1");
}

/* The operand whose type decides whether the op runs in F64. */
static enum dtype leading_type(enum op op, const void *args)
{
    switch (op) {
    case OP_sumsq:
    case OP_adamw:
        return DTYPE_F32;
    default:
        return ((const struct mat *)args)->type; /* every other op begins with a mat */
    }
}

bool op_check(enum op op, const void *args, bool is_f64_allowed, struct err *err)
{
    struct check check = {.op = op, .is_f64 = leading_type(op, args) == DTYPE_F64, .is_ok = true, .err = err};

    check_that(&check, !check.is_f64 || is_f64_allowed, "F64 is for the reference backend only");
    switch (op) {
#define OP_CASE(name)                                                                                                  \
    case OP_##name:                                                                                                    \
        check_##name(&check, args);                                                                                    \
        break;
        OPS(OP_CASE)
#undef OP_CASE
    case OP_COUNT:
        ASSERT(!"an op");
    }
    return check.is_ok;
}
