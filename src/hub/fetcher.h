/* hub/fetcher.h - fetches the weights that jobs wait for.
 *
 * A job whose weights are not here is queued with base_json: {"repo", "revision", "base", "base_path",
 * "context_length", "lora"}: the repository, for an adapter the name and the folder of its base (null: as it says, as
 * it will be found), and what the request left to be settled when the weights are here. The fetcher starts a child for
 * it, `attune fetch` (hub/fetch.h), which alone uses the network and goes on where an earlier one ended; its progress
 * becomes the job's events, its end makes the job ready (job_base_arrived) or fails it. What may work later is tried
 * again a few times. A job that was cancelled ends its child. All of it is in the store: a server that starts anew goes
 * on. All calls belong to the loop's thread. */
#pragma once

#include "http/loop.h"
#include "job/manager.h"

struct fetcher;

struct fetcher_config {
    struct http_loop *loop;
    struct store *store;
    struct job_manager *jobs;
    struct disk *disk;      /* promises room where the cache is on the same */
    const char *data_dir;   /* what children complain of goes to fetch.log in it */
    const char *program;    /* "PROGRAM fetch"; NULL: this binary */
    const char *endpoint;   /* NULL: nothing is fetched, only looked for in the caches */
    const char *origins;    /* that may be reached: http/outgoing.h */
    const char *cache;      /* of all projects; NULL: "hub" in the data folder */
    const char *models_dir; /* NULL: none */
    int64_t bytes_max;      /* of all that lies in the caches; 0: as much as the disk lets them */
    int fetches_max;        /* at once; 0: 2 */
    int64_t retry_ms;       /* after the first failure, doubling; 0: 5 s */
    /* May be NULL: a job has a new event. */
    void (*on_change)(void *context, const struct tenant *tenant, const char *job_id);
    void *on_change_context;
};

/* Copies the config; everything in it must outlive the fetcher. */
struct fetcher *fetcher_new(const struct fetcher_config *config, struct err *err);
/* There are new jobs, or some have changed. */
void fetcher_wake(struct fetcher *fetcher);
void fetcher_free(struct fetcher *fetcher); /* children end; NULL is fine */
