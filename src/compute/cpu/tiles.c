#include "compute/cpu/tiles.h"

#if defined(__AMX_BF16__) || defined(__AMXBF16__)

/* Tiles 0 to 3 are sums, 4 and 5 rows of A, the others columns of B. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* How many rows the tiles of this thread are made for; 0: none are. */
static _Thread_local int made_for;

/* Of more than 16 rows sums lie 2 by 2, else side by side; a tile of the last rows has no others. */
static void make_tiles(int count)
{
    struct tile_config config = {.palette = 1};

    if (made_for == count)
        return;
    for (int tile = 0; tile < 8; tile++) {
        bool is_last = count > TILE_ROWS ? tile == 2 || tile == 3 || tile == 5 : tile < 5;
        config.row_bytes[tile] = 64;
        config.rows[tile] = (uint8_t)(is_last ? (count - 1) % TILE_ROWS + 1 : TILE_ROWS);
    }
    _tile_loadconfig(&config);
    made_for = count;
}

/* The compiler does not know that tiles are read from memory. */
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
    uint32_t a[BRICK_ROWS][TILE_STEPS], b[TILE_STEPS][PANEL];
};

static struct operands copy_last(struct last_block *last, const struct brick *brick, struct operands at, int count)
{
    int32_t steps = brick->steps % TILE_STEPS;

    memset(last, 0, sizeof *last);
    for (int i = 0; i < count; i++)
        memcpy(last->a[i], at.a + (size_t)(i / TILE_ROWS) * at.a_tile + (size_t)(i % TILE_ROWS) * at.a_row,
               4 * (size_t)steps);
    for (int32_t step = 0; step < steps; step++)
        memcpy(last->b[step], at.b + (size_t)step * at.b_row, at.b_row);
    return (struct operands){(const char *)last->a, (const char *)last->b, sizeof *last->a, TILE_ROWS * sizeof *last->a,
                             0, sizeof *last->b};
}

INLINE void square_block(struct operands at, bool has_right)
{
    _tile_loadd(4, at.a, at.a_row);
    _tile_loadd(6, at.b, at.b_row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, at.a + at.a_tile, at.a_row);
    _tile_dpbf16ps(2, 5, 6);
    if (!has_right)
        return;
    _tile_loadd(7, at.b + 64, at.b_row);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
}

/* 17 to 32 rows by 16 or 32 columns from `col` on. */
INLINE void square(const struct brick *brick, struct operands at, const struct operands *last, int32_t col,
                   bool has_right)
{
    float *c = brick->c + col, *below = c + TILE_ROWS * brick->c_ld;
    size_t c_row = brick->c_ld * sizeof *c, b_block = TILE_STEPS * at.b_row;

    at.b += 4 * col;
    if (brick->is_added) {
        _tile_loadd(0, c, c_row);
        _tile_loadd(2, below, c_row);
        if (has_right) {
            _tile_loadd(1, c + 16, c_row);
            _tile_loadd(3, below + 16, c_row);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int32_t block = brick->steps / TILE_STEPS; block > 0; block--) {
        square_block(at, has_right);
        at.a += at.a_block;
        at.b += b_block;
    }
    if (last) {
        struct operands rest = *last;
        rest.b += 4 * col;
        square_block(rest, has_right);
    }
    _tile_stored(0, c, c_row);
    _tile_stored(2, below, c_row);
    if (has_right) {
        _tile_stored(1, c + 16, c_row);
        _tile_stored(3, below + 16, c_row);
    }
}

INLINE void line_block(struct operands at, int vectors)
{
    _tile_loadd(4, at.a, at.a_row);
    _tile_loadd(5, at.b, at.b_row);
    _tile_dpbf16ps(0, 4, 5);
    if (vectors > 1) {
        _tile_loadd(6, at.b + 64, at.b_row);
        _tile_dpbf16ps(1, 4, 6);
    }
    if (vectors > 2) {
        _tile_loadd(7, at.b + 128, at.b_row);
        _tile_dpbf16ps(2, 4, 7);
    }
    if (vectors > 3) {
        _tile_loadd(5, at.b + 192, at.b_row);
        _tile_dpbf16ps(3, 4, 5);
    }
}

/* Up to 16 rows by all columns. */
INLINE void line(const struct brick *brick, struct operands at, const struct operands *last, int vectors)
{
    float *c = brick->c;
    size_t c_row = brick->c_ld * sizeof *c, b_block = TILE_STEPS * at.b_row;

    if (brick->is_added) {
        _tile_loadd(0, c, c_row);
        if (vectors > 1)
            _tile_loadd(1, c + 16, c_row);
        if (vectors > 2)
            _tile_loadd(2, c + 32, c_row);
        if (vectors > 3)
            _tile_loadd(3, c + 48, c_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int32_t block = brick->steps / TILE_STEPS; block > 0; block--) {
        line_block(at, vectors);
        at.a += at.a_block;
        at.b += b_block;
    }
    if (last)
        line_block(*last, vectors);
    _tile_stored(0, c, c_row);
    if (vectors > 1)
        _tile_stored(1, c + 16, c_row);
    if (vectors > 2)
        _tile_stored(2, c + 32, c_row);
    if (vectors > 3)
        _tile_stored(3, c + 48, c_row);
}

static void line_of_width(const struct brick *brick, struct operands at, const struct operands *last)
{
    switch (brick->b_width / LANES) {
    case 1:
        line(brick, at, last, 1);
        break;
    case 2:
        line(brick, at, last, 2);
        break;
    case 3:
        line(brick, at, last, 3);
        break;
    default:
        line(brick, at, last, 4);
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
    if (count <= TILE_ROWS) {
        line_of_width(brick, at, last);
        return;
    }
    for (int32_t col = 0; col < brick->b_width; col += 2 * LANES)
        if (brick->b_width - col >= 2 * LANES)
            square(brick, at, last, col, true);
        else
            square(brick, at, last, col, false);
}

/* Nothing is read from memory. The tiles hold zeros: what they hold takes no part in how long it takes. */
double CPU(tiles_peak)(int64_t repeats)
{
    make_tiles(BRICK_ROWS);
    for (int64_t repeat = 0; repeat < repeats; repeat++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    return 0;
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
