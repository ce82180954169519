#include "train/train_int.h"
#include "model/state_copy.h"
#include "os/clock.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { RECOVERY_FORMAT = 1, STATE_BYTES_MAX = 1 << 20 };

static const char *recovery_dir(struct arena *arena, const struct session *s, int64_t attempt)
{
    return path_join(arena, run_attempt_dir(arena, s->options->dir, attempt), "recovery");
}

static void write_state(const struct session *s, struct strbuf *out)
{
    struct json_writer w = {.buf = out, .indent = 1};

    json_write_begin_object(&w);
    json_put_integer(&w, "format", RECOVERY_FORMAT);
#define WRITE_INTEGER(name) json_put_integer(&w, #name, s->progress.name);
    PROGRESS_INTEGERS(WRITE_INTEGER)
#undef WRITE_INTEGER
#define WRITE_NUMBER(name) json_put_number(&w, #name, s->progress.name);
    PROGRESS_NUMBERS(WRITE_NUMBER)
#undef WRITE_NUMBER
    json_put_integer(&w, "epoch", s->progress.step / s->feed.steps_per_epoch);
    json_put_integer(&w, "row", s->progress.step % s->feed.steps_per_epoch * s->feed.batch_size);
    json_put_text(&w, "job_sha256", s->config.hash);
    json_put_text(&w, "base_sha256", s->base_hash);
    json_put_text(&w, "data_sha256", s->data_hash);
    json_write_end_object(&w);
    strbuf_add_char(out, '\n');
}

static bool hash_is(const struct json *root, const char *key, const char *hash)
{
    return json_is(json_get(root, key), hash);
}

static bool read_state(const struct session *s, struct arena *arena, const char *folder, struct progress *progress,
                       struct err *err)
{
    const struct json *root;
    struct str text;

    if (!file_read(arena, path_join(arena, folder, "state.json"), STATE_BYTES_MAX, &text, err))
        return false;
    root = json_parse(arena, text, NULL, err);
    if (!root)
        return false;
    if (json_integer_or(json_get(root, "format"), 0) != RECOVERY_FORMAT)
        return err_set(err, ERR_INPUT, "%s is not of format %d", folder, RECOVERY_FORMAT);
    if (!hash_is(root, "job_sha256", s->config.hash) || !hash_is(root, "base_sha256", s->base_hash) ||
        !hash_is(root, "data_sha256", s->data_hash))
        return err_set(err, ERR_CONFLICT, "%s belongs to another job, base model or data", folder);
#define READ_INTEGER(name) progress->name = json_integer_or(json_get(root, #name), 0);
    PROGRESS_INTEGERS(READ_INTEGER)
#undef READ_INTEGER
#define READ_NUMBER(name) progress->name = json_number_or(json_get(root, #name), 0);
    PROGRESS_NUMBERS(READ_NUMBER)
#undef READ_NUMBER
    return true;
}

/* All but the newest RECOVERY_POINTS_KEPT of this attempt; with as many here, earlier attempts' are not needed any
 * more. */
static bool remove_old(struct session *s, struct arena *arena, struct err *err)
{
    const char *here = recovery_dir(arena, s, s->run.attempt);
    int64_t *attempts;
    char **names;
    size_t count, attempt_count;

    if (!dir_list(arena, here, &names, &count, err))
        return false;
    for (size_t i = 0; i + RECOVERY_POINTS_KEPT < count; i++)
        if (!dir_remove(path_join(arena, here, names[i]), err))
            return false;
    if (count < RECOVERY_POINTS_KEPT)
        return true;
    if (!run_attempts(arena, s->options->dir, &attempts, &attempt_count, err))
        return false;
    for (size_t i = 0; i < attempt_count; i++)
        if (attempts[i] < s->run.attempt && !dir_remove(recovery_dir(arena, s, attempts[i]), err))
            return false;
    return true;
}

/* A recovery point under construction. */
struct unfinished_point {
    struct arena arena;
    const char *path, *temporary;
    struct checkpoint_file file[2]; /* state.json, state.safetensors */
    struct checkpoint_files files;
    struct folder_label label;
};

static bool point_begin(struct session *s, struct unfinished_point *point, struct err *err)
{
    struct strbuf state = {0};
    bool ok;

    point->path = path_join(&point->arena, recovery_dir(&point->arena, s, s->run.attempt),
                            folder_step_name(&point->arena, s->progress.step));
    point->files.file = point->file;
    point->label = (struct folder_label){s->config.id, "recovery", s->run.attempt, s->progress.step};
    write_state(s, &state);
    ok = folder_begin(&point->arena, point->path, checkpoint_state_bytes(s->model), &point->temporary, err) &&
         folder_add_file(&point->arena, point->temporary, "state.json", strbuf_view(&state), &point->files, err);
    point->file[1].name = "state.safetensors";
    strbuf_deinit(&state);
    return ok;
}

static const char *weights_path(struct unfinished_point *point)
{
    return path_join(&point->arena, point->temporary, point->file[1].name);
}

static bool point_commit(struct unfinished_point *point, struct err *err)
{
    point->files.count++;
    return folder_commit(point->temporary, point->path, &point->label, &point->files, err);
}

/* A run goes on without: were it to die, it would begin at an earlier point again. */
static bool do_without(struct session *s, int64_t step, const struct err *why, struct err *err)
{
    return run_message(&s->run, "warn", "recovery_point_skipped", step, err,
                       "The recovery point of step %" PRId64 " is left out: %s", step, why->text);
}

/* Behind a point that is there, or is not, for `problem`; its memory goes. */
static bool point_end(struct session *s, struct unfinished_point *point, bool is_there, const struct err *problem,
                      struct err *err)
{
    int64_t step = point->label.step;
    bool ok;

    if (is_there) {
        ok = remove_old(s, &point->arena, err);
    } else {
        folder_abort(point->temporary);
        ok = problem->code == ERR_NO_SPACE ? do_without(s, step, problem, err)
                                           : err_set(err, problem->code, "%s", problem->text);
    }
    arena_deinit(&point->arena);
    ok = ok && run_beat(&s->run, err);
    return ok || err_prefix(err, "recovery point of step %" PRId64, step);
}

/* What is durable before the point that stands for it. */
static bool events_are_there(struct session *s, struct err *err)
{
    s->last_recovery_at = clock_monotonic();
    s->recovery_step = s->progress.step;
    return (run_sync(&s->run, err) && board_sync(s, err)) ||
           err_prefix(err, "recovery point of step %" PRId64, s->progress.step);
}

bool recovery_write(struct session *s, struct err *err)
{
    struct unfinished_point point = {0};
    struct err problem = {0};
    bool is_there;

    if (!recovery_settle(s, err))
        return false;
    if (s->recovery_step == s->progress.step)
        return true;
    if (!events_are_there(s, err))
        return false;
    is_there =
        point_begin(s, &point, &problem) &&
        checkpoint_write_state(s->model, weights_path(&point), &point.file[1].bytes, point.file[1].sha256, &problem) &&
        point_commit(&point, &problem);
    s->recovery_seconds = clock_monotonic() - s->last_recovery_at;
    return point_end(s, &point, is_there, &problem, err);
}

/* --- beside the steps that follow --- */

static bool end_unfinished(struct session *s, bool is_there, const struct err *problem, struct err *err)
{
    struct unfinished_point *point = s->unfinished;
    bool ok;

    if (!is_there)
        state_copy_abort(s->state_copy);
    s->unfinished = NULL;
    ok = point_end(s, point, is_there, problem, err);
    free(point);
    return ok;
}

bool recovery_begin(struct session *s, struct err *err)
{
    struct err problem = {0};

    if (!recovery_settle(s, err))
        return false;
    if (!s->state_copy)
        s->state_copy = state_copy_new(s->model);
    if (!s->state_copy)
        return recovery_write(s, err);
    if (!events_are_there(s, err))
        return false;
    s->unfinished = mem_alloc_zero(1, sizeof *s->unfinished);
    if (point_begin(s, s->unfinished, &problem) &&
        state_copy_begin(s->state_copy, weights_path(s->unfinished), &problem))
        return true;
    return end_unfinished(s, false, &problem, err);
}

/* Tensors, one at least: all of them, or as long as the device is busy. Behind the last the rest of the point. */
static bool write_some(struct session *s, bool is_all, struct err *err)
{
    struct unfinished_point *point = s->unfinished;
    struct err problem = {0};
    bool ok = true;

    while (ok && state_copy_left(s->state_copy)) {
        ok = state_copy_write(s->state_copy, &problem);
        if (ok && state_copy_left(s->state_copy) && !is_all && !state_copy_is_device_busy(s->state_copy))
            return true;
    }
    ok = ok && state_copy_end(s->state_copy, &point->file[1].bytes, point->file[1].sha256, &problem) &&
         point_commit(point, &problem);
    return end_unfinished(s, ok, &problem, err);
}

bool recovery_go_on(struct session *s, struct err *err)
{
    return !s->unfinished || write_some(s, false, err);
}

bool recovery_settle(struct session *s, struct err *err)
{
    return !s->unfinished || write_some(s, true, err);
}

void recovery_drop(struct session *s)
{
    if (s->unfinished) {
        state_copy_abort(s->state_copy);
        folder_abort(s->unfinished->temporary);
        arena_deinit(&s->unfinished->arena);
    }
    free(s->unfinished);
    state_copy_free(s->state_copy);
    s->unfinished = NULL;
    s->state_copy = NULL;
}

struct point {
    int64_t step, attempt;
    const char *path;
};

static int newest_first(const void *a, const void *b)
{
    const struct point *x = a, *y = b;

    if (x->step != y->step)
        return x->step > y->step ? -1 : 1;
    return x->attempt > y->attempt ? -1 : x->attempt < y->attempt;
}

/* Adds the recovery points of one attempt. */
static bool list_points(struct session *s, struct arena *arena, int64_t attempt, struct point **points, size_t *count,
                        struct err *err)
{
    const char *dir = recovery_dir(arena, s, attempt);
    struct point *grown;
    char **names;
    size_t name_count;

    if (!dir_exists(dir))
        return true;
    if (!dir_list(arena, dir, &names, &name_count, err))
        return false;
    grown = arena_new_array(arena, struct point, *count + name_count);
    if (*count)
        memcpy(grown, *points, *count * sizeof *grown);
    *points = grown;
    for (size_t i = 0; i < name_count; i++) {
        struct point point = {.attempt = attempt, .path = path_join(arena, dir, names[i])};
        if (folder_step_parse(names[i], &point.step))
            grown[(*count)++] = point;
    }
    return true;
}

static bool load_point(struct session *s, struct arena *arena, const struct point *point, struct err *err)
{
    struct progress progress = {0};

    if (!folder_verify(point->path, err) || !read_state(s, arena, point->path, &progress, err))
        return false;
    if (progress.step != point->step || progress.step > s->total_steps)
        return err_set(err, ERR_INPUT, "%s: its step is not what its name says", point->path);
    if (!checkpoint_read_state(s->model, path_join(arena, point->path, "state.safetensors"), err))
        return false;
    s->progress = progress;
    s->resumed_from = progress.step;
    return true;
}

bool recovery_resume(struct session *s, struct err *err)
{
    struct arena arena = {0};
    struct point *points = NULL;
    int64_t *attempts = NULL;
    size_t count = 0, attempt_count = 0;
    bool ok = run_attempts(&arena, s->options->dir, &attempts, &attempt_count, err);

    for (size_t i = 0; ok && i < attempt_count; i++)
        if (attempts[i] < s->run.attempt)
            ok = list_points(s, &arena, attempts[i], &points, &count, err);
    if (ok && count)
        qsort(points, count, sizeof *points, newest_first);
    for (size_t i = 0; ok && i < count && s->resumed_from < 0; i++) {
        struct err why = {0};
        if (load_point(s, &arena, &points[i], &why))
            ok = run_message(&s->run, "info", "resumed", points[i].step, err, "Resumed behind step %" PRId64,
                             points[i].step);
        else
            ok = run_message(&s->run, "warn", "recovery_point_unusable", points[i].step, err,
                             "A recovery point cannot be used: %s", why.text);
    }
    arena_deinit(&arena);
    return ok;
}

static bool clean_folder(struct arena *arena, const char *folder, struct err *err)
{
    char **names;
    size_t count;

    if (!dir_exists(folder))
        return true;
    if (!dir_list(arena, folder, &names, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        if (str_ends(str_of(names[i]), STR(".tmp")) && !dir_remove(path_join(arena, folder, names[i]), err))
            return false;
    return true;
}

bool recovery_clean(struct session *s, struct err *err)
{
    struct arena arena = {0};
    int64_t *attempts = NULL;
    size_t count = 0;
    bool ok = run_attempts(&arena, s->options->dir, &attempts, &count, err);

    for (size_t i = 0; ok && i < count; i++) {
        const char *dir = run_attempt_dir(&arena, s->options->dir, attempts[i]);
        if (attempts[i] < s->run.attempt)
            ok = clean_folder(&arena, path_join(&arena, dir, "recovery"), err) &&
                 clean_folder(&arena, path_join(&arena, dir, "checkpoints"), err);
    }
    arena_deinit(&arena);
    return ok;
}
