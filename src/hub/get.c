#include "hub/get.h"

#include <string.h>

enum { REDIRECTS_MAX = 5, CONNECT_MS = 10000, STALL_MS = 60000 };

static bool read_url(struct hub_reader *reader, const char *path, struct outgoing_url *url, struct err *err)
{
    if (path[0] == '/')
        path = arena_printf(reader->arena, "%s%s", reader->home.endpoint, path);
    return outgoing_url_parse(reader->arena, str_of(path), url, err);
}

bool hub_reader_open(struct hub_reader *reader, const char *endpoint, struct err *err)
{
    return hub_home_read(reader->arena, reader->policy, endpoint, &reader->home, err);
}

/* --- what an answer means --- */

static bool refuse_gated(const struct hub_reader *reader, struct err *err)
{
    return err_set(err, ERR_AUTH, "%s is gated: %s at %s/%s", reader->repo,
                   reader->token
                       ? "the token's owner has to accept its conditions, and the token to allow gated models,"
                       : "accept its conditions, and give a token of the account that did,",
                   reader->home.endpoint, reader->repo);
}

static bool refuse_missing(const struct hub_reader *reader, struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "%s is not at %s, or it is private and %s", reader->repo, reader->home.endpoint,
                   reader->token ? "the token's owner may not read it" : "no token was given");
}

static bool refuse(struct hub_reader *reader, const struct http_client_answer *answer, struct err *err)
{
    struct str code = http_client_answer_header(answer, "x-error-code"),
               message = http_client_answer_header(answer, "x-error-message");
    const int status = answer->status;

    if (status == 408 || status == 429 || status >= 500)
        return err_set(err, ERR_IO, "%s answered %d", reader->home.endpoint, status);
    if (str_is(code, "GatedRepo"))
        return refuse_gated(reader, err);
    if (str_is(code, "RevisionNotFound"))
        return err_set(err, ERR_NOT_FOUND, "%s has no revision '%s'", reader->repo, reader->revision);
    if (str_is(code, "EntryNotFound"))
        return err_set(err, ERR_NOT_FOUND, "%s does not have a file any more that its list names", reader->repo);
    if (status == 401 && str_starts(message, STR("Invalid credentials")))
        return err_set(err, ERR_AUTH, "%s does not know the token: make a new one at %s/settings/tokens",
                       reader->home.endpoint, reader->home.endpoint);
    if (str_is(code, "RepoNotFound") || status == 401 || status == 404)
        return refuse_missing(reader, err);
    if (str_starts(message, STR("Access to this resource is disabled")))
        return err_set(err, ERR_AUTH, "%s is disabled at %s", reader->repo, reader->home.endpoint);
    if (status == 403)
        return err_set(err, ERR_AUTH, "the token may not read %s", reader->repo);
    return err_set(err, ERR_INPUT, "%s answered %d", reader->home.endpoint, status);
}

/* A store refuses a signed URL that has become too old: a new one is to be had from the Hub. */
static bool refuse_elsewhere(const char *origin, int status, struct err *err)
{
    return err_set(err, ERR_IO, "%s, where the Hub keeps the file, answered %d", origin, status);
}

/* --- requests --- */

/* One request to one place. False when no answer came. */
static bool ask(struct hub_reader *reader, const struct outgoing_url *url, struct http_client_request *request,
                struct http_client_answer *answer, struct err *err)
{
    struct http_place place;

    if (!http_place_find(reader->arena, reader->policy, url, &place, err))
        return false;
    http_place_hold(&place, request);
    request->method = "GET";
    request->url = arena_printf(reader->arena, "%s%s", place.origin, url->rest);
    request->shown_url = place.origin;
    request->bearer = outgoing_is_same(url, &reader->home.url) ? reader->token : NULL;
    request->connect_ms = CONNECT_MS;
    request->stall_ms = STALL_MS;
    return http_client_send(request, answer, err);
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool hub_get(struct hub_reader *reader, const char *path, struct http_client_request *request,
             struct http_client_answer *answer, struct err *err)
{
    struct outgoing_url url, next;

    reader->wait_ms = 0;
    if (!read_url(reader, path, &url, err))
        return false;
    for (int hops = 0;; hops++) {
        http_client_answer_deinit(answer);
        *answer = (struct http_client_answer){0};
        if (!ask(reader, &url, request, answer, err))
            return false;
        if (!is_redirect(answer->status))
            break;
        if (hops == REDIRECTS_MAX)
            return err_set(err, ERR_LIMIT, "%s sends from one place to another, more than %d times",
                           reader->home.endpoint, REDIRECTS_MAX);
        if (!outgoing_follow(reader->arena, &url, http_client_answer_header(answer, "location"), &next, err))
            return err_prefix(err, "a redirect of %s", outgoing_url_origin(reader->arena, &url));
        url = next;
    }
    if (answer->status >= 200 && answer->status < 300)
        return true;
    reader->wait_ms = hub_answer_wait_ms(answer);
    return outgoing_is_same(&url, &reader->home.url)
               ? refuse(reader, answer, err)
               : refuse_elsewhere(outgoing_url_origin(reader->arena, &url), answer->status, err);
}
