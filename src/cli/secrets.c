#include "cli/cli.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "cli/secret_key.h"
#include "os/process.h"
#include "store/secrets.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct secrets {
    struct remote remote;
    const char *project, *data, *key_file;
};

static const char *collection(struct secrets *s)
{
    return arena_printf(&s->remote.arena, "/v1/organization/projects/%s/secrets", s->project);
}

static bool list(void *context, const char *const *words, struct err *err)
{
    struct secrets *s = context;
    const struct json *secrets = remote_get(&s->remote, collection(s), err);

    if (!secrets)
        return false;
    printf("%-40s %s\n", "name", "ends in");
    json_each(secret, json_get(secrets, "data"))
        printf("%-40s %s\n", remote_text(&s->remote, secret, "name"), remote_text(&s->remote, secret, "last4"));
    return true;
}

/* From standard input: what stands on a command line is seen by everybody on the machine. */
static bool set(void *context, const char *const *words, struct err *err)
{
    struct secrets *s = context;
    struct secret value = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    bool ok;

    if (!process_forbid_core(err))
        return false;
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "The value, then end of input (Ctrl-D):\n");
    if (!secret_read_fd(&value, STDIN_FILENO, STORE_SECRET_BYTES_MAX, "standard input", err))
        return false;
    strbuf_reserve(&body, 6 * (size_t)STORE_SECRET_BYTES_MAX + 1024); /* does not move: no copies stay behind */
    json_write_begin_object(&w);
    json_put_text(&w, "name", words[0]);
    json_put_str(&w, "value", secret_reveal(&value));
    json_write_end_object(&w);
    secret_wipe(&value);
    ok = remote_post(&s->remote, collection(s), strbuf_view(&body), err) != NULL;
    memory_erase(body.at, body.len);
    strbuf_deinit(&body);
    return ok;
}

static bool delete_secret(void *context, const char *const *words, struct err *err)
{
    struct secrets *s = context;

    return remote_delete(&s->remote, arena_printf(&s->remote.arena, "%s/%s", collection(s), words[0]), err);
}

/* The new key is in the file before anything is sealed under it, and the old one until nothing is any more: whenever
 * this is cut off, the file opens the database, and it may be run again. */
static bool rotate(void *context, const char *const *words, struct err *err)
{
    const struct secrets *s = context;
    struct keyring *keyring = NULL;
    struct arena arena = {0};
    struct store *store = NULL;
    struct master_key place = {0};
    size_t count = 0;
    bool ok;

    ok = process_forbid_core(err) && (store = store_open(s->data, err)) &&
         master_key_find(&place, &arena, s->key_file, -1, s->data, err) &&
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

static const struct action actions[] = {
    {"list", NULL, "names and last four characters", list},
    {"set", "NAME", "keeps what is on standard input under this name", set},
    {"delete", "NAME", "forgets a secret", delete_secret},
    {"rotate", "--data DIR", "makes a new master key and seals everything under it; the server is stopped meanwhile, "
                             "jobs run on", rotate},
};

static bool check(const struct action *action, void *context, struct err *err)
{
    const struct secrets *s = context;

    return action->run != rotate || s->data ||
           err_set(err, ERR_INPUT, "rotate needs --data DIR, the data folder of the stopped server");
}

int cli_secrets(int argc, char **argv)
{
    struct secrets s = {.project = "proj-default"};
    const struct option option[] = {
        {"project", OPTION_TEXT, &s.project, "ID", "whose secrets (default proj-default)", NULL},
        REMOTE_OPTION(s.remote),
        {"data", OPTION_TEXT, &s.data, "DIR", "rotate: data folder of the stopped server", NULL},
        {"secret-key-file", OPTION_TEXT, &s.key_file, "FILE", "rotate: the master key, as given to the server", NULL},
    };
    const struct options options = {
        .usage = "attune secrets ACTION [options]",
        .about = "Secrets of a project at a running server, for its jobs' integrations: HF_TOKEN, WANDB_API_KEY and "
                 "the like. They are never shown.",
        .list = option,
        .count = sizeof option / sizeof *option,
        .actions = actions,
        .action_count = sizeof actions / sizeof *actions,
        .check = check};
    int status = options_act(&options, argc, argv, &s);

    remote_close(&s.remote);
    return status;
}
