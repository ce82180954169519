#include "http/multipart.h"

#include "http/lines.h"

#include <stdlib.h>
#include <string.h>

enum {
    BOUNDARY_BYTES_MAX = 70,
    PARTS_MAX = 16,
    PART_HEADERS_MAX = 8,
    PART_HEADER_BYTES_MAX = 4096,
    SURROUNDINGS_BYTES_MAX = 4096, /* preamble and epilogue, each */
};

enum multipart_state {
    PREAMBLE,
    AFTER_DELIMITER, /* two bytes say whether a part follows or the end */
    PART_HEADERS,
    PART_DATA,
    EPILOGUE,
    FAILED,
};

struct multipart {
    const struct multipart_sink *sink;
    void *context;
    enum multipart_state state;
    char delimiter[4 + BOUNDARY_BYTES_MAX]; /* CR LF - - boundary */
    size_t delimiter_len;
    size_t matched; /* bytes of the delimiter that the input so far ends in */
    char after[2];
    size_t after_len;
    ptrdiff_t surroundings_bytes;
    size_t part_count, header_count;
    bool is_in_part, has_disposition;
    char headers[PART_HEADER_BYTES_MAX];
    size_t headers_len;
    struct line_scan lines;
    struct multipart_part part;
    struct arena arena; /* of one part's decoded parameters */
};

/* RFC 2046, 5.1.1: bcharsnospace, and space but not at the end. */
static bool is_boundary(struct str text)
{
    if (text.len == 0 || text.len > BOUNDARY_BYTES_MAX || text.at[text.len - 1] == ' ')
        return false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        bool is_alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!is_alnum && (c == 0 || !strchr("'()+_,-./:=? ", c)))
            return false;
    }
    return true;
}

/* Splits "type; parameters"; the parameters keep their first semicolon. */
static struct str leading_value(struct str value, struct str *parameters)
{
    ptrdiff_t semicolon = str_find(value, STR(";"), 0);
    size_t len = semicolon < 0 ? value.len : (size_t)semicolon;

    *parameters = str_slice(value, len, value.len);
    return str_trim(str_slice(value, 0, len));
}

static bool read_boundary(struct multipart *reader, struct str content_type, struct err *err)
{
    struct str parameters, name, value, boundary = STR_NONE;
    bool is_end;

    if (!str_equal_nocase(leading_value(content_type, &parameters), STR("multipart/form-data")))
        return err_set(err, ERR_INPUT, "the body's Content-Type is not multipart/form-data");
    for (;;) {
        if (!parameter_next(&reader->arena, &parameters, &name, &value, &is_end, err))
            return err_prefix(err, "Content-Type");
        if (is_end)
            break;
        if (!str_equal_nocase(name, STR("boundary")))
            continue;
        if (boundary.at)
            return err_set(err, ERR_INPUT, "Content-Type names two boundaries");
        boundary = value;
    }
    if (!is_boundary(boundary))
        return err_set(err, ERR_INPUT, "Content-Type has no boundary of 1 to 70 allowed characters");
    memcpy(reader->delimiter, "\r\n--", 4);
    memcpy(reader->delimiter + 4, boundary.at, boundary.len);
    reader->delimiter_len = 4 + boundary.len;
    return true;
}

struct multipart *multipart_new(struct str content_type, const struct multipart_sink *sink, void *context,
                                struct err *err)
{
    struct multipart *reader = mem_alloc_zero(1, sizeof *reader);

    reader->sink = sink;
    reader->context = context;
    /* The first delimiter may stand at the very beginning: its CR LF counts as seen, but not as preamble. */
    reader->matched = 2;
    reader->surroundings_bytes = -2;
    if (!read_boundary(reader, content_type, err)) {
        multipart_free(reader);
        return NULL;
    }
    return reader;
}

void multipart_free(struct multipart *reader)
{
    if (!reader)
        return;
    arena_deinit(&reader->arena);
    free(reader);
}

/* The part's headers. */

static bool check_text(struct str text, const char *what, struct err *err)
{
    for (size_t i = 0; i < text.len; i++)
        if (!is_value_char(text.at[i]))
            return err_set(err, ERR_INPUT, "a part's %s holds a control character", what);
    return utf8_is_valid(text) || err_set(err, ERR_INPUT, "a part's %s is not valid UTF-8", what);
}

static bool set_parameter(struct str *place, bool is_set, struct str value, const char *what, struct err *err)
{
    if (is_set)
        return err_set(err, ERR_INPUT, "a part has two values for %s", what);
    *place = value;
    return check_text(value, what, err);
}

static bool read_disposition(struct multipart *reader, struct str value, struct err *err)
{
    struct multipart_part *part = &reader->part;
    struct str parameters, name, text;
    bool is_end;

    if (reader->has_disposition)
        return err_set(err, ERR_INPUT, "a part has two Content-Disposition headers");
    reader->has_disposition = true;
    if (!str_equal_nocase(leading_value(value, &parameters), STR("form-data")))
        return err_set(err, ERR_INPUT, "a part's Content-Disposition is not form-data");
    for (;;) {
        if (!parameter_next(&reader->arena, &parameters, &name, &text, &is_end, err))
            return err_prefix(err, "Content-Disposition of a part");
        if (is_end)
            return true;
        if (str_equal_nocase(name, STR("name"))) {
            if (!set_parameter(&part->name, part->name.at != NULL, text, "name", err))
                return false;
        } else if (str_equal_nocase(name, STR("filename"))) {
            if (!set_parameter(&part->filename, part->has_filename, text, "filename", err))
                return false;
            part->has_filename = true;
        }
    }
}

static bool is_identity_encoding(struct str value)
{
    return str_equal_nocase(value, STR("binary")) || str_equal_nocase(value, STR("8bit")) ||
           str_equal_nocase(value, STR("7bit"));
}

static bool read_header(struct multipart *reader, struct str line, struct err *err)
{
    struct http_header header;

    if (reader->header_count++ == PART_HEADERS_MAX)
        return err_set(err, ERR_LIMIT, "a part has more than %d headers", PART_HEADERS_MAX);
    if (!header_parse(line, &header, err))
        return err_prefix(err, "in a part");
    if (str_equal_nocase(header.name, STR("content-disposition")))
        return read_disposition(reader, header.value, err);
    if (str_equal_nocase(header.name, STR("content-type"))) {
        if (str_equal_nocase(str_slice(header.value, 0, 10), STR("multipart/")))
            return err_set(err, ERR_UNSUPPORTED, "a part is itself multipart");
        reader->part.content_type = header.value;
    } else if (str_equal_nocase(header.name, STR("content-transfer-encoding"))) {
        return is_identity_encoding(header.value) ||
               err_set(err, ERR_UNSUPPORTED, "a part has a Content-Transfer-Encoding");
    }
    return true;
}

static bool begin_part(struct multipart *reader, struct err *err)
{
    if (!reader->has_disposition || reader->part.name.len == 0)
        return err_set(err, ERR_INPUT, "a part has no Content-Disposition with a name");
    reader->state = PART_DATA;
    reader->is_in_part = true;
    return reader->sink->on_part(reader->context, &reader->part, err);
}

/* Byte by byte: headers are few, and so the end is found without giving bytes back. */
static bool feed_headers(struct multipart *reader, struct str *bytes, struct err *err)
{
    while (bytes->len > 0) {
        struct str line;
        enum line_result result;

        if (reader->headers_len == PART_HEADER_BYTES_MAX)
            return err_set(err, ERR_LIMIT, "a part's headers are longer than %d bytes", PART_HEADER_BYTES_MAX);
        reader->headers[reader->headers_len++] = bytes->at[0];
        *bytes = str_slice(*bytes, 1, bytes->len);
        result = line_next(&reader->lines, (struct str){reader->headers, reader->headers_len}, &line);
        if (result == LINE_BAD)
            return err_set(err, ERR_INPUT, "a line of a part's headers does not end in CR LF");
        if (result == LINE_READY && line.len == 0)
            return begin_part(reader, err);
        if (result == LINE_READY && !read_header(reader, line, err))
            return false;
    }
    return true;
}

/* Content and delimiters. */

static bool emit(struct multipart *reader, struct str bytes, struct err *err)
{
    if (bytes.len == 0)
        return true;
    if (reader->state == PART_DATA)
        return reader->sink->on_data(reader->context, bytes, err);
    reader->surroundings_bytes += (ptrdiff_t)bytes.len;
    return reader->surroundings_bytes <= SURROUNDINGS_BYTES_MAX ||
           err_set(err, ERR_LIMIT, "more than %d bytes stand before the first part", SURROUNDINGS_BYTES_MAX);
}

static size_t common_prefix(const char *a, const char *b, size_t len)
{
    size_t same = 0;

    while (same < len && a[same] == b[same])
        same++;
    return same;
}

/* Where the delimiter begins, whole or cut off by the end of the bytes (*matched says how much of it is there), or the
 * end. Linear: a run that matches the delimiter holds no CR behind its first byte, so none is looked at twice. */
static size_t find_delimiter(const struct multipart *reader, struct str bytes, size_t *matched)
{
    const char *at = bytes.at, *end = bytes.at + bytes.len;

    *matched = 0;
    while (at < end) {
        size_t whole, same;
        /* memchr pays off between lines; in runs of delimiters' beginnings the next CR is right here. */
        if (*at != '\r' && !(at = memchr(at, '\r', (size_t)(end - at))))
            break;
        whole = (size_t)(end - at) < reader->delimiter_len ? (size_t)(end - at) : reader->delimiter_len;
        same = common_prefix(at, reader->delimiter, whole);
        if (same == whole) {
            *matched = same;
            return (size_t)(at - bytes.at);
        }
        at += same;
    }
    return bytes.len;
}

static bool end_content(struct multipart *reader, struct err *err)
{
    bool was_in_part = reader->is_in_part;

    reader->matched = 0;
    reader->after_len = 0;
    reader->is_in_part = false;
    reader->state = AFTER_DELIMITER;
    return !was_in_part || reader->sink->on_part_end(reader->context, err);
}

/* Goes on with a delimiter that an earlier call left unfinished. */
static bool resume_delimiter(struct multipart *reader, struct str *bytes, struct err *err)
{
    size_t left = reader->delimiter_len - reader->matched;
    size_t whole = bytes->len < left ? bytes->len : left;
    size_t same = common_prefix(bytes->at, reader->delimiter + reader->matched, whole);
    struct str held = {reader->delimiter, reader->matched + same};

    *bytes = str_slice(*bytes, same, bytes->len);
    reader->matched += same;
    if (same == left)
        return end_content(reader, err);
    if (same == whole)
        return true;
    reader->matched = 0;
    return emit(reader, held, err);
}

static bool feed_content(struct multipart *reader, struct str *bytes, struct err *err)
{
    size_t content_len;

    if (reader->matched > 0)
        return resume_delimiter(reader, bytes, err);
    content_len = find_delimiter(reader, *bytes, &reader->matched);
    if (!emit(reader, str_slice(*bytes, 0, content_len), err))
        return false;
    *bytes = str_slice(*bytes, content_len + reader->matched, bytes->len);
    return reader->matched < reader->delimiter_len || end_content(reader, err);
}

static bool begin_headers(struct multipart *reader, struct err *err)
{
    if (reader->part_count++ == PARTS_MAX)
        return err_set(err, ERR_LIMIT, "the body has more than %d parts", PARTS_MAX);
    reader->state = PART_HEADERS;
    reader->header_count = reader->headers_len = 0;
    reader->lines = (struct line_scan){0};
    reader->has_disposition = false;
    reader->part = (struct multipart_part){0};
    arena_reset(&reader->arena);
    return true;
}

static bool feed_after(struct multipart *reader, struct str *bytes, struct err *err)
{
    reader->after[reader->after_len++] = bytes->at[0];
    *bytes = str_slice(*bytes, 1, bytes->len);
    if (reader->after_len < 2)
        return true;
    if (memcmp(reader->after, "\r\n", 2) == 0)
        return begin_headers(reader, err);
    reader->state = EPILOGUE;
    reader->surroundings_bytes = 0;
    return memcmp(reader->after, "--", 2) == 0 ||
           err_set(err, ERR_INPUT, "a boundary is followed by neither CR LF nor two dashes");
}

static bool feed_epilogue(struct multipart *reader, struct str *bytes, struct err *err)
{
    reader->surroundings_bytes += (ptrdiff_t)bytes->len;
    *bytes = STR_NONE;
    return reader->surroundings_bytes <= SURROUNDINGS_BYTES_MAX ||
           err_set(err, ERR_LIMIT, "more than %d bytes stand behind the last part", SURROUNDINGS_BYTES_MAX);
}

static bool feed_once(struct multipart *reader, struct str *bytes, struct err *err)
{
    switch (reader->state) {
    case PREAMBLE:
    case PART_DATA:       return feed_content(reader, bytes, err);
    case AFTER_DELIMITER: return feed_after(reader, bytes, err);
    case PART_HEADERS:    return feed_headers(reader, bytes, err);
    case EPILOGUE:        return feed_epilogue(reader, bytes, err);
    case FAILED:          break;
    }
    return err_set(err, ERR_INPUT, "the body was refused before");
}

bool multipart_feed(struct multipart *reader, struct str bytes, struct err *err)
{
    while (bytes.len > 0)
        if (!feed_once(reader, &bytes, err)) {
            reader->state = FAILED;
            return false;
        }
    return true;
}

bool multipart_finish(struct multipart *reader, struct err *err)
{
    return reader->state == EPILOGUE ||
           err_set(err, ERR_INPUT, "the body ends before its closing boundary");
}
