#include "text/rewrite.h"

#include <stdlib.h>

void rewrite_deinit(struct rewrite *rewrite)
{
    strbuf_deinit(&rewrite->text);
    free(rewrite->runs);
    *rewrite = (struct rewrite){0};
}

void rewrite_begin(struct rewrite *rewrite)
{
    strbuf_clear(&rewrite->text);
    rewrite->count = rewrite->cursor = 0;
}

static void add_run(struct rewrite *rewrite, size_t from, size_t to, bool is_kept)
{
    if (rewrite->count == rewrite->cap) {
        rewrite->cap = rewrite->cap ? rewrite->cap * 2 : 64;
        rewrite->runs = mem_resize(rewrite->runs, rewrite->cap * sizeof *rewrite->runs);
    }
    rewrite->runs[rewrite->count++] =
        (struct rewrite_run){(uint32_t)rewrite->text.len, (uint32_t)from, (uint32_t)to, is_kept};
}

void rewrite_keep(struct rewrite *rewrite, struct str source, size_t from, size_t to)
{
    struct rewrite_run *last = rewrite->count ? &rewrite->runs[rewrite->count - 1] : NULL;

    if (to <= from)
        return;
    if (last && last->is_kept && last->source_end == from)
        last->source_end = (uint32_t)to;
    else
        add_run(rewrite, from, to, true);
    strbuf_add(&rewrite->text, source.at + from, to - from);
}

void rewrite_replace(struct rewrite *rewrite, struct str with, size_t from, size_t to)
{
    if (with.len == 0)
        return;
    add_run(rewrite, from, to, false);
    strbuf_add_str(&rewrite->text, with);
}

static const struct rewrite_run *run_at(struct rewrite *rewrite, uint32_t at)
{
    size_t i = rewrite->cursor;

    while (i > 0 && rewrite->runs[i].at > at)
        i--;
    while (i + 1 < rewrite->count && rewrite->runs[i + 1].at <= at)
        i++;
    rewrite->cursor = i;
    return &rewrite->runs[i];
}

void rewrite_source(struct rewrite *rewrite, uint32_t *start, uint32_t *end)
{
    uint32_t first = *start, last = *end > first ? *end - 1 : first;
    const struct rewrite_run *run;

    if (rewrite->count == 0) {
        *start = *end = 0;
        return;
    }
    run = run_at(rewrite, first);
    *start = run->is_kept ? run->source + (first - run->at) : run->source;
    run = run_at(rewrite, last);
    *end = run->is_kept ? run->source + (last - run->at) + 1 : run->source_end;
}
