/* Uploads: a large file in parts, which may come side by side and in any order. The completion (upload_completion.c)
 * names the order. */
#include "api/form.h"
#include "api/uploads.h"
#include "os/clock.h"

#include <string.h>

enum {
    PART_BYTES_MAX = 64 << 20, /* OpenAI's "64 MB": its own helpers send 64 MiB */
    PART_BODY_MAX = PART_BYTES_MAX + (64 << 10),
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

void answer_upload(struct call *call, const struct store_upload *upload, const struct store_file *file)
{
    struct strbuf body = {0};

    write_upload(&(struct json_writer){.buf = &body}, upload, file);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

bool find_pending_upload(struct call *call, struct store_upload *upload)
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
    if (!json_is(json_get(after, "anchor"), "created_at"))
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
    json_each(item, body) {
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
    struct form form;
    struct store_upload upload;
};

static bool on_part(void *context, const struct multipart_part *header, struct err *err)
{
    struct part *part = context;

    if (!str_is(header->name, "data"))
        return err_set(err, ERR_INPUT, "unknown form field '%.*s': a part of an upload has 'data' alone",
                       STR_ARG(header->name));
    if (part->form.intake)
        return err_set(err, ERR_INPUT, "'data' occurs twice: one part a request");
    part->form.intake = intake_begin(part->form.call, false, part->form.call->request->content_length, err);
    return part->form.intake != NULL;
}

static bool on_data(void *context, struct str bytes, struct err *err)
{
    struct part *part = context;

    if (intake_bytes(part->form.intake) + bytes.len > PART_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "a part has at most %d bytes", PART_BYTES_MAX);
    return intake_add(part->form.intake, bytes, err);
}

static bool on_part_end(void *context, struct err *err)
{
    return true;
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
    answer_json(part->form.call, 200, &body);
    strbuf_deinit(&body);
}

/* As for a file: see store_upload in files.c. */
static bool store_part(struct part *part, const struct store_file *blob, char id[STORE_ID_BYTES], struct err *err)
{
    struct store *store = part->form.call->api->config.store;
    struct store_part row = {.id = id, .upload_id = part->upload.id, .bytes = blob->bytes}, earlier;
    bool is_made;

    strcpy(id, blob->id);
    if (!idempotency_begin(part->form.call, id, err))
        return false;
    if (part->form.call->resource_id &&
        store_part_get(store, &part->form.call->tenant, part->upload.id, id, part->form.call->arena, &earlier, NULL))
        return true;
    if (strcmp(id, blob->id) != 0 && !intake_rename(part->form.intake, id, err))
        return false;
    is_made = store_part_create(store, &part->form.call->tenant, &row, err);
    if (is_made || store_is_in_doubt(store))
        intake_keep(part->form.intake);
    return is_made;
}

static void on_part_committed(void *context, const struct err *failure)
{
    struct part *part = context;
    struct store_file blob = {.purpose = ""};
    char id[STORE_ID_BYTES];
    struct err err = {0};

    if (failure) {
        form_refuse(&part->form, failure, part->form.param);
        return;
    }
    intake_describe(part->form.intake, &blob);
    if (!idempotency_check(part->form.call, str_of(blob.sha256)))
        return;
    if (store_part(part, &blob, id, &err))
        answer_part(part, id);
    else
        form_refuse(&part->form, &err, part->form.param);
}

static void on_whole(struct form *form)
{
    char id[STORE_ID_BYTES];
    struct err err = {0};

    if (form->intake) {
        store_id_part(id);
        intake_commit(form->intake, id, on_part_committed, form);
        return;
    }
    err_set(&err, ERR_INPUT, "'data' is a required property");
    form_refuse(form, &err, form->param);
}

void uploads_add_part(struct call *call)
{
    static const struct multipart_sink sink = {on_part, on_data, on_part_end};
    struct part *part = arena_new(call->arena, struct part);

    part->form = (struct form){.call = call, .param = "data", .on_whole = on_whole};
    if (find_pending_upload(call, &part->upload))
        form_take(&part->form, &sink, PART_BODY_MAX);
}

/* --- cancel --- */

void uploads_cancel(struct call *call)
{
    struct store *store = call->api->config.store;
    struct store_upload upload;
    struct err err = {0};
    const char **ids;
    size_t count;

    if (!find_pending_upload(call, &upload))
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
