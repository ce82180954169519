#include "api/form.h"
#include "os/clock.h"
#include "os/file.h"

#include <string.h>

enum { FIELD_BYTES_MAX = 256 };

/* --- upload --- */

/* Parts come in any order: the purpose may stand behind 50 GB of file, so a file that looks like it is checked while it
 * arrives whatever it turns out to be for. */
struct upload {
    struct form form;
    const char *filename;
    char field[32]; /* name of the text field that is being read; "": the file or nothing */
    char value[FIELD_BYTES_MAX];
    size_t value_len;
    bool has_file;
    const char *purpose;
    const char *expires_anchor;
    int64_t expires_seconds;
};

bool file_purpose_is_known(struct str purpose)
{
    static const char *const purposes[] = {"fine-tune", "batch", "assistants", "vision", "user_data", "evals"};

    for (size_t i = 0; i < sizeof purposes / sizeof *purposes; i++)
        if (str_is(purpose, purposes[i]))
            return true;
    return false;
}

static bool on_part(void *context, const struct multipart_part *part, struct err *err)
{
    static const char *const fields[] = {"purpose", "expires_after[anchor]", "expires_after[seconds]"};
    struct upload *upload = context;

    upload->field[0] = 0;
    upload->value_len = 0;
    if (str_is(part->name, "file")) {
        if (upload->has_file)
            return err_set(err, ERR_INPUT, "'file' occurs twice: one file an upload");
        if (utf8_length(part->filename) > FILENAME_CHARACTERS_MAX)
            return err_set(err, ERR_INPUT, "the file's name has more than %d characters", FILENAME_CHARACTERS_MAX);
        upload->has_file = true;
        upload->filename = part->filename.len ? str_copy(upload->form.call->arena, part->filename) : "upload";
        upload->form.intake = intake_begin(upload->form.call, true, upload->form.call->request->content_length, err);
        return upload->form.intake != NULL;
    }
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (str_is(part->name, fields[i])) {
            memcpy(upload->field, fields[i], strlen(fields[i]) + 1);
            return true;
        }
    }
    return err_set(err, ERR_INPUT, "unknown form field '%.*s': file, purpose and expires_after are known",
                   STR_ARG(part->name));
}

static bool on_data(void *context, struct str bytes, struct err *err)
{
    struct upload *upload = context;

    if (!upload->field[0])
        return intake_add(upload->form.intake, bytes, err);
    if (upload->value_len + bytes.len > sizeof upload->value)
        return err_set(err, ERR_INPUT, "the form field '%s' is too long", upload->field);
    memcpy(upload->value + upload->value_len, bytes.at, bytes.len);
    upload->value_len += bytes.len;
    return true;
}

static bool on_part_end(void *context, struct err *err)
{
    struct upload *upload = context;
    struct str value = {upload->value, upload->value_len};

    if (strcmp(upload->field, "purpose") == 0)
        upload->purpose = str_copy(upload->form.call->arena, value);
    else if (strcmp(upload->field, "expires_after[anchor]") == 0)
        upload->expires_anchor = str_copy(upload->form.call->arena, value);
    else if (strcmp(upload->field, "expires_after[seconds]") == 0 &&
             (!str_to_i64(value, &upload->expires_seconds) || upload->expires_seconds < EXPIRES_SECONDS_MIN ||
              upload->expires_seconds > EXPIRES_SECONDS_MAX))
        return err_set(err, ERR_INPUT, "expires_after[seconds] must be from %d to %d", EXPIRES_SECONDS_MIN,
                       EXPIRES_SECONDS_MAX);
    return true;
}

/* False when it answered what is missing. */
static bool fields_are_complete(struct upload *upload)
{
    struct err err = {0};
    bool is_known;

    if (!upload->has_file) {
        err_set(&err, ERR_INPUT, "'file' is a required property");
        form_refuse(&upload->form, &err, "file");
        return false;
    }
    if (!upload->purpose) {
        err_set(&err, ERR_INPUT, "'purpose' is a required property");
        form_refuse(&upload->form, &err, "purpose");
        return false;
    }
    is_known = file_purpose_is_known(str_of(upload->purpose));
    if (!is_known)
        err_set(&err, ERR_UNSUPPORTED, "purpose '%s' is not known; 'fine-tune' is what training files have",
                upload->purpose);
    else if (upload->expires_anchor && strcmp(upload->expires_anchor, "created_at") != 0)
        err_set(&err, ERR_UNSUPPORTED, "expires_after[anchor] must be created_at");
    if (err.code)
        form_refuse(&upload->form, &err, is_known ? "expires_after" : "purpose");
    return !err.code;
}

static void answer_file(struct call *call, const struct store_file *file)
{
    struct strbuf body = {0};

    view_file(&(struct json_writer){.buf = &body}, file);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* Boundaries differ from try to try, so the body is told by what it means. */
static bool is_new(struct upload *upload, const struct store_file *file)
{
    return idempotency_check(upload->form.call,
                             str_of(arena_printf(upload->form.call->arena, "%s\n%lld\n%s\n%s", upload->purpose,
                                                 (long long)upload->expires_seconds, file->sha256, upload->filename)));
}

/* Under the id that the blob has, or that an earlier try under the same Idempotency-Key was about to give it: then its
 * file may be there already. */
static bool store_upload(struct upload *upload, struct store_file *file, struct err *err)
{
    const struct api_config *config = &upload->form.call->api->config;
    struct store_file earlier;
    char id[STORE_ID_BYTES];
    bool is_made;

    strcpy(id, file->id);
    if (!idempotency_begin(upload->form.call, id, err))
        return false;
    if (upload->form.call->resource_id &&
        store_file_get(config->store, &upload->form.call->tenant, id, upload->form.call->arena, &earlier, NULL)) {
        *file = earlier;
        return true;
    }
    if (strcmp(id, file->id) != 0 && !intake_rename(upload->form.intake, id, err))
        return false;
    is_made = store_file_create(config->store, &upload->form.call->tenant, file, err);
    if (is_made || store_is_in_doubt(config->store))
        intake_keep(upload->form.intake);
    return is_made;
}

static void on_committed(void *context, const struct err *failure)
{
    struct upload *upload = context;
    struct store_file file = {.filename = upload->filename, .purpose = upload->purpose};
    struct err err = {0};

    if (failure) {
        form_refuse(&upload->form, failure, NULL);
        return;
    }
    intake_describe(upload->form.intake, &file);
    file.expires_ms = upload->expires_seconds ? file.created_ms + upload->expires_seconds * 1000 : 0;
    if (!is_new(upload, &file))
        return;
    if (store_upload(upload, &file, &err))
        answer_file(upload->form.call, &file);
    else
        form_refuse(&upload->form, &err, NULL);
}

static void on_whole(struct form *form)
{
    struct upload *upload = (struct upload *)form;
    char id[STORE_ID_BYTES];

    if (!fields_are_complete(upload))
        return;
    store_id_file(id);
    intake_commit(form->intake, id, on_committed, upload);
}

void files_create(struct call *call)
{
    static const struct multipart_sink sink = {on_part, on_data, on_part_end};
    struct upload *upload = arena_new(call->arena, struct upload);

    upload->form = (struct form){.call = call, .on_whole = on_whole};
    form_take(&upload->form, &sink, call->api->config.file_bytes_max);
}

/* --- the others --- */

static bool find_file(struct call *call, struct store_file *file)
{
    const char *id = str_copy(call->arena, call->parameter[0]);
    struct err err = {0};

    if (store_file_get(call->api->config.store, &call->tenant, id, call->arena, file, &err))
        return true;
    if (err.code == ERR_NOT_FOUND)
        answer_error(call, 404, NULL, "id", "No such File object: %s", id);
    else
        answer_err(call, &err, "id");
    return false;
}

void files_list(struct call *call)
{
    static const struct list_limits limits = {10000, 10000, true, true};
    struct store_file_list files = {0};
    struct json_writer w;
    struct strbuf body = {0};
    struct list_query list;
    struct err err = {0};
    struct str purpose = STR_NONE;

    if (!list_read(call, &limits, &list))
        return;
    url_query_get(&call->query, "purpose", &purpose);
    if (!list.is_empty &&
        !store_file_list(call->api->config.store, &call->tenant, purpose.len ? str_copy(call->arena, purpose) : NULL,
                         &list.page, call->arena, &files, &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    w = (struct json_writer){.buf = &body};
    list_write_begin(&w);
    for (size_t i = 0; i < files.count; i++)
        view_file(&w, &files.at[i]);
    list_write_end(&w, LIST_IDS_OR_EMPTY, files.count ? files.at[0].id : NULL,
                   files.count ? files.at[files.count - 1].id : NULL, files.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void files_get(struct call *call)
{
    struct store_file file;

    if (find_file(call, &file))
        answer_file(call, &file);
}

void files_delete(struct call *call)
{
    struct store_file file;
    struct err err = {0};

    if (!find_file(call, &file))
        return;
    if (!store_file_delete(call->api->config.store, &call->tenant, file.id, &err)) {
        answer_err(call, &err, "id");
        return;
    }
    discard_blobs(&call->api->config, &file.id, 1);
    answer_deleted(call, "id", file.id, "file");
}

void files_content(struct call *call)
{
    struct http_header disposition = {STR("Content-Disposition"), STR_NONE};
    struct http_response response = {
        .status = 200, .content_type = "application/octet-stream", .headers = &disposition, .header_count = 1};
    struct store_file file;
    struct err err = {0};
    uint64_t bytes;
    int fd;

    if (!find_file(call, &file))
        return;
    fd = blob_open(call->api->config.blobs, file.id, &bytes, &err);
    if (fd < 0) {
        answer_err(call, &err, "id");
        return;
    }
    disposition.value = str_of(http_disposition(call->arena, str_of(path_name(file.filename))));
    http_answer_file(call->exchange, &response, fd, bytes);
}
