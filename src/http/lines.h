/* http/lines.h - header lines as HTTP and multipart share them: CRLF line ends only, `Name: value` and parameters.
 * Used inside this room. */
#pragma once

#include "base/err.h"
#include "http/server.h"

/* Finds line ends in bytes that arrive in pieces, looking at each byte once. */
struct line_scan {
    size_t at;         /* next byte to look at */
    size_t line_start;
};

enum line_result { LINE_MORE, LINE_READY, LINE_BAD }; /* bad: a CR or LF that is not part of CRLF */

/* bytes: everything since the scan began. LINE_READY sets line (without its CRLF); call again for the next one. */
enum line_result line_next(struct line_scan *scan, struct str bytes, struct str *line);

/* tchar of RFC 9110 */
bool is_token_char(char c);
bool is_token(struct str text);
/* What a header value may hold: no control but tab. */
bool is_value_char(char c);
bool str_equal_nocase(struct str a, struct str b);

/* "Name: value" with optional white space around the value; refuses space before the colon, folds, bad bytes. */
bool header_parse(struct str line, struct http_header *header, struct err *err);

/* Parameters behind a media type or disposition: `; name=token` or `; name="quoted"`. Takes the next one off the
 * front of rest. In quoted values only \" and \\ are escapes (browsers send Windows paths with single backslashes);
 * decoding goes to the arena. *is_end when nothing is left; false with err on malformed text. */
bool parameter_next(struct arena *arena, struct str *rest, struct str *name, struct str *value, bool *is_end,
                    struct err *err);
