/* store/projects.h - who shares a server: organisations and their projects.
 *
 * Files, jobs, models and keys belong to one project. Limits bound what a project may hold; a write that would pass one
 * is refused with ERR_QUOTA in the transaction that makes it, so that any number of writers at once stay within it. */
#pragma once

#include "store/store.h"

/* 0: no limit. */
#define STORE_LIMITS(X)                                                                                                \
    X(storage_bytes) /* of files and of parts of uploads */                                                            \
    X(jobs)          /* that are not final */                                                                          \
    X(running_jobs)                                                                                                    \
    X(requests_per_minute) /* held by the API, not by the store */

struct store_limits {
#define STORE_LIMIT_FIELD(name) int64_t name;
    STORE_LIMITS(STORE_LIMIT_FIELD)
#undef STORE_LIMIT_FIELD
};

struct store_project {
    const char *organization_id, *organization_name, *project_id, *name;
    const char *profile; /* "nebius" or "openai": which order lists of events and checkpoints have by default */
    int64_t created_ms;
    struct store_limits limits;
};
struct store_project_list {
    struct store_project *at;
    size_t count;
};

void store_id_project(char id[STORE_ID_BYTES]); /* proj-<32 hex> */

/* ERR_NOT_FOUND when the tenant's project does not exist. */
bool store_project_get(struct store *store, const struct tenant *tenant, struct arena *arena,
                       struct store_project *project, struct err *err);
/* Creates the project with its limits (NULL: none), and its organisation when that is absent. ERR_CONFLICT when it
 * exists. */
bool store_project_create(struct store *store, const struct tenant *tenant, const char *organization_name,
                          const char *name, const char *profile, const struct store_limits *limits, struct err *err);
/* Writes name, profile and limits. */
bool store_project_update(struct store *store, const struct tenant *tenant, const struct store_project *project,
                          struct err *err);
/* All of the tenant's organisation, oldest first. */
bool store_project_list(struct store *store, const struct tenant *tenant, struct arena *arena,
                        struct store_project_list *list, struct err *err);

struct store_organization {
    const char *id, *name;
    int64_t created_ms, projects;
};
struct store_organization_list {
    struct store_organization *at;
    size_t count;
};
void store_id_organization(char id[STORE_ID_BYTES]); /* org-<32 hex> */
/* All there are, oldest first: for whoever runs the server. They are made with their first project. */
bool store_organization_list(struct store *store, struct arena *arena, struct store_organization_list *list,
                             struct err *err);

struct store_usage {
    int64_t storage_bytes, jobs, running_jobs;
};
bool store_project_usage(struct store *store, const struct tenant *tenant, struct store_usage *usage, struct err *err);
