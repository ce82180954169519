/* track/tracker.h - tells other services what the jobs do.
 *
 * The tracker looks which deliveries (store/deliveries.h) are due and starts a sender for each: a child, `attune send`,
 * which gets the delivery and its secrets as one document on standard input and alone uses the network. Its progress is
 * stored line by line. What fails is tried again, later and later; what cannot work, or has not for a day after the
 * job's end, is given up, and one event of level warn tells the job's readers. Neither the trainer nor a request ever
 * waits for any of this. All calls belong to the loop's thread. */
#pragma once

#include "http/loop.h"
#include "store/deliveries.h"

struct tracker;

struct tracker_config {
    struct http_loop *loop;
    struct store *store;
    const char *data_dir; /* what senders complain of goes to send.log in it */
    const char *program;  /* "PROGRAM send"; NULL: this binary */
    const char *origins;  /* that may be reached: http/outgoing.h */
    const char *wandb_url;
    const char *hub_url; /* where results are exported to */
    int senders_max;     /* at once; 0: 4; exports are counted apart */
    int64_t batch_ms;    /* between two senders of one delivery; 0: 2 s */
    int64_t retry_ms;    /* after the first failure, doubling up to 10 minutes; 0: 1 s */
    /* May be NULL: a job has a new event. */
    void (*on_change)(void *context, const struct tenant *tenant, const char *job_id);
    /* May be NULL: somebody asked one of the job's services to have it end. More than once, perhaps. */
    void (*on_stop)(void *context, const struct tenant *tenant, const char *job_id);
    void *callback_context;
};

/* Copies the config; the loop and the store must outlive the tracker. */
struct tracker *tracker_new(const struct tracker_config *config, struct err *err);
/* A job has new events. */
void tracker_wake(struct tracker *tracker);
void tracker_free(struct tracker *tracker); /* senders end; NULL is fine */
