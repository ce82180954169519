/* track/sending.h - one delivery, as the sender process sees it: what to tell, to whom, and how far it got.
 *
 * `attune send` reads one JSON document from standard input (its secrets come that way alone), speaks with one service
 * until everything is told or something fails, and writes its progress as JSON Lines to standard output:
 *
 *     {"external": {…}}      what the service called things: kept with the delivery, given back the next time
 *     {"delivered": 17}      everything up to this seq is there
 *     {"end": "ok"}          all of the document is told; "retry" or "failed" with "message" and "wait_ms" otherwise
 *
 * The document: kind, job (id, model, method, state, times, hyperparameters …), config, external, after_seq,
 * is_uncertain, is_last, origins (http/outgoing.h), secrets, events. is_uncertain: an earlier sender ended without a
 * word, so what it sent last may have arrived; ask before sending it again. is_last: the job has ended and these are
 * its last events. */
#pragma once

#include "base/json.h"
#include "http/client.h"
#include "http/outgoing.h"

struct sending {
    struct arena *arena;
    const struct json *document;
    struct outgoing_policy policy;
    struct outgoing_url base; /* of the service; its path without a slash at the end */
    const struct outgoing_rule *rule;
    struct strbuf pin;
    int out_fd;
    int64_t wait_ms; /* what the service asked for with Retry-After; 0: nothing */
};

/* Reads the URL of the service, finds its rule and resolves its name: once, for all requests. */
bool sending_connect(struct sending *sending, struct str url, struct err *err);
const char *sending_text(const struct sending *sending, const char *object, const char *name); /* NULL when absent */

/* A request below the base URL; JSON there and back. The answer's JSON when the status is 200, NULL with err otherwise:
 * ERR_IO, ERR_TIMEOUT for what may work later, ERR_INPUT, ERR_AUTH, ERR_NOT_FOUND, ERR_CONFLICT for what will not. The
 * text names the service and the status, nothing of what it said but a code in capitals (in `code` too, if wanted). */
const struct json *sending_call(struct sending *sending, const char *method, const char *path, struct str body,
                                char code[64], struct err *err);

bool sending_tell_external(struct sending *sending, struct str json, struct err *err);
bool sending_tell_delivered(struct sending *sending, int64_t seq, struct err *err);

/* The whole of it: reads, sends, tells. False when even the document could not be read. */
bool sending_run(int in_fd, int out_fd, struct err *err);

/* Services, one file each. */
bool mlflow_send(struct sending *sending, struct err *err);
