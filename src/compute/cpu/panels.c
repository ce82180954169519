/* Weights in panels before any product asks: what product.c packs for each task, once for all.
 *
 * Panel after panel of PANEL columns, each [steps][width] words; the last is as wide as panel_width says. A whole panel
 * takes what its rows took, so a matrix without gaps is laid out in place. */
#include "base/arena.h"
#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"

#include <stdlib.h>

static bool is_bf16(const struct mat *w)
{
    return HAS_BF16_PRODUCTS && w->type == DTYPE_BF16;
}

/* Elements widened on the way would take more room than they are worth, and half a step has no place of its own. */
size_t CPU(panel_bytes)(const struct mat *w)
{
    int32_t rest = w->rows % PANEL;
    size_t steps = (size_t)step_count(w->cols, is_bf16(w));

    if (w->type != DTYPE_F32 && (!is_bf16(w) || w->cols % 2))
        return 0;
    return 4 * steps * ((size_t)(w->rows - rest) + (size_t)(rest ? panel_width(rest) : 0));
}

struct layout {
    const struct mat *w;
    char *to;
    uint32_t *room; /* a panel for each thread */
    size_t panel_words;
};

static void lay_out_task(void *context, int task, int thread)
{
    const struct layout *layout = context;
    const struct mat *w = layout->w;
    uint32_t *room = layout->room + (size_t)thread * layout->panel_words;
    struct part part = {task * PANEL, smaller(PANEL, w->rows - task * PANEL), 0, w->cols};
    size_t width = (size_t)panel_width(part.count), steps = (size_t)step_count(w->cols, is_bf16(w));

    pack_panel(&(struct side){.m = *w}, is_bf16(w), part, room, (int32_t)width);
    memcpy(layout->to + 4 * layout->panel_words * (size_t)task, room, 4 * steps * width);
}

/* In place a panel that widens what it takes would write over the next: only the last does, and it has none. */
void CPU(lay_out)(struct queue *queue, const struct mat *w, void *to)
{
    size_t panel_words = (size_t)step_count(w->cols, is_bf16(w)) * PANEL;
    struct layout layout = {.w = w, .to = to, .panel_words = panel_words};

    layout.room = mem_alloc(4 * panel_words * (size_t)pool_thread_count(queue->pool));
    pool_run(queue->pool, ceil_div(w->rows, PANEL), lay_out_task, &layout);
    free(layout.room);
}
