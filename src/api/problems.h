/* api/problems.h - what is wrong with a request's fields, gathered and told all at once.
 *
 * Each problem has the place of the field ("hyperparameters", "n_epochs"), a sentence and a stable type. The answer
 * is a 422 whose `error` says the first problem in OpenAI's shape and whose `detail` lists all of them in FastAPI's. */
#pragma once

#include "base/json.h"

struct problem {
    const char *place[4]; /* NULL-terminated path below "body" */
    const char *message, *type;
    struct problem *next;
};

struct problems {
    struct arena *arena;
    struct problem *first, *last;
    int count;
};

/* The field's place as up to three names; NULL ends it. type is FastAPI's word: "missing", "value_error", … */
void problems_add(struct problems *problems, const char *type, const char *outer, const char *inner,
                  const char *innermost, const char *format, ...) __attribute__((format(printf, 6, 7)));

/* "hyperparameters.n_epochs" of the first problem: what OpenAI calls param. */
const char *problems_param(const struct problems *problems);

/* Writes {"error":{…},"detail":[…]}. There is at least one problem. */
void problems_write(const struct problems *problems, struct strbuf *out);
