/* http/access_log.h - one line of JSON for each exchange that is over:
 *
 *   {"time":"2026-01-02T03:04:05.678Z","id":"req_…","address":"127.0.0.1","method":"GET","path":"/v1/files",
 *    "status":200,"request_bytes":180,"body_bytes":0,"sent_bytes":812,"duration_ms":1,"is_complete":true,
 *    "is_last":false}
 *
 * The fields are those of struct http_outcome. There is no query, no header and no body, so no credential either.
 * method "-" and an empty path: what came was no request. Lines are appended with one write each. */
#pragma once

#include "http/server.h"

struct access_log;

struct access_log *access_log_open(const char *path, struct err *err); /* appends; made with mode 0600 */
void access_log_close(struct access_log *log);                         /* NULL is fine */
/* An on_done for struct http_handler, with the log as its context. */
void access_log_note(void *log, const struct http_request *request, const struct http_outcome *outcome);
