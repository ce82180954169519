#include "hub/get.h"

#include <string.h>

enum { REDIRECTS_MAX = 5, CONNECT_MS = 10000, STALL_MS = 60000, WAIT_S_MAX = 300 };

static bool read_url(struct hub_reader *reader, const char *path, struct outgoing_url *url, struct err *err)
{
    if (path[0] == '/')
        path = arena_printf(reader->arena, "%s%s", reader->endpoint, path);
    return outgoing_url_parse(reader->arena, str_of(path), url, err);
}

bool hub_reader_open(struct hub_reader *reader, const char *endpoint, struct err *err)
{
    struct str text = str_of(endpoint);

    while (str_ends(text, STR("/")))
        text.len--;
    reader->endpoint = str_copy(reader->arena, text);
    if (!outgoing_url_parse(reader->arena, text, &reader->home, err))
        return err_prefix(err, "the Hub's address (HF_ENDPOINT)");
    return !reader->policy || outgoing_find_rule(reader->policy, &reader->home, err);
}

/* --- what an answer means --- */

/* ratelimit: "api";r=0;t=55 says so where Retry-After does not. */
static int64_t wait_of(const struct http_client_answer *answer)
{
    struct str limit = http_client_answer_header(answer, "ratelimit");
    ptrdiff_t at = str_find(limit, STR(";t="), 0), end;
    int64_t seconds = answer->retry_after_s;

    if (seconds == 0 && at >= 0) {
        end = str_find(limit, STR(";"), (size_t)at + 3);
        if (!str_to_i64(str_slice(limit, (size_t)at + 3, end < 0 ? limit.len : (size_t)end), &seconds))
            seconds = 0;
    }
    return seconds > 0 ? 1000 * (1 + (seconds < WAIT_S_MAX ? seconds : WAIT_S_MAX)) : 0;
}

static bool refuse_gated(const struct hub_reader *reader, struct err *err)
{
    return err_set(err, ERR_AUTH, "%s is gated: %s at %s/%s", reader->repo,
                   reader->token
                       ? "the token's owner has to accept its conditions, and the token to allow gated models,"
                       : "accept its conditions, and give a token of the account that did,",
                   reader->endpoint, reader->repo);
}

static bool refuse_missing(const struct hub_reader *reader, struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "%s is not at %s, or it is private and %s", reader->repo, reader->endpoint,
                   reader->token ? "the token's owner may not read it" : "no token was given");
}

static bool refuse(struct hub_reader *reader, const struct http_client_answer *answer, struct err *err)
{
    struct str code = http_client_answer_header(answer, "x-error-code"),
               message = http_client_answer_header(answer, "x-error-message");
    const int status = answer->status;

    if (status == 408 || status == 429 || status >= 500)
        return err_set(err, ERR_IO, "%s answered %d", reader->endpoint, status);
    if (str_is(code, "GatedRepo"))
        return refuse_gated(reader, err);
    if (str_is(code, "RevisionNotFound"))
        return err_set(err, ERR_NOT_FOUND, "%s has no revision '%s'", reader->repo, reader->revision);
    if (str_is(code, "EntryNotFound"))
        return err_set(err, ERR_NOT_FOUND, "%s does not have a file any more that its list names", reader->repo);
    if (status == 401 && str_starts(message, STR("Invalid credentials")))
        return err_set(err, ERR_AUTH, "%s does not know the token: make a new one at %s/settings/tokens",
                       reader->endpoint, reader->endpoint);
    if (str_is(code, "RepoNotFound") || status == 401 || status == 404)
        return refuse_missing(reader, err);
    if (str_starts(message, STR("Access to this resource is disabled")))
        return err_set(err, ERR_AUTH, "%s is disabled at %s", reader->repo, reader->endpoint);
    if (status == 403)
        return err_set(err, ERR_AUTH, "the token may not read %s", reader->repo);
    return err_set(err, ERR_INPUT, "%s answered %d", reader->endpoint, status);
}

/* A store refuses a signed URL that has become too old: a new one is to be had from the Hub. */
static bool refuse_elsewhere(const char *origin, int status, struct err *err)
{
    return err_set(err, ERR_IO, "%s, where the Hub keeps the file, answered %d", origin, status);
}

/* --- requests --- */

static bool may_connect(void *context, const struct sockaddr *address)
{
    return outgoing_rule_allows(context, address);
}

/* One request to one place. False when no answer came. */
static bool ask(struct hub_reader *reader, const struct outgoing_url *url, struct http_client_request *request,
                struct http_client_answer *answer, struct err *err)
{
    const char *origin = outgoing_url_origin(reader->arena, url);
    const struct outgoing_rule *rule = NULL;
    struct strbuf pin = {0};
    bool ok = true;

    if (reader->policy) {
        rule = outgoing_find_rule(reader->policy, url, err);
        ok = rule && outgoing_resolve(rule, url, &pin, err);
        request->may_connect = may_connect;
        request->connect_context = (void *)(uintptr_t)rule;
        request->pin = pin.len ? pin.at : NULL;
    }
    request->method = "GET";
    request->url = arena_printf(reader->arena, "%s%s", origin, url->rest);
    request->shown_url = origin;
    request->bearer = outgoing_is_same(url, &reader->home) ? reader->token : NULL;
    request->connect_ms = CONNECT_MS;
    request->stall_ms = STALL_MS;
    ok = ok && http_client_send(request, answer, err);
    strbuf_deinit(&pin);
    return ok;
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
            return err_set(err, ERR_LIMIT, "%s sends from one place to another, more than %d times", reader->endpoint,
                           REDIRECTS_MAX);
        if (!outgoing_follow(reader->arena, &url, http_client_answer_header(answer, "location"), &next, err))
            return err_prefix(err, "a redirect of %s", outgoing_url_origin(reader->arena, &url));
        url = next;
    }
    if (answer->status >= 200 && answer->status < 300)
        return true;
    reader->wait_ms = wait_of(answer);
    return outgoing_is_same(&url, &reader->home)
               ? refuse(reader, answer, err)
               : refuse_elsewhere(outgoing_url_origin(reader->arena, &url), answer->status, err);
}
