/* Decoding: the bytes of each token, made into whole characters. */
#include "text/tokenizer_int.h"

#define REPLACEMENT STR("\xef\xbf\xbd")

void tokenizer_stream_init(struct tokenizer_stream *stream, const struct tokenizer *tok, bool skip_special)
{
    *stream = (struct tokenizer_stream){
        .tok = tok, .skip_special = skip_special, .strip_left = tok->decoder.strip_start};
}

/* Whole characters on their way out: a Strip of the text's start takes its share first. */
static void emit(struct tokenizer_stream *stream, struct str text, struct strbuf *out)
{
    struct str content = stream->tok->decoder.strip_content;

    while (stream->strip_left && str_starts(text, content)) {
        text = str_slice(text, content.len, text.len);
        stream->strip_left--;
    }
    if (text.len)
        stream->strip_left = 0;
    strbuf_add_str(out, text);
}

/* Length of the longest beginning of a character at s[0] (1 to 3), or 0 when none can begin there; *is_open: more
 * bytes could complete it. This is Unicode's "maximal subpart", which one U+FFFD stands for. */
static size_t subpart(struct str s, bool *is_open)
{
    uint8_t first = (uint8_t)s.at[0];
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    size_t need = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    size_t got = need ? 1 : 0;

    for (; got > 0 && got < need && got < s.len; got++) {
        uint8_t byte = (uint8_t)s.at[got];

        if (byte < low || byte > high)
            break;
        low = 0x80;
        high = 0xbf;
    }
    *is_open = got > 0 && got == s.len;
    return got;
}

/* Emits the characters of pending + bytes and keeps an unfinished one. each_byte: every byte that is not part of a
 * character becomes a U+FFFD of its own, as ByteFallback has it. */
static void push_bytes(struct tokenizer_stream *stream, struct str bytes, bool each_byte, struct strbuf *out)
{
    struct strbuf joined = {0};
    size_t at = 0, valid = 0;

    if (stream->pending_bytes == 0 && utf8_is_valid(bytes)) {
        emit(stream, bytes, out);
        return;
    }
    strbuf_add(&joined, stream->pending, stream->pending_bytes);
    strbuf_add_str(&joined, bytes);
    bytes = strbuf_view(&joined);
    stream->pending_bytes = 0;
    while (at < bytes.len) {
        uint32_t codepoint;
        bool is_open;
        size_t len = utf8_decode(str_slice(bytes, at, bytes.len), &codepoint);

        if (len > 0) {
            at += len;
            continue;
        }
        emit(stream, str_slice(bytes, valid, at), out);
        len = subpart(str_slice(bytes, at, bytes.len), &is_open);
        if (is_open) {
            stream->pending_bytes = len;
            memcpy(stream->pending, bytes.at + at, len);
            valid = bytes.len;
            break;
        }
        emit(stream, REPLACEMENT, out);
        at += len > 0 && !each_byte ? len : 1;
        valid = at;
    }
    emit(stream, str_slice(bytes, valid, bytes.len), out);
    strbuf_deinit(&joined);
}

static void flush_pending(struct tokenizer_stream *stream, struct strbuf *out)
{
    size_t count = stream->tok->decoder.byte_fallback ? stream->pending_bytes : stream->pending_bytes > 0;

    for (size_t i = 0; i < count; i++)
        emit(stream, REPLACEMENT, out);
    stream->pending_bytes = 0;
}

static bool is_decoded(const struct tokenizer *tok, int32_t id, bool skip_special)
{
    return tokenizer_token_text(tok, id).at && !(skip_special && tok->is_special[id]);
}

static void push_text(struct tokenizer_stream *stream, int32_t id, struct strbuf *out)
{
    const struct tokenizer *tok = stream->tok;
    struct strbuf first = {0};

    if (!tok->decoder.byte_level)
        flush_pending(stream, out);
    if (stream->has_output && tok->decoder.spaced)
        emit(stream, STR(" "), out);
    if (stream->has_output) {
        push_bytes(stream, tok->decoded[id], false, out);
        return;
    }
    decoder_token_text(&tok->decoder, tok->spelled[id], true, &first);
    push_bytes(stream, strbuf_view(&first), false, out);
    strbuf_deinit(&first);
}

void tokenizer_stream_push(struct tokenizer_stream *stream, int32_t id, struct strbuf *out)
{
    const struct tokenizer *tok = stream->tok;
    char byte;

    if (!is_decoded(tok, id, stream->skip_special))
        return;
    if (tok->decoded_byte[id] >= 0) {
        byte = (char)tok->decoded_byte[id];
        push_bytes(stream, (struct str){&byte, 1}, true, out);
    } else {
        push_text(stream, id, out);
    }
    stream->has_output = true;
}

void tokenizer_stream_finish(struct tokenizer_stream *stream, struct strbuf *out)
{
    flush_pending(stream, out);
}

/* A run of byte tokens is text when all of it is UTF-8, else a U+FFFD for each. Returns where it ends. */
static size_t decode_byte_run(struct tokenizer_stream *stream, const int32_t *ids, size_t at, size_t count,
                              struct strbuf *out)
{
    const struct tokenizer *tok = stream->tok;
    struct strbuf run = {0};

    for (; at < count; at++) {
        if (!is_decoded(tok, ids[at], stream->skip_special))
            continue;
        if (tok->decoded_byte[ids[at]] < 0)
            break;
        strbuf_add_char(&run, (char)tok->decoded_byte[ids[at]]);
    }
    if (utf8_is_valid(strbuf_view(&run)))
        emit(stream, strbuf_view(&run), out);
    else
        for (size_t i = 0; i < run.len; i++)
            emit(stream, REPLACEMENT, out);
    stream->has_output = true;
    strbuf_deinit(&run);
    return at;
}

void tokenizer_decode(const struct tokenizer *tok, const int32_t *ids, size_t count, bool skip_special,
                      struct strbuf *out)
{
    struct tokenizer_stream stream;

    tokenizer_stream_init(&stream, tok, skip_special);
    for (size_t i = 0; i < count;) {
        if (is_decoded(tok, ids[i], skip_special) && tok->decoded_byte[ids[i]] >= 0)
            i = decode_byte_run(&stream, ids, i, count, out);
        else
            tokenizer_stream_push(&stream, ids[i++], out);
    }
    tokenizer_stream_finish(&stream, out);
}
