/* Products with few rows, as in decoding: the weight passes once through the processor and
 * that is all the time there is.
 *
 * The weight lies in panels (panels.c), so each task reads one stretch of memory from its beginning to its end: the
 * longer, the better the processor foresees it (prefetches of our own took bandwidth away). Threads that have nothing
 * to do begin with the next weight (pool_fetch). Sums of all rows are taken along k at once. An element is the same
 * chain of multiply-adds as in the brick: its bits do not tell how many rows there were. */
#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"

enum { PASS_ROWS = THIN_ROWS };

/* Up to PASS_ROWS rows of C [rows, PANEL] = or += A·B over `steps`; B's steps are b_step words apart. */
struct thin {
    const char *a;
    size_t a_row;
    const uint32_t *b;
    size_t b_step;
    int32_t steps;
    float *c;
    bool is_added;
};

INLINE lanes thin_add(lanes sum, const char *a, lanes_u b, bool is_bf16)
{
    uint32_t word;

    memcpy(&word, a, sizeof word);
#if defined(__AVX512BF16__)
    if (is_bf16)
        return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(word - (lanes_u){0}), (__m512bh)b);
#endif
    return sum + (lanes)(word - (lanes_u){0}) * (lanes)b;
}

INLINE void thin_shaped(const struct thin *thin, int rows, int vectors, bool is_bf16)
{
    lanes sum[PASS_ROWS][PANEL_VECTORS];
    const char *a = thin->a;
    const uint32_t *b = thin->b;
    const size_t a_row = thin->a_row, b_step = thin->b_step;

    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = thin->is_added ? lanes_load(thin->c + i * PANEL + v * LANES) : (lanes){0};
    for (int32_t step = thin->steps; step > 0; step--) {
        lanes_u panel[PANEL_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            panel[v] = (lanes_u)lanes_load((const float *)b + v * LANES);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] = thin_add(sum[i][v], a + (size_t)i * a_row, panel[v], is_bf16);
        a += 4;
        b += b_step;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            lanes_store(thin->c + i * PANEL + v * LANES, sum[i][v]);
}

INLINE void thin_of_rows(const struct thin *thin, int rows, int vectors, bool is_bf16)
{
    switch (vectors) {
    case 1:
        thin_shaped(thin, rows, 1, is_bf16);
        break;
    case 2:
        thin_shaped(thin, rows, 2, is_bf16);
        break;
    case 3:
        thin_shaped(thin, rows, PANEL_VECTORS < 3 ? PANEL_VECTORS : 3, is_bf16);
        break;
    default:
        thin_shaped(thin, rows, PANEL_VECTORS, is_bf16);
    }
}

INLINE void thin_of_type(const struct thin *thin, int rows, int vectors, bool is_bf16)
{
    switch (rows) {
#define THIN_CASE(count)                                                                                               \
    case count:                                                                                                        \
        thin_of_rows(thin, count, vectors, is_bf16);                                                                   \
        break;
        THIN_CASE(1) THIN_CASE(2) THIN_CASE(3)
#ifdef __AVX512F__ /* PASS_ROWS is 8 */
        THIN_CASE(4) THIN_CASE(5) THIN_CASE(6) THIN_CASE(7)
#endif
#undef THIN_CASE
    default:
        thin_of_rows(thin, PASS_ROWS, vectors, is_bf16);
    }
}

static void thin_run_rows(const struct thin *thin, int rows, int32_t width, bool is_bf16)
{
    struct brick brick = {.a = thin->a, .a_row = thin->a_row, .a_step = 4, .b = thin->b, .b_width = width,
                          .steps = thin->steps, .c = thin->c, .c_ld = PANEL, .is_added = thin->is_added};

    if (HAS_TILES && is_bf16)
        brick_run(&brick, rows, true);
    else
        thin_of_type(thin, rows, width / LANES, is_bf16);
}

/* y = cap(scale · (x·Bᵀ + t·Cᵀ) + bias + add). Rows may meet several t and C, or none. */
struct thin_product {
    struct mat x, y, bias, add;
    const uint32_t *panels;
    float scale, softcap;
    bool is_bf16;
    int32_t thread_count;
    struct thin_second {
        int32_t row;
        struct mat t;
        const uint32_t *panels;
    } second[THIN_ROWS];
    int32_t second_count;
};

/* Each thread first takes one long stretch of panels, for a new stretch of memory begins slowly; then whoever is ready
 * takes one of the rest. Panels are not halved so that all end together: half of each step takes nearly as long to read
 * as all of it, and who waits reads ahead. */
struct cut {
    int32_t threads, stretch; /* panels of each thread's stretch */
};

static struct cut cut_of(int32_t cols, int32_t thread_count)
{
    int32_t stretch = (int32_t)((int64_t)(cols / PANEL) * 3 / (4 * (int64_t)thread_count));

    return (struct cut){stretch ? thread_count : 0, stretch};
}

static int32_t task_count(const struct thin_product *p)
{
    struct cut cut = cut_of(p->y.cols, p->thread_count);

    return cut.threads + ceil_div(p->y.cols, PANEL) - cut.threads * cut.stretch;
}

static void run(const struct thin_product *p, int32_t col, const struct mat *x, const uint32_t *panels, float *sums,
                bool is_added)
{
    int32_t steps = step_count(x->cols, p->is_bf16), width = panel_width(smaller(PANEL, p->y.cols - col));

    for (int32_t row = 0; row < x->rows; row += PASS_ROWS) {
        struct thin thin = {.a = row_of(x, row, 0).at,
                            .a_row = (size_t)x->ld * (p->is_bf16 ? 2 : 4),
                            .b = panels + (size_t)col * (size_t)steps,
                            .b_step = (size_t)width,
                            .steps = steps,
                            .c = sums + row * PANEL,
                            .is_added = is_added};
        thin_run_rows(&thin, smaller(PASS_ROWS, x->rows - row), width, p->is_bf16);
    }
}

static void finish(const struct thin_product *p, int32_t col, const float *sums, int32_t row)
{
    struct row y = row_of(&p->y, row, col);
    int32_t count = smaller(PANEL, p->y.cols - col);

    for (int32_t j = 0; j < count; j += LANES) {
        lanes value = lanes_load(sums + j) * p->scale;
        if (p->bias.at)
            value += row_load(row_of(&p->bias, 0, col), j, count);
        if (p->add.at)
            value += row_load(row_of(&p->add, row, col), j, count);
        if (p->softcap > 0)
            value = p->softcap * lanes_tanh(value * (1 / p->softcap));
        row_store(y, j, count, value);
    }
}

/* Columns from col to the end of their panel. */
static void run_panel(const struct thin_product *p, int32_t col)
{
    float sums[THIN_ROWS * PANEL];

    run(p, col, &p->x, p->panels, sums, false);
    for (int32_t i = 0; i < p->second_count; i++)
        run(p, col, &p->second[i].t, p->second[i].panels, sums + p->second[i].row * PANEL, true);
    for (int32_t row = 0; row < p->y.rows; row++)
        finish(p, col, sums + row * PANEL, row);
}

/* The first task of a thread's share is its stretch; the others are panels of the rest. */
static void thin_task(void *context, int task, int thread)
{
    const struct thin_product *p = context;
    struct cut cut = cut_of(p->y.cols, p->thread_count);
    int32_t count = task_count(p), owner = 0;

    while (owner < cut.threads && pool_share(count, cut.threads, owner) < task)
        owner++;
    if (owner == cut.threads || pool_share(count, cut.threads, owner) > task) {
        run_panel(p, (cut.threads * cut.stretch + task - owner) * PANEL);
        return;
    }
    for (int32_t i = 0; i < cut.stretch; i++)
        run_panel(p, (owner * cut.stretch + i) * PANEL);
}

/* Threads that wait begin with their stretches of the next product. */
static void fetch_next(struct queue *queue, const struct weight *next, bool is_bf16)
{
    bool is_there = next && next->panels;
    struct cut cut = cut_of(is_there ? next->w.rows : 0, pool_thread_count(queue->pool));
    size_t bytes = is_there ? 4 * PANEL * (size_t)step_count(next->w.cols, is_bf16) * (size_t)cut.stretch : 0;

    pool_fetch(queue->pool, bytes ? next->panels : NULL, (size_t)cut.threads * bytes, bytes);
}

static void thin_run(struct queue *queue, struct thin_product *p)
{
    p->thread_count = pool_thread_count(queue->pool);
    pool_run(queue->pool, task_count(p), thin_task, p);
}

/* The t of several adapters at once. */
struct thin_products {
    struct thin_product product[THIN_ROWS];
    int32_t count, tasks_each;
};

static void thin_products_task(void *context, int task, int thread)
{
    struct thin_products *all = context;
    struct thin_product *p = &all->product[task / all->tasks_each];

    if (task % all->tasks_each < task_count(p))
        thin_task(p, task % all->tasks_each, thread);
}

static void thin_products_run(struct queue *queue, struct thin_products *all)
{
    for (int32_t i = 0; i < all->count; i++) {
        all->product[i].thread_count = pool_thread_count(queue->pool);
        if (all->tasks_each < task_count(&all->product[i]))
            all->tasks_each = task_count(&all->product[i]);
    }
    pool_run(queue->pool, all->count * all->tasks_each, thin_products_task, all);
}

/* Pairs of bf16 are read where they lie. */
static bool is_readable(const struct mat *x, const struct mat *w)
{
    return x->type == w->type && (x->type == DTYPE_F32 || (HAS_BF16_PRODUCTS && x->cols % 2 == 0));
}

static bool has_thin_adapter(const struct op_linear *op, const struct weight *w)
{
    struct mat t = {.cols = w->a.rows, .type = op->x.type};

    return !w->a.rows ||
           (w->a_panels && w->b_panels && !w->part_scale && w->lora_dropout <= 0 && is_readable(&t, &w->b));
}

bool CPU(linear_is_thin)(const struct op_linear *op)
{
    if (op->x.rows > THIN_ROWS || !op->w->panels || !is_readable(&op->x, &op->w->w))
        return false;
    for (int32_t i = 0; op->adapters && i < op->adapter_count; i++)
        if (op->adapters[i].weight && !has_thin_adapter(op, op->adapters[i].weight))
            return false;
    return has_thin_adapter(op, op->w);
}

/* Rows from `row` on meet the adapter of w. */
static void add_adapter(const struct op_linear *op, const struct weight *w, int32_t row, int32_t rows,
                        struct thin_products *in, struct thin_product *out)
{
    struct mat x = op->x, t = op->x;

    if (!w || !w->a.rows || !rows)
        return;
    x.at = row_of(&op->x, row, 0).at;
    t.at = row_of(&op->x, row, op->x.cols).at;
    t.cols = w->a.rows;
    x.rows = t.rows = rows;
    in->product[in->count++] = (struct thin_product){.x = x, .y = t, .panels = w->a_panels, .scale = w->lora_scale,
                                                     .is_bf16 = out->is_bf16};
    out->second[out->second_count++] = (struct thin_second){row, t, w->b_panels};
}

void CPU(linear_thin)(struct queue *queue, const struct op_linear *op)
{
    struct thin_product p = {.x = op->x, .y = op->y, .bias = op->bias, .add = op->add, .panels = op->w->panels,
                             .scale = 1, .softcap = op->softcap, .is_bf16 = op->x.type == DTYPE_BF16};
    struct thin_products in = {.count = 0};

    add_adapter(op, op->w, 0, op->x.rows, &in, &p);
    for (int32_t i = 0, from = 0; op->adapters && i < op->adapter_count; from = op->adapters[i++].row_end)
        add_adapter(op, op->adapters[i].weight, from, op->adapters[i].row_end - from, &in, &p);
    fetch_next(queue, op->next, p.is_bf16);
    if (in.count)
        thin_products_run(queue, &in);
    thin_run(queue, &p);
}
