#include "hub/download.h"

#include "base/json.h"
#include "hub/cache.h"
#include "hub/get.h"
#include "hub/listing.h"
#include "hub/name.h"
#include "hub/transfer.h"
#include "os/file.h"

#include <string.h>

#define ENDPOINT "https://huggingface.co"

enum { PAGES_MAX = 200, TRANSFERS = 4, SPARE_BYTES = 64 << 20, ADAPTER_CONFIG_BYTES_MAX = 1 << 20 };

struct work {
    const struct hub_download *download;
    struct arena *arena;
    struct hub_reader reader;
    struct hub_listing listing;
    struct hub_choice choice;
    const char *commit;
};

/* --- what there is --- */

/* A JSON text, in the arena. */
static bool get_text(struct work *work, const char *path, struct str *text, const char **next, struct err *err)
{
    struct http_client_request request = {.answer_bytes_max = HUB_JSON_BYTES_MAX};
    struct http_client_answer answer = {0};
    bool ok = hub_get(&work->reader, path, &request, &answer, err);

    if (ok) {
        *text = (struct str){arena_copy(work->arena, answer.body.at, answer.body.len), answer.body.len};
        *next = hub_listing_next(work->arena, http_client_answer_header(&answer, "link"));
    }
    http_client_answer_deinit(&answer);
    return ok;
}

static bool ask_commit(struct work *work, struct err *err)
{
    const char *revision = hub_name_encode(work->arena, str_of(work->reader.revision), false), *none;
    struct str text;

    if (!get_text(work, arena_printf(work->arena, "/api/models/%s/revision/%s", work->reader.repo, revision), &text,
                  &none, err))
        return false;
    work->commit = hub_listing_commit(work->arena, text, err);
    return work->commit || err_prefix(err, "%s at %s", work->reader.repo, work->reader.home.endpoint);
}

/* The token goes with every page: one that is elsewhere is refused. */
static bool is_of_the_hub(const struct work *work, const char *next)
{
    struct outgoing_url url;

    return outgoing_url_parse(work->arena, str_of(next), &url, NULL) && outgoing_is_same(&url, &work->reader.home.url);
}

static bool ask_files(struct work *work, struct err *err)
{
    const char *next = arena_printf(work->arena, "/api/models/%s/tree/%s?recursive=true&expand=false",
                                    work->reader.repo, work->commit);
    struct str text;

    for (int pages = 0; next; pages++) {
        if (pages == PAGES_MAX)
            return err_set(err, ERR_LIMIT, "%s: its list of files has more than %d pages", work->reader.repo,
                           PAGES_MAX);
        if (!get_text(work, next, &text, &next, err))
            return false;
        if (!hub_listing_add(work->arena, text, &work->listing, err))
            return err_prefix(err, "%s at %s", work->reader.repo, work->reader.home.endpoint);
        if (next && !is_of_the_hub(work, next))
            return err_set(err, ERR_INPUT, "%s: the next page of its list of files is elsewhere", work->reader.repo);
    }
    return true;
}

/* --- fetching --- */

static bool fetch(struct work *work, const struct hub_file *const *files, size_t count, bool is_told, struct err *err)
{
    const struct hub_download *download = work->download;
    struct hub_transfers transfers = {.reader = &work->reader,
                                      .cache = download->cache,
                                      .commit = work->commit,
                                      .files = files,
                                      .count = (int)count,
                                      .threads = download->transfers ? download->transfers : TRANSFERS,
                                      .retry_ms = download->retry_ms,
                                      .gives_room_back = download->gives_room_back,
                                      .on_progress = is_told ? download->on_progress : NULL,
                                      .context = download->context};

    return hub_transfers_run(&transfers, err);
}

/* The shards have their names from the index, so that comes first. */
static bool choose(struct work *work, struct err *err)
{
    const struct hub_file *index;
    struct str text;

    if (!hub_choice_make(work->arena, &work->listing, &work->choice, err))
        return err_prefix(err, "%s", work->reader.repo);
    index = work->choice.index;
    if (!index)
        return true;
    return fetch(work, &index, 1, false, err) &&
           file_read(work->arena, hub_cache_blob(work->arena, work->download->cache, work->reader.repo, index->blob),
                     HUB_JSON_BYTES_MAX, &text, err) &&
           (hub_choice_add_shards(work->arena, &work->listing, text, &work->choice, err) ||
            err_prefix(err, "%s", work->reader.repo));
}

static bool check_room(struct work *work, uint64_t missing, struct err *err)
{
    uint64_t room;

    if (!disk_free(work->download->cache, &room, err))
        return false;
    if (missing == 0 || (room > SPARE_BYTES && missing <= room - SPARE_BYTES))
        return true;
    return err_set(err, ERR_NO_SPACE, "%s takes %llu MiB more on the disk of %s, which has %llu MiB", work->reader.repo,
                   (unsigned long long)(missing >> 20), work->download->cache, (unsigned long long)(room >> 20));
}

static bool fetch_all(struct work *work, struct err *err)
{
    const struct hub_download *download = work->download;
    struct hub_choice *choice = &work->choice;
    uint64_t bytes = 0, present = 0;

    for (size_t i = 0; i < choice->count; i++) {
        if (bytes + choice->at[i]->bytes < bytes)
            return err_set(err, ERR_LIMIT, "%s: its sizes are impossible", work->reader.repo);
        bytes += choice->at[i]->bytes;
        present += hub_file_present(work->arena, download->cache, work->reader.repo, choice->at[i]);
    }
    if (!check_room(work, bytes - present, err))
        return false;
    if (download->on_plan && !download->on_plan(download->context, work->commit, (int)choice->count, bytes, present))
        return err_set(err, ERR_CANCELLED, "the download of %s was stopped", work->reader.repo);
    return fetch(work, choice->at, choice->count, true, err);
}

static bool link_all(struct work *work, struct err *err)
{
    const char *cache = work->download->cache, *repo = work->reader.repo;

    for (size_t i = 0; i < work->choice.count; i++)
        if (!hub_cache_link(work->arena, cache, repo, work->commit, work->choice.at[i]->path, work->choice.at[i]->blob,
                            err))
            return false;
    return dir_sync(hub_cache_snapshot(work->arena, cache, repo, work->commit), err) &&
           hub_cache_set(work->arena, cache, repo, work->reader.revision, work->commit, err);
}

/* --- the whole --- */

/* What an adapter is for: a name that could be a repository's. */
static void read_base(struct arena *arena, struct hub_model *model)
{
    struct str text, base, revision;
    const struct json *config;

    if (!file_read(arena, path_join(arena, model->folder, "adapter_config.json"), ADAPTER_CONFIG_BYTES_MAX, &text,
                   NULL))
        return;
    config = json_parse(arena, text, NULL, NULL);
    base = json_string_or(json_get(config, "base_model_name_or_path"), STR_NONE);
    revision = json_string_or(json_get(config, "revision"), STR_NONE);
    if (!hub_name_is_repo(base))
        return;
    model->base = str_copy(arena, base);
    if (hub_name_is_revision(revision))
        model->base_revision = str_copy(arena, revision);
}

static bool describe(struct arena *arena, const char *folder, struct hub_model *model)
{
    *model = (struct hub_model){
        .folder = folder, .commit = path_name(folder), .is_adapter = !hub_cache_is_model(arena, folder)};
    if (model->is_adapter)
        read_base(arena, model);
    return true;
}

static bool find_offline(const struct hub_download *download, struct arena *arena, struct hub_model *model,
                         struct err *err)
{
    const char *folder = hub_cache_find(arena, download->cache, download->repo, download->revision);

    if (folder)
        return describe(arena, folder, model);
    return err_set(err, ERR_NOT_FOUND, "%s (%s) is not in %s, or not whole, and offline nothing is fetched",
                   download->repo, download->revision ? download->revision : "main", download->cache);
}

/* A commit never changes: with weights and tokenizer here there is nothing to ask for. */
static bool is_fixed_and_here(const struct hub_download *download, struct arena *arena)
{
    const char *folder;

    if (!download->revision || !hub_name_is_commit(str_of(download->revision)))
        return false;
    folder = hub_cache_find(arena, download->cache, download->repo, download->revision);
    return folder && (file_exists(path_join(arena, folder, "tokenizer.json")) || !hub_cache_is_model(arena, folder));
}

static bool check_names(const struct hub_download *download, struct err *err)
{
    if (!hub_name_is_repo(str_of(download->repo)))
        return err_set(err, ERR_INPUT, "'%.200s' is not the name of a repository: org/name", download->repo);
    if (download->revision && !hub_name_is_revision(str_of(download->revision)))
        return err_set(err, ERR_INPUT, "'%.200s' is not the name of a revision: a branch, a tag or a commit",
                       download->revision);
    return true;
}

bool hub_download(const struct hub_download *download, struct arena *arena, struct hub_model *model, struct err *err)
{
    struct work work = {.download = download, .arena = arena};

    if (!check_names(download, err))
        return false;
    if (download->is_offline || is_fixed_and_here(download, arena))
        return find_offline(download, arena, model, err);
    work.reader = (struct hub_reader){.arena = arena,
                                      .policy = download->policy,
                                      .token = download->token,
                                      .repo = download->repo,
                                      .revision = download->revision ? download->revision : "main"};
    return hub_reader_open(&work.reader, download->endpoint ? download->endpoint : ENDPOINT, err) &&
           dir_make(download->cache, err) && ask_commit(&work, err) && ask_files(&work, err) && choose(&work, err) &&
           fetch_all(&work, err) && link_all(&work, err) &&
           describe(arena, hub_cache_snapshot(arena, download->cache, download->repo, work.commit), model);
}
