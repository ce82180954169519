#include "job/manager_int.h"

#include "base/json.h"
#include "os/clock.h"
#include "os/file.h"

#include <string.h>

/* A line comes to one event; a start to one more for each file. */
enum { EVENTS_PER_LINE_MAX = 3 };

/* What one buffer of lines comes to. */
struct batch {
    struct attempt *attempt;
    struct arena *arena;
    struct store_advance advance;
};

static void add_event(struct batch *batch, const struct store_event *event)
{
    batch->advance.events[batch->advance.event_count++] = *event;
}

/* The job goes on; that something was lost stands in its events, once. */
static void add_unreadable(struct batch *batch, const struct err *why)
{
    struct store_event event = {.kind = "message",
                                .code = "unreadable_event",
                                .attempt = batch->attempt->job.attempt,
                                .level = "warn",
                                .message =
                                    arena_printf(batch->arena, "An event of the trainer cannot be read: %s", why->text),
                                .type = "message",
                                .created_ms = clock_unix_ms()};

    add_event(batch, &event);
}

static const char *ids_as_json(struct arena *arena, const struct store_file *files, size_t count)
{
    struct strbuf buf = {0};
    struct json_writer writer = {.buf = &buf};
    const char *text;

    json_write_begin_array(&writer);
    for (size_t i = 0; i < count; i++)
        json_write_text(&writer, files[i].id);
    json_write_end_array(&writer);
    text = arena_copy(arena, buf.at, buf.len);
    strbuf_deinit(&buf);
    return text;
}

/* Result files are hard links to the checkpoint's: the same bytes under an id. */
static bool link_files(struct batch *batch, const struct job_event *event, const char *dir, const char *checkpoint_id,
                       struct store_file *files, struct err *err)
{
    for (size_t i = 0; i < event->file_count; i++) {
        const struct event_file *from = &event->files[i];
        const char *path = path_join(batch->arena, dir, from->name);
        char *id = arena_alloc(batch->arena, STORE_ID_BYTES);
        uint64_t bytes;

        if (!file_size(path, &bytes, err))
            return false;
        if ((int64_t)bytes != from->bytes)
            return err_set(err, ERR_INPUT, "%s has %llu bytes, not the %lld that were announced", from->name,
                           (unsigned long long)bytes, (long long)from->bytes);
        store_id_file(id);
        if (!blob_link_from_path(batch->attempt->manager->config.blobs, id, path, err))
            return false;
        files[i] = (struct store_file){
            .id = id,
            .filename = arena_printf(batch->arena, "%s/%s", checkpoint_id, from->name),
            .purpose = "fine-tune-results",
            .bytes = from->bytes,
            .sha256 = from->sha256,
            .status = "processed",
            .checkpoint_id = checkpoint_id,
            .created_ms = event->row.created_ms,
        };
    }
    return blobs_sync(batch->attempt->manager->config.blobs, err);
}

/* For rows that were not made. */
static void unlink_files(struct batch *batch, const struct store_file *files, size_t count)
{
    for (size_t i = 0; i < count && files[i].id; i++)
        blob_remove(batch->attempt->manager->config.blobs, files[i].id, NULL);
}

static void unlink_all(struct batch *batch)
{
    for (size_t i = 0; i < batch->advance.checkpoint_count; i++)
        unlink_files(batch, batch->advance.checkpoints[i].files, batch->advance.checkpoints[i].file_count);
}

static bool is_lora(const char *hyperparameters_json)
{
    struct arena arena = {0};
    bool lora = json_bool_or(json_get(json_parse(&arena, str_of(hyperparameters_json), NULL, NULL), "lora"), false);

    arena_deinit(&arena);
    return lora;
}

static bool add_checkpoint(struct batch *batch, const struct job_event *event, struct err *err)
{
    const struct store_job *job = &batch->attempt->job;
    struct store_checkpoint_commit *commit = &batch->advance.checkpoints[batch->advance.checkpoint_count];
    char *id = arena_alloc(batch->arena, STORE_ID_BYTES);
    const char *path = path_join(batch->arena, batch->attempt->run_dir, event->path);
    bool is_known;

    if (!store_queue_has_checkpoint(batch->attempt->manager->config.store, job->id, event->row.step, &is_known, err))
        return false;
    if (is_known)
        return true;
    store_id_checkpoint(id);
    commit->files = arena_new_array(batch->arena, struct store_file, event->file_count);
    commit->file_count = event->file_count;
    if (!link_files(batch, event, path, id, commit->files, err)) {
        unlink_files(batch, commit->files, commit->file_count);
        return false;
    }
    commit->checkpoint = (struct store_checkpoint){
        .id = id,
        .job_id = job->id,
        .step = event->row.step,
        .model_name = event->model_name,
        .path = path,
        .metrics_json = event->metrics_json,
        .result_files_json = ids_as_json(batch->arena, commit->files, commit->file_count),
        .is_final = event->is_final,
        .created_ms = event->row.created_ms,
    };
    commit->model = (struct store_model){
        .name = event->model_name,
        .job_id = job->id,
        .checkpoint_id = id,
        .kind = is_lora(job->hyperparameters_json) ? "lora" : "full",
        .base_model = job->model,
        .base_path = job->model_path,
        .path = path,
        .created_ms = event->row.created_ms,
    };
    batch->advance.checkpoint_count++;
    return true;
}

static int64_t greatest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void add_progress(struct store_advance *advance, const struct job_event *event)
{
    advance->total_steps = greatest(advance->total_steps, event->total_steps);
    advance->trained_steps = greatest(advance->trained_steps, event->trained_steps);
    advance->disk_bytes = greatest(advance->disk_bytes, event->disk_bytes);
    advance->trained_tokens = greatest(advance->trained_tokens, event->trained_tokens);
    if (event->estimated_finish_ms)
        advance->estimated_finish_ms = event->estimated_finish_ms;
}

/* A start event says that the data were read: told in the words that Nebius' users know. */
static void add_datasets(struct batch *batch, const struct job_event *start)
{
    struct store_event event = start->row;

    event.kind = "message";
    event.data_json = NULL;
    if (batch->attempt->job.validation_file) {
        event.code = "validation_dataset";
        event.message = "Dataset 'validation' processed successfully";
        add_event(batch, &event);
    }
    event.code = "training_dataset";
    event.message = "Dataset 'training' processed successfully";
    add_event(batch, &event);
}

/* False only when the line cannot be dealt with now and is to be read again. */
static bool add_line(struct batch *batch, struct str line, struct err *err)
{
    struct attempt *attempt = batch->attempt;
    struct event_context context = {.output_name = attempt->job.output_name,
                                    .total_steps = attempt->total_steps,
                                    .attempt = attempt->job.attempt,
                                    .now_ms = clock_unix_ms()};
    struct job_event event;
    struct err problem = {0};

    if (!event_parse(batch->arena, line, &context, &event, &problem)) {
        add_unreadable(batch, &problem);
        return true;
    }
    if (event.is_end)
        return true;
    if (event.is_checkpoint && !add_checkpoint(batch, &event, &problem)) {
        if (problem.code != ERR_NOT_FOUND && problem.code != ERR_INPUT)
            return err_set(err, problem.code, "%s", problem.text);
        add_unreadable(batch, &problem);
        return true;
    }
    attempt->total_steps = greatest(attempt->total_steps, event.total_steps);
    add_progress(&batch->advance, &event);
    if (event.total_steps > 0)
        add_datasets(batch, &event);
    add_event(batch, &event.row);
    return true;
}

static bool add_lines(struct batch *batch, struct str text, struct err *err)
{
    for (size_t at = 0; at < text.len;) {
        const char *newline = memchr(text.at + at, '\n', text.len - at);
        size_t end = newline ? (size_t)(newline - text.at) : text.len;

        if (!add_line(batch, str_slice(text, at, end), err))
            return false;
        at = end + 1;
    }
    return true;
}

static bool store_lines(struct attempt *attempt, struct str text, struct err *err)
{
    struct store *store = attempt->manager->config.store;
    struct arena arena = {0};
    size_t line_count = 1;
    bool was_read, ok;

    for (size_t i = 0; i < text.len; i++)
        line_count += text.at[i] == '\n';
    struct batch batch = {
        .attempt = attempt,
        .arena = &arena,
        .advance = {.id = attempt->job.id,
                    .attempt = attempt->job.attempt,
                    .from_offset = attempt->offset,
                    .to_offset = attempt->offset + (int64_t)text.len,
                    .events = arena_new_array(&arena, struct store_event, EVENTS_PER_LINE_MAX * line_count),
                    .checkpoints = arena_new_array(&arena, struct store_checkpoint_commit, line_count)},
    };
    was_read = add_lines(&batch, text, err);
    ok = was_read && store_queue_advance(store, &batch.advance, err);
    if (!ok && !(was_read && store_is_in_doubt(store)))
        unlink_all(&batch);
    if (ok && batch.advance.checkpoint_count > 0 && attempt->job.keep_checkpoints > 0)
        manager_retire(attempt->manager, attempt->job.id);
    if (ok) {
        attempt->offset = batch.advance.to_offset;
        if (batch.advance.disk_bytes > attempt->job.disk_bytes) {
            attempt->job.disk_bytes = batch.advance.disk_bytes;
            room_hold(attempt->manager, &attempt->job);
        }
        manager_changed(attempt->manager, &attempt->tenant, attempt->job.id);
    }
    arena_deinit(&arena);
    return ok;
}

bool attempt_read_events(struct attempt *attempt, bool *more, struct err *err)
{
    char *buf = attempt->manager->read_buf;
    const char *newline;
    size_t got = 0;

    *more = false;
    if (attempt->events_fd < 0)
        return true;
    if (!fd_pread(attempt->events_fd, buf, EVENT_LINE_BYTES_MAX, (uint64_t)attempt->offset, &got, attempt->events_path,
                  err))
        return false;
    newline = memrchr(buf, '\n', got);
    /* An unfinished line waits for its end, unless it is longer than any line may be: then it is unreadable. */
    if (!newline && got < EVENT_LINE_BYTES_MAX)
        return true;
    *more = got == EVENT_LINE_BYTES_MAX;
    return store_lines(attempt, (struct str){buf, newline ? (size_t)(newline - buf) + 1 : got}, err);
}
