/* Git LFS as the Hub speaks it: what the store lacks is sent whole, or in parts of the size that the Hub says.
 *
 * The note of parts is lines of JSON: first the object as the Hub answered, with its signed URLs, then one line for
 * each part that arrived. A note is of use while its URLs are; when the store refuses one, it goes, and the next sender
 * begins with a fresh answer. */
#include "hub/upload.h"

#include "os/clock.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

#define LFS_TYPE "application/vnd.git-lfs+json"

enum { PARTS_MAX = 10000, HEADERS_MAX = 16, TRIES = 3, NOTE_BYTES_MAX = 64 << 20 };

static const struct json *post(struct hub_wire *wire, const char *url, const struct strbuf *body, struct err *err)
{
    const struct http_form_field accept = {"Accept", LFS_TYPE};

    return hub_wire_ask(wire,
                        &(struct http_client_request){.method = "POST",
                                                      .url = url,
                                                      .body = strbuf_view(body),
                                                      .content_type = LFS_TYPE,
                                                      .headers = &accept,
                                                      .header_count = 1},
                        err);
}

/* A completion or a check may be answered with no JSON at all. */
static bool tell(struct hub_wire *wire, const char *url, const struct strbuf *body, struct err *err)
{
    const struct http_form_field accept = {"Accept", LFS_TYPE};
    struct http_client_request request = {.method = "POST",
                                          .url = url,
                                          .body = strbuf_view(body),
                                          .content_type = LFS_TYPE,
                                          .headers = &accept,
                                          .header_count = 1};
    struct http_client_answer answer = {0};
    bool ok = hub_wire_send(wire, &request, &answer, err);

    http_client_answer_deinit(&answer);
    return ok;
}

/* --- the question --- */

static void put_object(struct json_writer *w, const struct hub_outgoing *file)
{
    json_write_begin_object(w);
    json_put_text(w, "oid", file->sha256);
    json_put_integer(w, "size", (int64_t)file->bytes);
    json_write_end_object(w);
}

static void write_question(const struct hub_outgoing *file, struct strbuf *body)
{
    struct json_writer w = {.buf = body};

    json_write_begin_object(&w);
    json_put_text(&w, "operation", "upload");
    json_write_key(&w, "transfers");
    json_write_raw(&w, STR("[\"basic\",\"multipart\"]"));
    json_put_text(&w, "hash_algo", "sha256");
    json_write_key(&w, "objects");
    json_write_begin_array(&w);
    put_object(&w, file);
    json_write_end_array(&w);
    json_write_key(&w, "ref");
    json_write_raw(&w, STR("{\"name\":\"main\"}"));
    json_write_end_object(&w);
}

/* The Hub's object for the file: without actions when the store has it. */
static const struct json *ask(struct hub_upload *u, const struct hub_outgoing *file, struct err *err)
{
    const char *url = arena_printf(u->wire->arena, "/%s.git/info/lfs/objects/batch", u->repo);
    struct strbuf body = {0};
    const struct json *answer, *object, *error;

    write_question(file, &body);
    answer = post(u->wire, url, &body, err);
    strbuf_deinit(&body);
    if (!answer)
        return NULL;
    object = json_at(json_get(answer, "objects"), 0);
    error = json_get(object, "error");
    if (!json_is_null(error)) {
        err_set(err, ERR_INPUT, "the Hub's store refuses it with %d", (int)json_integer_or(json_get(error, "code"), 0));
        return NULL;
    }
    if (!object || !json_is(json_get(object, "oid"), file->sha256)) {
        hub_wire_is_strange(u->wire, err);
        return NULL;
    }
    return object;
}

/* --- the note --- */

struct sending_parts {
    const struct json *object;
    const char **urls, **etags; /* etags NULL: not there yet */
    size_t count;
    uint64_t part_bytes;
    int note; /* open for another line; -1: none is kept */
};

static int64_t number_of(const struct json *value)
{
    int64_t number = json_integer_or(value, 0);

    if (json_has_type(value, JSON_STRING) && !str_to_i64(value->string, &number))
        return 0;
    return number;
}

/* "00001": "https://…" and so on, one for each part. */
static bool read_urls(struct hub_upload *u, const struct hub_outgoing *file, struct sending_parts *p, struct err *err)
{
    const struct json *header = json_get(json_get(json_get(p->object, "actions"), "upload"), "header");
    const int64_t bytes = number_of(json_get(header, "chunk_size"));
    size_t found = 0;

    if (bytes <= 0 || (file->bytes - 1) / (uint64_t)bytes >= PARTS_MAX)
        return hub_wire_is_strange(u->wire, err);
    p->part_bytes = (uint64_t)bytes;
    p->count = (size_t)((file->bytes - 1) / (uint64_t)bytes) + 1;
    p->urls = arena_new_array(u->wire->arena, const char *, p->count);
    p->etags = arena_new_array(u->wire->arena, const char *, p->count);
    memset(p->urls, 0, p->count * sizeof *p->urls);
    memset(p->etags, 0, p->count * sizeof *p->etags);
    json_each(member, header) {
        int64_t number;

        if (!str_to_i64(member->key, &number) || member->type != JSON_STRING)
            continue;
        if (number < 1 || (uint64_t)number > p->count || p->urls[number - 1])
            return hub_wire_is_strange(u->wire, err);
        p->urls[number - 1] = str_copy(u->wire->arena, member->string);
        found++;
    }
    return found == p->count || hub_wire_is_strange(u->wire, err);
}

static bool begin_note(struct hub_upload *u, struct sending_parts *p, struct err *err)
{
    struct strbuf line = {0};
    bool ok;

    if (!u->parts_path)
        return true;
    json_write_value(&(struct json_writer){.buf = &line}, p->object);
    strbuf_add_char(&line, '\n');
    ok = file_write_secret(u->parts_path, strbuf_view(&line), true, err) &&
         (p->note = file_open_append(u->parts_path, err)) >= 0;
    strbuf_deinit(&line);
    return ok;
}

static bool add_to_note(struct hub_upload *u, struct sending_parts *p, size_t part, struct err *err)
{
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};
    bool ok;

    if (p->note < 0)
        return true;
    json_write_begin_object(&w);
    json_put_integer(&w, "part", (int64_t)part + 1);
    json_put_text(&w, "etag", p->etags[part]);
    json_write_end_object(&w);
    strbuf_add_char(&line, '\n');
    ok = fd_write_all(p->note, line.at, line.len, u->parts_path, err);
    strbuf_deinit(&line);
    return ok;
}

/* Whether a sender before this one left parts of this very file. A line that it did not finish is none. */
static bool take_note(struct hub_upload *u, const struct hub_outgoing *file, struct sending_parts *p)
{
    struct arena *arena = u->wire->arena;
    struct str rest, line;

    if (!u->parts_path || !file_exists(u->parts_path) ||
        !file_read(arena, u->parts_path, NOTE_BYTES_MAX, &rest, NULL) || !str_take_line(&rest, &line))
        return false;
    p->object = json_parse(arena, line, NULL, NULL);
    if (!json_is(json_get(p->object, "oid"), file->sha256) || !read_urls(u, file, p, NULL))
        return false;
    while (str_take_line(&rest, &line)) {
        const struct json *sent = json_parse(arena, line, NULL, NULL);
        const int64_t part = json_integer_or(json_get(sent, "part"), 0);

        if (part < 1 || (uint64_t)part > p->count)
            return false;
        p->etags[part - 1] = hub_wire_text(u->wire, sent, "etag");
    }
    p->note = file_open_append(u->parts_path, NULL);
    return p->note >= 0;
}

static void drop_note(struct hub_upload *u)
{
    if (u->parts_path)
        file_remove(u->parts_path, NULL);
}

/* --- bytes --- */

static bool is_refused(const struct hub_wire *wire)
{
    return wire->status >= 400 && wire->status < 500;
}

/* What the store answers with 4xx is its word on a signed URL, not on the upload: a fresh one may do. */
static bool send_slice(struct hub_wire *wire, struct http_client_request *request, const char **etag, struct err *err)
{
    bool ok = false, may_go_on = true;

    for (int try = 0; !ok && may_go_on && try < TRIES; try++) {
        struct http_client_answer answer = {0};

        if (try > 0)
            clock_sleep_ms(wire->wait_ms ? wire->wait_ms : 1000 << try);
        ok = hub_wire_send(wire, request, &answer, err);
        may_go_on = err->code == ERR_IO || err->code == ERR_TIMEOUT;
        if (!ok && is_refused(wire))
            err->code = ERR_IO;
        if (ok && etag) {
            struct str said = http_client_answer_header(&answer, "etag");

            *etag = said.len ? str_copy(wire->arena, said) : NULL;
        }
        http_client_answer_deinit(&answer);
    }
    return ok;
}

static bool send_whole(struct hub_upload *u, const struct json *action, const struct http_client_slice *slice,
                       struct err *err)
{
    const char *url = hub_wire_text(u->wire, action, "href");
    struct http_form_field headers[HEADERS_MAX];
    struct http_client_request request = {.method = "PUT", .url = url, .slice = slice, .headers = headers};

    json_each(header, json_get(action, "header")) {
        if (header->type != JSON_STRING || request.header_count == HEADERS_MAX)
            return hub_wire_is_strange(u->wire, err);
        headers[request.header_count++] =
            (struct http_form_field){str_copy(u->wire->arena, header->key), str_copy(u->wire->arena, header->string)};
    }
    return url ? send_slice(u->wire, &request, NULL, err) : hub_wire_is_strange(u->wire, err);
}

static bool complete(struct hub_upload *u, const struct hub_outgoing *file, struct sending_parts *p, struct err *err)
{
    const char *url = hub_wire_text(u->wire, json_get(json_get(p->object, "actions"), "upload"), "href");
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    bool ok;

    json_write_begin_object(&w);
    json_put_text(&w, "oid", file->sha256);
    json_write_key(&w, "parts");
    json_write_begin_array(&w);
    for (size_t i = 0; i < p->count; i++) {
        json_write_begin_object(&w);
        json_put_integer(&w, "partNumber", (int64_t)i + 1);
        json_put_text(&w, "etag", p->etags[i]);
        json_write_end_object(&w);
    }
    json_write_end_array(&w);
    json_write_end_object(&w);
    ok = url ? tell(u->wire, url, &body, err) : hub_wire_is_strange(u->wire, err);
    strbuf_deinit(&body);
    return ok;
}

static bool send_parts(struct hub_upload *u, const struct hub_outgoing *file, struct sending_parts *p, int fd,
                       struct err *err)
{
    for (size_t i = 0; i < p->count; i++) {
        const uint64_t offset = i * p->part_bytes, left = file->bytes - offset;
        const struct http_client_slice slice = {fd, offset, left < p->part_bytes ? left : p->part_bytes};
        struct http_client_request request = {.method = "PUT", .url = p->urls[i], .slice = &slice};

        if (p->etags[i])
            continue;
        if (!send_slice(u->wire, &request, &p->etags[i], err))
            return err_prefix(err, "part %zu of %zu", i + 1, p->count);
        if (!p->etags[i])
            return hub_wire_is_strange(u->wire, err);
        if (!add_to_note(u, p, i, err))
            return false;
    }
    return complete(u, file, p, err);
}

static bool verify(struct hub_upload *u, const struct hub_outgoing *file, const struct json *object, struct err *err)
{
    const char *url = hub_wire_text(u->wire, json_get(json_get(object, "actions"), "verify"), "href");
    struct strbuf body = {0};
    bool ok;

    if (!url)
        return true;
    put_object(&(struct json_writer){.buf = &body}, file);
    ok = tell(u->wire, url, &body, err);
    strbuf_deinit(&body);
    return ok;
}

/* --- one file --- */

static bool send_in_parts(struct hub_upload *u, const struct hub_outgoing *file, struct sending_parts *p, int fd,
                          struct err *err)
{
    bool ok = send_parts(u, file, p, fd, err) && verify(u, file, p->object, err);

    fd_close(&p->note);
    if (ok || is_refused(u->wire))
        drop_note(u);
    return ok;
}

static bool send_file(struct hub_upload *u, const struct hub_outgoing *file, int fd, struct err *err)
{
    struct sending_parts parts = {.note = -1};
    const struct http_client_slice whole = {fd, 0, file->bytes};
    const struct json *upload;

    if (take_note(u, file, &parts)) {
        if (send_in_parts(u, file, &parts, fd, err))
            return true;
        if (!is_refused(u->wire))
            return false;
    }
    parts = (struct sending_parts){.object = ask(u, file, err), .note = -1};
    if (!parts.object)
        return false;
    upload = json_get(json_get(parts.object, "actions"), "upload");
    if (json_is_null(upload)) /* the store has it */
        return true;
    if (json_is_null(json_get(json_get(upload, "header"), "chunk_size")))
        return send_whole(u, upload, &whole, err) && verify(u, file, parts.object, err);
    return read_urls(u, file, &parts, err) && begin_note(u, &parts, err) && send_in_parts(u, file, &parts, fd, err);
}

bool hub_lfs_send(struct hub_upload *u, const struct hub_outgoing *file, struct err *err)
{
    int fd = file->place ? file_open_read(file->place, err) : fd_in_memory(file->path, file->content, err);
    bool ok = fd >= 0 && send_file(u, file, fd, err);

    fd_close(&fd);
    return ok;
}
