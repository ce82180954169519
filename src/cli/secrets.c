#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "cli/secret_key.h"
#include "os/process.h"
#include "store/secrets.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct words {
    const char *action, *name;
    const char *url, *project, *data, *key_file;
};

static const char *collection(struct remote *remote, const struct words *words)
{
    return arena_printf(&remote->arena, "/v1/organization/projects/%s/secrets", words->project);
}

static bool list(struct remote *remote, const struct words *words, struct err *err)
{
    const struct json *secrets = remote_get(remote, collection(remote, words), err);

    if (!secrets)
        return false;
    printf("%-40s %s\n", "name", "ends in");
    for
        json_each(secret, json_get(secrets, "data"))
            printf("%-40s %s\n", remote_text(remote, secret, "name"), remote_text(remote, secret, "last4"));
    return true;
}

/* From standard input: what stands on a command line is seen by everybody on the machine. */
static bool set(struct remote *remote, const struct words *words, struct err *err)
{
    struct secret value = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    bool ok;

    if (isatty(STDIN_FILENO))
        fprintf(stderr, "The value, then end of input (Ctrl-D):\n");
    if (!secret_read_fd(&value, STDIN_FILENO, STORE_SECRET_BYTES_MAX, "standard input", err))
        return false;
    strbuf_reserve(&body, 6 * (size_t)STORE_SECRET_BYTES_MAX + 1024); /* does not move: no copies stay behind */
    json_write_begin_object(&w);
    json_put_text(&w, "name", words->name);
    json_put_str(&w, "value", secret_reveal(&value));
    json_write_end_object(&w);
    secret_wipe(&value);
    ok = remote_post(remote, collection(remote, words), strbuf_view(&body), err) != NULL;
    memory_erase(body.at, body.len);
    strbuf_deinit(&body);
    return ok;
}

static bool delete (struct remote *remote, const struct words *words, struct err *err)
{
    return remote_delete(remote, arena_printf(&remote->arena, "%s/%s", collection(remote, words), words->name), err);
}

static bool call_server(const struct words *words, struct err *err)
{
    struct remote remote;
    bool ok;

    remote_open(&remote, words->url);
    if (strcmp(words->action, "list") == 0)
        ok = list(&remote, words, err);
    else if (!words->name)
        ok = err_set(err, ERR_INPUT, "%s needs the name of a secret", words->action);
    else
        ok = strcmp(words->action, "set") == 0 ? set(&remote, words, err) : delete (&remote, words, err);
    remote_close(&remote);
    return ok;
}

/* The new key is in the file before anything is sealed under it, and the old one until nothing is any more: whenever
 * this is cut off, the file opens the database, and it may be run again. */
static bool rotate(const struct words *words, struct err *err)
{
    struct keyring *keyring = NULL;
    struct arena arena = {0};
    struct store *store = NULL;
    struct master_key place = {0};
    size_t count = 0;
    bool ok = words->data || err_set(err, ERR_INPUT, "rotate needs --data DIR, the data folder of the stopped server");

    ok = ok && (store = store_open(words->data, err)) &&
         master_key_find(&place, &arena, words->key_file, -1, words->data, err) &&
         (!place.path || keyring_file_add_key(place.path, err)) && (keyring = master_key_open(&place, false, err)) &&
         store_use_keyring(store, keyring, err) && store_secret_reseal(store, &count, err) &&
         (!place.path || keyring_file_keep_first(place.path, err));
    if (ok)
        printf("%zu secrets are sealed under the key %s%s\n", count, keyring_sealing_id(keyring),
               place.path ? "" : "; the keys behind it can go");
    store_close(store);
    keyring_free(keyring);
    master_key_wipe(&place);
    arena_deinit(&arena);
    return ok;
}

int cli_secrets(int argc, char **argv)
{
    struct words words = {.project = "proj-default"};
    const char *positional[2] = {0};
    const struct option option[] = {
        {"project", OPTION_TEXT, &words.project, "ID", "whose secrets (default proj-default)", NULL},
        {"url", OPTION_TEXT, &words.url, "URL", "server (default: ATTUNE_BASE_URL or http://127.0.0.1:8080)", NULL},
        {"data", OPTION_TEXT, &words.data, "DIR", "for rotate: data folder of the stopped server", NULL},
        {"secret-key-file", OPTION_TEXT, &words.key_file, "FILE", "for rotate: the master key, as given to the server",
         NULL},
    };
    const struct options options = {
        .usage = "attune secrets list | set NAME < FILE | delete NAME | rotate --data DIR",
        .about =
            "Secrets of a project at a running server, for its jobs' integrations: HF_TOKEN, WANDB_API_KEY and the "
            "like. They are\nnever shown. rotate makes a new master key and seals everything under it; the server "
            "is stopped meanwhile,\njobs run on.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .positional_min = 1,
        .positional_max = 2};
    struct err err = {0};
    bool ok = false;

    if (!options_parse(&options, argc, argv, positional, NULL, &err)) {
        fprintf(stderr, "attune secrets: %s\n", err.text);
        return 2;
    }
    words.action = positional[0];
    words.name = positional[1];
    if (!process_forbid_core(&err))
        ok = false;
    else if (strcmp(words.action, "rotate") == 0)
        ok = rotate(&words, &err);
    else if (!strcmp(words.action, "list") || !strcmp(words.action, "set") || !strcmp(words.action, "delete"))
        ok = call_server(&words, &err);
    else
        err_set(&err, ERR_INPUT, "unknown action '%s': list, set, delete or rotate", words.action);
    if (!ok)
        fprintf(stderr, "attune secrets: %s\n", err.text);
    return ok ? 0 : 1;
}
