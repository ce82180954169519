#include "text/vocab.h"

/* The hash stands beside the text so that a probe of another token rarely has to look at it. */
struct vocab_slot {
    const char *at; /* NULL: free */
    uint32_t len, hash;
    int32_t id;
};

void vocab_init(struct vocab *vocab, struct arena *arena, size_t count, uint64_t seed)
{
    size_t slots = 16;

    while (slots < count * 2)
        slots *= 2;
    *vocab = (struct vocab){.slots = arena_new_array(arena, struct vocab_slot, slots), .mask = slots - 1, .seed = seed};
}

static struct vocab_slot *slot_of(const struct vocab *vocab, struct str text, uint64_t hash)
{
    size_t i = hash & vocab->mask;

    for (; vocab->slots[i].at; i = (i + 1) & vocab->mask) {
        const struct vocab_slot *slot = &vocab->slots[i];

        if (slot->hash == hash >> 32 && slot->len == text.len &&
            (text.len == 0 || memcmp(slot->at, text.at, text.len) == 0))
            break;
    }
    return &vocab->slots[i];
}

uint64_t vocab_place(const struct vocab *vocab, struct str text)
{
    uint64_t hash = hash_bytes(vocab->seed, text.at, text.len);

    __builtin_prefetch(&vocab->slots[hash & vocab->mask], 1);
    return hash;
}

bool vocab_add_at(struct vocab *vocab, struct str text, uint64_t place, int32_t id)
{
    struct vocab_slot *slot = slot_of(vocab, text, place);

    if (slot->at)
        return false;
    *slot = (struct vocab_slot){text.at, (uint32_t)text.len, (uint32_t)(place >> 32), id};
    vocab->count++;
    return true;
}

int32_t vocab_find_at(const struct vocab *vocab, struct str text, uint64_t place)
{
    const struct vocab_slot *slot = slot_of(vocab, text, place);

    return slot->at ? slot->id : -1;
}

bool vocab_add(struct vocab *vocab, struct str text, int32_t id)
{
    return vocab_add_at(vocab, text, hash_bytes(vocab->seed, text.at, text.len), id);
}

int32_t vocab_find(const struct vocab *vocab, struct str text)
{
    return vocab_find_at(vocab, text, hash_bytes(vocab->seed, text.at, text.len));
}
