#include "hub/fetch.h"

#include "base/json.h"
#include "hub/cache.h"
#include "hub/download.h"
#include "os/file.h"
#include "os/secret.h"

#include <string.h>

enum { DOCUMENT_BYTES_MAX = 1 << 20 };

struct fetch {
    struct arena *arena;
    const struct json *document;
    struct outgoing_policy policy;
    int talk_fd;
    const char *repo; /* that is on its way */
    bool has_begun;   /* there was room for all of it */
};

static const char *text_of(const struct fetch *fetch, const char *name)
{
    struct str text = json_string_or(json_get(fetch->document, name), STR_NONE);

    return text.len ? str_copy(fetch->arena, text) : NULL;
}

/* --- what is told --- */

static bool tell(const struct fetch *fetch, struct strbuf *line, struct err *err)
{
    bool ok;

    strbuf_add_char(line, '\n');
    ok = fd_write_all(fetch->talk_fd, line->at, line->len, "standard output", err);
    strbuf_deinit(line);
    return ok;
}

/* Whoever keeps the limits of this machine has seen the plan. */
static bool is_told_to_go(const struct fetch *fetch)
{
    char byte;

    return fd_read_some(fetch->talk_fd, &byte, 1) == 1;
}

static bool on_plan(void *context, const char *commit, int files, uint64_t bytes, uint64_t present)
{
    struct fetch *fetch = context;
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};

    json_write_begin_object(&w);
    json_write_key(&w, "plan");
    json_write_begin_object(&w);
    json_put_text(&w, "repo", fetch->repo);
    json_put_text(&w, "commit", commit);
    json_put_integer(&w, "files", files);
    json_put_integer(&w, "bytes", (int64_t)bytes);
    json_put_integer(&w, "present_bytes", (int64_t)present);
    json_write_end_object(&w);
    json_write_end_object(&w);
    fetch->has_begun = tell(fetch, &line, NULL) && is_told_to_go(fetch);
    return fetch->has_begun;
}

static bool on_progress(void *context, uint64_t done, uint64_t bytes)
{
    const struct fetch *fetch = context;
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};

    json_write_begin_object(&w);
    json_write_key(&w, "progress");
    json_write_begin_object(&w);
    json_put_text(&w, "repo", fetch->repo);
    json_put_integer(&w, "bytes", (int64_t)done);
    json_put_integer(&w, "total_bytes", (int64_t)bytes);
    json_write_end_object(&w);
    json_write_end_object(&w);
    return tell(fetch, &line, NULL);
}

static bool tell_model(const struct fetch *fetch, const char *path, const char *adapter_path, struct err *err)
{
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};

    json_write_begin_object(&w);
    json_write_key(&w, "model");
    json_write_begin_object(&w);
    json_put_text(&w, "path", path);
    json_put_text(&w, "adapter_path", adapter_path);
    json_write_end_object(&w);
    json_write_end_object(&w);
    return tell(fetch, &line, err);
}

/* Where the operator has the cache is not for a job's readers. */
static void write_message(const struct fetch *fetch, const char *text, struct strbuf *message)
{
    const char *places[] = {text_of(fetch, "own_cache"), text_of(fetch, "cache")};
    struct str rest = str_of(text);

    while (rest.len) {
        size_t skip = 0;

        for (size_t i = 0; i < 2 && skip == 0; i++)
            if (places[i] && str_starts(rest, str_of(places[i])))
                skip = strlen(places[i]);
        if (skip)
            strbuf_add_text(message, "the cache");
        else
            strbuf_add_char(message, rest.at[0]);
        rest = str_slice(rest, skip ? skip : 1, rest.len);
    }
}

static bool tell_end(const struct fetch *fetch, bool ok, const struct err *problem, struct err *err)
{
    const bool may_work_later = problem->code == ERR_IO || problem->code == ERR_TIMEOUT ||
                                (problem->code == ERR_NO_SPACE && fetch->has_begun);
    struct strbuf line = {0}, message = {0};
    struct json_writer w = {.buf = &line};

    write_message(fetch, problem->text, &message);
    json_write_begin_object(&w);
    json_put_text(&w, "end", ok ? "ok" : may_work_later ? "retry" : "failed");
    if (!ok) {
        json_put_text(&w, "code", err_code_name(problem->code));
        json_put_str(&w, "message", strbuf_view(&message));
    }
    json_write_end_object(&w);
    strbuf_deinit(&message);
    return tell(fetch, &line, err);
}

/* --- what is fetched --- */

static bool download_to(struct fetch *fetch, const char *cache, const char *token, const char *repo,
                        const char *revision, struct hub_model *model, struct err *err)
{
    const struct hub_download download = {
        .endpoint = text_of(fetch, "endpoint"),
        .token = token,
        .policy = &fetch->policy,
        .cache = cache,
        .repo = repo,
        .revision = revision,
        .is_offline = json_bool_or(json_get(fetch->document, "is_offline"), false),
        .gives_room_back = true,
        .on_plan = on_plan,
        .on_progress = on_progress,
        .context = fetch,
    };

    fetch->repo = repo;
    fetch->has_begun = false;
    return hub_download(&download, fetch->arena, model, err);
}

/* As anybody could, then with the token. */
static bool download(struct fetch *fetch, const char *repo, const char *revision, struct hub_model *model,
                     struct err *err)
{
    const char *cache = text_of(fetch, "cache"), *own = text_of(fetch, "own_cache"), *token = text_of(fetch, "token");
    const bool is_offline = json_bool_or(json_get(fetch->document, "is_offline"), false);

    if (download_to(fetch, cache, NULL, repo, revision, model, err))
        return true;
    if (!own || (!token && !is_offline) || (err->code != ERR_AUTH && err->code != ERR_NOT_FOUND))
        return false;
    return download_to(fetch, own, token, repo, revision, model, err);
}

/* A model of that name that is here already: of the operator's folder, or in the cache of all. */
static const char *find_here(const struct fetch *fetch, const char *repo, const char *revision)
{
    const char *models = text_of(fetch, "models_dir"), *folder;

    if (models && !revision) {
        folder = path_join(fetch->arena, models, repo);
        if (file_exists(path_join(fetch->arena, folder, "config.json")))
            return folder;
    }
    folder = hub_cache_find(fetch->arena, text_of(fetch, "cache"), repo, revision);
    return folder && hub_cache_is_model(fetch->arena, folder) ? folder : NULL;
}

static bool find_base(struct fetch *fetch, const struct hub_model *adapter, const char **path, struct err *err)
{
    const char *named = text_of(fetch, "base"), *base = named ? named : adapter->base;
    const char *revision = named ? NULL : adapter->base_revision;
    struct hub_model model;

    *path = text_of(fetch, "base_path");
    if (*path)
        return true;
    if (!base)
        return err_set(err, ERR_INPUT,
                       "%s is an adapter whose adapter_config.json does not say for which model: name that as "
                       "model, and the adapter in from_checkpoint",
                       fetch->repo);
    if ((*path = find_here(fetch, base, revision)))
        return true;
    if (!download(fetch, base, revision, &model, err))
        return err_prefix(err, "the base of the adapter");
    if (model.is_adapter)
        return err_set(err, ERR_INPUT, "the base of the adapter, %s, is an adapter itself", base);
    *path = model.folder;
    return true;
}

static bool fetch_all(struct fetch *fetch, struct err *err)
{
    const char *repo = text_of(fetch, "repo"), *path;
    struct hub_model model;

    if (!repo || !text_of(fetch, "cache"))
        return err_set(err, ERR_INPUT, "the document has no repo or no cache");
    if (!download(fetch, repo, text_of(fetch, "revision"), &model, err))
        return false;
    if (!model.is_adapter)
        return tell_model(fetch, model.folder, NULL, err);
    return find_base(fetch, &model, &path, err) && tell_model(fetch, path, model.folder, err);
}

bool fetch_run(int in_fd, int talk_fd, struct err *err)
{
    struct arena arena = {0};
    struct fetch fetch = {.arena = &arena, .talk_fd = talk_fd};
    struct secret text = {0};
    struct err problem = {0};
    bool ok = secret_read_fd(&text, in_fd, DOCUMENT_BYTES_MAX, "the document", err) &&
              (fetch.document = json_parse(&arena, secret_reveal(&text), NULL, err)) &&
              outgoing_policy_parse(&arena, text_of(&fetch, "origins"), &fetch.policy, err);

    if (ok)
        ok = tell_end(&fetch, fetch_all(&fetch, &problem), &problem, err);
    secret_wipe(&text);
    arena_deinit(&arena);
    return ok;
}
