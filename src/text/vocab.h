/* text/vocab.h - token text to id and back, by open addressing.
 *
 * The keys come from a file that somebody sent, so the hash is seeded: a file cannot be made to collide. Texts are
 * views that must live as long as the table; memory comes from the caller's arena. */
#pragma once

#include "base/arena.h"
#include "base/str.h"

#include <string.h>

struct vocab {
    struct vocab_slot *slots;
    size_t mask, count;
    uint64_t seed;
};

/* Room for `count` tokens. */
void vocab_init(struct vocab *vocab, struct arena *arena, size_t count, uint64_t seed);
/* False when the text is already there. text.at is not NULL. */
bool vocab_add(struct vocab *vocab, struct str text, int32_t id);
int32_t vocab_find(const struct vocab *vocab, struct str text); /* -1: not there */

/* The same in two steps, for many texts at a time: a table of 100,000 tokens is far larger than the caches, so the
 * places of a handful of texts are asked for first and looked at when they are near. */
enum { VOCAB_TOGETHER = 16 };
uint64_t vocab_place(const struct vocab *vocab, struct str text);
bool vocab_add_at(struct vocab *vocab, struct str text, uint64_t place, int32_t id);
int32_t vocab_find_at(const struct vocab *vocab, struct str text, uint64_t place);

static inline uint64_t hash_mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Seeded hash of some bytes, eight at a time. */
static inline uint64_t hash_bytes(uint64_t seed, const char *at, size_t len)
{
    uint64_t hash = seed ^ len * 0x9e3779b97f4a7c15u, word = 0;
    uint32_t low, high;

    for (; len > 8; at += 8, len -= 8) {
        memcpy(&word, at, 8);
        hash = hash_mix(hash ^ word, 0xa0761d6478bd642fu);
    }
    if (len >= 4) {
        memcpy(&low, at, 4);
        memcpy(&high, at + len - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else if (len > 0) {
        word = (uint64_t)(unsigned char)at[0] << 16 | (uint64_t)(unsigned char)at[len / 2] << 8 |
               (unsigned char)at[len - 1];
    }
    return hash_mix(hash ^ word, 0xe7037ed1a0b428dbu ^ seed);
}
