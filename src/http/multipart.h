/* http/multipart.h - a streaming reader of multipart/form-data (RFC 7578) in constant memory.
 *
 * Bytes go in as they arrive, parts come out: on_part with the headers, on_data as often as needed, on_part_end.
 * What is held back between calls is at most one delimiter or one part's headers, so a 50 GB file needs as much
 * memory as a small one, and the pieces do not depend on how the input was cut except in their sizes.
 *
 * Limits: boundary 1 to 70 characters of RFC 2046's set; 16 parts; per part 8 headers and 4 KiB of headers;
 * preamble and epilogue 4 KiB each. Of the headers only name, filename and Content-Type are understood:
 * `filename*` is ignored, nested multipart and Content-Transfer-Encoding (other than binary, 7bit, 8bit) are
 * refused. Lines end in CRLF. A delimiter is followed by CRLF or by `--`, anything else is refused. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

struct multipart;

struct multipart_part {
    struct str name;          /* never empty, valid UTF-8, no controls */
    struct str filename;      /* as sent, backslash escapes of " and \ undone; metadata, never a path */
    bool has_filename;
    struct str content_type;  /* empty when absent */
};

/* Each returns false with err set to refuse the body; the reader then stays failed. Views are valid during the call. */
struct multipart_sink {
    bool (*on_part)(void *context, const struct multipart_part *part, struct err *err);
    bool (*on_data)(void *context, struct str bytes, struct err *err);
    bool (*on_part_end)(void *context, struct err *err);
};

/* content_type: the request's Content-Type header. NULL with ERR_INPUT when it is not multipart/form-data with
 * one good boundary. sink must outlive the reader. */
struct multipart *multipart_new(struct str content_type, const struct multipart_sink *sink, void *context,
                                struct err *err);
void multipart_free(struct multipart *reader); /* NULL is fine */

/* ERR_INPUT: malformed (400). ERR_LIMIT: one of the limits above (413). Errors of the sink pass through. */
bool multipart_feed(struct multipart *reader, struct str bytes, struct err *err);
/* The body is over: fails unless the closing delimiter was seen. */
bool multipart_finish(struct multipart *reader, struct err *err);
