#include "http/chunked.h"
#include "base/str.h"

#include <stdio.h>

enum { SIZE_DIGITS_MAX = 15, EXTENSION_BYTES_MAX = 16, OVERHEAD_FREE = 16384, TRAILER_BYTES_MAX = 4096 };

enum chunked_state {
    SIZE,           /* hexadecimal digits */
    EXTENSION,      /* behind a semicolon, up to CR */
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_START,  /* of a line, or the CR of the last one */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF,
    END,
};

static bool refuse(struct refusal *refusal, int status, const char *text)
{
    refusal->status = status;
    snprintf(refusal->text, sizeof refusal->text, "%s", text);
    return false;
}

static bool size_byte(struct chunked *chunked, char c, struct refusal *refusal)
{
    int value = hex_value(c);

    if (value >= 0 && chunked->digits < SIZE_DIGITS_MAX) {
        chunked->chunk_left = chunked->chunk_left * 16 + (uint64_t)value;
        chunked->digits++;
        return true;
    }
    if (chunked->digits == 0 || value >= 0 || (c != '\r' && c != ';'))
        return refuse(refusal, 400, "A chunk's size is not 1 to 15 hexadecimal digits.");
    chunked->state = c == ';' ? EXTENSION : SIZE_LF;
    chunked->extension_bytes = 1;
    return true;
}

static bool extension_byte(struct chunked *chunked, char c, struct refusal *refusal)
{
    if (c == '\r')
        chunked->state = SIZE_LF;
    else if (!is_value_char(c) || ++chunked->extension_bytes > EXTENSION_BYTES_MAX)
        return refuse(refusal, 400, "A chunk's extension is malformed or longer than 16 bytes.");
    return true;
}

/* The size line is complete. */
static bool size_end(struct chunked *chunked, char c, struct refusal *refusal)
{
    if (c != '\n')
        return refuse(refusal, 400, "A chunk's size line does not end in CR LF.");
    chunked->state = chunked->chunk_left == 0 ? TRAILER_START : DATA;
    if (chunked->chunk_left > chunked->body_bytes_max - chunked->body_bytes)
        return refuse(refusal, 413, "The request's body is too large.");
    chunked->body_bytes += chunked->chunk_left;
    chunked->digits = 0;
    return true;
}

static bool trailer_byte(struct chunked *chunked, char c, struct refusal *refusal)
{
    bool is_start = chunked->state == TRAILER_START;

    if (++chunked->trailer_bytes > TRAILER_BYTES_MAX)
        return refuse(refusal, 400, "The trailers are longer than 4 KiB.");
    if (is_start && c == '\r')
        chunked->state = END_LF;
    else if (chunked->state == TRAILER_VALUE && c == '\r')
        chunked->state = TRAILER_LF;
    else if (chunked->state == TRAILER_VALUE && is_value_char(c))
        return true;
    else if (chunked->state == TRAILER_NAME && c == ':')
        chunked->state = TRAILER_VALUE;
    else if (chunked->state != TRAILER_VALUE && is_token_char(c))
        chunked->state = TRAILER_NAME;
    else
        return refuse(refusal, 400, "A trailer is malformed.");
    return true;
}

/* c must be `wanted`, then the state is `next`. */
static bool expect_byte(struct chunked *chunked, char c, char wanted, enum chunked_state next, struct refusal *refusal)
{
    if (c != wanted)
        return refuse(refusal, 400, "A chunk or a trailer does not end in CR LF.");
    chunked->state = (uint8_t)next;
    return true;
}

static bool frame_byte(struct chunked *chunked, char c, struct refusal *refusal)
{
    if (++chunked->overhead_bytes > chunked->body_bytes + OVERHEAD_FREE)
        return refuse(refusal, 400, "The chunks' framing is larger than what they carry.");
    switch ((enum chunked_state)chunked->state) {
    case SIZE:          return size_byte(chunked, c, refusal);
    case EXTENSION:     return extension_byte(chunked, c, refusal);
    case SIZE_LF:       return size_end(chunked, c, refusal);
    case DATA_CR:       return expect_byte(chunked, c, '\r', DATA_LF, refusal);
    case DATA_LF:       return expect_byte(chunked, c, '\n', SIZE, refusal);
    case TRAILER_START:
    case TRAILER_NAME:
    case TRAILER_VALUE: return trailer_byte(chunked, c, refusal);
    case TRAILER_LF:    return expect_byte(chunked, c, '\n', TRAILER_START, refusal);
    case END_LF:        return expect_byte(chunked, c, '\n', END, refusal);
    case DATA:
    case END:           break;
    }
    ASSERT(!"a state that has no framing byte");
    return false;
}

static struct str take(struct str *bytes, uint64_t count)
{
    struct str taken = str_slice(*bytes, 0, count < bytes->len ? (size_t)count : bytes->len);

    *bytes = str_slice(*bytes, taken.len, bytes->len);
    return taken;
}

enum chunked_result chunked_read(struct chunked *chunked, struct str *bytes, struct str *data,
                                 struct refusal *refusal)
{
    while (chunked->state != END && bytes->len > 0) {
        if (chunked->state == DATA) {
            *data = take(bytes, chunked->chunk_left);
            chunked->chunk_left -= data->len;
            if (chunked->chunk_left == 0)
                chunked->state = DATA_CR;
            return CHUNKED_DATA;
        }
        if (!frame_byte(chunked, take(bytes, 1).at[0], refusal))
            return CHUNKED_REFUSED;
    }
    return chunked->state == END ? CHUNKED_DONE : CHUNKED_MORE;
}
