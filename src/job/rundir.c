#include "job/rundir.h"

#include "base/json.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL_FILE_BYTES_MAX = 1 << 16 };

const char *rundir_path(struct arena *arena, const char *data_dir, const char *job_id)
{
    return arena_printf(arena, "%s/runs/%s", data_dir, job_id);
}

const char *rundir_place(struct arena *arena, const char *data_dir, const char *job_id, const char *path)
{
    const char *place = strstr(path, job_id);

    return arena_printf(arena, "%s/runs/%s", data_dir, place ? place : job_id);
}

const char *rundir_attempt_path(struct arena *arena, const char *run_dir, int64_t attempt)
{
    return arena_printf(arena, "%s/attempts/%04lld", run_dir, (long long)attempt);
}

static void put_file(struct json_writer *writer, struct arena *arena, const char *key, const char *inputs_dir,
                     const struct store_file *file)
{
    json_write_key(writer, key);
    if (!file) {
        json_write_null(writer);
        return;
    }
    json_write_begin_object(writer);
    json_put_text(writer, "id", file->id);
    json_put_text(writer, "path", path_join(arena, inputs_dir, file->id));
    json_put_text(writer, "name", file->filename);
    json_write_end_object(writer);
}

/* With what the job may use: the API does not know that. */
static void put_options(struct json_writer *writer, struct arena *arena, const struct rundir_job *job)
{
    const struct json *options = json_parse(arena, str_of(job->options_json), NULL, NULL);

    json_write_key(writer, "options");
    json_write_begin_object(writer);
    json_each(option, options) {
        json_write_key_str(writer, option->key);
        json_write_value(writer, option);
    }
    json_put_integer(writer, "memory_bytes", job->memory_bytes);
    json_write_end_object(writer);
}

void rundir_write_job(struct strbuf *out, const char *inputs_dir, const struct rundir_job *job)
{
    struct json_writer writer = {.buf = out};
    struct arena arena = {0};

    json_write_begin_object(&writer);
    json_put_integer(&writer, "format", 1);
    json_put_text(&writer, "id", job->id);
    json_write_key(&writer, "model");
    json_write_begin_object(&writer);
    json_put_text(&writer, "id", job->model);
    json_put_text(&writer, "path", job->model_path);
    json_write_end_object(&writer);
    json_write_key(&writer, "adapter");
    if (job->adapter_path) {
        json_write_begin_object(&writer);
        json_put_text(&writer, "path", job->adapter_path);
        json_write_end_object(&writer);
    } else {
        json_write_null(&writer);
    }
    put_file(&writer, &arena, "training_file", inputs_dir, job->training_file);
    put_file(&writer, &arena, "validation_file", inputs_dir, job->validation_file);
    json_put_text(&writer, "output_name", job->output_name);
    json_put_integer(&writer, "seed", job->seed);
    json_put_text(&writer, "method", job->method);
    json_write_key(&writer, "hyperparameters");
    json_write_raw(&writer, str_of(job->hyperparameters_json));
    put_options(&writer, &arena, job);
    json_put_text(&writer, "cache", job->cache_dir);
    json_write_end_object(&writer);
    arena_deinit(&arena);
}

static bool stage(struct arena *arena, const char *inputs_dir, const struct store_file *file, struct blobs *blobs,
                  struct err *err)
{
    const char *path = path_join(arena, inputs_dir, file->id);

    return file_exists(path) || blob_stage_to_path(blobs, file->id, path, err);
}

bool rundir_create(const char *run_dir, const struct rundir_job *job, struct blobs *blobs, struct err *err)
{
    struct arena arena = {0};
    struct strbuf json = {0};
    const char *inputs_dir = path_join(&arena, run_dir, "inputs");
    bool ok = false;

    if (!dir_make(inputs_dir, err) || !dir_make(path_join(&arena, run_dir, "attempts"), err) ||
        !stage(&arena, inputs_dir, job->training_file, blobs, err))
        goto out;
    if (job->validation_file && !stage(&arena, inputs_dir, job->validation_file, blobs, err))
        goto out;
    rundir_write_job(&json, inputs_dir, job);
    if (!dir_sync(inputs_dir, err) || !file_replace(path_join(&arena, run_dir, "job.json"), strbuf_view(&json), err) ||
        !dir_sync(path_join(&arena, run_dir, ".."), err))
        goto out;
    ok = true;
out:
    if (!ok)
        dir_remove(run_dir, NULL);
    strbuf_deinit(&json);
    arena_deinit(&arena);
    return ok;
}

bool rundir_rewrite(const char *run_dir, const struct rundir_job *job, struct err *err)
{
    struct arena arena = {0};
    struct strbuf json = {0};
    bool ok;

    rundir_write_job(&json, path_join(&arena, run_dir, "inputs"), job);
    ok = file_replace(path_join(&arena, run_dir, "job.json"), strbuf_view(&json), err);
    strbuf_deinit(&json);
    arena_deinit(&arena);
    return ok;
}

bool rundir_begin_attempt(const char *run_dir, int64_t attempt, struct err *err)
{
    struct arena arena = {0};
    const char *attempt_dir = rundir_attempt_path(&arena, run_dir, attempt);
    int fd = -1;
    bool ok = dir_make(attempt_dir, err);

    if (ok) {
        fd = file_open_append(path_join(&arena, attempt_dir, "events.jsonl"), err);
        ok = fd >= 0 && rundir_write_control(run_dir, attempt, JOB_WANT_run, err);
    }
    fd_close(&fd);
    arena_deinit(&arena);
    return ok;
}

/* Not synced: a power cut takes the trainer too, and the next attempt gets its own. */
bool rundir_write_control(const char *run_dir, int64_t attempt, enum job_want want, struct err *err)
{
    struct arena arena = {0};
    const char *text = arena_printf(&arena, "{\"format\":1,\"attempt\":%lld,\"wanted\":\"%s\"}\n", (long long)attempt,
                                    job_want_name(want));
    bool ok = file_swap(path_join(&arena, run_dir, "control"), str_of(text), err);

    arena_deinit(&arena);
    return ok;
}

int64_t rundir_heartbeat(const char *attempt_dir)
{
    struct arena arena = {0};
    struct str text;
    int64_t value = 0;

    if (file_read(&arena, path_join(&arena, attempt_dir, "heartbeat"), SMALL_FILE_BYTES_MAX, &text, NULL))
        str_to_i64(str_trim(text), &value);
    arena_deinit(&arena);
    return value;
}

struct exit_record rundir_exit(struct arena *arena, const char *attempt_dir)
{
    struct str text;

    if (!file_read(arena, path_join(arena, attempt_dir, "exit.json"), SMALL_FILE_BYTES_MAX, &text, NULL))
        return (struct exit_record){0};
    return exit_parse(arena, text);
}

const char *rundir_log_tail(struct arena *arena, const char *attempt_dir, size_t bytes_max)
{
    const char *path = path_join(arena, attempt_dir, "log.txt");
    char *text = arena_alloc(arena, bytes_max + 1);
    uint64_t bytes, from;
    size_t got = 0;
    int fd = file_open_read(path, NULL);

    if (fd >= 0 && file_size(path, &bytes, NULL)) {
        from = bytes > bytes_max ? bytes - bytes_max : 0;
        fd_pread(fd, text, bytes_max, from, &got, path, NULL);
        text[got] = 0;
        /* Begin with a whole line. */
        if (from > 0 && strchr(text, '\n'))
            text = strchr(text, '\n') + 1;
    }
    fd_close(&fd);
    return str_copy(arena, str_trim(str_of(text)));
}

/* "step-00000040" → 40; anything else, unfinished ones too, → 0. */
static int64_t step_of(const char *name)
{
    struct str text = str_of(name);
    int64_t step = 0;

    if (!str_starts(text, STR("step-")) || !str_to_i64(str_slice(text, 5, text.len), &step))
        return 0;
    return step;
}

static int64_t newest_step(struct arena *arena, const char *recovery_dir)
{
    char **names;
    size_t count;
    int64_t newest = 0;

    if (!dir_exists(recovery_dir) || !dir_list(arena, recovery_dir, &names, &count, NULL))
        return 0;
    for (size_t i = 0; i < count; i++)
        if (step_of(names[i]) > newest && file_exists(arena_printf(arena, "%s/%s/MANIFEST", recovery_dir, names[i])))
            newest = step_of(names[i]);
    return newest;
}

int64_t rundir_recovery_step(const char *run_dir)
{
    struct arena arena = {0};
    const char *attempts_dir = path_join(&arena, run_dir, "attempts");
    char **names;
    size_t count = 0;
    int64_t newest = 0;

    if (!dir_list(&arena, attempts_dir, &names, &count, NULL))
        count = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t step = newest_step(&arena, arena_printf(&arena, "%s/%s/recovery", attempts_dir, names[i]));

        if (step > newest)
            newest = step;
    }
    arena_deinit(&arena);
    return newest;
}

static bool is_kept(const char *path, const char *run_dir, const struct store_texts *kept)
{
    const char *relative = path + strlen(run_dir); /* the data folder may have moved since the row was written */

    for (size_t i = 0; i < kept->count; i++)
        if (str_ends(str_of(kept->at[i]), str_of(relative)))
            return true;
    return false;
}

/* Every entry of a folder that is there. */
static bool for_each(struct arena *arena, const char *folder,
                     bool (*take)(void *context, const char *path, struct err *err), void *context, struct err *err)
{
    char **names;
    size_t count;

    if (!dir_exists(folder))
        return true;
    if (!dir_list(arena, folder, &names, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!take(context, path_join(arena, folder, names[i]), err))
            return false;
    return true;
}

struct cleaning {
    struct arena arena;
    const char *run_dir;
    const struct store_texts *kept;
};

static bool clean_entry(void *context, const char *path, struct err *err)
{
    return str_find(str_of(path_name(path)), STR(".tmp"), 0) < 0 || dir_remove(path, err);
}

static bool clean_checkpoint(void *context, const char *path, struct err *err)
{
    struct cleaning *c = context;

    return is_kept(path, c->run_dir, c->kept) || dir_remove(path, err);
}

static bool clean_attempt(void *context, const char *path, struct err *err)
{
    struct cleaning *c = context;

    return dir_remove(path_join(&c->arena, path, "recovery"), err) && for_each(&c->arena, path, clean_entry, c, err) &&
           for_each(&c->arena, path_join(&c->arena, path, "checkpoints"), clean_checkpoint, c, err);
}

bool rundir_clean(const char *run_dir, const struct store_texts *kept, struct err *err)
{
    struct cleaning c = {.run_dir = run_dir, .kept = kept};
    bool ok = for_each(&c.arena, run_dir, clean_entry, &c, err) &&
              for_each(&c.arena, path_join(&c.arena, run_dir, "data"), clean_entry, &c, err) &&
              for_each(&c.arena, path_join(&c.arena, run_dir, "reference"), clean_entry, &c, err) &&
              for_each(&c.arena, path_join(&c.arena, run_dir, "tensorboard"), clean_entry, &c, err) &&
              for_each(&c.arena, path_join(&c.arena, run_dir, "attempts"), clean_attempt, &c, err);

    arena_deinit(&c.arena);
    return ok;
}
