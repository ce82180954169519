/* track/sending.h - one delivery, as the sender process sees it: what to tell, to whom, and how far it got.
 *
 * `attune send` reads one JSON document from standard input (its secrets come that way alone), speaks with one service
 * until everything is told or something fails, and writes its progress as JSON Lines to standard output:
 *
 *     {"delivered": 17, "external": {…}}   everything up to this seq is there (0: as before); what the service called
 *                                          things: kept with the delivery in the same transaction, given back next time
 *     {"event": {"code": "…", "message": "…"}}  for the job's readers, once a code
 *     {"stop": true}                       somebody asked the service to have the job end
 *     {"alive": true}                      a long transfer is under way: the server's patience begins anew
 *     {"end": "ok", "again_ms": 0}         all of the document is told; again_ms: the service wants to hear of a job at
 *                                          work that often. "retry" or "failed" with "message" and "wait_ms" otherwise
 *
 * The document: kind, job (id, model, method, state, times, hyperparameters …), config, external, after_seq,
 * is_uncertain, is_last, operator (origins: http/outgoing.h, wandb_url, hub_url; parts_path, a file where an export
 * notes what arrived), secrets, events, with is_last result (track/result.h). is_uncertain: an earlier sender ended
 * without a word, so what it sent last may have arrived; ask before sending it again. is_last: the job has ended and
 * these are its last events.
 *
 * A service is a file with one function, which connects and then tells what is in the document. It may die at any
 * moment: what it does again then must change nothing. */
#pragma once

#include "base/json.h"
#include "http/place.h"

struct sending {
    struct arena *arena;
    const struct json *document;
    struct outgoing_policy policy;
    /* The service's to set. */
    const char *username, *password; /* Authorization: Basic …; NULL: none */
    const char *bearer;              /* Authorization: Bearer …; NULL: none */
    int64_t again_ms;                /* until the next call of a job that runs on; 0: when there is something to tell */
    /* Set by sending_connect. */
    struct outgoing_url base; /* of the service; its path without a slash at the end */
    const char *rest;         /* as it was given */
    struct http_place place;
    int out_fd;
    int64_t wait_ms; /* what the service asked for with Retry-After; 0: nothing */
    int64_t told_ms; /* when sending_move last said so */
};

/* --- the document --- */

const char *sending_text(const struct sending *sending, const char *object, const char *name); /* NULL when absent */
int64_t sending_integer(const struct sending *sending, const char *object, const char *name);  /* 0 when absent */
bool sending_is(const struct sending *sending, const char *name); /* a member of the document itself */
/* What the job was asked to do, and once it has started what its data came to: an object of texts and numbers. */
const struct json *sending_params(const struct sending *sending);
bool sending_has_new_params(const struct sending *sending); /* the first document, or one that tells of a start */
const struct json *sending_events(const struct sending *sending);
int64_t sending_last_seq(const struct sending *sending); /* 0: no events */
/* Whether a member of an event's data is a metric of its step; `event` is one of sending_events. */
bool sending_event_is(const struct json *event, const char *type);
bool sending_is_metric(const struct json *member);
/* What a tracker of the job had the server write is nothing that the job did. */
bool sending_is_of_trackers(const struct json *event);

/* --- requests --- */

/* Reads the URL of the service, finds its rule and resolves its name: once, for all requests. */
bool sending_connect(struct sending *sending, struct str url, struct err *err);

/* A request below the base URL; JSON there and back. The answer's JSON when the status is 200, NULL with err otherwise:
 * ERR_IO, ERR_TIMEOUT for what may work later, ERR_INPUT, ERR_AUTH, ERR_NOT_FOUND, ERR_CONFLICT for what will not. The
 * text names the service and the status, nothing of what it said but a code in capitals (in `code` too, if wanted). */
const struct json *sending_call(struct sending *sending, const char *method, const char *path, struct str body,
                                char code[64], struct err *err);
/* A POST to the connected URL exactly as it was given, with headers besides: the status of the answer, whatever that
 * holds. False when there was none. */
bool sending_post_to(struct sending *sending, const struct http_form_field *headers, size_t header_count,
                     struct str body, int *status, struct err *err);
/* PUT of a file as it lies on the disk; it may take long, and the server is told that it goes on. */
bool sending_put_file(struct sending *sending, const char *path, const char *place, uint64_t bytes, struct err *err);
/* False with ERR_INPUT: the answer is JSON, but not as the service of this name answers. */
bool sending_not_as(struct sending *sending, const char *service, struct err *err);

/* An object on its way out: begin, members through w, then post or end. One serves for many. */
struct sending_body {
    struct strbuf text;
    struct json_writer w;
};
void sending_body_begin(struct sending_body *body);
struct str sending_body_end(struct sending_body *body);
const struct json *sending_post(struct sending *sending, struct sending_body *body, const char *path, char code[64],
                                struct err *err);
/* A text of an answer; NULL when it is absent or empty. */
char *sending_copy(const struct sending *sending, const struct json *object, const char *name);

/* --- progress --- */

/* seq 0 and an empty text leave theirs as they are. */
bool sending_tell(struct sending *sending, int64_t seq, struct str external, struct err *err);
bool sending_tell_event(struct sending *sending, const char *code, const char *message, struct err *err);
/* Where people see the run: once a job. */
bool sending_tell_run(struct sending *sending, const char *service, const char *url, struct err *err);
bool sending_tell_stop(struct sending *sending, struct err *err);
/* Bytes move: every twenty seconds the server hears of it. */
void sending_move(struct sending *sending);

/* The whole of it: reads, sends, tells. False when even the document could not be read. */
bool sending_run(int in_fd, int out_fd, struct err *err);

/* Services, one file each. */
bool mlflow_send(struct sending *sending, struct err *err);
/* The files of the result as artifacts of a run, those that are not there; a run that keeps them elsewhere than at the
 * tracking server gets none, and an event says so. */
bool mlflow_send_artifacts(struct sending *sending, const char *run_id, struct err *err);
bool wandb_send(struct sending *sending, struct err *err);
bool hub_send(struct sending *sending, struct err *err);
bool webhook_send(struct sending *sending, struct err *err);
