/* hub/get.h - reading from a Hub: GETs that follow its redirects.
 *
 * A redirect is asked for anew (http/outgoing.h): its URL read as strictly, its origin held against the policy, its
 * name resolved and pinned. The token goes to the Hub's own origin and nowhere else. What a Hub says about itself is
 * told apart: a repository that is not there, one that is gated, a revision that is not there, a token that it does not
 * know. Messages name origins, never a signed URL. */
#pragma once

#include "hub/home.h"

struct hub_reader {
    struct arena *arena;
    const struct outgoing_policy *policy; /* NULL: every place may be reached, as from a terminal */
    const char *token;                    /* NULL: none */
    const char *repo, *revision;          /* for messages */
    struct hub_home home;
    int64_t wait_ms;                      /* what the last answer asked for; 0: nothing */
};

/* Reads and checks the endpoint. Nothing is sent yet. */
bool hub_reader_open(struct hub_reader *reader, const char *endpoint, struct err *err);

/* GET of a path of the endpoint or of a whole URL; the request's headers and callbacks are the caller's. True with an
 * answer of 2xx; the caller frees it in any case. ERR_IO and ERR_TIMEOUT may work later, ERR_AUTH, ERR_NOT_FOUND,
 * ERR_INPUT and ERR_LIMIT will not. */
bool hub_get(struct hub_reader *reader, const char *path, struct http_client_request *request,
             struct http_client_answer *answer, struct err *err);
