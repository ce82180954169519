#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

#define PATH "/v1/organization/drain"

enum { POLL_MS = 500 };

struct drain {
    struct remote remote;
    bool pauses, refuses, waits;
};

static void print_state(struct remote *remote, const struct json *drain)
{
    const long long at_work = (long long)json_integer_or(json_get(drain, "jobs_at_work"), 0);

    if (!json_bool_or(json_get(drain, "draining"), false))
        printf("not draining; %lld jobs at work\n", at_work);
    else
        printf("draining: jobs at work %s (%lld left), new ones %s\n",
               strcmp(remote_text(remote, drain, "running_jobs"), "pause") == 0 ? "pause" : "end", at_work,
               strcmp(remote_text(remote, drain, "new_jobs"), "refuse") == 0 ? "are refused" : "wait");
}

/* Somebody else may end the drain meanwhile: that is no success. */
static bool wait_for_the_last(const struct drain *d, struct err *err)
{
    for (;;) {
        const struct json *drain;
        struct remote remote = {.url = d->remote.url};
        bool is_on, is_done;

        drain = remote_get(&remote, PATH, err);
        is_on = json_bool_or(json_get(drain, "draining"), false);
        is_done = drain && json_integer_or(json_get(drain, "jobs_at_work"), 1) == 0;
        remote_close(&remote);
        if (!drain)
            return false;
        if (!is_on)
            return err_set(err, ERR_CONFLICT, "the drain was ended while its jobs were waited for");
        if (is_done)
            return true;
        clock_sleep_ms(POLL_MS);
    }
}

static bool tell(struct remote *remote, const struct json *drain)
{
    if (drain)
        print_state(remote, drain);
    return drain != NULL;
}

static bool begin(void *context, const char *const *words, struct err *err)
{
    struct drain *d = context;
    const char *body = arena_printf(&d->remote.arena, "{\"running_jobs\":\"%s\",\"new_jobs\":\"%s\"}",
                                    d->pauses ? "pause" : "finish", d->refuses ? "refuse" : "queue");

    return remote_post(&d->remote, PATH, str_of(body), err) && (!d->waits || wait_for_the_last(d, err)) &&
           tell(&d->remote, remote_get(&d->remote, PATH, err));
}

static bool status(void *context, const char *const *words, struct err *err)
{
    struct drain *d = context;

    return tell(&d->remote, remote_get(&d->remote, PATH, err));
}

static bool end(void *context, const char *const *words, struct err *err)
{
    struct drain *d = context;

    return tell(&d->remote, remote_delete(&d->remote, PATH, err));
}

static const struct action actions[] = {
    {"status", NULL, "whether a drain is on and how many jobs are at work; also without an action", status},
    {"begin", NULL, "begins a drain", begin},
    {"end", NULL, "ends it: jobs start again", end},
};

int cli_drain(int argc, char **argv)
{
    struct drain d = {0};
    const struct option option[] = {
        {"pause", OPTION_FLAG, &d.pauses, NULL,
         "begin: jobs at work write a recovery point and stop (they end otherwise)", NULL},
        {"refuse", OPTION_FLAG, &d.refuses, NULL, "begin: new jobs get 503 (they wait otherwise)", NULL},
        {"wait", OPTION_FLAG, &d.waits, NULL, "begin: return when no job is at work any more", NULL},
        REMOTE_OPTION(d.remote)};
    const struct options options = {
        .usage = "attune drain [ACTION] [options]",
        .about = "Before a maintenance: no further job starts until the drain is ended. Needs an admin's key of the "
                 "organisation that runs the server.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .actions = actions,
        .action_count = sizeof actions / sizeof *actions,
        .otherwise = "status"};
    int status = options_act(&options, argc, argv, &d);

    remote_close(&d.remote);
    return status;
}
