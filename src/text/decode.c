#include "text/decode.h"

#include "text/bpe.h"
#include "text/unicode.h"

static struct str copy(struct arena *arena, const struct json *value, const char *fallback)
{
    struct str text = json_string_or(value, str_of(fallback));

    return (struct str){str_copy(arena, text), text.len};
}

static bool refuse(struct str type, const char *why, struct err *err)
{
    return err_set(err, ERR_UNSUPPORTED, "tokenizer: decoder %.*s %s", STR_ARG(str_slice(type, 0, 60)), why);
}

static struct decoder_stage *add_stage(struct decoder *decoder, struct str type, struct err *err)
{
    if (decoder->count == DECODER_STAGES_MAX) {
        err_set(err, ERR_LIMIT, "tokenizer: more than %d decoders", DECODER_STAGES_MAX);
        return NULL;
    }
    if (decoder->byte_level || decoder->byte_fallback || decoder->is_joined) {
        refuse(type, "after bytes were joined is not supported", err);
        return NULL;
    }
    return &decoder->stages[decoder->count++];
}

static bool parse_replace(struct decoder *decoder, struct arena *arena, const struct json *json, struct err *err)
{
    const struct json *pattern = json_get(json_get(json, "pattern"), "String");
    struct decoder_stage *stage = add_stage(decoder, STR("Replace"), err);

    if (!stage)
        return false;
    if (!json_has_type(pattern, JSON_STRING) || !pattern->string.len)
        return refuse(STR("Replace"), "with a pattern that is not a String is not supported", err);
    stage->kind = DECODE_REPLACE;
    stage->pattern = copy(arena, pattern, "");
    stage->content = copy(arena, json_get(json, "content"), "");
    return true;
}

static bool parse_strip(struct decoder *decoder, struct arena *arena, const struct json *json, struct err *err)
{
    struct str content = copy(arena, json_get(json, "content"), " ");
    int64_t start = json_integer_or(json_get(json, "start"), 0), stop = json_integer_or(json_get(json, "stop"), 0);
    struct decoder_stage *stage;

    if (start < 0 || stop < 0 || utf8_length(content) != 1)
        return refuse(STR("Strip"), "has a content or count that is out of range", err);
    if (decoder->is_joined) {
        if (stop || decoder->strip_start)
            return refuse(STR("Strip"), "at the end of the joined text is not supported", err);
        decoder->strip_content = content;
        decoder->strip_start = (size_t)start;
        return true;
    }
    if (!(stage = add_stage(decoder, STR("Strip"), err)))
        return false;
    *stage =
        (struct decoder_stage){.kind = DECODE_STRIP, .pattern = content, .start = (size_t)start, .stop = (size_t)stop};
    return true;
}

static bool parse_metaspace(struct decoder *decoder, struct arena *arena, const struct json *json, struct err *err)
{
    struct str scheme =
        json_string_or(json_get(json, "prepend_scheme"),
                       json_bool_or(json_get(json, "add_prefix_space"), true) ? STR("always") : STR("never"));
    struct decoder_stage *stage = add_stage(decoder, STR("Metaspace"), err);

    if (!stage)
        return false;
    *stage = (struct decoder_stage){.kind = DECODE_METASPACE,
                                    .pattern = copy(arena, json_get(json, "replacement"), "\xe2\x96\x81"),
                                    .drops_first = !str_is(scheme, "never")};
    return stage->pattern.len > 0 || refuse(STR("Metaspace"), "has an empty replacement", err);
}

static bool parse_stage(struct decoder *decoder, struct arena *arena, const struct json *json, struct err *err)
{
    struct str type = json_string_or(json_get(json, "type"), STR("(no type)"));

    if (str_is(type, "Replace"))
        return parse_replace(decoder, arena, json, err);
    if (str_is(type, "Strip"))
        return parse_strip(decoder, arena, json, err);
    if (str_is(type, "Metaspace"))
        return parse_metaspace(decoder, arena, json, err);
    if (str_is(type, "Fuse")) {
        decoder->is_joined = true;
        return true;
    }
    if (!str_is(type, "ByteLevel") && !str_is(type, "ByteFallback"))
        return refuse(type, "is not supported", err);
    if (decoder->byte_level || decoder->byte_fallback || decoder->is_joined)
        return refuse(type, "after bytes were joined is not supported", err);
    decoder->byte_level = decoder->is_joined = str_is(type, "ByteLevel");
    decoder->byte_fallback = !decoder->byte_level;
    return true;
}

bool decoder_parse(struct decoder *decoder, struct arena *arena, const struct json *json, struct err *err)
{
    decoder->spaced = json_is_null(json);
    if (decoder->spaced)
        return true;
    if (!json_is(json_get(json, "type"), "Sequence"))
        return parse_stage(decoder, arena, json, err);
    json_each(item, json_get(json, "decoders"))
        if (!decoder_parse(decoder, arena, item, err))
            return false;
    return true;
}

static void replace_all(struct str text, struct str pattern, struct str with, struct strbuf *out)
{
    size_t at = 0;

    for (ptrdiff_t found; (found = str_find(text, pattern, at)) >= 0; at = (size_t)found + pattern.len) {
        strbuf_add(out, text.at + at, (size_t)found - at);
        strbuf_add_str(out, with);
    }
    strbuf_add(out, text.at + at, text.len - at);
}

static struct str strip(struct str text, const struct decoder_stage *stage)
{
    for (size_t i = 0; i < stage->start && str_starts(text, stage->pattern); i++)
        text = str_slice(text, stage->pattern.len, text.len);
    for (size_t i = 0; i < stage->stop && str_ends(text, stage->pattern); i++)
        text.len -= stage->pattern.len;
    return text;
}

static void add_bytes(struct str text, struct strbuf *out)
{
    size_t start = out->len;

    for (size_t at = 0; at < text.len;) {
        uint32_t codepoint;
        int byte;

        at += unicode_next(text.at + at, &codepoint);
        byte = byte_level_byte(codepoint);
        if (byte < 0) { /* not the alphabet's: the token stands for itself */
            out->len = start;
            strbuf_add_str(out, text);
            return;
        }
        strbuf_add_char(out, (char)byte);
    }
}

void decoder_token_text(const struct decoder *decoder, struct str token, bool is_first, struct strbuf *out)
{
    struct strbuf now = {0}, next = {0}, spare;

    strbuf_add_str(&now, token);
    for (int i = 0; i < decoder->count; i++) {
        const struct decoder_stage *stage = &decoder->stages[i];

        strbuf_clear(&next);
        if (stage->kind == DECODE_STRIP)
            strbuf_add_str(&next, strip(strbuf_view(&now), stage));
        else if (stage->kind == DECODE_REPLACE)
            replace_all(strbuf_view(&now), stage->pattern, stage->content, &next);
        else
            replace_all(strbuf_view(&now), stage->pattern, is_first && stage->drops_first ? STR("") : STR(" "), &next);
        spare = now;
        now = next;
        next = spare;
    }
    if (decoder->byte_level)
        add_bytes(strbuf_view(&now), out);
    else
        strbuf_add_str(out, strbuf_view(&now));
    strbuf_deinit(&now);
    strbuf_deinit(&next);
}

int decoder_token_byte(const struct decoder *decoder, struct str token)
{
    int high, low;

    if (!decoder->byte_fallback || token.len != 6 || !str_starts(token, STR("<0x")) || token.at[5] != '>')
        return -1;
    high = hex_value(token.at[3]);
    low = hex_value(token.at[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}
