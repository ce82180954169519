#include "store/statistics.h"

#include "os/clock.h"
#include "store/store_int.h"

static bool count_jobs(struct store *store, struct store_statistics *s, struct err *err)
{
    struct query query = query_open(store, "SELECT state, COUNT(*), SUM(attempt) FROM jobs GROUP BY state");
    struct arena arena = {0};

    while (query_step(&query)) {
        enum job_state state = job_state_of(str_of(query_get_text(&query, 0, &arena)));

        ASSERT(state < JOB_STATE_COUNT);
        s->jobs[state] = query_get_integer(&query, 1);
        s->attempts += query_get_integer(&query, 2);
    }
    arena_deinit(&arena);
    return query_close(&query, err);
}

static bool sum_usage(struct store *store, struct store_usage_counts *usage, struct err *err)
{
#define SUM_OF(name) ", COALESCE(SUM(" #name "), 0)"
    struct query query = query_open(store, "SELECT 0" STORE_USAGE_COUNTS(SUM_OF) " FROM usage_days");
    int column = 1;

    if (query_step(&query)) {
#define GET_SUM(name) usage->name = query_get_integer(&query, column++);
        STORE_USAGE_COUNTS(GET_SUM)
    }
    return query_close(&query, err);
}

bool store_statistics(struct store *store, struct store_statistics *s, struct err *err)
{
    struct query query;
    int64_t oldest_ms = 0;

    *s = (struct store_statistics){0};
    query = query_open(store, "SELECT (SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'job_events'), "
                              "(SELECT COUNT(*) FROM uploads WHERE status = 'pending'), "
                              "(SELECT MIN(created_ms) FROM jobs WHERE state = 'queued' AND wanted = 'run')");
    if (query_step(&query)) {
        s->events = query_get_integer(&query, 0);
        s->uploads_pending = query_get_integer(&query, 1);
        oldest_ms = query_get_integer(&query, 2);
    }
    if (oldest_ms && oldest_ms < clock_unix_ms())
        s->oldest_wait_ms = clock_unix_ms() - oldest_ms;
    return query_close(&query, err) && count_jobs(store, s, err) && sum_usage(store, &s->usage, err);
}

const struct store_commits *store_commits(const struct store *store)
{
    return &store->commits;
}

void commit_note(struct store *store, double seconds)
{
    size_t bucket = 0;

    while (bucket + 1 < STORE_COMMIT_BUCKETS && seconds * 1000 > (double)((uint64_t)1 << bucket))
        bucket++;
    store->commits.buckets[bucket]++;
    store->commits.seconds += seconds;
}

bool store_dependents(struct store *store, const char *part, struct store_dependents *dependents, struct err *err)
{
    struct query query = query_open(
        store, "SELECT (SELECT COUNT(*) FROM jobs WHERE finished_ms = 0 AND instr(model_path, ?1) > 0), "
               "(SELECT COUNT(*) FROM models WHERE kind <> 'full' AND instr(base_path, ?1) > 0)");

    query_text(&query, part);
    if (query_step(&query))
        *dependents = (struct store_dependents){query_get_integer(&query, 0), query_get_integer(&query, 1)};
    return query_close(&query, err);
}
