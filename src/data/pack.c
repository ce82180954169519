#include "data/pack.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

struct item {
    uint32_t length, index; /* index in the window */
};

/* An open row of a window. */
struct bin {
    uint32_t space, row;
};

struct window {
    struct item item[PACK_WINDOW];
    struct bin open[PACK_WINDOW]; /* sorted by space; among equals, the one that came first is first */
    uint32_t row_of[PACK_WINDOW], place_of[PACK_WINDOW]; /* per item in order of placement */
    uint32_t row_examples[PACK_WINDOW];
    uint32_t open_count, row_count;
};

static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->length != y->length)
        return x->length > y->length ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* First open row with at least this space. */
static uint32_t find_space(const struct window *w, uint32_t space)
{
    uint32_t low = 0, high = w->open_count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (w->open[middle].space < space)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void open_insert(struct window *w, struct bin bin)
{
    uint32_t at = find_space(w, bin.space + 1); /* behind its equals: it came last */

    memmove(w->open + at + 1, w->open + at, (w->open_count - at) * sizeof *w->open);
    w->open[at] = bin;
    w->open_count++;
}

static struct bin open_take(struct window *w, uint32_t at)
{
    struct bin bin = w->open[at];

    w->open_count--;
    memmove(w->open + at, w->open + at + 1, (w->open_count - at) * sizeof *w->open);
    return bin;
}

static void fill_window(struct window *w, const uint32_t *length, uint32_t count, uint32_t capacity)
{
    w->open_count = w->row_count = 0;
    for (uint32_t i = 0; i < count; i++)
        w->item[i] = (struct item){length[i] < capacity ? length[i] : capacity, i};
    qsort(w->item, count, sizeof *w->item, compare_items);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t need = w->item[i].length, at = find_space(w, need);
        struct bin bin = {.space = capacity, .row = w->row_count};

        ASSERT(need > 0);
        if (at < w->open_count)
            bin = open_take(w, at);
        else
            w->row_examples[w->row_count++] = 0;
        w->row_of[i] = bin.row;
        w->place_of[i] = w->row_examples[bin.row]++;
        bin.space -= need;
        if (bin.space > 0)
            open_insert(w, bin);
    }
}

/* Rows of the window behind those that are there. */
static void add_rows(struct rows *rows, const struct window *w, uint32_t first, uint32_t count)
{
    uint32_t base = rows->row_count;

    for (uint32_t row = 0; row < w->row_count; row++)
        rows->start[base + row + 1] = rows->start[base + row] + w->row_examples[row];
    for (uint32_t i = 0; i < count; i++)
        rows->example[rows->start[base + w->row_of[i]] + w->place_of[i]] = first + w->item[i].index;
    rows->row_count += w->row_count;
}

struct rows pack_best_fit(struct arena *arena, const uint32_t *length, uint32_t count, uint32_t capacity)
{
    struct window *w = mem_alloc(sizeof *w);
    struct rows rows = {.example_count = count};

    rows.example = arena_new_array(arena, uint32_t, count);
    rows.start = arena_new_array(arena, uint32_t, (size_t)count + 1);
    for (uint32_t first = 0; first < count; first += PACK_WINDOW) {
        uint32_t part = count - first < PACK_WINDOW ? count - first : PACK_WINDOW;
        fill_window(w, length + first, part, capacity);
        add_rows(&rows, w, first, part);
    }
    free(w);
    return rows;
}

struct rows pack_single(struct arena *arena, uint32_t count, uint32_t together)
{
    struct rows rows = {.example_count = count, .row_count = count / together};

    rows.example = arena_new_array(arena, uint32_t, count);
    rows.start = arena_new_array(arena, uint32_t, (size_t)rows.row_count + 1);
    for (uint32_t i = 0; i < count; i++)
        rows.example[i] = i;
    for (uint32_t row = 0; row <= rows.row_count; row++)
        rows.start[row] = row * together;
    return rows;
}
