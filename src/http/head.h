/* http/head.h - request heads (RFC 9112), strict. Used inside this room.
 *
 * head_scan looks at bytes as they arrive and says when the head is complete, or that it is past a limit or has a
 * line end that no later byte can mend; it looks at each byte once, so its verdict does not depend on how the bytes
 * were cut. head_parse then reads the complete head. Every refusal has its status; after one nothing more may be read
 * from that connection. */
#pragma once

#include "http/lines.h"

struct head_limits {
    size_t line_bytes, head_bytes, header_count;
};

struct refusal {
    int status; /* 0: none */
    char text[160];
};

struct head_scan {
    struct line_scan lines;
    size_t line_count; /* complete ones, request line included */
};

enum head_result { HEAD_MORE, HEAD_DONE, HEAD_REFUSED };

/* bytes: everything since the head began. HEAD_DONE sets *head_len, the empty line included. One empty line before
 * the request line is skipped (RFC 9112, 2.2). */
enum head_result head_scan(struct head_scan *scan, const struct head_limits *limits, struct str bytes,
                           size_t *head_len, struct refusal *refusal);

struct head {
    enum http_method method;      /* HTTP_METHOD_COUNT: a token that names none of ours, answered 501 */
    struct str path, query, host; /* of the target; host from Host, empty only on HTTP/1.0; path "*" for OPTIONS */
    int minor_version;
    struct http_header *headers;
    size_t header_count;
    int64_t content_length;       /* 0 without a body */
    bool has_body;                /* a length or chunks are announced */
    bool is_chunked;
    bool is_close;                /* the connection ends after this exchange */
    bool expects_continue;
};

/* bytes: a head that head_scan found complete, living as long as the result; arrays come from the arena. */
bool head_parse(struct arena *arena, struct str bytes, struct head *head, struct refusal *refusal);
