/* Encoding: raw text → pieces between added tokens → normalised → pieces → words → tokens with their spans. */
#include "text/tokenizer_int.h"

#include "text/unicode.h"

#include <stdlib.h>

enum { TEXT_BYTES_MAX = 1 << 30 };

struct tokenizer_scratch {
    struct bpe_scratch *bpe;
    void *match_data;
    struct rewrite normal[NORMALIZER_STAGES_MAX];
    struct rewrite split[SPLIT_STAGES_MAX];
};

/* A text that is a rewrite of a part of the one below it; the lowest is the caller's. */
struct layer {
    const struct layer *below;
    struct rewrite *map; /* NULL: the lowest */
    size_t base;         /* where in the text below the rewritten part began */
};

/* Bytes of a layer's text, and where in it they stand. */
struct piece {
    const struct layer *layer;
    struct str text;
    size_t at;
};

struct encoder {
    const struct tokenizer *tok;
    struct tokenizer_scratch *scratch;
    struct token_list *out;
    struct err *err;
};

void token_list_deinit(struct token_list *list)
{
    free(list->ids);
    free(list->spans);
    *list = (struct token_list){0};
}

void token_list_clear(struct token_list *list)
{
    list->count = 0;
}

static void list_reserve(struct token_list *list, size_t more)
{
    if (list->count + more <= list->cap)
        return;
    list->cap = list->cap * 2 > list->count + more ? list->cap * 2 : list->count + more + 64;
    list->ids = mem_resize(list->ids, list->cap * sizeof *list->ids);
    list->spans = mem_resize(list->spans, list->cap * sizeof *list->spans);
}

static void list_add(struct token_list *list, int32_t id, struct token_span span)
{
    list_reserve(list, 1);
    list->ids[list->count] = id;
    list->spans[list->count++] = span;
}

struct tokenizer_scratch *tokenizer_scratch_new(const struct tokenizer *tok)
{
    struct tokenizer_scratch *scratch = mem_alloc_zero(1, sizeof *scratch);

    scratch->bpe = bpe_scratch_new();
    scratch->match_data = pattern_match_data();
    return scratch;
}

void tokenizer_scratch_free(struct tokenizer_scratch *scratch)
{
    if (!scratch)
        return;
    bpe_scratch_free(scratch->bpe);
    pattern_match_data_free(scratch->match_data);
    for (int i = 0; i < NORMALIZER_STAGES_MAX; i++)
        rewrite_deinit(&scratch->normal[i]);
    for (int i = 0; i < SPLIT_STAGES_MAX; i++)
        rewrite_deinit(&scratch->split[i]);
    free(scratch);
}

/* From bytes of a layer's text to bytes of the caller's. */
static struct token_span original_span(const struct layer *layer, size_t start, size_t end)
{
    struct token_span span = {(uint32_t)start, (uint32_t)end};

    for (; layer->map; layer = layer->below) {
        rewrite_source(layer->map, &span.start, &span.end);
        span.start += (uint32_t)layer->base;
        span.end += (uint32_t)layer->base;
    }
    return span;
}

static struct piece sub_piece(struct piece piece, size_t start, size_t end)
{
    return (struct piece){piece.layer, {piece.text.at + start, end - start}, piece.at + start};
}

static void encode_part(struct encoder *enc, struct piece part)
{
    const struct bpe_symbol *symbols;
    size_t count = bpe_encode(enc->tok->bpe, enc->scratch->bpe, part.text, &symbols), at = part.at;
    struct token_list *out = enc->out;

    list_reserve(out, count);
    for (size_t i = 0; i < count; i++) {
        size_t end = at + symbols[i].bytes;

        out->ids[out->count] = symbols[i].id;
        out->spans[out->count++] = part.layer->map ? original_span(part.layer, at, end)
                                                   : (struct token_span){(uint32_t)at, (uint32_t)end};
        at = end;
    }
}

static void encode_word(struct encoder *enc, struct piece word)
{
    for (size_t at = 0, end; at < word.text.len; at = end) {
        end = bpe_part_end(enc->tok->bpe, word.text, at);
        encode_part(enc, sub_piece(word, at, end));
    }
}

static bool run_stage(struct encoder *enc, int index, struct piece piece);

/* The stage after `index`, or the model. */
static bool pass_on(struct encoder *enc, int index, struct piece piece)
{
    if (piece.text.len == 0)
        return true;
    if (index + 1 < enc->tok->split_count)
        return run_stage(enc, index + 1, piece);
    encode_word(enc, piece);
    return true;
}

/* A segment of a piece, and whether it is a match of the pattern. */
struct segment {
    size_t start, end;
    bool is_match;
};

/* Takes the next segment in order and passes on what the behavior makes of it. Behaviors that merge hold one segment
 * back; start == end means that none is held. */
static bool take_segment(struct encoder *enc, int index, struct piece piece, struct segment *held, struct segment next)
{
    const struct split_stage *stage = &enc->tok->splits[index];
    bool is_held = held->end > held->start, merges = false;
    struct segment ready = *held;

    if (next.start == next.end)
        return true;
    next.is_match = next.is_match != stage->invert;
    if (stage->behavior == REMOVED && !next.is_match)
        return pass_on(enc, index, sub_piece(piece, next.start, next.end));
    if (stage->behavior == REMOVED)
        return true;
    if (stage->behavior == CONTIGUOUS)
        merges = is_held && held->is_match == next.is_match;
    else if (stage->behavior == MERGED_WITH_PREVIOUS)
        merges = is_held && !held->is_match && next.is_match;
    else
        merges = is_held && held->is_match && !next.is_match;
    if (merges)
        next.start = held->start;
    *held = next;
    return merges || !is_held || pass_on(enc, index, sub_piece(piece, ready.start, ready.end));
}

/* The next match at or after `from`; both at the end of the text when there is none. */
static bool find_match(struct encoder *enc, const struct split_stage *stage, struct str text, size_t from,
                       size_t *start, size_t *end)
{
    uint32_t codepoint;

    if (!stage->match)
        return pattern_find(stage->pattern, enc->scratch->match_data, text, from, start, end, enc->err);
    for (*start = from; *start < text.len; *start += unicode_next(text.at + *start, &codepoint)) {
        *end = stage->match(text, *start);
        if (*end > *start)
            return true;
    }
    *end = text.len;
    return true;
}

/* Each match and each piece between two matches by itself: the split of every large byte-level model. */
static bool split_isolated(struct encoder *enc, int index, struct piece piece)
{
    const struct split_stage *stage = &enc->tok->splits[index];
    size_t at = 0, start, end;

    for (; at < piece.text.len; at = end) {
        if (!find_match(enc, stage, piece.text, at, &start, &end))
            return false;
        if (start > at && !pass_on(enc, index, sub_piece(piece, at, start)))
            return false;
        if (end > start && !pass_on(enc, index, sub_piece(piece, start, end)))
            return false;
    }
    return true;
}

static bool split_piece(struct encoder *enc, int index, struct piece piece)
{
    const struct split_stage *stage = &enc->tok->splits[index];
    struct segment held = {0};
    size_t at = 0, start, end;

    if (stage->behavior == ISOLATED)
        return split_isolated(enc, index, piece);
    while (at < piece.text.len) {
        if (!find_match(enc, stage, piece.text, at, &start, &end))
            return false;
        if (!take_segment(enc, index, piece, &held, (struct segment){at, start, false}) ||
            !take_segment(enc, index, piece, &held, (struct segment){start, end, true}))
            return false;
        at = end;
    }
    return held.end == held.start || pass_on(enc, index, sub_piece(piece, held.start, held.end));
}

/* Cuts before each replacement character, as MergedWithNext does: one that no other text follows is its own piece. */
static bool split_metaspace(struct encoder *enc, int index, struct piece piece)
{
    struct str mark = enc->tok->splits[index].replacement;
    struct segment held = {0};
    size_t at = 0;

    while (at < piece.text.len) {
        ptrdiff_t found = str_find(piece.text, mark, at);
        size_t start = found < 0 ? piece.text.len : (size_t)found;
        size_t end = found < 0 ? start : start + mark.len;

        if (!take_segment(enc, index, piece, &held, (struct segment){at, start, false}) ||
            !take_segment(enc, index, piece, &held, (struct segment){start, end, true}))
            return false;
        at = end;
    }
    return held.end == held.start || pass_on(enc, index, sub_piece(piece, held.start, held.end));
}

static bool wants_prefix(const struct split_stage *stage, struct piece piece)
{
    if (stage->prepend == PREPEND_NEVER || str_starts(piece.text, stage->replacement))
        return false;
    return stage->prepend == PREPEND_ALWAYS || original_span(piece.layer, piece.at, piece.at).start == 0;
}

/* Metaspace writes its character for each space; it and ByteLevel may put theirs in front. */
static bool rewrite_and_split(struct encoder *enc, int index, struct piece piece)
{
    const struct split_stage *stage = &enc->tok->splits[index];
    struct rewrite *out = &enc->scratch->split[index];
    struct layer layer = {piece.layer, out, piece.at};
    struct piece rewritten = {.layer = &layer};
    bool starts_marked = str_starts(piece.text, STR(" ")); /* a first space becomes the character itself */
    size_t kept = 0;

    rewrite_begin(out);
    if (wants_prefix(stage, piece) && !starts_marked)
        rewrite_replace(out, stage->replacement, 0, 0);
    for (ptrdiff_t space; stage->kind == SPLIT_METASPACE && (space = str_find(piece.text, STR(" "), kept)) >= 0;) {
        rewrite_keep(out, piece.text, kept, (size_t)space);
        rewrite_replace(out, stage->replacement, (size_t)space, (size_t)space + 1);
        kept = (size_t)space + 1;
    }
    rewrite_keep(out, piece.text, kept, piece.text.len);
    rewritten.text = strbuf_view(&out->text);
    if (!stage->cuts)
        return pass_on(enc, index, rewritten);
    return stage->kind == SPLIT_METASPACE ? split_metaspace(enc, index, rewritten) : split_piece(enc, index, rewritten);
}

static bool run_stage(struct encoder *enc, int index, struct piece piece)
{
    const struct split_stage *stage = &enc->tok->splits[index];

    if (stage->kind == SPLIT_METASPACE || (stage->kind == SPLIT_BYTE_LEVEL && wants_prefix(stage, piece)))
        return rewrite_and_split(enc, index, piece);
    if (stage->kind == SPLIT_BYTE_LEVEL && !stage->cuts)
        return pass_on(enc, index, piece);
    return split_piece(enc, index, piece);
}

/* A piece without added tokens. */
static bool encode_piece(struct encoder *enc, struct piece piece)
{
    return pass_on(enc, -1, piece);
}

/* Cuts a piece at the tokens of a set; what lies between goes to `next`. */
static bool cut_at_added(struct encoder *enc, const struct added_set *set, struct piece piece,
                         bool (*next)(struct encoder *, struct piece))
{
    struct added_match match;
    size_t at = 0, from = 0;

    while (added_set_find(set, piece.text, from, at, &match)) {
        if (match.start > at && !next(enc, sub_piece(piece, at, match.start)))
            return false;
        list_add(enc->out, match.token->id, original_span(piece.layer, piece.at + match.start, piece.at + match.end));
        at = match.end;
        from = match.resume;
    }
    return at >= piece.text.len || next(enc, sub_piece(piece, at, piece.text.len));
}

/* Runs the normalizers one on top of the other. The layers live while the piece is worked on. */
static bool normalize_piece(struct encoder *enc, struct piece piece)
{
    const struct normalizer *normalizer = &enc->tok->normalizer;
    struct layer layers[NORMALIZER_STAGES_MAX];
    bool changed;

    for (int i = 0; i < normalizer->count; i++) {
        struct rewrite *out = &enc->scratch->normal[i];

        if (!normalizer_run(&normalizer->stages[i], enc->scratch->match_data, piece.text, out, &changed, enc->err))
            return false;
        if (!changed)
            continue;
        if (out->text.len > TEXT_BYTES_MAX)
            return err_set(enc->err, ERR_LIMIT, "tokenizer: normalised text grows past 1 GiB");
        layers[i] = (struct layer){piece.layer, out, piece.at};
        piece = (struct piece){&layers[i], strbuf_view(&out->text), 0};
    }
    return cut_at_added(enc, &enc->tok->normalized_set, piece, encode_piece);
}

bool tokenizer_encode(const struct tokenizer *tok, struct tokenizer_scratch *scratch, struct str text,
                      bool add_special_tokens, struct token_list *out, struct err *err)
{
    struct encoder enc = {tok, scratch, out, err};
    struct layer lowest = {0};
    uint32_t end = (uint32_t)text.len;

    if (text.len > TEXT_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "tokenizer: the text has %zu bytes; the limit is 1 GiB", text.len);
    if (!utf8_is_valid(text))
        return err_set(err, ERR_INPUT, "tokenizer: the text is not UTF-8");
    for (size_t i = 0; add_special_tokens && i < tok->before.count; i++)
        list_add(out, tok->before.ids[i], (struct token_span){0, 0});
    if (!cut_at_added(&enc, &tok->raw_set, (struct piece){&lowest, text, 0}, normalize_piece))
        return false;
    for (size_t i = 0; add_special_tokens && i < tok->after.count; i++)
        list_add(out, tok->after.ids[i], (struct token_span){end, end});
    return true;
}
