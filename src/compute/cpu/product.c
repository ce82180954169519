/* How products run.
 *
 * The panels of B are packed first, once, by all threads; a task then takes a block of rows that stays in L2 past them.
 * A B too large to wait in L3 is packed by each task for its rows instead. The brick runs over the whole of k in steps,
 * and the rows of a brick are finished while they are in cache: scale, bias, addition, one rounding. */
#include "compute/cpu/brick_end.h"
#include "compute/cpu/product.h"
#include "compute/cpu/tiles.h"

enum {
    CHUNK_STEPS = 1024,        /* of k per panel: 256 KB of L2 */
    ROWS_MAX = HAS_TILES ? 512 : 192, /* of a task */
    ROWS_MIN = HAS_TILES ? 64 : 48, /* and its unit where A comes from columns */
    OWN_ROWS_MAX = 768,        /* of a task that packs panels for itself */
    STREAMED_MIN = 1 << 20,    /* bytes of y that do not stay in L2 */
    PACK_ROWS = 24,            /* packing a panel takes as long as so many rows */
    A_BYTES_MAX = (HAS_TILES ? 1024 : 512) * 1024, /* of A in a task */
    SHARED_BYTES_MAX = 16 << 20, /* of a B that all tasks share */
    PACK_STEPS = 32,             /* of a task that packs all panels */
};

static bool is_direct(const struct segment *segment, bool is_bf16)
{
    const struct side *a = &segment->a;

    return !a->is_k_down && a->rate <= 0 && (is_bf16 ? segment->k % 2 == 0 : a->m.type == DTYPE_F32);
}

static bool has_tiles(const struct segment *segment, bool is_bf16)
{
    return HAS_TILES && is_bf16 && segment->a.is_k_down;
}

/* Bytes of a segment's A that a task packs for each row. */
static size_t packed_bytes(const struct segment *segment, bool is_bf16)
{
    int32_t steps = step_count(segment->k, is_bf16);

    if (is_direct(segment, is_bf16))
        return 0;
    return 4 * (size_t)(has_tiles(segment, is_bf16) ? ceil_div(steps, TILE_STEPS) * TILE_STEPS : steps);
}

static size_t packed_row_bytes(const struct product *p)
{
    size_t bytes = 0;

    for (int s = 0; s < p->segment_count; s++)
        bytes += packed_bytes(&p->segments[s], p->is_bf16);
    return bytes;
}

/* Blocks of rows are whole bricks; where A comes from columns, whole vectors too, which its
 * packer takes without looking. */
static int32_t row_unit(const struct product *p)
{
    return p->segments[0].a.is_k_down ? ROWS_MIN : BRICK_ROWS;
}

static int32_t block_rows(const struct product *p, int32_t blocks)
{
    return ceil_div(ceil_div(p->rows, blocks), row_unit(p)) * row_unit(p);
}

static void product_describe(struct product *p)
{
    p->is_bf16 = HAS_BF16_PRODUCTS;
    for (int s = 0; s < p->segment_count; s++)
        p->is_bf16 &= p->segments[s].a.m.type == DTYPE_BF16 &&
                      (p->segments[s].b.m.type == DTYPE_BF16 || p->segments[s].b.is_rounded);
    p->panels = ceil_div(p->cols, PANEL);
    p->panel_steps = 0;
    for (int s = 0; s < p->segment_count; s++)
        p->panel_steps += step_count(p->segments[s].k, p->is_bf16);
}

static size_t panel_bytes(const struct product *p)
{
    return 4 * (size_t)PANEL * (size_t)p->panel_steps;
}

/* All of B is in panels for good. */
static bool is_laid_out(const struct product *p)
{
    bool is = true;

    for (int s = 0; s < p->segment_count; s++)
        is &= p->segments[s].b.panels != NULL;
    return is;
}

/* Whether all of B is packed at once: it fits, and there are rows enough to use it more than once. */
static bool is_worth_sharing(const struct product *p)
{
    return !is_laid_out(p) && p->rows > ROWS_MIN && (size_t)p->panels * panel_bytes(p) <= SHARED_BYTES_MAX;
}

/* Whether the brick can run over both segments at once: a row of A goes on where the first ends, as an adapter's
 * columns behind the activations do. */
static bool can_join(const struct product *p)
{
    const struct segment *first = &p->segments[0], *second = &p->segments[1];
    const struct mat *a = &first->a.m, *next = &second->a.m;

    if (HAS_TILES && p->is_bf16 && first->k % (2 * TILE_STEPS))
        return false; /* the second begins a block of its own */
    return p->segment_count == 2 && p->is_shared && !first->is_masked && !first->b.panels && !second->b.panels &&
           is_direct(first, p->is_bf16) && is_direct(second, p->is_bf16) && a->type == next->type &&
           a->ld == next->ld && row_of(a, 0, first->k).at == next->at;
}

/* Rows of a block whose A stays in cache, whole in the number of threads; panels in groups for at least eight tasks a
 * thread where no A is packed for each of them anew. */
static void cut_shared(struct chain *chain, int thread_count)
{
    const struct product *p = &chain->p[chain->count - 1];
    size_t row_bytes = larger(packed_row_bytes(p), 4 * (size_t)p->panel_steps);
    int32_t rows_max = (int32_t)(A_BYTES_MAX / row_bytes), blocks, tasks = packed_row_bytes(p) ? 2 : 8;

    rows_max = rows_max < ROWS_MIN ? ROWS_MIN : smaller(rows_max, ROWS_MAX) / row_unit(p) * row_unit(p);
    blocks = ceil_div(ceil_div(p->rows, rows_max), thread_count) * thread_count;
    chain->row_block = block_rows(p, smaller(blocks, ceil_div(p->rows, ROWS_MIN)));
    chain->row_blocks = ceil_div(p->rows, chain->row_block);
    chain->panel_group = p->panels;
    if (chain->count == 1 && chain->row_blocks < tasks * thread_count)
        chain->panel_group = ceil_div(p->panels, smaller(p->panels, ceil_div(tasks * thread_count, chain->row_blocks)));
    chain->groups = ceil_div(p->panels, chain->panel_group);
}

/* Tasks that pack panels for themselves: as many blocks of rows as make the longest thread shortest. A chain, and an A
 * that is packed, take all panels at once. */
static void cut_own(struct chain *chain, int thread_count)
{
    const struct product *p = &chain->p[chain->count - 1];
    size_t row_bytes = packed_row_bytes(p);
    int32_t rows_max = OWN_ROWS_MAX, best = INT32_MAX;

    while (rows_max > ROWS_MIN && (size_t)rows_max * row_bytes > A_BYTES_MAX)
        rows_max /= 2;
    for (int32_t blocks = ceil_div(p->rows, rows_max), last = blocks + 4 * thread_count; blocks <= last; blocks++) {
        int32_t rows = block_rows(p, blocks), groups = chain->count > 1 ? 1 : p->panels, time;
        if (row_bytes && chain->count == 1)
            groups = smaller(p->panels, ceil_div(4 * thread_count, blocks));
        time =
            ceil_div(ceil_div(p->rows, rows) * groups, thread_count) * ceil_div(p->panels, groups) * (rows + PACK_ROWS);
        if (time < best) {
            best = time;
            chain->row_block = rows;
            chain->panel_group = ceil_div(p->panels, groups);
        }
    }
    chain->row_blocks = ceil_div(p->rows, chain->row_block);
    chain->groups = ceil_div(p->panels, chain->panel_group);
}

/* Whether y is written in whole lines that will not be read from a cache. */
static bool takes_streams(const struct product *p)
{
    size_t size = dtype_bytes(p->y.type);

    return HAS_TILES && p->is_bf16 && !p->is_added && p->add.at != p->y.at && (size_t)p->y.ld * size % 64 == 0 &&
           (uintptr_t)p->y.at % 64 == 0 && (size_t)p->rows * (size_t)p->cols * size >= STREAMED_MIN;
}

/* Chooses types and tasks, and tells the scratch. It is not what this cut needs but what any cut of fewer rows may
 * need: a plan asks for its largest micro-batch alone. */
static void chain_cut(struct chain *chain, int thread_count)
{
    int32_t chunk_steps = 0;

    chain->a_bytes = chain->shared_bytes = 0;
    for (int i = 0; i < chain->count; i++) {
        struct product *p = &chain->p[i];
        size_t row_bytes, all_bytes;
        product_describe(p);
        row_bytes = packed_row_bytes(p);
        all_bytes = (size_t)p->panels * panel_bytes(p);
        p->is_shared = is_worth_sharing(p);
        p->is_streamed = takes_streams(p);
        p->is_joined = can_join(p);
        chain->shared_bytes += p->rows <= ROWS_MIN || is_laid_out(p) ? 0
                               : all_bytes < SHARED_BYTES_MAX        ? all_bytes
                                                                     : SHARED_BYTES_MAX;
        chain->a_bytes =
            larger(chain->a_bytes, row_bytes ? larger(A_BYTES_MAX, ROWS_MIN * row_bytes) + LANES * row_bytes : 0);
        for (int s = 0; s < p->segment_count; s++)
            chunk_steps = (int32_t)larger((size_t)chunk_steps,
                                          (size_t)smaller(CHUNK_STEPS, step_count(p->segments[s].k, p->is_bf16)));
    }
    if (chain->p[chain->count - 1].is_shared || is_laid_out(&chain->p[chain->count - 1]))
        cut_shared(chain, thread_count);
    else
        cut_own(chain, thread_count);
    chain->a_bytes = whole_lines(chain->a_bytes);
    chain->slab_bytes = chain->a_bytes + 4 * PANEL * ((size_t)chunk_steps + OWN_ROWS_MAX);
}

/* What a task works on. */
struct task {
    const struct product *p;
    int32_t row, row_count, col, col_count, width;
    char *a;          /* packed rows, segment after segment */
    uint32_t *panel;  /* its own */
    float *sums;      /* [row_count, width]; [BRICK_ROWS, width] where the brick runs once over all of k */
    bool has_one_run;
};

/* Rows of A in whole vectors where they come from columns: the brick never reads behind row_count. */
static int32_t packed_rows(const struct task *task)
{
    return ceil_div(task->row_count, LANES) * LANES;
}

static float *sums_of(const struct task *task, int32_t row)
{
    return task->has_one_run ? task->sums : task->sums + (size_t)row * (size_t)task->width;
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
        if (has_tiles(segment, p->is_bf16))
            pack_tiles(&segment->a, part, (uint32_t *)to);
        else if (segment->a.is_k_down)
            pack_down(&segment->a, p->is_bf16, part, (uint32_t *)to, packed_rows(task));
        else
            pack_rows(&segment->a, p->is_bf16, part, (uint32_t *)to, step_count(segment->k, p->is_bf16));
        to += packed_bytes(segment, p->is_bf16) * (size_t)packed_rows(task);
    }
}

/* Where A of segment s begins for the task's first row. */
static struct brick brick_for(const struct task *task, int s)
{
    const struct product *p = task->p;
    const struct segment *segment = &p->segments[s];
    int32_t steps = step_count(segment->k, p->is_bf16);
    struct brick brick = {.a = task->a, .a_row = 4 * (size_t)steps, .a_step = 4};

    if (is_direct(segment, p->is_bf16))
        return (struct brick){.a = row_of(&segment->a.m, task->row, 0).at,
                              .a_row = (size_t)segment->a.m.ld * (p->is_bf16 ? 2 : 4),
                              .a_step = 4};
    for (int i = 0; i < s; i++)
        brick.a += packed_bytes(&p->segments[i], p->is_bf16) * (size_t)packed_rows(task);
    if (has_tiles(segment, p->is_bf16))
        brick_take_tiles(&brick, (const uint32_t *)brick.a, steps);
    else if (segment->a.is_k_down)
        brick.a_row = 4, brick.a_step = 4 * (size_t)packed_rows(task);
    return brick;
}

static void mask_sums(const struct task *task, int32_t row, int32_t count)
{
    const struct product *p = task->p;
    float factor = 1 / (1 - p->rate);

    for (int32_t i = 0; i < count; i++)
        for (int32_t j = 0; j < task->col_count; j++) {
            bool is_kept = dropout_keeps(&p->dropout, p->rate, task->row + row + i, task->col + j, p->y.cols);
            sums_of(task, row)[(size_t)i * (size_t)task->width + (size_t)j] *= is_kept ? factor : 0;
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
    struct ending end = {.scale = p->scale, .softcap = p->softcap, .has_bias = p->bias.at, .has_add = p->add.at,
                         .is_added = p->is_added};
    bool is_plain = !end.has_bias && !end.has_add && !end.is_added && end.softcap <= 0 && task->col_count == PANEL;

    for (int32_t i = row; i < row + count; i++) {
        const float *sums = sums_of(task, row) + (size_t)(i - row) * (size_t)task->width;

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

static void fetch(const struct mat *m, const struct task *task, int32_t row)
{
    const char *at = row_of(m, task->row + row, task->col).at;
    int32_t bytes = task->col_count * (m->type == DTYPE_BF16 ? 2 : 4);

    for (int32_t byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch(at + byte, 1);
}

/* Asks for the lines that rows will be rounded into, and for what is added to them, when the brick has run. */
static void fetch_result(const struct task *task, int32_t row, int32_t count)
{
    const struct product *p = task->p;

    for (int32_t i = row; i < row + count; i++) {
        fetch(&p->y, task, i);
        if (p->add.at && p->add.at != p->y.at)
            fetch(&p->add, task, i);
    }
}

/* Whole bricks finish in registers, with the bits of finish(): where a product is scaled and added to, a compiler may
 * fuse the two in one place and not in the other. */
static bool ends_in_brick(const struct task *task)
{
    const struct product *p = task->p;
    bool has_sum = p->bias.at || p->add.at || p->is_added;

    return task->col_count == task->width && p->softcap <= 0 && (p->scale == 1 || !has_sum);
}

static size_t row_bytes_of(const struct mat *m)
{
    return (size_t)m->ld * (m->type == DTYPE_BF16 ? 2 : 4);
}

/* For the task's first row; later ones are so many bytes further. */
static struct brick_end brick_end_for(const struct task *task)
{
    const struct product *p = task->p;
    struct brick_end end = {.y = row_of(&p->y, task->row, task->col), .y_row = row_bytes_of(&p->y), .scale = p->scale,
                            .is_added = p->is_added, .is_streamed = p->is_streamed && task->width == PANEL};

    if (p->bias.at)
        end.bias = row_of(&p->bias, 0, task->col);
    if (p->add.at) {
        end.add = row_of(&p->add, task->row, task->col);
        end.add_row = row_bytes_of(&p->add);
    }
    return end;
}

/* Runs the brick down the rows for steps [from, from + steps) of segment s, which `panel` holds. */
static void run_rows(const struct task *task, int s, int32_t from, int32_t steps, const uint32_t *panel, bool is_last)
{
    const struct product *p = task->p;
    struct brick brick = brick_for(task, s);
    struct brick_end end = brick_end_for(task);
    bool is_finished = is_last && (p->is_joined || s == p->segment_count - 1);
    bool has_end = (!HAS_TILES || p->is_bf16) && is_finished && !p->segments[s].is_masked && ends_in_brick(task);

    brick.a = brick_a(&brick, 0, from);
    brick.b = panel;
    brick.b_width = task->width;
    brick.steps = steps;
    brick.c_ld = (size_t)task->width;
    brick.is_added = s > 0 || from > 0;
    for (int32_t row = 0; row < task->row_count; row += BRICK_ROWS) {
        int32_t count = smaller(BRICK_ROWS, task->row_count - row);
        brick.c = sums_of(task, row);
        brick.end = has_end && count == BRICK_ROWS ? &end : NULL;
        if (!HAS_TILES && is_finished && !brick.end)
            fetch_result(task, row, count);
        brick_run(&brick, count, p->is_bf16);
        brick.a = brick_a(&brick, BRICK_ROWS, 0);
        end.y.at = (char *)end.y.at + BRICK_ROWS * end.y_row;
        end.add.at = end.add.at ? (char *)end.add.at + BRICK_ROWS * end.add_row : NULL;
        if (p->segments[s].is_masked && is_last)
            mask_sums(task, row, count);
        if (is_finished && !brick.end)
            finish(task, row, count);
    }
}

static void pack_b(const struct product *p, const struct segment *segment, struct part part, uint32_t *to,
                   int32_t width)
{
    if (segment->b.quant)
        CPU(pack_codes)(&segment->b, p->is_bf16, part, to, width);
    else if (segment->b.is_rounded)
        CPU(pack_rounded)(&segment->b, p->is_bf16, part, to, width);
    else
        pack_panel(&segment->b, p->is_bf16, part, to, width);
}

/* Where a segment's panel of the task's columns lies packed: laid out for good, or by pack_task; NULL: nowhere. */
static const uint32_t *packed_panel(const struct task *task, const struct segment *segment)
{
    const struct product *p = task->p;
    const uint32_t *panel;

    if (segment->b.panels)
        return segment->b.panels + (size_t)task->col * (size_t)step_count(segment->k, p->is_bf16);
    if (!p->is_shared)
        return NULL;
    panel = p->shared + (size_t)(task->col / PANEL) * (size_t)p->panel_steps * PANEL;
    return segment == p->segments ? panel
                                  : panel + (size_t)step_count(p->segments[0].k, p->is_bf16) * (size_t)task->width;
}

static void run_panel(struct task *task, int32_t panel)
{
    const struct product *p = task->p;
    int32_t per_step = p->is_bf16 ? 2 : 1, runs = p->is_joined ? 1 : p->segment_count;

    task->col = panel * PANEL;
    task->col_count = smaller(PANEL, p->cols - task->col);
    task->width = panel_width(task->col_count);
    task->has_one_run = runs == 1 && p->panel_steps <= CHUNK_STEPS;
    for (int s = 0; s < runs; s++) {
        const struct segment *segment = &p->segments[s];
        const uint32_t *packed = packed_panel(task, segment);
        int32_t steps = p->is_joined ? p->panel_steps : step_count(segment->k, p->is_bf16);
        for (int32_t from = 0; from < steps; from += CHUNK_STEPS) {
            int32_t here = smaller(CHUNK_STEPS, steps - from), k = from * per_step;
            struct part part = {task->col, task->col_count, k, smaller(here * per_step, segment->k - k)};
            if (!packed)
                pack_b(p, segment, part, task->panel, task->width);
            run_rows(task, s, from, here, packed ? packed + (size_t)from * (size_t)task->width : task->panel,
                     from + here == steps);
        }
    }
}

static void chain_task(void *context, int index, int thread)
{
    const struct chain *chain = context;
    int32_t block = index / chain->groups, group = index % chain->groups;
    char *slab = chain->slabs + (size_t)thread * chain->slab_bytes;

    for (int i = 0; i < chain->count; i++) {
        const struct product *p = &chain->p[i];
        struct task task = {.p = p, .row = block * chain->row_block, .a = slab};
        int32_t first = chain->count > 1 ? 0 : group * chain->panel_group;
        int32_t end = chain->count > 1 ? p->panels : first + chain->panel_group;
        task.row_count = smaller(chain->row_block, p->rows - task.row);
        task.sums = (float *)(slab + chain->a_bytes);
        task.panel = (uint32_t *)(task.sums + OWN_ROWS_MAX * PANEL);
        if (packed_row_bytes(p))
            pack_a(&task);
        for (int32_t panel = first; panel < smaller(end, p->panels); panel++)
            run_panel(&task, panel);
    }
    end_streams();
}

/* One panel's share of steps [from, from + count) of all segments. */
static void pack_steps(const struct product *p, int32_t panel, int32_t from, int32_t count)
{
    int32_t col = panel * PANEL, cols = smaller(PANEL, p->cols - col), width = panel_width(cols);
    int32_t per_step = p->is_bf16 ? 2 : 1;
    uint32_t *to = p->shared + (size_t)panel * (size_t)p->panel_steps * PANEL;

    for (int s = 0; s < p->segment_count; s++) {
        const struct segment *segment = &p->segments[s];
        int32_t steps = step_count(segment->k, p->is_bf16), k = from * per_step;
        struct part part = {col, cols, k, smaller(count * per_step, segment->k - k)};
        if (!segment->b.panels && from < steps)
            pack_b(p, segment, part, to + (size_t)from * (size_t)width, width);
        to += (size_t)steps * (size_t)width;
    }
}

/* Packing B of a product that shares it: a task takes a panel or, where k runs down the rows, some steps of all panels,
 * so that it reads these rows whole. */
static int32_t pack_tasks(const struct product *p)
{
    if (!p->is_shared)
        return 0;
    return p->segments->b.is_k_down ? ceil_div(p->panel_steps, PACK_STEPS) : p->panels;
}

/* Tasks of the chain's products are numbered through. */
static void pack_task(void *context, int index, int thread)
{
    const struct chain *chain = context;
    const struct product *p = chain->p;

    for (; index >= pack_tasks(p); p++)
        index -= pack_tasks(p);
    if (!p->segments->b.is_k_down)
        pack_steps(p, index, 0, p->panel_steps);
    for (int32_t panel = 0; p->segments->b.is_k_down && panel < p->panels; panel++)
        pack_steps(p, panel, index * PACK_STEPS, PACK_STEPS);
}

void CPU(product_run)(struct queue *queue, const struct product *p)
{
    struct chain chain = {.p = {*p}, .count = 1};

    CPU(chain_run)(queue, &chain);
}

/* Too few rows for a block on each thread: the products of a chain then run one by one, each cut into columns. */
static bool is_short(const struct chain *chain, int thread_count)
{
    return chain->count > 1 && chain->p->rows < ROWS_MIN * thread_count;
}

void CPU(chain_run)(struct queue *queue, struct chain *chain)
{
    int threads = pool_thread_count(queue->pool), tasks = 0;
    char *at = queue->scratch;

    if (chain->p->rows == 0 || chain->p[chain->count - 1].cols == 0)
        return;
    if (is_short(chain, threads)) {
        for (int i = 0; i < chain->count; i++)
            CPU(product_run)(queue, &chain->p[i]);
        return;
    }
    chain_cut(chain, threads);
    ASSERT(queue->scratch_bytes >= chain->shared_bytes + chain->slab_bytes * (size_t)threads);
    for (int i = 0; i < chain->count; i++)
        if (chain->p[i].is_shared) {
            chain->p[i].shared = (uint32_t *)at;
            at += (size_t)chain->p[i].panels * panel_bytes(&chain->p[i]);
            tasks += pack_tasks(&chain->p[i]);
        }
    chain->slabs = (char *)queue->scratch + chain->shared_bytes;
    pool_run(queue->pool, tasks, pack_task, chain);
    pool_run(queue->pool, chain->row_blocks * chain->groups, chain_task, chain);
}

size_t CPU(chain_scratch)(struct chain *chain, int thread_count)
{
    if (chain->p->rows == 0 || chain->p[chain->count - 1].cols == 0)
        return 0;
    chain_cut(chain, thread_count);
    return chain->shared_bytes + chain->slab_bytes * (size_t)thread_count;
}

size_t CPU(product_scratch)(const struct product *p, int thread_count)
{
    struct chain chain = {.p = {*p}, .count = 1};

    return CPU(chain_scratch)(&chain, thread_count);
}
