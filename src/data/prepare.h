/* data/prepare.h - a training file becomes a dataset in the shared cache.
 *
 * The file is read in blocks of a few MiB, its lines are encoded by all threads of the pool, and the results are
 * written in the file's order: memory does not grow with the file. The cache folder's name is a hash of everything
 * that decides the content (file, encoder, context length, policy, format), so jobs with the same input share it, and a
 * folder under its final name is complete. One that is being written is called <name>.tmp.<pid>; when that process has
 * died, whoever looks after it removes the folder.
 *
 * Lines that cannot be read are errors of the file: the first JSONL_ERRORS_MAX are reported with their line numbers
 * and nothing is written. Lines longer than context_length are left out (`drop`: up to a tenth of the lines, above that
 * the file is refused), refused (`error`) or cut (`truncate`). Lines in which nothing trains are left out and counted.
 */
#pragma once

#include "base/pool.h"
#include "data/dataset.h"
#include "data/encode.h"
#include "data/jsonl.h"

struct prepare_options {
    const struct encoder *encoder;
    uint32_t context_length;
    enum over_length policy;
    struct pool *pool;
    /* Called every few MiB; false gives up with ERR_CANCELLED. NULL: not called. */
    bool (*on_progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);
    void *context;
};

/* *folder (in the arena) is the dataset's folder below `cache`; it is there afterwards, made now or earlier. `name` is
 * what messages call the file. On ERR_INPUT the report (optional) holds the lines' errors; a dataset that was there
 * already leaves it empty. */
bool prepare_file(const char *path, const char *name, const char *cache, const struct prepare_options *options,
                  struct arena *arena, const char **folder, struct jsonl_report *report, struct err *err);
