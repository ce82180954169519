/* http/client.h - requests of the command line, over libcurl.
 *
 * One call is one request and blocks until the answer is over, a deadline has passed or a callback says stop. The body
 * is bytes (JSON), a file sent as multipart/form-data or a part of a file as it lies there, both without being held in
 * memory; the answer goes into a buffer with a limit, or piece by piece to a callback (server-sent events, downloads).
 * Redirects are not followed: a 3xx is handed back as it is. TLS certificates are always verified. An answer with any
 * status is a success of the call; only what kept the answer from arriving is an error: ERR_IO (no connection, broken),
 * ERR_TIMEOUT, ERR_LIMIT, ERR_CANCELLED.
 *
 *   struct http_client_answer answer = {0};
 *   struct http_client_request request = {.method = "GET", .url = url, .bearer = key};
 *   if (http_client_send(&request, &answer, err) && answer.status == 200)
 *       … strbuf_view(&answer.body) …
 *   http_client_answer_deinit(&answer); */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>
#include <sys/socket.h>

struct http_form_field {
    const char *name, *value;
};

/* Bytes of an open file, read while they are sent. One that has become shorter since is ERR_IO. */
struct http_client_slice {
    int fd;
    uint64_t offset, bytes;
};

struct http_client_request {
    const char *method; /* "GET", "POST", … */
    const char *url;    /* http or https */
    const char *shown_url; /* what messages say in its place, where it is a secret; NULL: the URL */
    const char *bearer; /* Authorization: Bearer …; NULL: none */
    const char *username, *password; /* Authorization: Basic …; NULL: none */
    const struct http_form_field *headers; /* more of them; none of the above and no Content-Type */
    size_t header_count;

    struct str body;          /* sent when not empty, or when the method is POST, PUT or PATCH */
    const char *content_type; /* of body; NULL: application/json */

    const char *file_path;    /* not NULL: multipart with the fields, then this file */
    const char *file_field;   /* NULL: "file" */
    const char *file_name;    /* NULL: the path's last part */
    const struct http_form_field *fields;
    size_t field_count;

    const struct http_client_slice *slice; /* not NULL: the body; content_type NULL sends none */

    int64_t connect_ms; /* 0: 10 s */
    int64_t stall_ms;   /* 0: 60 s; without any byte in either direction */
    int64_t total_ms;   /* 0: no bound */

    /* For addresses that strangers name (http/outgoing.h). may_connect is asked for each address that a connection is
     * about to go to; no proxy of the environment is used then. */
    bool (*may_connect)(void *context, const struct sockaddr *address);
    void *connect_context;
    const char *pin;    /* addresses of the URL's host: "host:port:address,address"; NULL: the resolver's */
    const char *ca_pem; /* certificates to trust instead of the system's; NULL: those */

    size_t answer_bytes_max; /* of the buffered answer; 0: 16 MiB */
    /* Not NULL: bodies of 2xx answers come here instead of the buffer. False: stop, ERR_CANCELLED. */
    bool (*on_bytes)(void *context, struct str bytes);
    /* Bytes of the request that were sent, and their total. False: stop. */
    bool (*on_progress)(void *context, uint64_t sent, uint64_t total);
    void *context;
};

struct http_client_answer {
    int status;
    struct strbuf body; /* of errors also when on_bytes is set */
    char content_type[128];
    char request_id[64];
    int64_t retry_after_s; /* 0: not said in seconds */
    struct strbuf headers; /* "name: value" lines; 64 KiB at most, the others are left out */
};

bool http_client_send(const struct http_client_request *request, struct http_client_answer *answer, struct err *err);
void http_client_answer_deinit(struct http_client_answer *answer);
/* The last header of that name, in any case, without the white space around it; none: the empty view. */
struct str http_client_answer_header(const struct http_client_answer *answer, const char *name);
/* "The server says: <error.message> (request req_…)" of an error answer, for people; in the arena. */
char *http_client_answer_message(const struct http_client_answer *answer, struct arena *arena);

/* Server-sent events out of bytes as they arrive. Lines end in LF, CR LF or CR; comments are skipped. */
struct http_sse {
    /* event is "" when the sender named none; id is the last one seen. Views are valid during the call. False: stop. */
    bool (*on_event)(void *context, struct str event, struct str id, struct str data);
    void *context;
    struct strbuf line, event, id, data; /* its own; zero at the beginning */
    bool has_data, is_after_cr;
};

/* False with ERR_LIMIT when a line or an event exceeds 4 MiB, with ERR_CANCELLED when on_event said stop. */
bool http_sse_feed(struct http_sse *sse, struct str bytes, struct err *err);
void http_sse_deinit(struct http_sse *sse);
