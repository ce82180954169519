#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "os/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { DAY_S = 86400, DAYS_MAX = 366, PAGE_DAYS = 31 };

struct usage_options {
    const char *kind, *by;
    int64_t days;
};

/* A table for each kind: the members of its results. */
static const struct kind {
    const char *name, *columns[4];
} kinds[] = {{"completions", {"num_model_requests", "input_tokens", "output_tokens"}},
             {"fine_tuning", {"jobs", "trained_steps", "trained_tokens", "device_seconds"}},
             {"storage", {"storage_bytes"}}};
enum { KINDS = sizeof kinds / sizeof *kinds, COLUMNS = sizeof kinds[0].columns / sizeof *kinds[0].columns };

static const struct kind *find_kind(const char *name, struct err *err)
{
    for (size_t i = 0; i < KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    err_set(err, ERR_INPUT, "unknown kind '%s': completions, fine_tuning or storage", name);
    return NULL;
}

static void print_day(int64_t seconds)
{
    char text[32];
    time_t time = (time_t)seconds;
    struct tm utc;

    gmtime_r(&time, &utc);
    strftime(text, sizeof text, "%Y-%m-%d", &utc);
    printf("%-12s", text);
}

static void print_head(const struct kind *kind, const struct usage_options *o)
{
    printf("%-12s", "day");
    for (int i = 0; i < COLUMNS && kind->columns[i]; i++)
        printf("%20s", kind->columns[i]);
    printf("%s%s\n", o->by ? "  " : "", o->by ? o->by : "");
}

static void print_result(struct remote *remote, const struct kind *kind, const struct usage_options *o,
                         const struct json *result)
{
    for (int i = 0; i < COLUMNS && kind->columns[i]; i++) {
        const struct json *value = json_get(result, kind->columns[i]);

        if (strcmp(kind->columns[i], "device_seconds") == 0)
            printf("%20.1f", json_number_or(value, 0));
        else
            printf("%20lld", (long long)json_integer_or(value, 0));
    }
    if (o->by)
        printf("  %s", remote_text(remote, result, strcmp(o->by, "project") == 0 ? "project_id" : "model"));
    printf("\n");
}

static bool print_usage(struct remote *remote, const struct kind *kind, const struct usage_options *o, struct err *err)
{
    const int64_t start = clock_unix() - (o->days - 1) * DAY_S;
    const char *group = !o->by ? "" : strcmp(o->by, "project") == 0 ? "&group_by=project_id" : "&group_by=model", *page;
    const char *path = arena_printf(&remote->arena, "/v1/organization/usage/%s?start_time=%lld&limit=%d%s", kind->name,
                                    (long long)start, PAGE_DAYS, group),
               *next = path;

    while (next) {
        const struct json *answer = remote_get(remote, next, err);

        if (!answer)
            return false;
        if (next == path)
            print_head(kind, o);
        json_each(bucket, json_get(answer, "data"))
            json_each(result, json_get(bucket, "results"))
            {
                print_day(json_integer_or(json_get(bucket, "start_time"), 0));
                print_result(remote, kind, o, result);
            }
        page = remote_text(remote, answer, "next_page");
        next = *page ? arena_printf(&remote->arena, "%s&page=%s", path, page) : NULL;
    }
    return true;
}

static bool check(const struct usage_options *o, struct err *err)
{
    if (o->days < 1 || o->days > DAYS_MAX)
        return err_set(err, ERR_INPUT, "--days is 1 to %d", DAYS_MAX);
    if (o->by && strcmp(o->by, "project") != 0 && strcmp(o->by, "model") != 0)
        return err_set(err, ERR_INPUT, "--by takes project or model, not '%s'", o->by);
    return true;
}

int cli_usage(int argc, char **argv)
{
    struct usage_options o = {.days = 7};
    struct remote remote = {0};
    const char *positional[1] = {"fine_tuning"};
    const struct option option[] = {
        {"days", OPTION_INT, &o.days, "N", "the last N days of UTC, today among them (7)", NULL},
        {"by", OPTION_TEXT, &o.by, "WHAT", "a line for each project or model, of days with use", NULL},
        REMOTE_OPTION(remote)};
    const struct options options = {
        .usage = "attune usage [completions|fine_tuning|storage] [--days N] [--by project|model]",
        .about = "What the projects of the organisation used, by the day: answers of models, training (the default), "
                 "bytes of files. Needs an admin's key.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .positional_max = 1};
    const struct kind *kind = NULL;
    struct err err = {0};
    bool ok;

    if (!options_parse(&options, argc, argv, positional, NULL, &err) || !check(&o, &err) ||
        !(kind = find_kind(positional[0], &err))) {
        fprintf(stderr, "attune usage: %s\n", err.text);
        return 2;
    }
    ok = print_usage(&remote, kind, &o, &err);
    remote_close(&remote);
    if (!ok)
        fprintf(stderr, "attune usage: %s\n", err.text);
    return ok ? 0 : 1;
}
