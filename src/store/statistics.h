/* store/statistics.h - the store as a whole, over all tenants: for whoever runs the server. */
#pragma once

#include "store/store.h"
#include "store/usage.h"

struct store_statistics {
    int64_t jobs[JOB_STATE_COUNT], attempts, events, uploads_pending;
    int64_t oldest_wait_ms; /* of jobs that are queued and want to run; 0: none */
    struct store_usage_counts usage;
};
bool store_statistics(struct store *store, struct store_statistics *statistics, struct err *err);

/* What still needs the models below folders of whose paths `part` is a part: jobs that have not ended, and adapters,
 * which chats and further jobs put on their base. */
struct store_dependents {
    int64_t jobs, adapters;
};
bool store_dependents(struct store *store, const char *part, struct store_dependents *dependents, struct err *err);

/* Writes of this process since it opened the store. buckets[i] took more than 2^(i-1) and at most 2^i ms; the last
 * takes all that is longer. */
enum { STORE_COMMIT_BUCKETS = 16 };
struct store_commits {
    uint64_t buckets[STORE_COMMIT_BUCKETS];
    double seconds;
};
const struct store_commits *store_commits(const struct store *store);
