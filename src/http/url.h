/* http/url.h - paths and queries of request targets.
 *
 * A path is decoded once, and what would mean something else to a second decoder is refused: dot segments before
 * and after decoding, backslash, `;` parameters, NUL and other controls, malformed or overlong UTF-8. An encoded
 * slash stays part of its segment, and only where the caller allows it: official clients send
 * /v1/models/org%2Fname. Runs of slashes count as one.
 *
 * Queries are pairs name=value with percent codes and `+` for a space; both are valid UTF-8 without NUL. Names
 * keep brackets as text: metadata%5Bk%5D=v is the pair ("metadata[k]", "v"). */
#pragma once

#include "base/err.h"
#include "base/str.h"

enum { URL_SEGMENTS_MAX = 16, URL_PAIRS_MAX = 64 };

struct url_path {
    struct str segment[URL_SEGMENTS_MAX]; /* decoded, never empty */
    size_t count;
    bool has_encoded_slash; /* some segment holds one */
};

struct url_pair {
    struct str name, value;
};

struct url_query {
    struct url_pair pair[URL_PAIRS_MAX];
    size_t count;
};

/* raw: from the first slash to before the question mark. Segments live in the arena. */
bool url_path_decode(struct arena *arena, struct str raw, struct url_path *path, struct err *err);
/* raw: what stands behind the question mark; may be empty. */
bool url_query_decode(struct arena *arena, struct str raw, struct url_query *query, struct err *err);
/* First value of a name; false when it is absent. */
bool url_query_get(const struct url_query *query, const char *name, struct str *value);
/* Whether the pair is an item of the array of that name: name[]=a&name[]=b, or without the brackets. */
bool url_is_array_item(const struct url_pair *pair, const char *name);
/* Percent-encodes everything but letters, digits and -._~ */
void url_encode(struct strbuf *out, struct str text);

/* Whether a Host header (name or address, with or without a port) means the machine it arrives at: localhost,
 * 127.0.0.0/8 or [::1]. A page that rebinds its own name to a loopback address still sends that name. */
bool url_host_is_local(struct str host);
/* The same name in any case, whatever port the Host header adds. */
bool url_host_is(struct str host, const char *name);
