#include "store/permissions.h"

#include "os/clock.h"
#include "os/entropy.h"
#include "store/store_int.h"

#include <string.h>

#define PERMISSION_COLUMN(type, name) COLUMN_ENTRY(store_permission, type, name)
static const struct column columns[] = {STORE_PERMISSION_COLUMNS(PERMISSION_COLUMN)};
static const struct row_type permission_row = ROW_TYPE(columns, store_permission);

bool store_model_owner(struct store *store, const struct tenant *tenant, const char *name, struct tenant *owner,
                       struct err *err)
{
    struct query query = query_open(store, "SELECT project_id FROM models WHERE organization_id=? AND name=?");
    struct arena arena = {0};
    bool found;

    *owner = *tenant;
    query_text(&query, tenant->organization_id);
    query_text(&query, name);
    found = query_step(&query);
    if (found)
        strncpy(owner->project_id, query_get_text(&query, 0, &arena), sizeof owner->project_id - 1);
    arena_deinit(&arena);
    if (!query_close(&query, err))
        return false;
    return found || err_set(err, ERR_NOT_FOUND, "No such model: '%s'", name);
}

static bool insert(struct store *store, const struct tenant *owner, const char *model, const char *project,
                   struct err *err)
{
    struct query query =
        query_open(store, "INSERT INTO checkpoint_permissions(organization_id, project_id, id, model_name, granted_to, "
                          "created_ms) SELECT ?1, ?2, ?3, ?4, id, ?6 FROM projects WHERE organization_id=?1 AND id=?5 "
                          "ON CONFLICT(model_name, granted_to) DO NOTHING");
    char id[STORE_ID_BYTES] = "cp_";

    entropy_hex(id + 3, 16);
    query_tenant(&query, owner);
    query_text(&query, id);
    query_text(&query, model);
    query_text(&query, project);
    query_integer(&query, clock_unix_ms());
    return query_run(&query, NULL, err);
}

/* Without a row the project is not there: nothing was inserted for it. */
static bool get(struct store *store, const char *model, const char *project, struct arena *arena,
                struct store_permission *permission, struct err *err)
{
    struct query query =
        query_open(store, "SELECT number" STORE_PERMISSION_COLUMNS(
                              SQL_NAME) " FROM checkpoint_permissions WHERE model_name=? AND granted_to=?");

    query_text(&query, model);
    query_text(&query, project);
    return row_get_one(&query, &permission_row, arena, permission, "project", project, err);
}

bool store_permission_grant(struct store *store, const struct tenant *owner, const char *model,
                            const char *const *projects, size_t count, struct arena *arena,
                            struct store_permission_list *list, struct err *err)
{
    bool ok = true;

    *list =
        (struct store_permission_list){.at = arena_new_array(arena, struct store_permission, count), .count = count};
    if (!transaction_begin(store, err))
        return false;
    for (size_t i = 0; ok && i < count; i++)
        ok = insert(store, owner, model, projects[i], err) && get(store, model, projects[i], arena, &list->at[i], err);
    return transaction_end(store, ok, err);
}

bool store_permission_list(struct store *store, const struct tenant *owner, const char *model, const char *project,
                           const struct store_page *page, struct arena *arena, struct store_permission_list *list,
                           struct err *err)
{
    static const struct list_sql all =
        LIST_OF(STORE_PERMISSION_COLUMNS, "checkpoint_permissions", "id", "model_name=?3", "permission");
    static const struct list_sql of_project = LIST_OF(STORE_PERMISSION_COLUMNS, "checkpoint_permissions", "id",
                                                      "model_name || ' ' || granted_to = ?3", "permission");
    const char *scope = project ? arena_printf(arena, "%s %s", model, project) : model;

    return row_list(store, owner, scope, page, project ? &of_project : &all, &permission_row, arena, (void **)&list->at,
                    &list->count, &list->has_more, err);
}

bool store_permission_delete(struct store *store, const struct tenant *owner, const char *model, const char *id,
                             struct err *err)
{
    struct query query =
        query_open(store, "DELETE FROM checkpoint_permissions WHERE organization_id=? AND project_id=? "
                          "AND model_name=? AND id=?");
    int changed;

    query_tenant(&query, owner);
    query_text(&query, model);
    query_text(&query, id);
    if (!query_run(&query, &changed, err))
        return false;
    return changed == 1 || err_set(err, ERR_NOT_FOUND, "No such permission: '%s'", id);
}
