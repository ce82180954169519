/* http/chunked.h - the chunked coding of request bodies, strict (RFC 9112, section 7.1). Used inside this room.
 *
 * Bounds: 15 hexadecimal digits of size, 16 bytes of extension per chunk, everything that is not body at most as much
 * as the body so far and 16 KiB, trailers 4 KiB (checked like headers, then discarded). */
#pragma once

#include "http/head.h"

struct chunked {
    uint64_t body_bytes_max; /* set by the caller; announced chunks beyond it are refused with 413 */
    uint64_t body_bytes;     /* announced so far */
    uint64_t overhead_bytes, chunk_left;
    uint32_t digits, extension_bytes, trailer_bytes;
    uint8_t state;           /* of chunked.c; zero is the beginning */
};

enum chunked_result { CHUNKED_MORE, CHUNKED_DATA, CHUNKED_DONE, CHUNKED_REFUSED };

/* Takes bytes off the front of *bytes. CHUNKED_DATA: *data views the next piece of the body, call again.
 * CHUNKED_MORE: all were taken. CHUNKED_DONE: what is left in *bytes belongs to the next request. */
enum chunked_result chunked_read(struct chunked *chunked, struct str *bytes, struct str *data,
                                 struct refusal *refusal);
