/* Products of matrices and the three operations made of them.
 *
 * A product is cut into tasks of a block of rows by a few panels of 64 columns. A task packs a panel of B (in cache,
 * used for all its rows), runs the brick over the whole of k in steps, and finishes six rows at a time while they are in
 * cache: scale, bias, addition, one rounding. How the rows and columns are cut may depend on the number of threads; the
 * order of each sum does not. */
#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"
#include "compute/grouped.h"
#include "compute/parts.h"

enum {
    CHUNK_STEPS = 1024,        /* of k per panel: 256 KB of L2 */
    ROWS_MAX = 768,            /* of a task: its sums are 192 KB of L2 */
    ROWS_MIN = 48,
    A_BYTES_MAX = 512 * 1024,  /* packed rows of a task */
    BIAS_ROWS = 256,           /* of dy that are summed before they go to dbias */
    GRAD_ROWS = 2048,          /* tokens that a product for a weight's gradient sums before it adds to the gradient */
};

/* result = Σ over segments of A·B, one after the other in the same sums. */
struct segment {
    struct side a, b;
    int32_t k;
    bool is_masked; /* first segment only: its sums pass the dropout of `result` before the next adds to them */
};

struct product {
    int32_t rows, cols;
    struct segment segments[2];
    int segment_count;
    float scale;
    struct mat y, bias, add; /* y = cap(scale · result + bias + add (+ y)) */
    float softcap;
    bool is_added;
    float rate;              /* of the masked segment: element (row, col) of y */
    struct dropout dropout;
    bool is_bf16;            /* set by product_cut, like the rest */
    int32_t row_block, panel_group, row_blocks, groups;
    size_t a_bytes, slab_bytes;
    char *scratch;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool is_direct(const struct segment *segment, bool is_bf16)
{
    const struct side *a = &segment->a;

    return !a->is_k_down && a->rate <= 0 && (is_bf16 ? segment->k % 2 == 0 : a->m.type == DTYPE_F32);
}

/* Bytes of A that a task packs for each row. */
static size_t packed_row_bytes(const struct product *p)
{
    size_t bytes = 0;

    for (int s = 0; s < p->segment_count; s++)
        if (!is_direct(&p->segments[s], p->is_bf16))
            bytes += 4 * (size_t)step_count(p->segments[s].k, p->is_bf16);
    return bytes;
}

static int32_t block_rows(int32_t rows, int32_t blocks)
{
    return ceil_div(ceil_div(rows, blocks), BRICK_ROWS) * BRICK_ROWS;
}

/* Chooses types and tasks: at least four tasks a thread as long as they stay worth packing for. */
static void product_cut(struct product *p, int thread_count)
{
    int32_t panels = ceil_div(p->cols, PANEL), rows_max = ROWS_MAX, blocks;
    size_t row_bytes, panel_steps = 0, most_bytes;

    p->is_bf16 = HAS_BF16_PRODUCTS;
    for (int s = 0; s < p->segment_count; s++)
        p->is_bf16 &= p->segments[s].a.m.type == DTYPE_BF16 && p->segments[s].b.m.type == DTYPE_BF16;
    row_bytes = packed_row_bytes(p);
    while (rows_max > ROWS_MIN && (size_t)rows_max * row_bytes > A_BYTES_MAX)
        rows_max /= 2;
    p->panel_group = row_bytes ? panels : 1;
    blocks = p->rows > rows_max ? ceil_div(p->rows, rows_max) : 1;
    if (!row_bytes)
        while (blocks * panels < 4 * thread_count && block_rows(p->rows, blocks) > ROWS_MIN)
            blocks *= 2;
    else if (blocks < 4 * thread_count)
        p->panel_group = ceil_div(panels, smaller(panels, ceil_div(4 * thread_count, blocks)));
    p->row_block = block_rows(p->rows, blocks);
    p->row_blocks = ceil_div(p->rows, p->row_block);
    p->groups = ceil_div(panels, p->panel_group);
    for (int s = 0; s < p->segment_count; s++)
        panel_steps = larger(panel_steps, (size_t)smaller(CHUNK_STEPS, step_count(p->segments[s].k, p->is_bf16)));
    /* Not what this cut needs but what any cut of fewer rows may need: a plan asks for its largest micro-batch alone. */
    most_bytes = row_bytes ? larger(A_BYTES_MAX, ROWS_MIN * row_bytes) : 0;
    p->a_bytes = whole_lines(most_bytes + LANES * row_bytes);
    p->slab_bytes = p->a_bytes + 4 * PANEL * (panel_steps + ROWS_MAX);
}

/* What a task works on. */
struct task {
    const struct product *p;
    int32_t row, row_count, col, col_count, width;
    char *a;          /* packed rows, segment after segment */
    uint32_t *panel;
    float *sums;      /* [row_count, width] */
};

/* Rows of A in whole vectors where they come from columns: the brick never reads behind row_count. */
static int32_t packed_rows(const struct task *task)
{
    return ceil_div(task->row_count, LANES) * LANES;
}

static void pack_a(const struct task *task)
{
    const struct product *p = task->p;
    char *to = task->a;

    for (int s = 0; s < p->segment_count; s++) {
        const struct segment *segment = &p->segments[s];
        struct part part = {task->row, task->row_count, 0, segment->k};
        if (is_direct(segment, p->is_bf16))
            continue;
        if (segment->a.is_k_down)
            pack_down(&segment->a, p->is_bf16, part, (uint32_t *)to, packed_rows(task));
        else
            pack_rows(&segment->a, p->is_bf16, part, (uint32_t *)to);
        to += 4 * (size_t)step_count(segment->k, p->is_bf16) * (size_t)packed_rows(task);
    }
}

/* Where A of segment s begins for the task's first row. */
static struct brick brick_for(const struct task *task, int s)
{
    const struct product *p = task->p;
    const struct segment *segment = &p->segments[s];
    char *packed = task->a;

    if (is_direct(segment, p->is_bf16))
        return (struct brick){.a = row_of(&segment->a.m, task->row, 0).at, .a_row = (size_t)segment->a.m.ld * (p->is_bf16 ? 2 : 4),
                              .a_step = 4};
    for (int i = 0; i < s; i++)
        if (!is_direct(&p->segments[i], p->is_bf16))
            packed += 4 * (size_t)step_count(p->segments[i].k, p->is_bf16) * (size_t)packed_rows(task);
    if (segment->a.is_k_down)
        return (struct brick){.a = packed, .a_row = 4, .a_step = 4 * (size_t)packed_rows(task)};
    return (struct brick){.a = packed, .a_row = 4 * (size_t)step_count(segment->k, p->is_bf16), .a_step = 4};
}

static void mask_sums(const struct task *task, int32_t row, int32_t count)
{
    const struct product *p = task->p;
    float factor = 1 / (1 - p->rate);

    for (int32_t i = row; i < row + count; i++)
        for (int32_t j = 0; j < task->col_count; j++) {
            bool is_kept = dropout_keeps(&p->dropout, p->rate, task->row + i, task->col + j, p->y.cols);
            task->sums[(size_t)i * (size_t)task->width + (size_t)j] *= is_kept ? factor : 0;
        }
}

/* What is added to a row of sums before it is rounded. */
struct ending {
    struct row y, bias, add;
    float scale, softcap;
    bool has_bias, has_add, is_added;
};

INLINE void finish_row(struct ending end, const float *sums, int32_t cols)
{
    for (int32_t j = 0; j < cols; j += LANES) {
        lanes value = lanes_load(sums + j) * end.scale;
        if (end.has_bias)
            value += row_load(end.bias, j, cols);
        if (end.has_add)
            value += row_load(end.add, j, cols);
        if (end.is_added)
            value += row_load(end.y, j, cols);
        if (end.softcap > 0)
            value = end.softcap * lanes_tanh(value * (1 / end.softcap));
        row_store(end.y, j, cols, value);
    }
}

/* Rounds finished sums into y. What the loops need is copied out first: stores could otherwise change it. */
static void finish(const struct task *task, int32_t row, int32_t count)
{
    const struct product *p = task->p;
    struct ending end = {.scale = p->scale, .softcap = p->softcap, .has_bias = p->bias.at, .has_add = p->add.at, .is_added = p->is_added};
    bool is_plain = !end.has_bias && !end.has_add && !end.is_added && end.softcap <= 0 && task->col_count == PANEL;

    for (int32_t i = row; i < row + count; i++) {
        const float *sums = task->sums + (size_t)i * (size_t)task->width;

        end.y = row_of(&p->y, task->row + i, task->col);
        if (is_plain) {
            finish_row((struct ending){.y = end.y, .scale = end.scale}, sums, PANEL);
            continue;
        }
        if (end.has_bias)
            end.bias = row_of(&p->bias, 0, task->col);
        if (end.has_add)
            end.add = row_of(&p->add, task->row + i, task->col);
        finish_row(end, sums, task->col_count);
    }
}

/* Asks for the lines of y that six rows will be rounded into, or added to, when the brick has run. */
static void fetch_result(const struct task *task, int32_t row, int32_t count)
{
    const struct mat *y = &task->p->y;
    int32_t bytes = task->col_count * (y->type == DTYPE_BF16 ? 2 : 4);

    for (int32_t i = row; i < row + count; i++)
        for (int32_t byte = 0; byte < bytes; byte += 64)
            __builtin_prefetch((char *)row_of(y, task->row + i, task->col).at + byte, 1);
}

/* Runs the brick down the rows for steps [from, from + steps) of segment s, which `panel` holds. */
static void run_rows(const struct task *task, int s, const uint32_t *panel, int32_t from, int32_t steps, bool is_last)
{
    const struct product *p = task->p;
    struct brick brick = brick_for(task, s);

    brick.a += (size_t)from * brick.a_step;
    brick.b = panel;
    brick.b_width = task->width;
    brick.steps = steps;
    brick.c_ld = (size_t)task->width;
    brick.is_added = s > 0 || from > 0;
    for (int32_t row = 0; row < task->row_count; row += BRICK_ROWS) {
        int32_t count = smaller(BRICK_ROWS, task->row_count - row);
        bool is_finished = s == p->segment_count - 1 && is_last;
        brick.c = task->sums + (size_t)row * (size_t)task->width;
        if (is_finished)
            fetch_result(task, row, count);
        brick_run(&brick, count, p->is_bf16);
        brick.a += BRICK_ROWS * brick.a_row;
        if (p->segments[s].is_masked && is_last)
            mask_sums(task, row, count);
        if (is_finished)
            finish(task, row, count);
    }
}

static void run_panel(const struct task *task)
{
    const struct product *p = task->p;
    int32_t per_step = p->is_bf16 ? 2 : 1;

    for (int s = 0; s < p->segment_count; s++) {
        const struct segment *segment = &p->segments[s];
        int32_t steps = step_count(segment->k, p->is_bf16);
        for (int32_t from = 0; from < steps; from += CHUNK_STEPS) {
            int32_t here = smaller(CHUNK_STEPS, steps - from), k = from * per_step;
            struct part part = {task->col, task->col_count, k, smaller(here * per_step, segment->k - k)};
            const uint32_t *panel = task->panel;
            if (segment->b.panels)
                panel = segment->b.panels + (size_t)task->col * (size_t)steps + (size_t)from * (size_t)task->width;
            else if (segment->b.quant)
                CPU(pack_codes)(&segment->b, p->is_bf16, part, task->panel, task->width);
            else
                pack_panel(&segment->b, p->is_bf16, part, task->panel, task->width);
            run_rows(task, s, panel, from, here, from + here == steps);
        }
    }
}

static void product_task(void *context, int index, int thread)
{
    const struct product *p = context;
    int32_t block = index % p->row_blocks, group = index / p->row_blocks;
    char *slab = p->scratch + (size_t)thread * p->slab_bytes;
    struct task task = {.p = p, .row = block * p->row_block, .a = slab};

    task.row_count = smaller(p->row_block, p->rows - task.row);
    task.sums = (float *)(slab + p->a_bytes);
    task.panel = (uint32_t *)(task.sums + (size_t)p->row_block * PANEL);
    if (p->a_bytes)
        pack_a(&task);
    for (int32_t panel = group * p->panel_group; panel < (group + 1) * p->panel_group && panel * PANEL < p->cols; panel++) {
        task.col = panel * PANEL;
        task.col_count = smaller(PANEL, p->cols - task.col);
        task.width = panel_width(task.col_count);
        run_panel(&task);
    }
}

static void product_run(struct queue *queue, struct product *p)
{
    if (p->rows == 0 || p->cols == 0)
        return;
    product_cut(p, pool_thread_count(queue->pool));
    ASSERT(queue->scratch_bytes >= p->slab_bytes * (size_t)pool_thread_count(queue->pool));
    p->scratch = queue->scratch;
    pool_run(queue->pool, p->row_blocks * p->groups, product_task, p);
}

static size_t product_scratch(struct product *p, int thread_count)
{
    if (p->rows == 0 || p->cols == 0)
        return 0;
    product_cut(p, thread_count);
    return p->slab_bytes * (size_t)thread_count;
}

/* The adapter's columns behind a matrix. */
static struct mat behind(const struct mat *m, int32_t first, int32_t count)
{
    struct mat columns = *m;

    columns.at = row_of(m, 0, m->cols + first).at;
    columns.cols = count;
    return columns;
}

static struct mat sub_rows(const struct mat *m, int32_t first, int32_t count)
{
    struct mat rows = *m;

    rows.at = row_of(m, first, 0).at;
    rows.rows = count;
    return rows;
}

static struct mat sub_cols(const struct mat *m, int32_t first, int32_t count)
{
    struct mat cols = *m;

    cols.at = row_of(m, 0, first).at;
    cols.cols = count;
    return cols;
}

/* Scales that are equal take one product for all parts. */
static int32_t adapter_in_count(const struct weight *w)
{
    return w->part_scale ? weight_part_count(w) : 1;
}

/* t = lora_scale / (1 - rate) · mask(x)·Aᵀ, or the columns of one part */
static struct product adapter_in(const struct op_linear *op, int32_t i)
{
    const struct weight *w = op->w;
    struct weight_part all = {.cols = w->a.rows, .scale = w->lora_scale}, part = w->part_scale ? weight_part(w, i) : all;
    struct segment segment = {.a = {.m = op->x, .rate = w->lora_dropout, .dropout = op->dropout},
                              .b = {.m = sub_rows(&w->a, part.col, part.cols)}, .k = op->x.cols};

    if (!w->part_scale)
        segment.b.panels = w->a_panels;
    return (struct product){.rows = op->x.rows, .cols = part.cols, .segments = {segment}, .segment_count = 1,
                            .scale = part.scale / (1 - w->lora_dropout), .y = behind(&op->x, part.col, part.cols)};
}

static const struct quant *quant_of(const struct weight *w)
{
    return w->quant.part_count ? &w->quant : NULL;
}

/* y = x·Wᵀ + t·Bᵀ + bias + add */
static struct product forward(const struct op_linear *op)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows;
    struct segment base = {.a = {.m = op->x}, .b = {.m = w->w, .quant = quant_of(w), .panels = w->panels}, .k = op->x.cols};
    struct segment adapter = {.a = {.m = behind(&op->x, 0, R)}, .b = {.m = w->b, .panels = w->b_panels}, .k = R};

    return (struct product){.rows = op->x.rows, .cols = op->y.cols, .segments = {base, adapter}, .segment_count = R ? 2 : 1,
                            .scale = 1, .y = op->y, .bias = op->bias, .add = op->add, .softcap = op->softcap};
}

void CPU(linear)(struct queue *queue, const struct op_linear *op)
{
    struct product p;

    if (op->row_end) {
        grouped_linear(queue, op, CPU(linear));
        return;
    }
    if (CPU(linear_is_thin)(op)) {
        CPU(linear_thin)(queue, op);
        return;
    }
    for (int32_t i = 0; op->w->a.rows && i < adapter_in_count(op->w); i++) {
        p = adapter_in(op, i);
        product_run(queue, &p);
    }
    p = forward(op);
    product_run(queue, &p);
}

size_t CPU(linear_scratch)(const struct op_linear *op, int thread_count)
{
    struct weight expert;
    struct op_linear dense = op->row_end ? grouped_linear_largest(op, &expert) : *op;
    struct product p = forward(&dense);
    size_t bytes = product_scratch(&p, thread_count);

    for (int32_t i = 0; dense.w->a.rows && i < adapter_in_count(dense.w); i++) {
        p = adapter_in(&dense, i);
        bytes = larger(bytes, product_scratch(&p, thread_count));
    }
    return bytes;
}

/* dt = lora_scale · dy·B, one block of B at a time */
static struct product adapter_grad_in(const struct op_linear_grad_in *op, int32_t i)
{
    struct weight_part part = weight_part(op->w, i);
    struct mat block = sub_rows(&op->w->b, part.row, part.rows);
    struct segment segment = {.a = {.m = sub_cols(&op->dy, part.row, part.rows)},
                              .b = {.m = sub_cols(&block, part.col, part.cols), .is_k_down = true}, .k = part.rows};

    return (struct product){.rows = op->dy.rows, .cols = part.cols, .segments = {segment}, .segment_count = 1,
                            .scale = part.scale, .y = behind(&op->dy, part.col, part.cols)};
}

/* dx (+)= drop'(dt·A) + dy·W. With dropout the adapter's part comes first, so that its sums can be masked. */
static struct product backward(const struct op_linear_grad_in *op)
{
    const struct weight *w = op->w;
    int32_t R = w->a.rows;
    bool is_masked = R && w->lora_dropout > 0;
    struct segment base = {.a = {.m = op->dy}, .b = {.m = w->w, .quant = quant_of(w), .is_k_down = true}, .k = op->dy.cols};
    struct segment adapter = {.a = {.m = behind(&op->dy, 0, R)}, .b = {.m = w->a, .is_k_down = true}, .k = R, .is_masked = is_masked};
    struct product p = {.rows = op->dy.rows, .cols = op->dx.cols, .segment_count = R ? 2 : 1, .scale = 1, .y = op->dx,
                        .is_added = op->is_added, .rate = w->lora_dropout, .dropout = op->dropout};

    p.segments[is_masked ? 1 : 0] = base;
    p.segments[is_masked ? 0 : 1] = adapter;
    return p;
}

void CPU(linear_grad_in)(struct queue *queue, const struct op_linear_grad_in *op)
{
    struct product p;

    if (op->row_end) {
        grouped_linear_grad_in(queue, op, CPU(linear_grad_in));
        return;
    }
    for (int32_t i = 0; op->w->a.rows && i < weight_part_count(op->w); i++) {
        p = adapter_grad_in(op, i);
        product_run(queue, &p);
    }
    p = backward(op);
    product_run(queue, &p);
}

size_t CPU(linear_grad_in_scratch)(const struct op_linear_grad_in *op, int thread_count)
{
    struct weight expert;
    struct op_linear_grad_in dense = op->row_end ? grouped_linear_grad_in_largest(op, &expert) : *op;
    struct product p = backward(&dense);
    size_t bytes = product_scratch(&p, thread_count);

    for (int32_t i = 0; dense.w->a.rows && i < weight_part_count(dense.w); i++) {
        p = adapter_grad_in(&dense, i);
        bytes = larger(bytes, product_scratch(&p, thread_count));
    }
    return bytes;
}

/* grad += scale · leftᵀ·right over rows [first, first + count). */
static struct product outer(struct mat grad, const struct mat *left, const struct mat *right, int32_t first, int32_t count, float scale)
{
    struct segment segment = {.a = {.m = sub_rows(left, first, count), .is_k_down = true},
                              .b = {.m = sub_rows(right, first, count), .is_k_down = true}, .k = count};

    return (struct product){.rows = grad.rows, .cols = grad.cols, .segments = {segment}, .segment_count = 1, .scale = scale, .y = grad,
                            .is_added = true};
}

/* dA += dtᵀ·drop(x) */
static struct product adapter_a_grad(const struct op_linear_grad_w *op, int32_t first, int32_t count)
{
    const struct weight *w = op->w;
    struct mat dt = behind(&op->dy, 0, w->a.rows);
    struct product p = outer(op->da, &dt, &op->x, first, count, 1 / (1 - w->lora_dropout));

    p.segments[0].b.rate = w->lora_dropout;
    p.segments[0].b.dropout = op->dropout;
    p.segments[0].b.dropout.row_offset += (uint64_t)first;
    return p;
}

/* dB += dyᵀ·t, for one block of a fused weight. */
static struct product adapter_b_grad(const struct op_linear_grad_w *op, int32_t i, int32_t first, int32_t count)
{
    struct weight_part part = weight_part(op->w, i);
    struct mat block = sub_rows(&op->db, part.row, part.rows), dy = sub_cols(&op->dy, part.row, part.rows);
    struct mat t = behind(&op->x, part.col, part.cols);

    block = sub_cols(&block, part.col, part.cols);
    return outer(block, &dy, &t, first, count, 1);
}

struct bias_grad {
    struct mat dy, dbias;
};

/* A column block of dbias. */
static void bias_task(void *context, int task, int thread)
{
    const struct bias_grad *grad = context;
    int32_t col = task * PANEL, count = smaller(PANEL, grad->dy.cols - col);
    struct row to = row_of(&grad->dbias, 0, col);

    for (int32_t first = 0; first < grad->dy.rows; first += BIAS_ROWS) {
        lanes sum[PANEL_VECTORS] = {{0}};
        for (int32_t t = first; t < smaller(first + BIAS_ROWS, grad->dy.rows); t++) {
            struct row from = row_of(&grad->dy, t, col);
            for (int v = 0; v * LANES < count; v++)
                sum[v] += row_load(from, v * LANES, count);
        }
        for (int v = 0; v * LANES < count; v++)
            row_store(to, v * LANES, count, row_load(to, v * LANES, count) + sum[v]);
    }
}

void CPU(linear_grad_w)(struct queue *queue, const struct op_linear_grad_w *op)
{
    struct bias_grad bias = {op->dy, op->dbias};
    struct product p;

    if (op->row_end) {
        grouped_linear_grad_w(queue, op, CPU(linear_grad_w));
        return;
    }
    if (op->dbias.at)
        pool_run(queue->pool, ceil_div(op->dy.cols, PANEL), bias_task, &bias);
    for (int32_t first = 0; first < op->x.rows; first += GRAD_ROWS) {
        int32_t count = smaller(GRAD_ROWS, op->x.rows - first);
        if (op->dw.at) {
            p = outer(op->dw, &op->dy, &op->x, first, count, 1);
            product_run(queue, &p);
        }
        if (op->da.at) {
            p = adapter_a_grad(op, first, count);
            product_run(queue, &p);
        }
        for (int32_t part = 0; op->db.at && part < weight_part_count(op->w); part++) {
            p = adapter_b_grad(op, part, first, count);
            product_run(queue, &p);
        }
    }
}

size_t CPU(linear_grad_w_scratch)(const struct op_linear_grad_w *op, int thread_count)
{
    struct weight expert;
    struct op_linear_grad_w dense = op->row_end ? grouped_linear_grad_w_largest(op, &expert) : *op;
    int32_t count = smaller(GRAD_ROWS, dense.x.rows);
    size_t bytes = 0;
    struct product p;

    /* A shorter last stretch of tokens may cut its tasks into more rows, which need more sums. */
    for (int32_t rows = count; rows > 0; rows = rows == count ? dense.x.rows % GRAD_ROWS % count : 0) {
        if (dense.dw.at) {
            p = outer(dense.dw, &dense.dy, &dense.x, 0, rows, 1);
            bytes = larger(bytes, product_scratch(&p, thread_count));
        }
        if (dense.da.at) {
            p = adapter_a_grad(&dense, 0, rows);
            bytes = larger(bytes, product_scratch(&p, thread_count));
        }
        for (int32_t part = 0; dense.db.at && part < weight_part_count(dense.w); part++) {
            p = adapter_b_grad(&dense, part, 0, rows);
            bytes = larger(bytes, product_scratch(&p, thread_count));
        }
    }
    return bytes;
}
