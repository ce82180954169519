#include "cli/pull.h"

#include "hub/cache.h"
#include "hub/download.h"
#include "os/file.h"
#include "os/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKEN_BYTES_MAX = 4096, TRANSFERS_MAX = 64 };

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);

    return value && *value && strcmp(value, "0") != 0;
}

/* Where the Hub's own client keeps it. */
static const char *token_path(struct arena *arena)
{
    const char *path = getenv("HF_TOKEN_PATH"), *home = getenv("HF_HOME"), *user = getenv("HOME");

    if (path && *path)
        return path;
    if (home && *home)
        return path_join(arena, home, "token");
    return user ? path_join(arena, user, ".cache/huggingface/token") : NULL;
}

/* The file that was named, HF_TOKEN, the file of the client; none is fine. */
static bool find_token(const struct pull_options *options, struct arena *arena, struct secret *token, struct err *err)
{
    const char *path = options->token_file, *text = getenv("HF_TOKEN");
    bool ok;
    int fd;

    if (!path && text && *text) {
        secret_set(token, str_trim(str_of(text)));
        return true;
    }
    if (!path && (!(path = token_path(arena)) || !file_exists(path)))
        return true;
    fd = file_open_read(path, err);
    ok = fd >= 0 && secret_read_fd(token, fd, TOKEN_BYTES_MAX, path, err);
    fd_close(&fd);
    return ok;
}

/* --- what people see --- */

struct shown {
    const char *repo;
    bool is_terminal;
    uint64_t begun_with; /* was there before */
};

static double gib(uint64_t bytes)
{
    return (double)bytes / (double)(1 << 30);
}

static bool on_plan(void *context, const char *commit, int files, uint64_t bytes, uint64_t present)
{
    struct shown *shown = context;

    shown->begun_with = present;
    fprintf(stderr, "%s at %.12s: %d files, %.2f GiB, of which %.2f GiB are here\n", shown->repo, commit, files,
            gib(bytes), gib(present));
    return true;
}

static bool on_progress(void *context, uint64_t done, uint64_t bytes)
{
    const struct shown *shown = context;

    if (shown->is_terminal && bytes > shown->begun_with)
        fprintf(stderr, "\r%6.2f of %.2f GiB%s", gib(done), gib(bytes), done == bytes ? "\n" : "");
    return true;
}

static bool pull(struct hub_download *download, struct arena *arena, struct hub_model *model, struct err *err)
{
    struct shown shown = {.repo = download->repo, .is_terminal = isatty(STDERR_FILENO)};

    download->context = &shown;
    return hub_download(download, arena, model, err);
}

static bool pull_both(const struct pull_options *options, struct hub_download *download, struct arena *arena,
                      struct err *err)
{
    struct hub_model model, base;

    if (!pull(download, arena, &model, err))
        return false;
    if (model.is_adapter && model.base) {
        download->repo = model.base;
        download->revision = model.base_revision;
        if (!pull(download, arena, &base, err))
            return err_prefix(err, "the base of the adapter");
        fprintf(stderr, "its base is in %s\n", base.folder);
    }
    printf("%s\n", model.folder);
    return true;
}

bool pull_model(const struct pull_options *options, const char *repo, struct err *err)
{
    struct arena arena = {0};
    struct secret token = {0};
    struct hub_download download = {
        .endpoint = getenv("HF_ENDPOINT"),
        .cache = options->cache ? options->cache : hub_cache_default(&arena),
        .repo = repo,
        .revision = options->revision,
        .is_offline = options->is_offline || is_set("HF_HUB_OFFLINE"),
        .transfers = (int)options->transfers,
        .on_plan = on_plan,
        .on_progress = on_progress,
    };
    bool ok;

    if (options->transfers < 0 || options->transfers > TRANSFERS_MAX)
        return err_set(err, ERR_INPUT, "--transfers is 1 to %d", TRANSFERS_MAX);
    if (!download.cache)
        err_set(err, ERR_INPUT, "no place for the cache: set HF_HUB_CACHE, or give --cache");
    ok = download.cache && find_token(options, &arena, &token, err);
    download.token = secret_is_set(&token) ? secret_reveal(&token).at : NULL;
    ok = ok && pull_both(options, &download, &arena, err);
    secret_wipe(&token);
    arena_deinit(&arena);
    return ok;
}
