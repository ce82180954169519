#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"
#include "compute/route.h"

#include <math.h>

enum { LOAD_TOKENS = 256 };

static void softmax(const struct mat *logits, int32_t t, double *p)
{
    int32_t E = logits->cols;
    double max = -INFINITY, sum = 0;

    for (int32_t e = 0; e < E; e++)
        max = fmax(max, get(logits, t, e));
    for (int32_t e = 0; e < E; e++)
        sum += p[e] = exp(get(logits, t, e) - max);
    for (int32_t e = 0; e < E; e++)
        p[e] /= sum;
}

static void choose(const struct mat *logits, int32_t t, int32_t top, int32_t *choice)
{
    float value[ROUTE_EXPERTS_MAX];

    for (int32_t e = 0; e < logits->cols; e++)
        value[e] = (float)get(logits, t, e);
    route_choose(value, logits->cols, top, choice);
}

/* What the weights of the chosen are divided by: their softmax over all becomes their softmax over the chosen. */
static double chosen_sum(const double *p, const int32_t *choice, int32_t top, bool is_normalized)
{
    double sum = 0;

    for (int32_t j = 0; j < top; j++)
        sum += p[choice[j]];
    return is_normalized ? sum : 1;
}

static void add_load(const struct op_route *op)
{
    int32_t E = op->logits.cols, top = op->weight.cols, choice[ROUTE_EXPERTS_MAX];
    double p[ROUTE_EXPERTS_MAX];

    for (int32_t t = 0; op->load.at && t < op->logits.rows; t++) {
        softmax(&op->logits, t, p);
        choose(&op->logits, t, top, choice);
        for (int32_t e = 0; e < E; e++)
            add(&op->load, 1, e, p[e]);
        for (int32_t j = 0; j < top; j++)
            add(&op->load, 0, choice[j], 1);
    }
}

void ref_route(struct queue *queue, const struct op_route *op)
{
    int32_t T = op->logits.rows, E = op->logits.cols, top = op->weight.cols;
    double p[ROUTE_EXPERTS_MAX];

    for (int32_t t = 0; t < T; t++) {
        int32_t *choice = op->row + (size_t)t * (size_t)top;
        double sum;
        softmax(&op->logits, t, p);
        choose(&op->logits, t, top, choice);
        sum = chosen_sum(p, choice, top, op->is_normalized);
        for (int32_t j = 0; j < top; j++)
            set(&op->weight, t, j, p[choice[j]] / sum);
    }
    route_sort(T, E, top, op->row, op->token, op->row_end);
    for (int32_t i = 0; i < T * top; i++)
        set(&op->row_weight, 0, op->row[i], get(&op->weight, i / top, i % top));
    add_load(op);
}

void ref_route_grad(struct queue *queue, const struct op_route_grad *op)
{
    int32_t T = op->logits.rows, E = op->logits.cols, top = op->weight.cols, choice[ROUTE_EXPERTS_MAX];
    double p[ROUTE_EXPERTS_MAX], dp[ROUTE_EXPERTS_MAX];

    for (int32_t t = 0; t < T; t++) {
        double mean = 0, sum, all = 0;
        softmax(&op->logits, t, p);
        choose(&op->logits, t, top, choice);
        sum = chosen_sum(p, choice, top, op->is_normalized);
        for (int32_t e = 0; e < E; e++)
            dp[e] = op->aux.at ? get(&op->aux, 0, e) : 0;
        for (int32_t pass = 0; pass < 2; pass++) /* the mean of the weights' gradients comes before its use */
            for (int32_t j = 0; j < top; j++) {
                double dw = 0;
                for (int32_t c = 0; c < op->y.cols; c++)
                    dw += get(&op->dout, t, c) * get(&op->y, op->row[t * top + j], c);
                if (pass == 0)
                    mean += op->is_normalized ? dw * p[choice[j]] / sum : 0;
                else
                    dp[choice[j]] += (dw - mean) / sum;
            }
        for (int32_t e = 0; e < E; e++)
            all += p[e] * dp[e];
        for (int32_t e = 0; e < E; e++)
            set(&op->dlogits, t, e, p[e] * (dp[e] - all));
    }
}
