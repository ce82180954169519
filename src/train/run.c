#include "train/run.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/identity.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { CONTROL_BYTES_MAX = 4096, RUN_FORMAT = 1 };

static volatile sig_atomic_t stop_was_asked;

static void on_terminate(int signal)
{
    stop_was_asked = 1;
}

static void on_wake(int signal)
{
}

void run_catch_signals(void)
{
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_terminate}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_terminate, .sa_flags = SA_RESETHAND}, NULL);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_wake}, NULL);
}

static const char *status_name(enum run_status status)
{
    static const char *const names[] = {
#define RUN_STATUS_NAME(name, text) text,
        RUN_STATUSES(RUN_STATUS_NAME)
#undef RUN_STATUS_NAME
    };
    return names[status];
}

char *run_attempt_dir(struct arena *arena, const char *dir, int64_t attempt)
{
    return arena_printf(arena, "%s/attempts/%04" PRId64, dir, attempt);
}

bool run_attempts(struct arena *arena, const char *dir, int64_t **attempts, size_t *count, struct err *err)
{
    const char *folder = path_join(arena, dir, "attempts");
    size_t name_count;
    char **names;

    *count = 0;
    if (!dir_exists(folder))
        return true;
    if (!dir_list(arena, folder, &names, &name_count, err))
        return false;
    *attempts = arena_new_array(arena, int64_t, name_count);
    for (size_t i = 0; i < name_count; i++)
        if (str_to_i64(str_of(names[i]), &(*attempts)[*count]))
            (*count)++;
    return true;
}

static bool write_identity(struct run *run, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    struct process_identity self;
    bool ok;

    if (!identity_of_self(&self, err))
        return false;
    json_write_begin_object(&w);
    json_put_integer(&w, "format", RUN_FORMAT);
    json_put_integer(&w, "pid", self.pid);
    json_put_integer(&w, "start_time", (int64_t)self.start_time);
    json_put_text(&w, "boot_id", self.boot_id);
    json_put_integer(&w, "attempt", run->attempt);
    json_write_end_object(&w);
    strbuf_add_char(&text, '\n');
    /* not synced: after a power cut there is no such process */
    ok = file_swap(path_join(&run->arena, run->attempt_dir, "identity.json"), strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

static bool open_files(struct run *run, struct err *err)
{
    uint64_t bytes = 0;

    run->events_path = path_join(&run->arena, run->attempt_dir, "events.jsonl");
    run->heartbeat_path = path_join(&run->arena, run->attempt_dir, "heartbeat");
    run->events_fd = file_open_append(run->events_path, err);
    if (run->events_fd < 0 || !file_size(run->events_path, &bytes, err))
        return false;
    if (bytes > 0)
        return err_set(err, ERR_CONFLICT, "attempt %" PRId64 " has already run: start the next one", run->attempt);
    run->heartbeat_fd = file_create(run->heartbeat_path, err);
    return run->heartbeat_fd >= 0 && run_beat(run, err);
}

bool run_open(struct run *run, const char *dir, int64_t attempt, struct err *err)
{
    *run = (struct run){.attempt = attempt, .events_fd = -1, .heartbeat_fd = -1, .room_wait_ms = ROOM_WAIT_MS};
    run->dir = str_copy(&run->arena, str_of(dir));
    run->attempt_dir = run_attempt_dir(&run->arena, dir, attempt);
    if (dir_make(run->attempt_dir, err) && open_files(run, err) && write_identity(run, err))
        return true;
    run_close(run);
    return false;
}

void run_close(struct run *run)
{
    if (!run->dir)
        return;
    fd_close(&run->events_fd);
    fd_close(&run->heartbeat_fd);
    strbuf_deinit(&run->line);
    arena_deinit(&run->arena);
    *run = (struct run){0};
}

static enum run_wanted read_control(struct run *run, struct arena *arena)
{
    const struct json *root;
    struct str text, wanted;
    int64_t attempt;

    if (!file_read(arena, path_join(arena, run->dir, "control"), CONTROL_BYTES_MAX, &text, NULL))
        return RUN_GO_ON;
    root = json_parse(arena, text, NULL, NULL);
    attempt = json_integer_or(json_get(root, "attempt"), 0);
    wanted = json_string_or(json_get(root, "wanted"), STR("run"));
    if (attempt != run->attempt)
        return attempt > run->attempt ? RUN_SUPERSEDED : RUN_GO_ON;
    return str_is(wanted, "pause") ? RUN_PAUSE : str_is(wanted, "cancel") ? RUN_CANCEL : RUN_GO_ON;
}

enum run_wanted run_wanted(struct run *run)
{
    struct arena arena = {0};
    enum run_wanted wanted = read_control(run, &arena);

    arena_deinit(&arena);
    if (wanted == RUN_GO_ON && fd_is_removed(run->heartbeat_fd))
        return RUN_SUPERSEDED;
    return wanted == RUN_GO_ON && stop_was_asked ? RUN_PAUSE : wanted;
}

bool run_beat(struct run *run, struct err *err)
{
    char text[32];

    snprintf(text, sizeof text, "%020" PRIu64, ++run->beats);
    return fd_pwrite_all(run->heartbeat_fd, text, 20, 0, run->heartbeat_path, err);
}

struct json_writer *run_event_begin(struct run *run, const char *kind, const char *code, int64_t step)
{
    struct json_writer *w = &run->writer;

    strbuf_clear(&run->line);
    *w = (struct json_writer){.buf = &run->line};
    json_write_begin_object(w);
    json_put_integer(w, "seq", ++run->seq);
    json_put_text(w, "kind", kind);
    json_put_text(w, "code", code);
    json_put_integer(w, "step", step);
    json_put_integer(w, "time", clock_unix_ms());
    return w;
}

bool run_wait_for_room(struct run *run, const struct err *problem, int64_t *since_ms)
{
    int64_t now = clock_monotonic_ms();

    if (*since_ms == 0)
        *since_ms = now;
    if (problem->code != ERR_NO_SPACE || now - *since_ms >= run->room_wait_ms)
        return false;
    clock_sleep_ms(1000);
    return run_beat(run, NULL);
}

/* A line that went in part is taken back: readers have not seen it, for they stop at the last newline. */
bool run_event_end(struct run *run, struct err *err)
{
    struct err problem = {0};
    int64_t since_ms = 0;

    json_write_end_object(&run->writer);
    strbuf_add_char(&run->line, '\n');
    while (!fd_write_all(run->events_fd, run->line.at, run->line.len, run->events_path, &problem)) {
        if (!fd_cut(run->events_fd, run->events_bytes, run->events_path, err))
            return false;
        if (!run_wait_for_room(run, &problem, &since_ms))
            return err_set(err, problem.code, "%s", problem.text);
    }
    run->events_bytes += run->line.len;
    return true;
}

bool run_message(struct run *run, const char *level, const char *code, int64_t step, struct err *err,
                 const char *format, ...)
{
    struct json_writer *w = run_event_begin(run, "message", code, step);
    struct strbuf text = {0};
    va_list args;

    va_start(args, format);
    strbuf_vprintf(&text, format, args);
    va_end(args);
    json_put_text(w, "level", level);
    json_put_str(w, "message", strbuf_view(&text));
    if (run->on_message)
        run->on_message(run->context, level, text.at);
    strbuf_deinit(&text);
    return run_event_end(run, err);
}

bool run_sync(struct run *run, struct err *err)
{
    return fd_sync(run->events_fd, run->events_path, err);
}

static void put_end(struct json_writer *w, enum run_status status, const struct err *failure, const char *param)
{
    json_put_text(w, "status", status_name(status));
    json_write_key(w, "error");
    if (status != RUN_FAILED) {
        json_write_null(w);
        return;
    }
    json_write_begin_object(w);
    json_put_text(w, "code", err_code_name(failure->code));
    json_put_text(w, "message", failure->text);
    json_put_text(w, "param", param);
    json_write_end_object(w);
}

bool run_finish(struct run *run, enum run_status status, int64_t step, const struct err *failure, const char *param,
                struct err *err)
{
    const char *path = path_join(&run->arena, run->attempt_dir, "exit.json");
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    struct err problem = {0};
    int64_t since_ms = 0;
    bool ok;

    put_end(run_event_begin(run, "end", "", step), status, failure, param);
    if (!run_event_end(run, err) || !run_sync(run, err))
        return false;
    json_write_begin_object(&w);
    json_put_integer(&w, "format", RUN_FORMAT);
    put_end(&w, status, failure, param);
    json_write_end_object(&w);
    strbuf_add_char(&text, '\n');
    while (!(ok = file_replace(path, strbuf_view(&text), &problem)) && run_wait_for_room(run, &problem, &since_ms))
        continue;
    strbuf_deinit(&text);
    return ok || err_set(err, problem.code, "%s", problem.text);
}
