/* A pass's two halves as graphs of a device (compute/graphs.h). The head lies between them: its products follow from
 * the number of supervised rows, which is another one in every batch.
 *
 * What a half launches follows from T and from doc_count, as the arrays of a batch lie where these say and everything
 * else where the plan put it. So that they come again, T is rounded up to one of eight sizes. The tokens behind the
 * batch's own are a document of their own, each of them the batch's first token at position 0, so that nothing arises
 * that the batch has not anyway. None is a row of the head: their gradients are zeros, and they add zeros to those of
 * weights. */
#include "model/decoder_int.h"

#include "compute/graphs.h"

#include <string.h>

enum { SIZES = 8, SIZE_ROWS = 64, DOCUMENTS_LEAST = 16, DOCUMENTS_STEP = 8 };

void graphs_open(struct model *m)
{
    m->graphs = device_graphs(m->backend);
    if (m->graphs) /* tok, pos, by_token and cu_seqlens */
        m->padded = arena_new_array(&m->arena, int32_t, 4 * (size_t)m->plan.tokens + 1);
}

static int32_t rounded_up(int32_t value, int32_t step)
{
    return (value + step - 1) / step * step;
}

/* Experts count whom they serve: theirs are as many as there are. */
static int32_t padded_tokens(const struct model *m, int32_t T)
{
    int32_t size = rounded_up(rounded_up(m->plan.tokens, SIZES) / SIZES, SIZE_ROWS), padded = rounded_up(T, size);

    if (m->config.moe.experts)
        return T;
    return padded < m->plan.tokens ? padded : m->plan.tokens;
}

/* Of few sizes too; never more than tokens. */
static int32_t padded_documents(int32_t count, int32_t T)
{
    int32_t padded = DOCUMENTS_LEAST;

    while (padded < count)
        padded *= DOCUMENTS_STEP;
    return padded < T ? padded : T;
}

/* The batch's rows by token, and behind those of the first row's token the new ones, which have it too. */
static void insert_rows(const struct batch *batch, int32_t T, int32_t *by_token)
{
    int32_t token = batch->tok[0], at = 0, n = 0;

    while (at < batch->T && batch->tok[batch->by_token[at]] <= token)
        by_token[n++] = batch->by_token[at++];
    for (int32_t t = batch->T; t < T; t++)
        by_token[n++] = t;
    memcpy(by_token + n, batch->by_token + at, (size_t)(batch->T - at) * sizeof *by_token);
}

static void pad_tokens(const struct batch *batch, struct batch *padded, int32_t *tok, int32_t *pos, int32_t *by_token)
{
    memcpy(tok, batch->tok, (size_t)batch->T * sizeof *tok);
    memcpy(pos, batch->pos, (size_t)batch->T * sizeof *pos);
    for (int32_t t = batch->T; t < padded->T; t++) {
        tok[t] = batch->tok[0];
        pos[t] = 0;
    }
    insert_rows(batch, padded->T, by_token);
    padded->tok = tok;
    padded->pos = pos;
    padded->by_token = by_token;
}

/* One behind the batch's own, then empty ones. */
static void pad_documents(const struct batch *batch, struct batch *padded, int32_t *cu_seqlens)
{
    memcpy(cu_seqlens, batch->cu_seqlens, (size_t)(batch->doc_count + 1) * sizeof *cu_seqlens);
    for (int32_t d = batch->doc_count + 1; d <= padded->doc_count; d++)
        cu_seqlens[d] = padded->T;
    padded->cu_seqlens = cu_seqlens;
}

struct batch graphs_batch(struct model *m, const struct batch *batch)
{
    struct batch padded = *batch;
    int32_t T = padded_tokens(m, batch->T);

    if (!m->graphs)
        return padded;
    ASSERT(!batch->doc_length);
    padded.T = T;
    padded.doc_count = padded_documents(batch->doc_count + (T > batch->T), T);
    pad_tokens(batch, &padded, m->padded, m->padded + T, m->padded + 2 * (size_t)T);
    pad_documents(batch, &padded, m->padded + 3 * (size_t)T);
    return padded;
}

struct half {
    struct model *m;
    const struct pass *pass;
    void (*run)(struct model *m, const struct pass *pass);
};

static void run_half(void *context)
{
    const struct half *half = context;

    half->run(half->m, half->pass);
}

/* Dropout is another one in every pass, and told to its kernels by their arguments. */
static bool is_repeated(const struct model *m, const struct pass *pass)
{
    return m->graphs && !(pass->step && m->params.lora_dropout > 0);
}

static void run(struct half *half, bool is_backward)
{
    const struct pass *pass = half->pass;
    struct graph_key key = {{is_backward, pass->batch->T, pass->batch->doc_count, is_backward && pass->begins_grads}};

    if (is_repeated(half->m, pass))
        half->m->graphs->run(&half->m->queue, &key, run_half, half);
    else
        run_half(half);
}

void graphs_forward(struct model *m, const struct pass *pass)
{
    run(&(struct half){m, pass, forward_layers}, false);
}

void graphs_backward(struct model *m, const struct pass *pass)
{
    run(&(struct half){m, pass, backward_layers}, true);
}
