#include "compute/adapter_rows.h"
#include "compute/dropout.h"
#include "compute/grouped.h"
#include "compute/nf4.h"
#include "compute/parts.h"
#include "compute/ref/eight.h"
#include "compute/ref/ref_int.h"

#include <math.h>

/* The factor on (row, k) of the adapter's input: 0 when dropped. */
static double kept(const struct weight *weight, const struct dropout *dropout, int32_t row, int32_t k)
{
    if (weight->lora_dropout <= 0)
        return 1;
    bool is_kept = dropout_keeps(dropout, weight->lora_dropout, row, k, weight->w.cols);

    return is_kept ? 1 / (1 - (double)weight->lora_dropout) : 0;
}

/* Element (n, k) of the base weight, beside a matrix of a type. */
static double base_at(const struct weight *weight, int32_t n, int32_t k, enum dtype beside)
{
    const struct quant *quant = &weight->quant;
    double value = 0;
    int part = 0;

    if (!quant->part)
        return beside == DTYPE_BF16 ? rounded(get(&weight->w, n, k), DTYPE_BF16) : get(&weight->w, n, k);
    while (n >= quant->row_end[part])
        part++;
    n -= part > 0 ? quant->row_end[part - 1] : 0;
    nf4_dequantize(&quant->part[part], (int64_t)n * weight->w.cols + k, 1, weight->w.type, &value);
    return at_get(&value, weight->w.type, 0);
}

static struct weight_part part_of_col(const struct weight *weight, int32_t c)
{
    int32_t i = 0;

    while (c >= weight_part(weight, i).col + weight_part(weight, i).cols)
        i++;
    return weight_part(weight, i);
}

/* The tensors of a product in eight bits: x, or the columns of dy that meet each part; and each part of W. */
struct tensors {
    struct tensor left[WEIGHT_PARTS_MAX], w[WEIGHT_PARTS_MAX];
};

static int32_t part_begin(const struct weight *weight, int32_t i)
{
    return i ? weight->quant.row_end[i - 1] : 0;
}

static struct tensors tensors_of(const struct weight *weight, const struct mat *left, bool is_forward)
{
    struct tensors tensors;

    for (int32_t i = 0; weight_is_eight(weight) && i < weight->quant.part_count; i++) {
        int32_t begin = part_begin(weight, i), rows = weight->quant.row_end[i] - begin;
        struct mat w = weight->w, dy = *left;
        w.at = (char *)w.at + (size_t)begin * (size_t)w.ld * dtype_bytes(w.type);
        w.rows = rows;
        dy.at = (char *)dy.at + (size_t)begin * dtype_bytes(dy.type);
        dy.cols = rows;
        tensors.w[i] = eight_tensor(&w, FP8_E4M3, left->type);
        tensors.left[i] = is_forward ? eight_tensor(left, FP8_E4M3, DTYPE_F32) : eight_tensor(&dy, FP8_E5M2, DTYPE_F32);
    }
    return tensors;
}

/* Element (t, n) of x·Wᵀ. */
static double forward_sum(const struct op_linear *op, const struct tensors *tensors, int32_t t, int32_t n)
{
    const struct weight *weight = op->w;
    enum dtype type = op->x.type;
    double sum = 0;
    int part = 0;

    if (!weight_is_eight(weight)) {
        for (int32_t k = 0; k < op->x.cols; k++)
            sum += get(&op->x, t, k) * base_at(weight, n, k, type);
        return sum;
    }
    while (n >= weight->quant.row_end[part])
        part++;
    for (int32_t k = 0; k < op->x.cols; k++)
        sum += eight_value(&tensors->left[part], &op->x, t, k, DTYPE_F32) *
               eight_value(&tensors->w[part], &weight->w, n, k, type);
    return sum * (double)tensors->left[part].inverse * (double)tensors->w[part].inverse;
}

/* Element (t, k) of dy·W. */
static double backward_sum(const struct op_linear_grad_in *op, const struct tensors *tensors, int32_t t, int32_t k)
{
    const struct weight *weight = op->w;
    enum dtype type = op->dy.type;
    bool is_eight = weight_is_eight(weight);
    double sum = 0;

    for (int32_t n = 0; !is_eight && n < op->dy.cols; n++)
        sum += get(&op->dy, t, n) * base_at(weight, n, k, type);
    for (int32_t i = 0; is_eight && i < weight->quant.part_count; i++) {
        double part = 0;
        for (int32_t n = part_begin(weight, i); n < weight->quant.row_end[i]; n++)
            part += eight_value(&tensors->left[i], &op->dy, t, n, DTYPE_F32) *
                    eight_value(&tensors->w[i], &weight->w, n, k, type);
        sum += part * (double)tensors->left[i].inverse * (double)tensors->w[i].inverse;
    }
    return sum;
}

void ref_linear(struct queue *queue, const struct op_linear *op)
{
    const struct weight *weight = op->w;
    int32_t T = op->x.rows, N = op->y.cols, K = op->x.cols, R = weight->a.rows;
    struct tensors tensors;

    if (op->row_end) {
        grouped_linear(queue, op, ref_linear);
        return;
    }
    if (op->adapters) {
        adapter_rows_linear(queue, op, ref_linear);
        return;
    }
    tensors = tensors_of(weight, &op->x, true);
    for (int32_t t = 0; t < T; t++) {
        for (int32_t c = 0; c < R; c++) {
            double sum = 0;
            for (int32_t k = 0; k < K; k++)
                sum += kept(weight, &op->dropout, t, k) * get(&op->x, t, k) * get(&weight->a, c, k);
            set(&op->x, t, K + c, part_of_col(weight, c).scale * sum);
        }
        for (int32_t n = 0; n < N; n++) {
            double sum = (op->bias.at ? get(&op->bias, 0, n) : 0) + forward_sum(op, &tensors, t, n);
            for (int32_t c = 0; c < R; c++)
                sum += get(&op->x, t, K + c) * get(&weight->b, n, c);
            sum += op->add.at ? get(&op->add, t, n) : 0;
            set(&op->y, t, n, op->softcap > 0 ? op->softcap * tanh(sum / op->softcap) : sum);
        }
    }
}

void ref_linear_grad_in(struct queue *queue, const struct op_linear_grad_in *op)
{
    const struct weight *weight = op->w;
    int32_t T = op->dy.rows, N = op->dy.cols, K = op->dx.cols, R = weight->a.rows;
    struct tensors tensors;

    if (op->row_end) {
        grouped_linear_grad_in(queue, op, ref_linear_grad_in);
        return;
    }
    tensors = tensors_of(weight, &op->dy, false);
    for (int32_t t = 0; t < T; t++) {
        for (int32_t c = 0; c < R; c++) {
            double sum = 0;
            for (int32_t n = 0; n < N; n++)
                sum += get(&op->dy, t, n) * get(&weight->b, n, c);
            set(&op->dy, t, N + c, part_of_col(weight, c).scale * sum);
        }
        for (int32_t k = 0; k < K; k++) {
            double sum = (op->is_added ? get(&op->dx, t, k) : 0) + backward_sum(op, &tensors, t, k), through = 0;
            for (int32_t c = 0; c < R; c++)
                through += get(&op->dy, t, N + c) * get(&weight->a, c, k);
            set(&op->dx, t, k, R ? sum + through * kept(weight, &op->dropout, t, k) : sum);
        }
    }
}

/* Whether (n, c) lies in one of the blocks of a fused weight's B. */
static bool is_in_part(const struct weight *weight, int32_t n, int32_t c)
{
    struct weight_part part = part_of_col(weight, c);

    return n >= part.row && n < part.row + part.rows;
}

void ref_linear_grad_w(struct queue *queue, const struct op_linear_grad_w *op)
{
    const struct weight *weight = op->w;
    int32_t T = op->x.rows, N = op->dy.cols, K = op->x.cols, R = weight->a.rows;

    if (op->row_end) {
        grouped_linear_grad_w(queue, op, ref_linear_grad_w);
        return;
    }
    for (int32_t n = 0; n < N; n++) {
        for (int32_t k = 0; op->dw.at && k < K; k++) {
            double sum = 0;
            for (int32_t t = 0; t < T; t++)
                sum += get(&op->dy, t, n) * get(&op->x, t, k);
            set(&op->dw, n, k, sum + (op->is_fresh ? 0 : get(&op->dw, n, k)));
        }
        for (int32_t c = 0; op->db.at && c < R; c++) {
            double sum = 0;
            for (int32_t t = 0; is_in_part(weight, n, c) && t < T; t++)
                sum += get(&op->dy, t, n) * get(&op->x, t, K + c);
            add(&op->db, n, c, sum);
        }
        if (op->dbias.at) {
            double sum = 0;
            for (int32_t t = 0; t < T; t++)
                sum += get(&op->dy, t, n);
            add(&op->dbias, 0, n, sum);
        }
    }
    for (int32_t c = 0; op->da.at && c < R; c++)
        for (int32_t k = 0; k < K; k++) {
            double sum = 0;
            for (int32_t t = 0; t < T; t++)
                sum += get(&op->dy, t, N + c) * get(&op->x, t, k) * kept(weight, &op->dropout, t, k);
            add(&op->da, c, k, sum);
        }
}
