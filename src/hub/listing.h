/* hub/listing.h - what a Hub says about a repository: its commit, its files, which of them hold the weights.
 *
 * All of it is outside bytes: names are held to hub/name.h, and a file whose name is not one of those is as good as not
 * there. Lists are bounded. Texts live in the arena. */
#pragma once

#include "base/err.h"
#include "base/str.h"

enum { HUB_FILES_MAX = 20000, HUB_SHARDS_MAX = 4000, HUB_JSON_BYTES_MAX = 64 << 20 };

struct hub_file {
    const char *path;
    const char *blob; /* sha256 of a large file, what git calls a small one: the name of its blob */
    uint64_t bytes;
    bool is_large;
};

struct hub_listing {
    struct hub_file *at;
    size_t count, cap;
};

/* The commit in the answer of /api/models/NAME/revision/REVISION; NULL with ERR_INPUT. */
const char *hub_listing_commit(struct arena *arena, struct str json, struct err *err);
/* Adds a page of /api/models/NAME/tree/COMMIT. */
bool hub_listing_add(struct arena *arena, struct str json, struct hub_listing *listing, struct err *err);
/* The URL of the next page, from the header Link; NULL: this was the last one. */
const char *hub_listing_next(struct arena *arena, struct str link);
const struct hub_file *hub_listing_find(const struct hub_listing *listing, const char *path);

/* What is needed of a repository: configuration, tokenizer, template, and weights in safetensors; of an adapter its own
 * two. Nothing else is fetched, neither other formats of the weights nor code. */
struct hub_choice {
    const struct hub_file **at;
    size_t count, cap;
    bool is_adapter;
    const struct hub_file *index; /* NULL: all of the weights are chosen; else it names the rest */
};
/* ERR_NOT_FOUND when there is no model to train on; says what there is instead. */
bool hub_choice_make(struct arena *arena, const struct hub_listing *listing, struct hub_choice *choice,
                     struct err *err);
/* The shards that the index names. */
bool hub_choice_add_shards(struct arena *arena, const struct hub_listing *listing, struct str index,
                           struct hub_choice *choice, struct err *err);
