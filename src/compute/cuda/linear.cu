/* linear and its gradients as products.
 *
 * An adapter that lies beside its weight, B behind the columns and A below the rows, takes part in the weight's own
 * products; weights of four bits are written out so. Elsewhere terms are added in the result itself, the small ones
 * first; a result in BF16 that would be rounded in between, by bias or residual, is summed in f32 scratch. A weight in
 * eight bits has products for each of its parts (eight.cu) in the place of its own. */
#include "compute/cuda/eight.cu"
#include "compute/cuda/nf4.cu"

extern "C" {
#include "compute/adapter_rows.h"
}

/* --- what stands around products --- */

/* What dropout keeps; see compute/dropout.h. */
struct drop {
    struct dropout place;
    uint32_t threshold;
    float rate;
};

static struct drop drop_of(const struct weight *weight, const struct dropout *dropout)
{
    struct drop drop = {*dropout, (uint32_t)((double)weight->lora_dropout * 4294967296.0), weight->lora_dropout};

    return drop;
}

static __device__ uint32_t philox_word(const struct drop &drop, uint64_t group, int word)
{
    uint32_t c[4] = {(uint32_t)group, (uint32_t)(group >> 32), drop.place.layer, drop.place.step};

    philox(c, drop.place.seed);
    return c[word];
}

static __device__ bool is_kept(const struct drop &drop, int32_t row, int32_t col, int32_t cols)
{
    uint64_t element = (drop.place.row_offset + (uint64_t)row) * (uint64_t)cols + (uint64_t)col;

    return philox_word(drop, element / 4, (int)(element % 4)) >= drop.threshold;
}

static __global__ void drop_kernel(struct mat x, struct mat y, struct drop drop)
{
    int32_t t = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;

    if (k < x.cols)
        set(y, t, k, is_kept(drop, t, k, x.cols) ? get(x, t, k) : 0);
}

/* dx (+)= what went through the dropout, times factor. */
static __global__ void drop_back_kernel(struct mat through, struct mat dx, struct drop drop, float factor,
                                        bool is_added)
{
    int32_t t = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;

    if (k < dx.cols)
        set(dx, t, k,
            (is_added ? get(dx, t, k) : 0) + (is_kept(drop, t, k, dx.cols) ? factor * get(through, t, k) : 0));
}

/* y = cap(sum + bias + add); sum may be y or not there; a row's bias is its expert's. */
static __global__ void finish_kernel(struct mat sum, struct mat y, struct mat bias, struct mat add, float softcap,
                                     const int32_t *row_end)
{
    ROW_AND_FOUR(t, n);
    struct four value = {}, by = {}, other = {};
    int32_t e = 0;

    if (n >= y.cols)
        return;
    while (row_end && row_end[e] <= t)
        e++;
    if (sum.at)
        value = get_four(sum, t, n);
    if (bias.at)
        by = get_four(bias, e, n);
    if (add.at)
        other = get_four(add, t, n);
    for (int i = 0; i < FOUR; i++) {
        value.at[i] = value.at[i] + by.at[i] + other.at[i];
        if (softcap > 0)
            value.at[i] = softcap * tanhf(value.at[i] / softcap);
    }
    set_four(y, t, n, value);
}

static void finish(struct queue *queue, struct mat sum, struct mat y, struct mat bias, struct mat add, float softcap,
                   const int32_t *row_end)
{
    if (y.rows)
        LAUNCH(queue, finish_kernel, four_grid(y.rows, y.cols), THREADS, sum, y, bias, add, softcap, row_end);
}

/* --- operands --- */

static struct mat rows_of(struct mat m, int32_t row, int32_t rows)
{
    m.at = (char *)m.at + (size_t)row * (size_t)m.ld * dtype_bytes(m.type);
    m.rows = rows;
    return m;
}

/* The columns behind x as a matrix of R columns from `col` on. */
static struct mat tail_of(struct mat x, int32_t col, int32_t cols)
{
    x.at = (char *)x.at + (size_t)(x.cols + col) * dtype_bytes(x.type);
    x.cols = cols;
    return x;
}

/* Whether B lies behind W's columns, so that [x|t]·[W|B]ᵀ is one product; A below W's rows for [dy|dt]·[W; A]. */
static bool is_behind(const struct mat &w, const struct mat &b)
{
    return b.rows && b.ld == w.ld && b.type == w.type && w.ld >= w.cols + b.cols && b.at == tail_of(w, 0, b.cols).at;
}

static bool is_below(const struct mat &w, const struct mat &a)
{
    return a.rows && a.ld == w.ld && a.type == w.type && a.at == rows_of(w, w.rows, a.rows).at;
}

/* A weight as products take it, and its adapter. */
struct operand {
    struct mat w, a, b;
};

/* The weight; or what its codes stand for in scratch, with a copy of the adapter of the type behind it and below, if
 * there is one: one of them is needed. */
static struct operand plain_weight(struct queue *queue, const struct weight *weight, struct scratch *scratch,
                                   bool is_forward)
{
    struct operand plain = {weight->w, weight->a, weight->b};
    struct mat *w = &plain.w, *joined = is_forward ? &plain.b : &plain.a;
    int32_t R = weight->a.type == w->type ? weight->a.rows : 0;

    if (!weight->quant.part)
        return plain;
    w->ld = (w->cols + (is_forward ? R : 0) + 31) / 32 * 32;
    w->at = scratch_take(scratch, (size_t)(w->rows + (is_forward ? 0 : R)) * (size_t)w->ld * dtype_bytes(w->type));
    if (!w->at)
        return plain;
    dequantize(queue, &weight->quant, *w);
    if (R) {
        struct mat from = *joined;
        joined->at = (is_forward ? tail_of(*w, 0, R) : rows_of(*w, w->rows, R)).at;
        joined->ld = w->ld;
        LAUNCH(queue, copy_kernel, four_grid(from.rows, from.cols), THREADS, from, *joined, false);
    }
    return plain;
}

/* --- linear --- */

static struct mat columns_of(struct mat m, int32_t col, int32_t cols)
{
    m.at = (char *)m.at + (size_t)col * dtype_bytes(m.type);
    m.cols = cols;
    return m;
}

static struct mat scratch_mat(struct scratch *scratch, int32_t rows, int32_t cols, enum dtype type)
{
    struct mat mat = {NULL, rows, cols, cols, type};

    mat.at = scratch_take(scratch, (size_t)rows * (size_t)cols * dtype_bytes(type));
    return mat;
}

/* How many there are; 1 without. N: outputs of one. */
static int32_t expert_count(const struct weight *weight, const int32_t *row_end, int32_t N)
{
    return row_end ? weight->w.rows / N : 1;
}

static struct experts experts_of(const int32_t *row_end, int32_t count, bool is_summed, int64_t b_step, int64_t c_step)
{
    struct experts experts = {row_end, count, is_summed, b_step, c_step};

    return experts;
}

/* Parts that share a scale are one. */
static int32_t part_count(const struct weight *weight, bool is_by_scale)
{
    return !weight->part_rows || (is_by_scale && !weight->part_scale) ? 1 : weight->part_count;
}

static struct weight_part part_at(const struct weight *weight, int32_t i, int32_t N, int32_t R, bool is_by_scale)
{
    struct weight_part whole = {0, N, 0, R, weight->lora_scale};

    return !weight->part_rows || (is_by_scale && !weight->part_scale) ? whole : weight_part(weight, i);
}

/* What the adapter reads, and the factor of what was kept. */
static struct mat dropped(struct queue *queue, struct mat x, const struct weight *weight, const struct dropout *dropout,
                          struct scratch *scratch)
{
    struct mat kept;

    if (weight->lora_dropout <= 0 || !weight->a.rows)
        return x;
    kept = scratch_mat(scratch, x.rows, x.cols, x.type);
    if (kept.at && x.rows)
        LAUNCH(queue, drop_kernel, dim3(x.rows, blocks_of(x.cols, THREADS)), THREADS, x, kept,
               drop_of(weight, dropout));
    return kept;
}

static float kept_factor(const struct weight *weight)
{
    return weight->lora_dropout > 0 ? 1 / (1 - weight->lora_dropout) : 1;
}

/* t = scale · drop(x)·Aᵀ behind x. */
static void adapter_in(struct queue *queue, const struct op_linear *op, struct mat x, int32_t E)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows / E;

    for (int32_t i = 0; i < part_count(w, true); i++) {
        struct weight_part part = part_at(w, i, op->y.cols, R, true);
        struct product p = {x, rows_of(w->a, part.col, part.cols), tail_of(op->x, part.col, part.cols), false, true,
                            op->x.rows, part.cols, op->x.cols, part.scale * kept_factor(w), no_mat()};
        struct experts experts = experts_of(op->row_end, E, false, (int64_t)R * w->a.ld, 0);
        product_run(queue, &p, &experts);
    }
}

/* Whether sums go through f32 scratch: else what is there before the products is exact, or small. */
static bool has_wide_sum(const struct op_linear *op)
{
    bool has_small = op->w->a.rows && op->x.type == DTYPE_BF16; /* t is rounded to as few bits */
    bool is_exact =
        !op->add.at && (op->bias.at ? op->bias.type == DTYPE_BF16 && !op->w->a.rows : has_small || !op->w->a.rows);

    return op->y.type == DTYPE_BF16 && (op->softcap > 0 || !is_exact);
}

struct linear_scratch {
    struct operand weight;
    struct eight_scratch eight;
    struct mat x, sum;
};

static struct linear_scratch linear_scratch_take(struct queue *queue, struct scratch *scratch,
                                                 const struct op_linear *op)
{
    struct linear_scratch taken = {};

    taken.weight = plain_weight(queue, op->w, scratch, true);
    taken.x = dropped(queue, op->x, op->w, &op->dropout, scratch);
    taken.sum = op->y;
    taken.eight = eight_scratch_take(scratch, op->w, op->x, true);
    if (has_wide_sum(op))
        taken.sum = scratch_mat(scratch, op->y.rows, op->y.cols, DTYPE_F32);
    return taken;
}

/* What a product without f32 scratch adds to: bias and residual, which are put into y first where they are
 * not just a residual of its type. */
static struct mat begin_sum(struct queue *queue, const struct op_linear *op)
{
    if (!op->bias.at && (!op->add.at || op->add.type == op->y.type))
        return op->add.at ? op->add : no_mat();
    finish(queue, no_mat(), op->y, op->bias, op->add, 0, op->row_end);
    return op->y;
}

static void dense_linear(struct queue *queue, const struct op_linear *op)
{
    struct scratch scratch = scratch_of(queue);
    struct linear_scratch at = linear_scratch_take(queue, &scratch, op);
    const struct operand *weight = &at.weight;
    int32_t T = op->x.rows, N = op->y.cols, K = op->x.cols, E = expert_count(op->w, op->row_end, N);
    int32_t R = op->w->a.rows / E;
    bool is_wide = has_wide_sum(op);
    bool is_eight = weight_is_eight(op->w);
    bool is_joined =
        R && !op->row_end && !is_eight && op->x.type == weight->w.type && is_behind(weight->w, weight->b);
    struct product base = {op->x, weight->w, at.sum, false, true, T, N, is_joined ? K + R : K, 1, no_mat()};
    struct experts w = experts_of(op->row_end, E, false, (int64_t)N * weight->w.ld, 0);

    scratch_check(queue, &scratch);
    if (!is_wide)
        base.d = begin_sum(queue, op);
    if (R)
        adapter_in(queue, op, at.x, E);
    if (R && !is_joined) {
        struct product through = {tail_of(op->x, 0, R), weight->b, at.sum, false, true, T, N, R, 1, base.d};
        struct experts b = experts_of(op->row_end, E, false, (int64_t)N * weight->b.ld, 0);
        product_run(queue, &through, &b);
        base.d = at.sum;
    }
    if (is_eight)
        eight_forward(queue, &base, op->w, &at.eight);
    else
        product_run(queue, &base, &w);
    if (is_wide)
        finish(queue, at.sum, op->y, op->bias, op->add, op->softcap, op->row_end);
    else if (op->softcap > 0)
        finish(queue, op->y, op->y, no_mat(), no_mat(), op->softcap, NULL);
}

static void cuda_linear(struct queue *queue, const struct op_linear *op)
{
    if (op->adapters)
        adapter_rows_linear(queue, op, dense_linear);
    else
        dense_linear(queue, op);
}

static size_t dense_linear_scratch(const struct op_linear *op, int thread_count)
{
    struct scratch scratch = {};

    linear_scratch_take(NULL, &scratch, op);
    return scratch.used_bytes;
}

static size_t linear_scratch_bytes(const struct op_linear *op)
{
    return op->adapters ? adapter_rows_scratch(op, 1, dense_linear_scratch) : dense_linear_scratch(op, 1);
}

/* --- the gradient of the input --- */

/* dt = scale · dy·B behind dy. */
static void adapter_back(struct queue *queue, const struct op_linear_grad_in *op, int32_t E)
{
    const struct weight *w = op->w;
    int32_t N = op->dy.cols, R = w->a.rows / E;

    for (int32_t i = 0; i < part_count(w, true); i++) {
        struct weight_part part = part_at(w, i, N, R, true);
        struct product p = {op->dy, columns_of(w->b, part.col, part.cols), tail_of(op->dy, part.col, part.cols), false,
                            false, op->dy.rows, part.cols, N, part.scale, no_mat()};
        struct experts experts = experts_of(op->row_end, E, false, (int64_t)N * w->b.ld, 0);
        product_run(queue, &p, &experts);
    }
}

/* As with has_wide_sum: dt has more bits than dx, or parts in eight bits are added up. */
static bool has_wide_dx(const struct op_linear_grad_in *op)
{
    bool has_parts = weight_is_eight(op->w) && op->w->quant.part_count > 1;
    bool is_wide = (op->w->a.rows && op->dy.type != DTYPE_BF16) || has_parts;

    return is_wide && op->dx.type == DTYPE_BF16;
}

struct grad_in_scratch {
    struct operand weight;
    struct eight_scratch eight;
    struct mat through;
};

static struct grad_in_scratch grad_in_scratch_take(struct queue *queue, struct scratch *scratch,
                                                   const struct op_linear_grad_in *op)
{
    struct grad_in_scratch taken = {};

    taken.weight = plain_weight(queue, op->w, scratch, false);
    taken.eight = eight_scratch_take(scratch, op->w, op->dy, false);
    taken.through = op->dx;
    if ((op->w->a.rows && op->w->lora_dropout > 0) || has_wide_dx(op))
        taken.through = scratch_mat(scratch, op->dx.rows, op->dx.cols, DTYPE_F32);
    return taken;
}

static void cuda_linear_grad_in(struct queue *queue, const struct op_linear_grad_in *op)
{
    struct scratch scratch = scratch_of(queue);
    struct grad_in_scratch at = grad_in_scratch_take(queue, &scratch, op);
    const struct operand *weight = &at.weight;
    int32_t T = op->dy.rows, N = op->dy.cols, K = op->dx.cols, E = expert_count(op->w, op->row_end, N);
    int32_t R = op->w->a.rows / E;
    bool has_dropout = R && op->w->lora_dropout > 0, is_wide = has_wide_dx(op), is_added = op->is_added && !is_wide;
    bool is_eight = weight_is_eight(op->w);
    bool is_joined = R && !has_dropout && !op->row_end && !is_eight && op->dy.type == weight->w.type &&
                     is_below(weight->w, weight->a);
    struct mat sum = is_wide ? at.through : op->dx;
    struct product base = {op->dy, weight->w, sum, false, false, T, K, is_joined ? N + R : N, 1,
                           is_added ? sum : no_mat()};
    struct experts w = experts_of(op->row_end, E, false, (int64_t)N * weight->w.ld, 0);

    scratch_check(queue, &scratch);
    if (R)
        adapter_back(queue, op, E);
    if (R && !is_joined) {
        struct product through = {tail_of(op->dy, 0, R), weight->a, at.through, false, false, T, K, R, 1,
                                  has_dropout ? no_mat() : base.d};
        struct experts a = experts_of(op->row_end, E, false, (int64_t)R * weight->a.ld, 0);
        product_run(queue, &through, &a);
        if (has_dropout && T)
            LAUNCH(queue, drop_back_kernel, dim3(T, blocks_of(K, THREADS)), THREADS, at.through, sum,
                   drop_of(op->w, &op->dropout), kept_factor(op->w), is_added);
        base.d = sum;
    }
    if (is_eight)
        eight_backward(queue, &base, op->w, &at.eight);
    else
        product_run(queue, &base, &w);
    if (is_wide)
        finish(queue, sum, op->dx, no_mat(), op->is_added ? op->dx : no_mat(), 0, NULL);
}

static size_t linear_grad_in_scratch_bytes(const struct op_linear_grad_in *op)
{
    struct scratch scratch = {};

    grad_in_scratch_take(NULL, &scratch, op);
    return scratch.used_bytes;
}

/* --- the gradients of weights --- */

struct grad_w_scratch {
    struct mat x;
    float *partial;
};

static struct grad_w_scratch grad_w_scratch_take(struct queue *queue, struct scratch *scratch,
                                                 const struct op_linear_grad_w *op)
{
    struct grad_w_scratch taken = {op->x, NULL};

    if (op->da.at)
        taken.x = dropped(queue, op->x, op->w, &op->dropout, scratch);
    if (op->dbias.at)
        taken.partial = column_scratch(scratch, op->dy.rows, op->dy.cols);
    return taken;
}

/* C[m, n] += alpha · aᵀ·b over all rows, or over those of each expert; is_fresh: = instead. */
static void sum_rows(struct queue *queue, struct mat c, bool is_fresh, struct mat a, struct mat b, int32_t m, int32_t n,
                     float alpha, const int32_t *row_end, int32_t E, int32_t step_rows)
{
    struct product p = {a, b, c, true, false, m, n, a.rows, alpha, is_fresh ? no_mat() : c};
    struct experts experts = experts_of(row_end, E, true, 0, (int64_t)step_rows * c.ld);

    product_run(queue, &p, &experts);
}

/* dbias[e] += Σ of the rows of expert e; a thread has a column of one. */
static __global__ void expert_bias_kernel(struct mat dy, struct mat dbias, const int32_t *row_end)
{
    int32_t e = blockIdx.x, n = blockIdx.y * blockDim.x + threadIdx.x;
    float sum = 0;

    if (n >= dy.cols)
        return;
    for (int32_t t = e ? row_end[e - 1] : 0; t < row_end[e]; t++)
        sum += get(dy, t, n);
    set(dbias, e, n, get(dbias, e, n) + sum);
}

static void bias_grad(struct queue *queue, const struct op_linear_grad_w *op, int32_t E, float *partial)
{
    if (op->row_end)
        LAUNCH(queue, expert_bias_kernel, dim3(E, blocks_of(op->dy.cols, THREADS)), THREADS, op->dy, op->dbias,
               op->row_end);
    else
        column_sums(queue, op->dbias, op->dy, no_mat(), NULL, NULL, partial);
}

static void cuda_linear_grad_w(struct queue *queue, const struct op_linear_grad_w *op)
{
    struct scratch scratch = scratch_of(queue);
    struct grad_w_scratch at = grad_w_scratch_take(queue, &scratch, op);
    const struct weight *w = op->w;
    int32_t N = op->dy.cols, K = op->x.cols, E = expert_count(w, op->row_end, N), R = w->a.rows / E;

    scratch_check(queue, &scratch);
    if (!op->x.rows)
        return;
    if (op->dw.at)
        sum_rows(queue, op->dw, op->is_fresh, op->dy, op->x, N, K, 1, op->row_end, E, N);
    if (op->dbias.at)
        bias_grad(queue, op, E, at.partial);
    if (op->da.at && R)
        sum_rows(queue, op->da, false, tail_of(op->dy, 0, R), at.x, R, K, kept_factor(w), op->row_end, E, R);
    for (int32_t i = 0; op->db.at && R && i < part_count(w, false); i++) {
        struct weight_part part = part_at(w, i, N, R, false);
        sum_rows(queue, columns_of(rows_of(op->db, part.row, part.rows), part.col, part.cols), false,
                 columns_of(op->dy, part.row, part.rows), tail_of(op->x, part.col, part.cols), part.rows, part.cols, 1,
                 op->row_end, E, N);
    }
}

static size_t linear_grad_w_scratch_bytes(const struct op_linear_grad_w *op)
{
    struct scratch scratch = {};

    grad_w_scratch_take(NULL, &scratch, op);
    return scratch.used_bytes;
}
