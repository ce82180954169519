#include "test.h"
#include "base/random.h"
#include "data/pack.h"

#include <string.h>

static void expect_rows(const struct rows *rows, const char *expected)
{
    char text[4096];
    size_t len = 0;

    for (uint32_t row = 0; row < rows->row_count; row++) {
        for (uint32_t i = rows->start[row]; i < rows->start[row + 1]; i++)
            len += (size_t)snprintf(text + len, sizeof text - len, "%u ", rows->example[i]);
        len += (size_t)snprintf(text + len, sizeof text - len, "| ");
    }
    assert_string_equal(text, expected);
}

/* TRL's own example: L = 4, [[1..5], [6,7], [8,9,10], [11]] gives [[1,2,3,4], [8,9,10,11], [6,7]]. */
static void examples_go_where_trl_puts_them(void **state)
{
    static const struct {
        uint32_t capacity, count, length[8];
        const char *expected;
    } cases[] = {
        {4, 4, {5, 2, 3, 1}, "0 | 2 3 | 1 | "},
        {4, 4, {2, 2, 2, 2}, "0 1 | 2 3 | "},
        /* Both rows come to have space 1; the second has had it for longer, so it is used first. */
        {10, 5, {7, 5, 4, 2, 1}, "0 3 | 1 2 4 | "},
        {8, 3, {1, 2, 3}, "2 1 0 | "},
        {8, 0, {0}, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct rows rows = pack_best_fit(&arena, cases[i].length, cases[i].count, cases[i].capacity);
        if (cases[i].count)
            expect_rows(&rows, cases[i].expected);
        else
            assert_int_equal(rows.row_count, 0);
        arena_deinit(&arena);
    }
}

/* The definition, spelled out: longest first (stable); smallest space that suffices, longest-held first. */
static uint32_t brute_force(const uint32_t *length, uint32_t count, uint32_t capacity, uint32_t *row_of,
                            uint32_t *place_of)
{
    static uint32_t space[PACK_WINDOW], since[PACK_WINDOW], used[PACK_WINDOW];
    static bool done[PACK_WINDOW];
    uint32_t rows = 0;

    memset(done, 0, sizeof done);
    for (uint32_t turn = 0; turn < count; turn++) {
        uint32_t next = UINT32_MAX, best = UINT32_MAX;
        for (uint32_t i = 0; i < count; i++)
            if (!done[i] && (next == UINT32_MAX || length[i] > length[next]))
                next = i;
        done[next] = true;
        for (uint32_t row = 0; row < rows; row++)
            if (space[row] >= length[next] && (best == UINT32_MAX || space[row] < space[best] ||
                                               (space[row] == space[best] && since[row] < since[best])))
                best = row;
        if (best == UINT32_MAX) {
            best = rows++;
            space[best] = capacity;
            used[best] = 0;
        }
        space[best] -= length[next];
        since[best] = turn;
        row_of[next] = best;
        place_of[next] = used[best]++;
    }
    return rows;
}

static void packing_equals_the_brute_force_definition(void **state)
{
    struct mt19937 mt;
    static uint32_t length[PACK_WINDOW], row_of[PACK_WINDOW], place_of[PACK_WINDOW];

    mt19937_seed(&mt, 20260131);
    for (int round = 0; round < 60; round++) {
        struct arena arena = {0};
        uint32_t count = 1 + mt19937_next(&mt) % (round < 58 ? 120 : PACK_WINDOW),
                 capacity = 4 + mt19937_next(&mt) % 60;
        struct rows rows;
        for (uint32_t i = 0; i < count; i++)
            length[i] = 1 + mt19937_next(&mt) % capacity;
        rows = pack_best_fit(&arena, length, count, capacity);
        assert_int_equal(rows.row_count, brute_force(length, count, capacity, row_of, place_of));
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(rows.example[rows.start[row_of[i]] + place_of[i]], i);
        arena_deinit(&arena);
    }
}

static void no_row_spans_two_windows(void **state)
{
    struct arena arena = {0};
    static uint32_t length[2 * PACK_WINDOW + 3];
    struct rows rows;

    for (uint32_t i = 0; i < 2 * PACK_WINDOW + 3; i++)
        length[i] = 1;
    rows = pack_best_fit(&arena, length, 2 * PACK_WINDOW + 3, 600);
    assert_int_equal(rows.row_count, 5);
    assert_int_equal(rows.start[2], 1000);
    assert_int_equal(rows.example[rows.start[2]], 1000);
    assert_int_equal(rows.start[5], 2003);
    arena_deinit(&arena);
}

static void without_packing_each_example_or_pair_is_a_row(void **state)
{
    struct arena arena = {0};
    struct rows rows = pack_single(&arena, 3, 1);

    expect_rows(&rows, "0 | 1 | 2 | ");
    rows = pack_single(&arena, 4, 2);
    expect_rows(&rows, "0 1 | 2 3 | ");
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_go_where_trl_puts_them),
        cmocka_unit_test(packing_equals_the_brute_force_definition),
        cmocka_unit_test(no_row_spans_two_windows),
        cmocka_unit_test(without_packing_each_example_or_pair_is_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
