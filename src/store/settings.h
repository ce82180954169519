/* store/settings.h - what an operator set for the whole server and the next one shall find: texts by name. */
#pragma once

#include "store/store.h"

/* *value is NULL when it was never set. */
bool store_setting_get(struct store *store, const char *name, struct arena *arena, const char **value, struct err *err);
/* value NULL: as if it was never set. */
bool store_setting_set(struct store *store, const char *name, const char *value, struct err *err);
