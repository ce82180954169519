/* store/usage.h - what projects used, per day of UTC.
 *
 * Jobs and files are counted by triggers (schema/0010.sql) in the transaction that changes them, so that no count is
 * lost and none is there without its cause; what is deleted later stays counted. trained_tokens and trained_steps grow
 * with the job's own and so count no step twice that an attempt repeats; device_ms is the time of all attempts. */
#pragma once

#include "store/store.h"

#define STORE_USAGE_COUNTS(X)                                                                                          \
    X(jobs) /* created */                                                                                              \
    X(trained_tokens)                                                                                                  \
    X(trained_steps)                                                                                                   \
    X(device_ms)                                                                                                       \
    X(model_requests) /* chats and completions that were answered */                                                   \
    X(input_tokens)                                                                                                    \
    X(output_tokens)

struct store_usage_counts {
#define STORE_USAGE_FIELD(name) int64_t name;
    STORE_USAGE_COUNTS(STORE_USAGE_FIELD)
#undef STORE_USAGE_FIELD
};

struct store_usage_day {
    int64_t day; /* since 1970 */
    const char *project_id;
    struct store_usage_counts counts;
    int64_t storage_bytes; /* at its end, or now */
};
struct store_usage_list {
    struct store_usage_day *at;
    size_t count;
};

/* One row for each day from first_day to before end_day and each project of the tenant's organisation, in this order.
 */
bool store_usage_days(struct store *store, const struct tenant *tenant, int64_t first_day, int64_t end_day,
                      struct arena *arena, struct store_usage_list *list, struct err *err);
/* Answers of models, added to today. */
bool store_usage_add_requests(struct store *store, const struct tenant *tenant, int64_t requests, int64_t input_tokens,
                              int64_t output_tokens, struct err *err);
