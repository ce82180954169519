/* Lines of events.jsonl and exit.json: what a trainer that went wrong may write. */
#include "job/event.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* No part of it leads out of the folder that it is joined to. */
static bool stays_inside(const char *path)
{
    for (size_t len; *path; path += len + (path[len] == '/')) {
        len = strcspn(path, "/");
        if (len == 0 || (len == 1 && path[0] == '.') || (len == 2 && memcmp(path, "..", 2) == 0))
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct event_context context = {.output_name = "ft:b:o:s:1", .total_steps = 9, .attempt = 1, .now_ms = 1};
    struct arena arena = {0};
    struct str text = {(const char *)data, size};
    struct job_event event;
    struct err err = {0};

    if (event_parse(&arena, text, &context, &event, &err) && !event.is_end) {
        ASSERT(event.row.kind && event.row.code && event.row.level && event.row.message && event.row.type);
        ASSERT(event.row.step >= 0 && event.row.created_ms > 0);
        ASSERT(!event.is_checkpoint || (event.path[0] && stays_inside(event.path) && event.file_count > 0));
    } else {
        ASSERT(event.is_end || err.code != ERR_OK);
    }
    exit_parse(&arena, text);
    arena_deinit(&arena);
    return 0;
}
