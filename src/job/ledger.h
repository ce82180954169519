/* job/ledger.h - who may use how much of the host's memory.
 *
 * Every child reserves before it starts and releases when it has ended. Jobs come before chat: a job that does not fit
 * asks the owners of chat reservations to give way, and starts when they have released. The ledger
 * lives with the server; the reservations of jobs are made again at start from the rows of those that run. */
#pragma once

#include "base/err.h"

#include <stdint.h>

enum ledger_owner { LEDGER_JOB, LEDGER_CHAT };

struct job_ledger;

/* evict is called for a chat reservation when a job needs its memory; the owner stops the worker and releases, now or
 * later. May be NULL for jobs. */
struct ledger_claim {
    enum ledger_owner owner;
    const char *id; /* of the job or worker; unique among owners of its kind */
    int64_t bytes;
    void (*evict)(void *context, const char *id);
    void *context;
};

struct job_ledger *ledger_new(int64_t capacity_bytes);
void ledger_free(struct job_ledger *ledger);
/* ERR_NO_SPACE when it can never fit; ERR_CONFLICT when it does not fit now (for a job: evictions have been asked for).
 * Reserving again under the same id is fine and keeps the first figure. */
bool ledger_reserve(struct job_ledger *ledger, const struct ledger_claim *claim, struct err *err);
void ledger_release(struct job_ledger *ledger, enum ledger_owner owner, const char *id); /* unknown is fine */
int64_t ledger_capacity(const struct job_ledger *ledger);
int64_t ledger_free_bytes(const struct job_ledger *ledger);
/* Called when something was released. */
void ledger_on_release(struct job_ledger *ledger, void (*on_release)(void *context), void *context);
