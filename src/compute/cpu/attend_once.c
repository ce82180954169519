/* The gradient of attention in one pass: five products instead of the seven of attend_grad.c, with the same bits.
 *
 * A task owns the queries and keys of one document under one key head. For each head of the group and each tile of 64
 * keys it passes over the tiles of queries that see them: dq waits in f32 for the whole document while tiles of keys
 * add to it in order, as dk and dv do for tiles of queries and heads. There are as many tasks as documents times key
 * heads: attend_grad.c keeps many threads busy where those are too few. */
#include "compute/cpu/tile.h"
#include "compute/cpu/tiles.h"

struct once {
    const struct op_attend_grad *op;
    const float *delta; /* [H, T] */
    struct tile_shape shape;
    size_t down_words; /* of a tile [steps][d_wide] */
    size_t slab_bytes;
    char *slabs;
};

/* One task's place and memory. */
struct work {
    const struct once *once;
    int32_t start, length, kv_head;      /* start: the document's first row in the batch */
    int32_t head;
    uint32_t *q, *g;                     /* packed rows of the head's queries and of its dout, all of the document's */
    uint32_t *q_down, *g_down;           /* [steps][d_wide], tile behind tile */
    uint32_t *keys, *values, *keys_down; /* a tile, [d_steps][TILE] twice and [steps][d_wide] */
    uint32_t *p, *dscore;                /* [TILE][TILE] in operand type, a row for each query */
    uint32_t *p_down, *dscore_down;      /* [steps][TILE], steps of queries */
    float *scores, *dp;                  /* [BRICK_ROWS, TILE] */
    float *dq, *dk, *dv;                 /* [length, d_wide] */
};

static struct once once_for(const struct op_attend_grad *op)
{
    bool is_bf16 = HAS_BF16_PRODUCTS && op->qkv.type == DTYPE_BF16 && op->dout.type == DTYPE_BF16;
    struct once once = {.op = op, .shape = tile_shape(op->head_dim, is_bf16)};
    size_t steps = (size_t)once.shape.d_steps, d_wide = (size_t)once.shape.d_wide;
    size_t tiles = (size_t)ceil_div(op->qkv.rows, TILE);

    once.down_words = (size_t)step_count(TILE, is_bf16) * d_wide;
    once.slab_bytes =
        whole_lines(4 * (TILE * (2 * steps + 4 * TILE + 2 * BRICK_ROWS) + once.down_words +
                         tiles * (2 * TILE * steps + 2 * once.down_words) + 3 * (size_t)op->qkv.rows * d_wide));
    return once;
}

static uint32_t *take(uint32_t **at, size_t words)
{
    uint32_t *here = *at;

    *at += words;
    return here;
}

static struct work work_at(const struct once *once, int task, int thread)
{
    const struct op_attend_grad *op = once->op;
    int32_t document = task / op->kv_heads;
    struct work work = {.once = once, .start = op->batch->cu_seqlens[document],
                        .length = document_rows(op->batch, document), .kv_head = task % op->kv_heads};
    uint32_t *at = (uint32_t *)(once->slabs + (size_t)thread * once->slab_bytes);
    size_t rows = TILE * (size_t)once->shape.d_steps, square = TILE * TILE, tiles = (size_t)ceil_div(work.length, TILE);
    size_t sums = (size_t)work.length * (size_t)once->shape.d_wide;

    work.q = take(&at, tiles * rows), work.g = take(&at, tiles * rows);
    work.q_down = take(&at, tiles * once->down_words), work.g_down = take(&at, tiles * once->down_words);
    work.keys = take(&at, rows), work.values = take(&at, rows), work.keys_down = take(&at, once->down_words);
    work.p = take(&at, square), work.dscore = take(&at, square);
    work.p_down = take(&at, square), work.dscore_down = take(&at, square);
    work.scores = (float *)take(&at, BRICK_ROWS * TILE), work.dp = (float *)take(&at, BRICK_ROWS * TILE);
    work.dq = (float *)take(&at, sums), work.dk = (float *)take(&at, sums), work.dv = (float *)take(&at, sums);
    return work;
}

/* Columns of one head in a matrix, rows of the document. */
static struct side head_side(const struct work *work, const struct mat *m, int32_t head, bool is_k_down)
{
    int32_t d = work->once->shape.d;

    return (struct side){.m = tile_mat(m, work->start, head * d, work->length, d), .is_k_down = is_k_down};
}

static void pack_wide(const struct work *work, const struct mat *m, int32_t head, int32_t tile, int32_t count,
                      uint32_t *to)
{
    struct side side = head_side(work, m, head, false);

    tile_pack_across(&side, &work->once->shape, tile, count, to);
}

static void pack_down_wide(const struct work *work, const struct mat *m, int32_t head, int32_t tile, int32_t count,
                           uint32_t *to)
{
    struct side side = head_side(work, m, head, true);

    tile_pack_down(&side, &work->once->shape, tile, count, to);
}

/* A head's queries, once for all tiles of keys that they see. */
static void pack_queries(const struct work *work)
{
    const struct op_attend_grad *op = work->once->op;
    const struct tile_shape *shape = &work->once->shape;
    struct side q = head_side(work, &op->qkv, work->head, false), g = head_side(work, &op->dout, work->head, false);
    struct part part = {0, work->length, 0, shape->d};

    pack_rows(&q, shape->is_bf16, part, work->q, shape->d_steps);
    pack_rows(&g, shape->is_bf16, part, work->g, shape->d_steps);
    for (int32_t tile = 0; tile < work->length; tile += TILE) {
        size_t at = (size_t)(tile / TILE) * work->once->down_words;
        int32_t count = smaller(TILE, work->length - tile);
        pack_down_wide(work, &op->qkv, work->head, tile, count, work->q_down + at);
        pack_down_wide(work, &op->dout, work->head, tile, count, work->g_down + at);
    }
}

/* p and dscore of up to a brick's rows of queries against a tile of keys, and what that gives to dq. */
static void query_rows(const struct work *work, int32_t query, int32_t row, int32_t count, int32_t key,
                       int32_t key_count)
{
    const struct op_attend_grad *op = work->once->op;
    const struct tile_shape *shape = &work->once->shape;
    size_t words = (size_t)step_count(TILE, shape->is_bf16), at = (size_t)(query + row) * (size_t)shape->d_steps;
    enum dtype type = shape->is_bf16 ? DTYPE_BF16 : DTYPE_F32;
    struct span seen = {0, 0};

    tile_scores(shape, work->q + at, count, work->keys, work->scores);
    tile_scores(shape, work->g + at, count, work->values, work->dp);
    for (int32_t i = 0; i < count; i++) {
        size_t r = (size_t)(row + i), t = (size_t)work->head * (size_t)op->qkv.rows + (size_t)(work->start + query) + r;
        struct span span = span_of_query(query + row + i, op->window, key, key_count);
        struct slopes slopes = {(const float *)op->lse + t, work->once->delta + t, 0};

        seen = span_join(seen, span);
        tile_slopes(work->scores + i * TILE, work->dp + i * TILE, op->scale, op->softcap, span, slopes,
                    (struct row){work->p + r * words, type}, (struct row){work->dscore + r * words, type});
    }
    tile_sum(shape, work->dscore + (size_t)row * words, count, seen, key_count, work->keys_down,
             work->dq + (size_t)(query + row) * (size_t)shape->d_wide);
}

/* to [keys, d_wide] += aᵀ·tile, a [query_count][TILE] being turned into [steps][TILE] first. Key i of the tile is seen
 * from query first + i on. */
static void key_sums(const struct work *work, const uint32_t *a, uint32_t *a_down, int32_t first, int32_t query_count,
                     int32_t key_count, const uint32_t *tile, float *to)
{
    const struct tile_shape *shape = &work->once->shape;
    struct side side = {.m = {(void *)(uintptr_t)a, TILE, TILE, TILE, shape->is_bf16 ? DTYPE_BF16 : DTYPE_F32},
                        .is_k_down = true};
    int32_t steps = step_count(query_count, shape->is_bf16);
    struct part all = {0, TILE, 0, query_count};
    struct brick whole = {.a = (const char *)a_down, .a_row = 4, .a_step = 4 * TILE, .is_added = true};

    if (HAS_TILES && shape->is_bf16) {
        pack_tiles(&side, all, a_down);
        brick_take_tiles(&whole, a_down, steps);
    } else {
        pack_down(&side, shape->is_bf16, all, a_down, TILE);
    }
    for (int32_t row = 0; row < key_count; row += BRICK_ROWS) {
        int32_t from = first + row > 0 ? first_step(smaller(first + row, query_count), shape->is_bf16) : 0;
        struct brick brick = whole;
        brick.a = brick_a(&whole, row, from);
        brick.steps = steps - from;
        tile_multiply(brick, shape->is_bf16, smaller(BRICK_ROWS, key_count - row), tile, steps, from, shape->d_wide,
                      to + (size_t)row * (size_t)shape->d_wide);
    }
}

/* All that one head's queries have to do with a tile of keys. */
static void key_tile(const struct work *work, int32_t key)
{
    const struct op_attend_grad *op = work->once->op;
    int32_t key_count = smaller(TILE, work->length - key), end = work->length;
    size_t at = (size_t)key * (size_t)work->once->shape.d_wide;

    if (op->window > 0 && op->window < work->length)
        end = smaller(end, key + key_count - 1 + op->window);
    pack_wide(work, &op->qkv, op->heads + work->kv_head, key, key_count, work->keys);
    pack_wide(work, &op->qkv, op->heads + op->kv_heads + work->kv_head, key, key_count, work->values);
    pack_down_wide(work, &op->qkv, op->heads + work->kv_head, key, key_count, work->keys_down);
    for (int32_t query = key; query < end; query += TILE) {
        int32_t count = smaller(TILE, work->length - query);
        size_t down = (size_t)(query / TILE) * work->once->down_words;
        for (int32_t row = 0; row < count; row += BRICK_ROWS)
            query_rows(work, query, row, smaller(BRICK_ROWS, count - row), key, key_count);
        key_sums(work, work->dscore, work->dscore_down, key - query, count, key_count, work->q_down + down,
                 work->dk + at);
        key_sums(work, work->p, work->p_down, key - query, count, key_count, work->g_down + down, work->dv + at);
    }
}

static void write_sums(const struct work *work, const float *sums, int32_t head)
{
    int32_t d = work->once->shape.d;

    for (int32_t i = 0; i < work->length; i++) {
        struct row to = row_of(&work->once->op->dqkv, work->start + i, head * d);
        for (int32_t j = 0; j < d; j += LANES)
            row_store(to, j, d, lanes_load(sums + (size_t)i * (size_t)work->once->shape.d_wide + j));
    }
}

static void once_task(void *context, int task, int thread)
{
    const struct once *once = context;
    const struct op_attend_grad *op = once->op;
    struct work work = work_at(once, task, thread);
    size_t sum_bytes = (size_t)work.length * (size_t)once->shape.d_wide * sizeof(float);
    int32_t group = op->heads / op->kv_heads;

    memset(work.dk, 0, 2 * sum_bytes); /* and dv */
    for (work.head = work.kv_head * group; work.head < (work.kv_head + 1) * group; work.head++) {
        memset(work.dq, 0, sum_bytes);
        pack_queries(&work);
        for (int32_t key = 0; key < work.length; key += TILE)
            key_tile(&work, key);
        write_sums(&work, work.dq, work.head);
    }
    write_sums(&work, work.dk, op->heads + work.kv_head);
    write_sums(&work, work.dv, op->heads + op->kv_heads + work.kv_head);
}

/* Five products of the longest share of a thread against seven of an even one. */
bool CPU(attend_grad_is_once)(const struct op_attend_grad *op, int thread_count)
{
    double longest = 0, all = 0;

    for (int32_t document = 0; document < op->batch->doc_count; document++) {
        double length = document_rows(op->batch, document);
        longest = length * length > longest ? length * length : longest;
        all += length * length * op->kv_heads;
    }
    return 5 * (all / thread_count + longest * (thread_count - 1) / thread_count) <= 7 * all / thread_count;
}

size_t CPU(attend_grad_once_scratch)(const struct op_attend_grad *op, int thread_count)
{
    return once_for(op).slab_bytes * (size_t)thread_count;
}

void CPU(attend_grad_once)(struct queue *queue, const struct op_attend_grad *op, const float *delta, void *scratch)
{
    struct once once = once_for(op);

    once.delta = delta;
    once.slabs = scratch;
    pool_run(queue->pool, op->batch->doc_count * op->kv_heads, once_task, &once);
}
