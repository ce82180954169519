/* tests/unit/compute/fixture.h - where the random numbers of a test begin. */
#pragma once

#include "test.h"

static inline uint64_t fixture_seed(void)
{
    const char *text = getenv("ATTUNE_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : 20261122;

    print_message("seed %llu (ATTUNE_TEST_SEED)\n", (unsigned long long)seed);
    return seed;
}
