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

struct keys_options {
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

static bool create(struct store *store, const struct tenant *tenant, const struct keys_options *o, struct err *err)
{
    struct store_key key = {.name = o->name, .scopes = o->scopes, .profile = o->profile};
    char value[API_KEY_BYTES];

    if (!key_scopes_are_known(o->scopes))
        return err_set(err, ERR_INPUT, "--scopes: words of read, write, admin and metrics");
    if (o->profile && strcmp(o->profile, "nebius") != 0 && strcmp(o->profile, "openai") != 0)
        return err_set(err, ERR_INPUT, "--profile: nebius or openai");
    if (o->days < 0 || o->days > DAYS_MAX)
        return err_set(err, ERR_INPUT, "--days: 1 to %d, or 0 for a key that does not expire", DAYS_MAX);
    if (o->days)
        key.expires_ms = clock_unix_ms() + o->days * DAY_MS;
    if (!key_add(store, tenant, &key, value, err))
        return false;
    printf("%s\n", value);
    fprintf(stderr, "This key is shown once. Use it as ATTUNE_API_KEY or as api_key of the SDK.\n");
    return true;
}

static bool list(struct store *store, const struct tenant *tenant, struct err *err)
{
    struct arena arena = {0};
    struct store_key_list keys;
    bool ok = key_list(store, tenant, &(struct store_page){.limit = 1000, .ascending = true}, &arena, &keys, err);

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

static bool act(struct store *store, const char *const words[2], const struct keys_options *o, struct err *err)
{
    struct tenant tenant = tenant_default();
    struct arena arena = {0};
    struct store_project project;
    bool ok;

    if (o->organization)
        snprintf(tenant.organization_id, sizeof tenant.organization_id, "%s", o->organization);
    if (o->project)
        snprintf(tenant.project_id, sizeof tenant.project_id, "%s", o->project);
    ok = store_project_get(store, &tenant, &arena, &project, err);
    arena_deinit(&arena);
    if (!ok)
        return false;
    if (strcmp(words[0], "create") == 0)
        return create(store, &tenant, o, err);
    if (strcmp(words[0], "list") == 0)
        return list(store, &tenant, err);
    if (strcmp(words[0], "revoke") != 0)
        return err_set(err, ERR_INPUT, "unknown action '%s': create, list or revoke", words[0]);
    if (!words[1])
        return err_set(err, ERR_INPUT, "which one? 'attune keys list' shows the ids");
    return key_revoke(store, &tenant, words[1], err);
}

/* The first key may be made before the server's first start; anything else in a folder that is not there is a
 * mistake. */
static bool has_data(const char *action, const char *data_dir, struct err *err)
{
    return strcmp(action, "create") == 0 || dir_exists(data_dir) ||
           err_set(err, ERR_NOT_FOUND, "there is no data folder %s", data_dir);
}

int cli_keys(int argc, char **argv)
{
    struct keys_options o = {.name = "key", .scopes = "read write"};
    const char *words[2] = {0};
    const struct option option[] = {
        {"data", OPTION_TEXT, &o.data, "DIR", "data folder of the server", NULL},
        {"name", OPTION_TEXT, &o.name, "TEXT", "what the key is for", NULL},
        {"scopes", OPTION_TEXT, &o.scopes, "WORDS", "of read, write, admin, metrics (default: \"read write\")", NULL},
        {"days", OPTION_INT, &o.days, "N", "the key expires after N days (default: never)", NULL},
        {"profile", OPTION_TEXT, &o.profile, "NAME", "nebius or openai (default: the project's)", NULL},
        {"project", OPTION_TEXT, &o.project, "ID", "default: proj-default", NULL},
        {"organization", OPTION_TEXT, &o.organization, "ID", "default: org-default", NULL},
    };
    const struct options options = {.usage = "attune keys create|list|revoke [ID] --data DIR",
                                    .about = "API keys, beside a running server or without one.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .positional_min = 1,
                                    .positional_max = 2};
    struct store *store = NULL;
    struct err err = {0};
    bool ok;

    if (!options_parse(&options, argc, argv, words, NULL, &err) ||
        (!o.data && !err_set(&err, ERR_INPUT, "--data is required"))) {
        fprintf(stderr, "attune keys: %s\n", err.text);
        return 2;
    }
    ok = has_data(words[0], o.data, &err) && (store = store_open_beside(o.data, &err)) && act(store, words, &o, &err);
    store_close(store);
    if (!ok)
        fprintf(stderr, "attune keys: %s\n", err.text);
    return ok ? 0 : 1;
}
