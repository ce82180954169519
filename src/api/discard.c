/* Blobs whose rows are gone: removing a large file takes a while, so it happens in the background. What a crash leaves
 * is collected at the next start. */
#include "api/api_int.h"
#include "base/log.h"
#include "os/background.h"

#include <stdlib.h>

struct discard {
    struct background_task task;
    struct arena arena;
    struct blobs *blobs;
    const char **ids;
    size_t count;
    struct err err;
};

static void run(void *context)
{
    struct discard *discard = context;

    for (size_t i = 0; i < discard->count; i++)
        blob_remove(discard->blobs, discard->ids[i], &discard->err);
}

static void done(void *context)
{
    struct discard *discard = context;

    if (discard->err.code)
        log_line("attune serve: a file that was deleted stays until the next start: %s", discard->err.text);
    arena_deinit(&discard->arena);
    free(discard);
}

void discard_blobs(const struct api_config *config, const char **ids, size_t count)
{
    struct discard *discard = mem_alloc_zero(1, sizeof *discard);

    discard->task = (struct background_task){run, done, discard, NULL};
    discard->blobs = config->blobs;
    discard->count = count;
    discard->ids = arena_new_array(&discard->arena, const char *, count + 1);
    for (size_t i = 0; i < count; i++)
        discard->ids[i] = arena_printf(&discard->arena, "%s", ids[i]);
    background_add(config->background, &discard->task);
}
