#include "text/bpe.h"

#include "text/unicode.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    MERGES_MAX = 1000000,
    SCAN_MAX = 48,        /* symbols up to which scanning beats the heap */
    CACHE_SLOTS = 16384,  /* 64 bytes each */
    CACHE_WORD_MAX = 26,
    CACHE_SYMBOLS_MAX = 4,
};
#define NO_RANK UINT32_MAX
#define METASPACE STR("\xe2\x96\x81")

struct merge {
    int32_t left, right; /* left == -1: free */
    uint32_t rank;
    int32_t id;
};

struct bpe {
    const struct vocab *vocab;  /* texts as in the file */
    struct vocab whole;         /* words by their raw bytes: for ignore_merges in byte-level models */
    struct merge *merges;
    size_t merge_mask;
    uint64_t seed;
    int32_t byte_ids[256];      /* byte-level: of each byte; else the byte_fallback tokens; -1: none */
    int32_t unk_id;             /* -1: unknown characters are dropped */
    bool byte_level, byte_fallback, fuse_unk, ignore_merges, cuts_at_metaspace;
};

struct cached_word {
    uint32_t hash;
    uint8_t bytes, count;
    char word[CACHE_WORD_MAX];
    struct bpe_symbol symbols[CACHE_SYMBOLS_MAX];
};
_Static_assert(sizeof(struct cached_word) == 64, "one cache line a word");

/* The symbols of the word at hand with the rank and result of merging each with the next. Lists are linked by
 * index; `count` stands for the end. */
struct bpe_scratch {
    struct cached_word *cache;
    struct bpe_symbol *symbols;
    struct pair {
        uint32_t rank;
        int32_t id;
        uint32_t next, previous;
    } *pairs;
    uint64_t *heap; /* rank << 32 | index */
    size_t count, cap, heap_count;
};

struct bpe_scratch *bpe_scratch_new(void)
{
    struct bpe_scratch *scratch = mem_alloc_zero(1, sizeof *scratch);

    scratch->cache = mem_alloc_zero(CACHE_SLOTS, sizeof *scratch->cache);
    return scratch;
}

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->cache);
    free(scratch->symbols);
    free(scratch->pairs);
    free(scratch->heap);
    free(scratch);
}

static void scratch_reserve(struct bpe_scratch *scratch, size_t count)
{
    if (count <= scratch->cap)
        return;
    scratch->cap = count * 2;
    scratch->symbols = mem_resize(scratch->symbols, scratch->cap * sizeof *scratch->symbols);
    scratch->pairs = mem_resize(scratch->pairs, scratch->cap * sizeof *scratch->pairs);
    scratch->heap = mem_resize(scratch->heap, 3 * scratch->cap * sizeof *scratch->heap);
}

static size_t merge_place(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;

    return hash_mix(key ^ bpe->seed, 0xa0761d6478bd642fu) & bpe->merge_mask;
}

static struct merge *merge_slot(const struct bpe *bpe, int32_t left, int32_t right)
{
    size_t i = merge_place(bpe, left, right);

    while (bpe->merges[i].left >= 0 && (bpe->merges[i].left != left || bpe->merges[i].right != right))
        i = (i + 1) & bpe->merge_mask;
    return &bpe->merges[i];
}

static void pair_set(const struct bpe *bpe, struct pair *pair, int32_t left, int32_t right)
{
    const struct merge *merge = merge_slot(bpe, left, right);

    pair->rank = merge->left >= 0 ? merge->rank : NO_RANK;
    pair->id = merge->id;
}

/* Repeats: find the lowest rank, merge, close the gap. */
static size_t merge_by_scan(const struct bpe *bpe, struct bpe_scratch *scratch, size_t count)
{
    struct bpe_symbol *symbols = scratch->symbols;
    struct pair *pairs = scratch->pairs;

    for (size_t i = 0; i + 1 < count; i++)
        pair_set(bpe, &pairs[i], symbols[i].id, symbols[i + 1].id);
    while (count > 1) {
        size_t best = 0;

        for (size_t i = 1; i + 1 < count; i++)
            if (pairs[i].rank < pairs[best].rank)
                best = i;
        if (pairs[best].rank == NO_RANK)
            break;
        symbols[best].id = pairs[best].id;
        symbols[best].bytes += symbols[best + 1].bytes;
        count--;
        memmove(symbols + best + 1, symbols + best + 2, (count - best - 1) * sizeof *symbols);
        memmove(pairs + best, pairs + best + 1, (count - best) * sizeof *pairs);
        if (best + 1 < count)
            pair_set(bpe, &pairs[best], symbols[best].id, symbols[best + 1].id);
        if (best > 0)
            pair_set(bpe, &pairs[best - 1], symbols[best - 1].id, symbols[best].id);
    }
    return count;
}

static void heap_push(struct bpe_scratch *scratch, uint64_t key)
{
    size_t i = scratch->heap_count++;

    for (; i > 0 && scratch->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        scratch->heap[i] = scratch->heap[(i - 1) / 2];
    scratch->heap[i] = key;
}

static uint64_t heap_pop(struct bpe_scratch *scratch)
{
    uint64_t *heap = scratch->heap, top = heap[0], last = heap[--scratch->heap_count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < scratch->heap_count) {
        if (child + 1 < scratch->heap_count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void pair_update(const struct bpe *bpe, struct bpe_scratch *scratch, size_t i)
{
    struct pair *pair = &scratch->pairs[i];

    pair->rank = NO_RANK;
    if (pair->next < scratch->count)
        pair_set(bpe, pair, scratch->symbols[i].id, scratch->symbols[pair->next].id);
    if (pair->rank != NO_RANK)
        heap_push(scratch, (uint64_t)pair->rank << 32 | i);
}

/* An entry of the heap is stale when its symbol is gone or pairs with another one by now: then the rank differs,
 * as a rank belongs to one pair. Every merge pushes at most two entries, so 3 × count is room enough. */
static size_t merge_by_heap(const struct bpe *bpe, struct bpe_scratch *scratch, size_t count)
{
    struct pair *pairs = scratch->pairs;
    size_t kept = 0;

    scratch->count = count;
    scratch->heap_count = 0;
    for (size_t i = 0; i < count; i++) {
        pairs[i].next = (uint32_t)(i + 1);
        pairs[i].previous = (uint32_t)(i - 1);
        pair_update(bpe, scratch, i);
    }
    while (scratch->heap_count > 0) {
        uint64_t top = heap_pop(scratch);
        size_t i = (uint32_t)top, gone = pairs[i].next;

        if (pairs[i].rank != top >> 32)
            continue;
        scratch->symbols[i].id = pairs[i].id;
        scratch->symbols[i].bytes += scratch->symbols[gone].bytes;
        pairs[gone].rank = NO_RANK;
        pairs[i].next = pairs[gone].next;
        if (pairs[i].next < count)
            pairs[pairs[i].next].previous = (uint32_t)i;
        pair_update(bpe, scratch, i);
        if (i > 0)
            pair_update(bpe, scratch, pairs[i].previous);
    }
    for (size_t i = 0; i < count; i = pairs[i].next)
        scratch->symbols[kept++] = scratch->symbols[i];
    return kept;
}

/* Unknown characters of a word: the last one waits here for those that fuse with it. */
struct unknown {
    uint32_t bytes;
    bool is_waiting;
};

static size_t add_unknown(const struct bpe *bpe, struct bpe_scratch *scratch, size_t count, struct unknown *unknown,
                          uint32_t bytes)
{
    if (bpe->unk_id < 0)
        return count;
    if (unknown->is_waiting && !bpe->fuse_unk) {
        scratch->symbols[count++] = (struct bpe_symbol){bpe->unk_id, unknown->bytes};
        unknown->bytes = 0;
    }
    unknown->bytes += bytes;
    unknown->is_waiting = true;
    return count;
}

static size_t flush_unknown(const struct bpe *bpe, struct bpe_scratch *scratch, size_t count, struct unknown *unknown)
{
    if (unknown->is_waiting)
        scratch->symbols[count++] = (struct bpe_symbol){bpe->unk_id, unknown->bytes};
    *unknown = (struct unknown){0};
    return count;
}

static bool has_all_bytes(const struct bpe *bpe, struct str character)
{
    for (size_t i = 0; i < character.len; i++)
        if (bpe->byte_ids[(uint8_t)character.at[i]] < 0)
            return false;
    return true;
}

/* The symbols that a word starts as. A character that falls back to bytes leaves an unknown one before it waiting,
 * as the reference does. */
static size_t start_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, struct str word)
{
    struct unknown unknown = {0};
    size_t count = 0;

    for (size_t at = 0; at < word.len;) {
        uint32_t codepoint;
        size_t bytes = bpe->byte_level ? 1 : unicode_next(word.at + at, &codepoint);
        struct str character = {word.at + at, bytes};
        int32_t id = bpe->byte_level ? bpe->byte_ids[(uint8_t)word.at[at]] : vocab_find(bpe->vocab, character);

        if (id >= 0) {
            count = flush_unknown(bpe, scratch, count, &unknown);
            scratch->symbols[count++] = (struct bpe_symbol){id, (uint32_t)bytes};
        } else if (bpe->byte_fallback && has_all_bytes(bpe, character)) {
            for (size_t i = 0; i < bytes; i++)
                scratch->symbols[count++] = (struct bpe_symbol){bpe->byte_ids[(uint8_t)character.at[i]], 1};
        } else {
            count = add_unknown(bpe, scratch, count, &unknown, (uint32_t)bytes);
        }
        at += bytes;
    }
    return flush_unknown(bpe, scratch, count, &unknown);
}

static size_t encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, struct str word)
{
    size_t count;

    scratch_reserve(scratch, word.len);
    if (bpe->ignore_merges) {
        int32_t id = vocab_find(bpe->byte_level ? &bpe->whole : bpe->vocab, word);

        if (id >= 0) {
            scratch->symbols[0] = (struct bpe_symbol){id, (uint32_t)word.len};
            return 1;
        }
    }
    count = start_symbols(bpe, scratch, word);
    return count <= SCAN_MAX ? merge_by_scan(bpe, scratch, count) : merge_by_heap(bpe, scratch, count);
}

size_t bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, struct str word,
                  const struct bpe_symbol **symbols)
{
    struct cached_word *slot = NULL;
    uint64_t hash = 0;
    size_t count;

    if (word.len <= CACHE_WORD_MAX) {
        hash = hash_bytes(bpe->seed, word.at, word.len);
        slot = &scratch->cache[hash % CACHE_SLOTS];
        *symbols = slot->symbols;
        if (slot->hash == hash >> 32 && slot->bytes == word.len && memcmp(slot->word, word.at, word.len) == 0)
            return slot->count;
    }
    count = encode_word(bpe, scratch, word);
    *symbols = scratch->symbols;
    if (slot && count <= CACHE_SYMBOLS_MAX) {
        slot->hash = (uint32_t)(hash >> 32);
        slot->bytes = (uint8_t)word.len;
        slot->count = (uint8_t)count;
        memcpy(slot->word, word.at, word.len);
        memcpy(slot->symbols, scratch->symbols, count * sizeof *slot->symbols);
    }
    return count;
}

size_t bpe_part_end(const struct bpe *bpe, struct str word, size_t at)
{
    bool after_space = true;

    if (!bpe->cuts_at_metaspace)
        return word.len;
    while (at < word.len) {
        const char *next = word.at + at;
        bool is_space = word.len - at >= 3 && memcmp(next, "\xe2\x96\x81", 3) == 0;

        if (is_space && !after_space)
            break;
        after_space = is_space;
        at += is_space ? 3 : 1;
    }
    return at;
}

static uint32_t byte_level_codepoint(uint8_t byte)
{
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)
        return byte;
    if (byte <= 32)
        return 256u + byte;
    return byte == 173 ? 256 + 67 : 256u + 33 + byte - 127;
}

int byte_level_byte(uint32_t codepoint)
{
    if (codepoint >= 256 && codepoint <= 256 + 32)
        return (int)(codepoint - 256);
    if (codepoint > 256 + 32 && codepoint < 256 + 67)
        return (int)(codepoint - 256 - 33 + 127);
    if (codepoint == 256 + 67)
        return 173;
    return codepoint < 256 && byte_level_codepoint((uint8_t)codepoint) == codepoint ? (int)codepoint : -1;
}

static struct str byte_level_decode(struct arena *arena, struct str text)
{
    char *bytes = arena_alloc(arena, text.len + 1);
    size_t count = 0;

    for (size_t at = 0; at < text.len;) {
        uint32_t codepoint;
        int byte;

        at += unicode_next(text.at + at, &codepoint);
        byte = byte_level_byte(codepoint);
        if (byte < 0)
            return STR_NONE;
        bytes[count++] = (char)byte;
    }
    return (struct str){bytes, count};
}

/* "a b" or ["a", "b"]. */
static bool split_merge(const struct json *item, struct str *left, struct str *right)
{
    const struct json *second;
    ptrdiff_t space;

    if (item->type == JSON_ARRAY && item->count == 2) {
        second = item->first->next;
        *left = item->first->type == JSON_STRING ? item->first->string : STR_NONE;
        *right = second->type == JSON_STRING ? second->string : STR_NONE;
        return left->at && right->at;
    }
    if (item->type != JSON_STRING || (space = str_find(item->string, STR(" "), 0)) < 0)
        return false;
    *left = str_slice(item->string, 0, (size_t)space);
    *right = str_slice(item->string, (size_t)space + 1, item->string.len);
    return str_find(*right, STR(" "), 0) < 0;
}

/* A merge as the file has it: left, right, and both together, each with its place in the vocabulary. */
struct merge_text {
    struct str part[3];
    uint64_t place[3];
    struct strbuf joined;
};

static bool read_merge(const struct bpe *bpe, const struct json *item, uint32_t rank, struct merge_text *text,
                       struct err *err)
{
    if (!split_merge(item, &text->part[0], &text->part[1]))
        return err_set(err, ERR_INPUT, "tokenizer: merge %u is not a pair of tokens", rank);
    strbuf_clear(&text->joined);
    strbuf_add_str(&text->joined, text->part[0]);
    strbuf_add_str(&text->joined, text->part[1]);
    text->part[2] = strbuf_view(&text->joined);
    for (int i = 0; i < 3; i++)
        text->place[i] = vocab_place(bpe->vocab, text->part[i]);
    return true;
}

static bool find_merge(const struct bpe *bpe, const struct merge_text *text, uint32_t rank, struct merge *merge,
                       struct err *err)
{
    int32_t id[3];

    for (int i = 0; i < 3; i++) {
        id[i] = vocab_find_at(bpe->vocab, text->part[i], text->place[i]);
        if (id[i] < 0)
            return err_set(err, ERR_INPUT, "tokenizer: merge %u names \"%.*s\", which is not in the vocabulary", rank,
                           STR_ARG(str_slice(text->part[i], 0, 100)));
    }
    *merge = (struct merge){id[0], id[1], rank, id[2]};
    __builtin_prefetch(&bpe->merges[merge_place(bpe, id[0], id[1])], 1);
    return true;
}

static bool is_version(const struct json *item)
{
    return item->type == JSON_STRING && str_starts(item->string, STR("#version"));
}

/* The merges from *item on, a handful at a time; *item and *rank go on behind them. */
static bool add_merges(struct bpe *bpe, const struct json **item, uint32_t *rank, struct merge_text *text,
                       struct err *err)
{
    struct merge merge[VOCAB_TOGETHER];
    uint32_t count = 0;

    for (; *item && count < VOCAB_TOGETHER; *item = (*item)->next)
        if (!is_version(*item) && !read_merge(bpe, *item, *rank + count, &text[count], err))
            return false;
        else
            count += !is_version(*item);
    for (uint32_t i = 0; i < count; i++)
        if (!find_merge(bpe, &text[i], *rank + i, &merge[i], err))
            return false;
    for (uint32_t i = 0; i < count; i++) /* of a pair that is listed twice the later rank counts */
        *merge_slot(bpe, merge[i].left, merge[i].right) = merge[i];
    *rank += count;
    return true;
}

static bool crosses_metaspace(struct str text)
{
    for (ptrdiff_t at = str_find(text, METASPACE, 1); at > 0; at = str_find(text, METASPACE, (size_t)at + 1))
        if (at < 3 || memcmp(text.at + at - 3, METASPACE.at, 3) != 0)
            return true;
    return false;
}

static bool read_merges(struct bpe *bpe, struct arena *arena, const struct json *merges, const struct str *text_of,
                        struct err *err)
{
    struct merge_text text[VOCAB_TOGETHER] = {0};
    const struct json *item;
    size_t slots = 16;
    uint32_t rank = 0;
    bool ok = true;

    if (!json_has_type(merges, JSON_ARRAY))
        return err_set(err, ERR_INPUT, "tokenizer: model.merges is %s, expected an array", json_type_name(merges));
    if (merges->count > MERGES_MAX)
        return err_set(err, ERR_LIMIT, "tokenizer: %u merges; the limit is %d", merges->count, MERGES_MAX);
    while (slots < (size_t)merges->count * 2)
        slots *= 2;
    bpe->merges = arena_new_array(arena, struct merge, slots);
    bpe->merge_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        bpe->merges[i].left = -1;
    for (item = merges->first; ok && item;)
        ok = add_merges(bpe, &item, &rank, text, err);
    bpe->cuts_at_metaspace = !bpe->byte_level && !bpe->ignore_merges && vocab_find(bpe->vocab, METASPACE) >= 0;
    for (size_t i = 0; i < slots && bpe->cuts_at_metaspace; i++)
        if (bpe->merges[i].left >= 0 && crosses_metaspace(text_of[bpe->merges[i].id]))
            bpe->cuts_at_metaspace = false;
    for (int i = 0; i < VOCAB_TOGETHER; i++)
        strbuf_deinit(&text[i].joined);
    return ok;
}

static bool read_byte_ids(struct bpe *bpe, struct err *err)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[16];
        struct str token = {text, 0};

        if (bpe->byte_level)
            token.len = utf8_encode(byte_level_codepoint((uint8_t)byte), text);
        else
            token.len = (size_t)snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->byte_ids[byte] = vocab_find(bpe->vocab, token);
        if (bpe->byte_level && bpe->byte_fallback && bpe->byte_ids[byte] < 0)
            return err_set(err, ERR_UNSUPPORTED,
                           "tokenizer: model.byte_fallback together with ByteLevel and no token for byte 0x%02x", byte);
    }
    return true;
}

static bool refuse_options(const struct json *model, struct err *err)
{
    if (json_string_or(json_get(model, "continuing_subword_prefix"), STR("")).len)
        return err_set(err, ERR_UNSUPPORTED, "tokenizer: model.continuing_subword_prefix is not supported");
    if (json_string_or(json_get(model, "end_of_word_suffix"), STR("")).len)
        return err_set(err, ERR_UNSUPPORTED, "tokenizer: model.end_of_word_suffix is not supported");
    if (json_number_or(json_get(model, "dropout"), 0) != 0)
        return err_set(err, ERR_UNSUPPORTED, "tokenizer: model.dropout is not supported");
    return true;
}

static bool read_unk(struct bpe *bpe, const struct json *model, struct err *err)
{
    struct str unk = json_string_or(json_get(model, "unk_token"), STR_NONE);

    bpe->unk_id = unk.at ? vocab_find(bpe->vocab, unk) : -1;
    if (unk.at && bpe->unk_id < 0)
        return err_set(err, ERR_INPUT, "tokenizer: model.unk_token \"%.*s\" is not in the vocabulary",
                       STR_ARG(str_slice(unk, 0, 100)));
    return true;
}

/* For ignore_merges: the tokens by the bytes they spell. */
static void index_whole_words(struct bpe *bpe, struct arena *arena, const struct json *vocab)
{
    const struct json *token = vocab->first, *next = token;
    uint64_t place[VOCAB_TOGETHER];
    struct str bytes[VOCAB_TOGETHER];

    vocab_init(&bpe->whole, arena, vocab->count, bpe->seed);
    while (token) {
        for (int i = 0; i < VOCAB_TOGETHER && next; i++, next = next->next) {
            bytes[i] = byte_level_decode(arena, next->key);
            place[i] = bytes[i].at ? vocab_place(&bpe->whole, bytes[i]) : 0;
        }
        for (int i = 0; token != next; i++, token = token->next)
            if (bytes[i].at)
                vocab_add_at(&bpe->whole, bytes[i], place[i], (int32_t)token->integer);
    }
}

struct bpe *bpe_parse(struct arena *arena, const struct json *model, bool byte_level, const struct vocab *vocab,
                      const struct str *text_of, struct err *err)
{
    struct bpe *bpe = arena_new(arena, struct bpe);

    bpe->vocab = vocab;
    bpe->seed = vocab->seed;
    bpe->byte_level = byte_level;
    bpe->byte_fallback = json_bool_or(json_get(model, "byte_fallback"), false);
    bpe->fuse_unk = json_bool_or(json_get(model, "fuse_unk"), false);
    bpe->ignore_merges = json_bool_or(json_get(model, "ignore_merges"), false);
    if (!refuse_options(model, err) || !read_unk(bpe, model, err) || !read_byte_ids(bpe, err))
        return NULL;
    if (!read_merges(bpe, arena, json_get(model, "merges"), text_of, err))
        return NULL;
    if (byte_level && bpe->ignore_merges)
        index_whole_words(bpe, arena, json_get(model, "vocab"));
    return bpe;
}
