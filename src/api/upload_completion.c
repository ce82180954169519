/* The end of an upload: its parts, in the order that the request names, are put together in the background, and what
 * they become is a file like any other. */
#include "api/intake.h"
#include "api/uploads.h"
#include "base/hash.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 10000, SLICE_BYTES = 1 << 20 };

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

/* The parts that the request names, in its order; false when it answered. */
static bool read_parts(struct completion *c, const struct json *ids)
{
    struct call *call = c->call;
    struct parts *parts = c->parts;
    struct err err = {0};
    int64_t bytes = 0;

    if (!json_has_type(ids, JSON_ARRAY) || ids->count > PARTS_MAX) {
        answer_error(call, 400, NULL, "part_ids", "part_ids: must be a list of at most %d ids of parts, in their order",
                     PARTS_MAX);
        return false;
    }
    parts->part = arena_new_array(&parts->arena, struct store_part, ids->count + 1);
    json_each(id, ids) {
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
    if (!find_pending_upload(call, &c->upload) || !read_parts(c, json_get(body, "part_ids")) ||
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
