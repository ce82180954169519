/* base/random.h - the two generators that training needs, and nothing secret.
 *
 * mt19937 is PyTorch's CPU generator: data order and LoRA's initial values equal torch's for the same seed
 * (training-semantics: 6.3, 7.6). philox is counter-based: the same bits for the same (key, counter) on any
 * device, no state to save; dropout and sampling draw from it. Keys and tokens of users come from os/entropy.h. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct mt19937 {
    uint32_t state[624];
    int index;
};
void mt19937_seed(struct mt19937 *mt, uint64_t seed); /* torch keeps the low 32 bits */
uint32_t mt19937_next(struct mt19937 *mt);
/* torch's float32 uniform on [low, high): (next & 0xffffff)·2⁻²⁴, then one fused multiply-add. */
float mt19937_uniform(struct mt19937 *mt, float low, float high);
/* torch.randn of `count` float32: Box-Muller in blocks of 16 for count >= 16, pairs below, with the bits of torch on
 * x86-64 with AVX2. Mean 0, given standard deviation. */
void mt19937_normal(struct mt19937 *mt, float *out, size_t count, float std);
/* torch.randperm(count) with this generator. */
void mt19937_permutation(struct mt19937 *mt, uint32_t *out, uint32_t count);

/* Philox4x32-10: four words for a 128-bit counter under a 64-bit key. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
