/* compute/cpu/tile.h - what attention and its gradient share: tiles of 64 keys or queries, packed for the brick, and
 * which pairs of a tile see each other. */
#pragma once

#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"

enum { TILE = 64 };

struct tile_shape {
    int32_t d, d_steps, d_wide; /* head size; in words along k; in panels */
    bool is_bf16;
};

/* Whole panels, and one as wide as the rest needs. */
INLINE int32_t tile_width(int32_t d)
{
    return d / PANEL * PANEL + (d % PANEL ? panel_width(d % PANEL) : 0);
}

/* The width of the panel that begins at a column. */
INLINE int32_t tile_panel(int32_t width, int32_t col)
{
    return smaller(PANEL, width - col);
}

/* Products in tile registers go along k in whole blocks: the last of a head size has zeros to its end. */
INLINE struct tile_shape tile_shape(int32_t head_dim, bool is_bf16)
{
    int32_t steps = step_count(head_dim, is_bf16);

    if (HAS_TILES && is_bf16)
        steps = ceil_div(steps, TILE_STEPS) * TILE_STEPS;
    return (struct tile_shape){head_dim, steps, tile_width(head_dim), is_bf16};
}

INLINE struct mat tile_mat(const struct mat *m, int32_t row, int32_t col, int32_t rows, int32_t cols)
{
    return (struct mat){row_of(m, row, col).at, rows, cols, m->ld, m->type};
}

/* Packs all panels of `width` columns, [steps][width] each, one behind the other; zeros where there is nothing. */
static inline void tile_pack(const struct side *side, bool is_bf16, struct part part, uint32_t *to, int32_t steps,
                             int32_t width)
{
    int32_t there = step_count(part.k_count, is_bf16), end = part.i + part.count;

    for (int32_t col = 0; col < width; col += PANEL, part.i += PANEL) {
        int32_t panel = tile_panel(width, col);
        part.count = part.i < end ? smaller(panel, end - part.i) : 0;
        pack_panel(side, is_bf16, part, to, panel);
        memset(to + there * panel, 0, 4 * (size_t)(steps - there) * (size_t)panel);
        to += steps * panel;
    }
}

/* A tile of rows whose products run over the head size, [d_steps][TILE]; and one of rows that products sum over,
 * [steps][d_wide]. */
static inline void tile_pack_across(const struct side *side, const struct tile_shape *shape, int32_t first,
                                    int32_t count, uint32_t *to)
{
    tile_pack(side, shape->is_bf16, (struct part){first, count, 0, shape->d}, to, shape->d_steps, TILE);
}

static inline void tile_pack_down(const struct side *side, const struct tile_shape *shape, int32_t first, int32_t count,
                                  uint32_t *to)
{
    tile_pack(side, shape->is_bf16, (struct part){0, shape->d, first, count}, to, step_count(count, shape->is_bf16),
              shape->d_wide);
}

/* c (+)= A·tile with the A and the number of steps of a brick; of a packed tile
 * [tile_steps][width], the steps from `first` on. */
static inline void tile_multiply(struct brick brick, bool is_bf16, int32_t rows, const uint32_t *tile,
                                 int32_t tile_steps, int32_t first, int32_t width, float *c)
{
    brick.c_ld = (size_t)width;
    for (int32_t col = 0; col < width; col += PANEL) {
        brick.b_width = tile_panel(width, col);
        brick.b = tile + (size_t)col * (size_t)tile_steps + (size_t)first * (size_t)brick.b_width;
        brick.c = c + col;
        brick_run(&brick, rows, is_bf16);
    }
}

/* scores [rows, TILE] = a·tile, both over the head size; a is packed. */
static inline void tile_scores(const struct tile_shape *shape, const uint32_t *a, int32_t rows, const uint32_t *tile,
                               float *scores)
{
    struct brick brick = {.a = (const char *)a, .a_row = 4 * (size_t)shape->d_steps, .a_step = 4,
                          .steps = shape->d_steps};

    tile_multiply(brick, shape->is_bf16, rows, tile, shape->d_steps, 0, TILE, scores);
}

/* The elements [begin, end) of a tile that a row sees; end 0: none. */
struct span {
    int32_t begin, end;
};

INLINE struct span span_clip(int32_t begin, int32_t end, int32_t tile, int32_t count)
{
    begin = begin > tile ? begin - tile : 0;
    end = smaller(end - tile, count);
    return begin < end ? (struct span){begin, end} : (struct span){0, 0};
}

/* Keys that the query at a position sees: up to itself, at most `window` of them. */
INLINE struct span span_of_query(int32_t position, int32_t window, int32_t tile, int32_t count)
{
    return span_clip(window > 0 ? position - window + 1 : 0, position + 1, tile, count);
}

/* Queries that see the key at a position. */
INLINE struct span span_of_key(int32_t position, int32_t window, int32_t tile, int32_t count)
{
    return span_clip(position, window > 0 ? position + window : INT32_MAX, tile, count);
}

/* What either of two spans has. */
INLINE struct span span_join(struct span a, struct span b)
{
    if (a.end == 0 || b.end == 0)
        return a.end == 0 ? b : a;
    return (struct span){smaller(a.begin, b.begin), a.end > b.end ? a.end : b.end};
}

/* The step at which products over k that is zero before `begin` may start. */
INLINE int32_t first_step(int32_t begin, bool is_bf16)
{
    int32_t step = begin / (is_bf16 ? 2 : 1);

    return HAS_TILES && is_bf16 ? step / TILE_STEPS * TILE_STEPS : step;
}

/* to [rows, d_wide] += p·tile, a tile of `count` keys or queries; p is [rows][TILE] in operand type, with zeros outside
 * of `seen`, which take no time. */
static inline void tile_sum(const struct tile_shape *shape, const uint32_t *p, int32_t rows, struct span seen,
                            int32_t count, const uint32_t *tile, float *to)
{
    int32_t first = first_step(seen.begin, shape->is_bf16);
    struct brick brick = {.a = (const char *)(p + first), .a_row = 4 * (size_t)step_count(TILE, shape->is_bf16),
                          .a_step = 4, .steps = step_count(seen.end, shape->is_bf16) - first, .is_added = true};

    tile_multiply(brick, shape->is_bf16, rows, tile, step_count(count, shape->is_bf16), first, shape->d_wide, to);
}

/* value where lane j + i lies in the span, else other. */
INLINE lanes span_select(struct span span, int32_t j, lanes value, lanes other)
{
    lanes_i index;

    if (span.begin <= j && j + LANES <= span.end)
        return value;
    UNROLL for (int i = 0; i < LANES; i++)
        index[i] = j + i;
    return lanes_select((index >= span.begin) & (index < span.end), value, other);
}

/* A scaled score, capped where there is a cap, and by how much it moves with the scaled one. */
struct score {
    lanes value, slope;
};

INLINE struct score score_capped(lanes scaled, float softcap)
{
    lanes t;

    if (softcap <= 0)
        return (struct score){scaled, lanes_all(1)};
    t = lanes_tanh(scaled * (1 / softcap));
    return (struct score){softcap * t, 1 - t * t};
}

/* What the gradient of a row of scores needs beside them; for the row (stride 0) or for each element (stride 1). */
struct slopes {
    const float *lse, *delta;
    int stride;
};

/* A row of scores and of dp becomes p and dscore. */
INLINE void tile_slopes(const float *scores, const float *dp, float scale, float softcap, struct span span,
                        struct slopes at, struct row p, struct row dscore)
{
    UNROLL for (int32_t j = 0; j < TILE; j += LANES) {
        lanes lse = at.stride ? row_load((struct row){(float *)at.lse, DTYPE_F32}, j, span.end) : lanes_all(*at.lse);
        lanes delta =
            at.stride ? row_load((struct row){(float *)at.delta, DTYPE_F32}, j, span.end) : lanes_all(*at.delta);
        struct score score = score_capped(lanes_load(scores + j) * scale, softcap);
        lanes probability = span_select(span, j, lanes_exp(score.value - lse), (lanes){0});

        row_store(p, j, TILE, probability);
        row_store(dscore, j, TILE, scale * probability * (lanes_load(dp + j) - delta) * score.slope);
    }
}

/* Blocks of rows of all documents, numbered through. */
struct document_block {
    int32_t document, first, count;
};

INLINE int32_t document_rows(const struct batch *batch, int32_t document)
{
    return batch->cu_seqlens[document + 1] - batch->cu_seqlens[document];
}

INLINE int32_t document_block_count(const struct batch *batch, int32_t block_rows)
{
    int32_t count = 0;

    for (int32_t document = 0; document < batch->doc_count; document++)
        count += ceil_div(document_rows(batch, document), block_rows);
    return count;
}

INLINE struct document_block document_block(const struct batch *batch, int32_t index, int32_t block_rows)
{
    int32_t document = 0, blocks;

    for (; index >= (blocks = ceil_div(document_rows(batch, document), block_rows)); document++)
        index -= blocks;
    return (struct document_block){document, index * block_rows,
                                   smaller(block_rows, document_rows(batch, document) - index * block_rows)};
}
