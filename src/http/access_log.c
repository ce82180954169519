#include "http/access_log.h"

#include "base/json.h"
#include "os/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES_SHOWN = 512 };

struct access_log {
    int fd;
    struct strbuf line;
};

struct access_log *access_log_open(const char *path, struct err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct access_log *log;

    if (fd < 0) {
        err_set(err, ERR_IO, "cannot open the access log %s: %s", path, strerror(errno));
        return NULL;
    }
    log = mem_alloc_zero(1, sizeof *log);
    log->fd = fd;
    return log;
}

void access_log_close(struct access_log *log)
{
    if (!log)
        return;
    close(log->fd);
    strbuf_deinit(&log->line);
    free(log);
}

static void put_time(struct json_writer *writer, int64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm utc;
    char text[40];

    gmtime_r(&seconds, &utc);
    snprintf(text + strftime(text, 24, "%Y-%m-%dT%H:%M:%S", &utc), 8, ".%03dZ", (int)(unix_ms % 1000));
    json_put_text(writer, "time", text);
}

void access_log_note(void *context, const struct http_request *request, const struct http_outcome *outcome)
{
    struct access_log *log = context;
    struct json_writer writer = {.buf = &log->line, .ascii = true};

    strbuf_clear(&log->line);
    json_write_begin_object(&writer);
    put_time(&writer, clock_unix_ms());
    json_put_text(&writer, "id", request->id);
    json_put_text(&writer, "address", request->address);
    json_put_text(&writer, "method", http_method_name(request->method));
    json_put_str(&writer, "path", str_clip(request->path_text, PATH_BYTES_SHOWN));
    json_put_integer(&writer, "status", outcome->status);
    json_put_integer(&writer, "request_bytes", (int64_t)outcome->request_bytes);
    json_put_integer(&writer, "body_bytes", (int64_t)outcome->body_bytes);
    json_put_integer(&writer, "sent_bytes", (int64_t)outcome->sent_bytes);
    json_put_integer(&writer, "duration_ms", outcome->duration_ms);
    json_put_bool(&writer, "is_complete", outcome->is_complete);
    json_put_bool(&writer, "is_last", outcome->is_last);
    json_write_end_object(&writer);
    strbuf_add_char(&log->line, '\n');
    if (write(log->fd, log->line.at, log->line.len) < 0)
        return; /* a full disk ends the log, not the service */
}
