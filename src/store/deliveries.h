/* store/deliveries.h - what is to be told to other services: the outbox.
 *
 * The log of events is the outbox: each event is stored in the transaction of what it tells, and has a number within
 * its job without gaps. A delivery is one reader of one job's log, made in the transaction of the job itself: it
 * remembers up to where the service has everything (after_seq) and what the service called things (external_json). So
 * nothing is told that did not happen, and what was stored is told at least once. Deliveries span tenants: for track/
 * alone. */
#pragma once

#include "store/secrets.h"

#define STORE_DELIVERY_COLUMNS(X)                                                                                      \
    X(TEXT, organization_id)                                                                                           \
    X(TEXT, project_id)                                                                                                \
    X(TEXT, job_id)                                                                                                    \
    X(INTEGER, position) /* in the job's integrations; above 1000: of a webhook */                                     \
    X(TEXT, kind)        /* hf, mlflow, wandb, webhook */                                                              \
    X(TEXT, config_json)                                                                                               \
    X(TEXT, external_json) /* NULL: nothing yet */                                                                     \
    X(INTEGER, after_seq)                                                                                              \
    X(TEXT, state)           /* pending, done, failed */                                                               \
    X(INTEGER, failures)     /* in a row */                                                                            \
    X(INTEGER, is_uncertain) /* a sender began and did not say how it ended */                                         \
    X(INTEGER, next_ms)      /* not before */                                                                          \
    X(INTEGER, wake_ms)      /* due then even with nothing to tell; 0: never */                                        \
    X(INTEGER, created_ms)

struct store_delivery {
    int64_t number;
    STORE_DELIVERY_COLUMNS(STORE_FIELD)
};
struct store_delivery_list {
    struct store_delivery *at;
    size_t count;
};

/* Pending ones that may be told now and have something to tell or are to be woken, the longest due first; *next_ms is
 * when the next one of the others is (INT64_MAX: none). Exports, which hand on the result of a job that has ended, are
 * asked for apart from those that tell. */
bool store_delivery_due(struct store *store, int64_t now_ms, bool is_export, int limit, struct arena *arena,
                        struct store_delivery_list *list, int64_t *next_ms, struct err *err);
/* A sender is about to begin: the delivery is not due before until_ms. */
bool store_delivery_begin(struct store *store, int64_t number, int64_t until_ms, struct err *err);
/* At the start of a server: what senders of another one had begun is due at once. */
bool store_delivery_recover(struct store *store, struct err *err);
/* What a sender told; external_json NULL and after_seq 0 leave theirs as they are. */
bool store_delivery_progress(struct store *store, int64_t number, const char *external_json, int64_t after_seq,
                             struct err *err);
struct store_delivery_end {
    const char *state;
    int64_t failures, next_ms, wake_ms;
    bool is_uncertain;
};
/* The sender has ended. When the job has no pending delivery any more its secrets go. */
bool store_delivery_end(struct store *store, const struct store_delivery *delivery,
                        const struct store_delivery_end *end, struct err *err);

/* The project's secret that stands in where the job brought none; `member` is its name in the integration. Only for
 * services whose address is the operator's: a tenant who names the address could have it sent there. NULL: there is
 * none. */
const char *store_delivery_project_secret(const char *kind, const char **member);

/* With a new job, in its transaction (store/queue.h). */
struct store_job_extra {
    const struct store_held *secrets;
    size_t secret_count;
    const struct store_delivery *deliveries; /* kind, position, config_json: the rest is filled in */
    size_t delivery_count;
};
