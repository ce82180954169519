/* cli/remote.h - calls of a running server, for the commands that are clients.
 *
 * Where the server is: --url, else ATTUNE_BASE_URL (with or without /v1), else http://127.0.0.1:8080. The key:
 * ATTUNE_API_KEY. Errors are what the server said, or why it could not be reached. */
#pragma once

#include "base/json.h"

struct remote {
    const char *url; /* --url; NULL: none is given */
    struct arena arena;
};
void remote_close(struct remote *remote);

/* Its row in a table of cli/options.h. */
#define REMOTE_OPTION(remote)                                                                                          \
    {"url", OPTION_TEXT, &(remote).url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL}

/* `path` begins with /v1. The answer's JSON lies in remote->arena; NULL with err set when the call failed or the
 * server refused. */
const struct json *remote_get(struct remote *remote, const char *path, struct err *err);
const struct json *remote_post(struct remote *remote, const char *path, struct str body, struct err *err);
const struct json *remote_delete(struct remote *remote, const char *path, struct err *err);
const struct json *remote_upload(struct remote *remote, const char *file, const char *purpose, struct err *err);
/* Body of a GET into a new file. */
bool remote_download(struct remote *remote, const char *path, const char *file, struct err *err);
/* A POST answered by server-sent events; on_data returns false to stop. */
bool remote_stream(struct remote *remote, const char *path, struct str body,
                   bool (*on_data)(void *context, struct str data), void *context, struct err *err);

/* Text of a member, or "". In remote->arena, NUL-terminated. */
const char *remote_text(struct remote *remote, const struct json *object, const char *name);
/* Prints the value with two spaces of indent. */
void remote_print(const struct json *value);
