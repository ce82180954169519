/* Whether the merged model computes what base and adapter do, without a second model in memory: a pass compares every
 * adapted product with that of merged rows, made a block at a time as merge.c makes them and rounded as it rounds them;
 * a second pass goes on with the merged products to the logits. */
#include "model/memory.h"
#include "model/merge.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_ROWS = 64, LOGIT_ROWS_MAX = 8 };

/* An adapted param: its rows in the stored weight, and what is added to them. */
struct adapted {
    const struct param *base;
    enum slot slot;
    int32_t layer;
    struct merge_delta delta;
};

struct probe {
    struct merge_probe *out;
    bool is_used; /* merged products take the place of the others */
    struct adapted *adapted;
    int count;
    struct mat rows, y; /* a block of merged rows; its product in f32, in the memory of operations */
    void *rows_there;   /* rows in the memory of operations, where that is another */
    float *scratch;     /* two rows a thread */
    struct arena *arena;
};

/* A matrix as the host reads it. */
static struct mat fetch(struct model *m, struct arena *arena, struct mat mat)
{
    void *copy;
    struct mat view = memory_view(m, mat, &copy);

    if (copy)
        view.at = arena_copy(arena, copy, (size_t)view.rows * (size_t)view.cols * dtype_bytes(view.type));
    free(copy);
    return view;
}

static struct mat fetch_master(struct probe *probe, struct model *m, int param)
{
    struct param_view view = model_param_view(m, param);

    return fetch(m, probe->arena, (struct mat){view.master, view.rows, view.cols, view.ld, DTYPE_F32});
}

static void add_adapted(struct probe *probe, struct model *m, int a)
{
    struct mat down = fetch_master(probe, m, a), up = fetch_master(probe, m, a + 1);
    const struct param *b = &m->params.param[a + 1];
    const struct stored *stored = &m->params.stored[b->stored];
    struct adapted *adapted = &probe->adapted[probe->count++];
    int part = 0;

    while (stored->part_cols[part + 1] <= b->col_at)
        part++;
    adapted->base = param_at_row(&m->params, stored->slot, stored->layer, b->row_at);
    adapted->slot = stored->slot;
    adapted->layer = stored->layer;
    ASSERT(adapted->base && down.ld == down.cols);
    adapted->delta = (struct merge_delta){.coef = up.at, .coef_ld = up.ld, .row = down.at, .rank = down.rows,
                                          .cols = down.cols, .scale = stored->part_scale[part]};
    if (m->params.has_dora)
        adapted->delta.magnitude = fetch_master(probe, m, a + 2).at;
}

static struct mat make_mat(struct arena *arena, int32_t rows, int32_t cols, enum dtype type)
{
    size_t count = (size_t)rows * (size_t)cols;

    return (struct mat){arena_alloc_array(arena, count, dtype_bytes(type)), rows, cols, cols, type};
}

/* An adapter on the embedding is looked up: nothing is multiplied that a merge would change. */
static bool is_of_product(const struct stored *stored)
{
    return stored->part == PART_A && stored->slot != SLOT_EMBED;
}

static void probe_init(struct probe *probe, struct model *m, struct arena *arena, int32_t T)
{
    int32_t cols = 0;

    probe->arena = arena;
    probe->adapted = arena_new_array(arena, struct adapted, (size_t)m->params.count);
    for (int i = 0; i < m->params.count; i++)
        if (is_of_product(&m->params.stored[m->params.param[i].stored])) {
            add_adapted(probe, m, i);
            cols = cols > m->params.param[i].cols ? cols : m->params.param[i].cols;
        }
    probe->rows = make_mat(arena, BLOCK_ROWS, cols, m->params.compute_type);
    if (m->memory) {
        probe->y = (struct mat){NULL, T, BLOCK_ROWS, BLOCK_ROWS, DTYPE_F32};
        probe->y.at = m->memory->take(&m->queue, (size_t)T * BLOCK_ROWS * sizeof(float));
        probe->rows_there = m->memory->take(&m->queue, BLOCK_ROWS * (size_t)cols * dtype_bytes(probe->rows.type));
        ASSERT(probe->y.at && probe->rows_there);
    } else {
        probe->y = make_mat(arena, T, BLOCK_ROWS, DTYPE_F32);
    }
    probe->scratch = arena_new_array(arena, float, (size_t)pool_thread_count(m->queue.pool) * 2 * (size_t)cols);
}

/* --- merged rows --- */

struct block {
    const struct model *model;
    const struct probe *probe;
    const struct adapted *adapted;
    struct mat rows, base; /* base: of the whole param, as the host reads it */
    int32_t first; /* row of the param */
};

/* One row: base in its file's own type when there is a file, merged in f32, rounded to that type, then to products'. */
static void block_task(void *context, int task, int thread)
{
    const struct block *block = context;
    const struct adapted *adapted = block->adapted;
    const struct param *base = adapted->base;
    int32_t n = block->first + task;
    size_t cols = (size_t)base->cols;
    float *w = block->probe->scratch + (size_t)thread * 2 * (size_t)block->probe->rows.cols;
    char *to = (char *)block->rows.at + (size_t)task * (size_t)block->rows.ld * dtype_bytes(block->rows.type);

    convert(w, DTYPE_F32, mat_below(block->base, n, 1).at, block->base.type, cols);
    merge_row(&adapted->delta, n, w, w + cols);
    if (base->file_type != DTYPE_F32) {
        convert(w + cols, base->file_type, w, DTYPE_F32, cols);
        convert(w, DTYPE_F32, w + cols, base->file_type, cols);
    }
    convert(to, block->rows.type, w, DTYPE_F32, cols);
}

static struct mat columns(struct mat mat, int32_t first, int32_t count)
{
    if (mat.at)
        mat.at = (char *)mat.at + (size_t)first * dtype_bytes(mat.type);
    mat.cols = count;
    return mat;
}

/* out -= the block's row t of a matrix; row 0 of one that has only that. */
static void take_away(float *out, const struct mat *from, int32_t t, int32_t first, int32_t count)
{
    size_t at = (size_t)(from->rows > 1 ? t : 0) * (size_t)from->ld + (size_t)first;
    float values[BLOCK_ROWS];

    if (!from->at)
        return;
    convert(values, DTYPE_F32, (const char *)from->at + at * dtype_bytes(from->type), from->type, (size_t)count);
    for (int32_t j = 0; j < count; j++)
        out[j] -= values[j];
}

/* Largest difference between y without bias and residual and the merged product, over the largest value. */
static double block_difference(const struct op_linear *op, const struct mat *merged)
{
    double most = 0, difference = 0;

    for (int32_t t = 0; t < merged->rows; t++) {
        float *row = (float *)merged->at + (size_t)t * (size_t)merged->ld, minus[BLOCK_ROWS] = {0};
        for (int32_t j = 0; j < merged->cols; j++)
            most = fmax(most, fabs((double)row[j]));
        take_away(minus, &op->y, t, 0, merged->cols);
        for (int32_t j = 0; j < merged->cols; j++)
            minus[j] = -minus[j];
        take_away(minus, &op->add, t, 0, merged->cols);
        take_away(minus, &op->bias, 0, 0, merged->cols);
        for (int32_t j = 0; j < merged->cols; j++)
            difference = fmax(difference, fabs((double)row[j] - (double)minus[j]));
    }
    return difference / fmax(most, 1e-30);
}

/* Of columns first .. first + count, between the product that was run and the merged one. */
static double difference_of(struct model *m, const struct op_linear *op, int32_t first, int32_t count,
                            struct mat merged)
{
    struct arena arena = {0};
    struct op_linear seen = {.y = fetch(m, &arena, columns(op->y, first, count)),
                             .add = fetch(m, &arena, columns(op->add, first, count)),
                             .bias = fetch(m, &arena, columns(op->bias, first, count))};
    double difference;

    merged = fetch(m, &arena, merged);
    difference = block_difference(&seen, &merged);
    arena_deinit(&arena);
    return difference;
}

static void run_block(struct model *m, const struct probe *probe, const struct block *block, const struct op_linear *op)
{
    struct weight weight = {.w = block->rows};
    int32_t at = block->adapted->base->row_at + block->first, count = block->rows.rows;
    struct op_linear merged = {.x = op->x, .y = columns(probe->y, 0, count), .w = &weight, .softcap = op->softcap};
    double difference;

    merged.y.rows = op->x.rows;
    pool_run(m->queue.pool, count, block_task, (void *)(uintptr_t)block);
    if (m->memory) {
        memory_write(m, probe->rows_there, weight.w.at,
                     (size_t)count * (size_t)weight.w.ld * dtype_bytes(weight.w.type));
        weight.w.at = probe->rows_there;
    }
    if (probe->is_used) {
        merged.y = columns(op->y, at, count);
        merged.add = columns(op->add, at, count);
        merged.bias = columns(op->bias, at, count);
    }
    m->backend->linear(&m->queue, &merged);
    if (probe->is_used)
        return;
    difference = difference_of(m, op, at, count, merged.y);
    if (difference > probe->out->product_difference) {
        probe->out->product_difference = difference;
        probe->out->product = block->adapted->base->name;
    }
}

void probe_product(struct model *m, struct probe *probe, enum slot slot, int32_t layer, const struct op_linear *op)
{
    for (int i = 0; i < probe->count; i++) {
        const struct param *base = probe->adapted[i].base;
        struct block block = {m, probe, &probe->adapted[i], columns(probe->rows, 0, base->cols), {0}, 0};
        void *copy;
        if (probe->adapted[i].slot != slot || probe->adapted[i].layer != layer)
            continue;
        block.rows.ld = base->cols;
        block.base = param_base(m, base, &copy);
        for (block.first = 0; block.first < base->rows; block.first += BLOCK_ROWS) {
            block.rows.rows = base->rows - block.first < BLOCK_ROWS ? base->rows - block.first : BLOCK_ROWS;
            run_block(m, probe, &block, op);
        }
        free(copy);
    }
}

/* --- the two passes --- */

static double logit_difference(const float *a, const float *b, size_t count)
{
    double most = 0, difference = 0;

    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)a[i]));
        difference = fmax(difference, fabs((double)a[i] - (double)b[i]));
    }
    return difference / fmax(most, 1e-30);
}

static float *read_logits(struct model *m, struct arena *arena, struct mat logits)
{
    float *values = arena_new_array(arena, float, (size_t)logits.rows * (size_t)logits.cols);
    void *copy;

    logits = memory_view(m, logits, &copy);
    for (int32_t i = 0; i < logits.rows; i++)
        memcpy(values + (size_t)i * (size_t)logits.cols, mat_below(logits, i, 1).at,
               (size_t)logits.cols * sizeof *values);
    free(copy);
    return values;
}

void model_probe_merge(struct model *m, const struct batch *batch, struct merge_probe *out)
{
    int32_t rows = batch->head_row_count < LOGIT_ROWS_MAX ? batch->head_row_count : LOGIT_ROWS_MAX;
    size_t count = (size_t)rows * (size_t)m->config.vocab;
    struct arena arena = {0};
    struct probe probe = {.out = out};
    struct batch here = memory_batch(m, batch);
    struct pass pass = {.batch = &here, .probe = &probe};
    float *logits[2];

    ASSERT(m->is_trained && m->params.lora_rank && m->params.master_type == DTYPE_F32 && rows <= m->plan.head_rows);
    *out = (struct merge_probe){.product = ""};
    probe_init(&probe, m, &arena, batch->T);
    out->product_count = probe.count;
    for (int k = 0; k < 2; k++) {
        probe.is_used = k == 1;
        forward_layers(m, &pass);
        forward_head(m, here.head_rows, rows, mat_rows(m->logits, rows), &pass, 0);
        logits[k] = read_logits(m, &arena, mat_rows(m->logits, rows));
    }
    out->logit_difference = logit_difference(logits[0], logits[1], count);
    if (m->memory) {
        m->memory->give(&m->queue, probe.y.at);
        m->memory->give(&m->queue, probe.rows_there);
    }
    arena_deinit(&arena);
}
