/* hub/home.h - what readers and writers of a Hub share: where it is, and how its answers ask for patience. */
#pragma once

#include "http/place.h"

struct hub_home {
    const char *endpoint;    /* "https://huggingface.co", without a slash at the end */
    struct outgoing_url url; /* as read: the token goes to this origin and nowhere else */
};

/* False when the address is none, or one that the policy (NULL: none) does not let out. Nothing is sent. */
bool hub_home_read(struct arena *arena, const struct outgoing_policy *policy, const char *endpoint,
                   struct hub_home *home, struct err *err);

/* How long an answer asks to be left alone, five minutes at most; 0: it does not. */
int64_t hub_answer_wait_ms(const struct http_client_answer *answer);
