/* text/rewrite.h - text that was changed on its way to the model, and where each byte of it came from.
 *
 * A rewrite is one stage's output with a list of runs: a kept run is a copy of source bytes, any other stands as a
 * whole for a range of the source (which is empty for what was inserted). Questions come in order of position, so
 * a cursor answers each in constant time on average. */
#pragma once

#include "base/str.h"

struct rewrite_run {
    uint32_t at;                 /* first byte in the output; the run ends where the next begins */
    uint32_t source, source_end;
    bool is_kept;
};

struct rewrite {
    struct strbuf text;
    struct rewrite_run *runs;
    size_t count, cap, cursor;
};

void rewrite_deinit(struct rewrite *rewrite);
void rewrite_begin(struct rewrite *rewrite); /* empty, keeping the memory */
/* Copies source[from, to). */
void rewrite_keep(struct rewrite *rewrite, struct str source, size_t from, size_t to);
/* Puts `with` where source[from, to) was. */
void rewrite_replace(struct rewrite *rewrite, struct str with, size_t from, size_t to);
/* The source range of output bytes [start, end). */
void rewrite_source(struct rewrite *rewrite, uint32_t *start, uint32_t *end);
