/* Attention by its definition, one query row and one head at a time. A document's keys are its own rows of qkv, or with
 * a cache the cache's rows, to which the new ones are appended first. */
#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

#include <math.h>

/* Where the keys and values of one document lie: element (s, j) of a head at k[(s mod capacity)·ld + j]. */
struct keys {
    const void *k, *v;
    enum dtype type;
    size_t ld, k_at, v_at;
    int32_t earlier; /* rows in front of the document's first row of this batch */
    int32_t capacity;
};

static void cache_append(struct kv_cache *cache, const struct op_attend *op, int32_t first, int32_t end)
{
    int32_t width = op->kv_heads * op->head_dim, q_width = op->heads * op->head_dim;

    ASSERT(kv_cache_takes(cache, end - first, op->window));
    for (int32_t t = first; t < end; t++)
        for (int32_t j = 0; j < width; j++) {
            size_t index = (size_t)((cache->length + t - first) % cache->capacity) * (size_t)width + (size_t)j;
            at_set(cache->k, cache->type, index, get(&op->qkv, t, q_width + j));
            at_set(cache->v, cache->type, index, get(&op->qkv, t, q_width + width + j));
        }
}

static struct keys document_keys(const struct op_attend *op, int32_t document, int32_t kv_head)
{
    size_t head_at = (size_t)(kv_head * op->head_dim), q_width = (size_t)(op->heads * op->head_dim);
    size_t width = (size_t)(op->kv_heads * op->head_dim);
    size_t row = (size_t)op->batch->cu_seqlens[document] * (size_t)op->qkv.ld;

    if (op->cache)
        return (struct keys){op->cache[document].k, op->cache[document].v, op->cache[document].type, width, head_at,
                             head_at, op->cache[document].length, op->cache[document].capacity};
    return (struct keys){op->qkv.at, op->qkv.at, op->qkv.type, (size_t)op->qkv.ld, row + q_width + head_at,
                         row + q_width + width + head_at, 0, INT32_MAX};
}

/* Where the key, and from v_at on the value, of a position begins. */
static size_t key_at(const struct keys *keys, int32_t position)
{
    return (size_t)(position % keys->capacity) * keys->ld;
}

static int32_t first_key(int32_t position, int32_t window)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

static double capped(double score, float softcap)
{
    return softcap > 0 ? softcap * tanh(score / softcap) : score;
}

static double score(const struct op_attend *op, const struct keys *keys, int32_t t, int32_t head, int32_t s)
{
    double sum = 0;

    for (int32_t j = 0; j < op->head_dim; j++)
        sum += get(&op->qkv, t, head * op->head_dim + j) *
               at_get(keys->k, keys->type, keys->k_at + key_at(keys, s) + (size_t)j);
    return capped(sum * op->scale, op->softcap);
}

/* One head of one row: log Σ exp of the scores first, then the weighted sum of the values. */
static void attend_row(const struct op_attend *op, const struct keys *keys, int32_t t, int32_t head, int32_t position)
{
    double sink = op->sinks.at ? get(&op->sinks, 0, head) : -INFINITY, max = sink, sum, lse;

    for (int32_t s = first_key(position, op->window); s <= position; s++)
        max = fmax(max, score(op, keys, t, head, s));
    sum = exp(sink - max);
    for (int32_t s = first_key(position, op->window); s <= position; s++)
        sum += exp(score(op, keys, t, head, s) - max);
    lse = max + log(sum);
    if (op->lse)
        at_set(op->lse, stat_type(op->qkv.type), (size_t)head * (size_t)op->qkv.rows + (size_t)t, lse);
    double out[512] = {0};
    for (int32_t s = first_key(position, op->window); s <= position; s++) {
        double p = exp(score(op, keys, t, head, s) - lse);
        for (int32_t j = 0; j < op->head_dim; j++)
            out[j] += p * at_get(keys->v, keys->type, keys->v_at + key_at(keys, s) + (size_t)j);
    }
    for (int32_t j = 0; j < op->head_dim; j++)
        set(&op->out, t, head * op->head_dim + j, out[j]);
}

void ref_attend(struct queue *queue, const struct op_attend *op)
{
    const int32_t *cu_seqlens = op->batch->cu_seqlens;

    for (int32_t document = 0; document < op->batch->doc_count; document++) {
        if (op->cache)
            cache_append(&op->cache[document], op, cu_seqlens[document], cu_seqlens[document + 1]);
        for (int32_t head = 0; head < op->heads; head++) {
            struct keys keys = document_keys(op, document, head / (op->heads / op->kv_heads));
            for (int32_t t = cu_seqlens[document]; t < cu_seqlens[document + 1]; t++)
                attend_row(op, &keys, t, head, keys.earlier + t - cu_seqlens[document]);
        }
    }
}

/* Query head `head` with its key head: first columns in qkv, dqkv (q, k, v) and out, dout. */
struct columns {
    int32_t head, q, k, v, out;
};

static struct columns head_columns(const struct op_attend_grad *op, int32_t head)
{
    int32_t d = op->head_dim, k = (op->heads + head / (op->heads / op->kv_heads)) * d;

    return (struct columns){head, head * d, k, k + op->kv_heads * d, head * d};
}

/* p = exp(score - lse) and the gradient of q·k: scale · p · (dout·v - dout·out), times the slope of the cap. */
struct pair {
    double p, slope;
};

static struct pair pair_grad(const struct op_attend_grad *op, struct columns at, int32_t t, int32_t s)
{
    double lse = at_get(op->lse, stat_type(op->qkv.type), (size_t)at.head * (size_t)op->qkv.rows + (size_t)t);
    double dot = 0, dp = 0, score, slope;

    for (int32_t j = 0; j < op->head_dim; j++) {
        dot += get(&op->qkv, t, at.q + j) * get(&op->qkv, s, at.k + j);
        dp += get(&op->dout, t, at.out + j) * (get(&op->qkv, s, at.v + j) - get(&op->out, t, at.out + j));
    }
    score = capped(dot * op->scale, op->softcap);
    slope = op->softcap > 0 ? 1 - score / op->softcap * (score / op->softcap) : 1;
    return (struct pair){exp(score - lse), op->scale * exp(score - lse) * dp * slope};
}

static void query_grad(const struct op_attend_grad *op, struct columns at, int32_t first, int32_t t)
{
    double dq[512] = {0};

    for (int32_t s = first + first_key(t - first, op->window); s <= t; s++) {
        struct pair pair = pair_grad(op, at, t, s);
        for (int32_t j = 0; j < op->head_dim; j++)
            dq[j] += pair.slope * get(&op->qkv, s, at.k + j);
    }
    for (int32_t j = 0; j < op->head_dim; j++)
        set(&op->dqkv, t, at.q + j, dq[j]);
}

/* Key row s of one key head: the sum over the query heads of its group and the rows that see it. */
static void key_grad(const struct op_attend_grad *op, int32_t kv_head, int32_t end, int32_t s)
{
    int32_t group = op->heads / op->kv_heads, last = op->window > 0 && s + op->window < end ? s + op->window : end;
    struct columns at = head_columns(op, kv_head * group);
    double dk[512] = {0}, dv[512] = {0};

    for (int32_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int32_t t = s; t < last; t++) {
            struct columns query = head_columns(op, head);
            struct pair pair = pair_grad(op, query, t, s);
            for (int32_t j = 0; j < op->head_dim; j++) {
                dk[j] += pair.slope * get(&op->qkv, t, query.q + j);
                dv[j] += pair.p * get(&op->dout, t, query.out + j);
            }
        }
    for (int32_t j = 0; j < op->head_dim; j++) {
        set(&op->dqkv, s, at.k + j, dk[j]);
        set(&op->dqkv, s, at.v + j, dv[j]);
    }
}

static void sink_grad(const struct op_attend_grad *op, int32_t head)
{
    int32_t T = op->qkv.rows, d = op->head_dim;
    double sum = 0;

    for (int32_t t = 0; t < T; t++) {
        double lse = at_get(op->lse, stat_type(op->qkv.type), (size_t)head * (size_t)T + (size_t)t), delta = 0;

        for (int32_t j = head * d; j < (head + 1) * d; j++)
            delta += get(&op->dout, t, j) * get(&op->out, t, j);
        sum += exp(get(&op->sinks, 0, head) - lse) * delta;
    }
    add(&op->dsinks, 0, head, -sum);
}

void ref_attend_grad(struct queue *queue, const struct op_attend_grad *op)
{
    for (int32_t head = 0; op->dsinks.at && head < op->heads; head++)
        sink_grad(op, head);
    for (int32_t document = 0; document < op->batch->doc_count; document++) {
        int32_t first = op->batch->cu_seqlens[document], end = op->batch->cu_seqlens[document + 1];

        for (int32_t t = first; t < end; t++) {
            for (int32_t head = 0; head < op->heads; head++)
                query_grad(op, head_columns(op, head), first, t);
            for (int32_t kv_head = 0; kv_head < op->kv_heads; kv_head++)
                key_grad(op, kv_head, end, t);
        }
    }
}
