/* store/usage.h - what projects used, per day of UTC and model.
 *
 * Jobs and files are counted by triggers (schema/0010.sql, 0022.sql) in the transaction that changes them, so that no
 * count is lost and none is there without its cause; what is deleted later stays counted. A job counts under the model
 * that it trains. trained_tokens and trained_steps grow with the job's own and so count no step twice that an attempt
 * repeats; device_ms is the time of all attempts. */
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

/* Of the tenant's organisation. */
struct store_usage_query {
    int64_t first_day, end_day; /* since 1970; end_day is not in it */
    bool by_project, by_model;
    const char *projects_json, *models_json; /* lists of texts: these alone; NULL: all */
};

struct store_usage_row {
    int64_t day;
    const char *project_id, *model; /* NULL: not asked by it. model "": counted before models were */
    struct store_usage_counts counts;
    int64_t storage_bytes;
};
struct store_usage_list {
    struct store_usage_row *at;
    size_t count;
};

/* What was counted on each day, the oldest first; a day without use has no rows. storage_bytes is 0. */
bool store_usage_read(struct store *store, const struct tenant *tenant, const struct store_usage_query *asked,
                      struct arena *arena, struct store_usage_list *list, struct err *err);
/* Bytes stored at the end of each day, or now: the counts are 0. Of no model. */
bool store_usage_storage(struct store *store, const struct tenant *tenant, const struct store_usage_query *asked,
                         struct arena *arena, struct store_usage_list *list, struct err *err);
/* Answers of a model, added to today. */
bool store_usage_add_requests(struct store *store, const struct tenant *tenant, const char *model, int64_t requests,
                              int64_t input_tokens, int64_t output_tokens, struct err *err);
