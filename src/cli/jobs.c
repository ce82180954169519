#include "base/hyperparameters.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "os/clock.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { POLL_MS = 300, BAR_WIDTH = 28, AWAY_MS = 1000, AWAY_TRIES = 300 };

/* --- list --- */

static bool list(struct remote *remote, struct err *err)
{
    const struct json *jobs = remote_get(remote, "/v1/fine_tuning/jobs?limit=100", err);

    if (!jobs)
        return false;
    printf("%-38s %-10s %13s  %-28s %s\n", "id", "status", "steps", "model", "result");
    for json_each (job, json_get(jobs, "data")) {
        char steps[32] = "";
        if (!json_is_null(json_get(job, "total_steps")))
            snprintf(steps, sizeof steps, "%lld/%lld", (long long)json_integer_or(json_get(job, "trained_steps"), 0),
                     (long long)json_integer_or(json_get(job, "total_steps"), 0));
        printf("%-38s %-10s %13s  %-28s %s\n", remote_text(remote, job, "id"), remote_text(remote, job, "status"),
               steps, remote_text(remote, job, "model"), remote_text(remote, job, "fine_tuned_model"));
    }
    return true;
}

/* --- watch --- */

struct watch {
    struct remote *remote;
    const char *id;
    char after[128]; /* id of the last event seen */
    bool has_bar;    /* on a terminal */
    bool was_there;  /* the server, once */
    int tries_away;
    double loss;
};

static void clear_bar(const struct watch *w)
{
    if (w->has_bar)
        fputs("\r\033[K", stdout);
}

static void draw_bar(const struct watch *w, const struct json *job)
{
    int64_t done = json_integer_or(json_get(job, "trained_steps"), 0),
            total = json_integer_or(json_get(job, "total_steps"), 0);
    int64_t finish = json_integer_or(json_get(job, "estimated_finish"), 0), left = finish ? finish - clock_unix() : -1;
    int filled = total > 0 ? (int)(BAR_WIDTH * done / total) : 0;

    if (!w->has_bar || total == 0)
        return;
    clear_bar(w);
    putchar('[');
    for (int i = 0; i < BAR_WIDTH; i++)
        putchar(i < filled ? '#' : '.');
    printf("] step %lld/%lld  loss %.4f", (long long)done, (long long)total, w->loss);
    if (left >= 0)
        printf("  %lld:%02lld left", (long long)left / 60, (long long)left % 60);
    fflush(stdout);
}

/* On a terminal the bar shows the steps, so only what is not a step gets a line. */
static void print_event(struct watch *w, const struct json *event)
{
    bool is_metrics = strcmp(remote_text(w->remote, event, "type"), "metrics") == 0;
    const char *level = remote_text(w->remote, event, "level");

    if (is_metrics)
        w->loss = json_number_or(json_get(json_get(event, "data"), "train_loss"), w->loss);
    if (is_metrics && w->has_bar)
        return;
    clear_bar(w);
    printf("%s%s%s\n", strcmp(level, "info") == 0 ? "" : level, strcmp(level, "info") == 0 ? "" : ": ",
           remote_text(w->remote, event, "message"));
    fflush(stdout);
}

static bool take_events(struct watch *w, struct err *err)
{
    for (;;) {
        const char *path = arena_printf(&w->remote->arena, "/v1/fine_tuning/jobs/%s/events?order=asc&limit=200%s%s",
                                        w->id, w->after[0] ? "&after=" : "", w->after);
        const struct json *events = remote_get(w->remote, path, err);
        if (!events)
            return false;
        for json_each (event, json_get(events, "data")) {
            print_event(w, event);
            snprintf(w->after, sizeof w->after, "%s", remote_text(w->remote, event, "id"));
        }
        if (!json_bool_or(json_get(events, "has_more"), false))
            return true;
    }
}

static bool is_final(const char *status)
{
    return strcmp(status, "succeeded") == 0 || strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0;
}

/* A job outlives its server, and a server comes back. False: it never was there, or has been away for too long. */
static bool comes_back(struct watch *w, const struct err *problem)
{
    if (!w->was_there || (problem->code != ERR_IO && problem->code != ERR_TIMEOUT) || w->tries_away == AWAY_TRIES)
        return false;
    clear_bar(w);
    if (w->tries_away++ == 0)
        fprintf(stderr, "the server does not answer; the watching goes on for %d minutes\n",
                AWAY_TRIES * AWAY_MS / 60000);
    clock_sleep_ms(AWAY_MS);
    return true;
}

static bool watch(struct remote *remote, const char *id, struct err *err)
{
    struct watch w = {.remote = remote, .id = id, .has_bar = isatty(1)};

    if (w.has_bar)
        printf("Ctrl-C ends the watching, not the job.\n");
    for (;;) {
        struct remote round = *remote;
        const struct json *job;
        char status[32], result[1024], message[1024];

        round.arena = (struct arena){0};
        w.remote = &round;
        job = remote_get(&round, arena_printf(&round.arena, "/v1/fine_tuning/jobs/%s", id), err);
        if (!job || !take_events(&w, err)) {
            remote_close(&round);
            if (!comes_back(&w, err))
                return false;
            *err = (struct err){0};
            continue;
        }
        w.was_there = true;
        w.tries_away = 0;
        draw_bar(&w, job);
        snprintf(status, sizeof status, "%s", remote_text(&round, job, "status"));
        snprintf(result, sizeof result, "%s", remote_text(&round, job, "fine_tuned_model"));
        snprintf(message, sizeof message, "%s", remote_text(&round, json_get(job, "error"), "message"));
        remote_close(&round);
        if (is_final(status)) {
            clear_bar(&w);
            if (strcmp(status, "succeeded") == 0)
                printf("succeeded: %s\n", result);
            return strcmp(status, "succeeded") == 0 ||
                   err_set(err, ERR_CANCELLED, "the job %s%s%s", status, message[0] ? ": " : "", message);
        }
        clock_sleep_ms(POLL_MS);
    }
}

/* --- create --- */

struct create_options {
    const char *model, *train, *valid, *suffix, *method, *device;
    int64_t seed, keep_checkpoints;
    struct hyperparameters values;
#define GIVEN(name, kind, standard, min, max, help) bool has_##name;
    HYPERPARAMETERS(GIVEN)
    DPO_HYPERPARAMETERS(GIVEN)
#undef GIVEN
    bool is_watched, is_dry_run;
};

/* A path is uploaded first; anything else is taken as a file id. */
static const char *file_id(struct remote *remote, const char *file, struct err *err)
{
    const struct json *uploaded;

    if (str_starts(str_of(file), STR("file-")) && !file_exists(file))
        return file;
    if (!file_exists(file)) {
        err_set(err, ERR_NOT_FOUND, "there is no file %s here, and it is not the id of an uploaded one (file-…)", file);
        return NULL;
    }
    uploaded = remote_upload(remote, file, "fine-tune", err);
    return uploaded ? remote_text(remote, uploaded, "id") : NULL;
}

static void write_hyperparameters(struct json_writer *w, const struct create_options *o)
{
    json_write_key(w, "hyperparameters");
    json_write_begin_object(w);
#define WRITE_INT   json_put_integer
#define WRITE_FLOAT json_put_number
#define WRITE_BOOL  json_put_bool
#define WRITE(name, kind, standard, min, max, help)                                                                    \
    if (o->has_##name)                                                                                                 \
        WRITE_##kind(w, #name, o->values.name);
    HYPERPARAMETERS(WRITE)
    DPO_HYPERPARAMETERS(WRITE)
#undef WRITE
    json_write_end_object(w);
}

static void write_method(struct json_writer *w, const struct create_options *o)
{
    json_write_key(w, "method");
    json_write_begin_object(w);
    json_put_text(w, "type", o->method);
    json_write_key(w, o->method);
    json_write_begin_object(w);
    write_hyperparameters(w, o);
    json_write_end_object(w);
    json_write_end_object(w);
}

static void write_job(struct json_writer *w, const struct create_options *o, const char *train, const char *valid)
{
    json_write_begin_object(w);
    json_put_text(w, "model", o->model);
    json_put_text(w, "training_file", train);
    json_put_text(w, "validation_file", valid);
    json_put_text(w, "suffix", o->suffix);
    json_put_integer(w, "seed", o->seed);
    if (o->device)
        json_put_text(w, "device", o->device);
    if (o->keep_checkpoints)
        json_put_integer(w, "keep_checkpoints", o->keep_checkpoints);
    if (o->method)
        write_method(w, o);
    else
        write_hyperparameters(w, o);
    json_write_end_object(w);
}

/* The server refused what the file was uploaded for. */
static void take_back(struct remote *remote, const char *given, const char *id)
{
    struct err err = {0};

    if (id && strcmp(id, given) != 0)
        remote_delete(remote, arena_printf(&remote->arena, "/v1/files/%s", id), &err);
}

static const struct json *submit(struct remote *remote, const struct create_options *o, const char *train,
                                 const char *valid, struct err *err)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    const struct json *job;

    write_job(&w, o, train, valid);
    job = remote_post(remote, o->is_dry_run ? "/v1/fine_tuning/jobs?dry_run=true" : "/v1/fine_tuning/jobs",
                      strbuf_view(&body), err);
    strbuf_deinit(&body);
    return job;
}

static bool create(struct remote *remote, const struct create_options *o, struct err *err)
{
    const char *train, *valid = NULL;
    const struct json *job = NULL;

    if (!o->model || !o->train)
        return err_set(err, ERR_INPUT, "create needs --model and --train");
    train = file_id(remote, o->train, err);
    if (train && o->valid)
        valid = file_id(remote, o->valid, err);
    if (train && (!o->valid || valid))
        job = submit(remote, o, train, valid, err);
    if (!job && err->code != ERR_IO && err->code != ERR_TIMEOUT) {
        take_back(remote, o->train, train);
        take_back(remote, o->valid, valid);
    }
    if (!job)
        return false;
    if (o->is_dry_run) {
        remote_print(job);
        return true;
    }
    printf("%s\n", remote_text(remote, job, "id"));
    fflush(stdout);
    return !o->is_watched || watch(remote, remote_text(remote, job, "id"), err);
}

/* --- the command --- */

static bool show(struct remote *remote, const char *id, const char *what, struct err *err)
{
    const struct json *answer =
        remote_get(remote, arena_printf(&remote->arena, "/v1/fine_tuning/jobs/%s%s", id, what), err);

    if (answer)
        remote_print(answer);
    return answer != NULL;
}

static bool change(struct remote *remote, const char *id, const char *action, struct err *err)
{
    const struct json *answer =
        remote_post(remote, arena_printf(&remote->arena, "/v1/fine_tuning/jobs/%s/%s", id, action), STR_NONE, err);

    if (answer) {
        const char *status = remote_text(remote, answer, "status");
        const bool is_at_work = strcmp(action, "pause") == 0 && strcmp(status, "running") == 0;

        printf("%s %s%s\n", remote_text(remote, answer, "id"), status,
               is_at_work ? ": it pauses when its step is done" : "");
    }
    return answer != NULL;
}

/* All checkpoints of a job that has ended: what it takes on the disk. */
static bool clean(struct remote *remote, const char *id, struct err *err)
{
    const char *path = arena_printf(&remote->arena, "/v1/fine_tuning/jobs/%s/checkpoints", id);
    const struct json *list;
    bool has_more = true;

    while (has_more) {
        if (!(list = remote_get(remote, path, err)))
            return false;
        for json_each (checkpoint, json_get(list, "data")) {
            const char *name = remote_text(remote, checkpoint, "id");

            if (!remote_delete(remote, arena_printf(&remote->arena, "%s/%s", path, name), err))
                return false;
            printf("%s deleted\n", name);
        }
        has_more = json_bool_or(json_get(list, "has_more"), false);
    }
    return true;
}

static bool act(struct remote *remote, const char *action, const char *id, const struct create_options *create_options,
                struct err *err)
{
    static const char *const known[] = {"get", "receipt", "watch", "cancel", "pause", "resume", "clean"};
    bool is_known = false;

    if (strcmp(action, "list") == 0)
        return list(remote, err);
    if (strcmp(action, "create") == 0)
        return create(remote, create_options, err);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        is_known |= strcmp(action, known[i]) == 0;
    if (!is_known)
        return err_set(err, ERR_INPUT,
                       "unknown action '%s': list, create, get, receipt, watch, cancel, pause, resume or clean",
                       action);
    if (!id)
        return err_set(err, ERR_INPUT, "%s needs a job's id; 'attune jobs list' shows them", action);
    if (strcmp(action, "watch") == 0)
        return watch(remote, id, err);
    if (strcmp(action, "get") == 0)
        return show(remote, id, "", err);
    if (strcmp(action, "receipt") == 0)
        return show(remote, id, "/receipt", err);
    if (strcmp(action, "clean") == 0)
        return clean(remote, id, err);
    return change(remote, id, action, err);
}

int cli_jobs(int argc, char **argv)
{
    struct create_options o = {.values = HYPERPARAMETERS_DEFAULT};
    const char *url = NULL, *words[2] = {0};
    const struct option option[] = {
        {"url", OPTION_TEXT, &url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL},
        {NULL, OPTION_FLAG, NULL, NULL, "create, with the API's hyperparameters:", NULL},
        {"model", OPTION_TEXT, &o.model, "NAME", "base model, tuned model or checkpoint", NULL},
        {"train", OPTION_TEXT, &o.train, "FILE", "JSON Lines to upload, or the id of a file", NULL},
        {"valid", OPTION_TEXT, &o.valid, "FILE", "the same for validation", NULL},
        {"method", OPTION_TEXT, &o.method, "NAME", "supervised (default) or dpo", NULL},
        {"suffix", OPTION_TEXT, &o.suffix, "TEXT", "part of the result's name", NULL},
        {"seed", OPTION_INT, &o.seed, "N", "of data order and adapter (default 0)", NULL},
        {"device", OPTION_TEXT, &o.device, "NAME", "auto, cpu, cuda (any GPU of the server) or cuda:N (default auto)",
         NULL},
        {"keep-checkpoints", OPTION_INT, &o.keep_checkpoints, "N",
         "how many checkpoints stay, the newest (default: all)", NULL},
        {"dry-run", OPTION_FLAG, &o.is_dry_run, NULL,
         "only say what the job would be: tokens, steps, memory, disk, time, warnings (files are uploaded)", NULL},
        {"watch", OPTION_FLAG, &o.is_watched, NULL, "follow the job until it ends", NULL},
#define OPTION_INT_ARGUMENT   "N"
#define OPTION_FLOAT_ARGUMENT "X"
#define OPTION_BOOL_ARGUMENT  NULL
#define OPTION_KIND_INT       OPTION_INT
#define OPTION_KIND_FLOAT     OPTION_FLOAT
#define OPTION_KIND_BOOL      OPTION_FLAG
#define ROW(name, kind, standard, min, max, help)                                                                      \
    {#name,                                                                                                            \
     OPTION_KIND_##kind,                                                                                               \
     &o.values.name,                                                                                                   \
     OPTION_##kind##_ARGUMENT,                                                                                         \
     HYPERPARAMETER_HELP_##kind(standard, min, help),                                                                  \
     &o.has_##name},
        HYPERPARAMETERS(ROW)
        DPO_HYPERPARAMETERS(ROW)
#undef ROW
    };
    const struct options options = {.usage = "attune jobs list\n"
                                             "       attune jobs create --model NAME --train FILE [options]\n"
                                             "       attune jobs get|receipt|watch|cancel|pause|resume|clean ID",
                                    .about = "Fine-tuning jobs of a running server.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .positional_min = 1,
                                    .positional_max = 2};
    struct remote remote;
    struct err err = {0};
    bool ok;

    if (!options_parse(&options, argc, argv, words, NULL, &err)) {
        fprintf(stderr, "attune jobs: %s\n", err.text);
        return 2;
    }
    remote_open(&remote, url);
    ok = act(&remote, words[0], words[1], &o, &err);
    remote_close(&remote);
    if (!ok)
        fprintf(stderr, "attune jobs: %s\n", err.text);
    return ok ? 0 : 1;
}
