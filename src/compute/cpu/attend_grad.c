/* The gradient of attention in two passes, for threads that documents and key heads alone would leave idle
 * (attend_once.c is for the others), that need no memory between tasks and no atomics: one owns blocks of queries
 * and sums dq over tiles of keys, one owns blocks of keys and sums dk and dv over tiles of queries. Scores are computed
 * in both, seven products instead of five; in return every sum has one owner and one order.
 *
 *   s = cap(scale·q·k)    p = exp(s - lse)    dscore = scale·p·(dout·v - delta)·cap', delta = dout·out
 *   dq = Σ dscore·k       dk = Σ dscore·q     dv = Σ p·dout */
#include "compute/cpu/tile.h"

enum { QUERY_ROWS = 192, QUERIES_MAX = 128, QUERIES_MIN = 16, KEY_ROWS = 128, DELTA_ROWS = 16, SINK_ROWS = 256 };

struct attend_grad {
    const struct op_attend_grad *op;
    bool is_bf16;
    int32_t queries;
    size_t delta_bytes, slab_bytes;
    float *delta; /* [H, T] */
    char *slabs;
};

/* Rows against tiles: x are the rows' operand of the scores, g that of dp; both sums are [rows, d_wide]. */
struct block {
    const struct attend_grad *grad;
    struct tile_shape shape;
    int32_t document, start, first, count, length; /* start: the document's first row in the batch */
    uint32_t *x, *g;             /* packed rows */
    uint32_t *tile_x, *tile_g;   /* packed across: for scores and dp */
    uint32_t *down_x, *down_g;   /* packed down: for the sums; dq needs only one */
    uint32_t *p, *dscore;        /* [BRICK_ROWS][TILE] in operand type */
    float *scores, *dp;          /* [BRICK_ROWS, TILE] */
    float *sum_x, *sum_g;
};

static struct attend_grad grad_cut(const struct op_attend_grad *op)
{
    struct attend_grad grad = {.op = op};
    int32_t group = op->heads / op->kv_heads, queries = QUERY_ROWS / group / QUERIES_MIN * QUERIES_MIN;
    size_t rows, steps, d_wide;
    struct tile_shape shape;

    grad.queries = queries < QUERIES_MIN ? QUERIES_MIN : smaller(queries, QUERIES_MAX);
    grad.is_bf16 = HAS_BF16_PRODUCTS && op->qkv.type == DTYPE_BF16 && op->dout.type == DTYPE_BF16;
    shape = tile_shape(op->head_dim, grad.is_bf16);
    steps = (size_t)shape.d_steps, d_wide = (size_t)shape.d_wide;
    rows = (size_t)grad.queries * (size_t)group;
    rows = rows > KEY_ROWS ? rows : KEY_ROWS;
    grad.delta_bytes = whole_lines((size_t)op->heads * (size_t)op->qkv.rows * sizeof(float));
    grad.slab_bytes =
        whole_lines(4 * (2 * rows * (steps + d_wide) + 2 * TILE * (steps + d_wide) + 4 * BRICK_ROWS * TILE));
    return grad;
}

static struct block block_at(const struct attend_grad *grad, struct document_block place, int32_t rows, int thread)
{
    struct tile_shape shape = tile_shape(grad->op->head_dim, grad->is_bf16);
    size_t packed = (size_t)rows * (size_t)shape.d_steps, across = TILE * (size_t)shape.d_steps;
    size_t down = TILE * (size_t)shape.d_wide;
    struct block block = {.grad = grad, .shape = shape, .document = place.document,
                          .start = grad->op->batch->cu_seqlens[place.document], .first = place.first,
                          .count = place.count, .length = document_rows(grad->op->batch, place.document)};
    size_t sums = (size_t)rows * (size_t)shape.d_wide;

    block.x = (uint32_t *)(grad->slabs + (size_t)thread * grad->slab_bytes);
    block.g = block.x + packed;
    block.tile_x = block.g + packed;
    block.tile_g = block.tile_x + across;
    block.down_x = block.tile_g + across;
    block.down_g = block.down_x + down;
    block.p = block.down_g + down;
    block.dscore = block.p + BRICK_ROWS * TILE;
    block.scores = (float *)block.dscore + BRICK_ROWS * TILE;
    block.dp = block.scores + BRICK_ROWS * TILE;
    block.sum_x = block.dp + BRICK_ROWS * TILE;
    block.sum_g = block.sum_x + sums;
    memset(block.sum_x, 0, 2 * sums * sizeof(float));
    return block;
}

/* Columns of one head in a matrix, rows of the block's document. */
static struct side head_side(const struct block *block, const struct mat *m, int32_t col, bool is_k_down)
{
    return (struct side){.m = tile_mat(m, block->start, col, block->length, block->shape.d), .is_k_down = is_k_down};
}

static int32_t key_col(const struct op_attend_grad *op, int32_t kv_head)
{
    return (op->heads + kv_head) * op->head_dim;
}

static int32_t value_col(const struct op_attend_grad *op, int32_t kv_head)
{
    return (op->heads + op->kv_heads + kv_head) * op->head_dim;
}

static void pack_block(const struct block *block, const struct mat *m, int32_t col, uint32_t *to)
{
    struct side side = head_side(block, m, col, false);

    pack_rows(&side, block->shape.is_bf16, (struct part){block->first, block->count, 0, block->shape.d}, to,
              block->shape.d_steps);
}

static void pack_across_tile(const struct block *block, const struct mat *m, int32_t col, int32_t tile, int32_t count,
                             uint32_t *to)
{
    struct side side = head_side(block, m, col, false);

    tile_pack_across(&side, &block->shape, tile, count, to);
}

static void pack_down_tile(const struct block *block, const struct mat *m, int32_t col, int32_t tile, int32_t count,
                           uint32_t *to)
{
    struct side side = head_side(block, m, col, true);

    tile_pack_down(&side, &block->shape, tile, count, to);
}

static void write_sums(const struct block *block, const float *sums, int32_t col)
{
    for (int32_t i = 0; i < block->count; i++) {
        struct row to = row_of(&block->grad->op->dqkv, block->start + block->first + i, col);
        for (int32_t j = 0; j < block->shape.d; j += LANES)
            row_store(to, j, block->shape.d, lanes_load(sums + (size_t)i * (size_t)block->shape.d_wide + j));
    }
}

static struct row operand_row(const struct block *block, uint32_t *words, int32_t i)
{
    size_t row_words = (size_t)step_count(TILE, block->shape.is_bf16);

    return (struct row){words + (size_t)i * row_words, block->shape.is_bf16 ? DTYPE_BF16 : DTYPE_F32};
}

static void slope_row(const struct block *block, int32_t i, struct span span, struct slopes at)
{
    const struct op_attend_grad *op = block->grad->op;

    tile_slopes(block->scores + i * TILE, block->dp + i * TILE, op->scale, op->softcap, span, at,
                operand_row(block, block->p, i), operand_row(block, block->dscore, i));
}

/* dq of a block of queries, all heads of the group: row r is head r / count, query r % count. */
static void query_rows(const struct block *block, int32_t kv_head, int32_t row, int32_t count, int32_t key,
                       int32_t key_count)
{
    const struct op_attend_grad *op = block->grad->op;
    const struct tile_shape *shape = &block->shape;
    struct span spans[BRICK_ROWS], seen = {0, 0};

    for (int32_t i = 0; i < count; i++) {
        spans[i] = span_of_query(block->first + (row + i) % block->count, op->window, key, key_count);
        seen = span_join(seen, spans[i]);
    }
    if (seen.end == 0)
        return;
    tile_scores(shape, block->x + (size_t)row * (size_t)shape->d_steps, count, block->tile_x, block->scores);
    tile_scores(shape, block->g + (size_t)row * (size_t)shape->d_steps, count, block->tile_g, block->dp);
    for (int32_t i = 0; i < count; i++) {
        int32_t r = row + i, head = kv_head * (op->heads / op->kv_heads) + r / block->count;
        size_t at = (size_t)head * (size_t)op->qkv.rows + (size_t)(block->start + block->first + r % block->count);
        slope_row(block, i, spans[i], (struct slopes){(const float *)op->lse + at, block->grad->delta + at, 0});
    }
    tile_sum(shape, block->dscore, count, seen, key_count, block->down_x,
             block->sum_x + (size_t)row * (size_t)shape->d_wide);
}

static void query_tiles(const struct block *block, int32_t kv_head)
{
    const struct op_attend_grad *op = block->grad->op;
    int32_t rows = block->count * (op->heads / op->kv_heads), from = block->first - op->window + 1;

    for (int32_t key = op->window > 0 && from > 0 ? from / TILE * TILE : 0; key < block->first + block->count;
         key += TILE) {
        int32_t key_count = smaller(TILE, block->length - key);
        pack_across_tile(block, &op->qkv, key_col(op, kv_head), key, key_count, block->tile_x);
        pack_across_tile(block, &op->qkv, value_col(op, kv_head), key, key_count, block->tile_g);
        pack_down_tile(block, &op->qkv, key_col(op, kv_head), key, key_count, block->down_x);
        for (int32_t row = 0; row < rows; row += BRICK_ROWS)
            query_rows(block, kv_head, row, smaller(BRICK_ROWS, rows - row), key, key_count);
    }
}

static void query_task(void *context, int task, int thread)
{
    const struct attend_grad *grad = context;
    const struct op_attend_grad *op = grad->op;
    int32_t group = op->heads / op->kv_heads, kv_head = task % op->kv_heads;
    struct document_block place = document_block(op->batch, task / op->kv_heads, grad->queries);
    struct block block = block_at(grad, place, place.count * group, thread);

    for (int32_t g = 0; g < group; g++) {
        size_t at = (size_t)(g * block.count) * (size_t)block.shape.d_steps;
        pack_block(&block, &op->qkv, (kv_head * group + g) * op->head_dim, block.x + at);
        pack_block(&block, &op->dout, (kv_head * group + g) * op->head_dim, block.g + at);
    }
    query_tiles(&block, kv_head);
    for (int32_t g = 0; g < group; g++)
        write_sums(&block, block.sum_x + (size_t)(g * block.count) * (size_t)block.shape.d_wide,
                   (kv_head * group + g) * op->head_dim);
}

/* dk and dv of up to a brick's rows of keys from one tile of queries of one head: rows are keys, elements queries. */
static void key_rows(const struct block *block, int32_t head, int32_t row, int32_t count, int32_t query,
                     int32_t query_count)
{
    const struct op_attend_grad *op = block->grad->op;
    const struct tile_shape *shape = &block->shape;
    size_t at = (size_t)head * (size_t)op->qkv.rows + (size_t)(block->start + query);
    struct span spans[BRICK_ROWS], seen = {0, 0};

    for (int32_t i = 0; i < count; i++) {
        spans[i] = span_of_key(block->first + row + i, op->window, query, query_count);
        seen = span_join(seen, spans[i]);
    }
    if (seen.end == 0)
        return;
    tile_scores(shape, block->x + (size_t)row * (size_t)shape->d_steps, count, block->tile_x, block->scores);
    tile_scores(shape, block->g + (size_t)row * (size_t)shape->d_steps, count, block->tile_g, block->dp);
    for (int32_t i = 0; i < count; i++)
        slope_row(block, i, spans[i], (struct slopes){(const float *)op->lse + at, block->grad->delta + at, 1});
    tile_sum(shape, block->dscore, count, seen, query_count, block->down_x,
             block->sum_x + (size_t)row * (size_t)shape->d_wide);
    tile_sum(shape, block->p, count, seen, query_count, block->down_g,
             block->sum_g + (size_t)row * (size_t)shape->d_wide);
}

static void key_tiles(const struct block *block, int32_t head)
{
    const struct op_attend_grad *op = block->grad->op;
    int32_t end = op->window > 0 && op->window < block->length
                      ? smaller(block->first + block->count + op->window, block->length)
                      : block->length;

    for (int32_t query = block->first / TILE * TILE; query < end; query += TILE) {
        int32_t query_count = smaller(TILE, block->length - query), col = head * op->head_dim;
        pack_across_tile(block, &op->qkv, col, query, query_count, block->tile_x);
        pack_across_tile(block, &op->dout, col, query, query_count, block->tile_g);
        pack_down_tile(block, &op->qkv, col, query, query_count, block->down_x);
        pack_down_tile(block, &op->dout, col, query, query_count, block->down_g);
        for (int32_t row = 0; row < block->count; row += BRICK_ROWS)
            key_rows(block, head, row, smaller(BRICK_ROWS, block->count - row), query, query_count);
    }
}

static void key_task(const struct attend_grad *grad, int task, int thread)
{
    const struct op_attend_grad *op = grad->op;
    int32_t group = op->heads / op->kv_heads, kv_head = task % op->kv_heads;
    struct document_block place = document_block(op->batch, task / op->kv_heads, KEY_ROWS);
    struct block block = block_at(grad, place, place.count, thread);

    pack_block(&block, &op->qkv, key_col(op, kv_head), block.x);
    pack_block(&block, &op->qkv, value_col(op, kv_head), block.g);
    for (int32_t g = 0; g < group; g++)
        key_tiles(&block, kv_head * group + g);
    write_sums(&block, block.sum_x, key_col(op, kv_head));
    write_sums(&block, block.sum_g, value_col(op, kv_head));
}

/* Key tasks first: they are the longer ones. */
static void grad_task(void *context, int task, int thread)
{
    const struct attend_grad *grad = context;
    int key_tasks = document_block_count(grad->op->batch, KEY_ROWS) * grad->op->kv_heads;

    if (task < key_tasks)
        key_task(grad, task, thread);
    else
        query_task(context, task - key_tasks, thread);
}

static void delta_task(void *context, int task, int thread)
{
    const struct attend_grad *grad = context;
    const struct op_attend_grad *op = grad->op;

    for (int32_t t = task * DELTA_ROWS; t < smaller((task + 1) * DELTA_ROWS, op->out.rows); t++)
        for (int32_t head = 0; head < op->heads; head++) {
            struct row out = row_of(&op->out, t, head * op->head_dim), dout = row_of(&op->dout, t, head * op->head_dim);
            lanes sum = {0};
            for (int32_t j = 0; j < op->head_dim; j += LANES)
                sum += row_load(out, j, op->head_dim) * row_load(dout, j, op->head_dim);
            grad->delta[(size_t)head * (size_t)op->out.rows + (size_t)t] = lanes_sum(sum);
        }
}

/* dsinks of one head: -Σ exp(sink - lse)·delta over its rows. */
static void sink_task(void *context, int head, int thread)
{
    const struct attend_grad *grad = context;
    const struct op_attend_grad *op = grad->op;
    int32_t T = op->qkv.rows;
    struct row lse = {(float *)op->lse + (size_t)head * (size_t)T, DTYPE_F32};
    struct row delta = {grad->delta + (size_t)head * (size_t)T, DTYPE_F32};
    float sink = ((const float *)op->sinks.at)[head];

    for (int32_t first = 0; first < T; first += SINK_ROWS) {
        struct span rows = {first, smaller(first + SINK_ROWS, T)};
        lanes sum = {0};
        for (int32_t t = first; t < rows.end; t += LANES)
            sum += span_select(rows, t, lanes_exp(sink - row_load(lse, t, rows.end)), (lanes){0}) *
                   row_load(delta, t, rows.end);
        ((float *)op->dsinks.at)[head] -= lanes_sum(sum);
    }
}

void CPU(attend_grad)(struct queue *queue, const struct op_attend_grad *op)
{
    struct attend_grad grad = grad_cut(op);
    int tasks = document_block_count(op->batch, KEY_ROWS) + document_block_count(op->batch, grad.queries);

    ASSERT(queue->scratch_bytes >= CPU(attend_grad_scratch)(op, pool_thread_count(queue->pool)));
    grad.delta = queue->scratch;
    grad.slabs = (char *)queue->scratch + grad.delta_bytes;
    pool_run(queue->pool, ceil_div(op->out.rows, DELTA_ROWS), delta_task, &grad);
    if (CPU(attend_grad_is_once)(op, pool_thread_count(queue->pool)))
        CPU(attend_grad_once)(queue, op, grad.delta, grad.slabs);
    else
        pool_run(queue->pool, tasks * op->kv_heads, grad_task, &grad);
    if (op->dsinks.at)
        pool_run(queue->pool, op->heads, sink_task, &grad);
}

size_t CPU(attend_grad_scratch)(const struct op_attend_grad *op, int thread_count)
{
    struct attend_grad grad = grad_cut(op);
    size_t slabs = grad.slab_bytes * (size_t)thread_count, once = CPU(attend_grad_once_scratch)(op, thread_count);

    return grad.delta_bytes + (slabs > once ? slabs : once);
}
