#include "compute/cpu/brick.h"
#include "compute/cpu/brick_end.h"
#include "compute/cpu/tiles.h"

enum { HALF_ROWS = 6 }; /* fewer have a case each */

INLINE lanes multiply_add(lanes sum, lanes_u a, lanes_u b, bool is_bf16)
{
#if defined(__AVX512BF16__)
    if (is_bf16)
        return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + (lanes)a * (lanes)b;
}

INLINE void fetch_row(struct row row, size_t row_bytes, int32_t i, int vectors)
{
    const char *at = (const char *)row.at + (size_t)i * row_bytes;
    int bytes = vectors * LANES * (row.type == DTYPE_BF16 ? 2 : 4);

    for (int byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch(at + byte, 1);
}

/* Asks for a row that the sums will meet. */
INLINE void brick_fetch(const struct brick_end *end, int32_t i, int vectors)
{
    fetch_row(end->y, end->y_row, i, vectors);
    if (end->add.at && end->add.at != end->y.at)
        fetch_row(end->add, end->add_row, i, vectors);
}

/* k runs in as many stretches as there are rows, so that the requests for what the sums will meet do not come all at
 * once: the panel's own lines would wait behind them. */
INLINE void brick_shaped(const struct brick *brick, int rows, int vectors, bool is_bf16)
{
    lanes sum[VECTOR_ROWS][PANEL_VECTORS];
    const char *a = brick->a;
    const uint32_t *b = brick->b;
    const size_t a_row = brick->a_row, a_step = brick->a_step;
    const struct brick_end *end = rows == VECTOR_ROWS ? brick->end : NULL;
    int32_t stretch = end && brick->steps > rows ? brick->steps / rows : brick->steps;

    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = brick->is_added ? lanes_load(brick->c + (size_t)i * brick->c_ld + v * LANES) : (lanes){0};
    for (int32_t left = brick->steps, row = 0; left > 0; left -= stretch, row++) {
        if (end && row < VECTOR_ROWS)
            brick_fetch(end, row, vectors);
        for (int32_t step = left < stretch ? left : stretch; step > 0; step--) {
            lanes_u panel[PANEL_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++)
                panel[v] = (lanes_u)lanes_load((const float *)b + v * LANES);
            UNROLL for (int i = 0; i < rows; i++) {
                uint32_t word;
                memcpy(&word, a + (size_t)i * a_row, sizeof word);
                UNROLL for (int v = 0; v < vectors; v++)
                    sum[i][v] = multiply_add(sum[i][v], word - (lanes_u){0}, panel[v], is_bf16);
            }
            a += a_step;
            b += vectors * LANES;
        }
    }
    if (end) {
        brick_end(end, sum, VECTOR_ROWS, vectors);
        return;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            lanes_store(brick->c + (size_t)i * brick->c_ld + v * LANES, sum[i][v]);
}

INLINE void brick_of_rows(const struct brick *brick, int rows, bool is_bf16)
{
    switch (brick->b_width / LANES) {
    case 1:
        brick_shaped(brick, rows, 1, is_bf16);
        break;
    case 2:
        brick_shaped(brick, rows, 2, is_bf16);
        break;
    case 3:
        brick_shaped(brick, rows, PANEL_VECTORS < 3 ? PANEL_VECTORS : 3, is_bf16);
        break;
    default:
        brick_shaped(brick, rows, PANEL_VECTORS, is_bf16);
    }
}

INLINE void brick_of_type(const struct brick *brick, int rows, bool is_bf16)
{
    if ((int)HALF_ROWS < (int)VECTOR_ROWS && rows == HALF_ROWS) {
        brick_of_rows(brick, HALF_ROWS, is_bf16);
        return;
    }
    switch (rows) {
#define BRICK_CASE(count)                                                                                              \
    case count:                                                                                                        \
        brick_of_rows(brick, count, is_bf16);                                                                          \
        break;
        BRICK_CASE(1) BRICK_CASE(2) BRICK_CASE(3) BRICK_CASE(4) BRICK_CASE(5)
#undef BRICK_CASE
    default:
        brick_of_rows(brick, VECTOR_ROWS, is_bf16);
    }
}

/* Every chain starts from another number, so that no two of them are the same work. */
INLINE double peak_loop(int64_t repeats, bool is_bf16)
{
    lanes sum[VECTOR_ROWS][PANEL_VECTORS];
    lanes_u a = (lanes_u)lanes_all(1e-3f), b = (lanes_u)lanes_all(1e-3f);
    double total = 0;

    UNROLL for (int i = 0; i < VECTOR_ROWS; i++)
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++)
            sum[i][v] = lanes_all((float)(i * PANEL_VECTORS + v));
    for (int64_t repeat = 0; repeat < repeats; repeat++)
        UNROLL for (int i = 0; i < VECTOR_ROWS; i++)
            UNROLL for (int v = 0; v < PANEL_VECTORS; v++)
                sum[i][v] = multiply_add(sum[i][v], a, b, is_bf16);
    UNROLL for (int i = 0; i < VECTOR_ROWS; i++)
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++)
            total += (double)lanes_sum(sum[i][v]);
    return total;
}

void CPU(brick_f32)(const struct brick *brick, int count)
{
    struct brick part = *brick;

    for (int rows; count > 0; count -= rows) {
        rows = count >= VECTOR_ROWS ? VECTOR_ROWS : count >= HALF_ROWS ? HALF_ROWS : count;
        brick_of_type(&part, rows, false);
        part.a += (size_t)rows * part.a_row;
        part.c += (size_t)rows * part.c_ld;
    }
}

void CPU(brick_bf16)(const struct brick *brick, int count)
{
    if (HAS_TILES)
        CPU(tiles_run)(brick, count);
    else
        brick_of_type(brick, count, HAS_BF16_PRODUCTS);
}

/* All accumulators of a brick at once, nothing read from memory. */
double CPU(peak_block)(bool is_bf16, int64_t repeats)
{
    if (HAS_TILES && is_bf16)
        return CPU(tiles_peak)(repeats);
    return is_bf16 ? peak_loop(repeats, HAS_BF16_PRODUCTS) : peak_loop(repeats, false);
}
