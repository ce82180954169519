/* Uploads: a large file in parts, which may come side by side and in any order. The completion names the order; parts
 * are then put together a slice at a time, so that the loop serves everybody else meanwhile. */
#include "api/api_int.h"
#include "base/hash.h"
#include "http/multipart.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/uploads.h"

#include <stdlib.h>
#include <string.h>

enum {
    PART_BYTES_MAX = 64 << 20, /* OpenAI's "64 MB": its own helpers send 64 MiB */
    PART_BODY_MAX = PART_BYTES_MAX + (64 << 10),
    PARTS_MAX = 10000,
    SLICE_BYTES = 1 << 20,
    UPLOAD_LIFE_MS = 3600 * 1000,
    MIME_TYPE_CHARACTERS_MAX = 255,
};

static void write_upload(struct json_writer *w, const struct store_upload *upload, const struct store_file *file)
{
    json_write_begin_object(w);
    json_put_text(w, "id", upload->id);
    json_put_text(w, "object", "upload");
    json_put_integer(w, "bytes", upload->bytes);
    json_put_integer(w, "created_at", upload->created_ms / 1000);
    json_put_integer(w, "expires_at", upload->expires_ms / 1000);
    json_put_text(w, "filename", upload->filename);
    json_put_text(w, "purpose", upload->purpose);
    json_put_text(w, "status", upload->status);
    json_write_key(w, "file");
    if (file)
        view_file(w, file);
    else
        json_write_null(w);
    json_write_end_object(w);
}

static void answer_upload(struct call *call, const struct store_upload *upload, const struct store_file *file)
{
    struct strbuf body = {0};

    write_upload(&(struct json_writer){.buf = &body}, upload, file);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* The upload that the path names, still open for more; answers when it is not. */
static bool find_pending(struct call *call, struct store_upload *upload)
{
    const char *id = str_copy(call->arena, call->parameter[0]);
    struct err err = {0};

    if (!store_upload_get(call->api->config.store, &call->tenant, id, call->arena, upload, &err))
        answer_err(call, &err, "upload_id");
    else if (strcmp(upload->status, "pending") != 0)
        answer_error(call, 400, "upload_not_pending", "upload_id", "The upload '%s' is %s: nothing can be done with it "
                     "any more. Create a new one.", id, upload->status);
    else
        return true;
    return false;
}

/* --- create --- */

static struct str read_text(const struct json *body, const char *key, size_t characters_max, struct problems *problems)
{
    const struct json *value = json_get(body, key);

    if (json_is_null(value))
        problems_add(problems, "missing", key, NULL, NULL, "%s: a required property", key);
    else if (value->type != JSON_STRING)
        problems_add(problems, "string_type", key, NULL, NULL, "%s: must be a string, not %s", key,
                     json_type_name(value));
    else if (value->string.len == 0 || utf8_length(value->string) > characters_max)
        problems_add(problems, "value_error", key, NULL, NULL, "%s: must have 1 to %zu characters", key, characters_max);
    else if (memchr(value->string.at, 0, value->string.len))
        problems_add(problems, "value_error", key, NULL, NULL, "%s: must not hold NUL", key);
    else
        return value->string;
    return STR_NONE;
}

static int64_t read_bytes(struct call *call, const struct json *body, struct problems *problems)
{
    const struct json *value = json_get(body, "bytes");
    int64_t most = (int64_t)call->api->config.file_bytes_max;

    if (json_is_null(value))
        problems_add(problems, "missing", "bytes", NULL, NULL, "bytes: a required property");
    else if (value->type != JSON_NUMBER || !value->is_integer || value->integer < 0 || value->integer > most)
        problems_add(problems, "value_error", "bytes", NULL, NULL, "bytes: must be an integer from 0 to %lld",
                     (long long)most);
    else
        return value->integer;
    return 0;
}

/* How long the file shall live, in seconds; 0: for ever. */
static int64_t read_expiry(const struct json *body, struct problems *problems)
{
    const struct json *after = json_get(body, "expires_after"), *seconds = json_get(after, "seconds");

    if (json_is_null(after))
        return 0;
    if (!str_is(json_string_or(json_get(after, "anchor"), STR_NONE), "created_at"))
        problems_add(problems, "value_error", "expires_after", "anchor", NULL,
                     "expires_after.anchor: must be \"created_at\"");
    if (json_integer_or(seconds, 0) < EXPIRES_SECONDS_MIN || json_integer_or(seconds, 0) > EXPIRES_SECONDS_MAX)
        problems_add(problems, "value_error", "expires_after", "seconds", NULL,
                     "expires_after.seconds: must be an integer from %d to %d", EXPIRES_SECONDS_MIN,
                     EXPIRES_SECONDS_MAX);
    return json_integer_or(seconds, 0);
}

static void check_names(const struct json *body, struct problems *problems)
{
    static const char *const known[] = {"filename", "purpose", "bytes", "mime_type", "expires_after"};

    if (body->type != JSON_OBJECT)
        return; /* then every property is missing, which is said */
    for json_each (item, body) {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            is_known |= str_is(item->key, known[i]);
        if (!is_known)
            problems_add(problems, "extra_forbidden", str_copy(problems->arena, str_clip(item->key, 64)), NULL, NULL,
                         "%.*s: not known; an upload has filename, purpose, bytes, mime_type and expires_after",
                         STR_ARG(str_clip(item->key, 64)));
    }
}

static void create(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    struct store_upload upload = {.status = "pending", .created_ms = clock_unix_ms()};
    struct err err = {0};
    char id[STORE_ID_BYTES];
    struct str purpose;

    check_names(body, &problems);
    upload.filename = str_copy(call->arena, read_text(body, "filename", FILENAME_CHARACTERS_MAX, &problems));
    upload.mime_type = str_copy(call->arena, read_text(body, "mime_type", MIME_TYPE_CHARACTERS_MAX, &problems));
    upload.bytes = read_bytes(call, body, &problems);
    upload.file_seconds = read_expiry(body, &problems);
    purpose = read_text(body, "purpose", 64, &problems);
    if (purpose.len && !file_purpose_is_known(purpose))
        problems_add(&problems, "value_error", "purpose", NULL, NULL,
                     "purpose: '%.*s' is not known; 'fine-tune' is what training files have", STR_ARG(purpose));
    if (problems.count) {
        answer_problems(call, &problems);
        return;
    }
    /* At the completion the parts and the file that they become are there together. */
    if (!disk_has_room(call->api->config.disk, 2 * upload.bytes, &err)) {
        answer_err(call, &err, "bytes");
        return;
    }
    store_id_upload(id);
    upload.id = id;
    upload.purpose = str_copy(call->arena, purpose);
    upload.expires_ms = upload.created_ms + UPLOAD_LIFE_MS;
    if (!idempotency_begin(call, id, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    if (call->resource_id &&
        store_upload_get(call->api->config.store, &call->tenant, id, call->arena, &upload, NULL))
        answer_upload(call, &upload, NULL);
    else if (!store_upload_create(call->api->config.store, &call->tenant, &upload, &err))
        answer_err(call, &err, NULL);
    else
        answer_upload(call, &upload, NULL);
}

void uploads_create(struct call *call)
{
    take_json(call, create);
}

/* --- parts --- */

struct part {
    struct call *call;
    struct store_upload upload;
    struct multipart *reader;
    struct blob_put *put;
    struct sha256 hash; /* of the data, where an Idempotency-Key asks for it */
    bool is_refused;    /* answered already */
};

static void part_end(void *context, bool is_complete)
{
    struct part *part = context;
    uint8_t digest[32];

    if (part->hash.state)
        sha256_end(&part->hash, digest);

    multipart_free(part->reader);
    blob_put_abort(part->put);
}

static void refuse_part(struct part *part, const struct err *err)
{
    if (part->is_refused)
        return;
    part->is_refused = true;
    if (err->code == ERR_INPUT)
        answer_error(part->call, 400, NULL, "data", "%s", err->text);
    else
        answer_err(part->call, err, "data");
}

static bool on_part(void *context, const struct multipart_part *header, struct err *err)
{
    struct part *part = context;

    if (!str_is(header->name, "data"))
        return err_set(err, ERR_INPUT, "unknown form field '%.*s': a part of an upload has 'data' alone",
                       STR_ARG(header->name));
    if (part->put)
        return err_set(err, ERR_INPUT, "'data' occurs twice: one part a request");
    part->put = blob_put_begin(part->call->api->config.blobs, err);
    return part->put &&
           blob_put_promise(part->put, part->call->api->config.disk, part->call->request->content_length, err);
}

static bool on_data(void *context, struct str bytes, struct err *err)
{
    struct part *part = context;

    if (blob_put_bytes(part->put) + bytes.len > PART_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "a part has at most %d bytes", PART_BYTES_MAX);
    if (part->hash.state)
        sha256_add(&part->hash, bytes.at, bytes.len);
    return blob_put_add(part->put, bytes.at, bytes.len, err);
}

static bool on_part_end(void *context, struct err *err)
{
    return true;
}

static void on_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    struct part *part = context;
    struct err err = {0};

    if (!part->is_refused && !multipart_feed(part->reader, bytes, &err))
        refuse_part(part, &err);
}

static void answer_part(struct part *part, const char *id)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    json_write_begin_object(&w);
    json_put_text(&w, "id", id);
    json_put_text(&w, "object", "upload.part");
    json_put_integer(&w, "created_at", clock_unix_ms() / 1000);
    json_put_text(&w, "upload_id", part->upload.id);
    json_write_end_object(&w);
    answer_json(part->call, 200, &body);
    strbuf_deinit(&body);
}

static void store_part(struct part *part)
{
    const struct api_config *config = &part->call->api->config;
    char id[STORE_ID_BYTES], sha256[65];
    struct store_part row = {.id = id, .upload_id = part->upload.id, .bytes = (int64_t)blob_put_bytes(part->put)};
    struct blob_put *put = part->put;
    struct err err = {0};

    store_id_part(id);
    if (!idempotency_begin(part->call, id, &err)) {
        refuse_part(part, &err);
        return;
    }
    if (part->call->resource_id &&
        store_part_get(config->store, &part->call->tenant, part->upload.id, id, part->call->arena, &row, NULL)) {
        answer_part(part, id);
        return;
    }
    part->put = NULL;
    if (!blob_put_commit(put, id, sha256, &err)) {
        refuse_part(part, &err);
    } else if (!store_part_create(config->store, &part->call->tenant, &row, &err)) {
        blob_remove(config->blobs, id, NULL);
        refuse_part(part, &err);
    } else {
        answer_part(part, id);
    }
}

static const char *part_sha256(struct part *part)
{
    char *sha256 = arena_alloc(part->call->arena, 65);

    if (part->hash.state)
        sha256_end_hex(&part->hash, sha256);
    else
        sha256[0] = 0;
    return sha256;
}

static void on_end(void *context, struct http_exchange *exchange)
{
    struct part *part = context;
    struct err err = {0};

    if (part->is_refused)
        return;
    if (!multipart_finish(part->reader, &err)) {
        refuse_part(part, &err);
    } else if (!part->put) {
        err_set(&err, ERR_INPUT, "'data' is a required property");
        refuse_part(part, &err);
    } else if (idempotency_check(part->call, str_of(part_sha256(part)))) {
        store_part(part);
    }
}

void uploads_add_part(struct call *call)
{
    static const struct multipart_sink parts = {on_part, on_data, on_part_end};
    static const struct http_body_sink body = {on_bytes, on_end};
    struct part *part = arena_new(call->arena, struct part);
    struct err err = {0};

    part->call = call;
    if (!find_pending(call, &part->upload))
        return;
    part->reader = multipart_new(http_request_header(call->request, "Content-Type"), &parts, part, &err);
    if (!part->reader) {
        answer_error(call, 400, NULL, NULL, "%s", err.text);
        return;
    }
    http_exchange_on_close(call->exchange, part_end, part);
    if (!disk_has_room(call->api->config.disk, call->request->content_length, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    if (http_request_header(call->request, "Idempotency-Key").len)
        sha256_begin(&part->hash);
    http_take_stream(call->exchange, PART_BODY_MAX, &body, part);
}

/* --- complete --- */

struct completion {
    struct call *call;
    struct store_upload upload;
    struct store_part *part; /* in the order asked for */
    size_t part_count, part_index;
    const char *md5; /* that the whole must have; NULL: not asked */
    struct md5 hash;
    int fd; /* of the part at hand; -1: none */
    uint64_t at;
    char *slice;
    struct blob_put *put;
    void *check;
    struct http_timer *timer;
};

static void completion_end(void *context, bool is_complete)
{
    struct completion *c = context;

    http_timer_remove(c->timer);
    fd_close(&c->fd);
    md5_end(&c->hash, NULL);
    free(c->slice);
    blob_put_abort(c->put);
    c->call->api->config.checker.free(c->check);
}

/* Rows are gone by now; a blob that stays behind is collected at the next start. */
static void remove_blobs(struct call *call, const char **ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        blob_remove(call->api->config.blobs, ids[i], NULL);
}

static bool has_wanted_md5(struct completion *c)
{
    char md5[33];

    if (!c->md5)
        return true;
    md5_end(&c->hash, md5);
    if (str_is(str_of(md5), c->md5))
        return true;
    answer_error(c->call, 400, "md5_mismatch", "md5", "The parts together have the MD5 %s, not %s.", md5, c->md5);
    return false;
}

static void finish(struct completion *c)
{
    const struct api_config *config = &c->call->api->config;
    struct store_file file = {.filename = c->upload.filename, .purpose = c->upload.purpose};
    struct blob_put *put = c->put;
    struct err err = {0};
    char id[STORE_ID_BYTES], upload_id[STORE_ID_BYTES];
    const char **ids;
    size_t count;

    if (!has_wanted_md5(c))
        return;
    store_id_file(id);
    strcpy(upload_id, c->upload.id);
    if (!idempotency_begin(c->call, upload_id, &err)) {
        answer_err(c->call, &err, NULL);
        return;
    }
    c->put = NULL;
    if (!store_part_ids(config->store, &c->call->tenant, c->upload.id, c->call->arena, &ids, &count, &err) ||
        !file_commit(c->call, id, put, c->check, &file, &err)) {
        answer_err(c->call, &err, NULL);
        return;
    }
    file.expires_ms = c->upload.file_seconds ? file.created_ms + c->upload.file_seconds * 1000 : 0;
    if (!store_upload_complete(config->store, &c->call->tenant, c->upload.id, &file, &err)) {
        blob_remove(config->blobs, file.id, NULL);
        answer_err(c->call, &err, "upload_id");
        return;
    }
    remove_blobs(c->call, ids, count);
    c->upload.status = "completed";
    answer_upload(c->call, &c->upload, &file);
}

/* Up to a slice of the part at hand into the file. */
static bool add_slice(struct completion *c, struct err *err)
{
    const struct store_part *part = &c->part[c->part_index];
    uint64_t left = (uint64_t)part->bytes - c->at, bytes;
    size_t wanted = left < SLICE_BYTES ? (size_t)left : SLICE_BYTES, got;

    if (c->fd < 0 && (c->fd = blob_open(c->call->api->config.blobs, part->id, &bytes, err)) < 0)
        return false;
    if (!fd_pread(c->fd, c->slice, wanted, c->at, &got, part->id, err))
        return false;
    if (got != wanted)
        return err_set(err, ERR_IO, "the part '%s' is shorter than it was", part->id);
    c->at += wanted;
    c->call->api->config.checker.add(c->check, c->slice, wanted);
    if (c->md5)
        md5_add(&c->hash, c->slice, wanted);
    if (!blob_put_add(c->put, c->slice, wanted, err))
        return false;
    if (c->at == (uint64_t)part->bytes) {
        fd_close(&c->fd);
        c->at = 0;
        c->part_index++;
    }
    return true;
}

static void on_turn(void *context)
{
    struct completion *c = context;
    struct err err = {0};

    if (c->part_index == c->part_count)
        finish(c);
    else if (!add_slice(c, &err))
        answer_err(c->call, &err, NULL);
    else
        http_timer_set(c->timer, http_loop_now_ms(c->call->api->config.loop));
}

/* The parts that the request names, each once; false when it answered. */
static bool read_parts(struct completion *c, const struct json *ids)
{
    struct call *call = c->call;
    struct err err = {0};
    int64_t bytes = 0;

    if (!ids || ids->type != JSON_ARRAY || ids->count > PARTS_MAX) {
        answer_error(call, 400, NULL, "part_ids", "part_ids: must be a list of at most %d ids of parts, in their order",
                     PARTS_MAX);
        return false;
    }
    c->part = arena_new_array(call->arena, struct store_part, ids->count + 1);
    for json_each (id, ids) {
        struct store_part *part = &c->part[c->part_count];
        if (id->type != JSON_STRING) {
            answer_error(call, 400, NULL, "part_ids", "part_ids: must be strings, not %s", json_type_name(id));
            return false;
        }
        if (!store_part_get(call->api->config.store, &call->tenant, c->upload.id, str_copy(call->arena, id->string),
                            call->arena, part, &err)) {
            if (err.code == ERR_NOT_FOUND)
                answer_error(call, 400, "part_not_found", "part_ids", "part_ids: this upload has no part '%.*s'",
                             STR_ARG(str_clip(id->string, 64)));
            else
                answer_err(call, &err, "part_ids");
            return false;
        }
        bytes += part->bytes;
        c->part_count++;
    }
    if (bytes == c->upload.bytes)
        return true;
    answer_error(call, 400, "bytes_mismatch", "part_ids",
                 "The parts have %lld bytes together; the upload was created for %lld.", (long long)bytes,
                 (long long)c->upload.bytes);
    return false;
}

static bool read_md5(struct completion *c, const struct json *value)
{
    if (json_is_null(value))
        return true;
    if (value->type != JSON_STRING || value->string.len != 32) {
        answer_error(c->call, 400, NULL, "md5", "md5: must be 32 hexadecimal digits");
        return false;
    }
    c->md5 = str_copy(c->call->arena, value->string);
    for (char *digit = (char *)(uintptr_t)c->md5; *digit; digit++)
        if (*digit >= 'A' && *digit <= 'F')
            *digit = (char)(*digit - 'A' + 'a');
    return true;
}

/* An earlier try under the same Idempotency-Key may have come to its end and died before its answer was kept. */
static bool answer_if_complete(struct call *call)
{
    struct store *store = call->api->config.store;
    struct store_upload upload;
    struct store_file file;

    if (!call->resource_id ||
        !store_upload_get(store, &call->tenant, call->resource_id, call->arena, &upload, NULL) || !upload.file_id ||
        !store_file_get(store, &call->tenant, upload.file_id, call->arena, &file, NULL))
        return false;
    answer_upload(call, &upload, &file);
    return true;
}

static void complete(struct call *call, const struct json *body)
{
    struct completion *c = arena_new(call->arena, struct completion);
    struct err err = {0};

    c->call = call;
    c->fd = -1;
    if (answer_if_complete(call))
        return;
    if (!find_pending(call, &c->upload) || !read_parts(c, json_get(body, "part_ids")) ||
        !read_md5(c, json_get(body, "md5")))
        return;
    c->put = blob_put_begin(call->api->config.blobs, &err);
    if (!c->put || !blob_put_promise(c->put, call->api->config.disk, c->upload.bytes, &err)) {
        blob_put_abort(c->put);
        answer_err(call, &err, NULL);
        return;
    }
    md5_begin(&c->hash);
    c->slice = mem_alloc(SLICE_BYTES);
    c->check = call->api->config.checker.begin();
    c->timer = http_loop_add_timer(call->api->config.loop, http_loop_now_ms(call->api->config.loop), on_turn, c);
    http_exchange_on_close(call->exchange, completion_end, c);
}

void uploads_complete(struct call *call)
{
    take_json(call, complete);
}

/* --- cancel --- */

void uploads_cancel(struct call *call)
{
    struct store *store = call->api->config.store;
    struct store_upload upload;
    struct err err = {0};
    const char **ids;
    size_t count;

    if (!find_pending(call, &upload))
        return;
    if (!store_part_ids(store, &call->tenant, upload.id, call->arena, &ids, &count, &err) ||
        !store_upload_cancel(store, &call->tenant, upload.id, &err)) {
        answer_err(call, &err, "upload_id");
        return;
    }
    remove_blobs(call, ids, count);
    upload.status = "cancelled";
    answer_upload(call, &upload, NULL);
}
