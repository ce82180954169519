/* text/added.h - added tokens: texts that are found before anything else looks at the input.
 *
 * A set finds the leftmost match, the longest one there, in linear time but for the length of the contents: texts are
 * sorted, and each byte narrows the range of those that still fit. */
#pragma once

#include "base/arena.h"
#include "base/str.h"

struct added_token {
    struct str content;
    int32_t id;
    bool special, normalized, single_word, lstrip, rstrip;
};

struct added_set {
    struct added_entry {
        struct str content; /* as it is looked for: normalised, where the token asks for it */
        const struct added_token *token;
    } *entries;
    size_t count;
    bool starts[256]; /* first bytes */
};

struct added_match {
    const struct added_token *token;
    size_t start, end; /* with the white space that lstrip and rstrip swallow */
    size_t resume;     /* where the search goes on */
};

/* Call once entries are filled in. Empty contents are dropped; of equal ones the first counts. */
void added_set_sort(struct added_set *set);
/* The next match at or after `from`; lstrip reaches back to `floor` at most. False when there is none. */
bool added_set_find(const struct added_set *set, struct str text, size_t from, size_t floor, struct added_match *match);
