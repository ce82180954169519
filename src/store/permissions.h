/* store/permissions.h - models that more than one project uses.
 *
 * A model belongs to the project whose job made it. A permission lets one more project of the same organisation use it:
 * then store_model_get and store_model_list give it to that project, too, until the permission is deleted. Deleting the
 * model stays its owner's, and takes its permissions along. */
#pragma once

#include "store/store.h"

#define STORE_PERMISSION_COLUMNS(X)                                                                                    \
    X(TEXT, id) /* cp_<32 hex> */                                                                                      \
    X(TEXT, model_name)                                                                                                \
    X(TEXT, granted_to) /* id of the project */                                                                        \
    X(INTEGER, created_ms)

struct store_permission {
    STORE_PERMISSION_COLUMNS(STORE_FIELD)
};
struct store_permission_list {
    struct store_permission *at;
    size_t count;
    bool has_more;
};

/* The project of tenant's organisation that the model belongs to, into owner. ERR_NOT_FOUND when none has it. */
bool store_model_owner(struct store *store, const struct tenant *tenant, const char *name, struct tenant *owner,
                       struct err *err);
/* One permission for each project, in their order, all or none; one that is there already stays as it is. owner is the
 * model's. ERR_NOT_FOUND names a project that the organisation does not have. */
bool store_permission_grant(struct store *store, const struct tenant *owner, const char *model,
                            const char *const *projects, size_t count, struct arena *arena,
                            struct store_permission_list *list, struct err *err);
/* project NULL: of all projects. */
bool store_permission_list(struct store *store, const struct tenant *owner, const char *model, const char *project,
                           const struct store_page *page, struct arena *arena, struct store_permission_list *list,
                           struct err *err);
bool store_permission_delete(struct store *store, const struct tenant *owner, const char *model, const char *id,
                             struct err *err);
