#include "store/settings.h"

#include "store/store_int.h"

bool store_setting_get(struct store *store, const char *name, struct arena *arena, const char **value, struct err *err)
{
    struct query query = query_open(store, "SELECT value FROM settings WHERE name=?");

    query_text(&query, name);
    *value = query_step(&query) ? query_get_text(&query, 0, arena) : NULL;
    return query_close(&query, err);
}

bool store_setting_set(struct store *store, const char *name, const char *value, struct err *err)
{
    struct query query = value ? query_open(store, "INSERT INTO settings(name, value) VALUES (?,?) "
                                                   "ON CONFLICT(name) DO UPDATE SET value = excluded.value")
                               : query_open(store, "DELETE FROM settings WHERE name=?");

    query_text(&query, name);
    if (value)
        query_text(&query, value);
    return query_run(&query, NULL, err);
}
