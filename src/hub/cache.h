/* hub/cache.h - models on the disk, as the Hub's own client keeps them.
 *
 *     <cache>/models--org--name/refs/main                    the commit that main was when it was last asked for
 *     <cache>/models--org--name/snapshots/<commit>/<path>    a relative link to …
 *     <cache>/models--org--name/blobs/<sha256, or what git calls it>
 *
 * A blob has its name when it is whole and checked; until then it is <blob>.incomplete, under the lock
 * <cache>/.locks/models--org--name/<blob>.lock, which the client takes too. Links come when all blobs are there, the
 * revision last: what a revision leads to is whole. Another program's snapshots may not be, so they are looked at. */
#pragma once

#include "base/err.h"
#include "base/str.h"

/* Where the environment says that the cache is: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME, HOME.
 * NULL: nowhere. */
const char *hub_cache_default(struct arena *arena);

/* Where models lie that a project's own token has opened, a cache for each: nobody else finds them there. */
#define HUB_CACHES_OF_PROJECTS "hub-of-projects"
char *hub_cache_of_project(struct arena *arena, const char *data_dir, const char *project_id);

/* The commit that a revision is here; NULL: not known. */
const char *hub_cache_commit(struct arena *arena, const char *cache, const char *repo, const char *revision);
/* The folder of a commit, whether it is there or not. */
char *hub_cache_snapshot(struct arena *arena, const char *cache, const char *repo, const char *commit);
char *hub_cache_blob(struct arena *arena, const char *cache, const char *repo, const char *blob);
char *hub_cache_lock(struct arena *arena, const char *cache, const char *repo, const char *blob);

/* A snapshot with all of a model (config.json and its safetensors, every one that the index names) or all of an adapter
 * (adapter_config.json, adapter_model.safetensors). */
bool hub_cache_is_model(struct arena *arena, const char *folder);
bool hub_cache_is_adapter(struct arena *arena, const char *folder);

/* The folder of a model or adapter; NULL: not here, or not whole. revision NULL: main, and where that is
 * not whole, the last snapshot that is. */
const char *hub_cache_find(struct arena *arena, const char *cache, const char *repo, const char *revision);
/* Repositories of models in the cache, whole or not, and their folders. False from on_repo: stop. */
void hub_cache_repos(struct arena *arena, const char *cache,
                     bool (*on_repo)(void *context, const char *repo, const char *folder), void *context);
/* A repository goes, with what of it is on its way. Whoever has its files open or mapped keeps them. ERR_NOT_FOUND. */
bool hub_cache_evict(struct arena *arena, const char *cache, const char *repo, struct err *err);

/* Models in the cache, with the folders of their snapshots. False from on_model: stop. */
void hub_cache_list(struct arena *arena, const char *cache,
                    bool (*on_model)(void *context, const char *repo, const char *folder), void *context);

/* The path of a snapshot leads to the blob from now on. */
bool hub_cache_link(struct arena *arena, const char *cache, const char *repo, const char *commit, const char *path,
                    const char *blob, struct err *err);
bool hub_cache_set(struct arena *arena, const char *cache, const char *repo, const char *revision, const char *commit,
                   struct err *err);
