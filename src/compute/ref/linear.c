#include "compute/adapter_rows.h"
#include "compute/dropout.h"
#include "compute/grouped.h"
#include "compute/nf4.h"
#include "compute/parts.h"
#include "compute/ref/element.h"
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

    if (!quant->part_count)
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

void ref_linear(struct queue *queue, const struct op_linear *op)
{
    const struct weight *weight = op->w;
    int32_t T = op->x.rows, N = op->y.cols, K = op->x.cols, R = weight->a.rows;

    if (op->row_end) {
        grouped_linear(queue, op, ref_linear);
        return;
    }
    if (op->adapters) {
        adapter_rows_linear(queue, op, ref_linear);
        return;
    }
    for (int32_t t = 0; t < T; t++) {
        for (int32_t c = 0; c < R; c++) {
            double sum = 0;
            for (int32_t k = 0; k < K; k++)
                sum += kept(weight, &op->dropout, t, k) * get(&op->x, t, k) * get(&weight->a, c, k);
            set(&op->x, t, K + c, part_of_col(weight, c).scale * sum);
        }
        for (int32_t n = 0; n < N; n++) {
            double sum = op->bias.at ? get(&op->bias, 0, n) : 0;
            for (int32_t k = 0; k < K; k++)
                sum += get(&op->x, t, k) * base_at(weight, n, k, op->x.type);
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

    if (op->row_end) {
        grouped_linear_grad_in(queue, op, ref_linear_grad_in);
        return;
    }
    for (int32_t t = 0; t < T; t++) {
        for (int32_t c = 0; c < R; c++) {
            double sum = 0;
            for (int32_t n = 0; n < N; n++)
                sum += get(&op->dy, t, n) * get(&weight->b, n, c);
            set(&op->dy, t, N + c, part_of_col(weight, c).scale * sum);
        }
        for (int32_t k = 0; k < K; k++) {
            double sum = op->is_added ? get(&op->dx, t, k) : 0, through = 0;
            for (int32_t n = 0; n < N; n++)
                sum += get(&op->dy, t, n) * base_at(weight, n, k, op->dy.type);
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
