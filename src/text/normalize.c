#include "text/normalize.h"

#include "text/unicode.h"

#include <string.h>

enum kind { NFC, NFD, NFKC, NFKD, LOWERCASE, STRIP, STRIP_ACCENTS, REPLACE, PREPEND };

static const struct {
    const char *type;
    enum kind kind;
} kinds[] = {{"NFC", NFC},     {"NFD", NFD},
             {"NFKC", NFKC},   {"NFKD", NFKD},
             {"Strip", STRIP}, {"Lowercase", LOWERCASE},
             {"Prepend", PREPEND}, {"Replace", REPLACE},
             {"StripAccents", STRIP_ACCENTS}};

static bool parse_stage(struct normalizer *normalizer, struct arena *arena, const struct json *json, struct err *err)
{
    struct str type = json_string_or(json_get(json, "type"), STR("(no type)"));
    struct normalizer_stage *stage = &normalizer->stages[normalizer->count];
    const struct json *content;
    size_t i = 0;

    while (i < sizeof kinds / sizeof *kinds && !str_is(type, kinds[i].type))
        i++;
    if (i == sizeof kinds / sizeof *kinds)
        return err_set(err, ERR_UNSUPPORTED, "tokenizer: normalizer %.*s is not supported", STR_ARG(type));
    if (normalizer->count == NORMALIZER_STAGES_MAX)
        return err_set(err, ERR_LIMIT, "tokenizer: more than %d normalizers", NORMALIZER_STAGES_MAX);
    *stage = (struct normalizer_stage){.kind = kinds[i].kind,
                                       .left = json_bool_or(json_get(json, "strip_left"), true),
                                       .right = json_bool_or(json_get(json, "strip_right"), true)};
    if (stage->kind == REPLACE || stage->kind == PREPEND) {
        content = json_get(json, stage->kind == REPLACE ? "content" : "prepend");
        if (!json_has_type(content, JSON_STRING))
            return err_set(err, ERR_INPUT, "tokenizer: normalizer %.*s lacks its text", STR_ARG(type));
        stage->content = (struct str){str_copy(arena, content->string), content->string.len};
    }
    if (stage->kind == REPLACE &&
        !(stage->pattern = pattern_parse(json_get(json, "pattern"), "normalizer Replace", err)))
        return false;
    normalizer->count++;
    return true;
}

bool normalizer_parse(struct normalizer *normalizer, struct arena *arena, const struct json *json, struct err *err)
{
    if (json_is_null(json))
        return true;
    if (!json_is(json_get(json, "type"), "Sequence"))
        return parse_stage(normalizer, arena, json, err);
    json_each(item, json_get(json, "normalizers"))
        if (!normalizer_parse(normalizer, arena, item, err))
            return false;
    return true;
}

void normalizer_deinit(struct normalizer *normalizer)
{
    for (int i = 0; i < normalizer->count; i++)
        pattern_free(normalizer->stages[i].pattern);
    normalizer->count = 0;
}

/* The next character that is not ASCII: ASCII is the same in every form. */
static size_t first_past_ascii(struct str text, size_t at)
{
    uint64_t eight;

    for (; at + 8 <= text.len; at += 8) {
        memcpy(&eight, text.at + at, 8);
        if (eight & 0x8080808080808080u)
            break;
    }
    while (at < text.len && !((unsigned char)text.at[at] & 0x80))
        at++;
    return at;
}

static void run_form(enum unicode_form form, struct str text, struct rewrite *out, bool *changed)
{
    size_t at = first_past_ascii(text, 0), done = 0, kept = 0;
    struct strbuf normal = {0};

    while (at < text.len) {
        size_t start = at > done ? at - 1 : at; /* marks may follow the ASCII character before */
        size_t end = unicode_segment_end(text, start);
        struct str segment = str_slice(text, start, end);

        strbuf_clear(&normal);
        unicode_normalize_segment(segment, form, &normal);
        if (!str_equal(segment, strbuf_view(&normal))) {
            rewrite_keep(out, text, kept, start);
            rewrite_replace(out, strbuf_view(&normal), start, end);
            kept = end;
            *changed = true;
        }
        done = end;
        at = first_past_ascii(text, end);
    }
    if (*changed)
        rewrite_keep(out, text, kept, text.len);
    strbuf_deinit(&normal);
}

/* Lower case of each character by itself; U+0130 is the one that becomes two. */
static void run_lowercase(struct str text, struct rewrite *out, bool *changed)
{
    size_t kept = 0;

    for (size_t at = 0, bytes; at < text.len; at += bytes) {
        uint32_t codepoint, lower;
        char encoded[8];
        struct str with = {encoded, 0};

        bytes = unicode_next(text.at + at, &codepoint);
        lower = (uint32_t)utf8proc_tolower((utf8proc_int32_t)codepoint);
        if (lower == codepoint)
            continue;
        with.len = utf8_encode(lower, encoded);
        if (codepoint == 0x130)
            with = STR("i\xcc\x87");
        rewrite_keep(out, text, kept, at);
        rewrite_replace(out, with, at, at + bytes);
        kept = at + bytes;
        *changed = true;
    }
    if (*changed)
        rewrite_keep(out, text, kept, text.len);
}

static void run_strip_accents(struct str text, struct rewrite *out, bool *changed)
{
    size_t kept = 0;

    for (size_t at = 0, bytes; at < text.len; at += bytes) {
        uint32_t codepoint;

        bytes = unicode_next(text.at + at, &codepoint);
        if (!(unicode_class(codepoint) & UNICODE_MARK))
            continue;
        rewrite_keep(out, text, kept, at);
        kept = at + bytes;
        *changed = true;
    }
    if (*changed)
        rewrite_keep(out, text, kept, text.len);
}

static bool is_space_at(struct str text, size_t at, size_t *bytes)
{
    uint32_t codepoint;

    *bytes = unicode_next(text.at + at, &codepoint);
    return unicode_class(codepoint) & UNICODE_SPACE;
}

static void run_strip(const struct normalizer_stage *stage, struct str text, struct rewrite *out, bool *changed)
{
    size_t from = 0, to = text.len, bytes;

    while (stage->left && from < to && is_space_at(text, from, &bytes))
        from += bytes;
    while (stage->right && to > from && is_space_at(text, to - unicode_previous_bytes(text.at, to), &bytes))
        to -= bytes;
    *changed = from > 0 || to < text.len;
    if (*changed)
        rewrite_keep(out, text, from, to);
}

static bool run_replace(const struct normalizer_stage *stage, void *match_data, struct str text, struct rewrite *out,
                        bool *changed, struct err *err)
{
    size_t at = 0, start, end;

    for (;;) {
        if (!pattern_find(stage->pattern, match_data, text, at, &start, &end, err))
            return false;
        if (start == end)
            break;
        *changed = true;
        rewrite_keep(out, text, at, start);
        rewrite_replace(out, stage->content, start, end);
        at = end;
    }
    if (*changed)
        rewrite_keep(out, text, at, text.len);
    return true;
}

bool normalizer_run(const struct normalizer_stage *stage, void *match_data, struct str text, struct rewrite *out,
                    bool *changed, struct err *err)
{
    *changed = false;
    rewrite_begin(out);
    switch ((enum kind)stage->kind) {
    case NFC: run_form(UNICODE_NFC, text, out, changed); break;
    case NFD: run_form(UNICODE_NFD, text, out, changed); break;
    case NFKC: run_form(UNICODE_NFKC, text, out, changed); break;
    case NFKD: run_form(UNICODE_NFKD, text, out, changed); break;
    case LOWERCASE: run_lowercase(text, out, changed); break;
    case STRIP: run_strip(stage, text, out, changed); break;
    case STRIP_ACCENTS: run_strip_accents(text, out, changed); break;
    case REPLACE: return run_replace(stage, match_data, text, out, changed, err);
    case PREPEND:
        *changed = text.len > 0;
        rewrite_replace(out, stage->content, 0, 0);
        rewrite_keep(out, text, 0, text.len);
        break;
    }
    return true;
}
