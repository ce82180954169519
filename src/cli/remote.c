#include "cli/remote.h"
#include "http/client.h"
#include "os/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *address(struct remote *remote, const char *path)
{
    const char *url = remote->url ? remote->url : getenv("ATTUNE_BASE_URL");
    struct str base = str_of(url ? url : "http://127.0.0.1:8080");

    while (base.len && base.at[base.len - 1] == '/')
        base.len--;
    if (str_ends(base, STR("/v1")))
        base.len -= 3;
    return arena_printf(&remote->arena, "%.*s%s", STR_ARG(base), path);
}

static const char *key(void)
{
    return getenv("ATTUNE_API_KEY");
}

void remote_close(struct remote *remote)
{
    arena_deinit(&remote->arena);
}

static bool refused(struct remote *remote, const struct http_client_answer *answer, struct err *err)
{
    return err_set(err, answer->status == 404 ? ERR_NOT_FOUND : ERR_INPUT, "%s%s",
                   http_client_answer_message(answer, &remote->arena),
                   answer->status == 401 ? "; the key comes from ATTUNE_API_KEY" : "");
}

static const struct json *finish(struct remote *remote, struct http_client_answer *answer, struct err *err)
{
    struct str body = {arena_copy(&remote->arena, answer->body.at, answer->body.len), answer->body.len};
    const struct json *json = NULL;

    if (answer->status / 100 != 2)
        refused(remote, answer, err);
    else if (!(json = json_parse(&remote->arena, body, NULL, err)))
        err_prefix(err, "the server's answer");
    http_client_answer_deinit(answer);
    return json;
}

static const struct json *call(struct remote *remote, struct http_client_request *request, const char *path,
                               struct err *err)
{
    struct http_client_answer answer = {0};

    request->url = address(remote, path);
    request->bearer = key();
    if (http_client_send(request, &answer, err))
        return finish(remote, &answer, err);
    http_client_answer_deinit(&answer);
    return NULL;
}

const struct json *remote_get(struct remote *remote, const char *path, struct err *err)
{
    return call(remote, &(struct http_client_request){.method = "GET"}, path, err);
}

const struct json *remote_post(struct remote *remote, const char *path, struct str body, struct err *err)
{
    return call(remote, &(struct http_client_request){.method = "POST", .body = body}, path, err);
}

const struct json *remote_delete(struct remote *remote, const char *path, struct err *err)
{
    return call(remote, &(struct http_client_request){.method = "DELETE"}, path, err);
}

static bool show_progress(void *context, uint64_t sent, uint64_t total)
{
    (void)context;
    if (total > (16 << 20))
        fprintf(stderr, "\r  %3.0f %% of %.1f MB", 100.0 * (double)sent / (double)total, (double)total / 1e6);
    return true;
}

const struct json *remote_upload(struct remote *remote, const char *file, const char *purpose, struct err *err)
{
    struct http_form_field field = {"purpose", purpose};
    struct http_client_request request = {.method = "POST", .file_path = file, .fields = &field, .field_count = 1};

    if (!file_exists(file)) {
        err_set(err, ERR_NOT_FOUND, "there is no file %s", file);
        return NULL;
    }
    if (isatty(2))
        request.on_progress = show_progress;
    return call(remote, &request, "/v1/files", err);
}

struct download {
    int fd;
    const char *part;
    struct err problem; /* of the file, which says more than that the transfer was stopped for it */
};

static bool save(void *context, struct str bytes)
{
    struct download *download = context;

    return fd_write_all(download->fd, bytes.at, bytes.len, download->part, &download->problem);
}

/* Under a name of its own until it is whole: what is there under the name asked for stays when the transfer breaks. */
bool remote_download(struct remote *remote, const char *path, const char *file, struct err *err)
{
    const char *part = arena_printf(&remote->arena, "%s.part", file);
    struct download download = {.part = part, .fd = file_create(part, err)};
    struct http_client_request request = {.method = "GET",
                                          .on_bytes = save,
                                          .context = &download,
                                          .bearer = key(),
                                          .url = address(remote, path)};
    struct http_client_answer answer = {0};
    bool ok;

    if (download.fd < 0)
        return false;
    ok = http_client_send(&request, &answer, err);
    if (!ok && download.problem.code)
        *err = download.problem;
    if (ok && answer.status / 100 != 2)
        ok = refused(remote, &answer, err);
    ok = ok && fd_sync(download.fd, part, err);
    fd_close(&download.fd);
    ok = ok && file_rename(part, file, err);
    if (!ok)
        file_remove(part, NULL);
    http_client_answer_deinit(&answer);
    return ok;
}

struct sse_reader {
    struct http_sse sse;
    bool (*on_data)(void *context, struct str data);
    void *context;
    struct err *err;
};

static bool take_event(void *context, struct str event, struct str id, struct str data)
{
    struct sse_reader *reader = context;

    (void)event;
    (void)id;
    return reader->on_data(reader->context, data);
}

static bool take_bytes(void *context, struct str bytes)
{
    struct sse_reader *reader = context;

    return http_sse_feed(&reader->sse, bytes, reader->err);
}

bool remote_stream(struct remote *remote, const char *path, struct str body,
                   bool (*on_data)(void *context, struct str data), void *context, struct err *err)
{
    struct sse_reader reader = {.on_data = on_data, .context = context, .err = err};
    struct http_client_request request = {.method = "POST",
                                          .body = body,
                                          .bearer = key(),
                                          .on_bytes = take_bytes,
                                          .context = &reader,
                                          .url = address(remote, path)};
    struct http_client_answer answer = {0};
    bool ok;

    reader.sse.on_event = take_event;
    reader.sse.context = &reader;
    ok = http_client_send(&request, &answer, err);
    if (ok && answer.status / 100 != 2)
        ok = refused(remote, &answer, err);
    http_client_answer_deinit(&answer);
    http_sse_deinit(&reader.sse);
    return ok;
}

const char *remote_text(struct remote *remote, const struct json *object, const char *name)
{
    return str_copy(&remote->arena, json_string_or(json_get(object, name), STR("")));
}

void remote_print(const struct json *value)
{
    struct strbuf text = {0};

    json_write_value(&(struct json_writer){.buf = &text, .indent = 2}, value);
    printf("%s\n", text.at);
    strbuf_deinit(&text);
}
