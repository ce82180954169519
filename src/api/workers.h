/* api/workers.h - the inference workers: one process per base in use, started on demand, ended when idle.
 *
 * All adapters on a base share its worker, which opens them when a request names their folder; one that cannot share
 * gets a worker of its own. A model that was tuned in full is a base.
 *
 * A worker is `attune infer` with a Unix socket as its standard input and output ("The inference worker" in
 * docs/formats.md). It reserves memory in the ledger of the jobs before it starts and gives way when a job needs that
 * memory. */
#pragma once

#include "api/api.h"
#include "base/json.h"

struct chat_workers;
struct chat_request;
struct model_place;

struct chat_workers *workers_new(const struct api_config *config, struct err *err);
void workers_free(struct chat_workers *workers); /* ends all; NULL is fine */
/* In so many milliseconds whoever still waits is told that the server stops, and all workers end. */
void workers_stop(struct chat_workers *workers, int64_t in_ms);
int workers_count(const struct chat_workers *workers);

/* Each line of the answer arrives at on_line; the one with "done" or "error" is the last. on_lost: the worker is gone
 * before that, with the reason; it is the last call then. */
struct chat_sink {
    void (*on_line)(void *context, const struct json *line);
    void (*on_lost)(void *context, const struct err *err);
    void *context;
};

/* `members` are the request's members without braces and id: "\"prompt\":\"…\",\"n\":1". NULL with ERR_NO_SPACE when
 * the worker cannot start for lack of memory. */
struct chat_request *workers_send(struct chat_workers *workers, const struct model_place *place, struct str members,
                                  const struct chat_sink *sink, struct err *err);
/* Nobody waits any more; the sink is not called again. Not after the last call. */
void workers_cancel(struct chat_workers *workers, struct chat_request *request);
