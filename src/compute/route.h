/* compute/route.h - which experts a token takes: the same choice in every backend. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The `top` largest of E values, best first, the first of equals; what is not a number is taken last. */
static inline void route_choose(const float *value, int32_t E, int32_t top, int32_t *choice)
{
    for (int32_t j = 0; j < top; j++) {
        int32_t best = -1;
        for (int32_t e = 0; e < E; e++) {
            bool is_taken = false;
            for (int32_t i = 0; i < j && !is_taken; i++)
                is_taken = choice[i] == e;
            if (!is_taken &&
                (best < 0 || value[e] > value[best] || (value[best] != value[best] && value[e] == value[e])))
                best = e;
        }
        choice[j] = best;
    }
}

/* row holds the experts of all choices and leaves with their rows, sorted by expert; token and row_end are written. */
static inline void route_sort(int32_t T, int32_t E, int32_t top, int32_t *row, int32_t *token, int32_t *row_end)
{
    for (int32_t e = 0; e < E; e++)
        row_end[e] = 0;
    for (int32_t i = 0; i < T * top; i++)
        row_end[row[i]]++;
    for (int32_t e = 1; e < E; e++)
        row_end[e] += row_end[e - 1];
    /* From the back: each expert's end moves down to its begin, and up again behind. */
    for (int32_t i = T * top - 1; i >= 0; i--) {
        int32_t at = --row_end[row[i]];
        token[at] = i / top;
        row[i] = at;
    }
    for (int32_t e = 0; e + 1 < E; e++)
        row_end[e] = row_end[e + 1];
    row_end[E - 1] = T * top;
}
