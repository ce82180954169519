/* Attention without T x T memory, after FlashAttention: tiles of 64 keys, a running maximum and sum per row.
 *
 * A task owns a block of queries of one document and all query heads of one key head, so that a packed tile of keys
 * serves them all. Tiles are counted from the document's first key whatever the task, so a row's sums have one order:
 * alone, in company, or behind a cache. Scores, probabilities' sums and results are f32; with bf16 operands the
 * probabilities are rounded to bf16 before they multiply the values. */
#include "compute/cpu/tile.h"

enum { TASK_ROWS = 192, QUERIES_MAX = 128, QUERIES_MIN = 16 };

struct attend {
    const struct op_attend *op;
    bool is_bf16;
    bool appends;    /* each task its keys and values to the cache: it has all queries of its document */
    int32_t queries; /* of a task */
    size_t slab_bytes;
    char *scratch;
};

/* One task's memory and place. Row r of the block is query head r / query_count, query r % query_count. */
struct block {
    const struct attend *attend;
    struct tile_shape shape;
    int32_t document, kv_head, first, query_count, rows;
    uint32_t *q, *packed, *p; /* packed: a tile of keys, a tile of values */
    const uint32_t *keys, *values;
    float *scores, *out, *max, *sum; /* [BRICK_ROWS, TILE], [rows, d_wide], [rows], [rows, LANES] */
};

static int32_t queries_per_task(int32_t group)
{
    int32_t queries = TASK_ROWS / group / QUERIES_MIN * QUERIES_MIN;

    return queries < QUERIES_MIN ? QUERIES_MIN : smaller(queries, QUERIES_MAX);
}

static struct attend attend_cut(const struct op_attend *op)
{
    struct attend attend = {.op = op, .queries = queries_per_task(op->heads / op->kv_heads)};
    size_t rows = (size_t)attend.queries * (size_t)(op->heads / op->kv_heads), steps, d_wide;
    struct tile_shape shape;

    attend.is_bf16 = HAS_BF16_PRODUCTS && op->qkv.type == DTYPE_BF16;
    shape = tile_shape(op->head_dim, attend.is_bf16);
    steps = (size_t)shape.d_steps, d_wide = (size_t)shape.d_wide;
    attend.slab_bytes = whole_lines(
        4 * (rows * steps + TILE * steps + TILE * d_wide + 2 * BRICK_ROWS * TILE + rows * (d_wide + 1 + LANES)));
    return attend;
}

/* Positions of the document in front of this batch. */
static int32_t earlier_count(const struct block *block)
{
    const struct op_attend *op = block->attend->op;

    return op->cache ? op->cache[block->document].length : 0;
}

/* The position in the document of row r of the block. */
static int32_t position_of(const struct block *block, int32_t r)
{
    return earlier_count(block) + block->first + r % block->query_count;
}

static struct side document_side(const struct block *block, bool is_value)
{
    const struct op_attend *op = block->attend->op;
    int32_t head = op->heads + (is_value ? op->kv_heads : 0) + block->kv_head;

    return (struct side){.m = tile_mat(&op->qkv, op->batch->cu_seqlens[block->document], head * op->head_dim,
                                       document_rows(op->batch, block->document), op->head_dim),
                         .is_k_down = is_value};
}

/* Packed tiles of keys and values from a position on: those of the cache, or the batch's
 * own rows, packed into the slab. */
static void find_tiles(struct block *block, int32_t key, int32_t key_count)
{
    const struct op_attend *op = block->attend->op;
    const struct tile_shape *shape = &block->shape;
    struct side k, v;

    if (op->cache) {
        block->keys = CPU(cache_tile)(&op->cache[block->document], false, shape->d, block->kv_head, key);
        block->values = CPU(cache_tile)(&op->cache[block->document], true, shape->d, block->kv_head, key);
        return;
    }
    k = document_side(block, false), v = document_side(block, true);
    tile_pack_across(&k, shape, key, key_count, block->packed);
    tile_pack_down(&v, shape, key, key_count, block->packed + TILE * shape->d_steps);
}

static void pack_queries(const struct block *block)
{
    const struct op_attend *op = block->attend->op;
    int32_t group = op->heads / op->kv_heads, row = op->batch->cu_seqlens[block->document] + block->first;

    for (int32_t g = 0; g < group; g++) {
        struct side q = {.m = tile_mat(&op->qkv, row, (block->kv_head * group + g) * op->head_dim, block->query_count,
                                       op->head_dim)};
        struct part all = {0, block->query_count, 0, op->head_dim};
        pack_rows(&q, block->shape.is_bf16, all,
                  block->q + (size_t)(g * block->query_count) * (size_t)block->shape.d_steps, block->shape.d_steps);
    }
}

/* What was summed relative to the old maximum shrinks to the new one, by the factor that is returned. */
static float raise_max(const struct block *block, int32_t r, float max)
{
    float factor = lanes_exp(lanes_all(block->max[r] - max))[0];
    float *out = block->out + (size_t)r * (size_t)block->shape.d_wide;

    for (int32_t j = 0; j < block->shape.d_wide; j += LANES)
        lanes_store(out + j, lanes_load(out + j) * factor);
    block->max[r] = max;
    return factor;
}

/* Scores of one row become probabilities relative to the row's maximum so far. */
static void soften_row(const struct block *block, int32_t r, const float *scores, struct row p, struct span span)
{
    float scale = block->attend->op->scale, softcap = block->attend->op->softcap, max;
    lanes score[TILE / LANES], largest = lanes_all(-INFINITY), sum = lanes_load(block->sum + (size_t)r * LANES);

    UNROLL for (int v = 0; v < TILE / LANES; v++) {
        lanes capped = score_capped(lanes_load(scores + v * LANES) * scale, softcap).value;
        score[v] = span_select(span, v * LANES, capped, lanes_all(-INFINITY));
        largest = lanes_max(score[v], largest);
    }
    if (lanes_any_above(largest, lanes_all(block->max[r])))
        sum *= raise_max(block, r, lanes_largest(largest));
    max = block->max[r];
    UNROLL for (int v = 0; v < TILE / LANES; v++) {
        lanes probability = lanes_exp(score[v] - max);
        sum += probability;
        row_store(p, v * LANES, TILE, probability);
    }
    lanes_store(block->sum + (size_t)r * LANES, sum);
}

/* Up to a brick's rows of the block against one packed tile of keys and values. A cache's tiles are whole. */
static void attend_rows(const struct block *block, int32_t row, int32_t count, int32_t key, int32_t key_count)
{
    const struct tile_shape *shape = &block->shape;
    int32_t window = block->attend->op->window;
    size_t p_words = (size_t)step_count(TILE, shape->is_bf16);
    struct span spans[BRICK_ROWS], seen = {0, 0};

    for (int32_t i = 0; i < count; i++) {
        spans[i] = span_of_query(position_of(block, row + i), window, key, key_count);
        seen = span_join(seen, spans[i]);
    }
    if (seen.end == 0)
        return;
    tile_scores(shape, block->q + (size_t)row * (size_t)shape->d_steps, count, block->keys, block->scores);
    for (int32_t i = 0; i < count; i++) {
        struct row p = {block->p + (size_t)i * p_words, shape->is_bf16 ? DTYPE_BF16 : DTYPE_F32};
        if (spans[i].end > 0)
            soften_row(block, row + i, block->scores + i * TILE, p, spans[i]);
        else
            memset(p.at, 0, 4 * p_words);
    }
    tile_sum(shape, block->p, count, seen, block->attend->op->cache ? TILE : key_count, block->values,
             block->out + (size_t)row * (size_t)shape->d_wide);
}

static void attend_tiles(struct block *block)
{
    const struct op_attend *op = block->attend->op;
    int32_t last = position_of(block, block->query_count - 1), window = op->window;
    int32_t from = position_of(block, 0) - window + 1;
    int32_t end = earlier_count(block) + document_rows(op->batch, block->document);

    for (int32_t key = window > 0 && from > 0 ? from / TILE * TILE : 0; key <= last; key += TILE) {
        int32_t key_count = smaller(TILE, end - key);
        find_tiles(block, key, key_count);
        for (int32_t row = 0; row < block->rows; row += BRICK_ROWS)
            attend_rows(block, row, smaller(BRICK_ROWS, block->rows - row), key, key_count);
    }
}

static void write_rows(const struct block *block)
{
    const struct op_attend *op = block->attend->op;
    int32_t group = op->heads / op->kv_heads;

    for (int32_t r = 0; r < block->rows; r++) {
        int32_t head = block->kv_head * group + r / block->query_count;
        int32_t t = op->batch->cu_seqlens[block->document] + block->first + r % block->query_count;
        struct row to = row_of(&op->out, t, head * op->head_dim);
        float sum = lanes_sum(lanes_load(block->sum + (size_t)r * LANES)), inverse = 1 / sum;

        for (int32_t j = 0; j < op->head_dim; j += LANES)
            row_store(to, j, op->head_dim,
                      lanes_load(block->out + (size_t)r * (size_t)block->shape.d_wide + j) * inverse);
        if (op->lse)
            ((float *)op->lse)[(size_t)head * (size_t)op->qkv.rows + (size_t)t] = block->max[r] + logf(sum);
    }
}

/* A row begins with nothing, or with its head's sink as the only score, which has no value. */
static void begin_rows(const struct block *block)
{
    const struct op_attend *op = block->attend->op;
    const float *sinks = op->sinks.at;

    memset(block->out, 0, (size_t)block->rows * (size_t)block->shape.d_wide * sizeof *block->out);
    memset(block->sum, 0, (size_t)block->rows * LANES * sizeof *block->sum);
    for (int32_t r = 0; r < block->rows; r++) {
        block->max[r] = sinks ? sinks[block->kv_head * (op->heads / op->kv_heads) + r / block->query_count] : -INFINITY;
        block->sum[(size_t)r * LANES] = sinks ? 1 : 0;
    }
}

static void attend_task(void *context, int task, int thread)
{
    const struct attend *attend = context;
    const struct op_attend *op = attend->op;
    struct document_block place = document_block(op->batch, task / op->kv_heads, attend->queries);
    struct block block = {.attend = attend, .shape = tile_shape(op->head_dim, attend->is_bf16),
                          .document = place.document, .kv_head = task % op->kv_heads, .first = place.first,
                          .query_count = place.count, .rows = place.count * (op->heads / op->kv_heads)};
    uint32_t *slab = (uint32_t *)(attend->scratch + (size_t)thread * attend->slab_bytes);

    block.q = slab;
    block.packed = block.q + (size_t)block.rows * (size_t)block.shape.d_steps;
    block.keys = block.packed;
    block.values = block.packed + TILE * (size_t)block.shape.d_steps;
    block.p = block.packed + TILE * (size_t)(block.shape.d_steps + block.shape.d_wide);
    block.scores = (float *)block.p + BRICK_ROWS * TILE;
    block.out = block.scores + BRICK_ROWS * TILE;
    block.max = block.out + (size_t)block.rows * (size_t)block.shape.d_wide;
    block.sum = block.max + block.rows;
    if (attend->appends)
        CPU(cache_append)(op, block.document, block.kv_head);
    begin_rows(&block);
    pack_queries(&block);
    attend_tiles(&block);
    write_rows(&block);
}

static void append_task(void *context, int task, int thread)
{
    const struct op_attend *op = context;

    CPU(cache_append)(op, task / op->kv_heads, task % op->kv_heads);
}

void CPU(attend)(struct queue *queue, const struct op_attend *op)
{
    struct attend attend = attend_cut(op);
    int32_t docs = op->batch->doc_count;

    ASSERT(queue->scratch_bytes >= attend.slab_bytes * (size_t)pool_thread_count(queue->pool));
    attend.scratch = queue->scratch;
    attend.appends = op->cache;
    for (int32_t document = 0; op->cache && document < docs; document++) {
        int32_t rows = document_rows(op->batch, document);
        ASSERT(op->cache[document].type == op->qkv.type);
        ASSERT(kv_cache_takes(&op->cache[document], rows, op->window));
        attend.appends &= rows <= attend.queries;
    }
    if (op->cache && !attend.appends)
        pool_run(queue->pool, docs * op->kv_heads, append_task, (void *)(uintptr_t)op);
    pool_run(queue->pool, document_block_count(op->batch, attend.queries) * op->kv_heads, attend_task, &attend);
}

size_t CPU(attend_scratch)(const struct op_attend *op, int thread_count)
{
    return attend_cut(op).slab_bytes * (size_t)thread_count;
}
