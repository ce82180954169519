#include "cli/cli.h"
#include "cli/options.h"
#include "os/clock.h"
#include "os/file.h"
#include "store/keys.h"
#include "store/projects.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { DAY_MS = 86400000, DAYS_MAX = 36500 };

struct keys {
    struct store *store;
    struct tenant tenant;
    const char *data, *project, *organization, *name, *scopes, *profile;
    int64_t days;
};

static void print_time(int64_t ms)
{
    char text[32];
    time_t seconds = (time_t)(ms / 1000);
    struct tm utc;

    if (!ms) {
        printf("%-22s", "-");
        return;
    }
    gmtime_r(&seconds, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    printf("%-22s", text);
}

/* The first key may be made before the server's first start; anything else in a folder that is not there is a
 * mistake. */
static bool open_project(struct keys *o, bool may_make, struct err *err)
{
    struct arena arena = {0};
    struct store_project project;
    bool ok;

    if (!may_make && !dir_exists(o->data))
        return err_set(err, ERR_NOT_FOUND, "there is no data folder %s", o->data);
    o->tenant = tenant_default();
    if (o->organization)
        snprintf(o->tenant.organization_id, sizeof o->tenant.organization_id, "%s", o->organization);
    if (o->project)
        snprintf(o->tenant.project_id, sizeof o->tenant.project_id, "%s", o->project);
    ok = (o->store = store_open_beside(o->data, err)) && store_project_get(o->store, &o->tenant, &arena, &project, err);
    arena_deinit(&arena);
    return ok;
}

static bool create(void *context, const char *const *words, struct err *err)
{
    struct keys *o = context;
    struct store_key key = {.name = o->name, .scopes = o->scopes, .profile = o->profile};
    char value[API_KEY_BYTES];

    if (o->days)
        key.expires_ms = clock_unix_ms() + o->days * DAY_MS;
    if (!open_project(o, true, err) || !key_add(o->store, &o->tenant, &key, value, err))
        return false;
    printf("%s\n", value);
    fprintf(stderr, "This key is shown once. Use it as ATTUNE_API_KEY or as api_key of the SDK.\n");
    return true;
}

static bool list(void *context, const char *const *words, struct err *err)
{
    struct keys *o = context;
    struct store_page page = {.limit = 1000, .ascending = true};
    struct arena arena = {0};
    struct store_key_list keys;
    bool ok = open_project(o, false, err) && key_list(o->store, &o->tenant, &page, &arena, &keys, err);

    if (ok)
        printf("%-14s %-20s %-18s %-22s%-22s%-22s%s\n", "id", "name", "scopes", "created", "last used", "expires",
               "revoked");
    for (size_t i = 0; ok && i < keys.count; i++) {
        printf("%-14s %-20s %-18s ", keys.at[i].id, keys.at[i].name, keys.at[i].scopes);
        print_time(keys.at[i].created_ms);
        print_time(keys.at[i].last_used_ms);
        print_time(keys.at[i].expires_ms);
        print_time(keys.at[i].revoked_ms);
        putchar('\n');
    }
    arena_deinit(&arena);
    return ok;
}

static bool revoke(void *context, const char *const *words, struct err *err)
{
    struct keys *o = context;

    return open_project(o, false, err) && key_revoke(o->store, &o->tenant, words[0], err);
}

static const struct action actions[] = {
    {"create", NULL, "makes a key and shows it, once", create},
    {"list", NULL, "the keys of a project", list},
    {"revoke", "ID", "lets a key open nothing from the next request on", revoke},
};

static bool check(const struct action *action, void *context, struct err *err)
{
    const struct keys *o = context;

    if (!o->data)
        return err_set(err, ERR_INPUT, "--data is required");
    if (!key_scopes_are_known(o->scopes))
        return err_set(err, ERR_INPUT, "--scopes: words of read, write, admin and metrics");
    if (o->profile && strcmp(o->profile, "nebius") != 0 && strcmp(o->profile, "openai") != 0)
        return err_set(err, ERR_INPUT, "--profile: nebius or openai");
    if (o->days < 0 || o->days > DAYS_MAX)
        return err_set(err, ERR_INPUT, "--days: 1 to %d, or 0 for a key that does not expire", DAYS_MAX);
    return true;
}

int cli_keys(int argc, char **argv)
{
    struct keys o = {.name = "key", .scopes = "read write"};
    const struct option option[] = {
        {"data", OPTION_TEXT, &o.data, "DIR", "data folder of the server", NULL},
        {"name", OPTION_TEXT, &o.name, "TEXT", "what the key is for", NULL},
        {"scopes", OPTION_TEXT, &o.scopes, "WORDS", "of read, write, admin, metrics (default: \"read write\")", NULL},
        {"days", OPTION_INT, &o.days, "N", "the key expires after N days (default: never)", NULL},
        {"profile", OPTION_TEXT, &o.profile, "NAME", "nebius or openai (default: the project's)", NULL},
        {"project", OPTION_TEXT, &o.project, "ID", "whose keys (default proj-default)", NULL},
        {"organization", OPTION_TEXT, &o.organization, "ID", "whose project that is (default org-default)", NULL},
    };
    const struct options options = {.usage = "attune keys ACTION --data DIR [options]",
                                    .about = "API keys, beside a running server or without one.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .actions = actions,
                                    .action_count = sizeof actions / sizeof *actions,
                                    .check = check};
    int status = options_act(&options, argc, argv, &o);

    store_close(o.store);
    return status;
}
