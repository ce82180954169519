/* http/place.h - an origin that the policy of outgoing requests lets out, resolved once, and requests that keep to it.
 *
 *   struct http_place place;
 *   if (http_place_find(arena, policy, &url, &place, err)) {
 *       http_place_hold(&place, &request);      … every connection of the request goes to what was checked
 *
 * The place must outlive the request. */
#pragma once

#include "http/client.h"
#include "http/outgoing.h"

struct http_place {
    const char *origin;               /* "https://host:8443" */
    const char *pin;                  /* its addresses, as libcurl has them; NULL: an address, or no policy */
    const struct outgoing_rule *rule; /* NULL: no policy */
};

/* policy NULL: every place may be reached, as from a terminal, and nothing is resolved here. */
bool http_place_find(struct arena *arena, const struct outgoing_policy *policy, const struct outgoing_url *url,
                     struct http_place *place, struct err *err);
void http_place_hold(const struct http_place *place, struct http_client_request *request);
