#include "cli/job_watch.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { POLL_MS = 300, BAR_WIDTH = 28, AWAY_MS = 1000, AWAY_TRIES = 300 };

struct watch {
    struct remote *remote;
    const char *id;
    char after[128]; /* id of the last event seen */
    bool has_bar;    /* on a terminal */
    bool was_there;  /* the server, once */
    int tries_away;
    double loss;
};

/* A job as one answer told it. */
struct state {
    char status[32], result[1024], message[1024];
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
        json_each(event, json_get(events, "data")) {
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

/* The job as it is now; its new events are printed. False: it could not be asked. */
static bool look(struct watch *w, const struct remote *server, struct state *state, struct err *err)
{
    struct remote remote = *server;
    const struct json *job;
    bool ok;

    remote.arena = (struct arena){0};
    w->remote = &remote;
    job = remote_get(&remote, arena_printf(&remote.arena, "/v1/fine_tuning/jobs/%s", w->id), err);
    ok = job && take_events(w, err);
    if (ok) {
        draw_bar(w, job);
        snprintf(state->status, sizeof state->status, "%s", remote_text(&remote, job, "status"));
        snprintf(state->result, sizeof state->result, "%s", remote_text(&remote, job, "fine_tuned_model"));
        snprintf(state->message, sizeof state->message, "%s",
                 remote_text(&remote, json_get(job, "error"), "message"));
    }
    remote_close(&remote);
    return ok;
}

static bool tell_end(const struct watch *w, const struct state *state, struct err *err)
{
    clear_bar(w);
    if (strcmp(state->status, "succeeded") != 0)
        return err_set(err, ERR_CANCELLED, "the job %s%s%s", state->status, state->message[0] ? ": " : "",
                       state->message);
    printf("succeeded: %s\n", state->result);
    return true;
}

bool job_watch(const struct remote *remote, const char *id, struct err *err)
{
    struct watch w = {.id = id, .has_bar = isatty(1)};
    struct state state;

    if (w.has_bar)
        printf("Ctrl-C ends the watching, not the job.\n");
    for (;;) {
        if (look(&w, remote, &state, err)) {
            w.was_there = true;
            w.tries_away = 0;
            if (is_final(state.status))
                return tell_end(&w, &state, err);
            clock_sleep_ms(POLL_MS);
        } else if (comes_back(&w, err)) {
            *err = (struct err){0};
        } else {
            return false;
        }
    }
}
