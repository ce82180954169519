#include "compute/cpu/tiles.h"
#include "compute/cpu/brick_end.h"

#if defined(__AMX_BF16__) || defined(__AMXBF16__)

enum { END_ROWS = 4 };

/* Tiles 0 to 3 are sums, 4 and 5 rows of A, the others columns of B. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* How many rows the tiles of this thread are made for; 0: none are. Nobody else uses tiles, and who forks runs another
 * program next: a child would have none. */
static _Thread_local int made_for;

/* Tiles of the last rows, where there are more than 16 the lower ones, have no others. */
static void make_tiles(int count)
{
    struct tile_config config = {.palette = 1};

    if (made_for == count)
        return;
    for (int tile = 0; tile < 8; tile++) {
        bool is_last = count > TILE_ROWS ? tile == 2 || tile == 3 || tile == 5 : tile < 2 || tile == 4;
        config.row_bytes[tile] = 64;
        config.rows[tile] = (uint8_t)(is_last ? (count - 1) % TILE_ROWS + 1 : TILE_ROWS);
    }
    _tile_loadconfig(&config);
    made_for = count;
}

/* What was written is in memory: the compiler does not know that tiles are read from there. */
INLINE void settle(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Tiles of A and B at the same k; rows in bytes apart. */
struct operands {
    const char *a, *b;
    size_t a_row, a_tile, a_block, b_row;
};

/* The steps behind the last whole block, with zeros to its end. */
struct last_block {
    _Alignas(64) uint32_t a[BRICK_ROWS][TILE_STEPS];
    _Alignas(64) uint32_t b[TILE_STEPS][PANEL];
};

static struct operands copy_last(struct last_block *last, const struct brick *brick, struct operands at, int count)
{
    int32_t steps = brick->steps % TILE_STEPS;
    __mmask16 there = (__mmask16)((1u << steps) - 1), right = brick->b_width > LANES ? (__mmask16)-1 : 0;

    for (int i = 0; i < count; i++) {
        const char *from = at.a + (size_t)(i / TILE_ROWS) * at.a_tile + (size_t)(i % TILE_ROWS) * at.a_row;
        _mm512_store_si512(last->a[i], _mm512_maskz_loadu_epi32(there, from));
    }
    for (int32_t step = 0; step < TILE_STEPS; step++) {
        __mmask16 is_there = step < steps ? (__mmask16)-1 : 0;
        const char *from = at.b + (size_t)step * at.b_row;
        _mm512_store_si512(last->b[step], _mm512_maskz_loadu_epi32(is_there, from));
        _mm512_store_si512(last->b[step] + LANES, _mm512_maskz_loadu_epi32(is_there & right, from + 64));
    }
    return (struct operands){(const char *)last->a, (const char *)last->b, sizeof *last->a, TILE_ROWS * sizeof *last->a,
                             0, sizeof *last->b};
}

/* Up to 16 rows, or 17 to 32 where has_below; 16 columns, or 32 where has_right. */
INLINE void add_block(struct operands at, bool has_below, bool has_right)
{
    _tile_loadd(4, at.a, at.a_row);
    _tile_loadd(6, at.b, at.b_row);
    _tile_dpbf16ps(0, 4, 6);
    if (has_right) {
        _tile_loadd(7, at.b + 64, at.b_row);
        _tile_dpbf16ps(1, 4, 7);
    }
    if (has_below) {
        _tile_loadd(5, at.a + at.a_tile, at.a_row);
        _tile_dpbf16ps(2, 5, 6);
    }
    if (has_below && has_right)
        _tile_dpbf16ps(3, 5, 7);
}

INLINE void load_sums(float *c, float *below, size_t c_row, bool has_below, bool has_right)
{
    _tile_loadd(0, c, c_row);
    if (has_right)
        _tile_loadd(1, c + LANES, c_row);
    if (has_below)
        _tile_loadd(2, below, c_row);
    if (has_below && has_right)
        _tile_loadd(3, below + LANES, c_row);
}

INLINE void store_sums(float *c, float *below, size_t c_row, bool has_below, bool has_right)
{
    _tile_stored(0, c, c_row);
    if (has_right)
        _tile_stored(1, c + LANES, c_row);
    if (has_below)
        _tile_stored(2, below, c_row);
    if (has_below && has_right)
        _tile_stored(3, below + LANES, c_row);
}

static void clear_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void run_shaped(const struct brick *brick, struct operands at, const struct operands *last, bool has_below,
                       bool has_right)
{
    float *below = brick->c + TILE_ROWS * brick->c_ld;
    size_t c_row = brick->c_ld * sizeof *brick->c, b_block = TILE_STEPS * at.b_row;

    if (brick->is_added)
        load_sums(brick->c, below, c_row, has_below, has_right);
    else
        clear_sums();
    for (int32_t block = brick->steps / TILE_STEPS; block > 0; block--) {
        add_block(at, has_below, has_right);
        at.a += at.a_block;
        at.b += b_block;
    }
    if (last)
        add_block(*last, has_below, has_right);
    store_sums(brick->c, below, c_row, has_below, has_right);
}

/* Takes a few rows of sums at a time from c to where they go. */
INLINE void end_rows(const struct brick *brick, int vectors)
{
    struct brick_end end = *brick->end;

    for (int row = 0; row < BRICK_ROWS; row += END_ROWS) {
        lanes sum[END_ROWS][PANEL_VECTORS];
        UNROLL for (int i = 0; i < END_ROWS; i++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] = lanes_load(brick->c + (size_t)(row + i) * brick->c_ld + v * LANES);
        brick_end(&end, sum, END_ROWS, vectors);
        end.y.at = (char *)end.y.at + END_ROWS * end.y_row;
        end.add.at = end.add.at ? (char *)end.add.at + END_ROWS * end.add_row : NULL;
    }
}

void CPU(tiles_run)(const struct brick *brick, int count)
{
    struct operands at = {brick->a, (const char *)brick->b, brick->a_row,
                          brick->a_tile ? brick->a_tile : TILE_ROWS * brick->a_row,
                          brick->a_block ? brick->a_block : 4 * TILE_STEPS, 4 * (size_t)brick->b_width};
    struct operands rest;
    const struct operands *last = NULL;
    struct last_block room;

    if (brick->steps % TILE_STEPS) {
        size_t blocks = (size_t)(brick->steps / TILE_STEPS);
        rest = at;
        rest.a += blocks * at.a_block;
        rest.b += blocks * TILE_STEPS * at.b_row;
        rest = copy_last(&room, brick, rest, count);
        last = &rest;
    }
    settle();
    make_tiles(count);
    if (count > TILE_ROWS && brick->b_width > LANES)
        run_shaped(brick, at, last, true, true);
    else if (count > TILE_ROWS)
        run_shaped(brick, at, last, true, false);
    else if (brick->b_width > LANES)
        run_shaped(brick, at, last, false, true);
    else
        run_shaped(brick, at, last, false, false);
    if (brick->end && brick->b_width > LANES)
        end_rows(brick, PANEL_VECTORS);
    else if (brick->end)
        end_rows(brick, 1);
}

/* Nothing is read from memory in the loop. The tiles hold numbers: zeros take less power, and so less time. */
double CPU(tiles_peak)(int64_t repeats)
{
    enum { COUNT = 2 * TILE_ROWS * TILE_STEPS, ROW = 4 * TILE_STEPS };
    _Alignas(64) uint16_t numbers[2 * COUNT];
    float sum;

    for (size_t i = 0; i < 2 * COUNT; i++)
        numbers[i] = bf16_from_f32((float)(i * 2654435761u % 1021) / 1021 - 0.5f);
    settle();
    make_tiles(BRICK_ROWS);
    _tile_loadd(4, numbers, ROW);
    _tile_loadd(5, numbers + COUNT, ROW);
    _tile_loadd(6, numbers + COUNT, ROW);
    _tile_loadd(7, numbers, ROW);
    clear_sums();
    for (int64_t repeat = 0; repeat < repeats; repeat++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, numbers, ROW);
    memcpy(&sum, numbers, sizeof sum);
    return (double)sum;
}

#else

void CPU(tiles_run)(const struct brick *brick, int count)
{
    ASSERT(!"this path has no tiles");
}

double CPU(tiles_peak)(int64_t repeats)
{
    return 0;
}
#endif
