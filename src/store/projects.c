#include "store/projects.h"

#include "os/clock.h"
#include "os/entropy.h"
#include "store/store_int.h"

#include <string.h>

#define LIMIT_NAME(name)  ", p." #name "_max"
#define SELECT_PROJECT                                                                                                 \
    "SELECT o.id, o.name, p.id, p.name, p.profile, p.created_ms" STORE_LIMITS(LIMIT_NAME) " FROM projects p "          \
    "JOIN organizations o ON o.id = p.organization_id "

void store_id_project(char id[STORE_ID_BYTES])
{
    memcpy(id, "proj-", 5);
    entropy_hex(id + 5, 16);
}

static bool insert_organization(struct store *store, const struct tenant *tenant, const char *name, struct err *err)
{
    struct query query = query_open(store, "INSERT INTO organizations(id, name, created_ms) VALUES (?,?,?) "
                                           "ON CONFLICT DO NOTHING");

    query_text(&query, tenant->organization_id);
    query_text(&query, name);
    query_integer(&query, clock_unix_ms());
    return query_run(&query, NULL, err);
}

static bool insert_project(struct store *store, const struct tenant *tenant, const char *name, const char *profile,
                           struct err *err)
{
    struct query query = query_open(store, "INSERT INTO projects(organization_id, id, name, profile, created_ms) "
                                           "VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING");
    int changed;

    query_tenant(&query, tenant);
    query_text(&query, name);
    query_text(&query, profile);
    query_integer(&query, clock_unix_ms());
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_CONFLICT, "The project '%s' exists already", tenant->project_id);
}

bool store_project_create(struct store *store, const struct tenant *tenant, const char *organization_name,
                          const char *name, const char *profile, const struct store_limits *limits, struct err *err)
{
    struct store_project project = {.name = name, .profile = profile};

    if (limits)
        project.limits = *limits;
    if (!transaction_begin(store, err))
        return false;
    return transaction_end(store,
                           insert_organization(store, tenant, organization_name, err) &&
                               insert_project(store, tenant, name, profile, err) &&
                               store_project_update(store, tenant, &project, err),
                           err);
}

static void get_project(struct query *query, struct arena *arena, struct store_project *project)
{
    int column = 6;

    *project = (struct store_project){
        .organization_id = query_get_text(query, 0, arena),
        .organization_name = query_get_text(query, 1, arena),
        .project_id = query_get_text(query, 2, arena),
        .name = query_get_text(query, 3, arena),
        .profile = query_get_text(query, 4, arena),
        .created_ms = query_get_integer(query, 5),
    };
#define GET_LIMIT(name) project->limits.name = query_get_integer(query, column++);
    STORE_LIMITS(GET_LIMIT)
#undef GET_LIMIT
}

bool store_project_get(struct store *store, const struct tenant *tenant, struct arena *arena,
                       struct store_project *project, struct err *err)
{
    struct query query = query_open(store, SELECT_PROJECT "WHERE p.organization_id=? AND p.id=?");
    bool found;

    query_tenant(&query, tenant);
    found = query_step(&query);
    if (found)
        get_project(&query, arena, project);
    if (!query_close(&query, err))
        return false;
    return found || err_set(err, ERR_NOT_FOUND, "No such project: '%s'", tenant->project_id);
}

bool store_project_update(struct store *store, const struct tenant *tenant, const struct store_project *project,
                          struct err *err)
{
#define SET_LIMIT(name) ", " #name "_max=?"
    struct query query = query_open(
        store, "UPDATE projects SET name=?, profile=?" STORE_LIMITS(SET_LIMIT) " WHERE organization_id=? AND id=?");
    int changed;

    query_text(&query, project->name);
    query_text(&query, project->profile);
#define BIND_LIMIT(name) query_integer(&query, project->limits.name);
    STORE_LIMITS(BIND_LIMIT)
    query_tenant(&query, tenant);
    queue_places_changed(store);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_NOT_FOUND, "No such project: '%s'", tenant->project_id);
}

bool store_project_list(struct store *store, const struct tenant *tenant, struct arena *arena,
                        struct store_project_list *list, struct err *err)
{
    struct query query = query_open(store, SELECT_PROJECT "WHERE p.organization_id=? ORDER BY p.rowid");
    size_t cap = 0;

    *list = (struct store_project_list){0};
    query_text(&query, tenant->organization_id);
    while (query_step(&query)) {
        if (list->count == cap) {
            struct store_project *more = arena_new_array(arena, struct store_project, cap * 2 + 16);
            if (cap)
                memcpy(more, list->at, cap * sizeof *more);
            list->at = more;
            cap = cap * 2 + 16;
        }
        get_project(&query, arena, &list->at[list->count++]);
    }
    return query_close(&query, err);
}

void store_id_organization(char id[STORE_ID_BYTES])
{
    memcpy(id, "org-", 4);
    entropy_hex(id + 4, 16);
}

bool store_organization_list(struct store *store, struct arena *arena, struct store_organization_list *list,
                             struct err *err)
{
    struct query query = query_open(store, "SELECT o.id, o.name, o.created_ms, (SELECT COUNT(*) FROM projects p WHERE "
                                           "p.organization_id = o.id) FROM organizations o ORDER BY o.rowid");
    size_t cap = 0;

    *list = (struct store_organization_list){0};
    while (query_step(&query)) {
        if (list->count == cap) {
            struct store_organization *more = arena_new_array(arena, struct store_organization, cap * 2 + 16);
            if (cap)
                memcpy(more, list->at, cap * sizeof *more);
            list->at = more;
            cap = cap * 2 + 16;
        }
        list->at[list->count++] = (struct store_organization){
            query_get_text(&query, 0, arena), query_get_text(&query, 1, arena), query_get_integer(&query, 2),
            query_get_integer(&query, 3)};
    }
    return query_close(&query, err);
}

bool store_project_usage(struct store *store, const struct tenant *tenant, struct store_usage *usage, struct err *err)
{
    struct query query = query_open(
        store, "SELECT (SELECT COALESCE(SUM(bytes), 0) FROM files WHERE organization_id=?1 AND project_id=?2) + "
               "(SELECT COALESCE(SUM(bytes), 0) FROM upload_parts WHERE organization_id=?1 AND project_id=?2), "
               "(SELECT COUNT(*) FROM jobs WHERE organization_id=?1 AND project_id=?2 AND finished_ms = 0), "
               "(SELECT COUNT(*) FROM jobs WHERE organization_id=?1 AND project_id=?2 AND state IN ('starting', "
               "'running', 'cancelling'))");

    *usage = (struct store_usage){0};
    query_tenant(&query, tenant);
    if (query_step(&query))
        *usage = (struct store_usage){query_get_integer(&query, 0), query_get_integer(&query, 1),
                                      query_get_integer(&query, 2)};
    return query_close(&query, err);
}

bool quota_holds(struct store *store, const struct tenant *tenant, struct err *err)
{
    struct arena arena = {0};
    struct store_project project;
    struct store_usage usage;
    bool ok = store_project_get(store, tenant, &arena, &project, err);

    if (ok && (project.limits.storage_bytes || project.limits.jobs))
        ok = store_project_usage(store, tenant, &usage, err);
    if (ok && project.limits.storage_bytes && usage.storage_bytes > project.limits.storage_bytes)
        ok = err_set(err, ERR_QUOTA,
                     "This would bring the project's files to %lld bytes; it may have %lld. Delete files first.",
                     (long long)usage.storage_bytes, (long long)project.limits.storage_bytes);
    if (ok && project.limits.jobs && usage.jobs > project.limits.jobs)
        ok = err_set(err, ERR_QUOTA,
                     "The project has %lld unfinished jobs already, as many as it may have. Wait for one "
                     "to end or cancel one.",
                     (long long)project.limits.jobs);
    arena_deinit(&arena);
    return ok;
}
