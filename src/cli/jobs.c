#include "base/hyperparameters.h"
#include "cli/cli.h"
#include "cli/job_watch.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

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

struct jobs {
    struct remote remote;
    struct create_options create;
};

static bool list(void *context, const char *const *words, struct err *err)
{
    struct remote *remote = &((struct jobs *)context)->remote;
    const struct json *jobs = remote_get(remote, "/v1/fine_tuning/jobs?limit=100", err);

    if (!jobs)
        return false;
    printf("%-38s %-10s %13s  %-28s %s\n", "id", "status", "steps", "model", "result");
    json_each(job, json_get(jobs, "data")) {
        char steps[32] = "";
        if (!json_is_null(json_get(job, "total_steps")))
            snprintf(steps, sizeof steps, "%lld/%lld", (long long)json_integer_or(json_get(job, "trained_steps"), 0),
                     (long long)json_integer_or(json_get(job, "total_steps"), 0));
        printf("%-38s %-10s %13s  %-28s %s\n", remote_text(remote, job, "id"), remote_text(remote, job, "status"),
               steps, remote_text(remote, job, "model"), remote_text(remote, job, "fine_tuned_model"));
    }
    return true;
}

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

static bool create(void *context, const char *const *words, struct err *err)
{
    struct jobs *jobs = context;
    struct remote *remote = &jobs->remote;
    const struct create_options *o = &jobs->create;
    const char *train, *valid = NULL;
    const struct json *job = NULL;

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
    return !o->is_watched || job_watch(remote, remote_text(remote, job, "id"), err);
}

static bool show(struct remote *remote, const char *id, const char *what, struct err *err)
{
    const struct json *answer =
        remote_get(remote, arena_printf(&remote->arena, "/v1/fine_tuning/jobs/%s%s", id, what), err);

    if (answer)
        remote_print(answer);
    return answer != NULL;
}

static bool get(void *context, const char *const *words, struct err *err)
{
    return show(&((struct jobs *)context)->remote, words[0], "", err);
}

static bool receipt(void *context, const char *const *words, struct err *err)
{
    return show(&((struct jobs *)context)->remote, words[0], "/receipt", err);
}

static bool watch(void *context, const char *const *words, struct err *err)
{
    return job_watch(&((struct jobs *)context)->remote, words[0], err);
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

static bool pause_job(void *context, const char *const *words, struct err *err)
{
    return change(&((struct jobs *)context)->remote, words[0], "pause", err);
}

static bool resume(void *context, const char *const *words, struct err *err)
{
    return change(&((struct jobs *)context)->remote, words[0], "resume", err);
}

static bool cancel(void *context, const char *const *words, struct err *err)
{
    return change(&((struct jobs *)context)->remote, words[0], "cancel", err);
}

static bool clean(void *context, const char *const *words, struct err *err)
{
    struct remote *remote = &((struct jobs *)context)->remote;
    const char *path = arena_printf(&remote->arena, "/v1/fine_tuning/jobs/%s/checkpoints", words[0]);
    const struct json *list;
    bool has_more = true;

    while (has_more) {
        if (!(list = remote_get(remote, path, err)))
            return false;
        json_each(checkpoint, json_get(list, "data")) {
            const char *name = remote_text(remote, checkpoint, "id");

            if (!remote_delete(remote, arena_printf(&remote->arena, "%s/%s", path, name), err))
                return false;
            printf("%s deleted\n", name);
        }
        has_more = json_bool_or(json_get(list, "has_more"), false);
    }
    return true;
}

static const struct action actions[] = {
    {"list", NULL, "the newest hundred", list},
    {"create", "--model NAME --train FILE", "makes a job, prints its id", create},
    {"get", "ID", "prints a job as JSON", get},
    {"watch", "ID", "follows a job until it ends", watch},
    {"cancel", "ID", "ends a job for good", cancel},
    {"pause", "ID", "ends a job's process behind its step; resume goes on there", pause_job},
    {"resume", "ID", "lets a paused job go on", resume},
    {"receipt", "ID", "prints what a job that succeeded proves about itself, as JSON", receipt},
    {"clean", "ID", "deletes all checkpoints and models of a job that has ended, for their room on the disk", clean},
};

static bool check(const struct action *action, void *context, struct err *err)
{
    const struct create_options *o = &((struct jobs *)context)->create;

    return action->run != create || (o->model && o->train) ||
           err_set(err, ERR_INPUT, "create needs --model and --train");
}

int cli_jobs(int argc, char **argv)
{
    struct jobs jobs = {.create.values = HYPERPARAMETERS_DEFAULT};
    struct create_options *o = &jobs.create;
    const struct option option[] = {
        REMOTE_OPTION(jobs.remote),
        {NULL, OPTION_FLAG, NULL, NULL, "create:", NULL},
        {"model", OPTION_TEXT, &o->model, "NAME", "base model, tuned model or checkpoint", NULL},
        {"train", OPTION_TEXT, &o->train, "FILE", "JSON Lines to upload, or the id of a file", NULL},
        {"valid", OPTION_TEXT, &o->valid, "FILE", "the same for validation", NULL},
        {"method", OPTION_TEXT, &o->method, "NAME", "supervised (default) or dpo", NULL},
        {"suffix", OPTION_TEXT, &o->suffix, "TEXT", "part of the result's name", NULL},
        {"seed", OPTION_INT, &o->seed, "N", "of data order and adapter (default 0)", NULL},
        {"device", OPTION_TEXT, &o->device, "NAME",
         "auto, cpu, cuda (any GPU of the server) or cuda:N (default auto)", NULL},
        {"keep-checkpoints", OPTION_INT, &o->keep_checkpoints, "N",
         "how many checkpoints stay, the newest (default: all)", NULL},
        {"dry-run", OPTION_FLAG, &o->is_dry_run, NULL,
         "only say what the job would be: tokens, steps, memory, disk, time, warnings (files are uploaded)", NULL},
        {"watch", OPTION_FLAG, &o->is_watched, NULL, "follow the job until it ends", NULL},
#define OPTION_INT_ARGUMENT   "N"
#define OPTION_FLOAT_ARGUMENT "X"
#define OPTION_BOOL_ARGUMENT  NULL
#define OPTION_KIND_INT       OPTION_INT
#define OPTION_KIND_FLOAT     OPTION_FLOAT
#define OPTION_KIND_BOOL      OPTION_FLAG
#define ROW(name, kind, standard, min, max, help)                                                                      \
    {#name,                                                                                                            \
     OPTION_KIND_##kind,                                                                                               \
     &o->values.name,                                                                                                  \
     OPTION_##kind##_ARGUMENT,                                                                                         \
     HYPERPARAMETER_HELP_##kind(standard, min, help),                                                                  \
     &o->has_##name},
        HYPERPARAMETERS(ROW)
        DPO_HYPERPARAMETERS(ROW)
#undef ROW
    };
    const struct options options = {.usage = "attune jobs ACTION [options]",
                                    .about = "Fine-tuning jobs of a running server.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .actions = actions,
                                    .action_count = sizeof actions / sizeof *actions,
                                    .check = check};
    int status = options_act(&options, argc, argv, &jobs);

    remote_close(&jobs.remote);
    return status;
}
