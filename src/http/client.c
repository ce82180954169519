#include "http/client.h"

#include "base/json.h"
#include "os/clock.h"
#include "os/file.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ANSWER_BYTES_MAX = 16 << 20, HEADER_BYTES_MAX = 64 << 10, CONNECT_MS = 10000, STALL_MS = 60000 };

struct transfer {
    const struct http_client_request *request;
    struct http_client_answer *answer;
    CURL *curl;
    struct curl_slist *headers;
    struct curl_slist *pins;
    curl_mime *mime;
    bool is_refused; /* by may_connect */
    char error[CURL_ERROR_SIZE];
    size_t answer_bytes_max;
    int64_t stall_ms, moved_ms; /* the clock when a byte last moved */
    curl_off_t moved;           /* bytes in both directions by then */
    uint64_t slice_sent;
    enum err_code stop;         /* why a callback stopped the transfer */
};

static size_t on_answer(char *at, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    const struct http_client_request *request = transfer->request;
    struct str bytes = {at, size * count};
    long status = 0;

    curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
    if (request->on_bytes && status >= 200 && status < 300) {
        if (request->on_bytes(request->context, bytes))
            return bytes.len;
        transfer->stop = ERR_CANCELLED;
        return CURL_WRITEFUNC_ERROR;
    }
    if (transfer->answer->body.len + bytes.len > transfer->answer_bytes_max) {
        transfer->stop = ERR_LIMIT;
        return CURL_WRITEFUNC_ERROR;
    }
    strbuf_add_str(&transfer->answer->body, bytes);
    return bytes.len;
}

static size_t on_header(char *at, size_t size, size_t count, void *context)
{
    struct http_client_answer *answer = ((struct transfer *)context)->answer;
    struct str line = str_trim((struct str){at, size * count});

    if (str_starts(line, STR("HTTP/"))) /* an interim answer came before */
        strbuf_clear(&answer->headers);
    else if (line.len && answer->headers.len + line.len < HEADER_BYTES_MAX)
        strbuf_printf(&answer->headers, "%.*s\n", STR_ARG(line));
    if (line.len > 13 && strncasecmp(line.at, "x-request-id:", 13) == 0)
        snprintf(answer->request_id, sizeof answer->request_id, "%.*s",
                 STR_ARG(str_trim(str_slice(line, 13, line.len))));
    if (line.len > 12 && strncasecmp(line.at, "retry-after:", 12) == 0 &&
        (!str_to_i64(str_trim(str_slice(line, 12, line.len)), &answer->retry_after_s) || answer->retry_after_s < 0 ||
         answer->retry_after_s > 86400))
        answer->retry_after_s = 0;
    return size * count;
}

static curl_socket_t on_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct transfer *transfer = context;

    (void)purpose;
    if (transfer->request->may_connect(transfer->request->connect_context, &address->addr))
        return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    transfer->is_refused = true;
    return CURL_SOCKET_BAD;
}

static size_t read_slice(char *at, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    const struct http_client_slice *slice = transfer->request->slice;
    const uint64_t left = slice->bytes - transfer->slice_sent;
    size_t got, wanted = left < size * count ? (size_t)left : size * count;

    if (!fd_pread(slice->fd, at, wanted, slice->offset + transfer->slice_sent, &got, "the file", NULL) ||
        got < wanted) {
        transfer->stop = ERR_IO;
        return CURL_READFUNC_ABORT;
    }
    transfer->slice_sent += got;
    return got;
}

/* A connection that was kept and turned out to be dead: the same again on another. */
static int seek_slice(void *context, curl_off_t offset, int origin)
{
    struct transfer *transfer = context;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > transfer->request->slice->bytes)
        return CURL_SEEKFUNC_FAIL;
    transfer->slice_sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* curl calls this at least once a second, whether or not bytes move: the stall deadline is kept here. */
static int on_progress(void *context, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    struct transfer *transfer = context;
    const struct http_client_request *request = transfer->request;
    int64_t now_ms = clock_monotonic_ms();

    if (down + up != transfer->moved) {
        transfer->moved = down + up;
        transfer->moved_ms = now_ms;
    }
    if (now_ms - transfer->moved_ms > transfer->stall_ms)
        transfer->stop = ERR_TIMEOUT;
    else if (request->on_progress && up_total > 0 &&
             !request->on_progress(request->context, (uint64_t)up, (uint64_t)up_total))
        transfer->stop = ERR_CANCELLED;
    return transfer->stop != ERR_OK;
}

static bool add_header(struct transfer *transfer, const char *name, const char *value, struct err *err)
{
    struct strbuf line = {0};
    struct curl_slist *longer;

    for (const char *c = value; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return err_set(err, ERR_INPUT, "the value for the header %s holds a control character", name);
    strbuf_printf(&line, "%s: %s", name, value);
    longer = curl_slist_append(transfer->headers, line.at);
    strbuf_deinit(&line);
    if (!longer)
        return err_set(err, ERR_NO_SPACE, "no memory for the request's headers");
    transfer->headers = longer;
    return true;
}

static bool set_file(struct transfer *transfer, struct err *err)
{
    const struct http_client_request *request = transfer->request;
    curl_mimepart *part;

    transfer->mime = curl_mime_init(transfer->curl);
    for (size_t i = 0; i < request->field_count; i++) {
        part = curl_mime_addpart(transfer->mime);
        curl_mime_name(part, request->fields[i].name);
        curl_mime_data(part, request->fields[i].value, CURL_ZERO_TERMINATED);
    }
    part = curl_mime_addpart(transfer->mime);
    curl_mime_name(part, request->file_field ? request->file_field : "file");
    if (curl_mime_filedata(part, request->file_path) != CURLE_OK)
        return err_set(err, ERR_NOT_FOUND, "cannot read %s", request->file_path);
    if (request->file_name)
        curl_mime_filename(part, request->file_name);
    curl_mime_type(part, "application/octet-stream");
    curl_easy_setopt(transfer->curl, CURLOPT_MIMEPOST, transfer->mime);
    return true;
}

static bool set_slice(struct transfer *transfer, struct err *err)
{
    const struct http_client_request *request = transfer->request;

    curl_easy_setopt(transfer->curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(transfer->curl, CURLOPT_READFUNCTION, read_slice);
    curl_easy_setopt(transfer->curl, CURLOPT_READDATA, transfer);
    curl_easy_setopt(transfer->curl, CURLOPT_SEEKFUNCTION, seek_slice);
    curl_easy_setopt(transfer->curl, CURLOPT_SEEKDATA, transfer);
    curl_easy_setopt(transfer->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->slice->bytes);
    return add_header(transfer, "Expect", "", err) && /* else a second is spent waiting for "100 Continue" */
           (!request->content_type || add_header(transfer, "Content-Type", request->content_type, err));
}

static bool has_body_by_nature(const char *method)
{
    return !strcmp(method, "POST") || !strcmp(method, "PUT") || !strcmp(method, "PATCH");
}

static bool set_body(struct transfer *transfer, struct err *err)
{
    const struct http_client_request *request = transfer->request;
    const char *type = request->content_type ? request->content_type : "application/json";

    if (request->file_path)
        return set_file(transfer, err);
    if (request->slice)
        return set_slice(transfer, err);
    if (request->body.len == 0 && !has_body_by_nature(request->method))
        return true;
    curl_easy_setopt(transfer->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
    curl_easy_setopt(transfer->curl, CURLOPT_POSTFIELDS, request->body.len ? request->body.at : "");
    return add_header(transfer, "Content-Type", type, err);
}

static bool set_headers(struct transfer *transfer, struct err *err)
{
    const struct http_client_request *request = transfer->request;
    struct strbuf bearer = {0};
    bool ok = true;

    if (request->bearer) {
        strbuf_printf(&bearer, "Bearer %s", request->bearer);
        ok = add_header(transfer, "Authorization", bearer.at, err);
        strbuf_deinit(&bearer);
    }
    for (size_t i = 0; ok && i < request->header_count; i++)
        ok = add_header(transfer, request->headers[i].name, request->headers[i].value, err);
    curl_easy_setopt(transfer->curl, CURLOPT_HTTPHEADER, transfer->headers);
    return ok;
}

static void set_guard(struct transfer *transfer)
{
    const struct http_client_request *request = transfer->request;
    CURL *curl = transfer->curl;

    if (request->may_connect) {
        curl_easy_setopt(curl, CURLOPT_PROXY, "");
        curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
        curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, on_socket);
        curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, transfer);
    }
    if (request->pin) {
        transfer->pins = curl_slist_append(NULL, request->pin);
        curl_easy_setopt(curl, CURLOPT_RESOLVE, transfer->pins);
    }
    if (request->ca_pem) {
        struct curl_blob pem = {(void *)(uintptr_t)request->ca_pem, strlen(request->ca_pem), CURL_BLOB_COPY};
        curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &pem);
    }
    if (request->username) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERNAME, request->username);
        curl_easy_setopt(curl, CURLOPT_PASSWORD, request->password ? request->password : "");
    }
}

static void set_options(struct transfer *transfer)
{
    const struct http_client_request *request = transfer->request;
    CURL *curl = transfer->curl;
    const char *authorities = getenv("SSL_CERT_FILE"); /* as Python's clients read it */

    if (authorities)
        curl_easy_setopt(curl, CURLOPT_CAINFO, authorities);
    curl_easy_setopt(curl, CURLOPT_URL, request->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "attune/" ATTUNE_VERSION);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, transfer->error);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(request->connect_ms ? request->connect_ms : CONNECT_MS));
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)request->total_ms);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, transfer);
}

static bool fail(const struct transfer *transfer, CURLcode code, struct err *err)
{
    const struct http_client_request *request = transfer->request;
    const char *url = request->shown_url ? request->shown_url : request->url;

    if (transfer->is_refused)
        return err_set(err, ERR_AUTH, "%s leads to an address that this server may not reach", url);
    if (transfer->stop == ERR_LIMIT)
        return err_set(err, ERR_LIMIT, "the answer of %s is longer than %zu bytes", url, transfer->answer_bytes_max);
    if (transfer->stop == ERR_CANCELLED)
        return err_set(err, ERR_CANCELLED, "the request to %s was stopped", url);
    if (transfer->stop == ERR_IO)
        return err_set(err, ERR_IO, "the file to send to %s cannot be read", url);
    if (transfer->stop == ERR_TIMEOUT || code == CURLE_OPERATION_TIMEDOUT)
        return err_set(err, ERR_TIMEOUT, "%s did not answer in time", url);
    if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT)
        return err_set(err, ERR_INPUT, "%s is not an http or https URL", url);
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        return err_set(err, ERR_IO, "cannot reach %s: %s%s", url,
                       transfer->error[0] ? transfer->error : curl_easy_strerror(code),
                       code == CURLE_COULDNT_CONNECT ? "; is the server running there?" : "");
    return err_set(err, ERR_IO, "the request to %s failed: %s", url,
                   transfer->error[0] ? transfer->error : curl_easy_strerror(code));
}

static bool perform(struct transfer *transfer, struct err *err)
{
    const char *type = NULL;
    long status = 0;
    CURLcode code = curl_easy_perform(transfer->curl);

    if (code != CURLE_OK)
        return fail(transfer, code, err);
    curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(transfer->curl, CURLINFO_CONTENT_TYPE, &type);
    transfer->answer->status = (int)status;
    snprintf(transfer->answer->content_type, sizeof transfer->answer->content_type, "%s", type ? type : "");
    return true;
}

bool http_client_send(const struct http_client_request *request, struct http_client_answer *answer, struct err *err)
{
    struct transfer transfer = {
        .request = request,
        .answer = answer,
        .answer_bytes_max = request->answer_bytes_max ? request->answer_bytes_max : ANSWER_BYTES_MAX,
        .stall_ms = request->stall_ms ? request->stall_ms : STALL_MS,
        .moved_ms = clock_monotonic_ms(),
    };
    bool ok = false;

    transfer.curl = curl_easy_init();
    if (!transfer.curl)
        return err_set(err, ERR_NO_SPACE, "libcurl cannot be started");
    set_options(&transfer);
    set_guard(&transfer);
    if (!set_body(&transfer, err) || !set_headers(&transfer, err))
        goto out;
    curl_easy_setopt(transfer.curl, CURLOPT_CUSTOMREQUEST, request->method);
    if (!strcmp(request->method, "HEAD"))
        curl_easy_setopt(transfer.curl, CURLOPT_NOBODY, 1L);
    ok = perform(&transfer, err);
out:
    curl_easy_cleanup(transfer.curl);
    curl_mime_free(transfer.mime);
    curl_slist_free_all(transfer.headers);
    curl_slist_free_all(transfer.pins);
    return ok;
}

void http_client_answer_deinit(struct http_client_answer *answer)
{
    strbuf_deinit(&answer->body);
    strbuf_deinit(&answer->headers);
}

struct str http_client_answer_header(const struct http_client_answer *answer, const char *name)
{
    struct str rest = strbuf_view(&answer->headers), line, value = STR_NONE;
    const size_t len = strlen(name);

    while (str_take_line(&rest, &line))
        if (line.len > len && line.at[len] == ':' && strncasecmp(line.at, name, len) == 0)
            value = str_trim(str_slice(line, len + 1, line.len));
    return value;
}

char *http_client_answer_message(const struct http_client_answer *answer, struct arena *arena)
{
    struct json *body = json_parse(arena, strbuf_view(&answer->body), NULL, NULL);
    struct str message = json_string_or(json_get(json_get(body, "error"), "message"), STR_NONE);

    if (message.len == 0)
        return arena_printf(arena, "the server answered with status %d and no explanation", answer->status);
    if (!answer->request_id[0])
        return str_copy(arena, message);
    return arena_printf(arena, "%.*s (status %d, request %s)", STR_ARG(message), answer->status, answer->request_id);
}
