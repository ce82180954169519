/* attune train: one attempt of a run directory, or a run of its own from the command line. */
#include "cli/cli.h"
#include "cli/train_arguments.h"
#include "os/file.h"
#include "train/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 30, PLAIN_LINES = 100 };

/* What is drawn on stderr while a run goes on. */
struct display {
    bool is_terminal, has_bar;
};

static void print_bar(struct display *d, const struct train_progress_line *line)
{
    int filled = (int)(line->step * BAR_WIDTH / line->total_steps), left = (int)fmin(line->seconds_left + 0.5, 1e8);
    char bar[BAR_WIDTH + 1];

    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r[%s] %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s  %d:%02d:%02d left \033[K", bar,
            line->step, line->total_steps, line->loss, line->tokens_per_s, left / 3600, left / 60 % 60, left % 60);
    d->has_bar = true;
}

static void on_progress(void *context, const struct train_progress_line *line)
{
    struct display *d = context;
    int64_t every = line->total_steps / PLAIN_LINES + 1;

    if (line->step == 0)
        return;
    if (d->is_terminal)
        print_bar(d, line);
    else if (line->step % every == 0 || line->step == line->total_steps)
        fprintf(stderr, "step %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s\n", line->step, line->total_steps,
                line->loss, line->tokens_per_s);
}

static void end_bar(struct display *d)
{
    if (d->has_bar)
        fputc('\n', stderr);
    d->has_bar = false;
}

static void on_message(void *context, const char *level, const char *text)
{
    end_bar(context);
    fprintf(stderr, "%s%s\n", strcmp(level, "info") == 0 ? "" : "warning: ", text);
}

/* How an attempt ended: "" while it runs, or when it was killed. */
static struct str end_of(struct arena *arena, const char *dir, int64_t attempt)
{
    const char *path = path_join(arena, run_attempt_dir(arena, dir, attempt), "exit.json");
    struct str text;

    if (!file_read(arena, path, 65536, &text, NULL))
        return STR_NONE;
    return json_string_or(json_get(json_parse(arena, text, NULL, NULL), "status"), STR_NONE);
}

/* Whether there is nothing to go on with: every attempt failed before it had anything to keep. */
static bool is_worthless(struct arena *arena, const char *dir)
{
    int64_t *attempts = NULL;
    size_t count;

    if (!run_attempts(arena, dir, &attempts, &count, NULL))
        return false;
    for (size_t i = 0; i < count; i++) {
        const char *attempt = run_attempt_dir(arena, dir, attempts[i]);

        if (!str_is(end_of(arena, dir, attempts[i]), "failed") || dir_exists(path_join(arena, attempt, "recovery")) ||
            dir_exists(path_join(arena, attempt, "checkpoints")))
            return false;
    }
    return true;
}

/* What the attempts of such a run made; their tokens in the cache may serve the next one. */
static bool forget(struct arena *arena, const char *dir, struct err *err)
{
    static const char *const folders[] = {"attempts", "data", "tensorboard"};

    if (!file_exists(path_join(arena, dir, "job.json")))
        return true;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (!dir_remove(path_join(arena, dir, folders[i]), err))
            return false;
    return true;
}

/* job.json is written once; the same command again finds it and goes on. Only the clock may differ. */
static bool write_job(struct arena *arena, struct train_config *c, const char *dir, struct err *err)
{
    const char *path = path_join(arena, dir, "job.json");
    struct train_config before;
    struct strbuf text = {0};
    struct str old;
    bool ok = false;

    if (file_exists(path) && !is_worthless(arena, dir)) {
        if (!train_config_read(arena, path, &before, err) || !file_read(arena, path, 1 << 20, &old, err))
            goto out;
        c->now = before.now;
        train_config_write(c, &text);
        ok = str_equal(old, strbuf_view(&text)) ||
             err_set(err, ERR_CONFLICT,
                     "%s holds another run: choose another --out, or give the same options to go on with it", dir);
    } else {
        train_config_write(c, &text);
        ok = forget(arena, dir, err) &&
             train_config_parse(arena, (struct str){arena_copy(arena, text.at, text.len), text.len}, &before, err) &&
             file_replace(path, strbuf_view(&text), err);
    }
out:
    strbuf_deinit(&text);
    return ok;
}

static bool next_attempt(struct arena *arena, const char *dir, int64_t *attempt, struct err *err)
{
    int64_t *attempts = NULL;
    size_t count;

    if (!run_attempts(arena, dir, &attempts, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        if (str_is(end_of(arena, dir, attempts[i]), "succeeded"))
            return err_set(err, ERR_CONFLICT, "%s is finished: choose another --out for a new run", dir);
    *attempt = count ? attempts[count - 1] + 1 : 1;
    return true;
}

static int report(struct arena *arena, const char *dir, enum run_status status, const char *checkpoint,
                  const struct err *err)
{
    switch (status) {
    case RUN_SUCCEEDED:
        printf("%s\n", path_join(arena, dir, checkpoint ? checkpoint : ""));
        return 0;
    case RUN_PAUSED:
        fprintf(stderr, "paused: the same command goes on\n");
        return 0;
    case RUN_CANCELLED:
        fprintf(stderr, "cancelled\n");
        return 0;
    default:
        fprintf(stderr, "attune train: %s\n", err->text);
        return 1;
    }
}

/* The launcher's form: everything of interest goes into the run directory. */
static int train_dir(struct arena *arena, const struct train_arguments *a)
{
    struct train_options options = {.dir = a->run, .attempt = a->attempt, .device = a->config.device};
    enum run_status status;
    struct err err = {0};

    run_catch_signals();
    status = train_run(&options, arena, NULL, &err);
    if (status == RUN_FAILED)
        fprintf(stderr, "attune train: %s\n", err.text);
    return status == RUN_FAILED;
}

static int train_here(struct arena *arena, struct train_arguments *a)
{
    struct display display = {.is_terminal = isatty(2)};
    struct train_options options = {
        .owns_checkpoints = true, .on_progress = on_progress, .on_message = on_message, .context = &display};
    const char *checkpoint = NULL, *out = NULL;
    enum run_status status;
    struct err err = {0};

    if (!dir_make(a->out, &err) || !train_arguments_path(arena, "out", a->out, &out, &err))
        goto failed;
    options.dir = path_join(arena, out, "run");
    if (!dir_make(options.dir, &err) || !train_arguments_settle(arena, a, options.dir, &err) ||
        !write_job(arena, &a->config, options.dir, &err) || !next_attempt(arena, options.dir, &options.attempt, &err))
        goto failed;
    run_catch_signals();
    status = train_run(&options, arena, &checkpoint, &err);
    end_bar(&display);
    return report(arena, options.dir, status, checkpoint, &err);
failed:
    fprintf(stderr, "attune train: %s\n", err.text);
    return 1;
}

int cli_train(int argc, char **argv)
{
    struct train_arguments a;
    struct arena arena = {0};
    struct err err = {0};
    int status = 2;

    if (train_arguments_read(&arena, &a, argc, argv, &err))
        status = a.run ? train_dir(&arena, &a) : train_here(&arena, &a);
    else
        fprintf(stderr, "attune train: %s\n", err.text);
    arena_deinit(&arena);
    return status;
}
