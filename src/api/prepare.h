/* api/prepare.h - questions about data and models, answered by a process each.
 *
 * The server reads no models, tokenizers or training lines. It asks `attune prepare`, which answers with one line of
 * JSON and ends: {"error": {"code", "message", "param"}}, or an object of what was asked for. A few run at once; each
 * reserves memory in the ledger of the jobs, gives way when a job needs it, has a time limit, and is killed when nobody
 * waits for it any more. */
#pragma once

#include "api/api.h"
#include "base/json.h"

struct preparers;
struct preparer;

struct preparers *preparers_new(const struct api_config *config, struct err *err);
void preparers_free(struct preparers *all); /* ends all; NULL is fine */

struct prepare_question {
    const char *const *words; /* of the command line, behind "attune prepare"; ends with NULL */
    struct str input;         /* standard input; copied */
    /* One of both is called, once, unless the question is withdrawn. The answer is not an error; its line is valid
     * during the call. */
    void (*on_answer)(void *context, struct str answer);
    void (*on_error)(void *context, const struct err *err, const char *param); /* param may be NULL */
    void *context;
};

/* NULL with ERR_TIMEOUT when as many as may are at work or memory is short for now, with ERR_NO_SPACE when there can
 * never be enough. */
struct preparer *preparer_ask(struct preparers *all, const struct prepare_question *question, struct err *err);
void preparer_withdraw(struct preparer *preparer);
