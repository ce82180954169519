#include "base/random.h"

#include <math.h>

enum { MT_N = 624, MT_M = 397 };

void mt19937_seed(struct mt19937 *mt, uint64_t seed)
{
    mt->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < MT_N; i++)
        mt->state[i] = 1812433253u * (mt->state[i - 1] ^ mt->state[i - 1] >> 30) + i;
    mt->index = MT_N;
}

static void refill(struct mt19937 *mt)
{
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (mt->state[i] & 0x80000000u) | (mt->state[(i + 1) % MT_N] & 0x7fffffffu);
        mt->state[i] = mt->state[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    mt->index = 0;
}

uint32_t mt19937_next(struct mt19937 *mt)
{
    uint32_t y;

    if (mt->index == MT_N)
        refill(mt);
    y = mt->state[mt->index++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

float mt19937_uniform(struct mt19937 *mt, float low, float high)
{
    float u = (float)(mt19937_next(mt) & 0xffffffu) * 0x1p-24f;

    return fmaf(u, high - low, low);
}

/* torch's vector code for normal values takes the single-precision polynomials of Cephes with multiply-adds fused; the
 * same here gives its bits. */
static float horner(float x, const float *coefficient, int count)
{
    float y = coefficient[0];

    for (int i = 1; i < count; i++)
        y = fmaf(y, x, coefficient[i]);
    return y;
}

/* log x for x in (0, 1]: x = m · 2^e with m from √½ to √2. */
static float draw_log(float x)
{
    static const float c[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    int exponent;
    float m = frexpf(x, &exponent), e, z, y;

    if (m < 0.70710678118654752f) {
        exponent--;
        m += m - 1;
    } else {
        m -= 1;
    }
    e = (float)exponent;
    z = m * m;
    y = horner(m, c, 9) * m;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(-z, 0.5f, y);
    return fmaf(e, 0.693359375f, m + y);
}

/* Sine and cosine of x in [0, 2π], by octants. */
static void draw_sincos(float x, float *sine, float *cosine)
{
    static const float cos_c[] = {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f};
    static const float sin_c[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
    static const float octant[] = {-0.78515625f, -2.4187564849853515625e-4f, -3.77489497744594108e-8f};
    int j = ((int)(x * 1.27323954473516f) + 1) & ~1;
    float z, c, s;

    for (int i = 0; i < 3; i++)
        x = fmaf((float)j, octant[i], x);
    z = x * x;
    c = fmaf(horner(z, cos_c, 3) * z, z, -(z * 0.5f)) + 1;
    s = fmaf(horner(z, sin_c, 3) * z, x, x);
    *sine = (j & 2 ? c : s) * (j & 4 ? -1 : 1);
    *cosine = (j & 2 ? s : c) * ((j - 2) & 4 ? 1 : -1);
}

/* Cosine half of a pair goes 8 places before its sine half (torch's vector order). */
static void box_muller_16(float *x, float std)
{
    for (int i = 0; i < 8; i++) {
        float radius = sqrtf(-2 * draw_log(1 - x[i])), sine, cosine;
        draw_sincos(2 * (float)M_PI * x[i + 8], &sine, &cosine);
        x[i] = radius * cosine * std;
        x[i + 8] = radius * sine * std;
    }
}

void mt19937_normal(struct mt19937 *mt, float *out, size_t count, float std)
{
    if (count < 16) {
        /* torch draws pairs of doubles here: 53 bits from two outputs each. */
        for (size_t i = 0; i < count; i += 2) {
            double u[2];
            for (int k = 0; k < 2; k++) {
                uint64_t high = mt19937_next(mt), low = mt19937_next(mt);
                u[k] = (double)((high << 32 | low) & ((1ull << 53) - 1)) * 0x1p-53;
            }
            double radius = sqrt(-2 * log1p(-u[1])), theta = 2 * M_PI * u[0];
            out[i] = (float)(radius * cos(theta)) * std;
            if (i + 1 < count)
                out[i + 1] = (float)(radius * sin(theta)) * std;
        }
        return;
    }
    for (size_t i = 0; i < count; i++)
        out[i] = mt19937_uniform(mt, 0, 1);
    for (size_t i = 0; i + 16 <= count; i += 16)
        box_muller_16(out + i, std);
    if (count % 16 != 0) { /* the last 16 are drawn afresh */
        float *last = out + count - 16;
        for (int i = 0; i < 16; i++)
            last[i] = mt19937_uniform(mt, 0, 1);
        box_muller_16(last, std);
    }
}

void mt19937_permutation(struct mt19937 *mt, uint32_t *out, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = i;
    for (uint32_t i = 0; i + 1 < count; i++) {
        uint32_t j = i + mt19937_next(mt) % (count - i), swap = out[i];
        out[i] = out[j];
        out[j] = swap;
    }
}

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0;
        c1 = (uint32_t)p1;
        c2 = n2;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}
