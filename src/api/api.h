/* api/api.h - the HTTP API: routes, authentication, and what answers look like.
 *
 * One object between the HTTP core and the rooms behind it. It owns no state of its own but caches: files, jobs and
 * models live in the store. Everything runs on the loop's thread; what takes longer happens in child processes.
 *
 * Files of purpose fine-tune are checked while they arrive, by functions that the caller lends (struct api_checker):
 * the check belongs to the engine side, which this room may not include. */
#pragma once

#include "http/outgoing.h"
#include "http/server.h"
#include "job/manager.h"
#include "store/blobs.h"
#include "store/store.h"

struct api;
struct background;

/* What the check of a training file found. Text lives as long as the check. */
struct api_check_result {
    const char *kind;        /* "messages", "prompt", "text", "token_ids"; NULL: none recognised */
    uint64_t line_count, bad_line_count;
    const char *details;     /* the first errors, one a line; NULL: the file is good */
};

struct api_checker {
    void *(*begin)(void);
    void (*add)(void *check, const void *at, size_t bytes);
    void (*end)(void *check, struct api_check_result *result); /* once, before free */
    void (*free)(void *check);
};

struct api_config {
    struct http_loop *loop;
    struct store *store;
    struct blobs *blobs;
    struct background *background; /* for what would hold the loop up; NULL: it is done at once */
    struct disk *disk;           /* where uploads ask for room */
    struct job_manager *jobs;
    const char *data_dir;
    const char *models_dir;      /* base models: org/name below it */
    const char *hub_cache;       /* Hugging Face cache folder (…/hub), or NULL */
    const char *hub_endpoint;    /* from where what is not here is fetched (hub/fetcher.h); NULL: it is not */
    const char *program;         /* what to run as "PROGRAM infer …"; NULL: this binary */
    bool is_open;                /* no keys: everybody is the default tenant */
    bool is_local;               /* bound to loopback: a Host of elsewhere is refused, against DNS rebinding */
    const char *public_host;     /* a Host to take none the less, that of a proxy before this server; NULL: none */
    uint64_t file_bytes_max;     /* 0: 50 GB */
    int nice;                    /* of processes that read data for an answer, as of trainers */
    int64_t recovery_steps;      /* recovery points of every job: each so many steps; 0: by time alone */
    int64_t chat_idle_ms;        /* an inference worker without requests ends after this; 0: 5 minutes */
    int64_t audit_days;          /* the audit log is kept so long; 0: 365 */
    int64_t auth_failures_per_minute; /* wrong keys of one address, after five at once; 0: 10; -1: no limit */
    struct outgoing_policy origins; /* that jobs' integrations may name */
    const char *outgoing;           /* the same as text, for processes that go there; NULL: none */
    const char *wandb_url;          /* of the W&B server that jobs are told to */
    const char *hub_url;            /* of the Hub that results are exported to */
    struct api_checker checker;
};

struct api *api_new(const struct api_config *config, struct err *err);
void api_free(struct api *api); /* ends the inference workers; NULL is fine */

/* A job has new events or another state: open streams look again. From job_config's on_change. */
void api_job_changed(struct api *api);

/* The server stops in grace_ms: streams that would go on for ever end now, and clients come back with Last-Event-ID;
 * replies of models that are not complete shortly before the end are told so. */
void api_stop(struct api *api, int64_t grace_ms);

/* For http_server_new, whose on_done is the caller's, to call api_request_done with what it is told. */
struct http_handler api_handler(struct api *api);
void api_request_done(struct api *api, const struct http_request *request, const struct http_outcome *outcome);
/* The server that calls the handler, for the count of its connections; NULL: it is about to go. */
void api_set_server(struct api *api, const struct http_server *server);
