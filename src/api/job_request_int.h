/* api/job_request_int.h - what the two halves of reading a job's request share: job_request.c reads the body,
 * job_hyperparameters.c the hyperparameters and the extensions, which may stand in three places of it. */
#pragma once

#include "api/job_request.h"

struct reader {
    struct arena *arena;
    struct job_request *request;
    struct problems *problems;
    const char *outer, *inner; /* where the hyperparameters at hand stand */
    double multiplier;         /* 0: none given */
    struct hyperparameters_given given;
    bool is_rate_auto;
};

/* A null object says nothing. `outer` and `inner` say where it stands: "method", "hyperparameters". */
void job_request_read_hyperparameters(struct reader *r, const struct json *object, const char *outer,
                                      const char *inner);
/* Whether attune alone has a field of this name; reads it then, unless it is null. */
bool job_request_read_extension(struct reader *r, const struct json *value);
bool job_request_is_name_list(const struct json *value); /* 1 to 64 strings of at most 128 bytes */
