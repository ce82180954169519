#include "text/added.h"

#include "text/unicode.h"

#include <stdlib.h>

/* Equal contents keep the order of the file, which is that of their tokens in memory. */
static int compare_entries(const void *a, const void *b)
{
    const struct added_entry *x = a, *y = b;
    int order = str_compare(x->content, y->content);

    return order ? order : (x->token > y->token) - (x->token < y->token);
}

void added_set_sort(struct added_set *set)
{
    size_t kept = 0;

    if (set->count)
        qsort(set->entries, set->count, sizeof *set->entries, compare_entries);
    for (size_t i = 0; i < set->count; i++) {
        struct str content = set->entries[i].content;

        if (content.len == 0 || (kept && str_equal(content, set->entries[kept - 1].content)))
            continue;
        set->starts[(uint8_t)content.at[0]] = true;
        set->entries[kept++] = set->entries[i];
    }
    set->count = kept;
}

/* First entry in [low, high) whose byte at `depth` is at least `byte`. All are longer than depth or stand first. */
static size_t lower_bound(const struct added_set *set, size_t low, size_t high, size_t depth, int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        struct str content = set->entries[middle].content;

        if (content.len <= depth || (uint8_t)content.at[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest entry that text continues with at `at`, or NULL. */
static const struct added_entry *longest_at(const struct added_set *set, struct str text, size_t at)
{
    const struct added_entry *found = NULL;
    size_t low = 0, high = set->count;

    for (size_t depth = 0; low < high && at + depth < text.len; depth++) {
        int byte = (uint8_t)text.at[at + depth];

        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1);
        if (low < high && set->entries[low].content.len == depth + 1)
            found = &set->entries[low];
    }
    return found;
}

static bool is_word_before(struct str text, size_t at)
{
    uint32_t codepoint;

    if (at == 0)
        return false;
    unicode_next(text.at + at - unicode_previous_bytes(text.at, at), &codepoint);
    return unicode_is_word(codepoint);
}

static bool is_word_after(struct str text, size_t at)
{
    uint32_t codepoint;

    if (at == text.len)
        return false;
    unicode_next(text.at + at, &codepoint);
    return unicode_is_word(codepoint);
}

static bool is_space(struct str text, size_t at, size_t *bytes)
{
    uint32_t codepoint;

    *bytes = unicode_next(text.at + at, &codepoint);
    return unicode_class(codepoint) & UNICODE_SPACE;
}

static void swallow_space(struct str text, size_t floor, struct added_match *match)
{
    size_t bytes;

    while (match->token->lstrip && match->start > floor &&
           is_space(text, match->start - unicode_previous_bytes(text.at, match->start), &bytes))
        match->start -= bytes;
    while (match->token->rstrip && match->end < text.len && is_space(text, match->end, &bytes))
        match->end += bytes;
}

bool added_set_find(const struct added_set *set, struct str text, size_t from, size_t floor, struct added_match *match)
{
    for (size_t at = from; set->count && at < text.len; at++) {
        const struct added_entry *entry;

        if (!set->starts[(uint8_t)text.at[at]] || !(entry = longest_at(set, text, at)))
            continue;
        *match = (struct added_match){entry->token, at, at + entry->content.len, at + entry->content.len};
        if (entry->token->single_word && (is_word_before(text, at) || is_word_after(text, match->end))) {
            at = match->end - 1;
            continue;
        }
        swallow_space(text, floor, match);
        return true;
    }
    return false;
}
