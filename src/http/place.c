#include "http/place.h"

bool http_place_find(struct arena *arena, const struct outgoing_policy *policy, const struct outgoing_url *url,
                     struct http_place *place, struct err *err)
{
    struct strbuf pin = {0};
    bool ok = true;

    *place = (struct http_place){.origin = outgoing_url_origin(arena, url)};
    if (!policy)
        return true;
    place->rule = outgoing_find_rule(policy, url, err);
    ok = place->rule && outgoing_resolve(place->rule, url, &pin, err);
    if (pin.len)
        place->pin = str_copy(arena, strbuf_view(&pin));
    strbuf_deinit(&pin);
    return ok;
}

static bool may_connect(void *context, const struct sockaddr *address)
{
    return outgoing_rule_allows(context, address);
}

void http_place_hold(const struct http_place *place, struct http_client_request *request)
{
    if (!place->rule)
        return;
    request->may_connect = may_connect;
    request->connect_context = (void *)(uintptr_t)place->rule;
    request->pin = place->pin;
}
