/* Mixture of experts: the choice of a token's experts and its gradient. Blocks of 256 tokens are the tasks; each leaves
 * the sum of its probabilities in scratch, and the blocks are added in order. */
#include "compute/cpu/cpu_int.h"
#include "compute/route.h"

#include <string.h>

enum { TASK_TOKENS = 256, GRAD_TOKENS = 8 };

/* p[e] = softmax(logits[t])[e]; the lanes behind E hold zeros. value: the logits themselves. */
static void token_softmax(const struct mat *logits, int32_t t, float *value, float *p)
{
    struct row row = row_of(logits, t, 0);
    int32_t E = logits->cols;
    float max = -INFINITY, sum = 0;

    for (int32_t e = 0; e < E; e += LANES)
        lanes_store(value + e, row_load(row, e, E));
    for (int32_t e = 0; e < E; e++)
        max = value[e] > max ? value[e] : max;
    for (int32_t e = 0; e < E; e += LANES)
        lanes_store(p + e, lanes_exp(lanes_load(value + e) - max));
    for (int32_t e = 0; e < E; e++)
        sum += p[e];
    for (int32_t e = 0; e < E; e++)
        p[e] /= sum;
    for (int32_t e = E; e % LANES; e++)
        p[e] = 0;
}

static float chosen_sum(const float *p, const int32_t *choice, int32_t top, bool is_normalized)
{
    float sum = 0;

    for (int32_t j = 0; j < top; j++)
        sum += p[choice[j]];
    return is_normalized ? sum : 1;
}

struct route_pass {
    const struct op_route *op;
    float *sums; /* [tasks, E] */
};

static void route_task(void *context, int task, int thread)
{
    const struct route_pass *pass = context;
    const struct op_route *op = pass->op;
    int32_t E = op->logits.cols, top = op->weight.cols, end = smaller((task + 1) * TASK_TOKENS, op->logits.rows);
    float value[ROUTE_EXPERTS_MAX], p[ROUTE_EXPERTS_MAX], *sums = pass->sums + (size_t)task * (size_t)E;

    memset(sums, 0, (size_t)E * sizeof *sums);
    for (int32_t t = task * TASK_TOKENS; t < end; t++) {
        int32_t *choice = op->row + (size_t)t * (size_t)top;
        float *weight = row_of(&op->weight, t, 0).at, sum;
        token_softmax(&op->logits, t, value, p);
        route_choose(value, E, top, choice);
        sum = chosen_sum(p, choice, top, op->is_normalized);
        for (int32_t j = 0; j < top; j++)
            weight[j] = p[choice[j]] / sum;
        for (int32_t e = 0; e < E; e++)
            sums[e] += p[e];
    }
}

static void add_load(const struct op_route *op, const float *sums, int tasks)
{
    float *count = row_of(&op->load, 0, 0).at, *probability = row_of(&op->load, 1, 0).at;
    int32_t E = op->logits.cols;

    for (int32_t e = 0; e < E; e++) {
        count[e] += (float)(op->row_end[e] - (e ? op->row_end[e - 1] : 0));
        for (int task = 0; task < tasks; task++)
            probability[e] += sums[(size_t)task * (size_t)E + (size_t)e];
    }
}

void CPU(route)(struct queue *queue, const struct op_route *op)
{
    int32_t T = op->logits.rows, top = op->weight.cols, tasks = ceil_div(T, TASK_TOKENS);
    struct route_pass pass = {op, queue->scratch};
    float *row_weight = op->row_weight.at;

    ASSERT(queue->scratch_bytes >= CPU(route_scratch)(op, 1));
    pool_run(queue->pool, tasks, route_task, &pass);
    route_sort(T, op->logits.cols, top, op->row, op->token, op->row_end);
    for (int32_t i = 0; i < T * top; i++)
        row_weight[op->row[i]] = ((const float *)row_of(&op->weight, i / top, 0).at)[i % top];
    if (op->load.at)
        add_load(op, pass.sums, tasks);
}

size_t CPU(route_scratch)(const struct op_route *op, int thread_count)
{
    return whole_lines((size_t)ceil_div(op->logits.rows, TASK_TOKENS) * (size_t)op->logits.cols * sizeof(float));
}

static float row_dot(struct row a, struct row b, int32_t count)
{
    lanes sum = {0};

    for (int32_t j = 0; j < count; j += LANES)
        sum += row_load(a, j, count) * row_load(b, j, count);
    return lanes_sum(sum);
}

/* dp, the gradient of the token's probabilities: aux, and the chosen experts' share of dout. */
static void token_grad(const struct op_route_grad *op, int32_t t, const int32_t *choice, const float *p, float *dp)
{
    int32_t E = op->logits.cols, top = op->weight.cols;
    const float *aux = op->aux.at, *weight = row_of(&op->weight, t, 0).at;
    float sum = chosen_sum(p, choice, top, op->is_normalized), mean = 0, dw[ROUTE_EXPERTS_MAX];

    for (int32_t e = 0; e < E; e++)
        dp[e] = aux ? aux[e] : 0;
    for (int32_t j = 0; j < top; j++) {
        dw[j] = row_dot(row_of(&op->dout, t, 0), row_of(&op->y, op->row[t * top + j], 0), op->y.cols);
        mean += op->is_normalized ? dw[j] * weight[j] : 0;
    }
    for (int32_t j = 0; j < top; j++)
        dp[choice[j]] += (dw[j] - mean) / sum;
}

static void route_grad_task(void *context, int task, int thread)
{
    const struct op_route_grad *op = context;
    int32_t E = op->logits.cols, top = op->weight.cols, choice[ROUTE_EXPERTS_MAX];
    float value[ROUTE_EXPERTS_MAX], p[ROUTE_EXPERTS_MAX], dp[ROUTE_EXPERTS_MAX];

    for (int32_t t = task * GRAD_TOKENS; t < smaller((task + 1) * GRAD_TOKENS, op->logits.rows); t++) {
        struct row to = row_of(&op->dlogits, t, 0);
        float mean = 0;
        token_softmax(&op->logits, t, value, p);
        route_choose(value, E, top, choice);
        token_grad(op, t, choice, p, dp);
        for (int32_t e = 0; e < E; e++)
            mean += p[e] * dp[e];
        for (int32_t e = E; e % LANES; e++)
            dp[e] = 0;
        for (int32_t e = 0; e < E; e += LANES)
            row_store(to, e, E, lanes_load(p + e) * (lanes_load(dp + e) - mean));
    }
}

void CPU(route_grad)(struct queue *queue, const struct op_route_grad *op)
{
    pool_run(queue->pool, ceil_div(op->logits.rows, GRAD_TOKENS), route_grad_task, (void *)op);
}
