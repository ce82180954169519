/* Requests a minute of each project: a bucket that holds a minute's worth and fills evenly. In memory: a restart fills
 * every bucket, which harms nobody. */
#include "api/api_int.h"

#include <stdlib.h>
#include <string.h>

struct bucket {
    struct bucket *next;
    struct tenant tenant;
    double tokens;
    int64_t filled_ms;
};

struct rates {
    struct bucket *first;
};

struct rates *rates_new(void)
{
    return mem_alloc_zero(1, sizeof(struct rates));
}

void rates_free(struct rates *rates)
{
    if (!rates)
        return;
    for (struct bucket *bucket = rates->first, *next; bucket; bucket = next) {
        next = bucket->next;
        free(bucket);
    }
    free(rates);
}

static struct bucket *find_bucket(struct rates *rates, const struct tenant *tenant, int64_t limit, int64_t now_ms)
{
    struct bucket *bucket = rates->first;

    while (bucket && (strcmp(bucket->tenant.project_id, tenant->project_id) != 0 ||
                      strcmp(bucket->tenant.organization_id, tenant->organization_id) != 0))
        bucket = bucket->next;
    if (!bucket) {
        bucket = mem_alloc_zero(1, sizeof *bucket);
        *bucket = (struct bucket){rates->first, *tenant, (double)limit, now_ms};
        rates->first = bucket;
    }
    return bucket;
}

bool rates_take(struct rates *rates, const struct tenant *tenant, int64_t limit, int64_t now_ms, int64_t *wait_s)
{
    struct bucket *bucket = find_bucket(rates, tenant, limit, now_ms);
    double per_ms = (double)limit / 60000;

    bucket->tokens += (double)(now_ms - bucket->filled_ms) * per_ms;
    bucket->tokens = bucket->tokens > (double)limit ? (double)limit : bucket->tokens;
    bucket->filled_ms = now_ms;
    if (bucket->tokens >= 1) {
        bucket->tokens -= 1;
        return true;
    }
    *wait_s = (int64_t)((1 - bucket->tokens) / per_ms / 1000) + 1;
    return false;
}
