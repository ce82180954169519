/* Products of every path: a row has the same bits alone, in any company and among so many that results go past the
 * caches, whatever is left of blocks along k, of bricks and of panels; and nothing behind the last row is read. */
#include "fixture.h"

#include "base/arena.h"
#include "base/pool.h"
#include "base/random.h"
#include "compute/convert.h"
#include "compute/cpu/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { RANK = 8, LINE = 64, PAGE = 4096 };

struct desk {
    const struct backend *backend;
    const char *path_name;
    struct queue queue;
    struct arena arena;
    struct mt19937 mt;
    enum dtype type;
    int32_t inputs, outputs, ld;
    struct weight weight;
};

static void fill(struct desk *desk, const struct mat *m)
{
    for (int32_t i = 0; i < m->rows * m->ld; i++) {
        float value = (float)(mt19937_next(&desk->mt) & 0xffffff) * 0x1p-24f - 0.5f;
        if (m->type == DTYPE_F32)
            ((float *)m->at)[i] = value;
        else
            ((uint16_t *)m->at)[i] = bf16_from_f32(value);
    }
}

/* At the beginning of a line, as a model's matrices are: others never go past the caches. */
static struct mat make(struct desk *desk, int32_t rows, int32_t cols, enum dtype type)
{
    struct mat m = {NULL, rows, cols, cols, type};
    char *at = arena_alloc(&desk->arena, (size_t)rows * (size_t)cols * dtype_bytes(type) + LINE);

    m.at = at + (LINE - (uintptr_t)at % LINE) % LINE;
    fill(desk, &m);
    return m;
}

/* Rows that end where memory does. */
struct edge {
    char *pages;
    size_t bytes;
    struct mat rows;
};

static struct edge edge_of(const struct mat *x, int32_t from, int32_t count)
{
    size_t row_bytes = (size_t)x->ld * dtype_bytes(x->type), used = (size_t)count * row_bytes;
    struct edge edge = {.bytes = (used + PAGE - 1) / PAGE * PAGE + PAGE, .rows = *x};

    edge.pages = mmap(NULL, edge.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(edge.pages, MAP_FAILED);
    assert_int_equal(mprotect(edge.pages + edge.bytes - PAGE, PAGE, PROT_NONE), 0);
    edge.rows.at = edge.pages + edge.bytes - PAGE - used;
    edge.rows.rows = count;
    memcpy(edge.rows.at, (const char *)x->at + (size_t)from * row_bytes, used);
    return edge;
}

static void run(struct desk *desk, const struct op_linear *op)
{
    size_t bytes = desk->backend->scratch_bytes(OP_linear, op, pool_thread_count(desk->queue.pool));

    desk->queue.scratch = arena_alloc(&desk->arena, bytes + 1);
    desk->queue.scratch_bytes = bytes;
    desk->backend->linear(&desk->queue, op);
}

static void compare(struct desk *desk, const struct mat *x, const struct mat *y, const struct mat *add, int32_t from,
                    int32_t count)
{
    struct edge edge = edge_of(x, from, count);
    struct mat alone = make(desk, count, desk->outputs, y->type), here = *add;
    size_t row_bytes = (size_t)y->ld * dtype_bytes(y->type);

    here.at = (char *)add->at + (size_t)from * row_bytes;
    here.rows = count;
    run(desk, &(struct op_linear){.x = edge.rows, .y = alone, .w = &desk->weight, .add = here});
    if (memcmp(alone.at, (const char *)y->at + (size_t)from * row_bytes, (size_t)count * row_bytes) != 0)
        fail_msg("%s, %s, %d of %d rows from %d on, %d x %d, rank %d: other bits than among all",
                 desk->path_name, dtype_name(desk->type), count, x->rows, from, desk->outputs,
                 desk->inputs, desk->weight.a.rows);
    assert_int_equal(munmap(edge.pages, edge.bytes), 0);
}

static void compare_rows(struct desk *desk, int32_t rows, enum dtype y_type)
{
    static const int32_t counts[] = {1, 2, 8, 15, 16, 17, 31, 32, 33, 47, 65};
    struct mat x = make(desk, rows, desk->ld, desk->type), y = make(desk, rows, desk->outputs, y_type);
    struct mat add = make(desk, rows, desk->outputs, y_type);

    x.cols = desk->inputs;
    run(desk, &(struct op_linear){.x = x, .y = y, .w = &desk->weight, .add = add});
    for (size_t i = 0; i < sizeof counts / sizeof *counts && counts[i] <= rows; i++) {
        compare(desk, &x, &y, &add, 0, counts[i]);
        compare(desk, &x, &y, &add, rows - counts[i], counts[i]);
    }
}

static void try(enum cpu_path path, enum dtype type, int32_t inputs, int32_t outputs, int32_t rows, int32_t rank)
{
    struct desk desk = {.backend = cpu_path(path), .path_name = cpu_path_name(path), .type = type, .inputs = inputs,
                        .outputs = outputs, .ld = inputs + rank};

    mt19937_seed(&desk.mt, (uint32_t)fixture_seed());
    desk.queue.pool = pool_new(2);
    desk.weight.w = make(&desk, outputs, inputs, type);
    if (rank) {
        desk.weight.a = make(&desk, rank, inputs, type), desk.weight.b = make(&desk, outputs, rank, type);
        desk.weight.lora_scale = 0.5f;
    }
    compare_rows(&desk, rows, DTYPE_F32);
    compare_rows(&desk, rows, type);
    pool_free(desk.queue.pool);
    arena_deinit(&desk.arena);
}

static void a_row_has_the_same_bits_in_any_company(void **state)
{
    static const int32_t shapes[][3] = {{12, 20, 70}, {46, 33, 70}, {64, 96, 130}, {600, 40, 70}, {62, 992, 600}};

    for (int path = 0; path < CPU_PATH_COUNT; path++) {
        if (!cpu_path(path)) {
            print_message("skipped: this processor does not have %s\n", cpu_path_name(path));
            continue;
        }
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int32_t rank = 0; rank <= RANK; rank += RANK) {
                try(path, DTYPE_F32, shapes[i][0], shapes[i][1], shapes[i][2], rank);
                try(path, DTYPE_BF16, shapes[i][0], shapes[i][1], shapes[i][2], rank);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_row_has_the_same_bits_in_any_company)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
