#include "cli/cached.h"

#include "hub/cache.h"
#include "hub/name.h"
#include "os/file.h"
#include "store/statistics.h"

#include <stdio.h>
#include <string.h>

/* Whose models lie in a cache: "" for everybody's. */
struct listing {
    struct arena *arena;
    struct store *store; /* NULL: no data folder was named */
    const char *project;
    struct err *err;
    bool ok;
};

static const char *find_cache(const struct cached_options *o, struct arena *arena, struct err *err)
{
    const char *cache = o->cache ? o->cache : hub_cache_default(arena);

    if (o->project && !o->data)
        err_set(err, ERR_INPUT, "--project needs --data, in which the caches of projects lie");
    else if (o->project && (strchr(o->project, '/') || o->project[0] == '.'))
        err_set(err, ERR_INPUT, "--project takes the id of a project");
    else if (o->project)
        return hub_cache_of_project(arena, o->data, o->project);
    else if (cache || o->data)
        return cache ? cache : path_join(arena, o->data, "hub");
    else
        err_set(err, ERR_INPUT, "no place for the cache: set HF_HUB_CACHE, or give --cache or --data");
    return NULL;
}

/* As paths of the database hold it, wherever the cache is. */
static bool find_dependents(struct store *store, struct arena *arena, const char *repo,
                            struct store_dependents *dependents, struct err *err)
{
    *dependents = (struct store_dependents){0};
    return !store ||
           store_dependents(store, arena_printf(arena, "/%s/", hub_name_folder(arena, repo)), dependents, err);
}

static bool print_repo(void *context, const char *repo, const char *folder)
{
    struct listing *listing = context;
    struct store_dependents dependents;
    uint64_t bytes;

    listing->ok = dir_bytes(folder, &bytes, listing->err) &&
                  find_dependents(listing->store, listing->arena, repo, &dependents, listing->err);
    if (!listing->ok)
        return false;
    printf("%-48s %10.1f MiB", repo, (double)bytes / (1 << 20));
    if (listing->store)
        printf(" %6lld %8lld", (long long)dependents.jobs, (long long)dependents.adapters);
    printf("%s%s\n", *listing->project ? "  " : "", listing->project);
    return true;
}

static bool list_cache(struct listing *listing, const char *cache, const char *project)
{
    listing->project = project;
    hub_cache_repos(listing->arena, cache, print_repo, listing);
    return listing->ok;
}

static bool list_projects(struct listing *listing, const char *data)
{
    const char *root = path_join(listing->arena, data, HUB_CACHES_OF_PROJECTS);
    char **names;
    size_t count = 0;

    if (!dir_exists(root))
        return true;
    if (!dir_list(listing->arena, root, &names, &count, listing->err))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!list_cache(listing, path_join(listing->arena, root, names[i]), names[i]))
            return false;
    return true;
}

bool cached_list(const struct cached_options *o, struct err *err)
{
    struct arena arena = {0};
    struct listing listing = {.arena = &arena, .err = err, .ok = true};
    const char *cache = find_cache(o, &arena, err);
    bool ok = cache && (!o->data || (listing.store = store_open_beside(o->data, err)));

    if (ok)
        printf("%-48s %14s%s\n", "repository", "on disk", o->data ? "   jobs adapters  project" : "");
    ok = ok && list_cache(&listing, cache, o->project ? o->project : "") &&
         (!o->data || o->project || list_projects(&listing, o->data));
    store_close(listing.store);
    arena_deinit(&arena);
    return ok;
}

static bool check_dependents(const struct cached_options *o, struct arena *arena, const char *repo, struct err *err)
{
    struct store_dependents dependents = {0};
    struct store *store;
    bool ok;

    if (o->is_forced)
        return true;
    if (!o->data)
        return err_set(err, ERR_INPUT, "evict needs --data DIR, to see who still needs the model, or --force");
    store = store_open_beside(o->data, err);
    ok = store && find_dependents(store, arena, repo, &dependents, err);
    store_close(store);
    if (!ok || dependents.jobs + dependents.adapters == 0)
        return ok;
    return err_set(err, ERR_CONFLICT,
                   "%lld jobs at work or waiting and %lld adapters need %s; with --force it goes all the same, until a "
                   "job that names it fetches it again",
                   (long long)dependents.jobs, (long long)dependents.adapters, repo);
}

bool cached_evict(const struct cached_options *o, const char *repo, struct err *err)
{
    struct arena arena = {0};
    const char *cache;
    bool ok;

    if (!hub_name_is_repo(str_of(repo)))
        return err_set(err, ERR_INPUT, "'%s' is not the name of a repository: org/name", repo);
    cache = find_cache(o, &arena, err);
    ok = cache && check_dependents(o, &arena, repo, err) && hub_cache_evict(&arena, cache, repo, err);
    arena_deinit(&arena);
    return ok;
}
