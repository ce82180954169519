/* Moments in bytes: the map's entries, and a step beside one worked out here from the papers' formulas. */
#include "test.h"
#include "eight_bit_goldens.h"

#include "compute/backend.h"
#include "compute/eight_bit.h"

#include <math.h>
#include <stdlib.h>

static void expect_near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("%.9g is not %.9g", got, want);
}

/* The optimizer over COUNTS_MAX elements or fewer, beginning with moments of zero. */
enum { COUNTS_MAX = 700, SCALES_MAX = (COUNTS_MAX + EIGHT_BIT_BLOCK - 1) / EIGHT_BIT_BLOCK };
struct state {
    float weight[COUNTS_MAX], grad[COUNTS_MAX], m_scale[SCALES_MAX], v_scale[SCALES_MAX];
    uint8_t m[COUNTS_MAX], v[COUNTS_MAX];
    double sumsq;
};

static struct op_adamw state_begin(struct state *state, uint64_t count, float weight, float lr, float eps)
{
    *state = (struct state){.sumsq = 1};
    for (uint64_t i = 0; i < count; i++)
        state->weight[i] = weight;
    return (struct op_adamw){.master = state->weight, .m = state->m, .v = state->v, .m_scale = state->m_scale,
                             .v_scale = state->v_scale, .grad = state->grad, .moment_type = DTYPE_U8, .count = count,
                             .sumsq = &state->sumsq, .lr = lr, .beta1 = 0.9f, .beta2 = 0.999f, .eps = eps, .step = 1};
}

static void the_map_is_symmetric_and_has_seven_decades(void **state)
{
    float m[EIGHT_BIT_CODES], v[EIGHT_BIT_CODES], edge[EIGHT_BIT_CODES];

    eight_bit_map(true, m);
    eight_bit_map(false, v);
    for (int i = 0; i + 1 < EIGHT_BIT_CODES; i++)
        assert_true(m[i] < m[i + 1] && v[i] < v[i + 1]);
    assert_true(m[127] == 0 && v[0] == 0 && m[255] == 1 && v[255] == 1);
    for (int i = 1; i <= 127; i++)
        assert_true(m[127 - i] == -m[127 + i]);
    expect_near(m[128], 0.55e-6, 1e-6);            /* one entry in the lowest decade, */
    expect_near(m[254], 0.1 + 0.9 * 127 / 128, 1e-6); /* 64 in the highest */
    expect_near(v[1], 0.325e-6, 1e-6);             /* two and 128 without signs */
    expect_near(v[254], 0.1 + 0.9 * 255 / 256, 1e-6);
    eight_bit_edges(v, edge);
    expect_near(edge[0], 0.1625e-6, 1e-6);
}

/* The first step: m = 0.1·g and v = 0.001·g², each block by its largest, and every weight moves by the rate. */
static void the_first_step_of_any_block_moves_by_the_rate(void **state)
{
    enum { COUNT = 700 };
    static const float sizes[] = {1e-3f, 50, 7e-9f};
    const struct backend *const backends[] = {&backend_ref, &backend_cpu};
    struct queue queue = {.pool = pool_new(2)};
    float m[EIGHT_BIT_CODES];

    eight_bit_map(true, m);
    for (int b = 0; b < 2; b++) {
        struct state run;
        struct op_adamw op = state_begin(&run, COUNT, 3, 0.5f, 1e-16f);

        for (int i = 0; i < COUNT; i++)
            run.grad[i] = sizes[i / EIGHT_BIT_BLOCK] * (float)(i % 2 ? 1 + i % 5 : -1 - i % 7);
        backends[b]->adamw(&queue, &op);
        for (int i = 0; i < COUNT; i++) {
            float size = sizes[i / EIGHT_BIT_BLOCK];
            double stored = (double)m[(uint8_t)(run.m[i] + eight_bit_zero(true))];

            expect_near((double)run.weight[i], i % 2 ? 2.5 : 3.5, 1e-5);
            expect_near((double)run.m_scale[i / EIGHT_BIT_BLOCK], 0.1 * 7 * (double)size, 1e-5);
            expect_near((double)run.v_scale[i / EIGHT_BIT_BLOCK], 0.001 * 49 * (double)size * (double)size, 1e-4);
            if (fabs(stored - (double)run.grad[i] / (7 * (double)size)) > 0.5 / 64)
                fail_msg("element %d: code %d", i, run.m[i]);
        }
    }
    pool_free(queue.pool);
}

static void gradient_of(int step, float grad[], int count)
{
    static const double decades[] = {1, 0.1, 0.01, 0.001};

    for (int i = 0; i < count; i++)
        grad[i] = (float)(((i * 7919 + step * 104729) % 2003 - 1001) / 1001.0 * decades[(i * 31 + step) % 4]);
}

/* Codes may be neighbours where a number lies between two but for its last bits. */
static void expect_codes(const uint8_t *got, const unsigned char *want, int zero, int count)
{
    int differing = 0;

    for (int i = 0; i < count; i++) {
        int off = (uint8_t)(got[i] + zero) - want[i];
        if (abs(off) > 1)
            fail_msg("element %d: place %d, bitsandbytes' is %d", i, (uint8_t)(got[i] + zero), want[i]);
        differing += off != 0;
    }
    if (differing > 2)
        fail_msg("%d of %d codes are others", differing, count);
}

static void three_steps_are_those_of_bitsandbytes(void **state)
{
    enum { COUNT = 512 };
    const struct backend *const backends[] = {&backend_ref, &backend_cpu};
    struct queue queue = {.pool = pool_new(2)};
    float map[2][EIGHT_BIT_CODES];

    eight_bit_map(true, map[0]);
    eight_bit_map(false, map[1]);
    for (int i = 0; i < EIGHT_BIT_CODES; i++) {
        expect_near((double)map[0][i], (double)golden_m_map[i], 2e-7);
        expect_near((double)map[1][i], (double)golden_v_map[i], 2e-7);
    }
    for (int b = 0; b < 2; b++) {
        struct state run;
        struct op_adamw op = state_begin(&run, COUNT, 1, 1e-2f, 1e-8f);

        op.decay = 0.1f;
        for (op.step = 1; op.step <= 3; op.step++) {
            gradient_of((int)op.step, run.grad, COUNT);
            backends[b]->adamw(&queue, &op);
        }
        expect_codes(run.m, golden_m, eight_bit_zero(true), COUNT);
        expect_codes(run.v, golden_v, eight_bit_zero(false), COUNT);
        for (int i = 0; i < COUNT; i++)
            expect_near((double)run.weight[i], (double)golden_weight[i], 1e-4);
        for (int i = 0; i < 2; i++) {
            expect_near((double)run.m_scale[i], (double)golden_m_scale[i], 1e-5);
            expect_near((double)run.v_scale[i], (double)golden_v_scale[i], 2e-5);
        }
    }
    pool_free(queue.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_map_is_symmetric_and_has_seven_decades),
        cmocka_unit_test(the_first_step_of_any_block_moves_by_the_rate),
        cmocka_unit_test(three_steps_are_those_of_bitsandbytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
