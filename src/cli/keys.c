#include "cli/cli.h"
#include "cli/options.h"
#include "store/keys.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

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

static bool create(struct store *store, const char *name, const char *scopes, struct err *err)
{
    struct tenant tenant = tenant_default();
    char key[API_KEY_BYTES];

    if (!key_create(store, &tenant, name, scopes, key, err))
        return false;
    printf("%s\n", key);
    fprintf(stderr, "This key is shown once. Use it as ATTUNE_API_KEY or as api_key of the SDK.\n");
    return true;
}

static bool list(struct store *store, struct err *err)
{
    struct tenant tenant = tenant_default();
    struct arena arena = {0};
    struct store_key_list keys;
    bool ok = key_list(store, &tenant, &(struct store_page){.limit = 1000, .ascending = true}, &arena, &keys, err);

    printf("%-14s %-20s %-18s %-22s%-22s%s\n", "id", "name", "scopes", "created", "last used", "revoked");
    for (size_t i = 0; ok && i < keys.count; i++) {
        printf("%-14s %-20s %-18s ", keys.at[i].id, keys.at[i].name, keys.at[i].scopes);
        print_time(keys.at[i].created_ms);
        print_time(keys.at[i].last_used_ms);
        print_time(keys.at[i].revoked_ms);
        putchar('\n');
    }
    arena_deinit(&arena);
    return ok;
}

static bool revoke(struct store *store, const char *id, struct err *err)
{
    struct tenant tenant = tenant_default();

    if (!id)
        return err_set(err, ERR_INPUT, "which one? 'attune keys list' shows the ids");
    return key_revoke(store, &tenant, id, err);
}

int cli_keys(int argc, char **argv)
{
    const char *data = NULL, *name = "key", *scopes = "read write", *words[2] = {0};
    const struct option option[] = {
        {"data", OPTION_TEXT, &data, "DIR", "data folder of the server", NULL},
        {"name", OPTION_TEXT, &name, "TEXT", "what the key is for", NULL},
        {"scopes", OPTION_TEXT, &scopes, "WORDS", "of read, write, admin, metrics (default: \"read write\")", NULL},
    };
    const struct options options = {.usage = "attune keys create|list|revoke [ID] --data DIR",
                                    .about = "API keys. Stop the server first: one process owns the data folder.",
                                    .list = option,
                                    .count = sizeof option / sizeof *option,
                                    .positional_min = 1,
                                    .positional_max = 2};
    struct store *store;
    struct err err = {0};
    bool ok = false;

    if (!options_parse(&options, argc, argv, words, NULL, &err) ||
        (!data && !err_set(&err, ERR_INPUT, "--data is required"))) {
        fprintf(stderr, "attune keys: %s\n", err.text);
        return 2;
    }
    store = store_open(data, &err);
    if (store) {
        if (strcmp(words[0], "create") == 0)
            ok = create(store, name, scopes, &err);
        else if (strcmp(words[0], "list") == 0)
            ok = list(store, &err);
        else if (strcmp(words[0], "revoke") == 0)
            ok = revoke(store, words[1], &err);
        else
            err_set(&err, ERR_INPUT, "unknown action '%s': create, list or revoke", words[0]);
    }
    store_close(store);
    if (!ok)
        fprintf(stderr, "attune keys: %s\n", err.text);
    return ok ? 0 : 1;
}
