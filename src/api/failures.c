/* Wrong API keys of each address: five at once, then ten a minute. A key that is right passes always, so nobody behind
 * the same proxy is locked out; what the limit spares is the work and the noise of guessing. The table has a fixed size
 * and addresses that fall into one place share it: the worst that can happen is a 429 where a 401 was due. */
#include "api/api_int.h"

#include "os/entropy.h"

#include <stdlib.h>

enum { PLACES = 1024, AT_ONCE = 5 };

struct failures {
    int64_t forgiven_ms[PLACES]; /* when all that was noted here will be forgiven: `each_ms` for each failure */
    int64_t each_ms;
    uint64_t seed;
};

struct failures *failures_new(int64_t per_minute)
{
    struct failures *failures = mem_alloc_zero(1, sizeof *failures);

    failures->each_ms = 60000 / per_minute;
    entropy_fill(&failures->seed, sizeof failures->seed);
    return failures;
}

void failures_free(struct failures *failures)
{
    free(failures);
}

/* The finishing steps of MurmurHash3: with the seed nobody can choose addresses that share a place with a given one. */
static int64_t *place_of(struct failures *failures, uint64_t source)
{
    uint64_t hash = source ^ failures->seed;

    hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdu;
    hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53u;
    return &failures->forgiven_ms[(hash ^ hash >> 33) % PLACES];
}

bool failures_note(struct failures *failures, uint64_t source, int64_t now_ms, int64_t *wait_s)
{
    int64_t *forgiven_ms = place_of(failures, source);
    int64_t begin_ms = *forgiven_ms > now_ms ? *forgiven_ms : now_ms;
    int64_t wait_ms = begin_ms - now_ms - (AT_ONCE - 1) * failures->each_ms;

    if (wait_ms > 0) {
        *wait_s = (wait_ms + 999) / 1000;
        return false;
    }
    *forgiven_ms = begin_ms + failures->each_ms;
    return true;
}
