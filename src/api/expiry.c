#include "api/api_int.h"
#include "base/log.h"
#include "os/clock.h"
#include "store/audit.h"
#include "store/uploads.h"

#include <stdlib.h>

enum { SWEEP_EVERY_MS = 60000, AUDIT_DAYS = 365, AUDIT_ROWS_MAX = 1000000 };

struct expiry {
    const struct api_config *config;
    struct http_timer *timer;
};

/* Rows first: a crash before the blobs are gone leaves blobs without rows, which the next start collects. */
static bool sweep(const struct api_config *config, struct arena *arena, struct err *err)
{
    const int64_t audit_ms = (config->audit_days ? config->audit_days : AUDIT_DAYS) * (int64_t)86400000;
    const char **ids;
    size_t count;
    bool ok = store_expire(config->store, clock_unix_ms(), arena, &ids, &count, err);

    if (ok && count > 0)
        discard_blobs(config, ids, count);
    return ok && store_audit_expire(config->store, clock_unix_ms() - audit_ms, AUDIT_ROWS_MAX, err);
}

static void on_due(void *context)
{
    struct expiry *expiry = context;
    struct arena arena = {0};
    struct err err = {0};

    if (!sweep(expiry->config, &arena, &err))
        log_line("attune serve: cannot remove what has expired: %s", err.text);
    arena_deinit(&arena);
    http_timer_set(expiry->timer, http_loop_now_ms(expiry->config->loop) + SWEEP_EVERY_MS);
}

struct expiry *expiry_new(const struct api_config *config)
{
    struct expiry *expiry = mem_alloc_zero(1, sizeof *expiry);

    expiry->config = config;
    expiry->timer = http_loop_add_timer(config->loop, http_loop_now_ms(config->loop), on_due, expiry);
    return expiry;
}

void expiry_free(struct expiry *expiry)
{
    if (!expiry)
        return;
    http_timer_remove(expiry->timer);
    free(expiry);
}
