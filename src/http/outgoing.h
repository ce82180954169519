/* http/outgoing.h - where requests of this service may go: one policy for every URL that a tenant names.
 *
 * The operator lists origins; without a list nothing is reached. A URL is read by a strict parser, which also builds
 * the request, so that no two readers can differ about it: http and https alone, printable ASCII, no user, no fragment,
 * addresses in their one canonical spelling. The name is resolved once, every address must be a global unicast one
 * (loopback, private, link-local, shared, multicast, documentation and tunnel ranges are not), and the connection is
 * pinned to what was checked. An origin that the operator marks as internal may have any address.
 *
 *     https://mlflow.example.com            this origin (443), public addresses
 *     http://tracker.example.com:5000       plain http is allowed by being listed
 *     internal:http://10.0.0.5:5000         and so are addresses of the inside
 *     https://anywhere                      every public https origin */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <sys/socket.h>

struct outgoing_url {
    bool is_https, is_address;
    const char *host; /* lower case, without brackets */
    int port;
    const char *rest; /* path and query, "/" at least */
};
bool outgoing_url_parse(struct arena *arena, struct str text, struct outgoing_url *url, struct err *err);
/* Where an answer from `from` sends the request: a whole URL, "//host/path" or "/path". ERR_INPUT for
 * anything else, and for a way from https to http. Whether that place may be reached is to be asked of the policy anew;
 * credentials go there when outgoing_is_same says so. */
bool outgoing_follow(struct arena *arena, const struct outgoing_url *from, struct str location,
                     struct outgoing_url *url, struct err *err);
bool outgoing_is_same(const struct outgoing_url *a, const struct outgoing_url *b); /* origin */
/* "https://host:8443" without a default port; brackets around IPv6. */
char *outgoing_url_origin(struct arena *arena, const struct outgoing_url *url);

enum { OUTGOING_RULES_MAX = 64 };
struct outgoing_policy {
    struct outgoing_rule {
        struct outgoing_url url;
        bool is_internal, is_any;
    } rules[OUTGOING_RULES_MAX];
    size_t count;
};
/* Rules apart by commas or white space; NULL or empty: none. Their texts live in the arena. */
bool outgoing_policy_parse(struct arena *arena, const char *text, struct outgoing_policy *policy, struct err *err);

/* The rule that lets this URL out; NULL with ERR_AUTH when there is none. Nothing is resolved here. */
const struct outgoing_rule *outgoing_find_rule(const struct outgoing_policy *policy, const struct outgoing_url *url,
                                               struct err *err);
bool outgoing_address_is_global(const struct sockaddr *address);
bool outgoing_rule_allows(const struct outgoing_rule *rule, const struct sockaddr *address);

/* The name's addresses, all of which the rule allows, as libcurl pins them: "host:port:address,address". Nothing for an
 * address. Asks the resolver: for the processes that may use the network. */
bool outgoing_resolve(const struct outgoing_rule *rule, const struct outgoing_url *url, struct strbuf *pin,
                      struct err *err);
