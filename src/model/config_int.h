/* model/config_int.h - how the files of the config's reader share config.json. */
#pragma once

#include "model/config.h"
#include "base/json.h"

/* An object of the file over the defaults that its reader in transformers has: a key that is absent is looked up
 * there, one that is null is null. */
struct keys {
    const struct json *given, *defaults; /* either may be NULL */
};
const struct json *key_get(const struct keys *keys, const char *key);
bool key_is_true(const struct keys *keys, const char *key);

/* A whole number in [min, max]. Absent or null: the fallback, or with a fallback below 0 an error. */
bool key_size(const struct keys *keys, const char *key, int32_t fallback, int32_t min, int32_t max, int32_t *value,
              struct err *err);
/* A number in (0, max]. Absent or null: the fallback, or with 0 an error. */
bool key_positive(const struct keys *keys, const char *key, double fallback, double max, double *value,
                  struct err *err);

/* config_block.c: the row of the table for a model type. */
struct architecture;
const struct architecture *architecture_find(struct str model_type);
const char *architecture_defaults(const struct architecture *architecture);
/* Part of the file that describes the text model: NULL, the file itself. */
const char *architecture_text_key(const struct architecture *architecture);
/* Everything but sizes, types and ids, which config->hidden … hold already. */
bool read_block(struct arena *arena, const struct architecture *architecture, const struct keys *keys,
                struct model_config *config, struct err *err);
/* config_rope.c: config->rope from either dialect. */
struct rope_dialect {
    double theta_full, theta_sliding; /* when the file has none; sliding 0: one kind of positions for all layers */
    const char *sliding_key;          /* where v4 keeps the sliding layers' theta; NULL: rope_theta */
    bool is_partial;                  /* partial_rotary_factor is read */
    bool has_old_longrope;            /* "su" and "yarn" mean longrope */
};
bool read_ropes(struct arena *arena, const struct rope_dialect *dialect, const struct keys *keys,
                struct model_config *config, struct err *err);
