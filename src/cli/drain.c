#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>

#define PATH "/v1/organization/drain"

enum { POLL_MS = 500 };

struct drain_options {
    const char *url;
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
static bool wait_for_the_last(const struct drain_options *o, struct err *err)
{
    for (;;) {
        const struct json *drain;
        struct remote remote;
        bool is_on, is_done;

        remote_open(&remote, o->url);
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

static bool begin(struct remote *remote, const struct drain_options *o, struct err *err)
{
    const char *body = arena_printf(&remote->arena, "{\"running_jobs\":\"%s\",\"new_jobs\":\"%s\"}",
                                    o->pauses ? "pause" : "finish", o->refuses ? "refuse" : "queue");
    const struct json *drain = remote_post(remote, PATH, str_of(body), err);

    if (!drain || (o->waits && !wait_for_the_last(o, err)))
        return false;
    drain = remote_get(remote, PATH, err);
    if (drain)
        print_state(remote, drain);
    return drain != NULL;
}

static bool act(struct remote *remote, const char *action, const struct drain_options *o, struct err *err)
{
    const struct json *drain;

    if (strcmp(action, "begin") == 0)
        return begin(remote, o, err);
    if (strcmp(action, "status") != 0 && strcmp(action, "end") != 0)
        return err_set(err, ERR_INPUT, "unknown action '%s': begin, status or end", action);
    drain = strcmp(action, "end") == 0 ? remote_delete(remote, PATH, err) : remote_get(remote, PATH, err);
    if (drain)
        print_state(remote, drain);
    return drain != NULL;
}

int cli_drain(int argc, char **argv)
{
    struct drain_options o = {0};
    const char *positional[1] = {"status"};
    const struct option option[] = {
        {"pause", OPTION_FLAG, &o.pauses, NULL,
         "begin: jobs at work write a recovery point and stop (they end otherwise)", NULL},
        {"refuse", OPTION_FLAG, &o.refuses, NULL, "begin: new jobs get 503 (they wait otherwise)", NULL},
        {"wait", OPTION_FLAG, &o.waits, NULL, "begin: return when no job is at work any more", NULL},
        {"url", OPTION_TEXT, &o.url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL}};
    const struct options options = {
        .usage = "attune drain begin [--pause] [--refuse] [--wait] | status | end",
        .about = "Before a maintenance: no further job starts until the drain is ended. Needs an admin's key of the\n"
                 "organisation that runs the server.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .positional_max = 1};
    struct remote remote;
    struct err err = {0};
    bool ok;

    if (!options_parse(&options, argc, argv, positional, NULL, &err)) {
        fprintf(stderr, "attune drain: %s\n", err.text);
        return 2;
    }
    remote_open(&remote, o.url);
    ok = act(&remote, positional[0], &o, &err);
    remote_close(&remote);
    if (!ok)
        fprintf(stderr, "attune drain: %s\n", err.text);
    return ok ? 0 : 1;
}
