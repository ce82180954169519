/* A URL that is taken is read the same way again from what requests are made of, and libcurl, which connects, reads the
 * same host and port out of it; a literal address that a public rule lets out is a public one. */
#include "http/outgoing.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_curl(const char *text, const struct outgoing_url *url)
{
    CURLU *handle = curl_url();
    char *host = NULL, *port = NULL, *user = NULL, expected[16], bare[300];
    size_t len;

    if (curl_url_set(handle, CURLUPART_URL, text, CURLU_PATH_AS_IS) != CURLUE_OK ||
        curl_url_get(handle, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
        curl_url_get(handle, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK ||
        curl_url_get(handle, CURLUPART_USER, &user, 0) == CURLUE_OK)
        abort();
    snprintf(expected, sizeof expected, "%d", url->port);
    len = strlen(host);
    snprintf(bare, sizeof bare, "%.*s", (int)(host[0] == '[' ? len - 2 : len), host + (host[0] == '['));
    if (strcmp(port, expected) != 0 || strcmp(bare, url->host) != 0)
        abort();
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(handle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data, size};
    struct arena arena = {0};
    struct outgoing_url url, again;
    struct outgoing_policy policy;
    struct err err;

    if (outgoing_url_parse(&arena, text, &url, &err)) {
        const char *built = arena_printf(&arena, "%s%s", outgoing_url_origin(&arena, &url), url.rest);

        if (!outgoing_url_parse(&arena, str_of(built), &again, &err) || strcmp(url.host, again.host) != 0 ||
            strcmp(url.rest, again.rest) != 0 || url.port != again.port || url.is_https != again.is_https)
            abort();
        check_curl(built, &url);
    }
    outgoing_policy_parse(&arena, str_copy(&arena, text), &policy, &err);
    arena_deinit(&arena);
    return 0;
}
