#include "api/api_int.h"
#include "base/log.h"
#include "os/background.h"

#include <stdlib.h>

enum { LOOK_EVERY_MS = 1000 };

struct upkeep {
    const struct api_config *config;
    struct http_timer *timer;
    struct background_task task;
    bool is_under_way;
    struct err err;
};

static void run(void *context)
{
    struct upkeep *upkeep = context;

    store_checkpoint(upkeep->config->store, &upkeep->err);
}

static void done(void *context)
{
    struct upkeep *upkeep = context;

    upkeep->is_under_way = false;
    if (upkeep->err.code)
        log_line("attune serve: %s", upkeep->err.text);
}

static void on_due(void *context)
{
    struct upkeep *upkeep = context;

    http_timer_set(upkeep->timer, http_loop_now_ms(upkeep->config->loop) + LOOK_EVERY_MS);
    if (upkeep->is_under_way || !store_wants_checkpoint(upkeep->config->store))
        return;
    upkeep->is_under_way = true;
    upkeep->err = (struct err){0};
    background_add(upkeep->config->background, &upkeep->task);
}

struct upkeep *upkeep_new(const struct api_config *config)
{
    struct upkeep *upkeep = mem_alloc_zero(1, sizeof *upkeep);

    upkeep->config = config;
    upkeep->task = (struct background_task){run, done, upkeep, NULL};
    upkeep->timer = http_loop_add_timer(config->loop, http_loop_now_ms(config->loop), on_due, upkeep);
    return upkeep;
}

void upkeep_free(struct upkeep *upkeep)
{
    if (!upkeep)
        return;
    http_timer_remove(upkeep->timer);
    free(upkeep);
}
