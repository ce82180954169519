#include "job/event.h"

#include "base/json.h"

#include <string.h>

enum { CODE_BYTES_MAX = 64, TEXT_BYTES_MAX = 8192, NAME_BYTES_MAX = 255 };
#define STEP_MAX       ((int64_t)1 << 40)
#define DISK_BYTES_MAX ((int64_t)1 << 50)

/* A member's text for a C string: cut at the limit, behind a whole character, and at a NUL. */
static const char *text_of(struct arena *arena, const struct json *value, size_t bytes_max)
{
    struct str text = json_string_or(value, STR_NONE);

    if (!text.at)
        return NULL;
    if (text.len > bytes_max) {
        text.len = bytes_max;
        while (text.len > 0 && (text.at[text.len] & 0xc0) == 0x80)
            text.len--;
    }
    return str_copy(arena, text);
}

static const char *or_empty(const char *text)
{
    return text ? text : "";
}

/* Members that are not data, and those that clients know under another name. */
static const struct {
    const char *ours, *theirs;
} names[] = {
    {"seq", NULL},          {"kind", NULL},
    {"code", NULL},         {"level", NULL},
    {"message", NULL},      {"time", NULL},
    {"path", NULL},         {"files", NULL},
    {"loss", "train_loss"}, {"token_accuracy", "train_mean_token_accuracy"},
};

/* What the event tells, as one JSON object. */
static const char *data_of(struct arena *arena, const struct json *line, int64_t total_steps)
{
    struct strbuf buf = {0};
    struct json_writer writer = {.buf = &buf};
    const char *copy;

    json_write_begin_object(&writer);
    json_each(member, line) {
        size_t i = 0;

        while (i < sizeof names / sizeof *names && !str_is(member->key, names[i].ours))
            i++;
        if (i == sizeof names / sizeof *names)
            json_write_key_str(&writer, member->key), json_write_value(&writer, member);
        else if (names[i].theirs)
            json_put_value(&writer, names[i].theirs, member);
    }
    if (total_steps > 0 && !json_get(line, "total_steps"))
        json_put_integer(&writer, "total_steps", total_steps);
    json_write_end_object(&writer);
    copy = arena_copy(arena, buf.at, buf.len);
    strbuf_deinit(&buf);
    return copy;
}

static const char *metrics_of(struct arena *arena, const struct json *line)
{
    static const char *const metrics[] = {"train_loss",      "train_mean_token_accuracy",
                                          "valid_loss",      "valid_mean_token_accuracy",
                                          "full_valid_loss", "full_valid_mean_token_accuracy"};
    struct strbuf buf = {0};
    struct json_writer writer = {.buf = &buf};
    const char *copy;

    json_write_begin_object(&writer);
    json_put_integer(&writer, "step", json_integer_or(json_get(line, "step"), 0));
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        const struct json *value = json_get(line, metrics[i]);

        json_write_key(&writer, metrics[i]);
        if (json_has_type(value, JSON_NUMBER))
            json_write_value(&writer, value);
        else
            json_write_null(&writer);
    }
    json_write_end_object(&writer);
    copy = arena_copy(arena, buf.at, buf.len);
    strbuf_deinit(&buf);
    return copy;
}

static double number_of(const struct json *line, const char *name)
{
    return json_number_or(json_get(line, name), 0);
}

static bool read_message(struct arena *arena, const struct json *line, struct job_event *event, struct err *err)
{
    static const char *const levels[] = {"info", "warn", "error"};
    const char *level = text_of(arena, json_get(line, "level"), CODE_BYTES_MAX);
    const struct json *data = json_get(line, "data");
    struct strbuf buf = {0};
    struct json_writer writer = {.buf = &buf};

    for (size_t i = 0; level && i < 3; i++)
        if (strcmp(level, levels[i]) == 0)
            event->row.level = levels[i];
    event->row.message = text_of(arena, json_get(line, "message"), TEXT_BYTES_MAX);
    if (!level || !event->row.message)
        return err_set(err, ERR_INPUT, "a message needs level and message");
    event->row.data_json = NULL;
    if (!json_is_null(data)) {
        json_write_value(&writer, data);
        event->row.data_json = arena_copy(arena, buf.at, buf.len);
    }
    strbuf_deinit(&buf);
    return true;
}

static bool read_start(struct arena *arena, const struct json *line, struct job_event *event, struct err *err)
{
    int64_t total = json_integer_or(json_get(line, "total_steps"), 0);

    if (total <= 0 || total > STEP_MAX)
        return err_set(err, ERR_INPUT, "start needs total_steps");
    event->total_steps = total;
    event->disk_bytes = json_integer_or(json_get(line, "disk_bytes"), 0);
    if (event->disk_bytes < 0 || event->disk_bytes > DISK_BYTES_MAX)
        return err_set(err, ERR_INPUT, "start: disk_bytes is not a size");
    event->row.message = arena_printf(arena, "Training for %lld steps: %lld examples, %lld tokens an epoch",
                                      (long long)total, (long long)json_integer_or(json_get(line, "train_examples"), 0),
                                      (long long)json_integer_or(json_get(line, "train_tokens"), 0));
    return true;
}

static bool read_step(struct arena *arena, const struct json *line, const struct event_context *context,
                      struct job_event *event, struct err *err)
{
    double seconds_left = number_of(line, "seconds_left");

    event->row.type = "metrics";
    event->row.message = arena_printf(arena, "Step %lld/%lld: training loss=%.2f", (long long)event->row.step,
                                      (long long)context->total_steps, number_of(line, "loss"));
    event->trained_steps = event->row.step;
    event->trained_tokens = json_integer_or(json_get(line, "trained_tokens"), 0);
    if (seconds_left > 0 && seconds_left < 1e9)
        event->estimated_finish_ms = event->row.created_ms + (int64_t)(seconds_left * 1000);
    return event->trained_tokens >= 0 || err_set(err, ERR_INPUT, "trained_tokens is below zero");
}

static bool read_valid(struct arena *arena, const struct json *line, const struct event_context *context,
                       struct job_event *event)
{
    event->row.type = "metrics";
    event->row.message = arena_printf(arena, "Step %lld/%lld: validation loss=%.2f", (long long)event->row.step,
                                      (long long)context->total_steps, number_of(line, "valid_loss"));
    return true;
}

/* A name that stays in its folder. */
static bool is_plain_name(struct str name)
{
    return name.len > 0 && name.len <= NAME_BYTES_MAX && name.at[0] != '.' && !memchr(name.at, '/', name.len) &&
           !memchr(name.at, 0, name.len);
}

/* Every part of the path is a plain name. */
static bool is_plain_path(struct str path)
{
    while (path.len > 0) {
        ptrdiff_t slash = str_find(path, STR("/"), 0);
        size_t len = slash < 0 ? path.len : (size_t)slash;

        if (!is_plain_name(str_slice(path, 0, len)))
            return false;
        if (slash < 0)
            return true;
        path = str_slice(path, len + 1, path.len);
    }
    return false;
}

static bool is_sha256(struct str hex)
{
    for (size_t i = 0; i < hex.len; i++)
        if (!strchr("0123456789abcdef", hex.at[i]))
            return false;
    return hex.len == 64;
}

static bool read_files(struct arena *arena, const struct json *files, struct job_event *event, struct err *err)
{
    if (!json_has_type(files, JSON_ARRAY) || files->count == 0 || files->count > EVENT_FILES_MAX)
        return err_set(err, ERR_INPUT, "a checkpoint needs files");
    event->files = arena_new_array(arena, struct event_file, files->count);
    json_each(item, files) {
        struct str name = json_string_or(json_get(item, "name"), STR_NONE);
        struct str sha256 = json_string_or(json_get(item, "sha256"), STR_NONE);
        int64_t bytes = json_integer_or(json_get(item, "bytes"), -1);

        if (!is_plain_name(name) || bytes < 0 || !is_sha256(sha256))
            return err_set(err, ERR_INPUT, "a file of a checkpoint needs name, bytes and sha256");
        event->files[event->file_count++] = (struct event_file){str_copy(arena, name), bytes, str_copy(arena, sha256)};
    }
    return true;
}

static bool read_checkpoint(struct arena *arena, const struct json *line, const struct event_context *context,
                            struct job_event *event, struct err *err)
{
    struct str path = json_string_or(json_get(line, "path"), STR_NONE);

    if (!is_plain_path(path))
        return err_set(err, ERR_INPUT, "a checkpoint needs a path in the run directory");
    if (!read_files(arena, json_get(line, "files"), event, err))
        return false;
    event->is_checkpoint = true;
    event->path = str_copy(arena, path);
    event->is_final = json_bool_or(json_get(line, "is_final"), false);
    event->metrics_json = metrics_of(arena, line);
    event->model_name = arena_printf(arena, "%s:ckpt-step-%lld", context->output_name, (long long)event->row.step);
    event->row.message = arena_printf(arena, "Checkpoint created at step %lld with Snapshot ID: %s",
                                      (long long)event->row.step, event->model_name);
    return true;
}

static bool read_by_kind(struct arena *arena, const struct json *line, const struct event_context *context,
                         struct job_event *event, struct err *err)
{
    static const char *const kinds[] = {"message", "start", "step", "valid", "checkpoint", "end"};
    struct str kind = json_string_or(json_get(line, "kind"), STR_NONE);
    size_t which = 0;

    while (which < sizeof kinds / sizeof *kinds && !str_is(kind, kinds[which]))
        which++;
    event->row.kind = which < sizeof kinds / sizeof *kinds ? kinds[which] : NULL;
    switch (which) {
    case 0:
        return read_message(arena, line, event, err);
    case 1:
        return read_start(arena, line, event, err);
    case 2:
        return read_step(arena, line, context, event, err);
    case 3:
        return read_valid(arena, line, context, event);
    case 4:
        return read_checkpoint(arena, line, context, event, err);
    case 5:
        event->is_end = true;
        return true;
    default:
        return err_set(err, ERR_INPUT, "unknown kind of event");
    }
}

bool event_parse(struct arena *arena, struct str line, const struct event_context *context, struct job_event *event,
                 struct err *err)
{
    static const struct json_limits limits = {.depth = 16, .members = 256, .string_bytes = 1 << 16};
    const struct json *root = json_parse(arena, line, &limits, err);
    int64_t step = json_integer_or(json_get(root, "step"), -1), time = json_integer_or(json_get(root, "time"), 0);

    *event = (struct job_event){0};
    if (!root)
        return false;
    if (root->type != JSON_OBJECT || step < 0 || step > STEP_MAX)
        return err_set(err, ERR_INPUT, "an event needs a step");
    event->row = (struct store_event){
        .code = or_empty(text_of(arena, json_get(root, "code"), CODE_BYTES_MAX)),
        .step = step,
        .attempt = context->attempt,
        .level = "info",
        .type = "message",
        .created_ms = time > 0 && time < ((int64_t)1 << 50) ? time : context->now_ms,
    };
    event->row.data_json = data_of(arena, root, context->total_steps);
    return read_by_kind(arena, root, context, event, err);
}

struct exit_record exit_parse(struct arena *arena, struct str text)
{
    static const struct {
        const char *name;
        enum exit_status status;
    } statuses[] = {
        {"succeeded", EXIT_SUCCEEDED}, {"failed", EXIT_FAILED}, {"cancelled", EXIT_CANCELLED}, {"paused", EXIT_PAUSED}};
    const struct json_limits limits = {.depth = 8, .members = 64, .string_bytes = 1 << 16};
    const struct json *root = json_parse(arena, text, &limits, NULL), *error = json_get(root, "error");
    struct str status = json_string_or(json_get(root, "status"), STR_NONE);
    struct exit_record record = {0};

    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (str_is(status, statuses[i].name))
            record.status = statuses[i].status;
    record.error_code = text_of(arena, json_get(error, "code"), CODE_BYTES_MAX);
    record.error_message = text_of(arena, json_get(error, "message"), TEXT_BYTES_MAX);
    record.error_param = text_of(arena, json_get(error, "param"), CODE_BYTES_MAX);
    return record;
}
