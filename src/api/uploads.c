/* Uploads: a large file in parts, which may come side by side and in any order. The completion names the order; parts
 * are then put together in the background. */
#include "api/intake.h"
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
        problems_add(problems, "value_error", key, NULL, NULL, "%s: must have 1 to %zu characters", key,
                     characters_max);
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
    struct intake *intake;
    bool is_refused; /* answered already */
};

static void part_end(void *context, bool is_complete)
{
    struct part *part = context;

    multipart_free(part->reader);
    intake_free(part->intake);
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
    if (part->intake)
        return err_set(err, ERR_INPUT, "'data' occurs twice: one part a request");
    part->intake = intake_begin(part->call, false, part->call->request->content_length, err);
    return part->intake != NULL;
}

static bool on_data(void *context, struct str bytes, struct err *err)
{
    struct part *part = context;

    if (intake_bytes(part->intake) + bytes.len > PART_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "a part has at most %d bytes", PART_BYTES_MAX);
    return intake_add(part->intake, bytes, err);
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

/* As for a file: see store_upload in files.c. */
static bool store_part(struct part *part, const struct store_file *blob, char id[STORE_ID_BYTES], struct err *err)
{
    struct store *store = part->call->api->config.store;
    struct store_part row = {.id = id, .upload_id = part->upload.id, .bytes = blob->bytes}, earlier;
    bool is_made;

    strcpy(id, blob->id);
    if (!idempotency_begin(part->call, id, err))
        return false;
    if (part->call->resource_id &&
        store_part_get(store, &part->call->tenant, part->upload.id, id, part->call->arena, &earlier, NULL))
        return true;
    if (strcmp(id, blob->id) != 0 && !intake_rename(part->intake, id, err))
        return false;
    is_made = store_part_create(store, &part->call->tenant, &row, err);
    if (is_made || store_is_in_doubt(store))
        intake_keep(part->intake);
    return is_made;
}

static void on_part_committed(void *context, const struct err *failure)
{
    struct part *part = context;
    struct store_file blob = {.purpose = ""};
    char id[STORE_ID_BYTES];
    struct err err = {0};

    if (failure) {
        refuse_part(part, failure);
        return;
    }
    intake_describe(part->intake, &blob);
    if (!idempotency_check(part->call, str_of(blob.sha256)))
        return;
    if (store_part(part, &blob, id, &err))
        answer_part(part, id);
    else
        refuse_part(part, &err);
}

static void on_end(void *context, struct http_exchange *exchange)
{
    struct part *part = context;
    char id[STORE_ID_BYTES];
    struct err err = {0};

    if (part->is_refused)
        return;
    if (!multipart_finish(part->reader, &err)) {
        refuse_part(part, &err);
    } else if (!part->intake) {
        err_set(&err, ERR_INPUT, "'data' is a required property");
        refuse_part(part, &err);
    } else {
        store_id_part(id);
        intake_commit(part->intake, id, on_part_committed, part);
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
    http_take_stream(call->exchange, PART_BODY_MAX, &body, part);
}

/* --- complete --- */

/* The parts in the order asked for, read on a background thread: it lives as long as the intake that takes from it. */
struct parts {
    struct arena arena;
    struct blobs *blobs;
    struct store_part *part;
    size_t count, index;
    int fd; /* of the part at hand; -1: none */
    uint64_t at;
    char *slice;
    const char *md5; /* that the whole must have; NULL: not asked */
    struct md5 hash;
    bool is_md5_wrong;
};

struct completion {
    struct call *call;
    struct store_upload upload;
    struct parts *parts;
    struct intake *intake;
};

static void parts_free(void *context)
{
    struct parts *parts = context;

    fd_close(&parts->fd);
    md5_end(&parts->hash, NULL);
    free(parts->slice);
    arena_deinit(&parts->arena);
    free(parts);
}

static struct parts *parts_new(struct blobs *blobs)
{
    struct parts *parts = mem_alloc_zero(1, sizeof *parts);

    parts->blobs = blobs;
    parts->fd = -1;
    parts->slice = mem_alloc(SLICE_BYTES);
    md5_begin(&parts->hash);
    return parts;
}

static bool check_md5(struct parts *parts, struct err *err)
{
    char md5[33];

    if (!parts->md5)
        return true;
    md5_end(&parts->hash, md5);
    parts->is_md5_wrong = !str_is(str_of(md5), parts->md5);
    return !parts->is_md5_wrong ||
           err_set(err, ERR_INPUT, "The parts together have the MD5 %s, not %s.", md5, parts->md5);
}

/* Up to a slice of the part at hand. */
static bool read_slice(struct parts *parts, struct str *slice, struct err *err)
{
    const struct store_part *part = &parts->part[parts->index];
    uint64_t left = (uint64_t)part->bytes - parts->at, bytes;
    size_t wanted = left < SLICE_BYTES ? (size_t)left : SLICE_BYTES, got;

    if (parts->fd < 0 && (parts->fd = blob_open(parts->blobs, part->id, &bytes, err)) < 0)
        return false;
    if (!fd_pread(parts->fd, parts->slice, wanted, parts->at, &got, part->id, err))
        return false;
    if (got != wanted)
        return err_set(err, ERR_IO, "the part '%s' is shorter than it was", part->id);
    parts->at += wanted;
    if (parts->md5)
        md5_add(&parts->hash, parts->slice, wanted);
    *slice = (struct str){parts->slice, wanted};
    return true;
}

static bool parts_next(void *context, struct str *piece, struct err *err)
{
    struct parts *parts = context;

    *piece = STR_NONE;
    while (parts->index < parts->count && parts->at == (uint64_t)parts->part[parts->index].bytes) {
        fd_close(&parts->fd);
        parts->at = 0;
        parts->index++;
    }
    return parts->index == parts->count ? check_md5(parts, err) : read_slice(parts, piece, err);
}

static void completion_end(void *context, bool is_complete)
{
    struct completion *c = context;

    if (c->intake)
        intake_free(c->intake);
    else
        parts_free(c->parts);
}

static bool store_completion(struct completion *c, const struct store_file *file, const char ***ids, size_t *count,
                             struct err *err)
{
    struct store *store = c->call->api->config.store;
    char upload_id[STORE_ID_BYTES];
    bool is_made;

    strcpy(upload_id, c->upload.id);
    if (!idempotency_begin(c->call, upload_id, err) ||
        !store_part_ids(store, &c->call->tenant, c->upload.id, c->call->arena, ids, count, err))
        return false;
    is_made = store_upload_complete(store, &c->call->tenant, c->upload.id, file, err);
    if (is_made || store_is_in_doubt(store))
        intake_keep(c->intake);
    return is_made;
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

static void on_assembled(void *context, const struct err *failure)
{
    struct completion *c = context;
    struct store_file file = {.filename = c->upload.filename, .purpose = c->upload.purpose};
    struct err err = {0};
    const char **ids;
    size_t count;

    if (failure) {
        if (c->parts->is_md5_wrong)
            answer_error(c->call, 400, "md5_mismatch", "md5", "%s", failure->text);
        else
            answer_err(c->call, failure, NULL);
        return;
    }
    if (!idempotency_again(c->call) || answer_if_complete(c->call))
        return;
    intake_describe(c->intake, &file);
    file.expires_ms = c->upload.file_seconds ? file.created_ms + c->upload.file_seconds * 1000 : 0;
    if (!store_completion(c, &file, &ids, &count, &err)) {
        answer_err(c->call, &err, "upload_id");
        return;
    }
    discard_blobs(&c->call->api->config, ids, count);
    c->upload.status = "completed";
    answer_upload(c->call, &c->upload, &file);
}

/* The parts that the request names, each once; false when it answered. */
static bool read_parts(struct completion *c, const struct json *ids)
{
    struct call *call = c->call;
    struct parts *parts = c->parts;
    struct err err = {0};
    int64_t bytes = 0;

    if (!ids || ids->type != JSON_ARRAY || ids->count > PARTS_MAX) {
        answer_error(call, 400, NULL, "part_ids", "part_ids: must be a list of at most %d ids of parts, in their order",
                     PARTS_MAX);
        return false;
    }
    parts->part = arena_new_array(&parts->arena, struct store_part, ids->count + 1);
    for json_each (id, ids) {
        struct store_part *part = &parts->part[parts->count];
        if (id->type != JSON_STRING) {
            answer_error(call, 400, NULL, "part_ids", "part_ids: must be strings, not %s", json_type_name(id));
            return false;
        }
        if (!store_part_get(call->api->config.store, &call->tenant, c->upload.id, str_copy(call->arena, id->string),
                            &parts->arena, part, &err)) {
            if (err.code == ERR_NOT_FOUND)
                answer_error(call, 400, "part_not_found", "part_ids", "part_ids: this upload has no part '%.*s'",
                             STR_ARG(str_clip(id->string, 64)));
            else
                answer_err(call, &err, "part_ids");
            return false;
        }
        bytes += part->bytes;
        parts->count++;
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
    c->parts->md5 = str_copy(&c->parts->arena, value->string);
    for (char *digit = (char *)(uintptr_t)c->parts->md5; *digit; digit++)
        if (*digit >= 'A' && *digit <= 'F')
            *digit = (char)(*digit - 'A' + 'a');
    return true;
}

static void complete(struct call *call, const struct json *body)
{
    struct completion *c = arena_new(call->arena, struct completion);
    char id[STORE_ID_BYTES];
    struct err err = {0};

    if (answer_if_complete(call))
        return;
    c->call = call;
    c->parts = parts_new(call->api->config.blobs);
    http_exchange_on_close(call->exchange, completion_end, c);
    if (!find_pending(call, &c->upload) || !read_parts(c, json_get(body, "part_ids")) ||
        !read_md5(c, json_get(body, "md5")))
        return;
    c->intake = intake_begin(call, strcmp(c->upload.purpose, "fine-tune") == 0, c->upload.bytes, &err);
    if (!c->intake) {
        answer_err(call, &err, NULL);
        return;
    }
    intake_take_from(c->intake, &(struct intake_source){parts_next, parts_free, c->parts});
    store_id_file(id);
    intake_commit(c->intake, id, on_assembled, c);
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
    discard_blobs(&call->api->config, ids, count);
    upload.status = "cancelled";
    answer_upload(call, &upload, NULL);
}
