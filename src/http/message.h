/* http/message.h - response heads. Used inside this room. */
#pragma once

#include "http/server.h"

enum { LENGTH_CHUNKED = -1, LENGTH_UNTIL_CLOSE = -2 };

struct message_head {
    int status;
    const char *content_type; /* NULL: application/json */
    const struct http_header *headers;
    size_t header_count;
    int64_t length;           /* of the body, or one of the above; not told with 204 and 304 */
    const char *id, *date;
    bool is_close;
};

/* The one place where heads are written. False, and nothing appended, when a name is no token or a value holds CR,
 * LF, NUL or another control. */
bool message_head_write(struct strbuf *out, const struct message_head *head);

/* The answer of a status has no body by its nature. */
bool status_is_bodiless(int status);
/* "Sun, 06 Nov 1994 08:49:37 GMT" */
void date_write(int64_t unix_s, char text[40]);
/* One range of a Range header: false when the header is to be ignored (several ranges, another unit, malformed).
 * *is_satisfiable false: 416. Otherwise [*from, *from + *count) lies within size. */
bool range_parse(struct str value, uint64_t size, uint64_t *from, uint64_t *count, bool *is_satisfiable);
