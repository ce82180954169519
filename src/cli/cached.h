/* cli/cached.h - 'attune models cached' and 'attune models evict': what was fetched from a Hub, for whoever runs the
 * server. Works on the caches themselves, beside a running server or without one. */
#pragma once

#include "base/err.h"

struct cached_options {
    const char *cache;   /* NULL: the server's, as the environment says, else "hub" in the data folder */
    const char *data;    /* data folder: who still needs a model, and the caches of projects; NULL: none */
    const char *project; /* evict from the cache of this project */
    bool is_forced;
};

bool cached_list(const struct cached_options *options, struct err *err);
bool cached_evict(const struct cached_options *options, const char *repo, struct err *err);
