#include "text/vocab.h"

struct vocab_slot {
    struct str text; /* at == NULL: free */
    int32_t id;
};

void vocab_init(struct vocab *vocab, struct arena *arena, size_t count, uint64_t seed)
{
    size_t slots = 16;

    while (slots < count * 2)
        slots *= 2;
    *vocab = (struct vocab){.slots = arena_new_array(arena, struct vocab_slot, slots), .mask = slots - 1, .seed = seed};
}

static struct vocab_slot *slot_of(const struct vocab *vocab, struct str text)
{
    size_t i = hash_bytes(vocab->seed, text.at, text.len) & vocab->mask;

    while (vocab->slots[i].text.at && !str_equal(vocab->slots[i].text, text))
        i = (i + 1) & vocab->mask;
    return &vocab->slots[i];
}

bool vocab_add(struct vocab *vocab, struct str text, int32_t id)
{
    struct vocab_slot *slot = slot_of(vocab, text);

    if (slot->text.at)
        return false;
    *slot = (struct vocab_slot){text.at ? text : STR(""), id};
    vocab->count++;
    return true;
}

int32_t vocab_find(const struct vocab *vocab, struct str text)
{
    const struct vocab_slot *slot = slot_of(vocab, text);

    return slot->text.at ? slot->id : -1;
}
