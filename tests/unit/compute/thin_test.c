/* Products with few rows, all counts of them and all widths of a last panel: rows that meet adapters of their own have
 * the bits of each range alone, and nothing behind the last row or panel is read. */
#include "fixture.h"

#include "base/arena.h"
#include "base/pool.h"
#include "base/random.h"
#include "compute/convert.h"
#include "compute/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS_MAX = 9, INPUTS = 12, RANK = 4, LD = INPUTS + RANK };

struct desk {
    const struct backend *backend;
    struct queue queue;
    struct arena arena;
    struct mt19937 mt;
    enum dtype type;
    int32_t outputs;
    struct weight base, first, second;
};

static struct mat make(struct desk *desk, int32_t rows, int32_t cols, int32_t ld, float factor)
{
    struct mat m = {NULL, rows, cols, ld, desk->type};
    float value;

    m.at = arena_alloc(&desk->arena, (size_t)rows * (size_t)ld * dtype_bytes(desk->type));
    for (int32_t i = 0; i < rows * ld; i++) {
        value = factor * ((float)(mt19937_next(&desk->mt) & 0xffffff) * 0x1p-24f - 0.5f);
        if (desk->type == DTYPE_F32)
            ((float *)m.at)[i] = value;
        else
            ((uint16_t *)m.at)[i] = bf16_from_f32(value);
    }
    return m;
}

static const void *lay_out(struct desk *desk, const struct mat *w)
{
    size_t bytes = desk->backend->panel_bytes(w);
    void *panels = bytes ? mem_alloc(bytes) : NULL; /* by itself, so that reading behind it is seen */

    if (panels)
        desk->backend->lay_out(&desk->queue, w, panels);
    return panels;
}

static struct weight make_adapter(struct desk *desk)
{
    struct weight w = desk->base;

    w.a = make(desk, RANK, INPUTS, INPUTS, 1), w.b = make(desk, desk->outputs, RANK, RANK, 1);
    w.a_panels = lay_out(desk, &w.a), w.b_panels = lay_out(desk, &w.b);
    w.lora_scale = 0.5f;
    return w;
}

static void free_adapter(const struct weight *w)
{
    free((void *)(uintptr_t)w->a_panels);
    free((void *)(uintptr_t)w->b_panels);
}

static void run(struct desk *desk, const struct op_linear *op)
{
    size_t bytes = desk->backend->scratch_bytes(OP_linear, op, pool_thread_count(desk->queue.pool));

    desk->queue.scratch = arena_alloc(&desk->arena, bytes + 1);
    desk->queue.scratch_bytes = bytes;
    desk->backend->linear(&desk->queue, op);
}

/* Rows [from, end) alone, from a matrix that has no more of them. */
static void run_alone(struct desk *desk, const struct mat *x, const struct mat *y, int32_t from, int32_t end,
                      const struct weight *w)
{
    size_t row_bytes = LD * dtype_bytes(desk->type), bytes = (size_t)(end - from) * row_bytes;
    struct op_linear op = {.x = *x, .y = *y, .w = w};
    char *rows;

    if (from == end)
        return;
    rows = mem_alloc_zero(1, bytes);
    memcpy(rows, (char *)x->at + (size_t)from * row_bytes, bytes);
    op.x.at = rows;
    op.y.at = (char *)y->at + (size_t)from * (size_t)desk->outputs * dtype_bytes(desk->type);
    op.x.rows = op.y.rows = end - from;
    run(desk, &op);
    free(rows);
}

static void compare(struct desk *desk, int32_t rows, int32_t cut, int32_t end)
{
    struct adapter_rows ranges[] = {{&desk->first, cut}, {NULL, end}, {&desk->second, rows}};
    struct mat x = make(desk, rows, INPUTS, LD, 1), y = make(desk, rows, desk->outputs, desk->outputs, NAN);
    struct mat alone = make(desk, rows, desk->outputs, desk->outputs, NAN);

    run_alone(desk, &x, &alone, 0, cut, &desk->first);
    run_alone(desk, &x, &alone, cut, end, &desk->base);
    run_alone(desk, &x, &alone, end, rows, &desk->second);
    run(desk, &(struct op_linear){.x = x, .y = y, .w = &desk->base, .adapters = ranges, .adapter_count = 3});
    if (memcmp(y.at, alone.at, (size_t)rows * (size_t)desk->outputs * dtype_bytes(desk->type)) != 0)
        fail_msg("%d rows, borders %d and %d, %d outputs: other bits than alone", rows, cut, end, desk->outputs);
}

static void try_all(enum cpu_path path, enum dtype type, int32_t outputs)
{
    struct desk desk = {.backend = cpu_path(path), .type = type, .outputs = outputs};

    if (!desk.backend) {
        print_message("skipped: this processor does not have %s\n", cpu_path_name(path));
        return;
    }
    mt19937_seed(&desk.mt, (uint32_t)fixture_seed());
    desk.queue.pool = pool_new(2);
    desk.base.w = make(&desk, outputs, INPUTS, INPUTS, 1);
    desk.base.panels = lay_out(&desk, &desk.base.w);
    desk.first = make_adapter(&desk), desk.second = make_adapter(&desk);
    for (int32_t rows = 1; rows <= ROWS_MAX; rows++)
        for (int32_t cut = 0; cut <= rows; cut++)
            for (int32_t end = cut; end <= rows; end++)
                compare(&desk, rows, cut, end);
    free((void *)(uintptr_t)desk.base.panels);
    free_adapter(&desk.first), free_adapter(&desk.second);
    pool_free(desk.queue.pool);
    arena_deinit(&desk.arena);
}

static void rows_with_adapters_of_their_own_have_the_bits_of_each_range_alone(void **state)
{
    static const int32_t outputs[] = {70, 82, 100, 250}; /* 250: each thread has a stretch of whole panels */

    for (int path = 0; path < CPU_PATH_COUNT; path++)
        for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
            try_all(path, DTYPE_F32, outputs[i]);
            try_all(path, DTYPE_BF16, outputs[i]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_with_adapters_of_their_own_have_the_bits_of_each_range_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
